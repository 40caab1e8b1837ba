//! What holds room on a file system: a file that takes the bytes, by fallocate. Inodes can't be taken that
//! way: where they are scarce, empty files take them, beside the bytes in one folder, so that one removal
//! gives all of it back. Where there are plenty nobody makes a hundred thousand files to hold them.

use std::{io, path::Path};

use crate::host::files::{self, FileError, Files};

/// So many free inodes, beside what is needed, that nobody uses them up while an update runs.
const PLENTY: u64 = 1 << 16;

/// Holds this much at a place where nothing stands. What could be held of it is held when it fails.
pub(super) fn hold(
    files: &dyn Files,
    ballast: &Path,
    bytes: u64,
    inodes: u64,
) -> Result<(), FileError> {
    let folder = ballast.parent().unwrap_or(ballast);
    files::create_dirs(files, folder, 0o755)?;
    let free = files.space(folder)?.inodes;
    let scarce = inodes > 0 && free.is_some_and(|free| free.saturating_sub(inodes) < PLENTY);
    if !scarce {
        return take(files, ballast, bytes);
    }
    files.create_dir(ballast, 0o700)?;
    take(files, &ballast.join("bytes"), bytes)?;
    // The folder and the file of bytes are two.
    for number in 2..inodes {
        drop(files.create(&ballast.join(number.to_string()), 0o600)?);
    }
    Ok(())
}

fn take(files: &dyn Files, path: &Path, bytes: u64) -> Result<(), FileError> {
    if bytes == 0 {
        return Ok(());
    }
    match files.reserve(path, bytes) {
        // A file system that cannot reserve: then it was looked at, which is all one can do.
        Err(error) if error.source.kind() == io::ErrorKind::Unsupported => Ok(()),
        result => result,
    }
}
