//! This machine, as updates change it: each step in terms of content, tree, backup, services, hooks and
//! the way back. Decides in which order those are used within a step, so that a cut anywhere leaves a
//! step that can be repeated; what step comes next is decided in [`crate::update`]. Knows neither the
//! server nor trust: what it is given was permitted before.

mod baseline;
mod begin;
mod change;
mod data;
mod failures;
mod health;
mod hooks;
mod installed;
mod last_words;
mod modules;
mod outside;
mod own;
mod podman;
mod qualify;
mod reboot;
mod repair;
mod reserve;
mod restore;
mod second;
mod settle;

pub use installed::inventory;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use refit_proto::{
    names::{Digest, Platform, Product},
    package::Variables,
    wire::BackupState,
};

use crate::{
    clock::Clock,
    drive::HostError,
    host::{
        self,
        backup::{Backups, Saving},
        boot::{Boots, SystemdBoots},
        content::{ContentStore, Fetch},
        deb::Debs,
        documents::Documents,
        drift::{self, Drift, Stopped},
        files::{Files, create_dirs},
        hook::{self, HookRuns, Hooks, KeptRuns},
        modules::{Calls, HostCalls, ModuleSettings},
        network_up::{KernelNetwork, Ways},
        own::{Own, SystemdOwn},
        placed::Placed,
        preflight::Preflight,
        rescue::Rescue,
        service::{OwnSupervisor, Service, ServiceError, Services, Systemd, UnitName},
        tree::Tree,
    },
    link::ToVerify,
    report::{Inventory, held_backups},
    settings::{BackupSettings, RedBefore, Settings},
    steps::{Machine, Waited},
    update::{Attempt, BackupId, BackupMethod, Event, Failure, InstallId, Step, Update},
    way_back::Place,
};

/// What runs services on this host: systemd, or the agent itself.
pub enum Manager {
    /// systemd.
    Systemd(Systemd),
    /// The agent.
    Own(OwnSupervisor),
    /// Services that a test decides.
    #[cfg(test)]
    Fake(Box<dyn Services>),
}

/// What runs services here, by the settings. The agent's own supervisor starts nothing yet.
///
/// # Errors
/// If it can't be used.
pub fn services(settings: &Settings) -> Result<Manager, ServiceError> {
    if settings.services.systemd() {
        if let Some(systemd) = Systemd::find(std::path::Path::new(Systemd::UNITS)) {
            return Ok(Manager::Systemd(systemd));
        }
        tracing::warn!("there is no systemd here; the agent runs the services itself");
    }
    Ok(Manager::Own(OwnSupervisor::open(&settings.data.join("services"))?))
}

impl Manager {
    /// The manager as updates use it.
    pub fn services(&mut self) -> &mut dyn Services {
        match self {
            Manager::Systemd(systemd) => systemd,
            Manager::Own(own) => own,
            #[cfg(test)]
            Manager::Fake(fake) => &mut **fake,
        }
    }

    /// From now on what should run is started again when it ends: called after recovery.
    fn supervise(&self) {
        match self {
            // systemd does by itself.
            Manager::Systemd(_) => {}
            Manager::Own(own) => own.supervise(),
            #[cfg(test)]
            Manager::Fake(_) => {}
        }
    }

    /// What brings the host back if this agent does not: only systemd can hold it.
    fn rescue(&self) -> Option<Rescue> {
        match self {
            Manager::Systemd(_) => Some(Rescue::beside_this_program()),
            Manager::Own(_) => None,
            #[cfg(test)]
            Manager::Fake(_) => None,
        }
    }

    /// What boots the host: only systemd can be asked.
    fn boots(&self) -> Option<Box<dyn Boots>> {
        match self {
            Manager::Systemd(_) => Some(Box::new(SystemdBoots)),
            Manager::Own(_) => None,
            #[cfg(test)]
            Manager::Fake(_) => None,
        }
    }

    fn calls(&self) -> HostCalls {
        HostCalls::find(matches!(self, Manager::Systemd(_)))
    }

