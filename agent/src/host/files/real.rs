//! The host's own files. Walks every path component by component without following links, and acts
//! relative to the folder that it reached, so that nobody can put a link in its way in between.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Seek as _, Write},
    num::NonZero,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Component, Path, PathBuf},
};

use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Timespec, Timestamps, Uid,
};

use refit_proto::sorted;

use super::{
    Action, Attributes, FileError, Files, Kind, Memory, Piece, Reading, Space, Stat, Time,
    Together, Writing, together,
};

/// The files of this host.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealFiles;

/// A folder that was reached without following a link, and the name of something in it.
struct Place<'a> {
    folder: OwnedFd,
    name: &'a OsStr,
}

const TO_FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Walks to the folder of `path`.
fn walk(path: &Path) -> io::Result<Place<'_>> {
    let invalid = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if !path.is_absolute() {
        return invalid("the path is not absolute");
    }
    let known = |it| matches!(it, Component::RootDir | Component::Normal(_));
    if !path.components().all(known) {
        return invalid("the path has a . or .. component");
    }
    let Some((above, name)) = path.parent().zip(path.file_name()) else {
        let folder = fs::open("/", TO_FOLDER, Mode::empty())?;
        return Ok(Place { folder, name: OsStr::new(".") });
    };
    // In one call, where the kernel has it (5.6). Whatever is wrong is found by going step by step.
    match fs::openat2(fs::CWD, above, TO_FOLDER, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(folder) => Ok(Place { folder, name }),
        Err(_) => Ok(Place { folder: step_by_step(above)?, name }),
    }
}

fn step_by_step(path: &Path) -> io::Result<OwnedFd> {
    let mut folder = fs::open("/", TO_FOLDER, Mode::empty())?;
    for component in path.components() {
        if let Component::Normal(name) = component {
            folder = enter(&folder, name)?;
        }
    }
    Ok(folder)
}

fn enter(folder: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    match fs::openat(folder, name, TO_FOLDER | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(next) => Ok(next),
        Err(rustix::io::Errno::NOTDIR) if is_link(folder, name) => {
            Err(io::Error::other(format!("{} on the way is a symbolic link", name.display())))
        }
        Err(error) => Err(error.into()),
    }
}

fn is_link(folder: &OwnedFd, name: &OsStr) -> bool {
    fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

impl Place<'_> {
    fn open(&self, flags: OFlags, mode: u32) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(fs::openat(&self.folder, self.name, flags, Mode::from_raw_mode(mode))?)
    }

    fn stat(&self) -> io::Result<Option<fs::Stat>> {
        match fs::statat(&self.folder, self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The thing itself by a name that works also where it may be neither read nor written: mode and
    /// attributes have no other call that follows no link.
    fn by_handle<T>(&self, act: impl FnOnce(&Path) -> rustix::io::Result<T>) -> io::Result<T> {
        let handle = self.open(OFlags::PATH, 0)?;
        if FileType::from_raw_mode(fs::fstat(&handle)?.st_mode) == FileType::Symlink {
            return Err(io::Error::other("it is a symbolic link"));
        }
        Ok(act(Path::new(&format!("/proc/self/fd/{}", handle.as_raw_fd())))?)
    }
}

/// How much of a file is fetched ahead: of what is longer the system itself fetches the rest in time.
const MOST_AHEAD: u64 = 1 << 20;

struct RealWriting(File);

impl Write for RealWriting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A file being read, and where the data ends that it is read in.
struct RealReading {
    file: File,
    data_until: u64,
}

impl Read for RealReading {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.file.read(bytes)
    }
}

