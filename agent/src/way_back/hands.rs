//! What a way back may do to files: few things, each in one move and on stable storage when done.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown, fchown},
    path::Path,
};

use refit_durable::file::{self, Access, Pending};
use refit_proto::names::Digest;
use sha2::{Digest as _, Sha256};

/// What stands at a path, links not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A symbolic link.
    Link,
    /// A folder.
    Folder,
    /// Anything else.
    File,
}

/// What a way back may do to files. Everything is on stable storage when it returns, and safe to repeat.
pub trait Hands {
    /// What stands there; `None` if nothing does.
    ///
    /// # Errors
    /// If that cannot be told.
    fn kind(&self, path: &Path) -> io::Result<Option<Kind>>;
    /// SHA-256 of a file's bytes.
    ///
    /// # Errors
    /// If it cannot be read.
    fn digest(&self, path: &Path) -> io::Result<Digest>;
    /// Makes a symbolic link, in one move, over a link or file that is there.
    ///
    /// # Errors
    /// If the system refuses.
    fn link(&mut self, path: &Path, target: &Path) -> io::Result<()>;
    /// Makes a folder if there is none, and sets its mode and owner.
    ///
    /// # Errors
    /// If the system refuses.
    fn folder(&mut self, path: &Path, mode: u32, uid: u32, gid: u32) -> io::Result<()>;
    /// Puts a copy of `from` at `path`, in one move.
    ///
    /// # Errors
    /// If the system refuses, or the bytes are not those of the digest; `path` is as it was then.
    fn copy(&mut self, from: &Path, path: &Path, is: &Copied) -> io::Result<()>;
    /// Removes a file or link.
    ///
    /// # Errors
    /// If the system refuses.
    fn remove_file(&mut self, path: &Path) -> io::Result<()>;
    /// Removes a folder with all that is in it.
    ///
    /// # Errors
    /// If the system refuses.
    fn remove_folder(&mut self, path: &Path) -> io::Result<()>;
    /// Moves something to a name where nothing stands.
    ///
    /// # Errors
    /// If the system refuses.
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;
}

/// What a copied file must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The host's own files.
#[derive(Debug, Default)]
pub struct DiskHands;

impl Hands for DiskHands {
    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        match fs::symlink_metadata(path) {
            Ok(there) if there.is_symlink() => Ok(Some(Kind::Link)),
            Ok(there) if there.is_dir() => Ok(Some(Kind::Folder)),
            Ok(_) => Ok(Some(Kind::File)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn digest(&self, path: &Path) -> io::Result<Digest> {
        copy_through(&mut File::open(path)?, &mut io::sink())
    }

    fn link(&mut self, path: &Path, target: &Path) -> io::Result<()> {
        file::symlink(target, path).map_err(io::Error::other)
    }

    fn folder(&mut self, path: &Path, mode: u32, uid: u32, gid: u32) -> io::Result<()> {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        // The owner first: a change of owner takes set-id bits away.
        chown(path, Some(uid), Some(gid))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        file::sync_dir(path).map_err(io::Error::other)?;
        path.parent().map_or(Ok(()), |parent| file::sync_dir(parent).map_err(io::Error::other))
    }

    fn copy(&mut self, from: &Path, path: &Path, is: &Copied) -> io::Result<()> {
        let mut pending = Pending::create(path, Access::Private).map_err(io::Error::other)?;
        if copy_through(&mut File::open(from)?, pending.file())? != is.digest {
            return Err(io::Error::other(format!("{} is not what was sealed", from.display())));
        }
        fchown(pending.file(), Some(is.uid), Some(is.gid))?;
        pending.set_mode(is.mode).map_err(io::Error::other)?;
        pending.publish().map_err(io::Error::other)
    }

    fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        file::remove(path).map(drop).map_err(io::Error::other)
    }

    fn remove_folder(&mut self, path: &Path) -> io::Result<()> {
        file::remove_dir_all(path).map(drop).map_err(io::Error::other)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        file::rename(from, to).map_err(io::Error::other)
    }
}

/// Copies all bytes and says their digest.
fn copy_through(from: &mut File, to: &mut dyn io::Write) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from(<[u8; 32]>::from(hash.finalize()))),
            Ok(length) => {
                hash.update(&buffer[..length]);
                to.write_all(&buffer[..length])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
