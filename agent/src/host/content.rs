//! The content that a release needs, by digest, in a folder of the agent's own: what is there already,
//! what an installed release can give, and what has to come over the network. Nothing has a digest for
//! a name before its bytes were hashed here; nothing that lay on the disk is believed.
//!
//! A download that breaks off leaves `<digest>.part`, and the next one goes on behind it. A part that
//! proves wrong is thrown away, and the file is fetched from its beginning once.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use refit_proto::{
    names::Digest,
    package::{FileRef, FrameError, decompress},
};

use super::files::{self, Action, FileError, Files, Writing};

/// Where frames come from: the server, or any mirror, since content proves itself.
pub trait Fetch {
    /// The frame of this content from this byte of it on. The reader ends where the frame ends, and
    /// fails where the connection does.
    ///
    /// # Errors
    /// If nothing comes.
    fn frame(&mut self, digest: Digest, offset: u64) -> Result<Box<dyn Read + '_>, FetchError>;

    /// Told why what it gave last is of no use. Says whether somebody else will be asked from now on.
    fn another(&mut self, _why: &str) -> bool {
        false
    }
}

/// Why nothing comes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The network or the server: try again later.
    #[error("{0}")]
    Away(String),
    /// The frame that is offered now is not longer than the offset, so it is another than before.
    #[error("the frame ends before byte {offset}")]
    Shorter {
        /// The offset that was asked for.
        offset: u64,
    },
    /// Who was asked answers that it does not have it, or will not give it.
    #[error("{0}")]
    Refused(String),
}

/// Why content is not here.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// It did not come.
    #[error("content {digest} did not come: {why}")]
    Fetch {
        /// Which.
        digest: Digest,
        /// Why.
        why: FetchError,
    },
    /// What came is not what was signed.
    #[error(transparent)]
    Mismatch(FrameError),
    /// This host's disk.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The content that is here.
pub struct ContentStore<'a> {
    files: &'a dyn Files,
    root: PathBuf,
}

/// Where an installed release may have the bytes of a digest.
pub type Offered = BTreeMap<FileRef, Vec<PathBuf>>;

impl<'a> ContentStore<'a> {
    /// The store in this folder, which need not be there yet.
    pub fn new(files: &'a dyn Files, root: PathBuf) -> ContentStore<'a> {
        ContentStore { files, root }
    }

    /// Where content of this digest lies, if it is here.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        let digest = digest.to_string();
        self.root.join(&digest[..2]).join(digest)
    }

    fn beside(&self, digest: &Digest, ending: &str) -> PathBuf {
        let mut path = self.path(digest).into_os_string();
        path.push(ending);
        PathBuf::from(path)
    }

    /// What of this is neither here nor in an installed release: the size of the download, for
    /// preflight. Goes by names and lengths; [`Self::bring_in`] goes by hashes.
    ///
    /// # Errors
    /// If the disk cannot be read.
    pub fn missing(
        &self,
        needed: &BTreeSet<FileRef>,
        offered: &Offered,
    ) -> Result<Vec<FileRef>, FileError> {
        let mut missing = Vec::new();
        for wanted in needed {
            let here = self.path(&wanted.sha256);
            let offers = offered.get(wanted).into_iter().flatten();
            let mut found = false;
            for path in std::iter::once(&here).chain(offers) {
                let stat = self.files.stat(path)?;
                found |= stat.is_some_and(|stat| stat.length == wanted.length);
            }
            if !found {
                missing.push(*wanted);
            }
        }
        Ok(missing)
    }

    /// Brings in everything that is needed: what is here and still whole stays, what an installed
    /// release has is copied, the rest is fetched. Safe to repeat; goes on where it was ended.
    ///
    /// # Errors
    /// The first content that could not be had; what is here stays for the next try.
    pub fn bring_in(
        &self,
        needed: &BTreeSet<FileRef>,
        offered: &Offered,
        fetch: &mut dyn Fetch,
    ) -> Result<(), ContentError> {
        for wanted in needed {
            if self.is_whole(wanted)? || self.reuse(wanted, offered)? {
                continue;
            }
            self.fetch(wanted, fetch)?;
        }
        Ok(())
    }

