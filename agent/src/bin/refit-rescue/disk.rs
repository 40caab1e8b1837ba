//! Files, each reached without following a link on the way, so that nobody who may write to a folder on
//! it can lead the rescuer somewhere else. What is put somewhere is made beside it and moved there.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, Metadata, Permissions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::{OpenOptionsExt as _, PermissionsExt as _, lchown, symlink},
    },
    path::{Component, Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, Timespec, Timestamps, XattrFlags, flock};
use sha2::{Digest as _, Sha256};

use crate::way_back::{Owned, hex_of};

/// The largest way back that is read: as large as one is written.
const LARGEST: u64 = 64 << 20;

/// A place in a folder that is held open.
pub(crate) struct Place {
    folder: OwnedFd,
    name: OsString,
    shown: PathBuf,
}

impl Place {
    /// The place that a path names; `None` if a folder on the way is not there.
    ///
    /// # Errors
    /// If a link or something else than a folder is on the way.
    pub(crate) fn find(path: &Path) -> Result<Option<Place>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut folder = rustix::fs::open("/", flags, Mode::empty())?;
        let mut name: Option<&OsStr> = None;
        for component in path.components() {
            let next = match component {
                Component::RootDir => continue,
                Component::Normal(next) => next,
                _ => bail!("{} is no plain path", path.display()),
            };
            if let Some(above) = name.replace(next) {
                match rustix::fs::openat(&folder, above, flags | OFlags::NOFOLLOW, Mode::empty()) {
                    Ok(entered) => folder = entered,
                    Err(rustix::io::Errno::NOENT) => return Ok(None),
                    Err(error) => {
                        return Err(error).with_context(|| {
                            format!("{} on the way to {}", above.display(), path.display())
                        });
                    }
                }
            }
        }
        let name = name.with_context(|| format!("{} names nothing", path.display()))?.to_owned();
        Ok(Some(Place { folder, name, shown: path.to_owned() }))
    }

    /// The same, where the folder must be there.
    ///
    /// # Errors
    /// If it is not.
    pub(crate) fn of(path: &Path) -> Result<Place> {
        Place::find(path)?.with_context(|| format!("the folder of {} is not there", path.display()))
    }

    /// A path that leads there whatever is done to the names above. Its last name may be a link, which
    /// only calls that follow none are given.
    fn path(&self) -> PathBuf {
        self.named(&self.name)
    }

    fn named(&self, name: &OsStr) -> PathBuf {
        Path::new("/proc/self/fd").join(self.folder.as_raw_fd().to_string()).join(name)
    }

    /// The place beside it where something is made before it is put here.
    fn beside(&self) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(&self.name);
        name.push(".refit-rescue");
        self.named(&name)
    }

    /// What stands there, a link itself; `None` if nothing does.
    pub(crate) fn stat(&self) -> Result<Option<Metadata>> {
        match fs::symlink_metadata(self.path()) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| self.shown.display().to_string()),
        }
    }

    fn sync(&self) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&self.folder, ".", flags, Mode::empty())?;
        Ok(rustix::fs::fsync(folder)?)
    }

    /// Moves what was made beside it here, and makes that last.
    fn put(&self) -> Result<()> {
        fs::rename(self.beside(), self.path())?;
        self.sync()
    }

    fn open(&self) -> Result<File> {
        let mut options = File::options();
        options.read(true).custom_flags(nofollow());
        options.open(self.path()).with_context(|| self.shown.display().to_string())
    }
}

fn nofollow() -> i32 {
    // The flag's bits fit; the two types only differ in sign.
    (OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK).bits().cast_signed()
}

/// Whether something stands there.
///
/// # Errors
/// If that can't be told.
pub(crate) fn exists(path: &Path) -> Result<bool> {
    match Place::find(path)? {
        Some(place) => Ok(place.stat()?.is_some()),
        None => Ok(false),
    }
}

/// A whole small file; `None` if there is none.
///
/// # Errors
/// If it can't be read, or is larger than any that is written.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let Some(place) = Place::find(path)? else { return Ok(None) };
    if place.stat()?.is_none() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    place.open()?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= LARGEST, "{} is larger than {LARGEST} bytes", path.display());
    Ok(Some(bytes))
}

/// Writes a whole small file: old or new, never less. Its folder is made where it is missing.
///
/// # Errors
/// If the system refuses.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent()
        && !folder.exists()
    {
        fs::create_dir_all(folder)?;
    }
    let place = Place::of(path)?;
    let new = place.beside();
    remove_at(&new)?;
    let mut file = create(&new)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written {
        let _what_counts_is_why = fs::remove_file(&new);
        return Err(error).with_context(|| path.display().to_string());
    }
    place.put()
}

