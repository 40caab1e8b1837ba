//! The way back: one small file that says, step by step, how to put back what ran before an update.
//! Armed before the first change, removed when the update's end is durable. Whoever runs it needs
//! neither the network, nor the journal, nor the new release, nor a correct clock, and knows no
//! installer. Its format is frozen: docs/decisions/0002-way-back.md. When it is armed, and with which
//! steps, is decided by who changes the host.

mod format;
mod place;
mod recover;
mod rescued;
mod run;
mod undo_step;

pub use format::FormatError;
pub(crate) use format::{decode, encode, length};
pub use place::{LARGEST, Place, PlaceError};
pub use recover::{Decision, RecoverError, Recovered, decide, recover};
pub use rescued::Rescued;
pub use run::{NoServices, RunError, Units, UnitsError, run};
pub use undo_step::{UndoStep, Undoing};

use std::time::Duration;

use crate::host::owners::Owners;
use crate::update::{Attempt, BackupId, BootId, InstallId, LeaseId, Running};

/// How to put back what ran before an update, and until when the update may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayBack {
    /// Which update armed it.
    pub install: InstallId,
    /// In which boot it was armed; `deadline` counts in it.
    pub boot: BootId,
    /// When the rescuer goes back by itself, in running time of `boot`.
    pub deadline: Running,
    /// For how much running time it waits in any other boot.
    pub patience: Duration,
    /// For how much running time no agent may run meanwhile.
    pub alone: Duration,
    /// After how many starts of the host in the middle of the update it goes back by itself.
    pub starts: u32,
    /// What the update was about, so that going back is reported where the journal is lost.
    pub attempt: Option<Attempt>,
    /// Under which leave it began.
    pub lease: Option<LeaseId>,
    /// Which backup a person has asked for, where it undoes what was committed; `None` for the backup of
    /// the update that armed it.
    pub restores: Option<BackupId>,
    /// Names of those whose numbers stand in the steps: the numbers that they have when it is gone count.
    pub owners: Owners,
    /// What to do, in this order.
    pub steps: Vec<UndoStep>,
}

impl WayBack {
    /// The backup that it brings back.
    ///
    /// # Errors
    /// If no backup has this name.
    pub fn backup(&self) -> Result<BackupId, crate::update::IdError> {
        match &self.restores {
            Some(backup) => Ok(backup.clone()),
            None => BackupId::parse(self.install.as_str()),
        }
    }
}
