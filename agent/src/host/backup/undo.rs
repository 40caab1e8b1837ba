//! A sealed backup as steps of a way back, which whoever runs it can do without knowing this module.
//!
//! The link and unit files are put back where they are, each in one move. What the manifest names is
//! first made beside its place, then swapped in, and what stood there is set aside on the same file
//! system; [`Backups::finish`] brings that to the agent's own folder.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use super::{
    super::files::{self, FileError},
    Backups, Covered, Entry, Index, Role, What,
    scan::join,
};
use crate::{
    update::{BackupId, InstallId},
    way_back::{UndoStep, Undoing},
};

/// Who may do what with a file, beside its mode; and what is made in a folder gets from it.
const ACCESS: &str = "system.posix_acl_access";
const DEFAULT_ACCESS: &str = "system.posix_acl_default";
/// A list of access of the kernel's version 2 without an entry: setting it removes the list that is there.
const NO_ACCESS_LIST: [u8; 4] = [2, 0, 0, 0];

impl Backups<'_> {
    /// The steps that bring back everything that the backup covers, in their order. Services have to
    /// be stopped before the first and started after the last. `turn` is the name under which they set
    /// aside what is there: another each time that a backup is brought back.
    ///
    /// # Errors
    /// If the folders that it all stands in can't be looked at.
    pub fn undo_steps(&self, index: &Index, turn: &InstallId) -> Result<Vec<UndoStep>, FileError> {
        // What the new release may read comes first, the pointer to the old one last.
        let last = |covered: &&Covered| covered.role == Role::Link;
        let (link, others): (Vec<_>, Vec<_>) = index.covered.iter().partition(last);
        // What SQLite keeps beside a file goes before the file: the one of before must never meet it.
        let is_converted = |covered: &&Covered| covered.role == Role::Converted;
        let (converted, others): (Vec<_>, Vec<_>) = others.into_iter().partition(is_converted);
        let mut steps = self.leading(&index.covered)?;
        for covered in others.into_iter().chain(converted.into_iter().rev()) {
            steps.extend(self.undo(&index.id, turn, covered)?);
        }
        steps.extend(index.dumps.iter().flat_map(|dump| self.undo_dump(&index.id, turn, dump)));
        for covered in link {
            steps.extend(self.undo(&index.id, turn, covered)?);
        }
        Ok(steps)
    }

    /// The steps that make the folders again that lead to what is brought back, where they are gone: with a
    /// removal, or by another hand.
    ///
    /// # Errors
    /// If they can't be looked at.
    pub fn leading<'c>(
        &self,
        covered: impl IntoIterator<Item = &'c Covered>,
    ) -> Result<Vec<UndoStep>, FileError> {
        let mut missing = BTreeSet::new();
        let covered = covered.into_iter();
        let stood = covered.filter(|it| it.role != Role::Data && !it.entries.is_empty());
        for covered in stood {
            for folder in covered.path.ancestors().skip(1) {
                if missing.contains(folder) || files::exists(self.files, folder)? {
                    break;
                }
                missing.insert(folder.to_owned());
            }
        }
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let (uid, gid) = own;
        let made = |path: PathBuf| UndoStep {
            unless: Some(path.clone()),
            undoing: Undoing::Folder { path, mode: 0o755, uid, gid },
        };
        // Sorted, a folder stands before what is in it.
        Ok(missing.into_iter().map(made).collect())
    }

    /// The steps that bring back what stood at one path.
    ///
    /// # Errors
    /// If the folders that it stands in can't be looked at.
    pub fn undo(
        &self,
        id: &BackupId,
        turn: &InstallId,
        covered: &Covered,
    ) -> Result<Vec<UndoStep>, FileError> {
        let path = covered.path.clone();
        Ok(match (covered.role, covered.entries.first()) {
            (Role::Link, None) => vec![Undoing::RemoveLink { path }.into()],
            (Role::Unit | Role::Placed, None) => vec![Undoing::Remove { path }.into()],
            (Role::Link, Some(entry)) => vec![self.make(id, entry, &path).into()],
            (Role::Unit | Role::Placed, Some(entry)) => {
                let made = self.make(id, entry, &path);
                let bared = self.bare(entry, &path)?;
                let steps = std::iter::once(made).chain(bared).chain(dress(entry, &path));
                steps.map(UndoStep::from).collect()
            }
            (Role::Data, _) => Vec::new(),
            (Role::Declared | Role::Converted, None) => swap_in_nothing(turn, path),
            (Role::Declared | Role::Converted, Some(_)) => self.swap_in(id, turn, covered)?,
        })
    }

    /// Takes away the lists of access that what is made at a path gets from the folder that it stands in,
    /// where that gives any. What is made in it then gets none.
    fn bare(&self, made: &Entry, path: &Path) -> Result<Vec<Undoing>, FileError> {
        let parent = path.parent().unwrap_or(path);
        let gives = files::exists(self.files, parent)?
            && self.files.attributes(parent)?.contains_key(OsStr::new(DEFAULT_ACCESS));
        let names: &[&str] = match (&made.what, gives) {
            (What::Link { .. }, _) | (_, false) => &[],
            (What::Directory, true) => &[DEFAULT_ACCESS, ACCESS],
            (What::File { .. } | What::HardLink { .. }, true) => &[ACCESS],
        };
        let bare = |name: &&str| Undoing::Attribute {
            path: path.to_owned(),
            name: name.into(),
            value: NO_ACCESS_LIST.to_vec(),
        };
        Ok(names.iter().map(bare).collect())
    }

    /// The step that makes one entry of what is brought back at `top`.
    fn make(&self, id: &BackupId, entry: &Entry, top: &Path) -> Undoing {
        let Entry { mode, uid, gid, .. } = *entry;
        let path = join(top, &entry.path);
        match &entry.what {
            What::HardLink { first } => Undoing::HardLink { path, from: join(top, first) },
            What::Directory => Undoing::Folder { path, mode, uid, gid },
            What::Link { target } => Undoing::Link { path, target: target.clone() },
            What::File { content } => {
                let (from, digest) = (self.content(id, &content.sha256), content.sha256);
                Undoing::File { path, from, digest, mode, uid, gid }
            }
        }
    }

    fn swap_in(
        &self,
        id: &BackupId,
        turn: &InstallId,
        covered: &Covered,
    ) -> Result<Vec<UndoStep>, FileError> {
        let path = covered.path.clone();
        let (from, aside) = (beside(&path, "back", turn), aside_of(&path, turn));
        // None of it is done again once the swap has begun: then `from` may be in its place already.
        let unless = Some(aside.clone());
        let before = |undoing| UndoStep { undoing, unless: unless.clone() };
        let mut steps = vec![before(Undoing::Remove { path: from.clone() })];
        for entry in &covered.entries {
            let undoing = match self.make(id, entry, &from) {
                // Its own mode comes last: it may forbid its owner to put anything into it.
                Undoing::Folder { path, mode, uid, gid } => {
                    Undoing::Folder { path, mode: mode | 0o700, uid, gid }
                }
                other => other,
            };
            steps.push(before(undoing));
            if entry.path.as_os_str().is_empty() {
                steps.extend(self.bare(entry, &from)?.into_iter().map(before));
            }
        }
        // What is in a folder first: putting something into it changes its time, and its mode may forbid it.
        for entry in covered.entries.iter().rev() {
            if matches!(entry.what, What::HardLink { .. }) {
                // It has all that under its first name.
                continue;
            }
            let at = join(&from, &entry.path);
            if entry.what == What::Directory && entry.mode & 0o700 != 0o700 {
                steps.push(before(self.make(id, entry, &from)));
            }
            steps.extend(dress(entry, &at).into_iter().map(before));
        }
        steps.push(Undoing::Swap { path, from, aside }.into());
        Ok(steps)
    }
}