fn create(path: &Path) -> Result<File> {
    Ok(File::options().write(true).create_new(true).mode(0o600).open(path)?)
}

fn remove_at(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
        // Follows no link below either.
        Ok(found) if found.is_dir() => Ok(fs::remove_dir_all(path)?),
        Ok(_) => Ok(fs::remove_file(path)?),
    }
}

/// Removes whatever stands there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let Some(place) = Place::find(path)? else { return Ok(()) };
    if place.stat()?.is_none() {
        return Ok(());
    }
    remove_at(&place.path())?;
    place.sync()
}

/// Removes a link, and nothing else.
pub(crate) fn remove_link(path: &Path) -> Result<()> {
    let Some(place) = Place::find(path)? else { return Ok(()) };
    match place.stat()? {
        None => Ok(()),
        Some(found) if found.is_symlink() => {
            fs::remove_file(place.path())?;
            place.sync()
        }
        Some(_) => bail!("there is something else than a link"),
    }
}

/// Makes a link, over a link or file that is there.
pub(crate) fn link(path: &Path, target: &Path) -> Result<()> {
    let place = Place::of(path)?;
    let new = place.beside();
    remove_at(&new)?;
    symlink(target, &new)?;
    place.put()
}

/// Makes a folder if there is none, and gives it mode and owner.
pub(crate) fn folder(path: &Path, owned: Owned) -> Result<()> {
    let place = Place::of(path)?;
    match place.stat()? {
        None => fs::create_dir(place.path())?,
        Some(found) if found.is_dir() => {}
        Some(_) => bail!("there is something else than a folder"),
    }
    give(&place.path(), owned)?;
    place.sync()
}

/// The owner first: a change of owner takes set-id bits away.
fn give(path: &Path, owned: Owned) -> Result<()> {
    lchown(path, Some(owned.uid), Some(owned.gid))?;
    Ok(fs::set_permissions(path, Permissions::from_mode(owned.mode))?)
}

/// The hash of a file.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    copy(&mut Place::of(path)?.open()?, None)
}

/// Holes are copied as holes.
fn copy(from: &mut File, mut to: Option<&mut File>) -> Result<String> {
    let length = from.metadata()?.len();
    ensure!(from.metadata()?.is_file(), "it is no regular file");
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    let mut at = 0;
    while at < length {
        let (data, hole) = next_data(from, at, length)?;
        let mut zeros = data - at;
        if let Some(to) = &mut to {
            to.set_len(data)?;
            to.seek(SeekFrom::Start(data))?;
        }
        buffer.fill(0);
        while zeros > 0 {
            let next = buffer.len().min(usize::try_from(zeros)?);
            hash.update(&buffer[..next]);
            zeros -= next as u64;
        }
        from.seek(SeekFrom::Start(data))?;
        let mut source = (&*from).take(hole - data);
        loop {
            let read = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            hash.update(&buffer[..read]);
            if let Some(to) = &mut to {
                to.write_all(&buffer[..read])?;
            }
        }
        at = hole;
    }
    Ok(hex_of(hash.finalize().as_slice()))
}

/// Where the next data begins and where it ends. A file system without holes has data everywhere.
fn next_data(file: &File, at: u64, length: u64) -> Result<(u64, u64)> {
    use rustix::{fs::SeekFrom, io::Errno};
    let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => data.min(length),
        Err(Errno::NXIO) => return Ok((length, length)),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((at, length)),
        Err(error) => return Err(error.into()),
    };
    match rustix::fs::seek(file, SeekFrom::Hole(data)) {
        Ok(hole) => Ok((data, hole.min(length))),
        Err(Errno::NXIO) => Ok((data, length)),
        Err(error) => Err(error.into()),
    }
}

/// Puts a copy of `from` in place, in one move, if it is what was sealed.
pub(crate) fn file(path: &Path, from: &Path, sealed: &str, owned: Owned) -> Result<()> {
    let place = Place::of(path)?;
    let new = place.beside();
    remove_at(&new)?;
    let mut writing = create(&new)?;
    let found = copy(&mut Place::of(from)?.open()?, Some(&mut writing))?;
    ensure!(found == sealed, "{} is not what was sealed", from.display());
    give(&new, owned)?;
    writing.sync_all()?;
    place.put()
}

