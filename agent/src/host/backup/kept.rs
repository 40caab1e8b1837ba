//! The backups that are there: listed, told apart, kept and removed.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use refit_proto::{
    names::{Digest, Product},
    package::FileRef,
};

use super::{
    super::files::{self, FileError},
    BackupError, Backups, INDEX, INDEX_MAX, Index, Kept, Retention, SEAL, damaged,
};
use crate::update::{BackupId, SealedBackup};

/// In a backup's folder: nothing removes it by itself.
const PINNED: &str = "pinned";

impl Backups<'_> {
    /// The index of a backup, by its own seal: to know what it refers to, not to go back from.
    ///
    /// # Errors
    /// If it has no seal or is damaged.
    pub fn index(&self, id: &BackupId) -> Result<Index, BackupError> {
        let folder = self.folder(id);
        let seal = self.read(&folder.join(SEAL), 64)?;
        let bytes = self.read(&folder.join(INDEX), INDEX_MAX)?;
        if Digest::of(&bytes).to_string().as_bytes() != seal {
            return Err(damaged(&folder.join(INDEX), "its hash is not the sealed one"));
        }
        Index::parse(&bytes).ok_or_else(|| damaged(&folder.join(INDEX), "it is no index"))
    }

    /// What proves a backup to itself: that it is whole, not that it is the one that is meant.
    ///
    /// # Errors
    /// If it has no seal.
    pub fn own_seal(&self, id: &BackupId) -> Result<SealedBackup, BackupError> {
        let path = self.folder(id).join(SEAL);
        let seal = self.read(&path, 64)?;
        let seal = std::str::from_utf8(&seal).ok().and_then(|seal| Digest::parse(seal).ok());
        let seal = seal.ok_or_else(|| damaged(&path, "it is no seal"))?;
        Ok(SealedBackup { id: id.clone(), seal })
    }

    /// Whether there is anything of a backup.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn is_begun(&self, id: &BackupId) -> Result<bool, FileError> {
        files::exists(self.files, &self.folder(id))
    }

    /// Whether a backup was finished: only then was anything changed after it.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn is_sealed(&self, id: &BackupId) -> Result<bool, FileError> {
        files::exists(self.files, &self.folder(id).join(SEAL))
    }

    /// The ids of all backups, sealed or not, in order.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn list(&self) -> Result<Vec<BackupId>, FileError> {
        if !files::exists(self.files, &self.root())? {
            return Ok(Vec::new());
        }
        let names = self.files.list(&self.root())?;
        let names = names.iter().filter_map(|name| name.to_str());
        let names = names.filter(|name| !name.starts_with('.'));
        Ok(names.filter_map(|name| BackupId::parse(name).ok()).collect())
    }

    /// The largest order of the backups that are here beside this one. One that can't be read has none.
    pub(super) fn last_order(&self, but: &BackupId) -> Result<Option<i64>, FileError> {
        let others = self.list()?.into_iter().filter(|other| other != but);
        Ok(others.filter_map(|other| Some(self.index(&other).ok()?.order())).max())
    }

    /// Removes the backups of a product that retention does not keep, but for those that are `held`. One
    /// whose index cannot be read stays, since nobody knows whose it is.
    ///
    /// # Errors
    /// If the system refuses; the next call goes on.
    pub fn clean(
        &self,
        product: &Product,
        retention: &Retention,
        held: &BTreeSet<BackupId>,
        now: i64,
    ) -> Result<(), BackupError> {
        let mut held = held.clone();
        let mut kept = Vec::new();
        for id in self.list()? {
            let Ok(index) = self.index(&id) else { continue };
            if index.product == *product {
                if self.is_pinned(&id)? {
                    held.insert(id.clone());
                }
                let (order, made) = (index.order(), index.made);
                kept.push(Kept { id, order, made, content: index.content() });
            }
        }
        for id in retention.surplus(&kept, &held, now) {
            self.remove(&id)?;
        }
        Ok(())
    }

    /// From now on nothing removes a backup by itself.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn pin(&self, id: &BackupId) -> Result<(), FileError> {
        let folder = self.folder(id);
        if files::exists(self.files, &folder)? {
            files::write_file(self.files, &folder.join(PINNED), b"", 0o600)?;
        }
        Ok(())
    }

    /// Whether nothing removes a backup by itself.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn is_pinned(&self, id: &BackupId) -> Result<bool, FileError> {
        files::exists(self.files, &self.folder(id).join(PINNED))
    }

    /// Removes a backup, whatever there is of it: the seal first, so that no half of one counts.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn remove(&self, id: &BackupId) -> Result<(), FileError> {
        files::remove_tree(self.files, &self.folder(id).join(SEAL))?;
        files::remove_tree(self.files, &self.folder(id))?;
        files::remove_tree(self.files, &self.scratch(id)).map(drop)
    }

    /// Takes content that another backup holds already as a second name of the same file, if its bytes are
    /// still what they were. Whichever of the two is removed first, the other keeps it.
    pub(super) fn link_from(
        &self,
        others: &[BackupId],
        wanted: &FileRef,
        place: &Path,
    ) -> Result<bool, FileError> {
        for other in others {
            let there = self.content(other, &wanted.sha256);
            if !files::exists(self.files, &there)? {
                continue;
            }
            let found = files::copy(self.files, &there, None, wanted.length.saturating_add(1));
            if found.is_ok_and(|found| found == (wanted.sha256, wanted.length)) {
                // A file with as many names as it may have is copied again, and so is one that was
                // removed meanwhile.
                return Ok(self.files.hard_link(&there, place).is_ok());
            }
        }
        Ok(false)
    }

    /// How many bytes on the disk are this backup's alone.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn own_bytes(&self, index: &Index) -> Result<u64, FileError> {
        let mut bytes = 0;
        for content in index.content() {
            let path: PathBuf = self.content(&index.id, &content.sha256);
            let stat = self.files.stat(&path)?;
            if stat.is_some_and(|stat| stat.links == 1) {
                bytes += content.length;
            }
        }
        Ok(bytes)
    }
}