impl Reading for RealReading {
    fn piece(&mut self, buffer: &mut [u8]) -> io::Result<Piece> {
        let at = self.file.stream_position()?;
        if at >= self.data_until {
            let data = match fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(data) => data,
                // Nothing but a hole, up to the end.
                Err(rustix::io::Errno::NXIO) => self.file.metadata()?.len().max(at),
                // A file system without holes.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => {
                    self.data_until = u64::MAX;
                    at
                }
                Err(error) => return Err(error.into()),
            };
            if data > at {
                fs::seek(&self.file, SeekFrom::Start(data))?;
                return Ok(Piece::Hole(data - at));
            }
            if self.data_until < u64::MAX {
                self.data_until = match fs::seek(&self.file, SeekFrom::Hole(at)) {
                    Ok(hole) => hole,
                    // At the end, where reading finds out whether more has come.
                    Err(rustix::io::Errno::NXIO) => at,
                    Err(error) => return Err(error.into()),
                };
            }
            fs::seek(&self.file, SeekFrom::Start(at))?;
        }
        let data = usize::try_from(self.data_until - at).unwrap_or(usize::MAX);
        let most = data.min(buffer.len());
        // Where the data ends with the file, this sees its end.
        let buffer = if most == 0 { buffer } else { &mut buffer[..most] };
        Ok(match self.file.read(buffer)? {
            0 => Piece::End,
            read => Piece::Data(read),
        })
    }

    fn holes(&mut self) -> io::Result<u64> {
        let length = self.file.metadata()?.len();
        let (mut at, mut holes) = (0, 0);
        while at < length {
            let data = match fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(rustix::io::Errno::NXIO) => return Ok(holes + (length - at)),
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => return Ok(0),
                Err(error) => return Err(error.into()),
            };
            holes += data - at;
            at = match fs::seek(&self.file, SeekFrom::Hole(data)) {
                Ok(hole) => hole,
                // Cut short meanwhile.
                Err(rustix::io::Errno::NXIO) => return Ok(holes),
                Err(error) => return Err(error.into()),
            };
        }
        Ok(holes)
    }
}

impl Writing for RealWriting {
    fn hole(&mut self, bytes: u64) -> io::Result<()> {
        let end = self.0.stream_position()?.saturating_add(bytes);
        self.0.set_len(end)?;
        self.0.seek(io::SeekFrom::Start(end)).map(drop)
    }

    fn write_behind(&mut self) {
        // What is to be dropped from memory is written first (mm/fadvise.c: "start async writeback"), and what is
        // being written is not dropped.
        let _hint = fs::fadvise(&self.0, 0, None, fs::Advice::DontNeed);
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }
}

fn in_seconds(seconds: i64, nanos: impl TryInto<u32>) -> Time {
    Time { seconds, nanos: nanos.try_into().unwrap_or(0) }
}

#[expect(clippy::useless_conversion, reason = "the kernel's types differ between processors")]
fn stat_of(stat: &fs::Stat) -> Stat {
    Stat {
        kind: match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Link,
            FileType::Socket => Kind::Socket,
            _ => Kind::Special,
        },
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        length: u64::try_from(stat.st_size).unwrap_or(0),
        modified: in_seconds(stat.st_mtime.into(), stat.st_mtime_nsec),
        changed: in_seconds(stat.st_ctime.into(), stat.st_ctime_nsec),
        device: stat.st_dev.into(),
        inode: stat.st_ino.into(),
        links: stat.st_nlink.into(),
    }
}

impl Files for RealFiles {
    fn resolve(&self, path: &Path) -> Result<PathBuf, FileError> {
        resolve(path).map_err(FileError::at(Action::Resolve, path))
    }

