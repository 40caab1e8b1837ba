//! Files in memory that record every operation, and can fail or lose power at any of them. What a
//! power cut keeps is simple: names and bytes that were synced, and of the rest, as the test says,
//! nothing, the names without their bytes, the names with some sectors of some files, or everything. A move from one folder to another is kept
//! whole or not at all, as file systems with a journal do.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::{self, Read as _, Write},
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use super::files::{
    Action, Attributes, FileError, Files, Kind, Reading, Space, Stat, Time, Together, Writing,
};

/// What happens to operations from the n-th on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This one fails with this errno, the next are fine.
    Fails(i32),
    /// This one and all that follow fail with this errno; reading, too, only with EIO.
    Stays(i32),
    /// If this one writes, half of it is written, which is no error.
    ShortWrite,
    /// This one and all that follow are never done.
    PowerCut,
}

const EIO: i32 = 5;

/// What a power cut keeps of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Nothing.
    Synced,
    /// The names, but files hold only what was synced.
    Names,
    /// The names; of the bytes of each file every other sector, where it is long enough to have two, and of
    /// short ones those of every other file. What is missing is what was there before, or zeros.
    Torn,
    /// All of it.
    Everything,
}

/// What a disk writes whole or not at all, bytes.
const SECTOR: usize = 512;

/// The bytes of the file with this id, of which every other sector was written.
fn torn(id: u64, bytes: &[u8], synced: &[u8]) -> Vec<u8> {
    let mut torn = synced.to_vec();
    torn.resize(bytes.len(), 0);
    let written = (0..).zip(bytes.chunks(SECTOR)).filter(|(n, _)| (id + n).is_multiple_of(2));
    for (n, sector) in written {
        let at = n as usize * SECTOR;
        torn[at..at + sector.len()].copy_from_slice(sector);
    }
    torn
}

impl Kept {
    pub(crate) const ALL: [Kept; 4] = [Kept::Synced, Kept::Names, Kept::Torn, Kept::Everything];
}

#[derive(Debug, Clone)]
enum Content {
    File { bytes: Vec<u8>, synced: Vec<u8> },
    Directory { names: Names, synced: Names },
    Link(PathBuf),
    Special(Kind),
}

type Names = BTreeMap<OsString, u64>;

#[derive(Debug, Clone)]
struct Node {
    content: Content,
    mode: u32,
    owner: (u32, u32),
    modified: Time,
    attributes: Attributes,
    /// Counts changes of any kind.
    changed: i64,
    /// How many names it has.
    links: u64,
}

#[derive(Debug)]
struct Disk {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    operations: Vec<String>,
    fault: Option<(usize, Fault)>,
    free: Space,
    /// Whether files can be cloned.
    clones: bool,
    /// Whether each file has to be synced by itself.
    syncs_each: bool,
    /// Moves between folders of which neither was synced yet.
    moves: Vec<Move>,
}

#[derive(Debug, Clone)]
struct Move {
    from: (u64, OsString),
    to: (u64, OsString),
    id: u64,
}

/// The files. Clones are the same files.
#[derive(Debug, Clone)]
pub(crate) struct RecordingFiles(Arc<Mutex<Disk>>);

const ROOT: u64 = 1;

fn no(kind: io::ErrorKind) -> io::Error {
    io::Error::from(kind)
}

impl Default for RecordingFiles {
    fn default() -> Self {
        let free = Space { device: 1, bytes: 1 << 40, inodes: Some(1 << 20) };
        let mut disk = Disk {
            nodes: BTreeMap::new(),
            next: ROOT,
            operations: vec![],
            fault: None,
            free,
            clones: false,
            syncs_each: false,
            moves: vec![],
        };
        disk.insert(Content::Directory { names: Names::new(), synced: Names::new() }, 0o755);
        RecordingFiles(Arc::new(Mutex::new(disk)))
    }
}

