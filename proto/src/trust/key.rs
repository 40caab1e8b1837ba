//! Keys: public ones as TUF writes them, and whoever holds a private one. Which key may sign what is
//! told by metadata, not here; the scheme comes from the trusted key, never from the message.

use std::fmt;

use ed25519_dalek::{
    Signature, Signer as _, SigningKey, VerifyingKey,
    pkcs8::{DecodePrivateKey, EncodePrivateKey, spki::der::pem::LineEnding},
};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

#[cfg(feature = "conformance")]
use super::foreign::ForeignKey;
use crate::{
    canonical,
    names::{Digest, NameError},
};

/// A key's id: the SHA-256 of its canonical form.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct KeyId(Digest);

impl KeyId {
    /// 64 lower-case hex digits.
    ///
    /// # Errors
    /// Whatever else it is.
    pub fn parse(text: &str) -> Result<KeyId, NameError> {
        Digest::parse(text).map(KeyId)
    }

    /// The first 12 hex digits, for people to read; never to compare.
    pub fn short(&self) -> String {
        self.0.short()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl std::str::FromStr for KeyId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<KeyId, NameError> {
        KeyId::parse(text)
    }
}

/// A public key as TUF writes it. One of a type that we don't know is kept, and verifies nothing.
#[derive(Clone)]
pub struct PublicKey {
    value: Value,
    id: KeyId,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Ed25519(VerifyingKey),
    #[cfg(feature = "conformance")]
    Foreign(ForeignKey),
    Unusable,
}

/// What tells two keys apart when signatures are counted: the key itself, so that one key under two ids
/// counts once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyMaterial(Vec<u8>);

impl PublicKey {
    /// The TUF form of an ed25519 public key.
    ///
    /// # Errors
    /// If the 32 bytes are no point of the curve.
    pub fn ed25519(bytes: &[u8; 32]) -> Result<PublicKey, KeyError> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::NotAKey)?;
        Ok(PublicKey::of(&key))
    }

    fn of(key: &VerifyingKey) -> PublicKey {
        PublicKey::from_value(&json!({
            "keytype": "ed25519",
            "scheme": "ed25519",
            "keyval": { "public": Digest::from(key.to_bytes()).to_string() },
        }))
    }

    /// Takes any value as a key; what is no ed25519 key is unusable.
    pub fn from_value(value: &Value) -> PublicKey {
        PublicKey {
            id: KeyId(Digest::of(&canonical::to_canonical(value))),
            kind: Kind::of(value),
            value: value.clone(),
        }
    }

    /// A key as a file lists it under an id; `None` if that is not its id. Section 4.2.1 takes the hash
    /// of the whole key, and so do we for our own; the reference implementation leaves members that it
    /// doesn't know out of it. Signatures are counted by the key itself, so a key that stands under both
    /// ids counts once.
    pub(super) fn listed(value: &Value, id: &str) -> Option<PublicKey> {
        let mut key = PublicKey::from_value(value);
        let known: Map<String, Value> = ["keytype", "keyval", "scheme"]
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), value.get(name)?.clone())))
            .collect();
        let without_extras = KeyId(Digest::of(&canonical::to_canonical(&Value::Object(known))));
        key.id = [key.id, without_extras].into_iter().find(|own| own.to_string() == id)?;
        Some(key)
    }

    /// Reads a key from its JSON, as `refit key generate` prints it.
    ///
    /// # Errors
    /// If it is not strict JSON, or no key that we can use.
    pub fn from_json(bytes: &[u8]) -> Result<PublicKey, KeyError> {
        let key = PublicKey::from_value(&canonical::parse(bytes).map_err(|_| KeyError::NotAKey)?);
        if key.is_usable() { Ok(key) } else { Err(KeyError::NotAKey) }
    }

    /// The canonical JSON of the key: what its id is the hash of.
    pub fn to_json(&self) -> Vec<u8> {
        canonical::to_canonical(&self.value)
    }

    /// The key as a JSON value, with every member it came with.
    pub fn to_value(&self) -> &Value {
        &self.value
    }

    /// The id, computed from the key or, of a listed one, checked against it.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Whether this program can verify with it.
    pub fn is_usable(&self) -> bool {
        match self.kind {
            Kind::Ed25519(_) => true,
            #[cfg(feature = "conformance")]
            Kind::Foreign(_) => true,
            Kind::Unusable => false,
        }
    }

    /// Whether this key made the signature. Malleable signatures and weak keys are refused.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.kind {
            Kind::Ed25519(key) => Signature::from_slice(signature)
                .and_then(|signature| key.verify_strict(message, &signature))
                .is_ok(),
            #[cfg(feature = "conformance")]
            Kind::Foreign(key) => key.verify(message, signature),
            Kind::Unusable => false,
        }
    }

    pub(super) fn material(&self) -> Option<KeyMaterial> {
        match &self.kind {
            Kind::Ed25519(key) => Some(KeyMaterial(key.to_bytes().to_vec())),
            #[cfg(feature = "conformance")]
            Kind::Foreign(key) => Some(KeyMaterial(key.material().to_vec())),
            Kind::Unusable => None,
        }
    }
}

