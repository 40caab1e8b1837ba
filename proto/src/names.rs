//! The words of the fleet as types: each is parsed once at the edge, and inside nobody checks again.
//! What a name may be is fixed by docs/ARCHITECTURE.md, since names end up in paths and in role names.

use std::{borrow::Borrow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Why a word is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {rule}")]
pub struct NameError {
    what: &'static str,
    text: String,
    rule: &'static str,
}

/// Longest part of a refused word that an error repeats: enough to recognise it, and no log flood.
const SHOWN: usize = 80;

impl NameError {
    fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        NameError { what, text: text.chars().take(SHOWN).collect(), rule }
    }
}

const NAME_RULE: &str = "a lower-case letter, then up to 38 lower-case letters, digits or hyphens";

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && text.len() <= 39
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

const LABEL_RULE: &str = "1 to 64 letters, digits, dots, hyphens or underscores, not all dots";

fn is_label(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        // "." and ".." would be steps in a path.
        && text.bytes().any(|b| b != b'.')
}

macro_rules! word {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr, $rule:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses the word.
            ///
            /// # Errors
            /// The rule that it breaks.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok($name(text.to_owned()))
                } else {
                    Err(NameError::new($what, text, $rule))
                }
            }

            /// The word as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                $name::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                $name::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(word: $name) -> String {
                word.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

word!(
    /// A named piece of software that hosts run.
    Product, "product", is_name, NAME_RULE
);
word!(
    /// An ordered stage of the fleet for one product.
    RingName, "ring", is_name, NAME_RULE
);
word!(
    /// One installable part of a release on one platform.
    PackageName, "package", is_name, NAME_RULE
);
word!(
    /// A release's label. Never compared: order is told by the release counter.
    Version, "version", is_label, LABEL_RULE
);
word!(
    /// What people call a host; unique in the fleet.
    HostName, "host name", is_label, LABEL_RULE
);
word!(
    /// A person or CI job, as the audit log names it.
    PersonName, "person", is_label, LABEL_RULE
);
word!(
    /// The name of a label of a host: `region`.
    LabelName, "label", is_name, NAME_RULE
);
word!(
    /// The value of a label of a host: `eu`.
    LabelValue, "label value", is_label, LABEL_RULE
);
word!(
    /// What a package runs on: `linux-x86_64`, or `any`.
    Platform, "platform", is_label, LABEL_RULE
);
word!(
    /// A host's id: the first 16 bytes of the SHA-256 of its certificate's public key, in hex, so that
    /// nobody can enroll under an id that is taken.
    HostId, "host id",
    |text| text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
    "32 lower-case hex digits"
);

impl HostId {
    /// The id that belongs to a public key, given as the DER of its SubjectPublicKeyInfo.
    pub fn of_public_key(subject_public_key_info: &[u8]) -> HostId {
        let digest = Digest::of(subject_public_key_info);
        HostId(digest.to_string()[..32].to_owned())
    }
}

/// A host's labels, by name.
pub type Labels = std::collections::BTreeMap<LabelName, LabelValue>;

/// A SHA-256, whole: caches and comparisons never use a part of it (CVE-2024-54143).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// 64 lower-case hex digits; nothing shorter, longer, upper-case or padded (CVE-2020-7982).
    ///
    /// # Errors
    /// Whatever else it is.
    pub fn parse(text: &str) -> Result<Digest, NameError> {
        let error = || NameError::new("digest", text, "64 lower-case hex digits");
        let hex = text.as_bytes();
        if hex.len() != 64 {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let digit = |b: u8| match b {
                b'0'..=b'9' => Ok(b - b'0'),
                b'a'..=b'f' => Ok(b - b'a' + 10),
                _ => Err(error()),
            };
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Digest(bytes))
    }

    /// From the 32 bytes that travel on the wire.
    ///
    /// # Errors
    /// If there are not 32 of them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Digest, NameError> {
        bytes.try_into().map(Digest).map_err(|_| NameError::new("digest", "", "32 bytes"))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 hex digits, for people to read; never to compare.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            for half in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(half), 16).unwrap_or('?'));
            }
        }
        f.pad(&text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Digest::parse(text)
    }
}

impl TryFrom<String> for Digest {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Digest::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CVE-2026-24686.
    #[test]
    fn a_name_is_safe_in_paths_and_role_names() {
        for good in ["payments", "a", "pilot-2", &"a".repeat(39)] {
            assert!(Product::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "Payments", "2fast", "-a", "a/b", "a.b", "a_b", "ä", "a ", &"a".repeat(40)]
        {
            assert!(Product::parse(bad).is_err(), "{bad}");
        }
    }

    /// CVE-2026-24137.
    #[test]
    fn a_version_is_never_a_step_in_a_path() {
        for good in ["1.0", "2.4.1-rc_1", "...a", "v"] {
            assert!(Version::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "...", "1/2", "1 2", "1\n", &"1".repeat(65)] {
            assert!(Version::parse(bad).is_err(), "{bad}");
        }
    }

    /// CVE-2020-7982.
    #[test]
    fn a_digest_is_64_lower_case_hex_digits_and_nothing_else() {
        let hex = Digest::of(b"refit").to_string();
        assert_eq!(Digest::parse(&hex), Ok(Digest::of(b"refit")));
        for bad in [
            String::new(),
            hex[1..].to_owned(),
            format!("{hex}0"),
            format!(" {}", &hex[1..]),
            hex.to_uppercase(),
            hex.replace(|c: char| c.is_ascii_digit(), "g"),
        ] {
            assert!(Digest::parse(&bad).is_err(), "{bad:?}");
        }
    }
}
