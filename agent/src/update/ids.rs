//! What is named by an id: an install, a backup, a boot, a lease. Each but the lease is a word that is
//! safe in a path; all are parsed once at the edge. Who makes ids, and how, is decided elsewhere.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {rule}")]
pub struct IdError {
    what: &'static str,
    text: String,
    rule: &'static str,
}

const ID_RULE: &str = "1 to 128 letters, digits, dots, hyphens or underscores, not all dots";

fn is_id(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && text.bytes().any(|b| b != b'.')
}

const LEASE_RULE: &str = "1 to 256 letters, digits, dots, hyphens, underscores or slashes";

/// The server's own words, which never become a path here: the names of a product, a ring and a host.
fn is_lease(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
    (1..=256).contains(&text.len()) && text.bytes().all(word)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr, $rule:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses the id.
            ///
            /// # Errors
            /// The rule that it breaks.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok($name(text.to_owned()))
                } else {
                    Err(IdError { what: $what, text: text.chars().take(80).collect(), rule: $rule })
                }
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                $name::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

id!(
    /// One try to bring one release to this host, never used again: what the journal, the backup and
    /// the way back of the same update have in common.
    InstallId, "install id", is_id, ID_RULE
);
id!(
    /// A backup on this host.
    BackupId, "backup id", is_id, ID_RULE
);
id!(
    /// One boot of this host, as the kernel names it.
    BootId, "boot id", is_id, ID_RULE
);
id!(
    /// The leave under which an update began, as the server names it.
    LeaseId, "lease id", is_lease, LEASE_RULE
);

#[cfg(test)]
mod tests {
    use super::*;

    /// CVE-2026-24686.
    #[test]
    fn an_id_is_never_more_than_one_step_of_a_path() {
        for good in ["1", "3f2a-4b", "a.b_c", &"x".repeat(128)] {
            assert!(BackupId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "a\n", "ä", &"x".repeat(129)] {
            assert!(BackupId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
