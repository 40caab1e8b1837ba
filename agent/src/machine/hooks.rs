//! A release's hooks on this machine: what they may write, in which order they run, and where what they
//! wrote is kept.

use std::path::PathBuf;

use refit_proto::{
    package::{Data, DataUse, HookTime, Manifest, Reboot, expand},
    sorted,
};

use super::{HostMachine, failures::failure};
use crate::{
    host::{
        documents::Documents,
        hook::{self, HookContext},
    },
    update::{Attempt, Cause, Failure},
    way_back::{UndoStep, Undoing},
};

/// Where `/run/reboot-required` is made, by which hooks may ask for a boot.
const ASKS_FOR_BOOT: &str = "/run";
/// Where the agent's halves, and those who may hold updates off, talk to each other.
const SOCKETS: [&str; 2] = ["/run/refit-agent", "/run/refit-link"];

impl HostMachine {
    pub(super) fn run_hooks(
        &mut self,
        attempt: &Attempt,
        release: &Documents,
        when: HookTime,
    ) -> Result<(), Failure> {
        for package in &release.packages {
            let folder = self.folder(&attempt.product, &release.id.digest, package.name.as_str());
            let context = HookContext {
                install: &attempt.install,
                package: &package.name,
                folder: &folder,
                variables: &self.variables.clone(),
                writes: self.written_by_hooks(attempt, release, &package.manifest),
                read_only: self.only_read_by_hooks(&package.manifest),
                hidden: self.hidden(),
            };
            for (number, hook) in package.manifest.hooks.iter().enumerate() {
                if hook.when != when {
                    continue;
                }
                let run = self.hooks.run(hook, number, &context);
                tracing::info!(
                    product = %attempt.product,
                    "hook {} {number} of {} {}", hook::word(when), package.name, run.how()
                );
                let ended = run.ended();
                self.hook_runs.keep(&*self.files, &attempt.install, run);
                ended.map_err(|error| failure(Cause::HookFailed, &error))?;
            }
        }
        Ok(())
    }

    /// What every hook of a package may write: its own release, what the package backs up, and what asks
    /// for a boot where the package says that it may.
    fn written_by_hooks(
        &self,
        attempt: &Attempt,
        release: &Documents,
        manifest: &Manifest,
    ) -> Vec<PathBuf> {
        let mut writes = vec![self.tree().folder(&attempt.product, &release.id.digest)];
        writes.extend(manifest.backup.paths.iter().filter_map(|path| self.expanded(path)));
        if manifest.data.used != DataUse::Untouched {
            writes.extend(self.data_of(&manifest.data));
        }
        if manifest.reboot == Reboot::WhenRequired {
            writes.push(ASKS_FOR_BOOT.into());
        }
        writes
    }

    /// Data that the release says it does not touch: its hooks can't, also not by a wider `writes`.
    fn only_read_by_hooks(&self, manifest: &Manifest) -> Vec<PathBuf> {
        match manifest.data.used {
            DataUse::Untouched => self.data_of(&manifest.data),
            DataUse::Kept | DataUse::Converted => Vec::new(),
        }
    }

    /// Where a package's data lies, as far as it lies in files that hooks can open.
    fn data_of(&self, data: &Data) -> Vec<PathBuf> {
        data.declared_paths().iter().filter_map(|path| self.expanded(path)).collect()
    }

    /// A path of a manifest. One that can't be expanded was refused when it was to be saved.
    fn expanded(&self, path: &str) -> Option<PathBuf> {
        expand(path, &self.variables).ok().map(PathBuf::from)
    }

    /// What is the agent's own: keys, state, sockets, backups of all products.
    fn hidden(&self) -> Vec<PathBuf> {
        let mut hidden: Vec<PathBuf> = SOCKETS.map(PathBuf::from).into();
        if self.root.starts_with(&self.data) {
            let own = ["identity", "state", "trust", "backups", "agent.sock", "lock", "install"];
            hidden.extend(own.map(|name| self.data.join(name)));
        } else {
            hidden.push(self.data.clone());
        }
        hidden
    }

    /// Ends every hook of a release that may still run: an agent that was killed has left one.
    pub(super) fn ends_of_hooks(&self, attempt: &Attempt, release: &Documents) -> Vec<UndoStep> {
        let hooks = release.packages.iter().flat_map(|package| {
            package.manifest.hooks.iter().enumerate().map(|(number, hook)| (number, hook.when))
        });
        let mut units: Vec<String> = hooks
            .map(|(number, when)| format!("{}.service", hook::name(&attempt.install, when, number)))
            .collect();
        sorted::sort(&mut units);
        units.dedup();
        units.into_iter().map(|unit| Undoing::StopUnit { unit }.into()).collect()
    }
}
