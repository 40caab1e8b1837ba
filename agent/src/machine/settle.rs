//! After the end of an update: the way back is disarmed, and what nothing refers to any more is removed.
//! The release before, and the backup that leads to it, are kept.

use std::{collections::BTreeSet, path::Path};

use refit_proto::{
    gathered::Gathered as _,
    names::{Digest, Product},
    package::HookTime,
};

use super::{HostMachine, backup_id, failures::failure};
use crate::{
    host::{documents::Documents, modules::made, preflight::Purpose, tree::Installer as _},
    update::{Attempt, BackupId, Cause, Failure, Phase},
};

impl HostMachine {
    pub(super) fn settle(&mut self, attempt: &Attempt, ended: Phase) -> Result<(), Failure> {
        // Durable is the end already; now nobody may go back by it any more.
        self.disarm()?;
        self.probation = None;
        self.settle_modules(attempt, ended)?;
        self.databases().clear_scratches();
        self.tidy_own(attempt)?;
        let room = self.preflight_of(attempt);
        for at in self.rooms(attempt) {
            for purpose in Purpose::ALL {
                room.give_back(purpose, &at)?;
            }
        }
        match ended {
            Phase::Committed => {
                let after = self.after(attempt)?;
                self.tidy_placed(attempt, Some(&after))?;
                if let Err(failure) = self.run_hooks(attempt, &after, HookTime::AfterCommit) {
                    tracing::warn!("{failure}");
                }
                self.let_rescue_follow(attempt)?;
                let held = [backup_id(attempt)?].into_iter().gathered();
                self.clean(&attempt.product, &held)?;
                self.settle_second(&attempt.product, &held);
            }
            Phase::Refused | Phase::Dropped | Phase::RolledBack => {
                self.tidy_after_going_back(attempt);
                self.backups().remove(&backup_id(attempt)?)?;
                self.clean(&attempt.product, &BTreeSet::new())?;
            }
            // A person will want all of it, also after the next update.
            Phase::Stuck => return Ok(self.backups().pin(&backup_id(attempt)?)?),
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

    fn tidy_placed(&self, attempt: &Attempt, now: Option<&Documents>) -> Result<(), Failure> {
        let emptied = self.placed().tidy(&self.tree().product(&attempt.product), now);
        emptied.map_err(|error| failure(Cause::HostFault, &error))
    }

    /// Forgets what was noted for a release that did not stay. Where that can't be told, the next update does.
    pub(super) fn tidy_after_going_back(&self, attempt: &Attempt) {
        let product = self.tree().product(&attempt.product);
        let before = self.before(attempt);
        let tidied = before.and_then(|before| self.tidy_placed(attempt, before.as_ref()));
        if let Err(failure) = tidied {
            tracing::warn!("{failure}");
        }
        if let Err(error) = made::tidy(&*self.files, &product) {
            tracing::warn!("{error}");
        }
    }

    pub(super) fn disarm(&self) -> Result<(), Failure> {
        self.place().disarm()?;
        if let Some(rescue) = &self.rescue
            && let Err(error) = rescue.stand_down(&self.data)
        {
            tracing::warn!("{error}");
        }
        Ok(())
    }

    /// Removes the product's backups that retention does not keep, but for these, and its releases but the
    /// current one and those that a backup leads to or a process runs from.
    pub(super) fn clean(
        &self,
        product: &Product,
        backups: &BTreeSet<BackupId>,
    ) -> Result<(), Failure> {
        let now = self.clock.now().as_second();
        self.backups().clean(product, &self.backup.retention, backups, now)?;
        let mut keep = running(&self.tree().product(product));
        for id in self.backups().list()? {
            match self.backups().index(&id) {
                Ok(index) => keep.extend(index.link_target().and_then(|target| release_in(target))),
                Err(error) => {
                    // Nobody knows what it leads back to, so nothing goes.
                    tracing::warn!(backup = %id, "no old release is removed: {error}");
                    return Ok(());
                }
            }
        }
        self.clean_images(product, &keep);
        let removed = self.tree().clean(product, &keep);
        removed.map(drop).map_err(|error| failure(Cause::HostFault, &error))
    }
}

/// The release that a path below a product's folder is in.
pub(super) fn release_in(path: &Path) -> Option<Digest> {
    let mut names = path.components().skip_while(|name| name.as_os_str() != "releases");
    Digest::parse(names.nth(1)?.as_os_str().to_str()?).ok()
}

/// The releases of a product that a process runs from, or works in. A process that the agent may not
/// look at is none of its own.
fn running(product: &Path) -> BTreeSet<Digest> {
    let mut releases = BTreeSet::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        for what in ["exe", "cwd"] {
            let Ok(path) = std::fs::read_link(process.path().join(what)) else { continue };
            releases.extend(path.strip_prefix(product).ok().and_then(release_in));
        }
    }
    releases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_that_a_process_works_in_is_told_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let product = dir.path().canonicalize().unwrap();
        let digest = Digest::of(b"release");
        let folder = product.join("releases").join(digest.to_string()).join("payments");
        std::fs::create_dir_all(&folder).unwrap();
        let mut process =
            std::process::Command::new("sleep").arg("60").current_dir(&folder).spawn().unwrap();
        let found = running(&product);
        process.kill().unwrap();
        process.wait().unwrap();
        assert_eq!(found, [digest].into());
        assert_eq!(running(&product), BTreeSet::new());
    }
}
