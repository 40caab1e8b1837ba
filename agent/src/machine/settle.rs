//! After the end of an update: the way back is disarmed, and what nothing refers to any more is removed.
//! The release before, and the backup that leads to it, are kept.

use std::collections::BTreeSet;

use refit_proto::{names::Digest, package::HookTime};

use super::{HostMachine, backup_id, failures::failure};
use crate::{
    host::{preflight::Purpose, tree::Installer as _},
    update::{Attempt, BackupId, Cause, Failure, Phase},
};

impl HostMachine {
    pub(super) fn settle(&mut self, attempt: &Attempt, ended: Phase) -> Result<(), Failure> {
        // Durable is the end already; now nobody may go back by it any more.
        self.place().disarm()?;
        self.probation = None;
        let room = self.preflight_of(attempt);
        for purpose in Purpose::ALL {
            for at in [&self.data, &self.root] {
                room.give_back(purpose, at)?;
            }
        }
        match ended {
            Phase::Committed => {
                let after = self.after(attempt)?;
                if let Err(failure) = self.run_hooks(attempt, &after, HookTime::AfterCommit) {
                    tracing::warn!("{failure}");
                }
                self.clean(attempt, &[backup_id(attempt)?].into())?;
            }
            Phase::Refused | Phase::Dropped | Phase::RolledBack => {
                self.backups().remove(&backup_id(attempt)?)?;
                self.clean(attempt, &self.all_backups()?)?;
            }
            // A person will want all of it.
            Phase::Stuck => return Ok(()),
            Phase::Offered
            | Phase::Preflight
            | Phase::Fetching
            | Phase::Waiting
            | Phase::BackingUp
            | Phase::Quiescing
            | Phase::Sealing
            | Phase::Switching
            | Phase::Rebooting
            | Phase::Probation
            | Phase::RollingBack => {}
        }
        // What was dropped may be offered again in a moment, and then is not fetched twice.
        if ended != Phase::Dropped {
            self.content().clear()?;
        }
        Ok(())
    }

    fn all_backups(&self) -> Result<BTreeSet<BackupId>, Failure> {
        Ok(self.backups().list()?.into_iter().collect())
    }

    /// Removes the product's backups but these, and its releases but the current one and those that a
    /// backup leads to.
    fn clean(&self, attempt: &Attempt, backups: &BTreeSet<BackupId>) -> Result<(), Failure> {
        self.backups().clean(&attempt.product, backups)?;
        let mut keep = BTreeSet::new();
        for id in self.backups().list()? {
            let Ok(index) = self.backups().index(&id) else { continue };
            let target = index.link_target().and_then(|target| target.file_name());
            let digest = target.and_then(|name| Digest::parse(name.to_str()?).ok());
            keep.extend(digest);
        }
        let removed = self.tree().clean(&attempt.product, &keep);
        removed.map(drop).map_err(|error| failure(Cause::HostFault, &error))
    }
}
