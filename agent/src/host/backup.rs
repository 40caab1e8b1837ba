//! What a host saves before a release touches it: the product's link, the unit files of its services
//! and the paths that the manifest names, as they are found. "Nothing was there" is saved too.
//!
//! ```text
//! <data>/backups/<id>/content/<digest>    the bytes, each once; `<digest>.new` until they are synced
//! <data>/backups/<id>/index.json          what stood where, with mode, owner, time and attributes
//! <data>/backups/<id>/seal                the index's hash; written when all of it was restored once
//! <data>/set-aside/<id>/                  what the release had written where something was brought back
//! ```
//!
//! A backup counts from its seal on: everything in it was synced, read back by hash from the disk, restored into a
//! folder beside it and found to be what stands on the host. Paths that the manifest names are configuration:
//! going back brings them back as they were, and what the new release or a person wrote there since is
//! set aside and named, never destroyed. Data is saved too and stays as it is, unless the release converts it;
//! where somebody else proves to have it, it is not saved here, and the backup names who does.
//!
//! A file with several names under one of these paths comes back as one file with these names; a name that
//! it has elsewhere is not covered and stays with the file that is set aside. Holes come back as holes.
//! Sockets are left out, since whoever listens makes them anew.

use std::path::{Path, PathBuf};

use refit_proto::{
    names::Digest,
    package::{ExpandError, FileRef},
};

use self::{pass::Pass, scan::LooksAt};
use super::{
    files::{self, FileError, Files, Memory},
    owners::Owners,
    preflight::{BLOCK, lacking, on_disk},
};
use crate::{
    update::{BackupId, InstallId, SealedBackup},
    way_back,
};

mod aside;
mod beside;
mod check;
mod covers;
mod dumps;
mod index;
mod kept;
mod method;
mod outside;
mod pass;
mod restore;
mod retention;
mod scan;
mod tested;
mod undo;

pub use aside::Aside;
pub use beside::BesideError;
pub use check::{CheckAnswer, Checked};
pub use covers::{Cover, Role, covers, drop_ins, resolve};
pub use dumps::Dump;
pub use index::{About, Covered, Entry, Index, What};
pub use method::{Cost, DataBy, Method, Methods, Saving, Turn};
pub use outside::{Outside, OutsideError, Proof, Vouched};
pub use retention::{Kept, Retention};
pub use tested::Tested;

/// Why there is no backup, or none to go back to.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// The disk is full.
    #[error(
        "no room to back up {}: the file system {} lacks {bytes} bytes or more\n\
         help: free space there, or take large folders out of the manifest's backup",
        path.display(), file_system.display()
    )]
    Full {
        /// What was being saved or restored.
        path: PathBuf,
        /// Where it ran out.
        file_system: PathBuf,
        /// How much is missing, at least.
        bytes: u64,
    },
    /// A file changed each time it was read.
    #[error(
        "{} changes while it is backed up\n\
         help: find out who writes to it, or take it out of the manifest's backup",
        .0.display()
    )]
    Busy(PathBuf),
    /// It cannot be saved in a way that would bring it back.
    #[error(
        "{} cannot be backed up: {why}\nhelp: name other paths in the manifest's backup",
        path.display()
    )]
    Unsaveable {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// What was restored for a test is not what stands on the host.
    #[error(
        "the backup of {} does not bring back what is there: {why}\n\
         help: does the agent's data folder keep owners and attributes? run the agent as root",
        path.display()
    )]
    Unrestorable {
        /// Which.
        path: PathBuf,
        /// What was different.
        why: String,
    },
    /// What was saved is not what was sealed.
    #[error(
        "the backup is damaged: {}: {why}\nhelp: docs/RUNBOOK.md, \"Stuck host\"",
        path.display()
    )]
    Damaged {
        /// Which file of it.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A path in the manifest uses a variable that is not there.
    #[error(transparent)]
    Variable(#[from] ExpandError),
}

/// The backups of this host.
pub struct Backups<'a> {
    files: &'a dyn Files,
    data: PathBuf,
    saving: Saving,
}

const INDEX: &str = "index.json";
const SEAL: &str = "seal";
/// Largest index that is read: half a million entries of 400 bytes.
const INDEX_MAX: u64 = 200_000_000;
/// How long the steps of a way back may be: what else it holds, and what is written to what is covered
/// until it is sealed, find room in the last eighth.
const MOST_STEPS: u64 = way_back::LARGEST / 8 * 7;

