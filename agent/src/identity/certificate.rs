//! What the agent reads from a certificate: whose key it certifies, from when until when.

use jiff::Timestamp;
use refit_proto::names::Digest;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

/// What a certificate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub key: Digest,
    /// Not valid before.
    pub not_before: Timestamp,
    /// Not valid after.
    pub not_after: Timestamp,
}

/// The bytes are no certificate.
#[derive(Debug, thiserror::Error)]
#[error("this is no certificate: {0}")]
pub struct CertificateError(String);

impl Certificate {
    /// Reads DER. Who signed it is not looked at.
    ///
    /// # Errors
    /// If it is no certificate.
    pub fn read(der: &[u8]) -> Result<Certificate, CertificateError> {
        let wrong = |why: String| CertificateError(why);
        let (rest, parsed) =
            X509Certificate::from_der(der).map_err(|error| wrong(error.to_string()))?;
        if !rest.is_empty() {
            return Err(wrong("something follows it".to_owned()));
        }
        let time = |seconds: i64| {
            Timestamp::from_second(seconds).map_err(|error| CertificateError(error.to_string()))
        };
        Ok(Certificate {
            key: Digest::of(parsed.public_key().raw),
            not_before: time(parsed.validity().not_before.timestamp())?,
            not_after: time(parsed.validity().not_after.timestamp())?,
        })
    }

    /// When to ask for the next one: after two thirds of its life, so that a server that is away for the
    /// last third is no harm.
    pub fn renew_from(&self) -> Timestamp {
        let life = self.not_after.duration_since(self.not_before);
        self.not_before.checked_add(life / 3 * 2).unwrap_or(self.not_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_begins_after_two_thirds_of_the_life() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let certificate = Certificate {
            key: Digest::of(b""),
            not_before: at("2026-01-01T00:00:00Z"),
            not_after: at("2026-01-31T00:00:00Z"),
        };
        assert_eq!(certificate.renew_from(), at("2026-01-21T00:00:00Z"));
    }

    #[test]
    fn what_is_no_certificate_is_an_error() {
        for bytes in [&b""[..], b"0", &[0x30, 0x80], &[0xff; 300]] {
            assert!(Certificate::read(bytes).is_err());
        }
    }
}
