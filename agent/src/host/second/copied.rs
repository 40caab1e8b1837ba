//! What this host knows of the copy of each of its backups: in the backup's own folder, so that it goes
//! with it.

use std::path::PathBuf;

use refit_copy::Pack;
use refit_proto::{names::Digest, package::FileRef};
use serde::{Deserialize, Serialize};

use crate::{
    host::{
        backup::Backups,
        files::{self, FileError},
    },
    update::BackupId,
};

const FILE: &str = "second.json";
const FORMAT: u32 = 1;
/// Largest that is read: the parts of half a million files.
const LONGEST: u64 = 200_000_000;

/// What is known of the copy of one backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    format: u32,
    /// Which place it is, with its encryption: what is known of another does not count.
    pub place: Digest,
    /// The packs that were read back from there.
    pub packs: Vec<Pack>,
    /// How far it has come.
    pub standing: Standing,
}

/// How far the copy of a backup has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "standing")]
pub enum Standing {
    /// Some of it may be there.
    Begun,
    /// What was saved while the services run is there and was read back; what is saved at rest is not.
    Saved,
    /// It counts there.
    Whole {
        /// Since when, in seconds since 1970.
        at: i64,
    },
    /// It does not.
    Failed {
        /// When that was tried last, in seconds since 1970.
        at: i64,
        /// Why.
        text: String,
    },
}

impl Copied {
    /// Of which nothing is there yet.
    pub fn nothing(place: Digest) -> Copied {
        Copied { format: FORMAT, place, packs: Vec::new(), standing: Standing::Begun }
    }
}

impl Backups<'_> {
    /// What is known of a backup's copy; `None` if nothing is, or it can't be read: then it is made again.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn copied(&self, id: &BackupId) -> Result<Option<Copied>, FileError> {
        let path = self.folder(id).join(FILE);
        if !files::exists(self.files(), &path)? {
            return Ok(None);
        }
        let bytes = files::read_file(self.files(), &path, LONGEST)?;
        let copied: Option<Copied> = serde_json::from_slice(&bytes).ok();
        Ok(copied.filter(|copied| copied.format == FORMAT))
    }

    /// Remembers it. Of a backup that is gone there is nothing to remember.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn keep_copied(&self, id: &BackupId, copied: &Copied) -> Result<(), FileError> {
        if !self.is_begun(id)? {
            return Ok(());
        }
        // No map with other than string keys and no fallible value: this cannot fail.
        let bytes = serde_json::to_vec(copied).unwrap_or_default();
        files::write_file(self.files(), &self.folder(id).join(FILE), &bytes, 0o600)
    }

    /// The content that is saved so far, with where it is.
    ///
    /// # Errors
    /// If it can't be listed.
    pub(super) fn content_files(
        &self,
        id: &BackupId,
    ) -> Result<Vec<(FileRef, PathBuf)>, FileError> {
        let folder = self.folder(id).join("content");
        let mut found = Vec::new();
        if !files::exists(self.files(), &folder)? {
            return Ok(found);
        }
        for name in self.files().list(&folder)? {
            let Some(sha256) = name.to_str().and_then(|name| Digest::parse(name).ok()) else {
                continue;
            };
            let path = folder.join(&name);
            if let Some(stat) = self.files().stat(&path)? {
                found.push((FileRef { sha256, length: stat.length }, path));
            }
        }
        Ok(found)
    }

    /// The list of what a backup holds, and its length.
    ///
    /// # Errors
    /// If it can't be inspected.
    pub(super) fn index_file(&self, id: &BackupId) -> Result<(PathBuf, u64), FileError> {
        let path = self.folder(id).join("index.json");
        let length = self.files().stat(&path)?.map_or(0, |stat| stat.length);
        Ok((path, length))
    }
}
