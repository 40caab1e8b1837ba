//! A journal in memory, for tests of what drives updates. It keeps bytes, as the real one does, so that
//! what cannot be written and read back is found.

use refit_durable::Batch;

use super::{Journal, JournalError, format};
use crate::update::{Outcome, Update};

/// A journal in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryJournal {
    current: Option<Vec<u8>>,
    ended: Vec<Outcome>,
    extras: Vec<Batch>,
    damaged: Option<Vec<u8>>,
}

impl MemoryJournal {
    /// How the updates ended that are settled, oldest first.
    pub fn ended(&self) -> &[Outcome] {
        &self.ended
    }

    /// What was written along with the updates, oldest first.
    pub fn extras(&self) -> &[Batch] {
        &self.extras
    }

    /// Puts these bytes in the place of the record, as a failing disk does.
    pub fn damage(&mut self, bytes: Vec<u8>) {
        self.current = Some(bytes);
    }
}

impl Journal for MemoryJournal {
    fn save(&mut self, update: &Update, extras: Batch) -> Result<(), JournalError> {
        self.current = match update {
            Update::Finished { outcome, settled: true, .. } => {
                self.ended.push(outcome.clone());
                None
            }
            under_way => Some(format::write("current", under_way)?),
        };
        if !extras.is_empty() {
            self.extras.push(extras);
        }
        Ok(())
    }

    fn load(&self) -> Result<Option<Update>, JournalError> {
        self.current.as_deref().map(|bytes| format::read("current", bytes)).transpose()
    }

    fn set_aside(&mut self) -> Result<(), JournalError> {
        self.damaged = self.current.take().or(self.damaged.take());
        Ok(())
    }
}
