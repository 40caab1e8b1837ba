//! The change itself and the way back from it. The way back is armed before the services stop, and holds
//! everything before the target changes.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use refit_proto::package::{self, HookTime, Reboot, expand};

use super::{
    HostMachine,
    failures::failure,
    outside::{data_by, saved_here},
};
use crate::{
    host::{
        backup::{self, About, BackupError},
        database::When,
        documents::Documents,
        files,
        preflight::Purpose,
        service::{UnitFile, UnitsOf},
        tree::{Extras, Installer as _},
    },
    steps::Waited,
    update::{Attempt, Cause, Change, Event, Failure, SealedBackup, Undo},
    way_back::{self, UndoStep, Undoing, WayBack},
};

/// How much longer than its probation an update may take before the rescuer goes back.
pub(super) const MORE_PATIENCE: Duration = Duration::from_secs(3600);
/// After how many starts of the host in the middle of an update the rescuer goes back.
pub(super) const STARTS: u32 = 3;

impl HostMachine {
    /// Arms the way back, then stops what runs.
    pub(super) fn quiesce(&mut self, change: &Change) -> Result<Event, Failure> {
        let before = self.before(&change.attempt)?;
        // Nothing is changed yet: going back is starting again.
        self.arm(change, self.starts(before.as_ref()), STARTS)?;
        if let Some(before) = &before {
            self.stop(before)?;
        }
        Ok(Event::Quiesced)
    }

    /// Saves what had to be at rest, seals, and arms the whole way back.
    pub(super) fn seal(&mut self, change: &Change) -> Result<Event, Failure> {
        let after = self.after(&change.attempt)?;
        let data = data_by(&change.terms);
        self.save_databases(&change.attempt, &after, When::AtRest, data)?;
        let covers = saved_here(self.covers(&change.attempt, &after)?, data);
        let sealed = self.saves(change.terms.saves_by).seal(&self.about(change), &covers)?;
        self.copy_sealed(&sealed)?;
        self.arm_for_the_switch(change, &sealed, STARTS)?;
        Ok(Event::Sealed { sealed })
    }

    fn about(&self, change: &Change) -> About {
        let attempt = &change.attempt;
        About {
            id: change.backup.clone(),
            product: attempt.product.clone(),
            from: attempt.previous.clone(),
            to: Some(attempt.release.clone()),
            made: self.clock.now().as_second(),
        }
    }

    /// Payload, then pointer, then services.
    pub(super) fn switch(
        &mut self,
        change: &Change,
        sealed: &SealedBackup,
    ) -> Result<Event, Failure> {
        let attempt = &change.attempt;
        let (before, after) = (self.before(attempt)?, self.after(attempt)?);
        // Repeated after a cut: what runs by then is stopped again, and the way back is armed.
        if let Some(before) = &before {
            self.stop(before)?;
        }
        self.stop(&after)?;
        self.arm_for_the_switch(change, sealed, STARTS)?;
        self.tree().verify(&after, Extras::Refused)?;
        self.run_hooks(attempt, &after, HookTime::BeforeSwitch)?;
        self.place_files(attempt, before.as_ref(), &after)?;
        self.install_debs(attempt, before.as_ref(), &after)?;
        self.install_modules(attempt, &after)?;
        self.load_images(attempt, &after)?;
        self.remove_named(&after)?;
        self.tree().switch(&attempt.product, &after.id.digest)?;
        self.put_units(attempt, before.as_ref(), &after)?;
        self.run_hooks(attempt, &after, HookTime::AfterSwitch)?;
        self.probation = None;
        let reboot = match self.reboot_need(change) {
            Some(need) => Some(need),
            None => self.reboot_of_modules(attempt, &after)?,
        };
        // What runs after a boot only is started by it.
        if change.terms.reboot != Reboot::Always {
            for unit in self.units_of(&after) {
                let started = self.manager.services().start(&unit);
                started.map_err(|error| failure(Cause::ServicesDidNotStart, &error))?;
            }
        }
        Ok(Event::Switched { at: self.clock.moment(), reboot })
    }