/// What an entry has beside owner and mode. A change of owner takes capabilities away, so attributes come
/// after it; a list of access changes the mode, so that comes once more; the time comes last.
fn dress(entry: &Entry, at: &Path) -> Vec<Undoing> {
    let path = at.to_owned();
    let attributes = entry.attributes.iter().map(|(name, value)| Undoing::Attribute {
        path: path.clone(),
        name: name.clone(),
        value: value.clone(),
    });
    let mode = (!entry.attributes.is_empty())
        .then(|| Undoing::Mode { path: path.clone(), mode: entry.mode });
    // Whoever runs the way back is who makes its steps, and owns the links that it makes.
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let is_others = matches!(entry.what, What::Link { .. }) && (entry.uid, entry.gid) != own;
    let owner =
        is_others.then(|| Undoing::Owner { path: path.clone(), uid: entry.uid, gid: entry.gid });
    let modified = Undoing::Modified { path: path.clone(), time: entry.modified };
    owner.into_iter().chain(attributes).chain(mode).chain([modified]).collect()
}

/// Nothing was there: what is there now is set aside, by swapping an empty folder in and removing it.
fn swap_in_nothing(turn: &InstallId, path: PathBuf) -> Vec<UndoStep> {
    let (from, aside) = (beside(&path, "back", turn), aside_of(&path, turn));
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let (uid, gid) = own;
    vec![
        Undoing::Folder { path: from.clone(), mode: 0o700, uid, gid }.into(),
        Undoing::Swap { path: path.clone(), from: from.clone(), aside }.into(),
        Undoing::Remove { path: from }.into(),
        Undoing::Remove { path }.into(),
    ]
}

fn beside(path: &Path, word: &str, turn: &InstallId) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".refit-{word}-{turn}"));
    path.with_file_name(name)
}

/// Where a way back sets aside what stands at a path.
pub(super) fn aside_of(path: &Path, turn: &InstallId) -> PathBuf {
    beside(path, "aside", turn)
}
