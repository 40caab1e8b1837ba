//! What the network half needs to call in this host's name, handed to it by the root half: it has no files.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use refit_proto::{
    names::Digest,
    transport::{self, TransportError},
};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    clock::Clock,
    identity::{Identity, Keys, Ways},
    link::{Patience, Proxies, tls},
};

/// Addresses, whom to believe there, and the host's own certificate with its key.
pub struct Access {
    /// Where to call, and whom to believe there.
    pub ways: Ways,
    /// The host's certificate, leaf first.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// How slow a download may be.
    pub patience: Patience,
    /// The proxies on the way.
    pub proxies: Proxies,
    id: Digest,
}

/// As it is handed over: JSON.
#[derive(Serialize, Deserialize)]
struct Written {
    addresses: Vec<String>,
    authorities: Vec<String>,
    certificates: Vec<String>,
    /// PKCS#8, DER in base64 like the certificates.
    key: String,
    patience_seconds: u64,
    slowest_bytes_per_second: u32,
    /// With their passwords: the network half has no files.
    #[serde(default)]
    proxies: Proxies,
}

impl Access {
    /// The access of this host by these ways.
    pub fn new(identity: &Identity, keys: &Keys, ways: Ways, patience: Patience) -> Access {
        let (own, key) = (identity.certificates.clone(), keys.private_key());
        Access::of(ways, own, key, patience, Proxies::default())
    }

    /// The same through these proxies.
    #[must_use]
    pub fn through(self, proxies: Proxies) -> Access {
        Access::of(self.ways, self.certificates, self.key, self.patience, proxies)
    }

    /// The same, if what a file of it says has changed since.
    pub(in crate::link) fn renewed(&self) -> Option<Access> {
        if !self.proxies.read_files() {
            return None;
        }
        let access = self.by(self.ways.clone());
        (access.id != self.id).then_some(access)
    }

    fn of(
        ways: Ways,
        certificates: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        patience: Patience,
        proxies: Proxies,
    ) -> Access {
        let id = Digest::of(b"");
        let mut access = Access { ways, certificates, key, patience, proxies, id };
        access.id = Digest::of(&access.to_bytes());
        access
    }

    /// The same by other ways.
    #[must_use]
    pub fn by(&self, ways: Ways) -> Access {
        let (own, key) = (self.certificates.clone(), self.key.clone_key());
        Access::of(ways, own, key, self.patience, self.proxies.clone())
    }

    /// The same with another certificate.
    #[must_use]
    pub fn with(&self, certificates: Vec<CertificateDer<'static>>) -> Access {
        let (ways, key) = (self.ways.clone(), self.key.clone_key());
        Access::of(ways, certificates, key, self.patience, self.proxies.clone())
    }

    /// Whether a connection can be made with it.
    ///
    /// # Errors
    /// Certificates or a key that can't be used.
    pub fn check(&self, clock: Clock) -> Result<(), TransportError> {
        self.tls(clock).map(drop)
    }

    /// The settings of a connection with it.
    pub(in crate::link) fn tls(&self, clock: Clock) -> Result<ClientConfig, TransportError> {
        let own = transport::Identity {
            certificates: self.certificates.clone(),
            key: self.key.clone_key(),
        };
        tls::client_config(&self.ways.authorities, Some(own), clock)
    }

    /// Tells it from every other, and nothing of the key.
    pub fn id(&self) -> Digest {
        self.id
    }

    /// As it is handed over.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let all =
            |chain: &[CertificateDer<'_>]| chain.iter().map(|it| STANDARD.encode(it)).collect();
        let mut written = Written {
            addresses: self.ways.addresses.clone(),
            authorities: all(&self.ways.authorities),
            certificates: all(&self.certificates),
            key: STANDARD.encode(self.key.secret_der()),
            patience_seconds: self.patience.window.as_secs(),
            slowest_bytes_per_second: self.patience.slowest,
            proxies: self.proxies.with_passwords(),
        };
        // Words and numbers: this cannot fail.
        let bytes = Zeroizing::new(serde_json::to_vec(&written).unwrap_or_default());
        written.key.zeroize();
        bytes
    }

    /// Reads what was handed over.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(bytes: &[u8]) -> Result<Access, String> {
        let mut written: Written =
            serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let der = |text: &String| STANDARD.decode(text).map_err(|error| error.to_string());
        let all = |texts: &[String]| {
            texts.iter().map(|text| der(text).map(CertificateDer::from)).collect::<Result<_, _>>()
        };
        if written.addresses.is_empty() {
            return Err("it has no address".to_owned());
        }
        let key = PrivatePkcs8KeyDer::from(der(&written.key)?);
        written.key.zeroize();
        let ways = Ways {
            addresses: written.addresses,
            authorities: all(&written.authorities)?,
            // Named with each question: the network half needs to know none.
            mirrors: Vec::new(),
        };
        let patience = Patience {
            window: Duration::from_secs(written.patience_seconds),
            slowest: written.slowest_bytes_per_second,
        };
        let own = all(&written.certificates)?;
        Ok(Access::of(ways, own, key.into(), patience, written.proxies))
    }
}
