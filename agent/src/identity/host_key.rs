//! The key of the host's certificate, and its request for one: P-256, as PKCS#8 in PEM. What it writes is a request
//! that says nothing but the key, which is a few fixed bytes around it; what others have written is read by others.

use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use zeroize::Zeroizing;

/// A key.
pub(super) struct HostKey {
    pair: EcdsaKeyPair,
    /// As PKCS#8.
    der: Zeroizing<Vec<u8>>,
}

/// DER's tags that are used here.
mod tag {
    pub(super) const BIT_STRING: u8 = 0x03;
    pub(super) const SEQUENCE: u8 = 0x30;
}

/// An INTEGER of 0: the one version of requests (RFC 2986).
const VERSION: [u8; 3] = [0x02, 0x01, 0x00];
/// A name with nothing in it: names are the server's to give.
const NO_NAME: [u8; 2] = [0x30, 0x00];
/// No wishes: `[0]`, which has to be there.
const NO_ATTRIBUTES: [u8; 2] = [0xa0, 0x00];
/// id-ecPublicKey on prime256v1 (RFC 5480), as a SEQUENCE.
const P256: [u8; 21] = [
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];
/// ecdsa-with-SHA256 (RFC 5758), as a SEQUENCE.
const ECDSA_SHA256: [u8; 12] =
    [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

impl HostKey {
    /// A new one, as PEM.
    ///
    /// # Errors
    /// If the system gives no random bytes.
    pub(super) fn generate() -> Result<Zeroizing<String>, String> {
        let made =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        let made = made.map_err(|_| "the system gives no random bytes".to_owned())?;
        Ok(pem(made.as_ref()))
    }

    /// The one in this PEM.
    ///
    /// # Errors
    /// If it holds none of ours.
    pub(super) fn from_pem(text: &str) -> Result<HostKey, String> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes());
        let der = der.map_err(|error| error.to_string())?;
        let der = Zeroizing::new(der.secret_pkcs8_der().to_vec());
        let (kind, random) = (&ECDSA_P256_SHA256_ASN1_SIGNING, SystemRandom::new());
        let pair = EcdsaKeyPair::from_pkcs8(kind, &der, &random)
            .map_err(|error| format!("it is not a P-256 key: {error}"))?;
        Ok(HostKey { pair, der })
    }

    /// Its public half, as SubjectPublicKeyInfo.
    pub(super) fn public(&self) -> Vec<u8> {
        sequence(&[&P256, &bits(self.pair.public_key().as_ref())])
    }

    /// PKCS#8, DER.
    pub(super) fn private(&self) -> PrivatePkcs8KeyDer<'static> {
        self.der.to_vec().into()
    }

    /// A PKCS#10 request, DER.
    ///
    /// # Errors
    /// If the system gives no random bytes.
    pub(super) fn request(&self) -> Result<Vec<u8>, String> {
        let asked = sequence(&[&VERSION, &NO_NAME, &self.public(), &NO_ATTRIBUTES]);
        let signature = self.pair.sign(&SystemRandom::new(), &asked);
        let signature = signature.map_err(|_| "the system gives no random bytes".to_owned())?;
        Ok(sequence(&[&asked, &ECDSA_SHA256, &bits(signature.as_ref())]))
    }
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tagged(tag::SEQUENCE, &parts.concat())
}

/// Whole bytes: none of the bits of the last is unused.
fn bits(bytes: &[u8]) -> Vec<u8> {
    tagged(tag::BIT_STRING, &[&[0], bytes].concat())
}

/// What is written here is shorter than 256 bytes.
fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let short = length[length.len() - 1];
    let head = if content.len() < 0x80 { vec![tag, short] } else { vec![tag, 0x81, short] };
    [head.as_slice(), content].concat()
}

/// RFC 7468.
fn pem(der: &[u8]) -> Zeroizing<String> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let coded = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(coded.len() + 100));
    text.push_str("-----BEGIN PRIVATE KEY-----\n");
    for line in coded.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text.push_str("-----END PRIVATE KEY-----\n");
    text
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateSigningRequestParams, KeyPair, PublicKeyData as _};

    use super::*;

    #[test]
    fn what_is_made_is_what_others_read_and_sign() {
        // The length of a signature differs.
        for _ in 0..50 {
            let pem = HostKey::generate().unwrap();
            let (ours, theirs) =
                (HostKey::from_pem(&pem).unwrap(), KeyPair::from_pem(&pem).unwrap());
            assert_eq!(ours.public(), theirs.subject_public_key_info());
            assert_eq!(ours.private().secret_pkcs8_der(), theirs.serialize_der());
            // Checks the signature too.
            let request = ours.request().unwrap();
            let read = CertificateSigningRequestParams::from_der(&request.into()).unwrap();
            assert_eq!(read.public_key.der_bytes(), theirs.der_bytes());
            assert!(read.params.distinguished_name.iter().next().is_none());
            assert!(read.params.subject_alt_names.is_empty());
        }
    }

    #[test]
    fn keys_that_others_have_made_before_are_read() {
        let theirs = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let ours = HostKey::from_pem(&theirs.serialize_pem()).unwrap();
        assert_eq!(ours.public(), theirs.subject_public_key_info());
    }

    #[test]
    fn what_is_no_key_of_a_host_is_not_taken() {
        for kind in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let other = KeyPair::generate_for(kind).unwrap().serialize_pem();
            let error = HostKey::from_pem(&other).err().unwrap();
            assert!(error.contains("not a P-256 key"), "{error}");
        }
        let whole = HostKey::generate().unwrap();
        for damaged in ["", "junk", &whole[..whole.len() / 2], &whole.replace("PRIVATE", "PUBLIC")]
        {
            assert!(HostKey::from_pem(damaged).is_err(), "{damaged}");
        }
    }
}