    /// Whether the content is here, by its hash. What is here and is something else is removed.
    fn is_whole(&self, wanted: &FileRef) -> Result<bool, FileError> {
        let path = self.path(&wanted.sha256);
        let Some(stat) = self.files.stat(&path)? else { return Ok(false) };
        if stat.kind == files::Kind::File && stat.length == wanted.length {
            let (found, _) = files::copy(self.files, &path, None, wanted.length)?;
            if found == wanted.sha256 {
                return Ok(true);
            }
        }
        files::remove_tree(self.files, &path)?;
        Ok(false)
    }

    /// Copies the content from an installed release, if one has it and it is still what it was.
    fn reuse(&self, wanted: &FileRef, offered: &Offered) -> Result<bool, FileError> {
        for from in offered.get(wanted).into_iter().flatten() {
            let source = self.files.stat(from)?;
            if !source.is_some_and(|s| s.kind == files::Kind::File && s.length == wanted.length) {
                continue;
            }
            let new = self.beside(&wanted.sha256, ".new");
            let mut file = self.create(&new)?;
            // One byte more, to see a file that grew.
            let to = Some((new.as_path(), file.as_mut()));
            let (found, length) =
                files::copy(self.files, from, to, wanted.length.saturating_add(1))?;
            if (FileRef { sha256: found, length }) == *wanted {
                self.keep(&new, file.as_mut(), &wanted.sha256)?;
                return Ok(true);
            }
            tracing::warn!(path = %from.display(), "an installed file is not what was installed; it is not used again");
            files::remove_tree(self.files, &new)?;
        }
        Ok(false)
    }

    fn create(&self, path: &Path) -> Result<Box<dyn Writing>, FileError> {
        files::create_dirs(self.files, path.parent().unwrap_or(path), 0o700)?;
        files::remove_tree(self.files, path)?;
        self.files.create(path, 0o600)
    }

    /// Gives hashed bytes their name.
    fn keep(&self, new: &Path, file: &mut dyn Writing, digest: &Digest) -> Result<(), FileError> {
        let place = self.path(digest);
        file.sync().map_err(FileError::at(Action::Sync, new))?;
        self.files.rename(new, &place)?;
        files::sync_parent(self.files, &place)
    }

    fn fetch(&self, wanted: &FileRef, fetch: &mut dyn Fetch) -> Result<(), ContentError> {
        loop {
            match self.fetch_once(wanted, fetch) {
                Err(error @ (ContentError::Fetch { .. } | ContentError::Mismatch(_)))
                    if fetch.another(&error.to_string()) => {}
                ended => return ended,
            }
        }
    }

    fn fetch_once(&self, wanted: &FileRef, fetch: &mut dyn Fetch) -> Result<(), ContentError> {
        let part = self.beside(&wanted.sha256, ".part");
        loop {
            let had = self.files.stat(&part)?.map_or(0, |stat| stat.length);
            let came = match self.receive(wanted, &part, had, fetch) {
                Err(ContentError::Fetch { why: FetchError::Shorter { .. }, .. }) if had > 0 => {
                    files::remove_tree(self.files, &part)?;
                    continue;
                }
                came => came?,
            };
            match self.unpack(wanted, &part) {
                Ok(()) => {
                    files::remove_tree(self.files, &part)?;
                    return Ok(());
                }
                // The stream ended too early without an error, but it brought something: the next try
                // goes on behind it.
                Err(Unpacking::Short) if came > 0 => {
                    let why = FetchError::Away("the frame ended too early".into());
                    return Err(ContentError::Fetch { digest: wanted.sha256, why });
                }
                Err(Unpacking::File(error)) => return Err(error.into()),
                // Wrong bytes may be from an earlier try; from the beginning there is no such excuse.
                Err(Unpacking::Short | Unpacking::Wrong(_)) if had > 0 => {
                    tracing::warn!(digest = %wanted.sha256, "what an earlier download left is damaged; it begins again");
                    files::remove_tree(self.files, &part)?;
                }
                Err(Unpacking::Short) => {
                    files::remove_tree(self.files, &part)?;
                    let why = FetchError::Away("nothing came".into());
                    return Err(ContentError::Fetch { digest: wanted.sha256, why });
                }
                Err(Unpacking::Wrong(error)) => {
                    files::remove_tree(self.files, &part)?;
                    return Err(ContentError::Mismatch(error));
                }
            }
        }
    }

