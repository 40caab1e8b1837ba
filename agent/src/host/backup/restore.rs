//! Bringing back, beside: for the test before a backup is sealed, and what a way back leaves to do
//! after it has swapped the saved state in.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use refit_proto::{gathered::Gathered as _, package::FileRef};

use super::{
    super::files::{self, Action, FileError, Files, Kind, Memory, Unsynced, Writing},
    BackupError, Backups, Cover, Covered, Entry, Index, Role, What, damaged,
    scan::{self, LooksAt, join},
    undo::aside_of,
    unreadable,
};
use crate::{
    update::{BackupId, InstallId, SetAside},
    way_back::{Undoing, WayBack},
};

impl Backups<'_> {
    /// Of which content every byte is read and compared by [`Self::test_restore`]: not of what it clones, since the
    /// clone is read there and not what it is made of.
    pub(super) fn read_by_test(&self, index: &Index) -> BTreeSet<FileRef> {
        if self.saving.clones() {
            return BTreeSet::new();
        }
        let entries = index.covered.iter().flat_map(|covered| index.to_be_restored(covered));
        entries.filter_map(|entry| entry.content()).gathered()
    }

    /// Restores everything into a folder of its own and compares it with the index, which says what
    /// stands on the host.
    pub(super) fn test_restore(&self, index: &Index) -> Result<(), BackupError> {
        let scratch = self.scratch(&index.id);
        files::remove_tree(self.files, &scratch)?;
        self.files.create_dir(&scratch, 0o700)?;
        for (covered, n) in index.covered.iter().zip(0..) {
            let to = scratch.join(n.to_string());
            let content = |_: &Entry, file: &FileRef| self.content(&index.id, &file.sha256);
            let entries = index.to_be_restored(covered);
            let how = if self.saving.clones() { How::Cloned } else { How::Copied };
            restore(self.files, &entries, &to, &content, Lasting::No, how)?;
            self.compare(&index.id, &covered.path, &entries, &to)?;
        }
        files::remove_tree(self.files, &scratch)?;
        Ok(())
    }

    /// Whether what was made at `to` is what stood at `path`; tells a backup that is damaged from one that does not
    /// bring back what it holds.
    pub(super) fn compare(
        &self,
        id: &BackupId,
        path: &Path,
        entries: &[Entry],
        to: &Path,
    ) -> Result<(), BackupError> {
        let Some(why) = difference(entries, &look(self.files, to)?) else { return Ok(()) };
        let content: Vec<FileRef> = entries.iter().filter_map(Entry::content).collect();
        self.read_back(id, &content, Memory::Good)?;
        Err(BackupError::Unrestorable { path: path.to_owned(), why })
    }

    /// After a way back has put the saved state in its place: keeps what it set aside in its turn, unless
    /// that is what was saved anyway. Says what is kept. Safe to repeat.
    ///
    /// # Errors
    /// If the system refuses; nothing is lost then, and the next call goes on.
    pub fn finish(&self, index: &Index, turn: &InstallId) -> Result<Vec<SetAside>, BackupError> {
        let mut kept = Vec::new();
        for (covered, n) in index.covered.iter().zip(0..) {
            // What the update was about to put there when it was cut off.
            let parent = covered.path.parent().unwrap_or(&covered.path);
            if files::exists(self.files, parent)? {
                files::remove_unfinished(self.files, &covered.path)?;
            }
            match covered.role {
                Role::Link | Role::Unit | Role::Placed | Role::Data => {}
                Role::Declared | Role::Converted => {
                    kept.extend(self.kept_of(index, turn, covered, n)?);
                }
            }
        }
        let mut databases = Vec::new();
        for dump in index.dumps.iter().filter(|dump| dump.converted) {
            databases.extend(self.kept_of_database(index, turn, dump)?);
        }
        self.note_aside(index, turn, &kept, &databases)?;
        kept.extend(databases.into_iter().map(|(kept, _)| kept));
        Ok(kept)
    }

    /// The same after a way back that was run without the journal: its install names the backup.
    /// Where the backup cannot be asked any more, what was set aside stays where it is and is named.
    pub fn finish_after(&self, way_back: &WayBack) -> Vec<SetAside> {
        let asides = way_back.steps.iter().filter_map(|step| match &step.undoing {
            Undoing::Swap { aside, .. } => Some(aside),
            _ => None,
        });
        let asides: Vec<&PathBuf> = asides.collect();
        let mut kept: Vec<SetAside> = Vec::new();
        for id in self.brought_back_from(way_back) {
            let index = self.index(&id).map_err(|error| error.to_string());
            let finished = index.and_then(|index| {
                self.finish(&index, &way_back.install).map_err(|error| error.to_string())
            });
            match finished {
                Ok(more) => kept.extend(more),
                Err(error) => {
                    tracing::error!("what was set aside stays beside its place: {error}");
                    let there = |aside: &&PathBuf| files::exists(self.files, aside).unwrap_or(true);
                    let left = asides.iter().copied().filter(there).cloned().map(SetAside::from);
                    let news: Vec<_> = left.filter(|left| !kept.contains(left)).collect();
                    kept.extend(news);
                }
            }
        }
        for kept in &kept {
            tracing::warn!("what the update had written is kept: {kept}");
        }
        kept
    }

    /// Whether nothing stands aside but what was saved anyway, or an empty folder that the swap has made.
    pub(super) fn is_as_saved(&self, covered: &Covered, aside: &Path) -> Result<bool, BackupError> {
        let nothing = self.holds_nothing(aside)?;
        Ok(nothing || difference(&covered.entries, &look(self.files, aside)?).is_none())
    }

    /// Whether nothing is there, or a folder as the swap makes it where nothing stood.
    fn holds_nothing(&self, aside: &Path) -> Result<bool, FileError> {
        match self.files.stat(aside)? {
            None => Ok(true),
            Some(stat) => Ok(stat.kind == Kind::Directory && holds_no_file(self.files, aside)?),
        }
    }

    /// Brings what stands aside to the agent's folder, unless it is as it was saved; all the same if it is a
    /// part of something `whole`.
    pub(super) fn keep_aside(
        &self,
        turn: &InstallId,
        covered: &Covered,
        n: u32,
        whole: bool,
    ) -> Result<Option<PathBuf>, BackupError> {
        let folder = self.set_aside().join(turn.as_str());
        let to = self.kept_at(turn, covered, n);
        let aside = aside_of(&covered.path, turn);
        let there = files::exists(self.files, &to)?;
        if !files::exists(self.files, &aside)? {
            return Ok(there.then_some(to));
        }
        if self.holds_nothing(&aside)? || (!whole && self.is_as_saved(covered, &aside)?) {
            files::remove_tree(self.files, &aside)?;
            return Ok(there.then_some(to));
        }
        files::create_dirs(self.files, &folder, 0o700)?;
        // A copy that was not finished; the whole is still aside.
        files::remove_tree(self.files, &to)?;
        match self.files.rename(&aside, &to) {
            Ok(()) => {
                files::sync_parent(self.files, &to)?;
                files::sync_parent(self.files, &aside)?;
            }
            Err(error) if error.source.kind() == io::ErrorKind::CrossesDevices => {
                self.copy_away(&aside, &to)?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Some(to))
    }

    /// To another file system: copied, compared, and only then removed.
    fn copy_away(&self, from: &Path, to: &Path) -> Result<(), BackupError> {
        let entries = look(self.files, from)?;
        let source = |entry: &Entry, _: &FileRef| join(from, &entry.path);
        restore(self.files, &entries, to, &source, Lasting::Yes, How::Copied)?;
        if let Some(why) = difference(&entries, &look(self.files, to)?) {
            return Err(BackupError::Unrestorable { path: from.to_owned(), why });
        }
        files::remove_tree(self.files, from)?;
        Ok(())
    }

    /// Where what was set aside is kept.
    pub fn set_aside(&self) -> PathBuf {
        self.data.join("set-aside")
    }
}

