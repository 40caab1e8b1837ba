//! For tests that need a real machine: how they say that they could not run, and a small file system
//! of their own.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// Says that a test did not run, why, and the one line that changes it. The test then returns; whoever
/// runs the tests collects these lines, and lets them fail where everything has to run.
pub fn not_run(what: &str, remedy: &str) {
    let line = format!("REFIT-NOT-RUN: {what} | {remedy}\n");
    eprint!("{line}");
    let Some(file) = std::env::var_os("REFIT_NOT_RUN_FILE") else { return };
    // One write, so that lines of several tests never mix.
    let written = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&file)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        panic!("cannot note in {} what did not run: {error}", Path::new(&file).display());
    }
}

/// A file system of its own in a file, mounted; unmounted when dropped.
pub struct LoopFs {
    image: PathBuf,
    mounted: PathBuf,
}

impl LoopFs {
    /// Makes an ext4 file system of this size below `dir` and mounts it, or says that `what` did not run.
    pub fn create(what: &str, dir: &Path, mib: u64) -> Option<LoopFs> {
        LoopFs::with(what, dir, mib, &[])
    }

    /// The same with further words for mkfs.ext4.
    pub fn with(what: &str, dir: &Path, mib: u64, words: &[&str]) -> Option<LoopFs> {
        // Without reserved blocks, so that root runs out of space as everybody does.
        let mut make = Command::new("mkfs.ext4");
        make.args(["-q", "-F", "-m", "0"]).args(words);
        LoopFs::make(what, dir, mib, make, "e2fsprogs")
    }

    /// The same with xfs, where files can be cloned; at least 300 MiB, of which a file with holes holds
    /// little.
    pub fn create_xfs(what: &str, dir: &Path, mib: u64) -> Option<LoopFs> {
        let mut make = Command::new("mkfs.xfs");
        make.args(["-q", "-f", "-m", "reflink=1"]);
        LoopFs::make(what, dir, mib, make, "xfsprogs")
    }

    fn make(what: &str, dir: &Path, mib: u64, mut make: Command, package: &str) -> Option<LoopFs> {
        let image = dir.join("disk.img");
        let made = fs::File::create(&image)
            .and_then(|file| file.set_len(mib * 1024 * 1024))
            .map_err(|error| error.to_string())
            .and_then(|()| run(make.arg(&image)));
        if let Err(error) = made {
            tracing::info!(error, "no file system in a file");
            let program = make.get_program().to_string_lossy();
            not_run(&format!("{what} (no {program})"), &format!("apt-get install {package}"));
            return None;
        }
        LoopFs::mount(what, &image, &dir.join("disk"))
    }

    /// Mounts the file system in a file, or says that `what` did not run.
    pub fn mount(what: &str, image: &Path, at: &Path) -> Option<LoopFs> {
        fs::create_dir_all(at).expect("a directory to mount on");
        // The system picks a free device itself; another test may be faster in between.
        let mut last = String::new();
        for _ in 0..20 {
            match run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at)) {
                Ok(()) => return Some(LoopFs { image: image.to_owned(), mounted: at.to_owned() }),
                Err(error) => last = error,
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        tracing::info!(error = last, "no loop device");
        let remedy = "modprobe loop, and run the tests as root";
        not_run(&format!("{what} (no loop device can be mounted)"), remedy);
        None
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// The file that it lives in.
    pub fn image(&self) -> &Path {
        &self.image
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        // Whoever used it may still be ending.
        for _ in 0..50 {
            if run(Command::new("umount").arg(&self.mounted)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        // Gone from the tree now, from the system when the last user is.
        let _last_try = run(Command::new("umount").arg("-l").arg(&self.mounted));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", said.lines().next().unwrap_or("failed without a word")))
}
