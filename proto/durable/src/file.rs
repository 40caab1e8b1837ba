//! Files that are there whole or not at all, and stay there when the power goes.
//!
//! A function here returns `Ok` only after the bytes and the directory entries that lead to them are
//! on stable storage. It decides nothing about what files mean, and follows whatever path it is given:
//! unpacking foreign archives needs more care than this.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// What could not be done to a file. Always says to which.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: Action,
        /// The file or directory it was tried on.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is more in the file than the reader is ready to take.
    #[error("{} is larger than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that would have been read.
        limit: u64,
    },
}

/// What was being done when the system refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the verb that its message prints")]
pub enum Action {
    Create,
    Write,
    Sync,
    Publish,
    Remove,
    Link,
    Read,
    Lock,
    List,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Create => "create",
            Action::Write => "write",
            Action::Sync => "bring to stable storage",
            Action::Publish => "put in place",
            Action::Remove => "remove",
            Action::Link => "link",
            Action::Read => "read",
            Action::Lock => "lock",
            Action::List => "list",
        })
    }
}

impl FileError {
    /// The path that the error is about.
    pub fn path(&self) -> &Path {
        match self {
            FileError::Io { path, .. } | FileError::TooLarge { path, .. } => path,
        }
    }

    /// What the system said, if it was the system that refused.
    pub fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            FileError::Io { source, .. } => Some(source.kind()),
            FileError::TooLarge { .. } => None,
        }
    }

    /// Whether the file system has no room left: the one failure that goes away by freeing space.
    pub fn is_full(&self) -> bool {
        self.kind().is_some_and(is_full)
    }
}

/// Whether this kind of failure goes away by freeing space.
pub(crate) fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

pub(crate) fn failed(action: Action, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io { action, path, source }
}

/// Who may read a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody that the process's umask permits.
    Shared,
    /// The owner alone: keys, tokens.
    Private,
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Access::Shared => 0o644,
            Access::Private => 0o600,
        }
    }
}

/// Ends the name of every file that is not in place yet.
const PENDING: &str = ".refit-pending";

/// A file that grows beside its place and is put there whole, or never. Dropped before that, it is
/// gone; a process that dies leaves it behind for [`remove_pending`].
pub struct Pending {
    file: File,
    path: PathBuf,
    place: PathBuf,
}

impl Pending {
    /// Starts a file that is to stand at `place`, in the same directory.
    ///
    /// # Errors
    /// If the directory does not take it.
    pub fn create(place: &Path, access: Access) -> Result<Pending, FileError> {
        let path = pending_path(place);
        let file = OpenOptions::new()
            .write(true)
            .read(true)
            .create_new(true)
            .mode(access.mode())
            .open(&path)
            .map_err(failed(Action::Create, place))?;
        Ok(Pending { file, path, place: place.to_owned() })
    }

    /// The file, for readers and writers that want one.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Sets the permission bits, unaffected by the umask.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn set_mode(&self, mode: u32) -> Result<(), FileError> {
        self.file
            .set_permissions(fs::Permissions::from_mode(mode))
            .map_err(failed(Action::Write, &self.place))
    }

    /// Puts the file in its place, over whatever was there.
    ///
    /// # Errors
    /// If the bytes or the name could not be brought to stable storage. What stood there before still
    /// does, unless only the last sync failed.
    pub fn publish(self) -> Result<(), FileError> {
        self.sync()?;
        fs::rename(&self.path, &self.place).map_err(failed(Action::Publish, &self.place))?;
        sync_parent(&self.place)
    }

    /// Puts the file in its place if nothing stands there, and says whether it did.
    ///
    /// # Errors
    /// As [`Self::publish`]. Something in the place already is not an error.
    pub fn publish_new(self) -> Result<bool, FileError> {
        self.sync()?;
        // A hard link never replaces, on every file system that has links; the drop of `self` then
        // takes the first name away.
        let placed = match fs::hard_link(&self.path, &self.place) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(failed(Action::Publish, &self.place)(error)),
        };
        // Also where another was first: the caller may rely on that file now.
        let place = self.place.clone();
        drop(self);
        sync_parent(&place)?;
        Ok(placed)
    }

    fn sync(&self) -> Result<(), FileError> {
        self.file.sync_all().map_err(failed(Action::Sync, &self.place))
    }
}

