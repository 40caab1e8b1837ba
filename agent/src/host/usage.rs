//! What a cgroup uses, and what files take on disk, as the kernel tells. Only reads. Where no controller
//! counts for the cgroup (version 1, hybrid, or one that was not handed to this host), its processes are
//! added up.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

mod processes;

/// Most files that are looked at for one number: some seconds of work.
const MOST_FILES: usize = 200_000;
/// Most cgroups below one service's.
const MOST_GROUPS: usize = 1000;
/// A block in which the kernel counts what a file takes (`stat(2)`).
const BLOCK: u64 = 512;

/// Where the kernel tells it.
#[derive(Debug, Clone)]
pub struct Usage {
    cgroups: PathBuf,
    processes: PathBuf,
}

impl Default for Usage {
    fn default() -> Usage {
        Usage { cgroups: "/sys/fs/cgroup".into(), processes: "/proc".into() }
    }
}

impl Usage {
    /// Time on processors since the cgroup is there, microseconds.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn cpu_micros(&self, cgroup: &str) -> io::Result<u64> {
        match self.of_lines(cgroup, "cpu.stat", "usage_usec") {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.sum(cgroup, &processes::cpu_micros)
            }
            told => told,
        }
    }

    /// Memory without the file cache that the kernel would give up first, bytes: a service that reads a
    /// large file has not grown.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn memory(&self, cgroup: &str) -> io::Result<u64> {
        let text = match self.read(cgroup, "memory.current") {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return self.sum(cgroup, &processes::memory);
            }
            told => told?,
        };
        let all: u64 = text.trim().parse().map_err(|_| unreadable("memory.current"))?;
        let cache = self.of_lines(cgroup, "memory.stat", "inactive_file")?;
        Ok(all.saturating_sub(cache))
    }

    /// Open file descriptors of all processes in the cgroup and below.
    ///
    /// # Errors
    /// If the kernel does not tell, or not this user.
    pub fn descriptors(&self, cgroup: &str) -> io::Result<u64> {
        self.sum(cgroup, &processes::descriptors)
    }

    /// What all processes in the cgroup and below come to. One that has ended meanwhile is none of them.
    fn sum(&self, cgroup: &str, of: &dyn Fn(&Path) -> io::Result<u64>) -> io::Result<u64> {
        let mut sum = 0_u64;
        let mut groups = vec![self.listed(cgroup)?];
        let mut seen = 0;
        while let Some(group) = groups.pop() {
            seen += 1;
            if seen > MOST_GROUPS {
                return Err(io::Error::other(format!(
                    "{cgroup} has more than {MOST_GROUPS} cgroups"
                )));
            }
            let processes = read(&group.join("cgroup.procs"))?;
            for process in processes.lines() {
                match of(&self.processes.join(process)) {
                    Ok(one) => sum = sum.saturating_add(one),
                    Err(error) if processes::has_ended(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            for entry in fs::read_dir(&group)?.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    groups.push(entry.path());
                }
            }
        }
        Ok(sum)
    }

    /// What lies at this place takes on disk, bytes; nothing there is none. No link is followed.
    ///
    /// # Errors
    /// If it can't be read, or is too many files to be counted.
    pub fn disk(&self, path: &Path) -> io::Result<u64> {
        let mut sum = 0_u64;
        let mut files = 0;
        let mut places = vec![path.to_owned()];
        while let Some(place) = places.pop() {
            files += 1;
            if files > MOST_FILES {
                return Err(io::Error::other(format!("there are more than {MOST_FILES} files")));
            }
            let entries = match fs::symlink_metadata(&place) {
                Ok(metadata) => {
                    sum = sum.saturating_add(metadata.blocks().saturating_mul(BLOCK));
                    if !metadata.is_dir() {
                        continue;
                    }
                    fs::read_dir(&place)
                }
                Err(error) => Err(error),
            };
            match entries {
                Ok(entries) => places.extend(entries.flatten().map(|entry| entry.path())),
                // Removed while it was counted, or never there.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sum)
    }

    /// The cgroup's folder, inside the tree of cgroups.
    fn group(&self, cgroup: &str) -> io::Result<PathBuf> {
        let inner = cgroup.strip_prefix('/').unwrap_or(cgroup);
        if inner.is_empty() || inner.split('/').any(|name| matches!(name, "" | "." | "..")) {
            return Err(io::Error::other(format!("{cgroup:?} is no cgroup of a service")));
        }
        Ok(self.cgroups.join(inner))
    }

    /// Where its processes are listed: the one tree of version 2, or systemd's own beside controllers of
    /// version 1.
    fn listed(&self, cgroup: &str) -> io::Result<PathBuf> {
        let group = self.group(cgroup)?;
        let inner = group.strip_prefix(&self.cgroups).unwrap_or(&group);
        let trees = ["", "systemd", "unified"].map(|tree| self.cgroups.join(tree).join(inner));
        let listed = trees.into_iter().find(|group| group.join("cgroup.procs").exists());
        Ok(listed.unwrap_or(group))
    }

    fn read(&self, cgroup: &str, file: &str) -> io::Result<String> {
        read(&self.group(cgroup)?.join(file))
    }

    /// The number behind a word: `usage_usec 1234`.
    fn of_lines(&self, cgroup: &str, file: &str, word: &str) -> io::Result<u64> {
        let text = self.read(cgroup, file)?;
        let found = text.lines().find_map(|line| line.strip_prefix(word)?.trim().parse().ok());
        found.ok_or_else(|| unreadable(file))
    }
}

fn read(path: &Path) -> io::Result<String> {
    let named = |it: io::Error| io::Error::new(it.kind(), format!("{}: {it}", path.display()));
    fs::read_to_string(path).map_err(named)
}

fn unreadable(file: &str) -> io::Error {
    io::Error::other(format!("{file} does not tell"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> (tempfile::TempDir, Usage) {
        let dir = tempfile::tempdir().unwrap();
        let usage = Usage { cgroups: dir.path().join("cg"), processes: dir.path().join("proc") };
        let group = dir.path().join("cg/system.slice/payments.service");
        fs::create_dir_all(group.join("worker")).unwrap();
        let files = [
            ("cpu.stat", "usage_usec 1234\nuser_usec 1000\nsystem_usec 234\n"),
            ("memory.current", "10000\n"),
            ("memory.stat", "anon 5000\ninactive_file 3000\n"),
            ("cgroup.procs", "1\n2\n"),
            ("worker/cgroup.procs", "3\n4\n"),
        ];
        for (name, text) in files {
            fs::write(group.join(name), text).unwrap();
        }
        // The fourth has ended since.
        for (process, open) in [(1, 3), (2, 1), (3, 5)] {
            let fd = dir.path().join(format!("proc/{process}/fd"));
            fs::create_dir_all(&fd).unwrap();
            for number in 0..open {
                fs::write(fd.join(number.to_string()), "").unwrap();
            }
        }
        (dir, usage)
    }

    #[test]
    fn a_cgroup_is_read_as_the_kernel_tells_it() {
        let (_dir, usage) = kernel();
        let group = "/system.slice/payments.service";
        assert_eq!(usage.cpu_micros(group).unwrap(), 1234);
        assert_eq!(usage.memory(group).unwrap(), 7000);
        assert_eq!(usage.descriptors(group).unwrap(), 9);
    }

    #[test]
    fn where_no_controller_counts_its_processes_are_added_up() {
        let (dir, usage) = kernel();
        let group = dir.path().join("cg/systemd/system.slice/old.service");
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("cgroup.procs"), "1\n3\n9\n").unwrap();
        // The name of a program may hold anything, a bracket and spaces among it.
        let stat = "1 (a) R b) S 1 1 1 0 -1 4194560 1 2 3 4 150 50 7 3 20 0 1 0 100 1 1";
        let status = "Name:\tx\nRssAnon:\t    40 kB\nRssFile:\t 900 kB\nRssShmem:\t 2 kB\n";
        for process in [1, 3] {
            let at = dir.path().join(format!("proc/{process}"));
            fs::write(at.join("stat"), stat).unwrap();
            fs::write(at.join("status"), status).unwrap();
        }
        let old = "/system.slice/old.service";
        // Own time and that of children that have ended, in hundredths of a second.
        assert_eq!(usage.cpu_micros(old).unwrap(), 2 * 2_100_000);
        assert_eq!(usage.memory(old).unwrap(), 2 * 42 * 1024);
        assert_eq!(usage.descriptors(old).unwrap(), 8);
        fs::write(dir.path().join("proc/3/stat"), "3 (x").unwrap();
        assert!(usage.cpu_micros(old).is_err(), "what can't be read is not nothing");
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_an_error_and_never_nothing() {
        let (dir, usage) = kernel();
        let group = "/system.slice/payments.service";
        for wrong in ["", "/", "/../etc", "/system.slice/other.service"] {
            assert!(usage.cpu_micros(wrong).is_err(), "{wrong:?}");
            assert!(usage.memory(wrong).is_err(), "{wrong:?}");
            assert!(usage.descriptors(wrong).is_err(), "{wrong:?}");
        }
        let folder = dir.path().join("cg").join(&group[1..]);
        fs::write(folder.join("memory.stat"), "").unwrap();
        fs::write(folder.join("cpu.stat"), "usage_usec many\n").unwrap();
        assert!(usage.memory(group).is_err() && usage.cpu_micros(group).is_err());
    }

    #[test]
    fn what_files_take_is_counted_once_and_no_link_is_followed() {
        let (dir, usage) = kernel();
        let place = dir.path().join("data");
        assert_eq!(usage.disk(&place).unwrap(), 0, "nothing there takes nothing");
        fs::create_dir(&place).unwrap();
        let empty = usage.disk(&place).unwrap();
        fs::write(place.join("big"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink("/", place.join("all")).unwrap();
        let full = usage.disk(&place).unwrap() - empty;
        assert!((1 << 20..2 << 20).contains(&full), "{full}");
    }
}