    pub(super) fn go_back(
        &mut self,
        change: &Change,
        undo: &Undo,
        wait: &dyn Fn(Duration) -> Waited,
    ) -> Result<Event, Failure> {
        let failed = |error: &dyn std::fmt::Display| failure(Cause::RollbackFailed, error);
        let mut kept = Vec::new();
        // Before anything is put back: what failed may take its log with it.
        let mut log = self.keep_log(&change.attempt);
        match undo {
            Undo::StartAgain { .. } => {
                let before = self.before(&change.attempt).map_err(|error| failed(&error.text))?;
                for step in self.starts(before.as_ref()) {
                    self.take(change, vec![step]).map_err(|error| failed(&error))?;
                }
            }
            Undo::Restore { sealed } => {
                let index = self.backups().verify(sealed)?;
                let steps = self.undo(change, sealed)?;
                self.take(change, steps).map_err(|error| failed(&error))?;
                kept = self
                    .backups()
                    .finish(&index, &change.attempt.install)
                    .map_err(|error| failed(&error))?;
                log.insert_str(0, &self.not_taken_back(&change.attempt)?);
                for kept in &kept {
                    tracing::warn!("what the failed release wrote is kept: {kept}");
                }
            }
        }
        let health = self.health_after_going_back(&change.attempt, wait)?;
        Ok(Event::WentBack { health, kept, log })
    }

    pub(super) fn take(
        &mut self,
        change: &Change,
        steps: Vec<UndoStep>,
    ) -> Result<(), way_back::RunError> {
        let way_back = self.way_back(change, steps, STARTS);
        let files = self.files.clone();
        way_back::run(&way_back, &*files, &mut UnitsOf(self.manager.services()))
    }

    fn way_back(&self, change: &Change, steps: Vec<UndoStep>, starts: u32) -> WayBack {
        let patience = change.terms.probation_max.saturating_add(MORE_PATIENCE);
        let patience = patience.saturating_add(self.patience_with_modules(&change.attempt));
        let patience = self.patience_to_take_over(&change.attempt).unwrap_or(patience);
        // Before it is sealed there is none, and no step that gives an owner.
        let owners = self.backups().index(&change.backup).map(|index| index.owners_back());
        WayBack {
            install: change.attempt.install.clone(),
            boot: self.clock.boot().clone(),
            deadline: self.clock.running().plus(patience),
            patience,
            alone: self.rescue_after,
            starts,
            attempt: Some(change.attempt.clone()),
            lease: Some(change.lease.clone()),
            restores: None,
            owners: owners.unwrap_or_default(),
            steps,
        }
    }

    fn arm(&self, change: &Change, steps: Vec<UndoStep>, starts: u32) -> Result<(), Failure> {
        self.arm_with_rescue(&self.way_back(change, steps, starts))
    }

    pub(super) fn arm_with_rescue(&self, way_back: &WayBack) -> Result<(), Failure> {
        self.place().arm(way_back)?;
        match &self.rescue {
            Some(rescue) => {
                rescue.arm(&self.data).map_err(|error| failure(Cause::HostFault, &error))
            }
            None => Ok(()),
        }
    }

    /// Before the target changes: the whole way back. A release that has none must not be undone by a
    /// file either, should the journal be lost, so there nothing is armed from here on.
    pub(super) fn arm_for_the_switch(
        &self,
        change: &Change,
        sealed: &SealedBackup,
        starts: u32,
    ) -> Result<(), Failure> {
        let steps = self.undo(change, sealed)?;
        match change.terms.way_back {
            package::WayBack::Automatic => self.arm(change, steps, starts),
            package::WayBack::None => Ok(self.place().disarm().map(drop)?),
        }
    }