impl RecordingFiles {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }

    /// How many operations there were so far.
    pub(crate) fn count(&self) -> usize {
        self.disk().operations.len()
    }

    /// What they were, from this one on.
    pub(crate) fn operations(&self, from: usize) -> Vec<String> {
        self.disk().operations[from..].to_vec()
    }

    /// The fault happens at the n-th operation from now.
    pub(crate) fn fault_after(&self, operations: usize, fault: Fault) {
        let mut disk = self.disk();
        disk.fault = Some((disk.operations.len() + operations, fault));
    }

    /// Whether the power is gone.
    pub(crate) fn is_dark(&self) -> bool {
        let disk = self.disk();
        matches!(disk.fault, Some((at, Fault::PowerCut)) if disk.operations.len() > at)
    }

    /// No fault any more.
    pub(crate) fn mend(&self) {
        self.disk().fault = None;
    }

    pub(crate) fn set_free(&self, bytes: u64, inodes: Option<u64>) {
        self.disk().free = Space { device: 1, bytes, inodes };
    }

    /// From now on files can be cloned, as on btrfs and xfs.
    pub(crate) fn can_clone(&self) {
        self.disk().clones = true;
    }

    /// From now on nobody may rely on the file system as a whole, as with an old kernel.
    pub(crate) fn syncs_each(&self) {
        self.disk().syncs_each = true;
    }

    /// The files after the power came back.
    pub(crate) fn after_power_cut(&self, kept: Kept) -> RecordingFiles {
        let disk = self.disk();
        let mut nodes = disk.nodes.clone();
        for (id, node) in &mut nodes {
            match &mut node.content {
                Content::File { bytes, synced } if kept == Kept::Torn => {
                    *synced = torn(*id, bytes, synced);
                    bytes.clone_from(synced);
                }
                Content::File { bytes, synced } if kept != Kept::Everything => {
                    bytes.clone_from(synced);
                }
                Content::File { bytes, synced } => synced.clone_from(bytes),
                Content::Directory { names, synced } if kept == Kept::Synced => {
                    names.clone_from(synced);
                }
                Content::Directory { names, synced } => synced.clone_from(names),
                Content::Link(_) | Content::Special(_) => {}
            }
        }
        count_names(&mut nodes);
        let Disk { next, free, clones, syncs_each, .. } = *disk;
        let (operations, moves) = (vec![], vec![]);
        let disk = Disk { nodes, next, operations, fault: None, free, clones, syncs_each, moves };
        RecordingFiles(Arc::new(Mutex::new(disk)))
    }

    /// The same files again, with everything on stable storage and nothing recorded.
    pub(crate) fn fork(&self) -> RecordingFiles {
        self.after_power_cut(Kept::Everything)
    }

    /// Changes a file's bytes behind the agent's back.
    pub(crate) fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.disk();
        let (_, found) = disk.find(path).unwrap();
        let node = disk.nodes.get_mut(&found.unwrap()).unwrap();
        let Content::File { bytes, synced } = &mut node.content else { panic!("no file") };
        change(bytes);
        synced.clone_from(bytes);
        node.changed += 1;
    }

    /// Puts a socket, pipe or device there.
    pub(crate) fn special(&self, path: &Path, kind: Kind) {
        self.disk().add(path, Content::Special(kind), 0o600).unwrap();
    }
}

impl Disk {
    fn insert(&mut self, content: Content, mode: u32) -> u64 {
        let id = self.next;
        self.next += 1;
        let (modified, attributes) = (Time::default(), Attributes::new());
        let node =
            Node { content, mode, owner: (0, 0), modified, attributes, changed: 0, links: 0 };
        self.nodes.insert(id, node);
        id
    }

    /// Records the operation, or is the fault.
    fn begin(&mut self, what: String) -> io::Result<()> {
        const READING: [&str; 5] = ["resolve", "inspect", "list", "read", "measure"];
        let reads = READING.iter().any(|verb| what.starts_with(verb));
        let index = self.operations.len();
        self.operations.push(what);
        match self.fault {
            Some((at, Fault::PowerCut)) if index >= at => Err(io::Error::other("no power")),
            Some((at, Fault::Fails(errno))) if index == at => {
                Err(io::Error::from_raw_os_error(errno))
            }
            Some((at, Fault::Stays(errno))) if index >= at && (errno == EIO || !reads) => {
                Err(io::Error::from_raw_os_error(errno))
            }
            _ => Ok(()),
        }
    }

    /// Whether the next operation is one that writes less than it should.
    fn is_short(&self) -> bool {
        self.fault == Some((self.operations.len(), Fault::ShortWrite))
    }

