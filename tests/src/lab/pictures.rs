//! Pictures of a host's disk while the host writes to it: what a power cut at that moment leaves. The disk's
//! image lies on XFS, where a copy shares the blocks of its source and is made in one moment.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use refit_durable::testing::not_run;
use rustix::fs::ioctl_ficlone;

use super::disk;
use crate::process::Ran;

/// How long between two looks at the disk.
const EVERY: Duration = Duration::from_millis(3);

/// Room for the images and all that changes between the pictures, megabytes; the file has holes.
const ROOM: u64 = 40_000;

/// Whether pictures can be taken on this machine; says it where not.
pub fn pictures_can_be_taken(claim: &str) -> bool {
    let mut version = Command::new("mkfs.xfs");
    let there = version.arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        not_run(&format!("{claim} (mkfs.xfs is not installed)"), "sudo apt-get install xfsprogs");
    }
    there
}

/// A folder on XFS, mounted from a file in `folder`.
pub(super) fn album(folder: &Path) -> Result<PathBuf> {
    let (image, at) = (folder.join("album.img"), folder.join("album"));
    if at.exists() {
        return Ok(at);
    }
    File::create(&image)?.set_len(ROOM << 20)?;
    let mut mkfs = Command::new("mkfs.xfs");
    Ran::of(mkfs.args(["-q", "-m", "reflink=1"]).arg(&image))?.good().context("mkfs.xfs")?;
    fs::create_dir(&at)?;
    disk::mount(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at))?;
    Ok(at)
}

/// Takes pictures until it is dropped or told to end.
#[derive(Debug)]
pub struct Camera {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Vec<PathBuf>>>>,
}

impl Camera {
    /// Begins to take pictures of this image, one after each change that it sees.
    pub(super) fn new(image: PathBuf) -> Camera {
        let ends = Arc::new(AtomicBool::new(false));
        let told = ends.clone();
        let thread = thread::spawn(move || {
            let (mut pictures, mut seen) = (Vec::new(), (0, 0));
            while !told.load(Ordering::Relaxed) {
                let changed = fs::metadata(&image)?;
                let changed = (changed.mtime(), changed.mtime_nsec());
                if changed != seen {
                    seen = changed;
                    let number = pictures.len();
                    let picture = image.with_file_name(format!("picture-{number}.img"));
                    ioctl_ficlone(File::create(&picture)?, File::open(&image)?)?;
                    pictures.push(picture);
                }
                thread::sleep(EVERY);
            }
            Ok(pictures)
        });
        Camera { ends, thread: Some(thread) }
    }

    /// Takes no more; what was taken, in order.
    ///
    /// # Errors
    /// If a picture could not be taken.
    pub fn end(mut self) -> Result<Vec<PathBuf>> {
        self.ends.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the camera has ended")?;
        thread.join().map_err(|_| anyhow::anyhow!("the camera fell over"))?
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _pictures = thread.join();
        }
    }
}