impl Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove.
        let _gone_already = fs::remove_file(&self.path);
    }
}

/// A name beside `place` that no other writer uses now.
fn pending_path(place: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = OsString::from(".");
    name.push(place.file_name().unwrap_or_default());
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    name.push(format!(".{}.{count}{PENDING}", std::process::id()));
    place.with_file_name(name)
}

/// Removes what writers that died have left in `dir`. Only for a directory in which nobody writes now.
///
/// # Errors
/// If the directory can't be listed or a file not removed.
pub fn remove_pending(dir: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(dir).map_err(failed(Action::List, dir))? {
        let entry = entry.map_err(failed(Action::List, dir))?;
        if entry.file_name().as_encoded_bytes().ends_with(PENDING.as_bytes()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Puts these bytes at `place`, over whatever was there.
///
/// # Errors
/// As [`Pending::publish`].
pub fn write(place: &Path, bytes: &[u8], access: Access) -> Result<(), FileError> {
    filled(place, bytes, access)?.publish()
}

/// Puts these bytes at `place` if nothing stands there, and says whether it did.
///
/// # Errors
/// As [`Pending::publish_new`].
pub fn write_new(place: &Path, bytes: &[u8], access: Access) -> Result<bool, FileError> {
    filled(place, bytes, access)?.publish_new()
}

fn filled(place: &Path, bytes: &[u8], access: Access) -> Result<Pending, FileError> {
    let mut pending = Pending::create(place, access)?;
    pending.write_all(bytes).map_err(failed(Action::Write, place))?;
    Ok(pending)
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// If it can't be read or is larger.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(failed(Action::Read, path))?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(failed(Action::Read, path))?;
    if bytes.len() as u64 > limit {
        return Err(FileError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

/// [`read`], where a missing file is an answer and not an error.
///
/// # Errors
/// As [`read`].
pub fn read_if_there(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
    match read(path, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == Some(io::ErrorKind::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a file or symbolic link, and says whether there was one.
///
/// # Errors
/// If the system refuses.
pub fn remove(path: &Path) -> Result<bool, FileError> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(Action::Remove, path)(error)),
    }
    sync_parent(path)?;
    Ok(true)
}

/// Removes a directory with all that is in it, and says whether there was one.
///
/// # Errors
/// If the system refuses; some of it may be gone then.
pub fn remove_dir_all(path: &Path) -> Result<bool, FileError> {
    match fs::remove_dir_all(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(Action::Remove, path)(error)),
    }
    sync_parent(path)?;
    Ok(true)
}

/// Makes a directory and those above it, where they are missing.
///
/// # Errors
/// If one can't be made.
pub fn create_dir_all(path: &Path) -> Result<(), FileError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent_of(path);
    if parent != path {
        create_dir_all(parent)?;
    }
    match fs::create_dir(path) {
        Ok(()) => {}
        // Another was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(failed(Action::Create, path)(error)),
    }
    sync_dir(parent)
}

/// Makes `link` lead to `target`, over whatever link or file was there: at every moment it leads to
/// the old or to the new.
///
/// # Errors
/// If the system refuses. `link` is a directory, for example.
pub fn symlink(target: &Path, link: &Path) -> Result<(), FileError> {
    let pending = pending_path(link);
    std::os::unix::fs::symlink(target, &pending).map_err(failed(Action::Link, link))?;
    if let Err(error) = fs::rename(&pending, link) {
        let _best_effort = fs::remove_file(&pending);
        return Err(failed(Action::Link, link)(error));
    }
    sync_parent(link)
}

/// Moves a file or directory to another name on the same file system, over a file that is there.
///
/// # Errors
/// If the system refuses.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(failed(Action::Publish, to))?;
    sync_parent(to)?;
    if parent_of(from) != parent_of(to) {
        sync_parent(from)?;
    }
    Ok(())
}

/// Brings a file's bytes to stable storage.
///
/// # Errors
/// If the system refuses.
pub fn sync_file(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(failed(Action::Sync, path))
}

/// Brings the names in a directory to stable storage.
///
/// # Errors
/// If the system refuses.
pub fn sync_dir(path: &Path) -> Result<(), FileError> {
    sync_file(path)
}

fn sync_parent(path: &Path) -> Result<(), FileError> {
    sync_dir(parent_of(path))
}

/// The directory that holds the name. A bare name is held by the working directory.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("state");
        write(&place, b"a longer first text", Access::Shared).unwrap();
        write(&place, b"second", Access::Shared).unwrap();
        assert_eq!(read(&place, 100).unwrap(), b"second");
        assert_eq!(names(dir.path()), ["state"]);
    }

    #[test]
    fn a_new_file_never_replaces_one() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("key");
        assert!(write_new(&place, b"first", Access::Private).unwrap());
        assert!(!write_new(&place, b"second", Access::Private).unwrap());
        assert_eq!(read(&place, 100).unwrap(), b"first");
        assert_eq!(names(dir.path()), ["key"]);
        let mode = fs::metadata(&place).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn of_many_who_create_one_file_one_wins_and_the_file_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("token");
        let wins = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..8)
                .map(|n: u8| {
                    let place = &place;
                    scope.spawn(move || write_new(place, &[n; 5000], Access::Shared).unwrap())
                })
                .collect();
            tries.into_iter().map(|t| t.join().unwrap()).filter(|won| *won).count()
        });
        assert_eq!(wins, 1);
        let bytes = read(&place, 5000).unwrap();
        assert!(bytes.len() == 5000 && bytes.iter().all(|b| *b == bytes[0]));
    }

    #[test]
    fn a_file_that_is_never_published_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut pending = Pending::create(&dir.path().join("big"), Access::Shared).unwrap();
        pending.write_all(b"half").unwrap();
        drop(pending);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn what_a_dead_writer_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("state");
        write(&place, b"kept", Access::Shared).unwrap();
        // As if the process had died: no drop runs.
        std::mem::forget(Pending::create(&place, Access::Shared).unwrap());
        assert_eq!(names(dir.path()).len(), 2);
        remove_pending(dir.path()).unwrap();
        assert_eq!(names(dir.path()), ["state"]);
    }

    #[test]
    fn a_file_over_the_limit_is_refused_and_one_at_the_limit_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("metadata");
        write(&place, &[7; 100], Access::Shared).unwrap();
        assert_eq!(read(&place, 100).unwrap().len(), 100);
        assert!(matches!(read(&place, 99), Err(FileError::TooLarge { limit: 99, .. })));
        assert_eq!(read_if_there(&dir.path().join("none"), 1).unwrap(), None);
    }

    #[test]
    fn an_error_names_the_path_that_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("missing/state");
        let errors = [
            write(&place, b"", Access::Shared).unwrap_err(),
            write_new(&place, b"", Access::Shared).unwrap_err(),
            symlink(Path::new("x"), &place).unwrap_err(),
            read(&place, 1).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.path(), place);
            assert!(error.to_string().contains(&place.display().to_string()), "{error}");
        }
    }

    #[test]
    fn a_link_moves_from_one_target_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("current");
        symlink(Path::new("releases/1"), &link).unwrap();
        symlink(Path::new("releases/2"), &link).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("releases/2"));
        assert_eq!(names(dir.path()), ["current"]);
        assert!(remove(&link).unwrap());
        assert!(!remove(&link).unwrap());
    }

    #[test]
    fn a_link_never_replaces_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("current");
        fs::create_dir(&place).unwrap();
        assert!(symlink(Path::new("releases/1"), &place).is_err());
        assert!(place.is_dir());
        assert_eq!(names(dir.path()), ["current"]);
    }

    #[test]
    fn directories_are_made_to_any_depth_and_making_them_again_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dir_all(&deep).unwrap();
        create_dir_all(&deep).unwrap();
        assert!(deep.is_dir());
        fs::write(dir.path().join("file"), b"").unwrap();
        assert!(create_dir_all(&dir.path().join("file/x")).is_err());
        assert!(remove_dir_all(&dir.path().join("a")).unwrap());
        assert!(!remove_dir_all(&dir.path().join("a")).unwrap());
    }
}
