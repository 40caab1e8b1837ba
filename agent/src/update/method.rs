//! How a backup gets hold of what it saves. Chosen in preflight, by the order that the host's owner gives
//! and by what fits, and kept in the journal: room is held for that one and no other.

use serde::{Deserialize, Serialize};

/// How a backup gets hold of the bytes of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackupMethod {
    /// A second file over the same blocks, where the file system can (btrfs, xfs): takes neither time nor
    /// room for the bytes. What can't be cloned is copied, where copying is allowed too.
    Reflink,
    /// A copy. What agents of before did.
    #[default]
    Copy,
}

impl BackupMethod {
    /// As settings and messages name it.
    pub fn as_str(self) -> &'static str {
        match self {
            BackupMethod::Reflink => "reflink",
            BackupMethod::Copy => "copy",
        }
    }

    pub(super) fn is_copy(&self) -> bool {
        *self == BackupMethod::Copy
    }
}
