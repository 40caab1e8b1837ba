//! Whether files are brought to stable storage each by itself or all of a file system at once. Syncing each
//! waits for the disk as often as there are files; syncing a file system waits once, and waits also for what
//! others have written there.
//!
//! `syncfs` is relied on only where a failure can't pass unseen:
//! - Writing back what was written may fail long before it is asked for. Linux keeps that for whoever had the file
//!   system open at that time, from 5.8 on ("vfs: track per-sb writeback errors and report them to syncfs",
//!   735e4ae5ba28; sync(2): "In mainline kernel versions prior to Linux 5.8, syncfs() will fail only when passed
//!   a bad file descriptor"). So it is opened before the first byte is written.
//! - What the file system itself could not do, such as closing its journal, was dropped before 5.17 ("vfs: make
//!   sync_filesystem return errors from ->sync_fs").
//! - A file system may do less than it says. Those named here write everything, close their journal or
//!   transaction and flush the disk's own cache, as for `fsync`.

use std::{io, os::fd::OwnedFd, path::Path};

use rustix::fs;

use super::{Action, FileError, Files, Together, Writing};

/// First version of Linux that reports each failure.
const LINUX: (u32, u32) = (5, 17);

/// How `statfs` tells file systems (linux/magic.h): ext2 to ext4 have one number.
const EXT4: i64 = 0xEF53;
const XFS: i64 = 0x5846_5342;
const BTRFS: i64 = 0x9123_683E;

struct OpenedBefore(OwnedFd);

impl Together for OpenedBefore {
    fn sync(&mut self) -> io::Result<()> {
        Ok(fs::syncfs(&self.0)?)
    }
}

/// The file system of an open folder, if it can be relied on.
pub(super) fn of(folder: OwnedFd) -> io::Result<Option<Box<dyn Together>>> {
    let kernel = rustix::system::uname();
    let kernel = kernel.release().to_str().unwrap_or_default();
    #[expect(clippy::useless_conversion, reason = "the kernel's types differ between processors")]
    let kind = i64::from(fs::fstatfs(&folder)?.f_type);
    Ok(can_be_relied_on(kernel, kind).then(|| Box::new(OpenedBefore(folder)) as Box<dyn Together>))
}

fn can_be_relied_on(kernel: &str, file_system: i64) -> bool {
    let mut numbers = kernel.split(['.', '-', '+']).map(|number| number.parse::<u32>().ok());
    let version = numbers.next().flatten().zip(numbers.next().flatten());
    version.is_some_and(|version| version >= LINUX) && [EXT4, XFS, BTRFS].contains(&file_system)
}

/// So many files are synced each: a small backup does not wait for what others write. A sync of each takes
/// 1.4 ms on the disk of docs/decisions/0040-files-synced-together.md, so these take 22 ms.
const EACH: u32 = if cfg!(test) { 1 } else { 16 };

/// Files in one file system that are being written, and are on stable storage in the end.
pub struct Unsynced {
    system: Option<Box<dyn Together>>,
    written: u32,
    waits: bool,
}

impl Unsynced {
    /// Of the file system of this folder; to be had before the first of them is written.
    ///
    /// # Errors
    /// If the folder can't be opened.
    pub fn in_folder(files: &dyn Files, folder: &Path) -> Result<Unsynced, FileError> {
        Ok(Unsynced { system: files.together(folder)?, written: 0, waits: false })
    }

    /// Whether what was just written may wait for [`Self::end`]. Who wrote it syncs it now where not.
    pub fn may_wait(&mut self) -> bool {
        self.written = self.written.saturating_add(1);
        let waits = self.written > EACH && self.system.is_some();
        self.waits |= waits;
        waits
    }

    /// A file was written: it is synced now, or with the others in the end.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn add(&mut self, path: &Path, file: &mut dyn Writing) -> Result<(), FileError> {
        match self.may_wait() {
            true => file.write_behind(),
            false => file.sync().map_err(FileError::at(Action::Sync, path))?,
        }
        Ok(())
    }

    /// Brings to stable storage what has waited for it.
    ///
    /// # Errors
    /// If the system refuses, or could not write some of it.
    pub fn end(self) -> io::Result<()> {
        match self.system {
            Some(mut system) if self.waits => system.sync(),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_or_file_system_that_may_keep_a_failure_to_itself_is_not_relied_on() {
        for kernel in ["5.17.0", "6.1.0-44-amd64", "6.18.44-x-v657", "10.0", "5.17+"] {
            for known in [EXT4, XFS, BTRFS] {
                assert!(can_be_relied_on(kernel, known), "{kernel} {known:x}");
            }
            // NFS, overlayfs, FUSE, tmpfs.
            for other in [0x6969, 0x794C_7630, 0x6573_5546, 0x0102_1994] {
                assert!(!can_be_relied_on(kernel, other), "{kernel} {other:x}");
            }
        }
        for kernel in ["5.16.20", "5.10.0-31-amd64", "4.19.0", "5", "", "six.one", "5.x"] {
            assert!(!can_be_relied_on(kernel, EXT4), "{kernel}");
        }
    }
}
