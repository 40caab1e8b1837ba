//! The fleet's certificate authority. Of a certificate request it takes the public key alone; names,
//! roles, times and uses are the server's. Who gets a certificate is decided in `api/enrollment.rs`.

use std::{collections::BTreeSet, time::Duration};

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _,
    SanType, SerialNumber,
};
use refit_proto::names::{Digest, HostId};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};

use crate::{
    fleet::Certificate,
    identity::{self, Caller, Role},
};

/// Ten years: replacing it is for when it was stolen or lost.
const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);
/// Clocks of hosts that have just booted run behind; a certificate that is valid "from now" fails there.
const BEFORE: SignedDuration = SignedDuration::from_hours(24);
/// Longest certificate request that is read. One with a P-256 key is about 300 bytes.
pub const REQUEST_LIMIT: usize = 8 * 1024;

/// Why the authority did not do something.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The request is too long, unreadable, or not signed by its own key.
    #[error("the certificate request is not valid: {0}")]
    Request(String),
    /// RSA and curves that the fleet does not use.
    #[error(
        "the certificate request has a key of a kind that is not accepted\nhelp: make an ECDSA P-256, P-384 or ed25519 key"
    )]
    KeyKind,
    /// The authority's own files.
    #[error("the certificate authority can't be used: {0}")]
    Authority(#[from] rcgen::Error),
    /// No randomness for a serial number.
    #[error("the system gives no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// The public key of a certificate request, whose holder has proved to have the private half.
pub struct RequestedKey(rcgen::PublicKey);

impl RequestedKey {
    /// Reads and verifies a PKCS#10 request.
    ///
    /// # Errors
    /// If it is not one, or its key is of a kind that the fleet does not use.
    pub fn parse(request: &[u8]) -> Result<RequestedKey, CaError> {
        if request.len() > REQUEST_LIMIT {
            return Err(CaError::Request(format!("longer than {REQUEST_LIMIT} bytes")));
        }
        let request = CertificateSigningRequestDer::from(request);
        let parsed = CertificateSigningRequestParams::from_der(&request)
            .map_err(|error| CaError::Request(error.to_string()))?;
        let key = parsed.public_key;
        let accepted =
            [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
        if !accepted.contains(&key.algorithm()) {
            return Err(CaError::KeyKind);
        }
        Ok(RequestedKey(key))
    }

    /// SHA-256 of its SubjectPublicKeyInfo.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.0.subject_public_key_info())
    }

    /// The id of a host with this key.
    pub fn host_id(&self) -> HostId {
        HostId::of_public_key(&self.0.subject_public_key_info())
    }
}

/// Its certificate and key, ready to issue.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// The two files of an authority.
pub struct AuthorityFiles {
    /// PEM.
    pub certificate: String,
    /// PKCS#8 PEM.
    pub key: String,
}

/// A certificate that was just issued.
pub struct Issued {
    /// Leaf first, the authority last.
    pub chain: Vec<Vec<u8>>,
    /// What has to be kept of it.
    pub record: Certificate,
}

/// The server's own certificate with its key, which never leaves the process.
pub struct ServerCertificate {
    /// Leaf first, the authority last.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS#8.
    pub key: PrivateKeyDer<'static>,
}

impl Authority {
    /// Makes a new authority.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub fn generate(now: Timestamp) -> Result<AuthorityFiles, CaError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        // The key's digest makes two fleets' authorities different names, so that a client that holds
        // certificates of several fleets picks the right one.
        let name = Digest::of(&key.subject_public_key_info()).short();
        parameters.distinguished_name.push(DnType::CommonName, format!("Refit fleet {name}"));
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut parameters, now, AUTHORITY_LIFE);
        parameters.serial_number = Some(serial()?);
        let certificate = parameters.self_signed(&key)?;
        Ok(AuthorityFiles { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Takes an authority into use.
    ///
    /// # Errors
    /// If a file is damaged.
    pub fn load(files: &AuthorityFiles) -> Result<Authority, CaError> {
        use rustls::pki_types::pem::PemObject as _;
        let key = KeyPair::from_pem(&files.key)?;
        let certificate = CertificateDer::from_pem_slice(files.certificate.as_bytes())
            .map_err(|_| CaError::Authority(rcgen::Error::CouldNotParseCertificate))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Authority { issuer, certificate })
    }

    /// DER of its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Issues a client certificate for a host, a person or a CI job.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub fn issue(
        &self,
        key: &RequestedKey,
        caller: &Caller,
        roles: &BTreeSet<Role>,
        now: Timestamp,
        life: SignedDuration,
    ) -> Result<Issued, CaError> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, caller.to_string());
        for uri in identity::uris(caller, roles) {
            parameters.subject_alt_names.push(SanType::URI(uri.try_into()?));
        }
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        parameters.use_authority_key_identifier_extension = true;
        let number = serial()?;
        let serial = number.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        parameters.serial_number = Some(number);
        let not_after = set_validity(&mut parameters, now, life);
        let leaf = parameters.signed_by(&key.0, &self.issuer)?;
        let chain = vec![leaf.der().to_vec(), self.certificate.to_vec()];
        let authority = Some(Digest::of(&self.certificate));
        let record = Certificate { serial, not_after, public_key: key.digest(), authority };
        Ok(Issued { chain, record })
    }

    /// A server certificate for these names and addresses, with a key of its own.
    ///
    /// # Errors
    /// If a name is not one, or the system gives no randomness.
    pub fn issue_server(
        &self,
        addresses: &[String],
        now: Timestamp,
        life: SignedDuration,
    ) -> Result<ServerCertificate, CaError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut parameters = CertificateParams::new(addresses)?;
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, "refit-server");
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.use_authority_key_identifier_extension = true;
        parameters.serial_number = Some(serial()?);
        set_validity(&mut parameters, now, life);
        let leaf = parameters.signed_by(&key, &self.issuer)?;
        Ok(ServerCertificate {
            chain: vec![leaf.der().clone(), self.certificate.clone()],
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        })
    }
}

