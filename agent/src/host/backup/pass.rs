//! One pass over what is covered: takes in what the backup has not, and brings it to stable storage. Content has
//! its own name in the backup only when it is there: until then it is called `<digest>.new`, which nobody
//! believes.

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::{Path, PathBuf},
};

use refit_proto::{names::Digest, package::FileRef};

use super::{
    super::files::{self, Action, FileError, Stat, Unsynced},
    BackupError, Backups,
};
use crate::update::BackupId;

/// A file of fewer bytes is read once, into memory; a larger one twice, to be hashed and to be copied.
const AT_ONCE: usize = 1 << 20;

/// Content until it has its name.
const NEW: &str = "new";

/// What one pass has taken in.
pub(super) struct Pass<'a> {
    backups: &'a Backups<'a>,
    /// Where its content is.
    folder: PathBuf,
    /// The other backups, which may hold the same.
    others: Vec<BackupId>,
    unsynced: Unsynced,
    /// What waits for its name.
    new: BTreeSet<Digest>,
    /// Whether names were added already.
    linked: bool,
    /// What a file is read into.
    buffer: Vec<u8>,
}

impl<'a> Pass<'a> {
    /// Begins one. What an earlier one has left unfinished is removed.
    pub(super) fn begin(backups: &'a Backups<'a>, id: &'a BackupId) -> Result<Self, BackupError> {
        let folder = backups.folder(id).join("content");
        files::create_dirs(backups.files, &folder, 0o700)?;
        for name in backups.files.list(&folder)? {
            if Path::new(&name).extension().is_some_and(|extension| extension == NEW) {
                backups.files.remove_file(&folder.join(name))?;
            }
        }
        let unsynced = Unsynced::in_folder(backups.files, &folder)?;
        let others = backups.list()?.into_iter().filter(|other| other != id).collect();
        let (new, linked, buffer) = (BTreeSet::new(), false, vec![0; AT_ONCE]);
        Ok(Pass { backups, folder, others, unsynced, new, linked, buffer })
    }

    /// Takes the content of a file in. `None` if it is seen to change meanwhile.
    pub(super) fn take(
        &mut self,
        path: &Path,
        stat: &Stat,
    ) -> Result<Option<FileRef>, BackupError> {
        let clones = self.backups.saving.clones();
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = match stat.length < AT_ONCE as u64 && !clones {
            true => files::read_small(self.backups.files, path, &mut buffer),
            false => Ok(None),
        };
        let taken = read.map_err(BackupError::from).and_then(|read| self.take_read(path, read));
        self.buffer = buffer;
        taken
    }

    /// The same of a file that was read already, if it was.
    fn take_read(
        &mut self,
        path: &Path,
        read: Option<&[u8]>,
    ) -> Result<Option<FileRef>, BackupError> {
        let hashed = match read {
            Some(bytes) => FileRef::to(bytes),
            None => self.backups.hash(path)?,
        };
        if self.has(&hashed)? {
            return Ok(Some(hashed));
        }
        let new = self.place(&hashed).with_extension(NEW);
        let clones = self.backups.saving.clones();
        let whole = match clones && self.backups.files.clone_file(path, &new, 0o600)? {
            true => self.keep_clone(&new, &hashed)?,
            false => self.keep_copy(path, read, &new, &hashed)?,
        };
        if !whole {
            self.backups.files.remove_file(&new)?;
            return Ok(None);
        }
        self.new.insert(hashed.sha256);
        Ok(Some(hashed))
    }

    /// Brings what was taken in to stable storage, and gives it its names.
    pub(super) fn end(self) -> Result<(), BackupError> {
        let Pass { backups, folder, unsynced, new, linked, .. } = self;
        unsynced.end().map_err(FileError::at(Action::Sync, &folder))?;
        for digest in &new {
            let place = folder.join(digest.to_string());
            backups.files.rename(&place.with_extension(NEW), &place)?;
        }
        if linked || !new.is_empty() {
            backups.files.sync_dir(&folder)?;
        }
        Ok(())
    }

    fn place(&self, content: &FileRef) -> PathBuf {
        self.folder.join(content.sha256.to_string())
    }

    /// Whether the backup has it already, or gets it from another backup.
    fn has(&mut self, content: &FileRef) -> Result<bool, FileError> {
        if self.new.contains(&content.sha256) {
            return Ok(true);
        }
        let place = self.place(content);
        if files::exists(self.backups.files, &place)? {
            return Ok(true);
        }
        let linked = self.backups.link_from(&self.others, content, &place)?;
        self.linked |= linked;
        Ok(linked)
    }

    /// Copies a file that was hashed. `false` if its bytes are others now.
    fn keep_copy(
        &mut self,
        from: &Path,
        read: Option<&[u8]>,
        new: &Path,
        hashed: &FileRef,
    ) -> Result<bool, BackupError> {
        if !self.backups.saving.copies() {
            let why = "its file system can't clone it, and backup.methods allows nothing else";
            return Err(BackupError::Unsaveable { path: from.to_owned(), why: why.to_owned() });
        }
        let mut file = self.backups.files.create(new, 0o600)?;
        let copied = match read {
            Some(bytes) => {
                let written = file.write_all(bytes).map_err(FileError::at(Action::Write, new));
                written.map(|()| *hashed)
            }
            None => {
                let limit = hashed.length.saturating_add(1);
                let copied =
                    files::copy(self.backups.files, from, Some((new, file.as_mut())), limit);
                copied.map(|(sha256, length)| FileRef { sha256, length })
            }
        };
        match copied {
            Ok(copied) if copied == *hashed => {}
            Ok(_) => return Ok(false),
            Err(error) if error.is_full() => {
                files::remove_tree(self.backups.files, new)?;
                return Err(self.backups.full(error.path, hashed.length)?);
            }
            Err(error) => return Err(error.into()),
        }
        self.unsynced.add(new, file.as_mut())?;
        Ok(true)
    }

    /// What was cloned is what was hashed only if it has the same hash.
    fn keep_clone(&mut self, new: &Path, hashed: &FileRef) -> Result<bool, BackupError> {
        if self.backups.hash(new)? != *hashed {
            return Ok(false);
        }
        if !self.unsynced.may_wait() {
            self.backups.files.sync_file(new)?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
