//! Keys of other TUF repositories: ECDSA over P-256 and RSA-PSS, both with SHA-256. The TUF project's
//! conformance suite signs with them; no shipped program is built with this module.

use ed25519_dalek::pkcs8::spki::{
    ObjectIdentifier, SubjectPublicKeyInfoRef,
    der::{Decode, Document},
};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};

/// id-ecPublicKey, RFC 5480 section 2.1.1.
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// secp256r1, RFC 5480 section 2.1.1.1.
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
/// rsaEncryption, RFC 8017 appendix A.1.
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// A public key that is not ed25519.
#[derive(Clone)]
pub(super) struct ForeignKey {
    scheme: Scheme,
    /// The subject public key: a point of the curve, or an RSAPublicKey.
    public: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Scheme {
    EcdsaP256,
    RsaPss,
}

impl ForeignKey {
    /// Reads a key from PEM (SubjectPublicKeyInfo), if type, scheme and content agree.
    pub(super) fn parse(kind: &str, scheme: &str, pem: &str) -> Option<ForeignKey> {
        let scheme = match (kind, scheme) {
            ("ecdsa" | "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256") => Scheme::EcdsaP256,
            ("rsa", "rsassa-pss-sha256") => Scheme::RsaPss,
            _ => return None,
        };
        let (label, document) = Document::from_pem(pem.trim_end()).ok()?;
        if label != "PUBLIC KEY" {
            return None;
        }
        let info = SubjectPublicKeyInfoRef::from_der(document.as_bytes()).ok()?;
        let fits = match scheme {
            Scheme::EcdsaP256 => info.algorithm.oids().ok()? == (EC, Some(P256)),
            Scheme::RsaPss => info.algorithm.oid == RSA,
        };
        let public = info.subject_public_key.as_bytes()?.to_vec();
        fits.then_some(ForeignKey { scheme, public })
    }

    /// Whether this key made the signature.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &dyn VerificationAlgorithm = match self.scheme {
            Scheme::EcdsaP256 => &ECDSA_P256_SHA256_ASN1,
            Scheme::RsaPss => &RSA_PSS_2048_8192_SHA256,
        };
        UnparsedPublicKey::new(algorithm, &self.public).verify(message, signature).is_ok()
    }

    /// What tells it from other keys.
    pub(super) fn material(&self) -> &[u8] {
        &self.public
    }
}
