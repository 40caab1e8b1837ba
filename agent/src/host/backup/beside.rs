//! What a backup holds, made anew in a folder of its own: to look at it, or to take from it on another host.
//! Nothing of what it covers is touched.

use std::path::{Path, PathBuf};

use refit_proto::package::FileRef;

use super::{
    super::{
        files::{self, Attributes, Kind, Time},
        preflight::{lacking, on_disk},
    },
    BackupError, Backups, Entry, Index, What,
    restore::{How, Lasting, restore},
};

/// Why a backup is not brought back into a folder. Nothing is left there then.
#[derive(Debug, thiserror::Error)]
pub enum BesideError {
    /// The folder holds something.
    #[error("{} is there and is no empty folder\nhelp: name a folder that is not there yet", .0.display())]
    Taken(PathBuf),
    /// The folder is none that a person may use for this.
    #[error("{} can't be used: {why}\nhelp: name a folder that is not there yet", path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// The backup, or the disk.
    #[error(transparent)]
    Backup(#[from] BackupError),
}

impl From<files::FileError> for BesideError {
    fn from(error: files::FileError) -> BesideError {
        BesideError::Backup(error.into())
    }
}

/// A dump as a file of whoever looks at it.
fn a_dump(content: FileRef, made: i64) -> Entry {
    Entry {
        path: PathBuf::new(),
        what: What::File { content },
        mode: 0o600,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        modified: Time { seconds: made, nanos: 0 },
        attributes: Attributes::new(),
    }
}

impl Backups<'_> {
    /// Makes everything that a backup holds below `folder`, each at the path that it was saved from and dumps
    /// below `databases`, and compares it with what was saved. Says which paths held nothing when it was saved.
    ///
    /// # Errors
    /// If it can't be made as it was: without the rights to set owners, on a full disk. Nothing of it is
    /// left then.
    pub fn restore_to(&self, index: &Index, folder: &Path) -> Result<Vec<PathBuf>, BesideError> {
        let folder = self.files.resolve(folder)?;
        if folder.starts_with(&self.data) || self.data.starts_with(&folder) {
            let why = "the agent's own files are there";
            return Err(BesideError::Unusable { path: folder, why });
        }
        if index.covered.iter().any(|it| it.path.starts_with(&folder)) {
            let why = "what was saved stands in it";
            return Err(BesideError::Unusable { path: folder, why });
        }
        let was_there = match self.files.stat(&folder)? {
            None => false,
            Some(stat) if stat.kind == Kind::Directory && self.files.list(&folder)?.is_empty() => {
                true
            }
            Some(_) => return Err(BesideError::Taken(folder)),
        };
        let index = &index.clone().owned_as_now(self.files)?;
        self.has_room(index, &folder)?;
        let made = self.make_below(index, &folder);
        if made.is_err() {
            // What counts is why it failed.
            let _best_effort = self.take_away(&folder, was_there);
        }
        Ok(made?)
    }

    fn has_room(&self, index: &Index, folder: &Path) -> Result<(), BackupError> {
        let entries = index.covered.iter().flat_map(|covered| &covered.entries);
        let bytes: u64 = entries
            .map(|entry| match &entry.what {
                // Holes come back as holes: no more than this, and often less.
                What::File { content } => on_disk(content.length),
                What::HardLink { .. } => 0,
                What::Directory | What::Link { .. } => on_disk(1),
            })
            .sum();
        let dumps = index.dumps.iter().filter_map(|dump| Some(on_disk(dump.content?.length)));
        let bytes = bytes.saturating_add(dumps.sum());
        let free = self.files.space(&files::nearest(self.files, folder)?)?.bytes;
        if bytes <= free || self.has_holes(index)? {
            return Ok(());
        }
        let (file_system, bytes) = lacking(self.files, folder, bytes)?;
        Err(BackupError::Full { path: folder.to_owned(), file_system, bytes })
    }

    /// Whether how much space it takes can't be told from lengths.
    fn has_holes(&self, index: &Index) -> Result<bool, BackupError> {
        for content in index.content() {
            let path = self.content(&index.id, &content.sha256);
            if files::data_length(self.files, &path, content.length)? < content.length {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn make_below(&self, index: &Index, folder: &Path) -> Result<Vec<PathBuf>, BackupError> {
        // What it holds was not for everybody to read.
        files::create_dirs(self.files, folder, 0o700)?;
        let content = |_: &Entry, file: &FileRef| self.content(&index.id, &file.sha256);
        let mut nothing = Vec::new();
        for covered in &index.covered {
            if covered.entries.is_empty() {
                nothing.push(covered.path.clone());
                continue;
            }
            let to = folder.join(covered.path.strip_prefix("/").unwrap_or(&covered.path));
            files::create_dirs(self.files, to.parent().unwrap_or(folder), 0o755)?;
            let entries = &covered.entries;
            restore(self.files, entries, &to, &content, Lasting::Yes, How::Copied)?;
            self.compare(&index.id, &covered.path, entries, &to)?;
        }
        for dump in &index.dumps {
            let Some(file) = dump.content else { continue };
            let to = folder.join("databases").join(format!("{}.dump", dump.database.name()));
            files::create_dirs(self.files, to.parent().unwrap_or(folder), 0o700)?;
            let entries = [a_dump(file, index.made)];
            restore(self.files, &entries, &to, &content, Lasting::Yes, How::Compared)?;
        }
        files::sync_parent(self.files, folder)?;
        Ok(nothing)
    }

    fn take_away(&self, folder: &Path, was_there: bool) -> Result<(), files::FileError> {
        if !was_there {
            return files::remove_tree(self.files, folder).map(drop);
        }
        for name in self.files.list(folder)? {
            files::remove_tree(self.files, &folder.join(name))?;
        }
        Ok(())
    }
}
