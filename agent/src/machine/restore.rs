//! A backup that a person brings back after the update that made it was committed. It is a way back like
//! any other: armed before the first change, run to its end by whoever comes first, and only then reported.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use refit_proto::{
    gathered::Gathered as _,
    names::{Product, RingName},
    sorted,
};

use super::{
    HostMachine,
    change::{MORE_PATIENCE, STARTS},
    failures::failure,
};
use crate::{
    host::{
        backup::{Index, Role, What},
        documents::Documents,
        preflight::{Need, Purpose, on_disk},
        service::UnitsOf,
        tree::Extras,
    },
    steps::Waited,
    update::{Attempt, BackupId, Cause, Failure, InstallId, OrderedBy, Outcome, ReleaseId, Update},
    way_back::{self, UndoStep, Undoing, WayBack},
};

/// Where nobody remembers through which ring a release came.
fn no_ring() -> RingName {
    #[expect(clippy::unwrap_used, reason = "four letters are a name")]
    RingName::parse("none").unwrap()
}

/// Whether bringing a backup back brings this back, and sets aside what is there.
fn comes_back(role: Role) -> bool {
    match role {
        Role::Declared | Role::Converted => true,
        Role::Link | Role::Unit | Role::Placed | Role::Data => false,
    }
}

/// Whether it goes back too where only a later release had it.
fn came_between(role: Role) -> bool {
    match role {
        Role::Unit | Role::Placed | Role::Converted => true,
        Role::Link | Role::Declared | Role::Data => false,
    }
}

impl HostMachine {
    pub(super) fn arm_restore_of(
        &mut self,
        id: &BackupId,
        install: &InstallId,
        last: &dyn Fn(&Product) -> Option<Attempt>,
    ) -> Result<Attempt, Failure> {
        let index = self.backups().verify(&self.backups().own_seal(id)?)?;
        let index = index.owned_as_now(&*self.files)?;
        let product = index.product.clone();
        let (now, then) = (self.tree().installed(&product)?, self.leads_to(&index)?);
        let Some(now) = now else {
            let text = format!("{product} is not installed; there is nothing to go back from");
            return Err(Failure::new(Cause::Unsupported, text));
        };
        let before = last(&product).filter(|last| last.release == now.id);
        let attempt = Attempt {
            install: install.clone(),
            product: product.clone(),
            release: now.id.clone(),
            ring: before.as_ref().map_or_else(no_ring, |last| last.ring.clone()),
            rollout: before.as_ref().map(|last| last.rollout.clone()).unwrap_or_default(),
            number: before.as_ref().map_or(0, |last| last.number),
            rollback: true,
            previous: then.as_ref().map(|then| then.id.clone()),
            ordered_by: OrderedBy::LocalRoot,
        };
        self.preflight_of(&attempt).check(&self.restore_needs(&index)?)?;
        if let Some(then) = &then {
            self.placed().note_missing(&self.tree().product(&product), then)?;
        }
        let way_back = WayBack {
            install: install.clone(),
            boot: self.clock.boot().clone(),
            deadline: self.clock.running().plus(MORE_PATIENCE),
            patience: MORE_PATIENCE,
            alone: self.rescue_after,
            starts: STARTS,
            attempt: Some(attempt.clone()),
            lease: None,
            restores: Some(id.clone()),
            // They are looked up already.
            owners: Default::default(),
            steps: self.restore_steps(&attempt, &index, &now, then.as_ref())?,
        };
        self.arm_with_rescue(&way_back)?;
        Ok(attempt)
    }

    /// What ran when the backup was made: it has to be here still, as it was signed.
    fn leads_to(&self, index: &Index) -> Result<Option<Documents>, Failure> {
        let Some(target) = index.link_target() else { return Ok(None) };
        let Some(digest) = super::settle::release_in(target) else {
            let text = format!("backup {} leads to {}", index.id, target.display());
            return Err(Failure::new(Cause::BackupDamaged, text));
        };
        let then = self.tree().documents(&index.product, &digest)?;
        self.tree().verify(&then, Extras::Ignored)?;
        Ok(Some(then))
    }

    /// What is brought back is made beside its place before what stands there is set aside.
    fn restore_needs(&self, index: &Index) -> Result<Vec<Need>, Failure> {
        let mut needs = Vec::new();
        for covered in index.covered.iter().filter(|covered| comes_back(covered.role)) {
            let bytes = covered.entries.iter().map(|entry| match &entry.what {
                What::File { content } => on_disk(content.length),
                What::HardLink { .. } | What::Directory | What::Link { .. } => 4096,
            });
            let at = covered.path.parent().unwrap_or(&covered.path).to_owned();
            let inodes = covered.entries.len() as u64;
            needs.push(Need { purpose: Purpose::Backup, at, bytes: bytes.sum(), inodes });
        }
        for dump in index.dumps.iter().filter(|dump| dump.converted) {
            // A copy to load from, and what is set aside.
            let bytes = dump.content.map_or(0, |content| on_disk(content.length).saturating_mul(2));
            let at = self.data.clone();
            needs.push(Need { purpose: Purpose::Backup, at, bytes, inodes: 8 });
        }
        Ok(needs)
    }

