//! How an update that is under way has been going, as the rescuer has seen it: kept in the data folder
//! over boots, and in /run for a host whose disk is full.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use crate::{disk, way_back};

const FIRST_LINE: &str = "refit-rescue-watch 1\n";

/// What has been seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watch {
    /// Of which update.
    pub(crate) install: String,
    /// In which boot it was looked at last.
    pub(crate) boot: String,
    /// When, in running time of that boot.
    pub(crate) seen: Duration,
    /// How much running time the update has taken.
    pub(crate) used: Duration,
    /// For how much of it, up to now, no agent ran.
    pub(crate) gone: Duration,
    /// How often the host was started since.
    pub(crate) starts: u32,
}

impl Watch {
    /// Of an update that begins now.
    pub(crate) fn begin(install: &str, boot: &str, now: Duration) -> Watch {
        Watch {
            install: install.to_owned(),
            boot: boot.to_owned(),
            seen: now,
            used: Duration::ZERO,
            gone: Duration::ZERO,
            starts: 0,
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut text = FIRST_LINE.to_owned();
        // Writing to a string can't fail.
        let _ = write!(
            text,
            "install {}\nboot {}\nseen {}\nused {}\ngone {}\nstarts {}\n",
            self.install,
            self.boot,
            self.seen.as_nanos(),
            self.used.as_nanos(),
            self.gone.as_nanos(),
            self.starts
        );
        let end = way_back::hex(text.as_bytes());
        text.push_str(&format!("end {end}\n"));
        text.into_bytes()
    }

    fn parse(bytes: &[u8]) -> Option<Watch> {
        let body = way_back::sealed(std::str::from_utf8(bytes).ok()?).ok()?;
        let body = body.strip_prefix(FIRST_LINE)?;
        let value =
            |name: &str| body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let span = |name: &str| Some(Duration::from_nanos(value(name)?.parse().ok()?));
        Some(Watch {
            install: value("install")?.to_owned(),
            boot: value("boot")?.to_owned(),
            seen: span("seen")?,
            used: span("used")?,
            gone: span("gone")?,
            starts: value("starts")?.parse().ok()?,
        })
    }
}

/// Where it is kept: in two places, of which one may be lost or full.
pub(crate) struct Kept {
    /// Survives a boot.
    pub(crate) on_disk: PathBuf,
    /// Survives a full disk.
    pub(crate) in_memory: PathBuf,
}

impl Kept {
    /// What was seen of this update: the newer of the two in this boot, else what the disk says. What
    /// can't be read counts as not there: then counting begins anew, which takes longer and no more.
    pub(crate) fn load(&self, install: &str, boot: &str) -> Option<Watch> {
        let read = |path| disk::read(path).ok().flatten().and_then(|bytes| Watch::parse(&bytes));
        let found = [read(&self.on_disk), read(&self.in_memory)];
        let found = found.into_iter().flatten().filter(|watch| watch.install == install);
        found.max_by_key(|watch| (watch.boot == boot, watch.used))
    }

    /// Keeps it. A place that refuses is said and nothing more.
    pub(crate) fn save(&self, watch: &Watch) {
        for path in [&self.in_memory, &self.on_disk] {
            if let Err(error) = disk::write(path, &watch.to_bytes()) {
                eprintln!("what was seen is not kept in {}: {error:#}", path.display());
            }
        }
    }

    /// Forgets it.
    pub(crate) fn forget(&self) {
        for path in [&self.in_memory, &self.on_disk] {
            let _not_there = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lost_place_loses_nothing_and_another_updates_count_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let kept =
            Kept { on_disk: dir.path().join("disk"), in_memory: dir.path().join("run/memory") };
        assert_eq!(kept.load("1", "a"), None);
        let mut watch = Watch::begin("1", "a", Duration::from_secs(7));
        kept.save(&watch);
        assert_eq!(kept.load("1", "a"), Some(watch.clone()));
        assert_eq!(kept.load("2", "a"), None);
        for lost in [&kept.on_disk, &kept.in_memory] {
            watch.used += Duration::from_secs(1);
            kept.save(&watch);
            std::fs::write(lost, "damaged").unwrap();
            assert_eq!(kept.load("1", "a"), Some(watch.clone()));
        }
        kept.forget();
        assert_eq!(kept.load("1", "a"), None);
    }
}
