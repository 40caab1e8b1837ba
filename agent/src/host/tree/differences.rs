//! All that another hand has changed of an installed release's folder.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use refit_proto::{gathered::Gathered as _, package::Entry};

use super::Tree;
use crate::host::{
    documents::Documents,
    drift::{Drift, Kind, LookError, Reader},
    files::{self, FileError},
};

impl Tree<'_> {
    /// Adds what is not as the release's signed manifests say. What stands there beside is the release's own affair.
    ///
    /// # Errors
    /// If the look is stopped.
    pub fn differences(
        &self,
        release: &Documents,
        reader: &mut Reader<'_>,
        drift: &mut Drift,
    ) -> Result<(), LookError> {
        let folder = self.folder(&release.release.product, &release.id.digest);
        for package in &release.packages {
            let top = folder.join(package.name.as_str());
            for entry in &package.manifest.entries {
                let path = top.join(entry.path().as_str());
                if let Err(error) = self.difference(&path, entry, reader, drift)? {
                    drift.add(&path, Kind::Unreadable, error.source.to_string());
                }
                // An entry costs a look at the disk too.
                (reader.pace)(0)?;
            }
            self.add_extra(&top, &package.manifest.entries, reader, drift)?;
        }
        Ok(())
    }

    /// Adds what stands in a folder of the package that no manifest names. A folder is named without what is in it.
    fn add_extra(
        &self,
        top: &Path,
        entries: &[Entry],
        reader: &mut Reader<'_>,
        drift: &mut Drift,
    ) -> Result<(), LookError> {
        let named: BTreeSet<PathBuf> =
            entries.iter().map(|entry| top.join(entry.path().as_str())).gathered();
        let folders = entries.iter().filter(|entry| matches!(entry, Entry::Directory { .. }));
        let folders = folders.map(|entry| top.join(entry.path().as_str()));
        for folder in std::iter::once(top.to_owned()).chain(folders) {
            // One that can't be read is told by its own difference.
            for name in self.files.list(&folder).unwrap_or_default() {
                let path = folder.join(name);
                if !named.contains(&path) {
                    drift.add_extra(path);
                }
            }
            (reader.pace)(0)?;
        }
        Ok(())
    }

    fn difference(
        &self,
        path: &Path,
        entry: &Entry,
        reader: &mut Reader<'_>,
        drift: &mut Drift,
    ) -> Result<Result<(), FileError>, LookError> {
        let stat = match self.files.stat(path) {
            Ok(Some(stat)) => stat,
            Ok(None) => {
                drift.add(path, Kind::Missing, "it is not there");
                return Ok(Ok(()));
            }
            Err(error) => return Ok(Err(error)),
        };
        let (kind, mode) = match entry {
            Entry::Directory { mode, .. } => (files::Kind::Directory, Some(*mode)),
            Entry::File { mode, .. } => (files::Kind::File, Some(*mode)),
            Entry::Link { .. } => (files::Kind::Link, None),
        };
        if stat.kind != kind {
            let why = format!("it is a {:?}, not a {kind:?}", stat.kind).to_lowercase();
            drift.add(path, Kind::Other, why);
            return Ok(Ok(()));
        }
        match entry {
            Entry::Directory { .. } => {}
            Entry::Link { target, .. } => match self.files.read_link(path) {
                Ok(leads) if leads == Path::new(target) => {}
                Ok(_) => drift.add(path, Kind::Changed, "it leads elsewhere"),
                Err(error) => return Ok(Err(error)),
            },
            Entry::File { content, .. } => {
                let before = drift.differences.len() + drift.more;
                reader.compare(path, content, drift)?;
                if drift.differences.len() + drift.more > before {
                    return Ok(Ok(()));
                }
            }
        }
        if let Some(mode) = mode.filter(|mode| *mode != stat.mode) {
            drift.add(path, Kind::Mode, format!("its mode is {:o}, not {mode:o}", stat.mode));
        }
        Ok(Ok(()))
    }
}