    fn stat(&self, path: &Path) -> Result<Option<Stat>, FileError> {
        let found = match walk(path) {
            Ok(place) => place.stat(),
            // Nothing stands in a folder that is not there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        Ok(found.map_err(FileError::at(Action::Inspect, path))?.as_ref().map(stat_of))
    }

    fn list(&self, path: &Path) -> Result<Vec<OsString>, FileError> {
        list(path).map_err(FileError::at(Action::List, path))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Reading>, FileError> {
        open(path)
            .map(|file| Box::new(RealReading { file, data_until: 0 }) as Box<dyn Reading>)
            .map_err(FileError::at(Action::Read, path))
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, FileError> {
        let read = || -> io::Result<PathBuf> {
            let place = walk(path)?;
            let target = fs::readlinkat(&place.folder, place.name, Vec::new())?;
            Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
        };
        read().map_err(FileError::at(Action::Read, path))
    }

    fn attributes(&self, path: &Path) -> Result<Attributes, FileError> {
        attributes(path).map_err(FileError::at(Action::ReadAttributes, path))
    }

    fn space(&self, path: &Path) -> Result<Space, FileError> {
        let measure = || -> io::Result<Space> {
            let folder = walk(path)?.open(OFlags::PATH | OFlags::DIRECTORY, 0)?;
            let (stat, free) = (fs::fstat(&folder)?, fs::fstatvfs(&folder)?);
            Ok(Space {
                device: stat_of(&stat).device,
                bytes: free.f_bavail.saturating_mul(free.f_frsize),
                inodes: (free.f_files > 0).then_some(free.f_favail),
            })
        };
        measure().map_err(FileError::at(Action::MeasureSpace, path))
    }

    fn read_ahead(&self, path: &Path, memory: Memory) {
        use fs::Advice;
        // Opening a pipe or a device may do something.
        let is_file = |stat: Stat| stat.kind == Kind::File;
        if !self.stat(path).is_ok_and(|stat| stat.is_some_and(is_file)) {
            return;
        }
        let Ok(file) = open(path) else { return };
        // The file system may know no hints, and then it is read when it is read.
        let _hint = match memory {
            Memory::Good => Ok(()),
            Memory::Forgotten => fs::fadvise(&file, 0, None, Advice::DontNeed),
        };
        let _hint = fs::fadvise(&file, 0, NonZero::new(MOST_AHEAD), Advice::WillNeed);
    }

    fn together(&self, folder: &Path) -> Result<Option<Box<dyn Together>>, FileError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        walk(folder)
            .and_then(|place| place.open(flags, 0))
            .and_then(together::of)
            .map_err(FileError::at(Action::Inspect, folder))
    }

    fn create(&self, path: &Path, mode: u32) -> Result<Box<dyn Writing>, FileError> {
        create(path, mode)
            .map(|file| Box::new(RealWriting(file)) as Box<dyn Writing>)
            .map_err(FileError::at(Action::Create, path))
    }

    fn clone_file(&self, from: &Path, to: &Path, mode: u32) -> Result<bool, FileError> {
        let source = open(from).map_err(FileError::at(Action::Read, from))?;
        let new = create(to, mode).map_err(FileError::at(Action::Create, to))?;
        let Err(error) = fs::ioctl_ficlone(&new, &source) else { return Ok(true) };
        self.remove_file(to)?;
        if is_no_clone(error) {
            Ok(false)
        } else {
            Err(FileError::at(Action::Write, to)(error.into()))
        }
    }

    fn append(&self, path: &Path) -> Result<Box<dyn Writing>, FileError> {
        walk(path)
            .and_then(|place| place.open(OFlags::WRONLY | OFlags::APPEND, 0))
            .map(|file| Box::new(RealWriting(file.into())) as Box<dyn Writing>)
            .map_err(FileError::at(Action::Write, path))
    }

    fn reserve(&self, path: &Path, bytes: u64) -> Result<(), FileError> {
        let file = create(path, 0o600).map_err(FileError::at(Action::Create, path))?;
        let reserved = fs::fallocate(&file, fs::FallocateFlags::empty(), 0, bytes);
        reserved.map_err(|error| {
            // What could be had before it ran out would be held for nothing.
            let _best_effort = self.remove_file(path);
            FileError::at(Action::ReserveSpace, path)(error.into())
        })
    }

    fn create_dir(&self, path: &Path, mode: u32) -> Result<(), FileError> {
        let create = || -> io::Result<()> {
            let (place, mode) = (walk(path)?, Mode::from_raw_mode(mode));
            fs::mkdirat(&place.folder, place.name, mode)?;
            Ok(fs::fchmod(place.open(OFlags::RDONLY | OFlags::DIRECTORY, 0)?, mode)?)
        };
        create().map_err(FileError::at(Action::Create, path))
    }

    fn symlink(&self, target: &Path, path: &Path) -> Result<(), FileError> {
        walk(path)
            .and_then(|place| Ok(fs::symlinkat(target, &place.folder, place.name)?))
            .map_err(FileError::at(Action::Link, path))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<(), FileError> {
        let link = || -> io::Result<()> {
            let (from, to) = (walk(from)?, walk(to)?);
            Ok(fs::linkat(&from.folder, from.name, &to.folder, to.name, AtFlags::empty())?)
        };
        link().map_err(FileError::at(Action::Link, to))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), FileError> {
        let rename = || -> io::Result<()> {
            let (from, to) = (walk(from)?, walk(to)?);
            Ok(fs::renameat(&from.folder, from.name, &to.folder, to.name)?)
        };
        rename().map_err(FileError::at(Action::Rename, to))
    }

    fn remove_file(&self, path: &Path) -> Result<(), FileError> {
        walk(path)
            .and_then(|place| Ok(fs::unlinkat(&place.folder, place.name, AtFlags::empty())?))
            .map_err(FileError::at(Action::Remove, path))
    }

    fn remove_dir(&self, path: &Path) -> Result<(), FileError> {
        walk(path)
            .and_then(|place| Ok(fs::unlinkat(&place.folder, place.name, AtFlags::REMOVEDIR)?))
            .map_err(FileError::at(Action::Remove, path))
    }

    fn sync_file(&self, path: &Path) -> Result<(), FileError> {
        open(path).and_then(|file| file.sync_all()).map_err(FileError::at(Action::Sync, path))
    }

    fn sync_dir(&self, path: &Path) -> Result<(), FileError> {
        walk(path)
            .and_then(|place| place.open(OFlags::RDONLY | OFlags::DIRECTORY, 0))
            .and_then(|folder| Ok(fs::fsync(folder)?))
            .map_err(FileError::at(Action::Sync, path))
    }

    fn set_mode(&self, path: &Path, mode: u32) -> Result<(), FileError> {
        walk(path)
            .and_then(|place| place.by_handle(|path| fs::chmod(path, Mode::from_raw_mode(mode))))
            .map_err(FileError::at(Action::SetMode, path))
    }

    fn set_owner(&self, path: &Path, uid: u32, gid: u32) -> Result<(), FileError> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        walk(path)
            .and_then(|place| {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                Ok(fs::chownat(&place.folder, place.name, uid, gid, flags)?)
            })
            .map_err(FileError::at(Action::SetOwner, path))
    }

    fn set_modified(&self, path: &Path, time: Time) -> Result<(), FileError> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT },
            last_modification: Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() },
        };
        walk(path)
            .and_then(|place| {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                Ok(fs::utimensat(&place.folder, place.name, &times, flags)?)
            })
            .map_err(FileError::at(Action::SetTime, path))
    }

    fn set_attribute(&self, path: &Path, name: &OsString, value: &[u8]) -> Result<(), FileError> {
        let flags = fs::XattrFlags::empty();
        walk(path)
            .and_then(|place| place.by_handle(|path| fs::setxattr(path, name, value, flags)))
            .map_err(FileError::at(Action::SetAttribute, path))
    }

    fn remove_attribute(&self, path: &Path, name: &OsString) -> Result<(), FileError> {
        walk(path)
            .and_then(|place| place.by_handle(|path| fs::removexattr(path, name)))
            .map_err(FileError::at(Action::SetAttribute, path))
    }
}

