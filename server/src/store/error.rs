//! What a store could not do. The words are for a log; callers see only which kind it is.

use std::error::Error;

use super::{Invalid, Key};
use crate::fleet::RecordError;

/// Why something was read or written from a store that fails.
type Cause = Box<dyn Error + Send + Sync>;

/// The store fails, whatever it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreFault {
    /// Not now: a full disk, an unreachable database. It may be later.
    #[error("the store is not available: {0}")]
    Unavailable(#[source] Cause),
    /// What it holds can't be read as what it should be.
    #[error("the store is damaged: {0}")]
    Corrupt(#[source] Cause),
}

impl StoreFault {
    /// Not now, and why.
    pub fn unavailable(cause: impl Into<Cause>) -> StoreFault {
        StoreFault::Unavailable(cause.into())
    }

    /// Damaged, and where.
    pub fn corrupt(cause: impl Into<Cause>) -> StoreFault {
        StoreFault::Corrupt(cause.into())
    }
}

impl From<RecordError> for StoreFault {
    fn from(error: RecordError) -> StoreFault {
        StoreFault::corrupt(error)
    }
}

impl From<refit_durable::StoreError> for StoreFault {
    fn from(error: refit_durable::StoreError) -> StoreFault {
        use refit_durable::StoreError as E;
        match error {
            E::Full { .. } | E::Busy { .. } | E::Io { .. } => StoreFault::unavailable(error),
            // The last two are excluded by how the store is used; met all the same, it is not to be
            // trusted.
            E::Corrupt { .. } | E::Newer { .. } | E::TooLarge { .. } | E::Conflict { .. } => {
                StoreFault::corrupt(error)
            }
        }
    }
}

/// Why a commit was not made, or may not have been.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// These are not as the caller has read them. Nothing is changed.
    #[error("changed meanwhile: {}", words(.0))]
    Conflict(Vec<Key>),
    /// The lease has moved on. Nothing is changed.
    #[error("the lease has moved on to another holder")]
    Fenced,
    /// No store takes it, ever. Nothing is changed.
    #[error("not a commit: {0}")]
    Invalid(#[from] Invalid),
    /// The store fails. It is unknown whether the commit was made.
    #[error(transparent)]
    Fault(#[from] StoreFault),
}

impl CommitError {
    /// Whether these keys, and no others, are in the way.
    pub fn is_conflict_of(&self, keys: &[Key]) -> bool {
        matches!(self, CommitError::Conflict(found) if found == keys)
    }
}

fn words(keys: &[Key]) -> String {
    keys.iter().map(Key::to_string).collect::<Vec<_>>().join(", ")
}