/// The name by which certificates say who issued them: SHA-256 of the subject as it is written. Each
/// authority of ours has another.
pub fn authority_name(certificate: &[u8]) -> Option<Digest> {
    use x509_parser::prelude::FromDer as _;
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
    Some(Digest::of(parsed.subject().as_raw()))
}

/// Whether a certificate for this name can be made: checked when settings are read, before any port opens.
pub fn is_server_name(name: &str) -> bool {
    rustls::pki_types::ServerName::try_from(name).is_ok()
        && CertificateParams::new([name.to_owned()]).is_ok()
}

fn set_validity(
    parameters: &mut CertificateParams,
    now: Timestamp,
    life: SignedDuration,
) -> Timestamp {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let at =
        |time: Timestamp| epoch + Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0));
    // Certificates know whole seconds only, and what is kept of them must be what they say.
    let whole = |time: Timestamp| Timestamp::from_second(time.as_second()).unwrap_or(time);
    let not_after = whole(now.checked_add(life).unwrap_or(Timestamp::MAX));
    parameters.not_before = at(now.checked_sub(BEFORE).unwrap_or(Timestamp::UNIX_EPOCH));
    parameters.not_after = at(not_after);
    not_after
}

fn serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    // Positive and never shorter than 16 bytes.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-22T12:00:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn request(key: &KeyPair, name: &str) -> Vec<u8> {
        let mut parameters = CertificateParams::new([name.to_owned()]).unwrap();
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn of_a_request_only_the_key_is_taken() {
        let authority = Authority::load(&Authority::generate(now()).unwrap()).unwrap();
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let requested = RequestedKey::parse(&request(&key, "evil.example.org")).unwrap();
        let host = Caller::Host(requested.host_id());
        let life = SignedDuration::from_hours(24);
        let issued = authority.issue(&requested, &host, &BTreeSet::new(), now(), life).unwrap();

        let read = identity::read(&issued.chain[0]).unwrap();
        assert_eq!(read.caller, host);
        assert_eq!(read.key, requested.digest());
        assert_eq!((read.not_after, read.key), (issued.record.not_after, issued.record.public_key));
        assert_eq!(read.not_after, now() + life);
        let text = String::from_utf8_lossy(&issued.chain[0]).into_owned();
        assert!(!text.contains("evil.example.org"));
        assert_eq!(issued.chain[1], authority.certificate().to_vec());
    }

    #[test]
    fn a_certificate_carries_the_identity_and_the_roles_that_were_asked_for() {
        let authority = Authority::load(&Authority::generate(now()).unwrap()).unwrap();
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let requested = RequestedKey::parse(&request(&key, "x")).unwrap();
        let roles = BTreeSet::from([Role::Publisher, Role::Viewer]);
        let caller = Caller::Person {
            name: "build-7".parse().unwrap(),
            kind: crate::identity::PersonKind::Ci,
        };
        let life = SignedDuration::from_hours(24);
        let issued = authority.issue(&requested, &caller, &roles, now(), life).unwrap();
        let read = identity::read(&issued.chain[0]).unwrap();
        assert_eq!((read.caller, read.roles), (caller, roles));
    }

    #[test]
    fn a_request_that_is_damaged_or_too_long_is_refused() {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let good = request(&key, "x");
        for at in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(RequestedKey::parse(&bad).is_err(), "byte {at}");
        }
        assert!(RequestedKey::parse(&vec![0x30; REQUEST_LIMIT + 1]).is_err());
        assert!(RequestedKey::parse(&[]).is_err());
    }

    #[test]
    fn a_certificate_of_the_authority_itself_names_nobody() {
        let authority = Authority::load(&Authority::generate(now()).unwrap()).unwrap();
        assert_eq!(
            identity::read(authority.certificate()),
            Err(identity::IdentityError::NotOneIdentity(0))
        );
    }
}