impl<'a> Backups<'a> {
    /// Those below this data folder.
    pub fn new(files: &'a dyn Files, data: PathBuf) -> Backups<'a> {
        Backups { files, data, saving: Saving::default() }
    }

    /// The same, saving in this way.
    #[must_use]
    pub fn saving(self, saving: Saving) -> Backups<'a> {
        Backups { saving, ..self }
    }

    /// Where a backup lies.
    pub fn folder(&self, id: &BackupId) -> PathBuf {
        self.root().join(id.as_str())
    }

    /// The folder of all backups.
    pub fn root(&self) -> PathBuf {
        self.data.join("backups")
    }

    /// Through which its files are touched.
    pub(in crate::host) fn files(&self) -> &dyn Files {
        self.files
    }

    /// Where some content of a backup lies.
    pub(in crate::host) fn content_path(&self, id: &BackupId, digest: &Digest) -> PathBuf {
        self.content(id, digest)
    }

    fn scratch(&self, id: &BackupId) -> PathBuf {
        self.root().join(format!(".{id}.test"))
    }

    fn content(&self, id: &BackupId, digest: &Digest) -> PathBuf {
        self.folder(id).join("content").join(digest.to_string())
    }

    /// How many bytes and inodes there are now of what one path covers.
    ///
    /// # Errors
    /// If something that is covered cannot be read or saved.
    pub fn found(&self, cover: &Cover) -> Result<(u64, u64), BackupError> {
        let mut bytes = 0_u64;
        let scanned = scan::scan(self.files, cover, LooksAt::Lengths, &mut |path, stat| {
            let data = files::data_length(self.files, path, stat.length)?;
            bytes = bytes.saturating_add(on_disk(data));
            Ok(Some(FileRef { sha256: Digest::of(b""), length: stat.length }))
        })?;
        // A folder and a link may each take a block.
        let inodes = scanned.entries.len() as u64;
        Ok((bytes.saturating_add(inodes.saturating_mul(BLOCK)), inodes))
    }

    /// Saves what can be saved while the services run. What is written to meanwhile is left to
    /// [`Self::seal`]. Changes nothing that it covers; of a backup that fails nothing is left.
    ///
    /// # Errors
    /// If something cannot be saved.
    pub fn save(&self, id: &BackupId, covers: &[Cover]) -> Result<(), BackupError> {
        let saved = self.try_save(id, covers);
        self.or_discard(id, saved)
    }

    fn try_save(&self, id: &BackupId, covers: &[Cover]) -> Result<(), BackupError> {
        let mut length = 0;
        // Only for the length of its name.
        let turn = InstallId::parse(id.as_str()).map_err(|error| BackupError::Unsaveable {
            path: self.folder(id),
            why: error.to_string(),
        })?;
        for cover in covers {
            let (path, role) = (cover.path.clone(), cover.role);
            let entries = self.save_one(id, cover)?.entries;
            // Found out now, and not when the services are down.
            length += way_back::length(&self.undo(id, &turn, &Covered { path, role, entries })?);
            if length > MOST_STEPS {
                let why = "it holds too many files for a way back".to_owned();
                return Err(BackupError::Unsaveable { path: cover.path.clone(), why });
            }
        }
        Ok(())
    }

    /// Saves what changed since, at rest; reads everything back, restores it beside, compares, and
    /// seals it. Safe to repeat as long as nothing that it covers was changed by the update.
    ///
    /// # Errors
    /// If there is no backup that brings back what is there. Nothing of it is left then.
    pub fn seal(&self, about: &About, covers: &[Cover]) -> Result<SealedBackup, BackupError> {
        let sealed = self.try_seal(about, covers);
        self.or_discard(&about.id, sealed)
    }

    fn try_seal(&self, about: &About, covers: &[Cover]) -> Result<SealedBackup, BackupError> {
        let id = &about.id;
        let folder = self.folder(id);
        files::create_dirs(self.files, &folder, 0o700)?;
        files::remove_tree(self.files, &folder.join(SEAL))?;
        let mut covered = Vec::new();
        for cover in covers {
            let scanned = self.save_one(id, cover)?;
            if let Some(busy) = scanned.busy.into_iter().next() {
                return Err(BackupError::Busy(busy));
            }
            let (path, role) = (cover.path.clone(), cover.role);
            covered.push(Covered { path, role, entries: scanned.entries });
        }
        let tested = Tested::choose(&covered, self.saving.restore_test);
        let entries = || covered.iter().flat_map(|covered| &covered.entries);
        let user = |uid| entries().any(|entry| entry.uid == uid);
        let group = |gid| entries().any(|entry| entry.gid == gid);
        let owners = Owners::of(self.files, user, group)?;
        let index = Index::new(about.clone(), covered, tested)
            .with_owners(owners)
            .with_dumps(self.dumps(id)?)
            .with_vouched(self.vouched(id)?)
            .after(self.last_order(id)?);
        let bytes = index.to_bytes();
        files::write_file(self.files, &folder.join(INDEX), &bytes, 0o600)?;
        let by_test = self.read_by_test(&index);
        let others: Vec<FileRef> = index.content().difference(&by_test).copied().collect();
        self.read_back(id, &others, Memory::Forgotten)?;
        self.test_restore(&index)?;
        let seal = Digest::of(&bytes);
        files::write_file(self.files, &folder.join(SEAL), seal.to_string().as_bytes(), 0o600)?;
        Ok(SealedBackup { id: id.clone(), seal })
    }