/// Whether a folder holds nothing but folders.
fn holds_no_file(files: &dyn Files, folder: &Path) -> Result<bool, FileError> {
    for name in files.list(folder)? {
        let path = folder.join(name);
        let is_folder = files.stat(&path)?.is_some_and(|stat| stat.kind == Kind::Directory);
        if !is_folder || !holds_no_file(files, &path)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What stands there, with the hashes of its files.
pub(super) fn look(files: &dyn Files, path: &Path) -> Result<Vec<Entry>, BackupError> {
    let cover = Cover { path: path.to_owned(), role: Role::Declared };
    let found = scan::scan(files, &cover, LooksAt::Bytes, &mut |path, _| {
        let (sha256, length) = files::copy(files, path, None, u64::MAX)?;
        Ok(Some(FileRef { sha256, length }))
    })?;
    match found.busy.into_iter().next() {
        Some(busy) => Err(BackupError::Busy(busy)),
        None => Ok(found.entries),
    }
}

/// The first difference, in words; `None` if there is none.
pub(super) fn difference(saved: &[Entry], found: &[Entry]) -> Option<String> {
    for (saved, found) in saved.iter().zip(found) {
        let of = |what: &str| Some(format!("{what} of {:?}", saved.path.display().to_string()));
        let Entry { path, what, mode, uid, gid, modified, attributes } = found;
        if (path, what) != (&saved.path, &saved.what) {
            return of("the content");
        } else if *mode != saved.mode {
            return of("the mode");
        } else if (*uid, *gid) != (saved.uid, saved.gid) {
            return of("the owner");
        } else if *modified != saved.modified {
            return of("the time");
        } else if *attributes != saved.attributes {
            return of("an extended attribute");
        }
    }
    (saved.len() != found.len()).then(|| "the number of files".to_owned())
}

/// How the bytes of a file are brought back.
#[derive(Debug, Clone, Copy)]
pub(super) enum How {
    /// As a copy, compared with its hash on the way.
    Compared,
    /// As a copy; whoever asks for it compares afterwards.
    Copied,
    /// As a clone where that can be done, else as a copy; whoever asks for it compares afterwards.
    Cloned,
}

/// Whether what is made has to survive a power cut: bringing 10,000 files to stable storage takes longer than
/// all else that is done with them, and what is made for a test is removed in a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasting {
    /// It stays.
    Yes,
    /// It is looked at and removed.
    No,
}

/// Makes these entries anew at `to`, each file from where `content` says.
pub(super) fn restore(
    files: &dyn Files,
    entries: &[Entry],
    to: &Path,
    content: &dyn Fn(&Entry, &FileRef) -> PathBuf,
    lasting: Lasting,
    how: How,
) -> Result<(), BackupError> {
    let above = to.parent().unwrap_or(to);
    let mut unsynced = match lasting {
        Lasting::Yes => Some(Unsynced::in_folder(files, above)?),
        Lasting::No => None,
    };
    // What is made for a test is made of what is on the disk.
    let memory = match lasting {
        Lasting::Yes => Memory::Good,
        Lasting::No => Memory::Forgotten,
    };
    let coming = |entry: &Entry| match (how, entry.content()) {
        (How::Compared | How::Copied, Some(wanted)) => {
            files.read_ahead(&content(entry, &wanted), memory);
        }
        (How::Compared | How::Copied, None) | (How::Cloned, _) => {}
    };
    for entry in files::each_ahead(entries, coming) {
        let at = join(to, &entry.path);
        match &entry.what {
            What::Directory => files.create_dir(&at, 0o700)?,
            What::Link { target } => files.symlink(target, &at)?,
            What::HardLink { first } => files.hard_link(&join(to, first), &at)?,
            What::File { content: wanted } => {
                let from = content(entry, wanted);
                let cloned = match how {
                    How::Cloned => files.clone_file(&from, &at, 0o600)?,
                    How::Compared | How::Copied => false,
                };
                if cloned {
                    continue;
                }
                let mut file = files.create(&at, 0o600)?;
                copy(files, &from, (&at, file.as_mut()), wanted, how)?;
                if let Some(unsynced) = &mut unsynced {
                    unsynced.add(&at, file.as_mut())?;
                }
            }
        }
    }
    // What is in a folder first: putting something into it changes its time, and its mode may forbid it.
    for entry in entries.iter().rev() {
        let at = join(to, &entry.path);
        match entry.what {
            // It has all that under its first name.
            What::HardLink { .. } => continue,
            What::Directory if !unsynced.as_mut().is_none_or(Unsynced::may_wait) => {
                files.sync_dir(&at)?;
            }
            What::Directory | What::File { .. } | What::Link { .. } => {}
        }
        dress(files, &at, entry)?;
    }
    let Some(mut unsynced) = unsynced else { return Ok(()) };
    if !unsynced.may_wait() {
        files.sync_dir(above)?;
    }
    Ok(unsynced.end().map_err(FileError::at(Action::Sync, to))?)
}

/// Copies a file that is to hold what is wanted.
fn copy(
    files: &dyn Files,
    from: &Path,
    to: (&Path, &mut (dyn Writing + 'static)),
    wanted: &FileRef,
    how: How,
) -> Result<(), BackupError> {
    let limit = wanted.length.saturating_add(1);
    let copied = match how {
        How::Compared => {
            let copied = files::copy(files, from, Some(to), limit);
            copied.map(|copied| copied == (wanted.sha256, wanted.length))
        }
        How::Copied | How::Cloned => {
            files::copy_unseen(files, from, to, limit).map(|length| length == wanted.length)
        }
    };
    match copied {
        Ok(true) => Ok(()),
        Ok(false) => Err(damaged(from, "its bytes are not those that were saved")),
        Err(error) if error.path == from => Err(unreadable(error)),
        Err(error) => Err(error.into()),
    }
}

/// Gives what stands there owner, mode, attributes and time of the entry, where they differ: an agent
/// that is not root may not set an owner, even to what it is.
fn dress(files: &dyn Files, at: &Path, entry: &Entry) -> Result<(), FileError> {
    let Some(stat) = files.stat(at)? else { return Ok(()) };
    let owned = (stat.uid, stat.gid) == (entry.uid, entry.gid);
    if !owned {
        files.set_owner(at, entry.uid, entry.gid)?;
    }
    if !matches!(entry.what, What::Link { .. }) {
        // A change of owner takes capabilities and set-id bits away, so these come after it; and the
        // mode last, since it may forbid its owner to set an attribute, and a list of access changes it.
        let there = files.attributes(at)?;
        for (name, value) in &entry.attributes {
            if there.get(name) != Some(value) {
                files.set_attribute(at, name, value)?;
            }
        }
        for name in there.keys().filter(|name| !entry.attributes.contains_key(*name)) {
            files.remove_attribute(at, name)?;
        }
        if !owned || stat.mode != entry.mode || there != entry.attributes {
            files.set_mode(at, entry.mode)?;
        }
    }
    if stat.modified != entry.modified || !owned {
        files.set_modified(at, entry.modified)?;
    }
    Ok(())
}