    /// What runs the agent itself: where systemd runs services, that is taken to be systemd too.
    fn own(&self) -> Option<Box<dyn Own>> {
        match self {
            Manager::Systemd(_) => Some(Box::new(SystemdOwn)),
            Manager::Own(_) => None,
            #[cfg(test)]
            Manager::Fake(_) => None,
        }
    }

    fn hooks(&self) -> Hooks {
        Hooks::find(matches!(self, Manager::Systemd(_)))
    }
}

/// This machine.
pub struct HostMachine {
    files: Arc<dyn Files>,
    data: PathBuf,
    root: PathBuf,
    platform: Platform,
    variables: Variables,
    manager: Manager,
    hooks: Hooks,
    hook_runs: KeptRuns,
    calls: Box<dyn Calls>,
    module_settings: ModuleSettings,
    /// Where podman stands.
    podman: PathBuf,
    rescue: Option<Rescue>,
    rescue_after: Duration,
    boots: Option<Box<dyn Boots>>,
    own: Option<Box<dyn Own>>,
    reboot_hold: Duration,
    backup: BackupSettings,
    second: Option<second::SecondPlace>,
    clock: Clock,
    /// How the checks of the release on probation have gone. Lost with the agent; then they begin anew.
    probation: Option<(InstallId, health::Checks)>,
    red_before: RedBefore,
    ways: Ways,
}

/// A folder of the agent's, made if it is not there, without a link on the way to it.
fn resolved(files: &dyn Files, folder: &Path) -> PathBuf {
    let made = create_dirs(files, folder, 0o755).and_then(|()| files.resolve(folder));
    // What can't be made now fails, with its name, where it is used.
    made.unwrap_or_else(|_| folder.to_owned())
}

/// The folder of installed releases, as the installer wants it.
pub fn install_root(files: &dyn Files, settings: &Settings) -> PathBuf {
    resolved(files, &settings.install_root)
}

impl HostMachine {
    /// This machine by its settings, after recovery.
    pub fn new(
        files: Arc<dyn Files>,
        settings: &Settings,
        clock: Clock,
        manager: Manager,
    ) -> HostMachine {
        manager.supervise();
        let data = resolved(&*files, &settings.data);
        HostMachine {
            hook_runs: KeptRuns::load(&*files, hook::folder(&data)),
            data,
            root: install_root(&*files, settings),
            files,
            platform: settings.platform.clone(),
            variables: settings.variables.clone(),
            hooks: manager.hooks(),
            calls: Box::new(manager.calls()),
            module_settings: settings.mender.clone(),
            podman: host::podman::podman(),
            rescue: manager.rescue(),
            rescue_after: settings.rescue_after,
            boots: manager.boots(),
            own: manager.own(),
            reboot_hold: settings.reboot_hold,
            backup: settings.backup.clone(),
            second: second::SecondPlace::of(settings),
            manager,
            clock,
            probation: None,
            red_before: settings.red_before,
            ways: Ways::of(KernelNetwork::default()),
        }
    }

