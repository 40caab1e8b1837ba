//! A folder on another disk. Every name is opened from the folder on without following a link, so that
//! whoever else may write there leads nobody elsewhere.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use refit_copy::Why;
use rustix::{
    fs::{
        Advice, AtFlags, Dir, FileType, Mode, OFlags, fadvise, mkdirat, openat, renameat, unlinkat,
    },
    io::Errno,
};

use super::{Failed, Place, too_large};

pub struct Folder {
    path: PathBuf,
    top: OwnedFd,
}

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Folder {
    pub fn open(path: &Path, apart_from: Option<&Path>) -> Result<Folder, Failed> {
        let away = |error: io::Error| {
            let text = format!("{} is not there: {error}", path.display());
            Failed::new(Why::Away, text)
        };
        let found = path.metadata().map_err(away)?;
        if let Some(own) = apart_from {
            let own_found = own.metadata().map_err(|error| {
                Failed::new(Why::Host, format!("cannot inspect {}: {error}", own.display()))
            })?;
            if own_found.dev() == found.dev() {
                let text = format!(
                    "{} lies on the same file system as {}: the disk of the second place is not mounted there",
                    path.display(),
                    own.display()
                );
                return Err(Failed::new(Why::Away, text));
            }
        }
        let top = File::open(path).map_err(away)?.into();
        Ok(Folder { path: path.to_owned(), top })
    }

    fn failed(&self, name: &str) -> impl Fn(Errno) -> Failed + use<> {
        let at = self.path.join(name);
        let top = self.path.clone();
        move |errno| {
            let at = at.display();
            match errno {
                Errno::NOSPC | Errno::DQUOT => {
                    let text =
                        format!("no room for {at}: the file system at {} is full", top.display());
                    Failed::new(Why::Away, text)
                }
                Errno::ACCESS | Errno::PERM | Errno::ROFS => {
                    Failed::new(Why::Refused, format!("{at}: {}", io::Error::from(errno)))
                }
                Errno::LOOP | Errno::NOTDIR => {
                    let text = format!("{at}: something that is no folder of ours stands there");
                    Failed::new(Why::Refused, text)
                }
                other => Failed::new(Why::Away, format!("{at}: {}", io::Error::from(other))),
            }
        }
    }

    /// The folder that a name is in, and its last part; `None` if the folder is not there.
    fn way<'a>(&self, name: &'a str, make: bool) -> Result<Option<(OwnedFd, &'a str)>, Failed> {
        let failed = self.failed(name);
        let mut at = self
            .top
            .try_clone()
            .map_err(|error| Failed::new(Why::Host, format!("{}: {error}", self.path.display())))?;
        let mut parts = name.split('/').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return Ok(Some((at, part)));
            }
            if make {
                match mkdirat(&at, part, Mode::RWXU) {
                    Ok(()) => rustix::fs::fsync(&at).map_err(&failed)?,
                    Err(Errno::EXIST) => {}
                    Err(errno) => return Err(failed(errno)),
                }
            }
            at = match openat(&at, part, FOLDER, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::NOENT) => return Ok(None),
                Err(errno) => return Err(failed(errno)),
            };
        }
        Ok(None)
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

impl Place for Folder {
    fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), Failed> {
        let failed = self.failed(name);
        let Some((folder, last)) = self.way(name, true)? else { return Err(failed(Errno::NOENT)) };
        let new = format!(".new.{last}");
        match unlinkat(&folder, &new, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&folder, &new, flags, Mode::RUSR | Mode::WUSR).map_err(&failed)?;
        let mut file = File::from(file);
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        let put = written
            .map_err(|error| errno(&error))
            .and_then(|()| renameat(&folder, &new, &folder, last))
            .and_then(|()| rustix::fs::fsync(&folder));
        if let Err(errno) = put {
            // What counts is why it failed; a full disk gets its space back where it can.
            let _best_effort = unlinkat(&folder, &new, AtFlags::empty());
            return Err(failed(errno));
        }
        Ok(())
    }

    fn get(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, Failed> {
        let failed = self.failed(name);
        let Some((folder, last)) = self.way(name, false)? else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&folder, last, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        };
        let stat = rustix::fs::fstat(&file).map_err(&failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(failed(Errno::NOTDIR));
        }
        // From the disk, and not from the memory that was just written; a file system that can't is as good.
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
        let mut bytes = Vec::new();
        let read = File::from(file).take(limit + 1).read_to_end(&mut bytes);
        read.map_err(|error| failed(errno(&error)))?;
        if bytes.len() as u64 > limit {
            return Err(too_large(name, limit));
        }
        Ok(Some(bytes))
    }

    fn list(&mut self, folder: &str) -> Result<Vec<String>, Failed> {
        let failed = self.failed(folder);
        let below = if folder.is_empty() { ".".to_owned() } else { format!("{folder}/.") };
        let Some((at, _)) = self.way(&below, false)? else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for entry in Dir::read_from(&at).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            names.extend(entry.file_name().to_str().ok().map(str::to_owned));
        }
        names.retain(|name| name != "." && name != "..");
        names.sort();
        Ok(names)
    }

    fn remove(&mut self, name: &str) -> Result<(), Failed> {
        let failed = self.failed(name);
        let Some((folder, last)) = self.way(name, false)? else { return Ok(()) };
        match unlinkat(&folder, last, AtFlags::empty()) {
            Ok(()) => rustix::fs::fsync(&folder).map_err(failed),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed(errno)),
        }
    }
}