/// `aside` is the mark that the swap has begun: until it is there, `path` holds what is set aside; from
/// then on what stands at `path` is what was brought back.
pub(crate) fn swap(path: &Path, from: &Path, aside: &Path) -> Result<()> {
    if !exists(aside)? {
        ensure!(exists(from)?, "{} is not there", from.display());
        match exists(path)? {
            true => rename(path, aside)?,
            false => folder(aside, Owned { mode: 0o700, uid: 0, gid: 0 })?,
        }
    }
    if exists(path)? { Ok(()) } else { rename(from, path) }
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (Place::of(from)?, Place::of(to)?);
    fs::rename(from.path(), to.path())?;
    to.sync()?;
    from.sync()
}

/// Gives an existing file a second name.
pub(crate) fn hard_link(path: &Path, from: &Path) -> Result<()> {
    let (place, from) = (Place::of(path)?, Place::of(from)?);
    let new = place.beside();
    remove_at(&new)?;
    fs::hard_link(from.path(), &new)?;
    place.put()?;
    // Where both names are one file already, the move did nothing.
    remove_at(&new)
}

/// Sets an extended attribute.
pub(crate) fn attribute(path: &Path, name: &OsStr, value: &[u8]) -> Result<()> {
    let place = Place::of(path)?;
    let handle = place.handle()?;
    rustix::fs::setxattr(held(&handle), name, value, XattrFlags::empty())?;
    Ok(())
}

/// Sets the owner, of a link itself too.
pub(crate) fn owner(path: &Path, uid: u32, gid: u32) -> Result<()> {
    Ok(lchown(Place::of(path)?.path(), Some(uid), Some(gid))?)
}

/// Sets the mode of a file or folder.
pub(crate) fn mode(path: &Path, mode: u32) -> Result<()> {
    let handle = Place::of(path)?.handle()?;
    Ok(fs::set_permissions(held(&handle), Permissions::from_mode(mode))?)
}

/// Sets when the content last changed.
pub(crate) fn modified(path: &Path, seconds: i64, nanos: u32) -> Result<()> {
    let place = Place::of(path)?;
    let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let then = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanos) };
    let times = Timestamps { last_access: now, last_modification: then };
    rustix::fs::utimensat(&place.folder, &*place.name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

impl Place {
    /// The thing itself, which is no link.
    fn handle(&self) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(&self.folder, &*self.name, flags, Mode::empty())?;
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&handle)?.st_mode);
        ensure!(kind != rustix::fs::FileType::Symlink, "it is a link");
        Ok(handle)
    }
}

fn held(handle: &OwnedFd) -> PathBuf {
    Path::new("/proc/self/fd").join(handle.as_raw_fd().to_string())
}

/// The lock that an agent holds as long as it runs.
pub(crate) struct AgentLock(File);

impl AgentLock {
    /// Takes it; `None` if another has it.
    ///
    /// # Errors
    /// If nobody can say.
    fn take(path: &Path) -> Result<Option<AgentLock>> {
        AgentLock::by(path, FlockOperation::NonBlockingLockExclusive)
    }

    /// Whether an agent has it, or a command that works on the folder. Who only looks at it shares it, and does
    /// not count, however often somebody looks.
    ///
    /// # Errors
    /// If nobody can say.
    pub(crate) fn is_held(path: &Path) -> Result<bool> {
        Ok(AgentLock::by(path, FlockOperation::NonBlockingLockShared)?.is_none())
    }

    fn by(path: &Path, how: FlockOperation) -> Result<Option<AgentLock>> {
        // Made where it is missing, as the agent does.
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        match flock(&file, how) {
            Ok(()) => Ok(Some(AgentLock(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes it, and waits for it at most this long.
    ///
    /// # Errors
    /// If nobody can say.
    pub(crate) fn wait(path: &Path, longest: Duration) -> Result<Option<AgentLock>> {
        let until = crate::running() + longest;
        loop {
            match AgentLock::take(path)? {
                None if crate::running() < until => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                ended => return Ok(ended),
            }
        }
    }
}

/// Given back at once, also where a child that is just being started still has a copy of the open file.
impl Drop for AgentLock {
    fn drop(&mut self) {
        // Closing it gives it back, too.
        let _best_effort = flock(&self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shares_the_lock_only_looks_and_is_no_agent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert!(!AgentLock::is_held(&path).unwrap());
        let looks = File::open(&path).unwrap();
        flock(&looks, FlockOperation::NonBlockingLockShared).unwrap();
        assert!(!AgentLock::is_held(&path).unwrap());
        assert!(AgentLock::take(&path).unwrap().is_none(), "it is looked at");
        flock(&looks, FlockOperation::Unlock).unwrap();
        let agent = AgentLock::take(&path).unwrap();
        assert!(agent.is_some() && AgentLock::is_held(&path).unwrap());
        drop(agent);
        assert!(!AgentLock::is_held(&path).unwrap());
    }
}