    fn tree(&self) -> Tree<'_> {
        Tree::new(&*self.files, self.root.clone(), self.platform.clone())
    }

    fn content(&self) -> ContentStore<'_> {
        ContentStore::new(&*self.files, self.data.join("content"))
    }

    fn backups(&self) -> Backups<'_> {
        Backups::new(&*self.files, self.data.clone())
    }

    /// Backups as they are made before an update.
    fn saves(&self, by: BackupMethod) -> Backups<'_> {
        let (methods, restore_test) = (self.backup.methods.clone(), self.backup.restore_test);
        self.backups().saving(Saving { by, methods, restore_test })
    }

    fn debs(&self) -> Debs<'_> {
        Debs::new(&*self.files, matches!(self.manager, Manager::Systemd(_)))
    }

    fn placed(&self) -> Placed<'_> {
        Placed::new(&*self.files, [&self.data, &self.root])
    }

    fn preflight_of(&self, attempt: &Attempt) -> Preflight<'_> {
        Preflight::new(&*self.files, attempt.install.clone())
    }

    fn place(&self) -> Place {
        Place::in_folder(self.files.clone(), &self.data)
    }

    /// The documents of what ran before the attempt; `None` if nothing did.
    fn before(&self, attempt: &Attempt) -> Result<Option<Documents>, Failure> {
        match &attempt.previous {
            Some(release) => Ok(Some(self.tree().documents(&attempt.product, &release.digest)?)),
            None => Ok(None),
        }
    }

    /// The documents of what the attempt brings, once it stands here.
    fn after(&self, attempt: &Attempt) -> Result<Documents, Failure> {
        Ok(self.tree().documents(&attempt.product, &attempt.release.digest)?)
    }

    /// The folder of a package.
    fn folder(&self, product: &Product, release: &Digest, package: &str) -> PathBuf {
        self.tree().folder(product, release).join(package)
    }

    /// The services of a release.
    fn services_of(&self, product: &Product, release: &Documents) -> Result<Vec<Service>, Failure> {
        let mut services = Vec::new();
        for package in &release.packages {
            if package.manifest.installer.brings_units() {
                // Its units are its own.
                continue;
            }
            let folder = self.folder(product, &release.id.digest, package.name.as_str());
            let container = podman::container(product, package, &folder);
            for service in &package.manifest.services {
                services.push(match &container {
                    None => Service::resolve(service, &folder, &self.variables)?,
                    Some(container) => {
                        let container = container.clone();
                        Service::contained(service, &folder, &self.variables, container)?
                    }
                });
            }
        }
        Ok(services)
    }

    /// Where the units of a release's services stand.
    fn unit_paths(
        &mut self,
        product: &Product,
        release: &Documents,
    ) -> Result<BTreeSet<PathBuf>, Failure> {
        let mut paths = BTreeSet::new();
        for service in self.services_of(product, release)? {
            let units = self.manager.services().unit_files(&service)?;
            paths.extend(units.iter().map(|unit| unit.path().to_owned()));
        }
        Ok(paths)
    }

    fn units_of(&self, release: &Documents) -> Vec<UnitName> {
        let packages = release.packages.iter();
        packages.flat_map(|package| package.manifest.services.iter().map(UnitName::of)).collect()
    }
}

/// The backup of an attempt: one each, so that a repeated step finds it.
fn backup_id(attempt: &Attempt) -> Result<BackupId, Failure> {
    BackupId::parse(attempt.install.as_str())
        .map_err(|error| Failure::new(crate::update::Cause::HostFault, error.to_string()))
}

impl Machine for HostMachine {
    fn perform(
        &mut self,
        step: &Step,
        fetch: &mut dyn Fetch,
        wait: &dyn Fn(Duration) -> Waited,
    ) -> Result<Event, HostError> {
        let done = match step {
            Step::Preflight { attempt, .. } => self.preflight(attempt, fetch),
            Step::Fetch { attempt, .. } => self.fetch(attempt, fetch),
            Step::BackUp { attempt, terms } => {
                return self.measure_and_back_up(attempt, terms, wait);
            }
            Step::Quiesce { change } => self.quiesce(change),
            Step::Seal { change } => self.seal(change),
            Step::Switch { change, sealed } => match self.switch(change, sealed) {
                Ok(_) if self.is_to_hand_over(&change.attempt) => {
                    return self.hand_over(change, wait);
                }
                switched => switched,
            },
            Step::Watch { change, .. } => match wait(change.terms.check_every) {
                Waited::Over => self.watch(change),
                Waited::BackOut => Ok(Event::BackOut),
                Waited::Ending => return Err(HostError::Ending),
            },
            Step::Commit { change, .. } => self.commit(change),
            Step::GoBack { change, undo, .. } if self.is_to_hand_back(&change.attempt) => {
                return self.hand_back(change, undo, wait);
            }
            Step::GoBack { change, undo, .. } => self.go_back(change, undo, wait),
            Step::Settle { attempt, ended } => {
                return self
                    .settle(attempt, *ended)
                    .map(|()| Event::Settled)
                    .map_err(|failure| HostError::Failed(failure.to_string()));
            }
            Step::Reboot { change, sealed } => return self.reboot(change, sealed, wait),
            // Who else has a say is asked elsewhere.
            Step::Permit { .. } | Step::AskLeave { .. } | Step::AskReboot { .. } => {
                return Err(HostError::Failed(format!("this agent can't do {}", step.name())));
            }
        };
        Ok(done.unwrap_or_else(|failure| Event::Failed { failure }))
    }

