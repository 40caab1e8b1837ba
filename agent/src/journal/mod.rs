//! What a host remembers of its updates: the one under way, what waits, how the last ones ended, and
//! what it will not take again. Decides how that is written; what follows from it is decided in
//! [`crate::update`].

mod begun;
mod format;
mod memory;
mod store;

pub use memory::MemoryJournal;
pub use store::{Ended, Quarantined, StoreJournal};

use refit_durable::{Batch, StoreError};

use crate::update::Update;

/// Where an update is saved before it is acted on.
pub trait Journal {
    /// Durable when it returns: what follows may rely on it after a power cut. `extras` are written in
    /// the same commit, so that a transition and its report are there both or not at all. A settled
    /// update is not under way any more: it becomes history.
    ///
    /// # Errors
    /// If it is not certain that all of it is durable.
    fn save(&mut self, update: &Update, extras: Batch) -> Result<(), JournalError>;

    /// The update under way; `None` if there is none.
    ///
    /// # Errors
    /// A record that cannot be read is an error, never `None`: something may have begun.
    fn load(&self) -> Result<Option<Update>, JournalError>;

    /// Takes a record that cannot be read out of the way and keeps it for a person. Only for who has
    /// made sure that no update had begun, or has gone back: [`crate::way_back::recover`].
    ///
    /// # Errors
    /// If it is not certain that this is durable.
    fn set_aside(&mut self) -> Result<(), JournalError>;
}

/// What the journal could not do.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// There is a record and it makes no sense.
    #[error(
        "the journal's record {record:?} cannot be read: {why}\n\
         help: run `refit-agent recover`, which goes back by the way back if an update had begun"
    )]
    Unreadable {
        /// Which record.
        record: String,
        /// What is wrong with it.
        why: String,
    },
    /// A later version of the agent has written a record that this one must not guess at.
    #[error(
        "the journal's record {record:?} needs an agent that reads format {needed}, this one reads {known}\n\
         help: install the agent that wrote it, or run its `refit-agent recover`"
    )]
    Newer {
        /// Which record.
        record: String,
        /// The smallest format that a reader must know.
        needed: u32,
        /// The format that this agent knows.
        known: u32,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
