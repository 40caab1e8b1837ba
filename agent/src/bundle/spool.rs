//! The folder in which bundles wait, `install/` in the agent's data folder: one file each, named by the
//! install that it is for. A file that is there is to be installed, and one that is gone is dealt with:
//! nothing depends on a message. Only the agent's own user can put one there.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek as _, SeekFrom},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use refit_durable::{
    FileError,
    file::{self, Access, Pending},
};
use refit_proto::{
    bundle::{self, BundleError, Head},
    sorted,
};

use super::Bundle;
use crate::update::InstallId;

/// What a file in the folder ends with.
const ENDING: &str = ".bundle";
/// Answers that are kept for whoever asks.
const ANSWERS: usize = 16;

/// Why a bundle is not looked at, or does not come to wait.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Somebody else than the agent's own user could have put it there.
    #[error(
        "{} is not the agent's own ({why})\nhelp: remove it, and install with `refit-agent install FILE` as the agent's own user", path.display()
    )]
    NotOurs {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It is no bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// The disk.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What became of a bundle for which no update began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It runs here already.
    RunsAlready,
    /// Why nothing was begun.
    Refused(String),
}

/// The folder.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    /// For the command that waits for it; a restart forgets them, and the file is gone by then.
    answers: Mutex<BTreeMap<InstallId, Answer>>,
}

impl Spool {
    /// The folder of this name, which need not be there.
    pub fn at(folder: PathBuf) -> Spool {
        Spool { folder, answers: Mutex::default() }
    }

    /// Where the bundle of an install waits.
    pub fn path(&self, install: &InstallId) -> PathBuf {
        self.folder.join(format!("{install}{ENDING}"))
    }

