//! Update modules within the steps of an update. Their states are put where ours are: `Download` and
//! `ArtifactInstall` in Switching, their boot in Rebooting, `ArtifactVerifyReboot` and `ArtifactCommit` in
//! Probation, `Cleanup` at the end. So no code of theirs runs before the backup is sealed.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use refit_proto::{
    names::Product,
    package::{Installer, WayBack, expand},
};

use super::HostMachine;
use crate::{
    host::{
        backup::{Cover, Role, resolve},
        documents::Documents,
        files,
        modules::{ModuleError, Modules, NeedsReboot, made},
    },
    update::{Attempt, Cause, Change, Event, Failure, Phase, RebootNeed, RebootReason},
    way_back::UndoStep,
};

impl HostMachine {
    pub(super) fn modules(&self) -> Modules<'_> {
        Modules::new(&*self.files, &*self.calls, &self.module_settings, &self.data)
    }

    fn folder_of(&self, attempt: &Attempt, release: &Documents) -> PathBuf {
        self.tree().folder(&attempt.product, &release.id.digest)
    }

    /// Whether the modules of a release can be used here, and what they do can be undone.
    pub(super) fn check_modules(
        &self,
        release: &Documents,
        way_back: WayBack,
    ) -> Result<(), Failure> {
        self.modules().check(release)?;
        if way_back == WayBack::None {
            return Ok(());
        }
        let unsaved = release.packages.iter().find(|package| {
            let payload = package.manifest.mender.as_ref();
            let itself = payload.is_none_or(|payload| payload.rolls_back);
            !itself && package.manifest.backup.paths.is_empty()
        });
        match unsaved {
            Some(package) => {
                let text = format!(
                    "the package {} names nothing that its update module changes, so there would be no \
                     way back (`backup.paths`, or `mender.rolls_back`)",
                    package.name
                );
                Err(Failure::new(Cause::Unsupported, text))
            }
            None => Ok(()),
        }
    }

    /// The paths that modules of a release change, by its packages' word.
    fn changed_by_modules(&self, release: &Documents) -> Result<Vec<PathBuf>, Failure> {
        let own = [self.data.as_path(), self.root.as_path()];
        let packages = release.packages.iter();
        let packages = packages.filter(|package| package.manifest.installer == Installer::Mender);
        let mut paths = Vec::new();
        for path in packages.flat_map(|package| &package.manifest.backup.paths) {
            let path =
                expand(path, &self.variables).map_err(crate::host::backup::BackupError::from)?;
            paths.push(resolve(&*self.files, Path::new(&path), &own)?);
        }
        Ok(paths)
    }

    /// What modules of earlier releases have made and this one does not name any more: it goes.
    fn left_by_modules(
        &self,
        product: &Product,
        after: &Documents,
    ) -> Result<Vec<PathBuf>, Failure> {
        let named = self.changed_by_modules(after)?;
        let made = made::made(&*self.files, &self.tree().product(product))?;
        Ok(made.into_iter().filter(|path| !named.contains(path)).collect())
    }

    /// What has to be saved because it goes.
    pub(super) fn covers_of_modules(
        &self,
        product: &Product,
        after: &Documents,
    ) -> Result<Vec<Cover>, Failure> {
        let left = self.left_by_modules(product, after)?;
        Ok(left.into_iter().map(|path| Cover { path, role: Role::Declared }).collect())
    }

    pub(super) fn install_modules(
        &self,
        attempt: &Attempt,
        after: &Documents,
    ) -> Result<(), Failure> {
        let product = self.tree().product(&attempt.product);
        made::note(&*self.files, &product, &self.changed_by_modules(after)?)?;
        for path in self.left_by_modules(&attempt.product, after)? {
            files::remove_tree(&*self.files, &path)?;
        }
        if Modules::brings(after) {
            let folder = self.folder_of(attempt, after);
            self.modules().install(&attempt.install, after, &folder)?;
        }
        Ok(())
    }

    /// The boot that modules ask for.
    pub(super) fn reboot_of_modules(
        &self,
        attempt: &Attempt,
        after: &Documents,
    ) -> Result<Option<RebootNeed>, Failure> {
        let folder = self.folder_of(attempt, after);
        let needs = self.modules().need_reboot(&attempt.install, after, &folder)?;
        if needs.is_empty() {
            return Ok(None);
        }
        let kinds: Vec<_> = needs.iter().map(|(kind, _)| kind.as_str()).collect();
        let text = format!("the update module {} asks for it", kinds.join(", "));
        let by_host = needs.iter().any(|(_, need)| *need == NeedsReboot::Automatic);
        if by_host && self.boots.is_none() {
            let text = format!("{text}, and this agent can't boot the host");
            return Err(Failure::new(Cause::Unsupported, text));
        }
        let reason = RebootReason::Required { text };
        Ok(Some(RebootNeed { reason, longest_hold: self.reboot_hold }))
    }

    /// Lets modules boot what they asked for; whether the host itself has to boot as well.
    pub(super) fn let_modules_reboot(&self, change: &Change) -> Result<bool, Failure> {
        let attempt = &change.attempt;
        let after = self.after(attempt)?;
        let folder = self.folder_of(attempt, &after);
        let needs = self.modules().need_reboot(&attempt.install, &after, &folder)?;
        self.modules().reboot(&attempt.install, &after, &folder)?;
        let by_host = needs.iter().any(|(_, need)| *need == NeedsReboot::Automatic);
        Ok(by_host || needs.is_empty() || self.reboot_need(change).is_some())
    }

    pub(super) fn verify_reboot_of_modules(
        &self,
        attempt: &Attempt,
        after: &Documents,
    ) -> Result<(), Failure> {
        let folder = self.folder_of(attempt, after);
        Ok(self.modules().verify_reboot(&attempt.install, after, &folder)?)
    }

    pub(super) fn commit(&self, change: &Change) -> Result<Event, Failure> {
        let attempt = &change.attempt;
        let after = self.after(attempt)?;
        let folder = self.folder_of(attempt, &after);
        self.modules().commit(&attempt.install, &after, &folder)?;
        Ok(Event::Agreed)
    }

    /// The steps of the way back, before what was saved is brought back and after.
    pub(super) fn undo_modules(
        &self,
        attempt: &Attempt,
        after: &Documents,
    ) -> (Vec<UndoStep>, Vec<UndoStep>) {
        self.modules().undo_steps(&attempt.install, after, &self.folder_of(attempt, after))
    }

    /// How much longer the update may take because of its modules.
    pub(super) fn patience_with_modules(&self, attempt: &Attempt) -> Duration {
        self.after(attempt).map(|after| Modules::longest(&after)).unwrap_or_default()
    }

    /// What modules could not take back, in words for the report.
    ///
    /// # Errors
    /// If nothing else has brought it back.
    pub(super) fn not_taken_back(&self, attempt: &Attempt) -> Result<String, Failure> {
        let after = self.after(attempt)?;
        let folder = self.folder_of(attempt, &after);
        let mut words = String::new();
        for found in self.modules().inconsistent(&attempt.install, &after, &folder)? {
            let text =
                format!("the update module {} failed to go back: {}", found.kind, found.said);
            if !found.saved {
                return Err(Failure::new(Cause::RollbackFailed, text));
            }
            words.push_str(&format!(
                "{text}\nwhat its package names was brought back from the backup\n"
            ));
        }
        Ok(words)
    }

    pub(super) fn settle_modules(&self, attempt: &Attempt, ended: Phase) -> Result<(), Failure> {
        let (calls, failed) = match ended {
            Phase::Committed => (true, false),
            Phase::Stuck => (true, true),
            Phase::Refused
            | Phase::Dropped
            | Phase::RolledBack
            | Phase::Offered
            | Phase::Preflight
            | Phase::Fetching
            | Phase::Waiting
            | Phase::BackingUp
            | Phase::Quiescing
            | Phase::Sealing
            | Phase::Switching
            | Phase::Rebooting
            | Phase::Probation
            | Phase::RollingBack => (false, false),
        };
        let after = if calls { self.after(attempt).ok() } else { None };
        let folder = after.as_ref().map(|after| self.folder_of(attempt, after));
        let release = after.as_ref().zip(folder.as_deref());
        self.modules().settle(&attempt.install, release, failed)?;
        Ok(made::tidy(&*self.files, &self.tree().product(&attempt.product))?)
    }
}

impl From<ModuleError> for Failure {
    fn from(error: ModuleError) -> Failure {
        let cause = match error {
            ModuleError::Unusable { .. } => Cause::Unsupported,
            ModuleError::Failed { .. } => Cause::HookFailed,
            ModuleError::CutOff { .. } => Cause::HostFault,
            ModuleError::File(error) => return error.into(),
        };
        super::failures::failure(cause, &error)
    }
}
