//! The `mender` installer: Mender update modules, protocol 3, unchanged. Each package has a work folder below
//! the agent's, with the file tree that its module sees, and beside it a record of how far the module has
//! come: written before each call, so that a cut in any state is known as what it was.
//!
//! Going forward is done here, state by state as Mender's client does. Going back is a saved command that
//! needs no agent ([`undo`]): first the module's own rollback, then the files of our backup, then the rest.

mod call;
pub mod made;
mod record;
mod stream;
mod tree;
mod undo;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use refit_proto::package::{Entry, HookNeeds, Installer, MenderPayload, mender::MODULE};

pub use call::{Caller, Calls, HostCalls, Said, UnitBack};
pub use record::{NeedsReboot, Record, State};
pub use tree::Part;
pub use undo::Inconsistent;

use super::{
    documents::{Documents, Package},
    files::{self, FileError, Files, Kind},
    preflight::on_disk,
};
use crate::{update::InstallId, way_back::UndoStep};

/// Why a module did not do what it is for.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// Nothing can be called.
    #[error("the update module {kind} can't be used: {why}")]
    Unusable {
        /// The payload type.
        kind: String,
        /// Why.
        why: String,
    },
    /// A call failed.
    #[error("the update module {kind} failed in {state}: {said}")]
    Failed {
        /// The payload type.
        kind: String,
        /// What it was called for.
        state: State,
        /// What came of it.
        said: String,
    },
    /// The power went, or the agent was killed, while the module was at work.
    #[error("the update module {kind} was cut off in {state}")]
    CutOff {
        /// The payload type.
        kind: String,
        /// Where.
        state: State,
    },
    /// The disk.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What the host's owner says of update modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleSettings {
    /// Where the host's own modules are; `None`: those are not used.
    pub folder: Option<PathBuf>,
    /// What modules find as the device's type, and packages may depend on.
    pub device_type: String,
}

/// The update modules of this host.
pub struct Modules<'a> {
    files: &'a dyn Files,
    calls: &'a dyn Calls,
    settings: &'a ModuleSettings,
    /// Where the work folders are.
    data: PathBuf,
}

/// One package that a module installs, in one update.
struct Job<'a> {
    payload: &'a MenderPayload,
    /// The package's tree in the release's folder.
    package: PathBuf,
    /// The module's work folder.
    work: PathBuf,
    /// The program.
    module: PathBuf,
    /// By which name a call is found again.
    name: String,
    /// Whether the package names what the module changes.
    saved: bool,
    entries: &'a [Entry],
    release: &'a Documents,
}

impl Job<'_> {
    fn tree(&self) -> PathBuf {
        self.work.join("tree")
    }

    fn failed(&self, state: State, said: String) -> ModuleError {
        ModuleError::Failed { kind: self.payload.kind.clone(), state, said }
    }

    fn cut_off(&self, state: State) -> ModuleError {
        ModuleError::CutOff { kind: self.payload.kind.clone(), state }
    }
}