    /// Appends what comes to the part, and says how much it was.
    fn receive(
        &self,
        wanted: &FileRef,
        part: &Path,
        had: u64,
        fetch: &mut dyn Fetch,
    ) -> Result<u64, ContentError> {
        let digest = wanted.sha256;
        let failed = |why| ContentError::Fetch { digest, why };
        let mut frame = fetch.frame(digest, had).map_err(failed)?;
        let mut file = match had {
            0 => {
                let file = self.create(part)?;
                // Its name too, or what is synced below could not be found again.
                files::sync_parent(self.files, part)?;
                file
            }
            _ => self.files.append(part)?,
        };
        let limit = longest_frame(wanted.length);
        let (mut came, mut unsynced) = (0, 0);
        let mut buffer = vec![0; 64 * 1024];
        let ended = loop {
            match frame.read(&mut buffer) {
                Ok(0) => break Ok(came),
                Ok(read) => {
                    came += read as u64;
                    if had + came > limit {
                        break Err(FetchError::Refused("more came than the file can be".into()));
                    }
                    file.write_all(&buffer[..read]).map_err(FileError::at(Action::Write, part))?;
                    unsynced += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(FetchError::Away(error.to_string())),
            }
            if unsynced >= SYNC_EVERY {
                file.sync().map_err(FileError::at(Action::Sync, part))?;
                unsynced = 0;
            }
        };
        file.sync().map_err(FileError::at(Action::Sync, part))?;
        if let Err(FetchError::Refused(_)) = &ended {
            files::remove_tree(self.files, part)?;
        }
        ended.map_err(failed)
    }

    fn unpack(&self, wanted: &FileRef, part: &Path) -> Result<(), Unpacking> {
        let new = self.beside(&wanted.sha256, ".new");
        let mut frame = self.files.open(part)?;
        let mut out = Out { file: self.create(&new)?, failed: None };
        match decompress(&mut frame, &mut out, wanted.sha256, wanted.length) {
            Ok(()) => Ok(self.keep(&new, out.file.as_mut(), &wanted.sha256)?),
            Err(error) => {
                files::remove_tree(self.files, &new)?;
                Err(match (out.failed, error) {
                    (Some(source), _) => {
                        Unpacking::File(FileError::at(Action::Write, &new)(source))
                    }
                    (None, FrameError::Io { source, .. })
                        if source.kind() == io::ErrorKind::UnexpectedEof =>
                    {
                        Unpacking::Short
                    }
                    (None, error) => Unpacking::Wrong(error),
                })
            }
        }
    }

    /// Removes everything: called when no update needs it any more.
    ///
    /// # Errors
    /// If the system refuses; the next call goes on.
    pub fn clear(&self) -> Result<(), FileError> {
        files::remove_tree(self.files, &self.root).map(drop)
    }
}

/// How much of a download a power cut may cost.
const SYNC_EVERY: u64 = 8 << 20;

/// Most bytes of a frame of this much content: zstd's own bound, with room for its head.
pub fn longest_frame(plain: u64) -> u64 {
    plain.saturating_add(plain / 128).saturating_add(1024)
}

/// Why a frame did not unpack.
enum Unpacking {
    Short,
    Wrong(FrameError),
    File(FileError),
}

impl From<FileError> for Unpacking {
    fn from(error: FileError) -> Self {
        Unpacking::File(error)
    }
}

/// Remembers that it was the disk that failed, and not the frame.
struct Out {
    file: Box<dyn Writing>,
    failed: Option<io::Error>,
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.failed = Some(match error.raw_os_error() {
                    Some(errno) => io::Error::from_raw_os_error(errno),
                    None => io::Error::other(error.to_string()),
                });
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests;
