//! What stands at a covered path, entry by entry, and what cannot be saved there.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use refit_proto::package::FileRef;

use super::{
    super::files::{self, Attributes, Files, Kind, Memory, Stat},
    BackupError, Cover, Entry, Role, What,
};

/// How often a file is read again that changed meanwhile.
const TRIES: u32 = 5;
/// Most entries of one covered path: a configuration of half a million files is none.
const MOST_ENTRIES: usize = 500_000;
/// Deepest folder below a covered path.
const DEEPEST: usize = 128;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// The entries that stood still.
    pub(super) entries: Vec<Entry>,
    /// Files that changed each time they were read.
    pub(super) busy: Vec<PathBuf>,
}

/// What to do with the content of a file: says what it is, or `None` where it is seen to change. Done
/// again where the file changed meanwhile.
pub(super) type Take<'a> = &'a mut dyn FnMut(&Path, &Stat) -> Result<Option<FileRef>, BackupError>;

/// What [`Take`] looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LooksAt {
    /// Every byte, so that files are fetched ahead.
    Bytes,
    /// How long files are.
    Lengths,
}

/// Looks at everything at and below a covered path.
pub(super) fn scan(
    files: &dyn Files,
    cover: &Cover,
    looks_at: LooksAt,
    take: Take<'_>,
) -> Result<Scanned, BackupError> {
    let Some(stat) = files.stat(&cover.path)? else { return Ok(Scanned::default()) };
    let refuse =
        |why: &str| Err(BackupError::Unsaveable { path: cover.path.clone(), why: why.to_owned() });
    match (cover.role, stat.kind) {
        (Role::Link, Kind::Link)
        | (Role::Unit | Role::Placed, Kind::File | Kind::Link)
        | (
            Role::Declared | Role::Data | Role::Converted,
            Kind::File | Kind::Link | Kind::Directory,
        ) => {}
        (Role::Link, _) => return refuse("it is not the link that Refit makes"),
        (Role::Unit, _) => return refuse("it is no unit file"),
        (Role::Placed, _) => return refuse("the release has a file there, and it is none"),
        (Role::Declared | Role::Data | Role::Converted, _) => {
            return refuse("it is a socket, a pipe or a device");
        }
    }
    // What is brought back is put in place by renaming, which a mount point does not allow.
    if cover.role != Role::Data
        && let Some(parent) = cover.path.parent()
        && files.stat(parent)?.is_some_and(|parent| parent.device != stat.device)
    {
        return refuse("a file system is mounted there; name the paths in it");
    }
    let device = stat.device;
    let (top, found) = (cover.path.as_path(), Scanned::default());
    let names = BTreeMap::new();
    let mut walk = Walk { files, top, device, looks_at, take, names, found };
    walk.visit(Path::new(""), &stat, 0)?;
    Ok(walk.found)
}

struct Walk<'a> {
    files: &'a dyn Files,
    top: &'a Path,
    device: u64,
    looks_at: LooksAt,
    take: Take<'a>,
    /// The first name of each file that has several, by inode, and what it was then.
    names: BTreeMap<u64, (PathBuf, Stat)>,
    found: Scanned,
}

impl Walk<'_> {
    fn visit(&mut self, path: &Path, stat: &Stat, depth: usize) -> Result<(), BackupError> {
        let at = join(self.top, path);
        let refuse =
            |why: &str| Err(BackupError::Unsaveable { path: at.clone(), why: why.to_owned() });
        if stat.device != self.device {
            return refuse("another file system is mounted there");
        }
        if depth > DEEPEST || self.found.entries.len() >= MOST_ENTRIES {
            return refuse("it holds too much for a backup of files");
        }
        let what = match stat.kind {
            Kind::File => return self.file(path, &at, stat, depth),
            Kind::Directory => What::Directory,
            Kind::Link => What::Link { target: self.files.read_link(&at)? },
            Kind::Socket => return Ok(()),
            Kind::Special => return refuse("it is a pipe or a device"),
        };
        let attributes = match what {
            What::Directory => self.files.attributes(&at)?,
            What::Link { .. } | What::File { .. } | What::HardLink { .. } => Attributes::new(),
        };
        self.add(path, what, stat, attributes);
        if stat.kind == Kind::Directory {
            let names = self.files.list(&at)?;
            let (files, looks_at) = (self.files, self.looks_at);
            let coming = |name| match looks_at {
                LooksAt::Bytes => files.read_ahead(&at.join(name), Memory::Good),
                LooksAt::Lengths => {}
            };
            for name in files::each_ahead(&names, coming) {
                let below = path.join(name);
                // What is gone since the folder was read is not there.
                if let Some(stat) = self.files.stat(&join(self.top, &below))? {
                    self.visit(&below, &stat, depth + 1)?;
                }
            }
        }
        Ok(())
    }

    /// Reads a file until it was the same before and after.
    fn file(
        &mut self,
        path: &Path,
        at: &Path,
        first: &Stat,
        depth: usize,
    ) -> Result<(), BackupError> {
        if let Some((name, stat)) = self.names.get(&first.inode) {
            if stat == first {
                let what = What::HardLink { first: name.clone() };
                self.add(path, what, first, Attributes::new());
            } else {
                // Changed since it was read under its first name.
                self.found.busy.push(at.to_owned());
            }
            return Ok(());
        }
        let mut before = *first;
        for _ in 0..TRIES {
            let read = (self.take)(at, &before)
                .and_then(|content| Ok((content, self.files.attributes(at)?)));
            let after = self.files.stat(at)?;
            match (read, after) {
                (Ok((Some(content), attributes)), Some(after))
                    if after == before && content.length == before.length =>
                {
                    self.add(path, What::File { content }, &before, attributes);
                    if before.links > 1 {
                        self.names.insert(before.inode, (path.to_owned(), before));
                    }
                    return Ok(());
                }
                (Err(BackupError::File(error)), _)
                    if error.path == at && error.source.kind() == io::ErrorKind::NotFound => {}
                (Err(error), _) => return Err(error),
                (Ok(_), _) => {}
            }
            match after {
                Some(after) if after.kind == Kind::File => before = after,
                Some(after) => return self.visit(path, &after, depth),
                None => return Ok(()),
            }
        }
        self.found.busy.push(at.to_owned());
        Ok(())
    }

    fn add(&mut self, path: &Path, what: What, stat: &Stat, attributes: Attributes) {
        let Stat { mode, uid, gid, modified, .. } = *stat;
        let path = path.to_owned();
        self.found.entries.push(Entry { path, what, mode, uid, gid, modified, attributes });
    }
}

/// A path below another; the other itself if it is empty, without a slash at its end.
pub(super) fn join(top: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { top.to_owned() } else { top.join(below) }
}