    fn names(&mut self, id: u64) -> io::Result<&mut Names> {
        match self.nodes.get_mut(&id).map(|node| &mut node.content) {
            Some(Content::Directory { names, .. }) => Ok(names),
            Some(Content::Link(_)) => Err(io::Error::other("a symbolic link is on the way")),
            Some(_) => Err(no(io::ErrorKind::NotADirectory)),
            None => Err(no(io::ErrorKind::NotFound)),
        }
    }

    fn synced(&mut self, folder: u64) -> &mut Names {
        match &mut self.nodes.get_mut(&folder).unwrap().content {
            Content::Directory { synced, .. } => synced,
            _ => panic!("no folder"),
        }
    }

    /// The folder that holds the name, and what stands there.
    fn find(&mut self, path: &Path) -> io::Result<(u64, Option<u64>)> {
        assert!(path.is_absolute(), "{} is not absolute", path.display());
        let (mut folder, mut found) = (ROOT, Some(ROOT));
        for component in path.components() {
            match component {
                Component::RootDir => continue,
                Component::Normal(name) => {
                    folder = found.ok_or(no(io::ErrorKind::NotFound))?;
                    found = self.names(folder)?.get(name).copied();
                }
                _ => panic!("{} has a . or ..", path.display()),
            }
        }
        Ok((folder, found))
    }

    fn node(&mut self, path: &Path) -> io::Result<&mut Node> {
        let found = self.find(path)?.1.ok_or(no(io::ErrorKind::NotFound))?;
        self.nodes.get_mut(&found).ok_or(no(io::ErrorKind::NotFound))
    }

    fn add(&mut self, path: &Path, content: Content, mode: u32) -> io::Result<u64> {
        let (folder, None) = self.find(path)? else {
            return Err(no(io::ErrorKind::AlreadyExists));
        };
        self.names(folder)?;
        let id = self.insert(content, mode);
        self.set_name(path, Some(id))?;
        Ok(id)
    }

    fn set_name(&mut self, path: &Path, id: Option<u64>) -> io::Result<()> {
        let (folder, _) = self.find(path)?;
        let names = self.names(folder)?;
        let before = match id {
            Some(id) => names.insert(name_of(path), id),
            None => names.remove(&name_of(path)),
        };
        if let Some(node) = before.and_then(|before| self.nodes.get_mut(&before)) {
            node.links -= 1;
        }
        if let Some(node) = id.and_then(|id| self.nodes.get_mut(&id)) {
            node.links += 1;
        }
        Ok(())
    }

    /// As the disk would be if the power went after all was written.
    fn sync_all(&mut self) {
        for node in self.nodes.values_mut() {
            match &mut node.content {
                Content::File { bytes, synced } => synced.clone_from(bytes),
                Content::Directory { names, synced } => synced.clone_from(names),
                Content::Link(_) | Content::Special(_) => {}
            }
        }
        self.moves.clear();
    }

    fn is_dir(&self, id: u64) -> bool {
        matches!(self.nodes[&id].content, Content::Directory { .. })
    }
}

fn count_names(nodes: &mut BTreeMap<u64, Node>) {
    let mut counted: BTreeMap<u64, u64> = BTreeMap::new();
    for node in nodes.values() {
        if let Content::Directory { names, .. } = &node.content {
            names.values().for_each(|id| *counted.entry(*id).or_default() += 1);
        }
    }
    for (id, node) in nodes {
        node.links = counted.get(id).copied().unwrap_or(0);
    }
}

fn name_of(path: &Path) -> OsString {
    path.file_name().unwrap().to_owned()
}

struct MemoryWriting {
    files: RecordingFiles,
    path: PathBuf,
    id: u64,
}

impl MemoryWriting {
    fn act(&self, verb: &str, act: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>)) -> io::Result<()> {
        let mut disk = self.files.disk();
        disk.begin(format!("{verb} {}", self.path.display()))?;
        let node = disk.nodes.get_mut(&self.id).unwrap();
        node.changed += 1;
        if let Content::File { bytes, synced } = &mut node.content {
            act(bytes, synced);
        }
        Ok(())
    }
}

