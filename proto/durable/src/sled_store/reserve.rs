//! A file that takes space and holds nothing. When the disk is full it is given back, so that what
//! must still be written (why an update failed, for one) finds room.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::file;

/// Room for eight segments of sled's: opening again can take two, the rest is for writing.
const SIZE: u64 = 4 * 1024 * 1024;

/// How much has to be free before the reserve is taken again, so that it does not come and go.
const REFILL_OVER: u64 = 4 * SIZE;

/// Whether the reserve is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reserve {
    InPlace,
    GivenBack,
}

fn path(dir: &Path) -> PathBuf {
    dir.join("reserve")
}

/// The bytes that are free for an ordinary user.
fn free(dir: &Path) -> io::Result<u64> {
    let found = statvfs(dir)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Frees the space.
pub(super) fn give_back(dir: &Path) {
    if let Err(error) = file::remove(&path(dir)) {
        tracing::warn!(%error, "the store's reserve can't be given back");
    }
}

impl Reserve {
    /// Before a start: gives the reserve back if there is so little room that opening would fail.
    pub(super) fn before_start(dir: &Path) -> Reserve {
        if free(dir).is_ok_and(|free| free < SIZE) {
            give_back(dir);
        }
        if path(dir).exists() { Reserve::InPlace } else { Reserve::GivenBack }
    }

    /// Takes the space again, once there is plenty.
    pub(super) fn refill_if_there_is_room(&mut self, dir: &Path) {
        if *self == Reserve::InPlace || free(dir).is_ok_and(|free| free < REFILL_OVER) {
            return;
        }
        match fill(&path(dir)) {
            Ok(()) => *self = Reserve::InPlace,
            // No reason to fail what the store was asked for; the next commit tries again.
            Err(error) => {
                tracing::warn!(%error, "the store's reserve can't be taken");
                give_back(dir);
            }
        }
    }
}

fn fill(path: &Path) -> io::Result<()> {
    let file = File::create(path)?;
    fallocate(&file, FallocateFlags::empty(), 0, SIZE)?;
    file.sync_all()
}