    /// Stops everything, brings back what was saved, starts what ran.
    pub(super) fn undo(
        &self,
        change: &Change,
        sealed: &SealedBackup,
    ) -> Result<Vec<UndoStep>, Failure> {
        let attempt = &change.attempt;
        let index = self.backups().verify(sealed)?;
        let before = self.before(attempt)?;
        let after = self.after(attempt)?;
        let (modules_first, modules_last) = self.undo_modules(attempt, &after);
        let mut units = self.units_of(&after);
        if let Some(before) = &before {
            units.extend(self.units_of(before));
        }
        let stops = units.iter().map(|unit| Undoing::StopUnit { unit: unit.to_string() }.into());
        let mut steps: Vec<UndoStep> = self.ends_of_hooks(attempt, &after);
        steps.extend(stops);
        // A disk that the new release has filled must not stand in the way, nor may the release that still
        // runs take what is freed.
        let rooms = self.rooms(attempt);
        let rooms: Vec<_> = rooms.iter().map(PathBuf::as_path).collect();
        let freed = self.preflight_of(attempt).reserved(&rooms);
        steps.extend(freed.into_iter().map(|path| UndoStep::from(Undoing::Remove { path })));
        steps.extend(modules_first);
        if let Some(before) = &before {
            let product = self.tree().product(&attempt.product);
            steps.extend(self.placed().folder_steps(&product, before)?);
        }
        steps.extend(self.backups().undo_steps(&index, &attempt.install)?);
        steps.extend(self.debs().undo_steps(&self.backups().folder(&sealed.id))?);
        steps.extend(self.undo_images(&attempt.product, before.as_ref(), &after));
        steps.extend(modules_last);
        steps.push(Undoing::ReloadUnits.into());
        steps.extend(self.own_stops(attempt));
        steps.extend(self.starts(before.as_ref()));
        Ok(steps)
    }

    pub(super) fn starts(&self, before: Option<&Documents>) -> Vec<UndoStep> {
        let units = before.map(|before| self.units_of(before));
        let starts = units.into_iter().flatten();
        starts.map(|unit| Undoing::StartUnit { unit: unit.to_string() }.into()).collect()
    }

    fn stop(&mut self, release: &Documents) -> Result<(), Failure> {
        for unit in self.units_of(release) {
            let stopped = self.manager.services().stop(&unit);
            stopped.map_err(|error| failure(Cause::ServicesDidNotStop, &error))?;
        }
        Ok(())
    }

    fn install_debs(
        &self,
        attempt: &Attempt,
        before: Option<&Documents>,
        after: &Documents,
    ) -> Result<(), Failure> {
        let folder = |release: &Documents| self.tree().folder(&attempt.product, &release.id.digest);
        let (old, new) = (before.map(folder), folder(after));
        let old = before.zip(old.as_deref());
        Ok(self.debs().switch(&attempt.install, old, (after, &new))?)
    }

    fn place_files(
        &self,
        attempt: &Attempt,
        before: Option<&Documents>,
        after: &Documents,
    ) -> Result<(), Failure> {
        let room = self.preflight_of(attempt);
        for at in self.rooms(attempt) {
            room.give_back(Purpose::Place, &at)?;
        }
        let product = self.tree().product(&attempt.product);
        let folder = self.tree().folder(&attempt.product, &after.id.digest);
        Ok(self.placed().place(&product, &folder, before, after)?)
    }

    /// Takes away what goes with a product that is removed. All of it is in the backup.
    fn remove_named(&self, after: &Documents) -> Result<(), Failure> {
        let own = [self.data.as_path(), self.root.as_path()];
        for path in &after.release.removal.paths {
            let path = expand(path, &self.variables).map_err(BackupError::from)?;
            let path = backup::resolve(&*self.files, Path::new(&path), &own)?;
            files::remove_tree(&*self.files, &path)?;
        }
        Ok(())
    }

    /// Makes the service manager know the new release's services and no other of the product's.
    fn put_units(
        &mut self,
        attempt: &Attempt,
        before: Option<&Documents>,
        after: &Documents,
    ) -> Result<(), Failure> {
        let mut new = Vec::new();
        for service in self.services_of(&attempt.product, after)? {
            new.extend(self.manager.services().unit_files(&service)?);
        }
        new.extend(self.own_units(attempt));
        if let Some(before) = before {
            for service in self.services_of(&attempt.product, before)? {
                for unit in self.manager.services().unit_files(&service)? {
                    if !new.iter().any(|new| new.path() == unit.path()) {
                        files::remove_tree(&*self.files, unit.path())?;
                    }
                }
            }
        }
        for unit in &new {
            let folder = unit.path().parent().unwrap_or(unit.path());
            files::create_dirs(&*self.files, folder, 0o755)?;
            match unit {
                UnitFile::File { path, bytes } => {
                    files::write_file(&*self.files, path, bytes, 0o644)?;
                }
                UnitFile::Link { path, target } => {
                    files::replace_link(&*self.files, target, path)?;
                }
            }
        }
        let reloaded = self.manager.services().reload();
        reloaded.map_err(|error| failure(Cause::SwitchFailed, &error))
    }
}
