//! The caller's certificate and key: a file, a certificate request, and when to renew. The certificate
//! is the server's to give; the key never leaves this side.

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use rcgen::{CertificateParams, DnType, KeyPair, PublicKeyData as _};
use refit_proto::transport;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{Context, home};

/// A certificate chain, leaf first, and the leaf's key.
pub(crate) struct Identity {
    certificates: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Identity {
    /// The identity that belongs together; checked, so that what is stored can be used.
    ///
    /// # Errors
    /// No certificate, or one of another key.
    pub(crate) fn new(certificates: Vec<Vec<u8>>, key: KeyPair) -> anyhow::Result<Identity> {
        let leaf = certificates.first().context("the server sent no certificate")?;
        let (_, leaf) = X509Certificate::from_der(leaf)
            .ok()
            .context("the server sent something that is no certificate")?;
        ensure!(
            leaf.public_key().raw == key.subject_public_key_info(),
            "the server sent a certificate for another key than ours"
        );
        let certificates = certificates.into_iter().map(CertificateDer::from).collect();
        Ok(Identity { certificates, key })
    }

    /// Reads what [`Identity::save`] wrote.
    pub(crate) fn load(context: &Context) -> anyhow::Result<Identity> {
        let path = context.home.identity();
        let missing =
            || format!("{} is missing\nhelp: log in first: `refit login TOKEN`", path.display());
        let damaged =
            || format!("{} is damaged\nhelp: log in again: `refit login TOKEN`", path.display());
        let pem = home::read(&path)?.with_context(missing)?;
        let certificates = CertificateDer::pem_slice_iter(&pem)
            .map(|certificate| certificate.map(|der| der.as_ref().to_vec()))
            .collect::<Result<Vec<_>, _>>()
            .with_context(damaged)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&pem).with_context(damaged)?;
        let key = KeyPair::try_from(&key).with_context(damaged)?;
        Identity::new(certificates, key).with_context(damaged)
    }

    /// Stores certificates and key, both or neither.
    pub(crate) fn save(&self, context: &Context) -> anyhow::Result<()> {
        let certificates = self.certificates.iter().map(|der| pem("CERTIFICATE", der));
        let text: String = certificates.chain([self.key.serialize_pem()]).collect();
        context.home.write(&context.home.identity(), text.as_bytes())
    }

    /// What a TLS connection presents.
    pub(crate) fn for_transport(&self) -> transport::Identity {
        transport::Identity {
            certificates: self.certificates.clone(),
            key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der())),
        }
    }

    /// Whether more than half of the certificate's life is over, and whether all of it is.
    pub(crate) fn age(&self, now: Timestamp) -> anyhow::Result<Age> {
        let (_, leaf) = X509Certificate::from_der(&self.certificates[0])
            .ok()
            .context("the own certificate cannot be read")?;
        let validity = leaf.validity();
        Ok(Age::at(validity.not_before.timestamp(), validity.not_after.timestamp(), now))
    }

    /// Whether its certificate is from this authority, which stands at the end of its chain.
    pub(crate) fn is_from(&self, authority: &CertificateDer<'static>) -> bool {
        self.certificates.iter().skip(1).last().is_none_or(|last| last == authority)
    }

    /// Asks for a certificate of the same key. The name in it is for people; the server knows the
    /// caller by key.
    pub(crate) fn request(key: &KeyPair, name: &str) -> anyhow::Result<Vec<u8>> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let request = params.serialize_request(key).context("cannot make a certificate request")?;
        Ok(request.der().to_vec())
    }

    /// The key, for renewal.
    pub(crate) fn key(&self) -> &KeyPair {
        &self.key
    }

    /// The same key under new certificates.
    pub(crate) fn renewed(self, certificates: Vec<Vec<u8>>) -> anyhow::Result<Identity> {
        Identity::new(certificates, self.key)
    }
}

/// How old a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// In the first half of its life.
    Young,
    /// In the second: it is renewed at the next chance, and still good if that fails.
    Aging,
    /// Over: it can be renewed and nothing else.
    Expired,
}

impl Age {
    fn at(begins: i64, ends: i64, now: Timestamp) -> Age {
        let now = now.as_second();
        if now >= ends {
            Age::Expired
        } else if now - begins >= ends - now {
            Age::Aging
        } else {
            Age::Young
        }
    }
}

/// PEM as every tool reads it: 64 characters a line.
fn pem(kind: &str, der: &[u8]) -> String {
    let lines: String = STANDARD
        .encode(der)
        .as_bytes()
        .chunks(64)
        .map(|line| format!("{}\n", String::from_utf8_lossy(line)))
        .collect();
    format!("-----BEGIN {kind}-----\n{lines}-----END {kind}-----\n")
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::home::Home;

    #[test]
    fn an_identity_is_stored_whole_and_only_with_its_own_key() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(Some(folder.path().join("refit"))).unwrap();
        let context = Context { home, now: Timestamp::UNIX_EPOCH };
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap().der().to_vec();

        assert!(Identity::load(&context).is_err_and(|e| e.to_string().contains("refit login")));
        let other = KeyPair::generate().unwrap();
        assert!(Identity::new(vec![certificate.clone()], other).is_err());
        assert!(Identity::new(vec![], KeyPair::generate().unwrap()).is_err());

        let identity = Identity::new(vec![certificate.clone(), certificate], key).unwrap();
        identity.save(&context).unwrap();
        let read = Identity::load(&context).unwrap();
        assert_eq!(read.certificates, identity.certificates);
        assert_eq!(read.key.serialize_der(), identity.key.serialize_der());
    }

    #[test]
    fn a_certificate_ages_at_half_its_life() {
        let at = |second| Age::at(100, 200, Timestamp::from_second(second).unwrap());
        assert_eq!(
            [at(90), at(149), at(150), at(199)],
            [Age::Young, Age::Young, Age::Aging, Age::Aging]
        );
        assert_eq!([at(200), at(500)], [Age::Expired, Age::Expired]);
    }
}