    fn save_one(&self, id: &BackupId, cover: &Cover) -> Result<scan::Scanned, BackupError> {
        let mut pass = Pass::begin(self, id)?;
        let bytes = LooksAt::Bytes;
        let scanned =
            scan::scan(self.files, cover, bytes, &mut |path, stat| pass.take(path, stat))?;
        pass.end()?;
        Ok(scanned)
    }

    fn hash(&self, path: &Path) -> Result<FileRef, FileError> {
        let (sha256, length) = files::copy(self.files, path, None, u64::MAX)?;
        Ok(FileRef { sha256, length })
    }

    /// Reads a sealed backup and checks every byte of it. Touches nothing else.
    ///
    /// # Errors
    /// If anything in it is not what was sealed.
    pub fn verify(&self, sealed: &SealedBackup) -> Result<Index, BackupError> {
        let folder = self.folder(&sealed.id);
        let (index_path, seal_path) = (folder.join(INDEX), folder.join(SEAL));
        let bytes = self.read(&index_path, INDEX_MAX)?;
        let seal = self.read(&seal_path, 64)?;
        if Digest::of(&bytes) != sealed.seal {
            return Err(damaged(&index_path, "its hash is not the sealed one"));
        }
        if seal != sealed.seal.to_string().as_bytes() {
            return Err(damaged(&seal_path, "it seals another backup"));
        }
        let index = Index::parse(&bytes)
            .filter(|index| index.id == sealed.id)
            .ok_or_else(|| damaged(&index_path, "it is no index of this backup"))?;
        let content: Vec<FileRef> = index.content().into_iter().collect();
        self.read_back(&index.id, &content, Memory::Good)?;
        Ok(index)
    }

    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, BackupError> {
        files::read_file(self.files, path, limit).map_err(unreadable)
    }

    fn read_back(
        &self,
        id: &BackupId,
        content: &[FileRef],
        memory: Memory,
    ) -> Result<(), BackupError> {
        let coming = |content: &FileRef| {
            self.files.read_ahead(&self.content(id, &content.sha256), memory);
        };
        for content in files::each_ahead(content, coming) {
            let path = self.content(id, &content.sha256);
            match files::copy(self.files, &path, None, content.length.saturating_add(1)) {
                Ok(found) if found == (content.sha256, content.length) => {}
                Ok(_) => return Err(damaged(&path, "its bytes are not those that were saved")),
                Err(error) => return Err(unreadable(error)),
            }
        }
        Ok(())
    }

    fn full(&self, path: PathBuf, bytes: u64) -> Result<BackupError, FileError> {
        let (file_system, bytes) = lacking(self.files, &path, bytes)?;
        Ok(BackupError::Full { path, file_system, bytes })
    }

    /// Of a backup that failed nothing is left, so that a full disk gets its space back.
    fn or_discard<T>(
        &self,
        id: &BackupId,
        result: Result<T, BackupError>,
    ) -> Result<T, BackupError> {
        let Err(error) = result else { return result };
        let error = match error {
            BackupError::File(error) if error.is_full() => self.full(error.path, 0)?,
            other => other,
        };
        // What counts is why it failed; the next try removes what is left.
        let _best_effort = self.remove(id);
        Err(error)
    }
}

/// What is not there, or is too long, was changed; a disk that can't be read may be readable in a moment.
fn unreadable(error: FileError) -> BackupError {
    match error.source.raw_os_error() {
        Some(_) if error.source.kind() != std::io::ErrorKind::NotFound => error.into(),
        Some(_) | None => damaged(&error.path, error.source.to_string()),
    }
}

fn damaged(path: &Path, why: impl Into<String>) -> BackupError {
    BackupError::Damaged { path: path.to_owned(), why: why.into() }
}

#[cfg(test)]
mod tests;