impl Kind {
    fn of(value: &Value) -> Kind {
        let word = |name| value.get(name).and_then(Value::as_str);
        let public = value.get("keyval").and_then(|v| v.get("public")).and_then(Value::as_str);
        let (Some(kind), Some(scheme), Some(public)) = (word("keytype"), word("scheme"), public)
        else {
            return Kind::Unusable;
        };
        match (kind, scheme) {
            ("ed25519", "ed25519") => Digest::parse(public)
                .ok()
                .and_then(|bytes| VerifyingKey::from_bytes(bytes.as_bytes()).ok())
                .map_or(Kind::Unusable, Kind::Ed25519),
            #[cfg(feature = "conformance")]
            _ => ForeignKey::parse(kind, scheme, public).map_or(Kind::Unusable, Kind::Foreign),
            #[cfg(not(feature = "conformance"))]
            _ => Kind::Unusable,
        }
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &PublicKey) -> bool {
        self.id == other.id
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PublicKey").field(&self.id).finish()
    }
}

/// Why something is no key, or none could be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No ed25519 public key.
    #[error(
        "this is not an ed25519 public key in TUF's JSON form\n\
         help: `refit key generate` prints the public half in this form"
    )]
    NotAKey,
    /// No ed25519 private key in PKCS#8 PEM.
    #[error(
        "this is not an ed25519 private key in PKCS#8 PEM\n\
         help: make one with `refit key generate`"
    )]
    NotAPrivateKey,
    /// The system gave no random bytes.
    #[error("the system gives no random bytes: {0}\nhelp: make the key on another machine")]
    NoRandomness(String),
}

/// Why a signer did not sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key {key} did not sign: {cause}")]
pub struct SignError {
    /// The key that was asked.
    pub key: KeyId,
    /// What its holder said.
    pub cause: String,
}

/// Whoever holds a private key: a file, a token, a key service. It signs bytes and never shows the key.
pub trait Signer {
    /// The public half.
    fn public(&self) -> &PublicKey;

    /// Signs the bytes themselves (ed25519, not pre-hashed).
    ///
    /// # Errors
    /// If the holder refuses or can't be reached.
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError>;
}

/// An ed25519 key in this process. Its secret is wiped from memory when it is dropped.
pub struct LocalKey {
    secret: SigningKey,
    public: PublicKey,
}

impl LocalKey {
    /// A new key from the system's random bytes.
    ///
    /// # Errors
    /// If the system gives none.
    pub fn generate() -> Result<LocalKey, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).map_err(|e| KeyError::NoRandomness(e.to_string()))?;
        Ok(LocalKey::from_seed(&seed))
    }

    /// The key whose secret is these 32 bytes.
    pub fn from_seed(seed: &[u8; 32]) -> LocalKey {
        LocalKey::from(SigningKey::from_bytes(seed))
    }

    /// Reads PKCS#8 PEM.
    ///
    /// # Errors
    /// If it is not an ed25519 private key.
    pub fn from_pem(pem: &str) -> Result<LocalKey, KeyError> {
        SigningKey::from_pkcs8_pem(pem).map(LocalKey::from).map_err(|_| KeyError::NotAPrivateKey)
    }

    /// Writes PKCS#8 PEM; the text is wiped from memory when it is dropped.
    ///
    /// # Errors
    /// Never for an ed25519 key; the encoder can't tell.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        self.secret.to_pkcs8_pem(LineEnding::LF).map_err(|_| KeyError::NotAPrivateKey)
    }
}

impl From<SigningKey> for LocalKey {
    fn from(secret: SigningKey) -> LocalKey {
        let public = PublicKey::of(&secret.verifying_key());
        LocalKey { secret, public }
    }
}

impl Signer for LocalKey {
    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        Ok(self.secret.sign(message).to_bytes())
    }
}

