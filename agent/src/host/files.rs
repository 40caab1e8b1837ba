//! The one narrow trait through which the agent touches files, so that one fake can fail each of them
//! or cut the power at each of them. Decides that no symbolic link is ever followed; what is done with
//! files is decided by who calls.
//!
//! Every path is absolute and names the thing itself: a link on the way is refused, since on a path
//! that another user may write it would lead the agent to change something else. A path from the
//! configuration or a manifest is resolved once, by [`Files::resolve`], and used in that form from
//! then on.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

mod ahead;
mod durably;
mod real;
#[cfg(test)]
mod real_tests;
mod together;

pub(crate) use ahead::each_ahead;
pub(crate) use durably::{beside, copy_unseen, read_small};
pub use durably::{
    copy, create_dirs, data_length, exists, file_system, nearest, read_file, remove_if_empty,
    remove_tree, remove_unfinished, replace_link, sync_parent, write_file,
};
pub use real::RealFiles;
pub use together::Unsynced;

/// What could not be done to a file. Always says to which.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    /// What was tried.
    pub action: Action,
    /// The file or folder it was tried on.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`: what was tried, and on what.
    pub fn at(action: Action, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        let path = path.to_owned();
        move |source| FileError { action, path, source }
    }

    /// Whether the file system has no room left: the one failure that goes away by freeing space.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// What was being done when the system refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the verb that its message prints")]
pub enum Action {
    Resolve,
    Inspect,
    List,
    Read,
    Create,
    Write,
    Sync,
    Link,
    Rename,
    Remove,
    SetMode,
    SetOwner,
    SetTime,
    ReadAttributes,
    SetAttribute,
    MeasureSpace,
    ReserveSpace,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Resolve => "resolve",
            Action::Inspect => "inspect",
            Action::List => "list",
            Action::Read => "read",
            Action::Create => "create",
            Action::Write => "write",
            Action::Sync => "bring to stable storage",
            Action::Link => "link",
            Action::Rename => "put in place",
            Action::Remove => "remove",
            Action::SetMode => "set the mode of",
            Action::SetOwner => "set the owner of",
            Action::SetTime => "set the time of",
            Action::ReadAttributes => "read the extended attributes of",
            Action::SetAttribute => "set an extended attribute of",
            Action::MeasureSpace => "measure the free space at",
            Action::ReserveSpace => "reserve space in",
        })
    }
}

/// What a file system holds at a path, the link itself where it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// File, folder, link or something else.
    pub kind: Kind,
    /// Permission bits with set-user-id, set-group-id and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub length: u64,
    /// When the content last changed.
    pub modified: Time,
    /// When anything about it last changed; cannot be set back by who owns it.
    pub changed: Time,
    /// Which file system it is on.
    pub device: u64,
    /// Which file it is there.
    pub inode: u64,
    /// Names that it has.
    pub links: u64,
}

/// Seconds and nanoseconds since 1970.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Time {
    /// May be negative.
    pub seconds: i64,
    /// Below 1,000,000,000.
    pub nanos: u32,
}

/// What kind of thing stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A symbolic link.
    Link,
    /// A socket: whoever listens makes it anew.
    Socket,
    /// A pipe or a device.
    Special,
}

/// What is free in a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Which file system.
    pub device: u64,
    /// Free bytes, for this user.
    pub bytes: u64,
    /// Free inodes; `None` where the file system does not count them (btrfs).
    pub inodes: Option<u64>,
}

/// Extended attributes by name.
pub type Attributes = BTreeMap<OsString, Vec<u8>>;

/// Whether what the system has of a file in memory is as good as what is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// It is.
    Good,
    /// It is forgotten, where it was synced, since the disk is asked.
    Forgotten,
}

/// A piece of a file, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// So many bytes were read.
    Data(usize),
    /// So many zeros follow that take no space.
    Hole(u64),
    /// Nothing follows.
    End,
}

/// A file being read.
pub trait Reading: Read + Send {
    /// The next piece, and its bytes where it has any. Where the file system knows of no holes, everything
    /// is data.
    ///
    /// # Errors
    /// As reading.
    fn piece(&mut self, buffer: &mut [u8]) -> io::Result<Piece> {
        Ok(match self.read(buffer)? {
            0 => Piece::End,
            read => Piece::Data(read),
        })
    }

    /// How many bytes of the whole file are holes.
    ///
    /// # Errors
    /// As reading.
    fn holes(&mut self) -> io::Result<u64> {
        Ok(0)
    }
}

/// A file being written.
pub trait Writing: Write + Send {
    /// Writes so many zeros; where the file system can, without taking space for them.
    ///
    /// # Errors
    /// As writing.
    fn hole(&mut self, mut bytes: u64) -> io::Result<()> {
        let zeros = [0; 64 * 1024];
        while bytes > 0 {
            let next = usize::try_from(bytes).unwrap_or(zeros.len()).min(zeros.len());
            self.write_all(&zeros[..next])?;
            bytes -= next as u64;
        }
        Ok(())
    }