impl Write for MemoryWriting {
    fn write(&mut self, new: &[u8]) -> io::Result<usize> {
        let new = match self.files.disk().is_short() {
            true => &new[..new.len().div_ceil(2)],
            false => new,
        };
        self.act("write", |bytes, _| bytes.extend_from_slice(new))?;
        Ok(new.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Reading for io::Cursor<Vec<u8>> {}

impl Writing for MemoryWriting {
    fn sync(&mut self) -> io::Result<()> {
        self.act("sync", |bytes, synced| synced.clone_from(bytes))
    }
}

struct MemoryTogether(RecordingFiles);

impl Together for MemoryTogether {
    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.0.disk();
        disk.begin(TOGETHER.to_owned())?;
        disk.sync_all();
        Ok(())
    }
}

/// How a sync of all files is recorded.
pub(crate) const TOGETHER: &str = "bring to stable storage everything";

impl RecordingFiles {
    fn act<T>(
        &self,
        action: Action,
        path: &Path,
        act: impl FnOnce(&mut Disk) -> io::Result<T>,
    ) -> Result<T, FileError> {
        let mut disk = self.disk();
        disk.begin(format!("{action} {}", path.display()))
            .and_then(|()| act(&mut disk))
            .map_err(FileError::at(action, path))
    }

    fn change(
        &self,
        action: Action,
        path: &Path,
        change: impl FnOnce(&mut Node),
    ) -> Result<(), FileError> {
        self.act(action, path, |disk| {
            let node = disk.node(path)?;
            change(node);
            node.changed += 1;
            Ok(())
        })
    }
}

impl Files for RecordingFiles {
    fn resolve(&self, path: &Path) -> Result<PathBuf, FileError> {
        Ok(path.to_owned())
    }

    fn stat(&self, path: &Path) -> Result<Option<Stat>, FileError> {
        self.act(Action::Inspect, path, |disk| {
            let found = match disk.find(path) {
                Ok((_, found)) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            let Some(inode) = found else { return Ok(None) };
            let node = &disk.nodes[&inode];
            let (kind, length) = match &node.content {
                Content::File { bytes, .. } => (Kind::File, bytes.len() as u64),
                Content::Directory { .. } => (Kind::Directory, 0),
                Content::Link(_) => (Kind::Link, 0),
                Content::Special(kind) => (*kind, 0),
            };
            Ok(Some(Stat {
                kind,
                mode: node.mode,
                uid: node.owner.0,
                gid: node.owner.1,
                length,
                modified: node.modified,
                changed: Time { seconds: node.changed, nanos: 0 },
                device: 1,
                inode,
                links: node.links,
            }))
        })
    }

    fn list(&self, path: &Path) -> Result<Vec<OsString>, FileError> {
        self.act(Action::List, path, |disk| {
            let id = disk.find(path)?.1.ok_or(no(io::ErrorKind::NotFound))?;
            Ok(disk.names(id)?.keys().cloned().collect())
        })
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Reading>, FileError> {
        self.act(Action::Read, path, |disk| match &disk.node(path)?.content {
            Content::File { bytes, .. } => {
                Ok(Box::new(io::Cursor::new(bytes.clone())) as Box<dyn Reading>)
            }
            _ => Err(io::Error::other("it is not a regular file")),
        })
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, FileError> {
        self.act(Action::Read, path, |disk| match &disk.node(path)?.content {
            Content::Link(target) => Ok(target.clone()),
            _ => Err(no(io::ErrorKind::InvalidInput)),
        })
    }

    fn attributes(&self, path: &Path) -> Result<Attributes, FileError> {
        self.act(Action::ReadAttributes, path, |disk| Ok(disk.node(path)?.attributes.clone()))
    }

    fn space(&self, path: &Path) -> Result<Space, FileError> {
        self.act(Action::MeasureSpace, path, |disk| {
            disk.node(path)?;
            Ok(disk.free)
        })
    }

    fn together(&self, folder: &Path) -> Result<Option<Box<dyn Together>>, FileError> {
        self.act(Action::Inspect, folder, |disk| {
            disk.node(folder)?;
            let all = MemoryTogether(self.clone());
            Ok((!disk.syncs_each).then(|| Box::new(all) as Box<dyn Together>))
        })
    }

    fn create(&self, path: &Path, mode: u32) -> Result<Box<dyn Writing>, FileError> {
        let id = self.act(Action::Create, path, |disk| {
            disk.add(path, Content::File { bytes: vec![], synced: vec![] }, mode)
        })?;
        Ok(Box::new(MemoryWriting { files: self.clone(), path: path.to_owned(), id }))
    }

    fn clone_file(&self, from: &Path, to: &Path, mode: u32) -> Result<bool, FileError> {
        self.act(Action::Create, to, |disk| {
            if !disk.clones {
                return Ok(false);
            }
            let Content::File { bytes, .. } = &disk.node(from)?.content else {
                return Err(io::Error::other("it is not a regular file"));
            };
            let content = Content::File { bytes: bytes.clone(), synced: vec![] };
            disk.add(to, content, mode).map(|_| true)
        })
    }

    fn append(&self, path: &Path) -> Result<Box<dyn Writing>, FileError> {
        let id = self.act(Action::Write, path, |disk| {
            disk.find(path)?.1.ok_or(no(io::ErrorKind::NotFound))
        })?;
        Ok(Box::new(MemoryWriting { files: self.clone(), path: path.to_owned(), id }))
    }

    fn reserve(&self, path: &Path, bytes: u64) -> Result<(), FileError> {
        self.act(Action::ReserveSpace, path, |disk| {
            if disk.free.bytes < bytes {
                return Err(no(io::ErrorKind::StorageFull));
            }
            disk.add(path, Content::File { bytes: vec![], synced: vec![] }, 0o600)?;
            disk.free.bytes -= bytes;
            Ok(())
        })
    }

    fn create_dir(&self, path: &Path, mode: u32) -> Result<(), FileError> {
        self.act(Action::Create, path, |disk| {
            let content = Content::Directory { names: Names::new(), synced: Names::new() };
            disk.add(path, content, mode).map(|_| ())
        })
    }

    fn symlink(&self, target: &Path, path: &Path) -> Result<(), FileError> {
        self.act(Action::Link, path, |disk| {
            disk.add(path, Content::Link(target.to_owned()), 0o777).map(|_| ())
        })
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<(), FileError> {
        self.act(Action::Link, to, |disk| {
            let id = disk.find(from)?.1.ok_or(no(io::ErrorKind::NotFound))?;
            match disk.find(to)?.1 {
                Some(_) => Err(no(io::ErrorKind::AlreadyExists)),
                None => disk.set_name(to, Some(id)),
            }
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), FileError> {
        self.act(Action::Rename, to, |disk| {
            let id = disk.find(from)?.1.ok_or(no(io::ErrorKind::NotFound))?;
            if let Some(there) = disk.find(to)?.1 {
                match (disk.is_dir(id), disk.is_dir(there)) {
                    (false, false) => {}
                    (true, true) if disk.names(there)?.is_empty() => {}
                    (true, true) => return Err(no(io::ErrorKind::DirectoryNotEmpty)),
                    (true, false) => return Err(no(io::ErrorKind::NotADirectory)),
                    (false, true) => return Err(no(io::ErrorKind::IsADirectory)),
                }
            }
            let folders = (disk.find(from)?.0, disk.find(to)?.0);
            if folders.0 != folders.1 {
                let (from, to) = ((folders.0, name_of(from)), (folders.1, name_of(to)));
                disk.moves.push(Move { from, to, id });
            }
            disk.set_name(from, None)?;
            disk.set_name(to, Some(id))
        })
    }

    fn remove_file(&self, path: &Path) -> Result<(), FileError> {
        self.act(Action::Remove, path, |disk| {
            let id = disk.find(path)?.1.ok_or(no(io::ErrorKind::NotFound))?;
            if disk.is_dir(id) {
                return Err(no(io::ErrorKind::IsADirectory));
            }
            disk.set_name(path, None)
        })
    }

    fn remove_dir(&self, path: &Path) -> Result<(), FileError> {
        self.act(Action::Remove, path, |disk| {
            let id = disk.find(path)?.1.ok_or(no(io::ErrorKind::NotFound))?;
            if !disk.names(id)?.is_empty() {
                return Err(no(io::ErrorKind::DirectoryNotEmpty));
            }
            disk.set_name(path, None)
        })
    }

    fn sync_file(&self, path: &Path) -> Result<(), FileError> {
        self.change(Action::Sync, path, |node| {
            if let Content::File { bytes, synced } = &mut node.content {
                synced.clone_from(bytes);
            }
        })
    }

    fn sync_dir(&self, path: &Path) -> Result<(), FileError> {
        self.act(Action::Sync, path, |disk| {
            let folder = disk.find(path)?.1.ok_or(no(io::ErrorKind::NotFound))?;
            disk.names(folder)?;
            let (settled, open): (Vec<_>, Vec<_>) = std::mem::take(&mut disk.moves)
                .into_iter()
                .partition(|moved| moved.from.0 == folder || moved.to.0 == folder);
            disk.moves = open;
            for Move { from, to, id } in settled {
                let left = disk.synced(from.0);
                if left.get(&from.1) == Some(&id) {
                    left.remove(&from.1);
                }
                disk.synced(to.0).insert(to.1, id);
            }
            if let Content::Directory { names, synced } =
                &mut disk.nodes.get_mut(&folder).unwrap().content
            {
                synced.clone_from(names);
            }
            Ok(())
        })
    }

    fn set_mode(&self, path: &Path, mode: u32) -> Result<(), FileError> {
        self.change(Action::SetMode, path, |node| node.mode = mode)
    }

    fn set_owner(&self, path: &Path, uid: u32, gid: u32) -> Result<(), FileError> {
        self.change(Action::SetOwner, path, |node| node.owner = (uid, gid))
    }

    fn set_modified(&self, path: &Path, time: Time) -> Result<(), FileError> {
        self.change(Action::SetTime, path, |node| node.modified = time)
    }

    fn set_attribute(&self, path: &Path, name: &OsString, value: &[u8]) -> Result<(), FileError> {
        self.change(Action::SetAttribute, path, |node| {
            node.attributes.insert(name.clone(), value.to_owned());
        })
    }

    fn remove_attribute(&self, path: &Path, name: &OsString) -> Result<(), FileError> {
        self.change(Action::SetAttribute, path, |node| {
            node.attributes.remove(name);
        })
    }
}

/// Everything at and below a path, for comparing before and after: kind, mode, owner, time,
/// attributes, and bytes or target.
pub(crate) fn snapshot(files: &dyn Files, path: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    look(files, path, &mut seen);
    seen
}

fn look(files: &dyn Files, path: &Path, seen: &mut BTreeMap<PathBuf, String>) {
    let Some(stat) = files.stat(path).unwrap() else { return };
    let Stat { kind, mode, uid, gid, modified, .. } = stat;
    let what = match kind {
        Kind::File => {
            let mut bytes = vec![];
            files.open(path).unwrap().read_to_end(&mut bytes).unwrap();
            format!("{modified:?} {:?} {bytes:?}", files.attributes(path).unwrap())
        }
        Kind::Link => format!("{:?}", files.read_link(path).unwrap()),
        Kind::Directory => format!("{:?}", files.attributes(path).unwrap()),
        Kind::Socket | Kind::Special => String::new(),
    };
    seen.insert(path.to_owned(), format!("{kind:?} {mode:o} {uid}:{gid} {what}"));
    if kind == Kind::Directory {
        for name in files.list(path).unwrap() {
            look(files, &path.join(name), seen);
        }
    }
}

/// Puts a file on stable storage, with the folders that lead to it.
pub(crate) fn put(files: &dyn Files, path: &Path, bytes: &[u8], mode: u32) {
    super::files::create_dirs(files, path.parent().unwrap(), 0o755).unwrap();
    super::files::write_file(files, path, bytes, mode).unwrap();
}

/// How many of the cut points are tried: one of so many. All of them by `cargo xtask powercuts`.
pub(crate) fn one_in(usual: usize) -> usize {
    if std::env::var("REFIT_POWERCUTS").is_ok_and(|share| share == "all") { 1 } else { usual }
}

/// Tries cut points one after the other, and says in the end how many there were and how many the host
/// survived; `cargo xtask powercuts` adds that up.
#[derive(Default)]
pub(crate) struct CutPoints {
    tried: usize,
    survived: usize,
}

impl CutPoints {
    /// Tries one. What does not survive is told at once, and fails the test in the end.
    pub(crate) fn survives(&mut self, point: impl FnOnce()) {
        self.tried += 1;
        let survived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(point)).is_ok();
        self.survived += usize::from(survived);
    }

    /// Adds up.
    pub(crate) fn end(self) {
        let CutPoints { tried, survived } = self;
        let thread = std::thread::current();
        println!("cut-points {tried} {survived} {}", thread.name().unwrap_or_default());
        assert_eq!(survived, tried, "so many of the cut points were survived");
    }
}

/// Carries `act` out again and again, each time with the fault one operation later, until it comes to
/// its end. `check` looks at what each fault left.
pub(crate) fn at_every_operation<T>(
    start: &RecordingFiles,
    fault: Fault,
    act: impl Fn(&RecordingFiles) -> T,
    mut check: impl FnMut(&RecordingFiles, T, &str),
) {
    let mut points = CutPoints::default();
    for n in 0.. {
        let files = start.fork();
        files.fault_after(n, fault);
        let result = act(&files);
        let hit = files.operations(0).get(n).cloned();
        files.mend();
        let where_ = format!("{fault:?} at operation {n}: {}", hit.as_deref().unwrap_or("none"));
        points.survives(|| check(&files, result, &where_));
        if hit.is_none() {
            return points.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::files, *};

    fn path(text: &str) -> &Path {
        Path::new(text)
    }

    #[test]
    fn a_power_cut_keeps_what_was_synced_and_loses_the_rest() {
        let files = RecordingFiles::default();
        put(&files, path("/a/kept"), b"kept", 0o644);
        files.create(path("/a/lost"), 0o644).unwrap().write_all(b"lost").unwrap();
        let after = |kept| {
            let files = files.after_power_cut(kept);
            let read = |at| files::read_file(&files, path(at), 10).ok();
            (read("/a/kept"), read("/a/lost"))
        };
        let kept = || Some(b"kept".to_vec());
        assert_eq!(after(Kept::Synced), (kept(), None));
        assert_eq!(after(Kept::Names), (kept(), Some(vec![])));
        assert_eq!(after(Kept::Everything), (kept(), Some(b"lost".to_vec())));
    }

    #[test]
    fn a_file_or_link_that_is_replaced_is_the_old_or_the_new_whenever_the_power_goes() {
        let start = RecordingFiles::default();
        put(&start, path("/a/file"), b"old", 0o644);
        files::replace_link(&start, path("old"), path("/a/link")).unwrap();
        let act = |files: &RecordingFiles| {
            files::write_file(files, path("/a/file"), b"new", 0o600)?;
            files::replace_link(files, path("new"), path("/a/link"))
        };
        at_every_operation(&start, Fault::PowerCut, act, |left, done, step| {
            for kept in Kept::ALL {
                let files = left.after_power_cut(kept);
                let bytes = files::read_file(&files, path("/a/file"), 10).unwrap();
                assert!(bytes == b"old" || bytes == b"new", "{step}, {kept:?}: {bytes:?}");
                let target = files.read_link(path("/a/link")).unwrap();
                assert!(target == path("old") || target == path("new"), "{step}, {kept:?}");
                if done.is_ok() {
                    assert!(bytes == b"new" && target == path("new"), "{step}, {kept:?}");
                }
                // And again, over whatever the cut has left beside them.
                act(&files).unwrap();
                assert_eq!(files.list(path("/a")).unwrap(), ["file", "link"], "{step}, {kept:?}");
            }
        });
    }

    #[test]
    fn a_removed_tree_is_gone_after_the_next_try_wherever_the_first_was_cut() {
        let start = RecordingFiles::default();
        put(&start, path("/a/b/c/file"), b"x", 0o644);
        put(&start, path("/a/b/locked/file"), b"x", 0o644);
        start.set_mode(path("/a/b/locked"), 0o500).unwrap();
        let act = |files: &RecordingFiles| files::remove_tree(files, path("/a/b")).is_ok();
        at_every_operation(&start, Fault::PowerCut, act, |left, _, step| {
            for kept in Kept::ALL {
                let files = left.after_power_cut(kept);
                files::remove_tree(&files, path("/a/b")).unwrap();
                let files = files.after_power_cut(Kept::Synced);
                assert!(!files::exists(&files, path("/a/b")).unwrap(), "{step}, {kept:?}");
                assert!(files::exists(&files, path("/a")).unwrap());
            }
        });
    }
}
