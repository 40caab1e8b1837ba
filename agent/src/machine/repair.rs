//! Putting back what another hand has changed of what is installed, where the host's owner wants that: one path at a
//! time, each in one move, from content that is checked by its signed digest. Nothing that a manifest does not name
//! is touched, nor what one names as configuration or data, nor packages of dpkg.
//!
//! `repair` in the agent's folder names the paths before the first is touched, so that what a power cut leaves beside
//! one is found and removed.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use refit_proto::{
    gathered::Gathered as _,
    names::Product,
    package::{Entry, FileRef, expand},
};

use super::HostMachine;
use crate::{
    host::{
        backup::resolve,
        content::{Fetch, Offered},
        documents::Documents,
        files::{self, FileError},
    },
    update::Failure,
    way_back::{decode, encode},
};

/// Most bytes of the list of paths.
const LONGEST: u64 = 16 << 20;

/// An entry of a tree that is not as signed.
struct Broken<'r> {
    path: PathBuf,
    entry: &'r Entry,
}

impl HostMachine {
    fn repairing(&self) -> PathBuf {
        self.data.join("repair")
    }

    /// Removes what a repair that was cut off has left beside its paths.
    pub(super) fn finish_repairs(&self) -> Result<(), FileError> {
        let list = self.repairing();
        if !files::exists(&*self.files, &list)? {
            return Ok(());
        }
        let text = files::read_file(&*self.files, &list, LONGEST)?;
        for line in String::from_utf8_lossy(&text).lines() {
            let Ok(path) = decode(line) else { continue };
            let path = PathBuf::from(OsString::from_vec(path));
            if files::exists(&*self.files, path.parent().unwrap_or(&path))? {
                files::remove_unfinished(&*self.files, &path)?;
            }
        }
        self.content().clear()?;
        files::remove_tree(&*self.files, &list).map(drop)
    }

    /// Puts back what differs of what is installed of a product; says which paths. One that can't be put back is told in
    /// the log, and stays as it is.
    pub(super) fn repair_product(
        &self,
        product: &Product,
        fetch: &mut dyn Fetch,
    ) -> Result<Vec<PathBuf>, Failure> {
        self.finish_repairs()?;
        let Some(release) = self.tree().installed(product)? else { return Ok(Vec::new()) };
        let folder = self.tree().folder(product, &release.id.digest);
        let theirs = self.named_by_manifests(&release);
        let free = |path: &Path| !theirs.iter().any(|theirs| path.starts_with(theirs));
        let broken = self.broken(&release, &folder, &free);
        let placed: Vec<PathBuf> =
            self.placed().changed(&release)?.into_iter().filter(|path| free(path)).collect();
        if broken.is_empty() && placed.is_empty() {
            return Ok(Vec::new());
        }
        self.note_repairs(broken.iter().map(|broken| &broken.path).chain(&placed))?;
        let offered = release.offers(&folder);
        let mut repaired = Vec::new();
        for broken in broken {
            match self.mend_in_tree(&broken, &offered, fetch) {
                Ok(true) => repaired.push(broken.path),
                Ok(false) => {}
                Err(failure) => say(&broken.path, &failure),
            }
        }
        // From the tree, which is as signed by now.
        for path in placed {
            match self.placed().mend(&release, &folder, &path) {
                Ok(()) => repaired.push(path),
                Err(error) => say(&path, &error.into()),
            }
        }
        self.finish_repairs()?;
        Ok(repaired)
    }

    fn mend_in_tree(
        &self,
        broken: &Broken<'_>,
        offered: &Offered,
        fetch: &mut dyn Fetch,
    ) -> Result<bool, Failure> {
        let needed: BTreeSet<FileRef> = match broken.entry {
            Entry::File { content, .. } => [*content].into_iter().gathered(),
            Entry::Directory { .. } | Entry::Link { .. } => BTreeSet::new(),
        };
        self.content().bring_in(&needed, offered, fetch)?;
        Ok(self.tree().mend(&broken.path, broken.entry, &self.content())?)
    }

    fn broken<'r>(
        &self,
        release: &'r Documents,
        folder: &Path,
        free: &dyn Fn(&Path) -> bool,
    ) -> Vec<Broken<'r>> {
        let mut broken = Vec::new();
        for package in &release.packages {
            let top = folder.join(package.name.as_str());
            for entry in &package.manifest.entries {
                let path = top.join(entry.path().as_str());
                if free(&path) && !self.tree().is_as_signed(&path, entry) {
                    broken.push(Broken { path, entry });
                }
            }
        }
        broken
    }

    /// Configuration and data: who writes there is in the right. A path that can't be told is left out of a repair by
    /// what it is written as.
    fn named_by_manifests(&self, release: &Documents) -> Vec<PathBuf> {
        let own = [self.data.as_path(), self.root.as_path()];
        let mut named = Vec::new();
        for package in &release.packages {
            let manifest = &package.manifest;
            let data = manifest.data.declared_paths();
            for path in manifest.backup.paths.iter().chain(&data) {
                let path = expand(path, &self.variables).unwrap_or_else(|_| path.clone());
                named.extend(resolve(&*self.files, Path::new(&path), &own));
                named.push(path.into());
            }
        }
        named
    }

    fn note_repairs<'p>(&self, paths: impl Iterator<Item = &'p PathBuf>) -> Result<(), FileError> {
        let lines = paths.map(|path| encode(path.as_os_str().as_bytes()) + "\n");
        let text: String = lines.collect();
        files::write_file(&*self.files, &self.repairing(), text.as_bytes(), 0o600)
    }
}

fn say(path: &Path, failure: &Failure) {
    tracing::error!(path = %path.display(), "what another hand has changed can't be put back: {failure}");
}
