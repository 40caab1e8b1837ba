//! Is there room for all that an update will write, on every file system that it will write to, in
//! bytes and inodes? And holds that room until it is used, so that nobody else takes it meanwhile.
//! Decides nothing about how much a release needs: that is told by who writes it.

mod ballast;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use refit_proto::sorted;

use super::files::{self, FileError, Files, Space};
use crate::update::InstallId;

/// What space is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Content that comes over the network.
    Download,
    /// The unpacked release.
    Unpack,
    /// Files at their places on the host.
    Place,
    /// The backup and its test.
    Backup,
    /// The agent's own records of the update.
    Journal,
    /// Going back: held until the update is over, and freed as the first thing after the services stopped.
    WayBack,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Purpose; 6] = [
        Purpose::Download,
        Purpose::Unpack,
        Purpose::Place,
        Purpose::Backup,
        Purpose::Journal,
        Purpose::WayBack,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Purpose::Download => "download",
            Purpose::Unpack => "release",
            Purpose::Place => "files",
            Purpose::Backup => "backup",
            Purpose::Journal => "journal",
            Purpose::WayBack => "way-back",
        }
    }

    /// What a person can do when there is no room for it.
    fn relief(self) -> &'static str {
        match self {
            Purpose::Download => "move the agent's data folder to a larger file system",
            Purpose::Unpack => "move install_root to a larger file system",
            Purpose::Place => "make that file system larger",
            Purpose::Backup => {
                "remove old backups with the data folder's `backups`, or take large folders out of the manifest's backup"
            }
            Purpose::Journal => "free space beside the agent's state",
            Purpose::WayBack => "take large folders out of the manifest's backup",
        }
    }
}

/// What is needed in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// For what.
    pub purpose: Purpose,
    /// Where it will be written; need not be there yet.
    pub at: PathBuf,
    /// Bytes, rounded up to blocks: see [`on_disk`].
    pub bytes: u64,
    /// Files, folders and links.
    pub inodes: u64,
}

/// How much a file of this length takes: file systems give out blocks, mostly of 4 KiB.
pub fn on_disk(length: u64) -> u64 {
    length.div_ceil(BLOCK).saturating_mul(BLOCK)
}

/// The block of ext4 and xfs.
pub const BLOCK: u64 = 4096;

/// What going back takes on a file system beside what it brings back: links and the folders that hold them.
/// On ext4 a link to a path of more than 59 bytes takes a block of its own, and so may a new name in a folder.
pub const LINKS: u64 = 1 << 20;

/// What an update leaves free for everybody else on a file system: 16 MiB let a host write its logs
/// while the fleet's owner is told.
const SPARE_BYTES: u64 = 16 << 20;
/// The same for inodes.
const SPARE_INODES: u64 = 512;

/// Why an update does not fit.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// A file system has no room.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// It could not be told.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A file system without enough room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoRoom {
    /// Where it is mounted.
    pub file_system: PathBuf,
    /// Bytes that are missing.
    pub bytes: u64,
    /// Inodes that are missing.
    pub inodes: u64,
    /// What the room is needed for, the largest first.
    pub needs: Vec<(Purpose, u64)>,
}

impl std::error::Error for NoRoom {}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the file system {} lacks ", self.file_system.display())?;
        match (self.bytes, self.inodes) {
            (bytes, 0) => write!(f, "{bytes} bytes")?,
            (0, inodes) => write!(f, "{inodes} inodes")?,
            (bytes, inodes) => write!(f, "{bytes} bytes and {inodes} inodes")?,
        }
        write!(f, " for")?;
        for (n, (purpose, bytes)) in self.needs.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma} {} ({bytes})", purpose.as_str())?;
        }
        let relief = self.needs.first().map_or("", |(purpose, _)| purpose.relief());
        write!(f, "\nhelp: free that much there, or {relief}")
    }
}

/// Checks that everything fits, and holds the room for it.
pub struct Preflight<'a> {
    files: &'a dyn Files,
    install: InstallId,
}