    /// It is synced soon: the system may begin to write it. No more than a hint.
    fn write_behind(&mut self) {}

    /// Brings what was written to stable storage.
    ///
    /// # Errors
    /// If the system refuses; nobody knows then what is on the disk.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file system as it was when something began to be written to it.
pub trait Together: Send {
    /// Brings everything to stable storage that was written to it since: bytes, names, and all else that
    /// belongs to files.
    ///
    /// # Errors
    /// If the system could not write any of it, also if it tried before this was called; nobody knows then
    /// what is on the disk.
    fn sync(&mut self) -> io::Result<()>;
}

/// Every operation on files that the agent makes. One call is one change, which the fake may fail or
/// cut the power at. None follows a symbolic link, on the way or at the end.
#[expect(clippy::missing_errors_doc, reason = "each fails as the system refuses, naming the path")]
pub trait Files: Send + Sync {
    /// The same place without symbolic links on the way: the folders that lead to it are followed, as
    /// far as they exist; the last name is kept as it is.
    fn resolve(&self, path: &Path) -> Result<PathBuf, FileError>;
    /// What stands there; `None` if nothing does.
    fn stat(&self, path: &Path) -> Result<Option<Stat>, FileError>;
    /// The names in a folder, sorted.
    fn list(&self, path: &Path) -> Result<Vec<OsString>, FileError>;
    /// Opens a regular file.
    fn open(&self, path: &Path) -> Result<Box<dyn Reading>, FileError>;
    /// Where a symbolic link points.
    fn read_link(&self, path: &Path) -> Result<PathBuf, FileError>;
    /// Its extended attributes; none where the file system has none.
    fn attributes(&self, path: &Path) -> Result<Attributes, FileError>;
    /// It is read soon: the system may begin to fetch it. No more than a hint.
    fn read_ahead(&self, _path: &Path, _memory: Memory) {}
    /// What is free where this folder is.
    fn space(&self, path: &Path) -> Result<Space, FileError>;
    /// The file system of this folder, to be had before anything is written that is to reach stable storage
    /// together. `None` where the system can't be relied on to tell of all that could not be written: each file
    /// is to be synced there.
    fn together(&self, folder: &Path) -> Result<Option<Box<dyn Together>>, FileError>;

    /// Makes a new file of exactly this mode; an error if something stands there.
    fn create(&self, path: &Path, mode: u32) -> Result<Box<dyn Writing>, FileError>;
    /// Makes a new file over the same blocks as another, which each of the two may change for itself.
    /// `false`, and nothing is made, where the file system can't; an error if something stands there.
    fn clone_file(&self, from: &Path, to: &Path, mode: u32) -> Result<bool, FileError>;
    /// Opens a file to write on at its end.
    fn append(&self, path: &Path) -> Result<Box<dyn Writing>, FileError>;
    /// Makes a new file that takes this much space.
    fn reserve(&self, path: &Path, bytes: u64) -> Result<(), FileError>;
    /// Makes a new folder of exactly this mode; an error if something stands there.
    fn create_dir(&self, path: &Path, mode: u32) -> Result<(), FileError>;
    /// Makes a new symbolic link.
    fn symlink(&self, target: &Path, path: &Path) -> Result<(), FileError>;
    /// Gives a file a second name.
    fn hard_link(&self, from: &Path, to: &Path) -> Result<(), FileError>;
    /// Moves a file, link or folder within its file system, over a file or link that is there.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), FileError>;
    /// Removes a file or link.
    fn remove_file(&self, path: &Path) -> Result<(), FileError>;
    /// Removes an empty folder.
    fn remove_dir(&self, path: &Path) -> Result<(), FileError>;
    /// Brings the content of a file to stable storage.
    fn sync_file(&self, path: &Path) -> Result<(), FileError>;
    /// Brings the names in a folder to stable storage.
    fn sync_dir(&self, path: &Path) -> Result<(), FileError>;
    /// Sets the mode of a file or folder.
    fn set_mode(&self, path: &Path, mode: u32) -> Result<(), FileError>;
    /// Sets owner and group, of a link itself too.
    fn set_owner(&self, path: &Path, uid: u32, gid: u32) -> Result<(), FileError>;
    /// Sets when the content last changed.
    fn set_modified(&self, path: &Path, time: Time) -> Result<(), FileError>;
    /// Sets an extended attribute of a file or folder.
    fn set_attribute(&self, path: &Path, name: &OsString, value: &[u8]) -> Result<(), FileError>;
    /// Removes an extended attribute of a file or folder.
    fn remove_attribute(&self, path: &Path, name: &OsString) -> Result<(), FileError>;
}