    fn restore_steps(
        &mut self,
        attempt: &Attempt,
        index: &Index,
        now: &Documents,
        then: Option<&Documents>,
    ) -> Result<Vec<UndoStep>, Failure> {
        let units = [Some(now), then].into_iter().flatten();
        let units = units.flat_map(|release| self.units_of(release));
        let mut steps: Vec<UndoStep> =
            units.map(|unit| Undoing::StopUnit { unit: unit.to_string() }.into()).collect();
        if let Some(then) = then {
            let product = self.tree().product(&attempt.product);
            steps.extend(self.placed().folder_steps(&product, then)?);
        }
        let (between, known) = self.undo_what_came_between(attempt, index)?;
        steps.extend(between);
        let own = self.paths_of(&attempt.product, now)?;
        // An update took these away before the backup was made, and another restore has brought them back.
        let gone = own.into_iter().filter(|path| !known.iter().any(|it| path.starts_with(it)));
        steps.extend(gone.map(|path| UndoStep::from(Undoing::Remove { path })));
        steps.extend(self.backups().undo_steps(index, &attempt.install)?);
        let folder = self.tree().folder(&attempt.product, &now.id.digest);
        steps.extend(self.debs().undo_from(&self.backups().folder(&index.id), now, &folder)?);
        steps.extend(self.undo_images(&attempt.product, then, now));
        steps.push(Undoing::ReloadUnits.into());
        steps.extend(self.starts(then));
        Ok(steps)
    }

    /// Where a release has its units and the files that it placed.
    fn paths_of(
        &mut self,
        product: &Product,
        release: &Documents,
    ) -> Result<BTreeSet<PathBuf>, Failure> {
        let mut paths = self.unit_paths(product, release)?;
        let placed = self.placed().covers(None, release)?.into_iter();
        paths.extend(placed.filter(|it| it.role == Role::Placed).map(|it| it.path));
        Ok(paths)
    }

    /// Programs and units that only releases after this backup had, and data that they converted: the oldest
    /// backup that covers one tells what stood there before. What they declared as configuration stays as it is.
    /// Also every path that this backup or a later one tells of.
    fn undo_what_came_between(
        &self,
        attempt: &Attempt,
        index: &Index,
    ) -> Result<(Vec<UndoStep>, BTreeSet<PathBuf>), Failure> {
        let mut newer = Vec::new();
        for id in self.backups().list()? {
            // Without a seal, nothing was changed after it.
            if !self.backups().is_sealed(&id)? {
                continue;
            }
            let other = self.backups().index(&id)?.owned_as_now(&*self.files)?;
            if other.product == index.product && other.order() > index.order() {
                newer.push(other);
            }
        }
        sorted::sort_by(&mut newer, |a, b| a.order().cmp(&b.order()));
        let mut known: BTreeSet<&Path> =
            index.covered.iter().map(|it| it.path.as_path()).gathered();
        let converted = index.dumps.iter().filter(|dump| dump.converted);
        let mut databases: BTreeSet<_> = converted.map(|dump| dump.database.name()).gathered();
        let mut steps = Vec::new();
        for other in &newer {
            let between = other.covered.iter().filter(|it| came_between(it.role));
            steps.extend(self.backups().leading(between)?);
            let others = other.covered.iter();
            for covered in others.filter(|it| came_between(it.role)).rev() {
                if known.insert(&covered.path) {
                    let undo = self.backups().undo(&other.id, &attempt.install, covered)?;
                    steps.extend(undo);
                }
            }
            for dump in other.dumps.iter().filter(|dump| dump.converted) {
                if databases.insert(dump.database.name()) {
                    steps.extend(self.backups().undo_dump(&other.id, &attempt.install, dump));
                }
            }
        }
        Ok((steps, known.into_iter().map(Path::to_owned).collect()))
    }

    pub(super) fn restore_armed(
        &mut self,
        wait: &dyn Fn(Duration) -> Waited,
    ) -> Result<Option<Update>, Failure> {
        let Some(way_back) = self.place().load()? else { return Ok(None) };
        let (Some(id), Some(attempt)) = (way_back.restores.clone(), way_back.attempt.clone())
        else {
            // An update's own, which knows itself how it goes on.
            return Ok(None);
        };
        let files = self.files.clone();
        let failed = |error: &dyn std::fmt::Display| failure(Cause::RollbackFailed, error);
        way_back::run(&way_back, &*files, &mut UnitsOf(self.manager.services()))
            .map_err(|error| failed(&error))?;
        self.give_way_to_restored(wait)?;
        let kept = self.backups().finish_after(&way_back);
        self.probation = None;
        let health = self.health_after_going_back(&attempt, wait)?;
        let outcome =
            Outcome::RolledBack { failure: Failure::restored(&id).and_kept(&kept), health };
        Ok(Some(Update::Finished { attempt, lease: None, outcome, settled: true }))
    }

    pub(super) fn settle_restore(&mut self, attempt: &Attempt) -> Result<(), Failure> {
        self.disarm()?;
        self.tidy_after_going_back(attempt);
        self.clean(&attempt.product, &self.that_lead_from(attempt.previous.as_ref())?)
    }

    /// The backups that lead further back from this release.
    fn that_lead_from(&self, release: Option<&ReleaseId>) -> Result<BTreeSet<BackupId>, Failure> {
        let mut found = BTreeSet::new();
        for id in self.backups().list()? {
            if self.backups().index(&id).is_ok_and(|index| index.to.as_ref() == release) {
                found.insert(id);
            }
        }
        Ok(found)
    }
}
