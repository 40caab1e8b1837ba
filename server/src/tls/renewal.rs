//! The server's own certificate. Its key is made at the start and lives in memory alone; clients trust
//! the authority, so a new one needs no word to anybody. Renewed when a third of its life is left.

use std::sync::{Arc, RwLock};

use jiff::{SignedDuration, Timestamp};
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::{ca::Authority, tls::provider};

/// Three months, as public authorities give them.
const LIFE: SignedDuration = SignedDuration::from_hours(90 * 24);
const RENEW_AFTER: SignedDuration = SignedDuration::from_hours(60 * 24);

/// The certificate that the server shows now.
#[derive(Debug)]
pub struct OwnCertificate {
    addresses: Vec<String>,
    shown: RwLock<Shown>,
}

#[derive(Debug, Clone)]
struct Shown {
    certified: Arc<CertifiedKey>,
    made: Timestamp,
}

impl OwnCertificate {
    /// Makes the first one.
    ///
    /// # Errors
    /// If an address can't stand in a certificate.
    pub fn issue(
        authority: &Authority,
        addresses: Vec<String>,
        now: Timestamp,
    ) -> anyhow::Result<Arc<OwnCertificate>> {
        let shown = RwLock::new(make(authority, &addresses, now)?);
        Ok(Arc::new(OwnCertificate { addresses, shown }))
    }

    /// Makes a new one if the old one has had two thirds of its life, or if the clock went back.
    ///
    /// # Errors
    /// If none can be made; the old one stays.
    pub fn renew(&self, authority: &Authority, now: Timestamp) -> anyhow::Result<bool> {
        let age = now.duration_since(self.shown().made);
        if age >= SignedDuration::ZERO && age < RENEW_AFTER {
            return Ok(false);
        }
        let fresh = make(authority, &self.addresses, now)?;
        *self.shown.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = fresh;
        Ok(true)
    }

    fn shown(&self) -> Shown {
        self.shown.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

fn make(authority: &Authority, addresses: &[String], now: Timestamp) -> anyhow::Result<Shown> {
    let certificate = authority.issue_server(addresses, now, LIFE)?;
    let key = provider().key_provider.load_private_key(certificate.key)?;
    let certified = Arc::new(CertifiedKey::new(certificate.chain, key));
    certified.keys_match()?;
    Ok(Shown { certified, made: now })
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown().certified)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_young_certificate_stays_and_an_old_one_is_replaced() {
        let start: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let authority = Authority::load(&Authority::generate(start).unwrap()).unwrap();
        let own = OwnCertificate::issue(&authority, vec!["localhost".into()], start).unwrap();
        let first = own.shown().certified.cert.clone();
        assert!(!own.renew(&authority, start + SignedDuration::from_hours(24)).unwrap());
        assert_eq!(own.shown().certified.cert, first);
        assert!(own.renew(&authority, start + RENEW_AFTER).unwrap());
        assert_ne!(own.shown().certified.cert, first);
    }
}
