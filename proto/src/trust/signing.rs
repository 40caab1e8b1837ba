//! Putting signatures on metadata: the file's form, and adding one signature to those that are there.
//! What is signed is `edit`'s and `freshness`'s.

use serde_json::{Value, json};

use super::{
    error::TrustError,
    key::{KeyId, SignError, Signer},
    role::Role,
    verify::Opened,
};
use crate::{canonical, names::Digest};

/// Why no signature was added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The file can't be read.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The signer did not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// It has signed already.
    #[error(
        "key {key} has already signed this {role}\n\
         help: hand it to the next holder; one key counts once"
    )]
    AlreadySigned {
        /// Whose file.
        role: Role,
        /// The key.
        key: KeyId,
    },
}

/// The file of signed content, with one signature by each signer.
///
/// # Errors
/// If a signer does not sign.
pub(super) fn sign(signed: &Value, signers: &[&dyn Signer]) -> Result<Vec<u8>, SignError> {
    let message = canonical::to_canonical(signed);
    let mut signatures = Vec::with_capacity(signers.len());
    for signer in signers {
        let signature = signer.sign(&message)?;
        signatures.push((signer.public().id().to_string(), hex(&signature)));
    }
    Ok(assemble(signed, signatures))
}

/// Adds a signature to a signed file; what is signed stays as it is.
///
/// # Errors
/// If the file can't be read, the key has signed it already, or the signer does not sign.
pub fn append(bytes: &[u8], role: &Role, signer: &dyn Signer) -> Result<Vec<u8>, AppendError> {
    let opened = Opened::open(bytes, role, None)?;
    let key = signer.public();
    if let Some(signature) = opened.signatures().get(&key.id().to_string())
        && key.verify(opened.canonical(), signature)
    {
        return Err(AppendError::AlreadySigned { role: role.clone(), key: key.id() });
    }
    let signature = signer.sign(opened.canonical())?;
    Ok(with_signature(&opened, key.id(), &signature))
}

/// Puts a signature that was made elsewhere on a file. Whether it is good is the caller's to know.
///
/// # Errors
/// If the file can't be read.
pub(super) fn insert(
    bytes: &[u8],
    role: &Role,
    key: KeyId,
    signature: &[u8; 64],
) -> Result<Vec<u8>, TrustError> {
    Ok(with_signature(&Opened::open(bytes, role, None)?, key, signature))
}

fn with_signature(opened: &Opened<'_>, key: KeyId, signature: &[u8]) -> Vec<u8> {
    let mut signatures: Vec<(String, String)> =
        opened.signatures().iter().map(|(id, signature)| (id.clone(), hex(signature))).collect();
    signatures.retain(|(id, _)| *id != key.to_string());
    signatures.push((key.to_string(), hex(signature)));
    assemble(opened.signed(), signatures)
}

fn assemble(signed: &Value, signatures: Vec<(String, String)>) -> Vec<u8> {
    let signatures: Vec<Value> =
        signatures.into_iter().map(|(id, sig)| json!({ "keyid": id, "sig": sig })).collect();
    let file = json!({ "signatures": signatures, "signed": signed });
    file.to_string().into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    // A signature is two halves of 32 bytes; whatever else stood there is dropped as worthless.
    bytes
        .chunks(32)
        .filter_map(|half| Digest::from_bytes(half).ok())
        .map(|half| half.to_string())
        .collect()
}
