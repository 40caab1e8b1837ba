//! One signature as one short line of text: small enough for a QR code or to be read out. It says which
//! key made it; which file it belongs to is found by trying.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::ChangeError;
use crate::{names::Digest, trust::key::KeyId};

const PREFIX: &str = "refit-sig1-";

/// A detached signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureLine {
    /// Whose it says it is.
    pub key: KeyId,
    /// Over the canonical form of a file in the change.
    pub signature: [u8; 64],
}

impl SignatureLine {
    /// The lines of a `.sig` file.
    ///
    /// # Errors
    /// If a line is something else, or there is none.
    pub fn read_all(text: &str) -> Result<Vec<SignatureLine>, ChangeError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let lines = lines.map(str::parse).collect::<Result<Vec<_>, _>>()?;
        if lines.is_empty() { Err(not_one(text)) } else { Ok(lines) }
    }
}

impl fmt::Display for SignatureLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = Digest::parse(&self.key.to_string()).map_err(|_| fmt::Error)?;
        let bytes = [&id.as_bytes()[..], &self.signature].concat();
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for SignatureLine {
    type Err = ChangeError;

    fn from_str(text: &str) -> Result<SignatureLine, ChangeError> {
        let coded = text.strip_prefix(PREFIX).ok_or_else(|| not_one(text))?;
        let bytes = URL_SAFE_NO_PAD.decode(coded).map_err(|_| not_one(text))?;
        let (id, signature) = bytes.split_at_checked(32).ok_or_else(|| not_one(text))?;
        let id = Digest::from_bytes(id).map_err(|_| not_one(text))?;
        let key = KeyId::parse(&id.to_string()).map_err(|_| not_one(text))?;
        let signature = signature.try_into().map_err(|_| not_one(text))?;
        Ok(SignatureLine { key, signature })
    }
}

fn not_one(text: &str) -> ChangeError {
    ChangeError::NotASignature { text: text.chars().take(40).collect() }
}