impl fmt::Debug for LocalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKey").field("public", &self.public.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> LocalKey {
        LocalKey::from_seed(&[seed; 32])
    }

    #[test]
    fn a_key_id_is_the_one_that_other_tuf_tools_compute() {
        // securesystemslib 1.3: SSlibKey("", "ed25519", "ed25519", {"public": 64 * "0"}), its id over
        // {"keytype":..,"keyval":..,"scheme":..}.
        let value = json!({"scheme": "ed25519", "keyval": {"public": "00".repeat(32)}, "keytype": "ed25519"});
        let text = format!(
            r#"{{"keytype":"ed25519","keyval":{{"public":"{}"}},"scheme":"ed25519"}}"#,
            "00".repeat(32)
        );
        assert_eq!(
            PublicKey::from_value(&value).id().to_string(),
            Digest::of(text.as_bytes()).to_string()
        );
    }

    #[test]
    fn a_listed_key_has_the_id_of_its_whole_or_of_its_known_members_and_no_other() {
        let plain = json!({"scheme": "ed25519", "keyval": {"public": "00".repeat(32)}, "keytype": "ed25519"});
        let mut extended = plain.clone();
        extended["x-owner"] = json!("somebody");
        let ids = [&plain, &extended].map(|value| PublicKey::from_value(value).id().to_string());
        assert_ne!(ids[0], ids[1]);
        for id in &ids {
            let listed = PublicKey::listed(&extended, id).unwrap();
            assert_eq!((listed.id().to_string(), listed.to_value()), (id.clone(), &extended));
        }
        assert!(PublicKey::listed(&plain, &ids[1]).is_none());
        assert!(PublicKey::listed(&plain, &ids[0].to_uppercase()).is_none());
        assert!(PublicKey::listed(&json!("no object"), &ids[0]).is_none());
    }

    #[test]
    fn a_key_survives_its_file() {
        let made = LocalKey::generate().unwrap();
        let read = LocalKey::from_pem(&made.to_pem().unwrap()).unwrap();
        assert_eq!(read.public(), made.public());
        let signature = read.sign(b"x").unwrap();
        assert!(made.public().verify(b"x", &signature));
        assert_eq!(PublicKey::from_json(&made.public().to_json()).unwrap(), *made.public());
    }

    #[test]
    fn two_generated_keys_differ() {
        assert_ne!(LocalKey::generate().unwrap().public(), LocalKey::generate().unwrap().public());
    }

    #[test]
    fn printing_a_key_never_shows_its_secret() {
        let shown = format!("{:?}", key(7));
        assert!(shown.contains(&key(7).public().id().to_string()));
        assert!(!shown.contains("0707") && !shown.contains("7, 7"), "{shown}");
    }

    #[test]
    fn a_signature_of_another_message_key_or_length_is_none() {
        let signature = key(1).sign(b"message").unwrap();
        assert!(key(1).public().verify(b"message", &signature));
        assert!(!key(1).public().verify(b"massage", &signature));
        assert!(!key(2).public().verify(b"message", &signature));
        for length in [0, 63] {
            assert!(!key(1).public().verify(b"message", &signature[..length]));
        }
        assert!(!key(1).public().verify(b"message", &[signature.as_slice(), &[0]].concat()));
        for byte in 0..64 {
            let mut changed = signature;
            changed[byte] ^= 1;
            assert!(!key(1).public().verify(b"message", &changed), "byte {byte}");
        }
    }

    #[test]
    fn a_weak_key_verifies_nothing() {
        // The neutral element: with it, (R = neutral, s = 0) would "sign" every message.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut forged = [0; 64];
        forged[0] = 1;
        assert!(PublicKey::ed25519(&neutral).is_ok_and(|weak| !weak.verify(b"any", &forged)));
    }

    #[test]
    fn keys_of_unknown_type_are_kept_and_unusable() {
        for value in [
            json!({"keytype": "ml-dsa", "scheme": "ml-dsa-65", "keyval": {"public": "00"}}),
            json!({"keytype": "ed25519", "scheme": "none", "keyval": {"public": "00".repeat(32)}}),
            json!({"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "zz"}}),
            json!({"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "AB".repeat(32)}}),
            json!({}),
            json!(null),
            json!(7),
            json!([]),
        ] {
            let key = PublicKey::from_value(&value);
            assert!(!key.is_usable(), "{value}");
            assert_eq!(*key.to_value(), value);
            assert!(!key.verify(b"", &[0; 64]));
        }
    }
}