impl<'a> Modules<'a> {
    /// Those of the host with these settings; `data` is the agent's folder.
    pub fn new(
        files: &'a dyn Files,
        calls: &'a dyn Calls,
        settings: &'a ModuleSettings,
        data: &Path,
    ) -> Modules<'a> {
        Modules { files, calls, settings, data: data.join("modules") }
    }

    /// Whether a release has packages of this kind.
    pub fn brings(release: &Documents) -> bool {
        packages(release).next().is_some()
    }

    fn work(&self, install: &InstallId) -> PathBuf {
        self.data.join(install.as_str())
    }

    fn jobs<'r>(&self, install: &InstallId, release: &'r Documents, folder: &Path) -> Vec<Job<'r>> {
        let jobs = packages(release).map(|(package, payload)| {
            let name = package.name.as_str();
            let tree = folder.join(name);
            let brings = package.manifest.entries.iter().any(|entry| {
                entry.path().as_str().strip_prefix(MODULE).is_some_and(|rest| rest.starts_with('/'))
            });
            let home = match &self.settings.folder {
                Some(home) if !brings => home.clone(),
                Some(_) | None => tree.join(MODULE),
            };
            Job {
                payload,
                module: home.join(&payload.kind),
                package: tree,
                work: self.work(install).join(name),
                name: format!("refit-module-{install}-{name}"),
                entries: &package.manifest.entries,
                saved: !package.manifest.backup.paths.is_empty(),
                release,
            }
        });
        jobs.collect()
    }

    /// Whether what the packages of a release need of this host is there: each one's module, and the device
    /// type. The packages' own modules are not here yet.
    ///
    /// # Errors
    /// What is missing.
    pub fn check(&self, release: &Documents) -> Result<(), ModuleError> {
        for (package, payload) in packages(release) {
            let unusable = |why: String| ModuleError::Unusable { kind: payload.kind.clone(), why };
            let own = &self.settings.device_type;
            if let Some(wanted) = payload.depends.get("device_type").filter(|it| !it.contains(own))
            {
                let wanted = wanted.join(", ");
                return Err(unusable(format!(
                    "its package is for the device type {wanted}, and this host is {own}"
                )));
            }
            let brought = package
                .manifest
                .entries
                .iter()
                .any(|entry| entry.path().as_str() == format!("{MODULE}/{}", payload.kind));
            if brought {
                continue;
            }
            let Some(home) = &self.settings.folder else {
                let why =
                    "its package does not bring it, and this host lets none of its own be used";
                return Err(unusable(why.into()));
            };
            self.is_safe(&home.join(&payload.kind)).map_err(unusable)?;
        }
        Ok(())
    }

    /// A module of the host's runs as root, so nobody else may have a hand in it.
    fn is_safe(&self, module: &Path) -> Result<(), String> {
        let at = module.display();
        let resolved = self.files.resolve(module).map_err(|error| error.to_string())?;
        let stat = self.files.stat(&resolved).map_err(|error| error.to_string())?;
        let Some(stat) = stat else { return Err(format!("there is no {at}")) };
        if stat.kind != Kind::File || stat.mode & 0o100 == 0 {
            return Err(format!("{at} is no program"));
        }
        let own = rustix::process::geteuid().as_raw();
        if stat.uid != 0 && stat.uid != own || stat.mode & 0o022 != 0 {
            return Err(format!("{at} can be changed by others than root"));
        }
        Ok(())
    }

    /// How many bytes and inodes the modules' work takes: the payloads once more, and their own notes.
    pub fn room(release: &Documents) -> (u64, u64) {
        let room = packages(release).flat_map(|(package, _)| &package.manifest.entries);
        room.fold((0, 0), |(bytes, inodes), entry| match entry {
            Entry::File { content, .. } => {
                (bytes.saturating_add(on_disk(content.length)), inodes.saturating_add(32))
            }
            Entry::Directory { .. } | Entry::Link { .. } => (bytes, inodes),
        })
    }

    /// How long the modules of a release may take until it is in its place.
    pub fn longest(release: &Documents) -> Duration {
        // Two queries and two states, each as long as it may take.
        let of = |payload: &MenderPayload| Duration::from_secs(payload.timeout_seconds.into()) * 4;
        packages(release).map(|(_, payload)| of(payload)).sum()
    }

    /// Puts the payloads in their places: `Download` of all, then `ArtifactInstall` of all. What was done
    /// before a cut is not done twice.
    ///
    /// # Errors
    /// The first that failed, or was cut off where that is a failure.
    pub fn install(
        &self,
        install: &InstallId,
        release: &Documents,
        folder: &Path,
    ) -> Result<(), ModuleError> {
        let jobs = self.jobs(install, release, folder);
        for job in &jobs {
            self.download(job)?;
        }
        for job in &jobs {
            self.install_one(job)?;
        }
        Ok(())
    }

    fn download(&self, job: &Job<'_>) -> Result<(), ModuleError> {
        match self.record(job)?.map(|record| (record.state, record.done)) {
            // Nothing was changed yet: it is cleaned up, and begun again.
            Some((State::ProvidePayloadFileSizes | State::Download, false)) => {
                self.end(job)?;
                self.cleanup(job)?;
            }
            Some((state, _)) if state.is_forward() => return Ok(()),
            Some((state, _)) => return Err(job.cut_off(state)),
            None => {}
        }
        self.is_safe(&job.module)
            .map_err(|why| ModuleError::Unusable { kind: job.payload.kind.clone(), why })?;
        tree::make(self.files, job, &self.settings.device_type)?;
        self.enter(job, State::ProvidePayloadFileSizes)?;
        let sizes = self.query(job, State::ProvidePayloadFileSizes)?;
        let state = match sizes {
            Said::Yes => State::DownloadWithFileSizes,
            Said::No => State::Download,
            Said::Automatic => {
                return Err(job.failed(State::ProvidePayloadFileSizes, no("Automatic")));
            }
        };
        self.enter(job, State::Download)?;
        let payload = tree::payload(job);
        let streamed = self.calls.download(self.files, &caller(job), state, &payload);
        if !streamed.map_err(|said| job.failed(state, said))? {
            tree::store(self.files, job, &payload)?;
        }
        if job.payload.rolls_back && !job.saved {
            let answer = self.query(job, State::SupportsRollback)?;
            if answer != Said::Yes {
                let why = "its package says that it rolls back and names no path that it changes, and \
                           it does not support rollback";
                return Err(job.failed(State::SupportsRollback, why.into()));
            }
        }
        self.leave(job, State::Download)
    }

    fn install_one(&self, job: &Job<'_>) -> Result<(), ModuleError> {
        match self.record(job)?.map(|record| (record.state, record.done)) {
            Some((State::Download, true)) => {}
            Some((State::ArtifactInstall, true)) => return Ok(()),
            Some((state, _)) => return Err(job.cut_off(state)),
            None => return Err(job.cut_off(State::Download)),
        }
        self.act(job, State::ArtifactInstall)?;
        let needs = match self.query(job, State::NeedsArtifactReboot)? {
            Said::Yes => NeedsReboot::Yes,
            Said::No => NeedsReboot::No,
            Said::Automatic => NeedsReboot::Automatic,
        };
        record::write_reboot(self.files, &job.work, needs)?;
        self.leave(job, State::ArtifactInstall)
    }

    /// Which modules ask for a boot, and how.
    ///
    /// # Errors
    /// If their records can't be read.
    pub fn need_reboot(
        &self,
        install: &InstallId,
        release: &Documents,
        folder: &Path,
    ) -> Result<Vec<(String, NeedsReboot)>, ModuleError> {
        let mut needs = Vec::new();
        for job in self.jobs(install, release, folder) {
            match self.record(&job)?.map_or(NeedsReboot::No, |record| record.reboot) {
                NeedsReboot::No => {}
                need => needs.push((job.payload.kind.clone(), need)),
            }
        }
        Ok(needs)
    }

    /// Lets the modules boot what they asked for. One that was called already is not called again: whatever
    /// ended that call is taken for the boot.
    ///
    /// # Errors
    /// One that failed.
    pub fn reboot(
        &self,
        install: &InstallId,
        release: &Documents,
        folder: &Path,
    ) -> Result<(), ModuleError> {
        for job in self.jobs(install, release, folder) {
            let Some(record) = self.record(&job)? else { continue };
            if (record.state, record.done) != (State::ArtifactInstall, true) {
                continue;
            }
            match record.reboot {
                NeedsReboot::No => {}
                NeedsReboot::Automatic => self.enter(&job, State::ArtifactReboot)?,
                NeedsReboot::Yes => {
                    self.act(&job, State::ArtifactReboot)?;
                    self.leave(&job, State::ArtifactReboot)?;
                }
            }
        }
        Ok(())
    }

    /// After a boot that a module asked for: whether it says that the boot went well. Asked once.
    ///
    /// # Errors
    /// If one says that it did not, or was cut off.
    pub fn verify_reboot(
        &self,
        install: &InstallId,
        release: &Documents,
        folder: &Path,
    ) -> Result<(), ModuleError> {
        for job in self.jobs(install, release, folder) {
            let Some(record) = self.record(&job)? else { continue };
            match (record.state, record.done, record.reboot) {
                (State::ArtifactReboot, _, _)
                | (State::ArtifactInstall, true, NeedsReboot::Yes | NeedsReboot::Automatic) => {
                    self.end(&job)?;
                    self.act(&job, State::ArtifactVerifyReboot)?;
                    self.leave(&job, State::ArtifactVerifyReboot)?;
                }
                (State::ArtifactVerifyReboot, false, _) => return Err(job.cut_off(record.state)),
                (_, _, _) => {}
            }
        }
        Ok(())
    }

    /// Has the modules commit. One that did is not asked again.
    ///
    /// # Errors
    /// One that failed, or was cut off.
    pub fn commit(
        &self,
        install: &InstallId,
        release: &Documents,
        folder: &Path,
    ) -> Result<(), ModuleError> {
        for job in self.jobs(install, release, folder) {
            match self.record(&job)?.map(|record| (record.state, record.done)) {
                Some((State::ArtifactCommit, true)) => {}
                Some((State::ArtifactInstall | State::ArtifactVerifyReboot, true)) => {
                    self.act(&job, State::ArtifactCommit)?;
                    self.leave(&job, State::ArtifactCommit)?;
                }
                Some((state, _)) => return Err(job.cut_off(state)),
                None => return Err(job.cut_off(State::Download)),
            }
        }
        Ok(())
    }

    /// After the end of an update: what is left of the modules' work goes, with a call of `Cleanup` where
    /// there was none. With `failed`, of an update that has no way back, they are told that first. What a
    /// module fails in here is only said.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn settle(
        &self,
        install: &InstallId,
        release: Option<(&Documents, &Path)>,
        failed: bool,
    ) -> Result<(), ModuleError> {
        if let Some((release, folder)) = release {
            for job in self.jobs(install, release, folder) {
                self.end(&job)?;
                let Some(record) = self.record(&job)? else { continue };
                if failed && record.state.changes() {
                    self.tell(&job, State::ArtifactFailure)?;
                }
                self.cleanup(&job)?;
            }
        }
        let work = self.work(install);
        if files::remove_tree(self.files, &work)? {
            files::remove_if_empty(self.files, &self.data)?;
        }
        Ok(())
    }

    fn cleanup(&self, job: &Job<'_>) -> Result<(), ModuleError> {
        if files::exists(self.files, &job.tree())? {
            self.tell(job, State::Cleanup)?;
        }
        Ok(files::remove_tree(self.files, &job.work).map(drop)?)
    }

    /// A state whose failure changes nothing.
    fn tell(&self, job: &Job<'_>, state: State) -> Result<(), ModuleError> {
        self.enter(job, state)?;
        if let Err(said) = self.calls.act(&caller(job), state) {
            tracing::warn!("{}", job.failed(state, said));
        }
        Ok(())
    }

    /// Ends what an agent that was killed has left running.
    fn end(&self, job: &Job<'_>) -> Result<(), ModuleError> {
        let ended = self.calls.end(&job.name);
        ended.map_err(|why| ModuleError::Unusable { kind: job.payload.kind.clone(), why })
    }

    /// The steps that go back, before the saved files are brought back and after.
    pub fn undo_steps(
        &self,
        install: &InstallId,
        release: &Documents,
        folder: &Path,
    ) -> (Vec<UndoStep>, Vec<UndoStep>) {
        let jobs = self.jobs(install, release, folder);
        let half = |half, job| undo::step(half, job, self.calls);
        let before = jobs.iter().rev().flat_map(|job| [undo::end(job), half("before", job)]);
        let after = jobs.iter().rev().map(|job| half("after", job));
        (before.collect(), after.collect())
    }

    /// What modules could not take back themselves.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn inconsistent(
        &self,
        install: &InstallId,
        release: &Documents,
        folder: &Path,
    ) -> Result<Vec<Inconsistent>, ModuleError> {
        let mut found = Vec::new();
        for job in self.jobs(install, release, folder) {
            found.extend(undo::inconsistent(self.files, &job)?);
        }
        Ok(found)
    }

    fn record(&self, job: &Job<'_>) -> Result<Option<Record>, ModuleError> {
        Ok(Record::read(self.files, &job.work)?)
    }

    fn enter(&self, job: &Job<'_>, state: State) -> Result<(), ModuleError> {
        Ok(record::write(self.files, &job.work, state, false)?)
    }

    fn leave(&self, job: &Job<'_>, state: State) -> Result<(), ModuleError> {
        Ok(record::write(self.files, &job.work, state, true)?)
    }

    fn act(&self, job: &Job<'_>, state: State) -> Result<(), ModuleError> {
        self.enter(job, state)?;
        self.calls.act(&caller(job), state).map_err(|said| job.failed(state, said))
    }

    fn query(&self, job: &Job<'_>, state: State) -> Result<Said, ModuleError> {
        let answer = self.calls.query(&caller(job), state);
        answer.and_then(|answer| Said::read(&answer)).map_err(|said| job.failed(state, said))
    }
}

fn no(answer: &str) -> String {
    format!("{answer:?} is no answer to that")
}

fn caller(job: &Job<'_>) -> Caller {
    Caller {
        module: job.module.clone(),
        tree: job.tree(),
        name: job.name.clone(),
        timeout: Duration::from_secs(job.payload.timeout_seconds.into()),
        memory: u64::from(job.payload.memory_mb.unwrap_or(HookNeeds::MEMORY_MB)) << 20,
        tasks: job.payload.tasks.unwrap_or(HookNeeds::TASKS),
    }
}

fn packages(release: &Documents) -> impl Iterator<Item = (&Package, &MenderPayload)> {
    release.packages.iter().filter_map(|package| match package.manifest.installer {
        Installer::Mender => package.manifest.mender.as_ref().map(|payload| (package, payload)),
        Installer::Tree
        | Installer::Files
        | Installer::Deb
        | Installer::Agent
        | Installer::Podman => None,
    })
}