fn resolve(path: &Path) -> io::Result<PathBuf> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return if path == Path::new("/") {
            Ok(path.to_owned())
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "the path does not end in a name"))
        };
    };
    if !path.is_absolute() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is not absolute"));
    }
    match std::fs::canonicalize(folder) {
        Ok(folder) => Ok(folder.join(name)),
        // A link that leads nowhere is not a folder that is still to be made.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.is_symlink() => {
            Ok(resolve(folder)?.join(name))
        }
        Err(error) => Err(error),
    }
}

/// Opens a regular file, without waiting for a writer where somebody put a pipe in its place.
fn open(path: &Path) -> io::Result<File> {
    let file = walk(path)?.open(OFlags::RDONLY | OFlags::NONBLOCK, 0)?;
    match FileType::from_raw_mode(fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file.into()),
        _ => Err(io::Error::other("it is not a regular file")),
    }
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let file = walk(path)?.open(flags, mode)?;
    // Whatever the umask of the agent: modes are part of what is installed and restored.
    fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    Ok(file.into())
}

/// What the kernel says of files that it can't clone into each other (ioctl_ficlonerange(2)): another file
/// system, one that can't, a swap file, or a kind of file that it does not clone.
fn is_no_clone(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    [Errno::XDEV, Errno::OPNOTSUPP, Errno::NOTTY, Errno::INVAL, Errno::TXTBSY, Errno::NOSYS]
        .contains(&error)
}

fn list(path: &Path) -> io::Result<Vec<OsString>> {
    let folder = walk(path)?.open(OFlags::RDONLY | OFlags::DIRECTORY, 0)?;
    let mut names = Vec::new();
    for entry in fs::Dir::new(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    sorted::sort(&mut names);
    Ok(names)
}

/// Linux's own limit of the list of names, and of one value (XATTR_LIST_MAX, XATTR_SIZE_MAX).
const ATTRIBUTES_MAX: usize = 64 * 1024;

fn attributes(path: &Path) -> io::Result<Attributes> {
    let place = walk(path)?;
    let list = |names: &mut [u8]| place.by_handle(|path| fs::listxattr(path, names));
    // Most files have none or few.
    let (mut few, mut all) = ([0; 512], Vec::new());
    let names = match list(&mut few) {
        Ok(length) => &few[..length],
        Err(error) if error.kind() == io::ErrorKind::Unsupported => &[],
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::RANGE.raw_os_error()) => {
            all.resize(ATTRIBUTES_MAX, 0);
            let length = list(&mut all)?;
            &all[..length]
        }
        Err(error) => return Err(error),
    };
    let mut attributes = Attributes::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = OsStr::from_bytes(name);
        let mut value = vec![0; ATTRIBUTES_MAX];
        let length = place.by_handle(|path| fs::getxattr(path, name, value.as_mut_slice()))?;
        value.truncate(length);
        attributes.insert(name.to_owned(), value);
    }
    Ok(attributes)
}