impl<'a> Preflight<'a> {
    /// For this try.
    pub fn new(files: &'a dyn Files, install: InstallId) -> Preflight<'a> {
        Preflight { files, install }
    }

    /// Checks all needs together and holds what they sum up to, each where it is needed. What an
    /// earlier try held is given back first. Nothing is held if anything does not fit.
    ///
    /// # Errors
    /// The first file system without enough room.
    pub fn reserve(&self, needs: &[Need]) -> Result<(), PreflightError> {
        for need in needs {
            self.release(need)?;
        }
        self.check(needs)?;
        let needs = summed(needs);
        for need in needs.iter().filter(|need| need.bytes > 0 || need.inodes > 0) {
            let held = ballast::hold(self.files, &self.ballast(need), need.bytes, need.inodes);
            if let Err(error) = held {
                let full = error.is_full();
                for need in &needs {
                    self.release(need)?;
                }
                // Somebody took it between the look and the hold: say it in the same words.
                if full {
                    self.check(&needs)?;
                }
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Whether everything fits, without holding anything.
    ///
    /// # Errors
    /// The first file system without enough room.
    pub fn check(&self, needs: &[Need]) -> Result<(), PreflightError> {
        let mut systems: BTreeMap<u64, (Space, PathBuf, Vec<&Need>)> = BTreeMap::new();
        for need in needs {
            let folder = files::nearest(self.files, &need.at)?;
            let space = self.files.space(&folder)?;
            let system = systems.entry(space.device).or_insert((space, folder, Vec::new()));
            system.2.push(need);
        }
        for (space, folder, needs) in systems.into_values() {
            let sum = |of: fn(&Need) -> u64| {
                needs.iter().fold(0_u64, |sum, need| sum.saturating_add(of(need)))
            };
            let bytes = sum(|need| need.bytes).saturating_add(SPARE_BYTES);
            let inodes = sum(|need| need.inodes).saturating_add(SPARE_INODES);
            let bytes = bytes.saturating_sub(space.bytes);
            let inodes = space.inodes.map_or(0, |free| inodes.saturating_sub(free));
            if bytes > 0 || inodes > 0 {
                let mut needs: Vec<_> =
                    needs.iter().map(|need| (need.purpose, need.bytes)).collect();
                sorted::sort_by(&mut needs, |a, b| b.1.cmp(&a.1));
                let file_system = files::file_system(self.files, &folder)?;
                return Err(NoRoom { file_system, bytes, inodes, needs }.into());
            }
        }
        Ok(())
    }

    /// Gives back what was held for this need: right before it is used, and when the update is over.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn release(&self, need: &Need) -> Result<(), FileError> {
        self.give_back(need.purpose, &need.at)
    }

    /// The same, by purpose and place.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn give_back(&self, purpose: Purpose, at: &Path) -> Result<(), FileError> {
        let need = Need { purpose, at: at.to_owned(), bytes: 0, inodes: 0 };
        files::remove_tree(self.files, &self.ballast(&need)).map(drop)
    }

    /// What may be reserved for the update below these folders.
    pub fn reserved(&self, folders: &[&Path]) -> Vec<PathBuf> {
        let all = folders.iter().flat_map(|at| Purpose::ALL.map(|purpose| (purpose, *at)));
        all.map(|(purpose, at)| {
            self.ballast(&Need { purpose, at: at.to_owned(), bytes: 0, inodes: 0 })
        })
        .collect()
    }

    fn ballast(&self, need: &Need) -> PathBuf {
        need.at.join(format!(".reserved-{}-{}", self.install, need.purpose.as_str()))
    }
}

/// What is needed in one place for one purpose, once.
fn summed(needs: &[Need]) -> Vec<Need> {
    let mut sums: BTreeMap<(Purpose, &Path), (u64, u64)> = BTreeMap::new();
    for need in needs {
        let sum = sums.entry((need.purpose, &need.at)).or_default();
        *sum = (sum.0.saturating_add(need.bytes), sum.1.saturating_add(need.inodes));
    }
    let sums = sums.into_iter();
    sums.map(|((purpose, at), (bytes, inodes))| Need { purpose, at: at.to_owned(), bytes, inodes })
        .collect()
}

/// What several needs for the same purpose come to: saturating, since lengths are from outside.
pub fn total(lengths: impl IntoIterator<Item = u64>) -> u64 {
    lengths.into_iter().fold(0, |sum, length| sum.saturating_add(on_disk(length)))
}

/// For messages of others that run out of space in the middle: where, and how much more it takes.
///
/// # Errors
/// If it cannot be told.
pub fn lacking(files: &dyn Files, at: &Path, bytes: u64) -> Result<(PathBuf, u64), FileError> {
    let folder = files::nearest(files, at)?;
    let free = files.space(&folder)?.bytes;
    // Something is missing, or it would not have failed; inodes are what is left then.
    Ok((files::file_system(files, &folder)?, bytes.saturating_sub(free).max(1)))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{files::RealFiles, recording::RecordingFiles},
        *,
    };

    const MIB: u64 = 1 << 20;

    fn need(purpose: Purpose, at: &str, bytes: u64, inodes: u64) -> Need {
        Need { purpose, at: at.into(), bytes, inodes }
    }

    fn needs() -> Vec<Need> {
        vec![
            need(Purpose::Download, "/data/content", 10 * MIB, 20),
            need(Purpose::Unpack, "/opt/refit/payments", 30 * MIB, 30),
        ]
    }

    fn host(bytes: u64, inodes: Option<u64>) -> RecordingFiles {
        let files = RecordingFiles::default();
        files.set_free(bytes, inodes);
        files
    }

    fn install() -> InstallId {
        InstallId::parse("i1").unwrap()
    }

    #[test]
    fn what_does_not_fit_is_refused_with_file_system_and_what_is_missing() {
        let files = host(40 * MIB, Some(1000));
        let error = Preflight::new(&files, install()).reserve(&needs()).unwrap_err().to_string();
        assert!(error.contains("file system / lacks 16777216 bytes for release"), "{error}");
        assert!(error.contains("install_root"), "the largest need says what would help: {error}");
        let files = host(400 * MIB, Some(500));
        let error = Preflight::new(&files, install()).reserve(&needs()).unwrap_err().to_string();
        assert!(error.contains("lacks 62 inodes"), "{error}");
        // A file system that does not count inodes has enough of them.
        assert!(Preflight::new(&host(400 * MIB, None), install()).reserve(&needs()).is_ok());
    }

    #[test]
    fn what_is_held_is_held_until_it_is_given_back_and_a_second_try_does_not_hold_twice() {
        let files = host(400 * MIB, None);
        let preflight = Preflight::new(&files, install());
        preflight.reserve(&needs()).unwrap();
        preflight.reserve(&needs()).unwrap();
        let held = |path: &str| files::exists(&files, Path::new(path)).unwrap();
        assert!(held("/data/content/.reserved-i1-download"));
        assert!(held("/opt/refit/payments/.reserved-i1-release"));
        for need in needs() {
            preflight.release(&need).unwrap();
            preflight.release(&need).unwrap();
        }
        assert!(files.list(Path::new("/data/content")).unwrap().is_empty());
        assert!(files.list(Path::new("/opt/refit/payments")).unwrap().is_empty());
    }

    #[test]
    fn lengths_from_outside_never_wrap_around() {
        let files = host(400 * MIB, None);
        let huge = vec![need(Purpose::Backup, "/a", u64::MAX, u64::MAX); 2];
        assert!(Preflight::new(&files, install()).check(&huge).is_err());
        assert_eq!(total([u64::MAX, u64::MAX]), u64::MAX);
    }

    #[test]
    fn inodes_are_held_where_they_are_scarce_and_all_of_it_is_given_back_at_once() {
        let files = host(400 * MIB, Some(2000));
        let preflight = Preflight::new(&files, install());
        let at = "/opt/refit/payments";
        let needs = [need(Purpose::Unpack, at, MIB, 100), need(Purpose::Unpack, at, MIB, 50)];
        preflight.reserve(&needs).unwrap();
        let held = Path::new("/opt/refit/payments/.reserved-i1-release");
        // The folder itself is one of them.
        assert_eq!(files.list(held).unwrap().len(), 149);
        preflight.reserve(&needs).unwrap();
        assert_eq!(files.list(held).unwrap().len(), 149, "a second try holds the same");
        preflight.give_back(Purpose::Unpack, Path::new(at)).unwrap();
        assert!(files.list(Path::new(at)).unwrap().is_empty());
    }

    #[test]
    fn what_another_program_takes_after_the_preflight_is_not_what_the_update_needs() {
        let dir = tempfile::tempdir().unwrap();
        let what = "bytes and inodes are held on a real file system";
        // 64 MiB with an inode for each 32 KiB: about two thousand.
        let Some(disk) =
            refit_durable::testing::LoopFs::with(what, dir.path(), 64, &["-i", "32768"])
        else {
            return;
        };
        let at = disk.path().canonicalize().unwrap();
        let preflight = Preflight::new(&RealFiles, install());
        let need =
            |bytes, inodes| Need { purpose: Purpose::Unpack, at: at.join("x"), bytes, inodes };
        let free = RealFiles.space(&at).unwrap().inodes.unwrap();
        assert!((1000..10_000).contains(&free), "{free}");
        preflight.reserve(&[need(20 * MIB, 800)]).unwrap();
        // Another program fills the file system, to its last inode and its last byte.
        let mut made = 0;
        while std::fs::write(at.join(format!("other-{made}")), b"").is_ok() {
            made += 1;
        }
        assert!(made <= free - 800, "{made} of {free} were left for others");
        let filler = std::fs::File::options().append(true).open(at.join("other-0")).unwrap();
        let mut filler = std::io::BufWriter::new(filler);
        while std::io::Write::write_all(&mut filler, &[7; 4096]).is_ok() {}
        let full = preflight.reserve(&[need(20 * MIB, 800)]).unwrap_err().to_string();
        assert!(full.contains("bytes and ") && full.contains(" inodes for release"), "{full}");
        assert!(!at.join("x/.reserved-i1-release").exists(), "nothing is held in vain");
    }

    #[test]
    fn the_room_that_was_held_is_enough_for_what_it_was_held_for() {
        let dir = tempfile::tempdir().unwrap();
        let what = "held room is used on a real file system";
        let Some(disk) =
            refit_durable::testing::LoopFs::with(what, dir.path(), 64, &["-i", "32768"])
        else {
            return;
        };
        let at = disk.path().canonicalize().unwrap();
        let preflight = Preflight::new(&RealFiles, install());
        let needs =
            [Need { purpose: Purpose::Unpack, at: at.clone(), bytes: 20 * MIB, inodes: 500 }];
        preflight.reserve(&needs).unwrap();
        for made in 0.. {
            if std::fs::write(at.join(format!("other-{made}")), vec![7; 64 << 10]).is_err() {
                break;
            }
        }
        for made in 0.. {
            if std::fs::write(at.join(format!("small-{made}")), b"").is_err() {
                break;
            }
        }
        preflight.give_back(Purpose::Unpack, &at).unwrap();
        for made in 0..499 {
            std::fs::write(at.join(format!("own-{made}")), vec![7; 40 << 10]).unwrap();
        }
    }

    #[test]
    fn a_real_file_system_is_measured_and_its_room_is_really_held() {
        let dir = tempfile::tempdir().unwrap();
        let what = "room is held on a real file system";
        let Some(disk) = refit_durable::testing::LoopFs::create(what, dir.path(), 64) else {
            return;
        };
        let at = disk.path().canonicalize().unwrap();
        let free = || RealFiles.space(&at).unwrap().bytes;
        let preflight = Preflight::new(&RealFiles, install());
        let need = |bytes| Need { purpose: Purpose::Unpack, at: at.join("x"), bytes, inodes: 1 };
        let before = free();
        preflight.reserve(&[need(20 * MIB)]).unwrap();
        assert!(free() <= before - 20 * MIB, "{} of {before}", free());
        preflight.release(&need(0)).unwrap();
        assert!(free() > before - MIB);
        let Err(PreflightError::NoRoom(error)) = preflight.reserve(&[need(before)]) else {
            panic!("there is no room for all of it beside the spare")
        };
        assert_eq!(error.file_system, at);
    }
}