    fn inventory(&self) -> Inventory {
        inventory(&self.tree())
    }

    fn drifts(
        &self,
        only: Option<&Product>,
        pace: &mut dyn FnMut(usize) -> Result<(), Stopped>,
    ) -> Option<BTreeMap<Product, Drift>> {
        let places = (&self.tree(), &self.placed(), &self.debs());
        let mut drifts = installed::drifts(places, &*self.files, only, pace)?;
        if let Some((product, program)) = self.another_runs()
            && only.is_none_or(|only| *only == product)
        {
            let why = "it runs as the agent, and is not of this release";
            drifts.entry(product).or_default().add(&program, drift::Kind::Other, why);
        }
        Some(drifts)
    }

    fn repair(&self, product: &Product, fetch: &mut dyn Fetch) -> Result<Vec<PathBuf>, Failure> {
        self.repair_product(product, fetch)
    }

    fn finish_repairs(&self) -> Result<(), Failure> {
        Ok(HostMachine::finish_repairs(self)?)
    }

    fn hook_runs(&self) -> HookRuns {
        self.hook_runs.reported().clone()
    }

    fn held_backups(&self) -> Vec<BackupState> {
        held_backups(&self.backups())
    }

    fn verify_backup(
        &self,
        backup: &ToVerify,
        pace: &mut dyn FnMut(u64) -> Result<(), Stopped>,
    ) -> bool {
        let (backups, id) = (self.backups(), &backup.backup);
        if backups.answer(id).is_some_and(|answer| answer.asked == backup.asked) {
            return true;
        }
        // Retention may have removed it since it was reported.
        if !backups.is_begun(id).unwrap_or(false) {
            return true;
        }
        let Ok(checked) = backups.check_until(id, pace) else { return false };
        let answer = checked.answer(&backup.asked, self.clock.now());
        for damage in &answer.damages {
            tracing::error!(backup = %id, "{damage}");
        }
        if let Err(error) = backups.keep_answer(id, &answer) {
            tracing::warn!(backup = %id, "what was found can't be kept: {error}");
            return false;
        }
        tracing::info!(backup = %id, damages = answer.damages.len(), "a backup was read again");
        true
    }

    fn boot_held(&self) -> Option<Failure> {
        HostMachine::boot_held(self)
    }

    fn knows(&self, release: &Digest) -> bool {
        self.release_bytes(release).is_ok()
    }

    fn learn(&mut self, release: &[u8]) -> Result<(), Failure> {
        self.keep_release(release)
    }

    fn arm_restore(
        &mut self,
        backup: &BackupId,
        install: &InstallId,
        last: &dyn Fn(&Product) -> Option<Attempt>,
    ) -> Result<Attempt, Failure> {
        self.arm_restore_of(backup, install, last)
    }

    fn restore(&mut self, wait: &dyn Fn(Duration) -> Waited) -> Result<Option<Update>, Failure> {
        self.restore_armed(wait)
    }

    fn restored(&mut self, attempt: &Attempt) -> Result<(), Failure> {
        self.settle_restore(attempt)
    }

    fn is_undone(&self) -> bool {
        self.is_undone_release()
    }

    fn prepare_to_qualify(&mut self, attempt: &Attempt) -> Result<PathBuf, Failure> {
        self.scratch_to_qualify(attempt)
    }

    fn qualify(&mut self, attempt: &Attempt, server: bool) -> Result<(), Failure> {
        self.qualify_beside(attempt, server)
    }

    fn qualified(&mut self) -> Result<(), Failure> {
        self.remove_scratch()
    }

    fn start_services(&mut self, except: Option<&Product>) {
        let installed = self.tree().products().unwrap_or_default();
        for product in installed.into_iter().filter(|product| Some(product) != except) {
            match self.tree().installed(&product) {
                Ok(Some(release)) => {
                    for unit in self.units_of(&release) {
                        if let Err(error) = self.manager.services().start(&unit) {
                            tracing::error!(%product, "{error}");
                        }
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::error!(%product, "its services are not started: {error}"),
            }
        }
    }
}

#[cfg(test)]
mod tests;