    /// The installs whose bundles wait, and were not answered yet.
    pub fn waiting(&self) -> Vec<InstallId> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let answers = self.answers();
        let mut waiting: Vec<InstallId> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name();
                InstallId::parse(name.to_str()?.strip_suffix(ENDING)?).ok()
            })
            .filter(|install| !answers.contains_key(install))
            .collect();
        sorted::sort(&mut waiting);
        waiting
    }

    /// Opens a waiting bundle and reads it once: is it whole, and where are its parts?
    ///
    /// # Errors
    /// Why it is not looked at.
    pub fn open(&self, install: &InstallId) -> Result<Bundle, SpoolError> {
        self.is_ours()?;
        let path = self.path(install);
        let at = |source| SpoolError::Io { path: path.clone(), source };
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits();
        let nofollow = i32::try_from(nofollow).unwrap_or_default();
        let file = OpenOptions::new().read(true).custom_flags(nofollow).open(&path).map_err(at)?;
        let metadata = file.metadata().map_err(at)?;
        let why = match () {
            () if !metadata.is_file() => Some("it is no file"),
            () if !is_own(metadata.uid()) => Some("another user owns it"),
            () if metadata.mode() & 0o022 != 0 => Some("others can write to it"),
            () => None,
        };
        if let Some(why) = why {
            return Err(SpoolError::NotOurs { path, why });
        }
        Ok(Bundle::read(file)?)
    }

    /// Reads what a file says of itself, if it is a bundle at all. Writes nothing.
    ///
    /// # Errors
    /// If it is none.
    pub fn read(&self, from: &Path) -> Result<Head, SpoolError> {
        let at = |source| SpoolError::Io { path: from.to_owned(), source };
        let mut source = File::open(from).map_err(at)?;
        Ok(bundle::read(&mut io::BufReader::new(&mut source))?.head)
    }

    /// Copies a bundle into the folder, where the agent finds it. One that is no bundle is refused before
    /// anything is written.
    ///
    /// # Errors
    /// Why it does not wait there.
    pub fn put(&self, install: &InstallId, from: &Path) -> Result<Head, SpoolError> {
        let at = |source| SpoolError::Io { path: from.to_owned(), source };
        let mut source = File::open(from).map_err(at)?;
        let head = bundle::read(&mut io::BufReader::new(&mut source))?.head;
        self.make()?;
        source.seek(SeekFrom::Start(0)).map_err(at)?;
        let mut pending = Pending::create(&self.path(install), Access::Private)?;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match source.read(&mut buffer).map_err(at)? {
                0 => break,
                read => io::Write::write_all(&mut pending, &buffer[..read])
                    .map_err(|source| SpoolError::Io { path: self.folder.clone(), source })?,
            }
        }
        pending.publish()?;
        Ok(head)
    }

    /// The bundle of this install is dealt with.
    pub fn done(&self, install: &InstallId) {
        if let Err(error) = file::remove(&self.path(install)) {
            tracing::error!("a bundle that is dealt with is still there: {error}");
            // It must not come again and again.
            self.keep_answer(install, Answer::Refused("it was dealt with before".into()));
        }
    }

    /// No update began; why is kept for whoever asks.
    pub fn answer(&self, install: &InstallId, answer: Answer) {
        self.keep_answer(install, answer);
        if let Err(error) = file::remove(&self.path(install)) {
            tracing::error!("a bundle that is dealt with is still there: {error}");
        }
    }

    /// Why no update began for an install.
    pub fn answered(&self, install: &InstallId) -> Option<Answer> {
        self.answers().get(install).cloned()
    }

    /// What commands that died have left.
    pub fn tidy(&self) {
        if self.folder.is_dir()
            && let Err(error) = file::remove_pending(&self.folder)
        {
            tracing::warn!("what is left of an install can't be removed: {error}");
        }
    }

    fn keep_answer(&self, install: &InstallId, answer: Answer) {
        let mut answers = self.answers();
        while answers.len() >= ANSWERS {
            answers.pop_first();
        }
        answers.insert(install.clone(), answer);
    }

    fn make(&self) -> Result<(), SpoolError> {
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(SpoolError::Io { path: self.folder.clone(), source }),
        }
        self.is_ours()
    }

    /// Whether nobody but the agent's own user can put something into the folder.
    fn is_ours(&self) -> Result<(), SpoolError> {
        let path = self.folder.clone();
        let metadata = fs::symlink_metadata(&path)
            .map_err(|source| SpoolError::Io { path: path.clone(), source })?;
        let why = match () {
            () if !metadata.is_dir() => "it is no folder",
            () if !is_own(metadata.uid()) => "another user owns it",
            () if metadata.mode() & 0o022 != 0 => "others can write to it",
            () => return Ok(()),
        };
        Err(SpoolError::NotOurs { path, why })
    }

    fn answers(&self) -> MutexGuard<'_, BTreeMap<InstallId, Answer>> {
        // Each change is one insertion: there is nothing half done to find.
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_own(user: u32) -> bool {
    user == rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use refit_proto::{
        bundle::{About, Head, Writer},
        names::Digest,
    };

    use super::*;

    fn id(text: &str) -> InstallId {
        InstallId::parse(text).unwrap()
    }

    fn bundle(place: &Path) -> PathBuf {
        let about = About {
            product: "payments".parse().unwrap(),
            version: "1.0".parse().unwrap(),
            digest: Digest::of(b"1.0"),
        };
        let made = "2026-11-22T12:00:00Z".parse().unwrap();
        let head = Head::new(about, Vec::new(), Vec::new(), made, made);
        let path = place.join("file");
        fs::write(&path, Writer::new(Vec::new(), &head).unwrap().finish().unwrap()).unwrap();
        path
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_bundle_waits_where_only_the_agents_user_can_put_one_until_it_is_dealt_with() {
        let place = tempfile::tempdir().unwrap();
        let spool = Spool::at(place.path().join("install"));
        assert!(spool.waiting().is_empty());
        spool.put(&id("b"), &bundle(place.path())).unwrap();
        spool.put(&id("a"), &bundle(place.path())).unwrap();
        assert_eq!(spool.waiting(), [id("a"), id("b")]);
        assert_eq!(mode(&place.path().join("install")), 0o700);
        assert_eq!(mode(&spool.path(&id("a"))), 0o600);
        assert_eq!(spool.open(&id("a")).unwrap().head().version.as_str(), "1.0");
        spool.done(&id("a"));
        spool.answer(&id("b"), Answer::RunsAlready);
        assert!(spool.waiting().is_empty());
        assert_eq!(spool.answered(&id("b")), Some(Answer::RunsAlready));
    }

    /// CVE-2022-28756: an installer that works on a file that its user can exchange. Ours looks at nothing that
    /// another user could have put there, and what it looks at proves itself all the same.
    #[test]
    fn what_another_user_could_have_put_there_is_not_looked_at() {
        let place = tempfile::tempdir().unwrap();
        let spool = Spool::at(place.path().join("install"));
        let file = bundle(place.path());
        spool.put(&id("a"), &file).unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        set(&spool.path(&id("a")), 0o622);
        assert!(matches!(spool.open(&id("a")), Err(SpoolError::NotOurs { .. })));
        set(&spool.path(&id("a")), 0o600);
        spool.open(&id("a")).unwrap();
        set(&place.path().join("install"), 0o777);
        assert!(matches!(spool.open(&id("a")), Err(SpoolError::NotOurs { .. })));
        assert!(matches!(spool.put(&id("c"), &file), Err(SpoolError::NotOurs { .. })));
        set(&place.path().join("install"), 0o700);
        symlink(&file, spool.path(&id("b"))).unwrap();
        assert!(spool.open(&id("b")).is_err(), "it followed a link");
        fs::remove_dir_all(place.path().join("install")).unwrap();
        symlink(place.path(), place.path().join("install")).unwrap();
        assert!(matches!(spool.put(&id("d"), &file), Err(SpoolError::NotOurs { .. })));
    }

    #[test]
    fn what_is_no_bundle_is_refused_before_anything_is_written() {
        let place = tempfile::tempdir().unwrap();
        let spool = Spool::at(place.path().join("install"));
        let file = bundle(place.path());
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).unwrap();
        assert!(matches!(spool.put(&id("a"), &file), Err(SpoolError::Bundle(_))));
        assert!(!place.path().join("install").exists());
    }
}
