//! What is done with files in more than one step: each of these leaves the old or the new, is on
//! stable storage when it returns, and may be repeated after a crash.

use std::{
    ffi::OsString,
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
};

use refit_proto::names::Digest;
use sha2::{Digest as _, Sha256};

use super::{Action, FileError, Files, Kind, Piece, Writing};

/// Whether something stands there, be it a link that leads nowhere.
///
/// # Errors
/// If it cannot be inspected.
pub fn exists(files: &dyn Files, path: &Path) -> Result<bool, FileError> {
    Ok(files.stat(path)?.is_some())
}

/// Brings the folder that holds the name to stable storage.
///
/// # Errors
/// If the system refuses.
pub fn sync_parent(files: &dyn Files, path: &Path) -> Result<(), FileError> {
    files.sync_dir(path.parent().unwrap_or(path))
}

/// Makes a folder and those above it where they are missing.
///
/// # Errors
/// If one cannot be made, or something else stands in its place.
pub fn create_dirs(files: &dyn Files, path: &Path, mode: u32) -> Result<(), FileError> {
    match files.stat(path)? {
        Some(stat) if stat.kind == Kind::Directory => return Ok(()),
        Some(_) => {
            let source = io::Error::other("something that is not a folder stands there");
            return Err(FileError::at(Action::Create, path)(source));
        }
        None => {}
    }
    if let Some(parent) = path.parent() {
        create_dirs(files, parent, mode)?;
    }
    files.create_dir(path, mode)?;
    sync_parent(files, path)
}

/// The nearest folder on the way to `path` that is there, `path` itself included: where its space
/// will come from.
///
/// # Errors
/// If it cannot be inspected.
pub fn nearest(files: &dyn Files, path: &Path) -> Result<PathBuf, FileError> {
    for folder in path.ancestors() {
        if files.stat(folder)?.is_some_and(|stat| stat.kind == Kind::Directory) {
            return Ok(folder.to_owned());
        }
    }
    Ok(PathBuf::from("/"))
}

/// Where the file system that holds this folder is mounted: its name for people.
///
/// # Errors
/// If it cannot be inspected.
pub fn file_system(files: &dyn Files, folder: &Path) -> Result<PathBuf, FileError> {
    let Some(own) = files.stat(folder)? else { return Ok(folder.to_owned()) };
    let mut mounted = folder;
    while let Some(parent) = mounted.parent() {
        match files.stat(parent)? {
            Some(stat) if stat.device == own.device => mounted = parent,
            Some(_) | None => break,
        }
    }
    Ok(mounted.to_owned())
}

/// The name beside `place` under which something is made before it is put there. Always the same, so
/// that what a crash leaves is found again.
pub(crate) fn beside(place: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(place.file_name().unwrap_or_default());
    name.push(".refit-new");
    place.with_file_name(name)
}

/// Removes what a crash may have left beside `place` when something was about to be put there.
///
/// # Errors
/// If the system refuses.
pub fn remove_unfinished(files: &dyn Files, place: &Path) -> Result<(), FileError> {
    remove_tree(files, &beside(place)).map(drop)
}

/// Puts these bytes at `place`, over whatever file or link was there.
///
/// # Errors
/// If the system refuses; then what was there is still there.
pub fn write_file(
    files: &dyn Files,
    place: &Path,
    bytes: &[u8],
    mode: u32,
) -> Result<(), FileError> {
    let new = beside(place);
    remove_tree(files, &new)?;
    let mut file = files.create(&new, mode)?;
    let written = file.write_all(bytes).and_then(|()| file.sync());
    if let Err(error) = written {
        // What counts is the failed write; what is left is removed by the next try at the latest.
        let _best_effort = files.remove_file(&new);
        return Err(FileError::at(Action::Write, place)(error));
    }
    put(files, &new, place)
}

/// Makes `link` lead to `target`, over whatever link or file was there: at every moment it leads to
/// the old or to the new.
///
/// # Errors
/// If the system refuses; then the old link stands.
pub fn replace_link(files: &dyn Files, target: &Path, link: &Path) -> Result<(), FileError> {
    let new = beside(link);
    remove_tree(files, &new)?;
    files.symlink(target, &new)?;
    put(files, &new, link)
}

/// Gives what was made beside a place its name there, or leaves nothing of it.
fn put(files: &dyn Files, new: &Path, place: &Path) -> Result<(), FileError> {
    if let Err(error) = files.rename(new, place) {
        // What counts is why it failed; the next try removes what is left.
        let _best_effort = files.remove_file(new);
        return Err(error);
    }
    sync_parent(files, place)
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// If it cannot be read or is larger.
pub fn read_file(files: &dyn Files, path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let failed = || FileError::at(Action::Read, path);
    let mut bytes = Vec::new();
    files.open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed())?;
    if bytes.len() as u64 > limit {
        return Err(failed()(io::Error::other(format!("it is larger than {limit} bytes"))));
    }
    Ok(bytes)
}

/// Reads a whole file into a buffer, if it is shorter than that and has no holes; `None` for any other.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn read_small<'b>(
    files: &dyn Files,
    path: &Path,
    buffer: &'b mut [u8],
) -> Result<Option<&'b [u8]>, FileError> {
    let mut source = files.open(path)?;
    let mut read = 0;
    while read < buffer.len() {
        match source.piece(&mut buffer[read..]) {
            Ok(Piece::Data(more)) => read += more,
            Ok(Piece::End) => return Ok(Some(&buffer[..read])),
            Ok(Piece::Hole(_)) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FileError::at(Action::Read, path)(error)),
        }
    }
    Ok(None)
}

/// Copies at most `limit` bytes, holes as holes, and says what they were. `None` hashes only.
///
/// # Errors
/// If reading or writing fails: which of the two is told by the path in the error.
pub fn copy(
    files: &dyn Files,
    from: &Path,
    to: Option<(&Path, &mut (dyn Writing + 'static))>,
    limit: u64,
) -> Result<(Digest, u64), FileError> {
    let mut hash = Sha256::new();
    let length = pump(files, from, to, limit, &mut |piece| match piece {
        Pumped::Data(bytes) => hash.update(bytes),
        Pumped::Zeros(zeros) => hash_zeros(&mut hash, zeros),
    })?;
    Ok((Digest::from(<[u8; 32]>::from(hash.finalize())), length))
}

/// The same for who looks at the copy afterwards: says only how many bytes they were.
///
/// # Errors
/// If reading or writing fails: which of the two is told by the path in the error.
pub(crate) fn copy_unseen(
    files: &dyn Files,
    from: &Path,
    to: (&Path, &mut (dyn Writing + 'static)),
    limit: u64,
) -> Result<u64, FileError> {
    pump(files, from, Some(to), limit, &mut |_| {})
}

/// What was read.
enum Pumped<'a> {
    Data(&'a [u8]),
    Zeros(u64),
}

fn pump(
    files: &dyn Files,
    from: &Path,
    to: Option<(&Path, &mut (dyn Writing + 'static))>,
    limit: u64,
    see: &mut dyn FnMut(Pumped<'_>),
) -> Result<u64, FileError> {
    let mut source = files.open(from)?;
    let mut to = to;
    let mut length = 0;
    let mut buffer = vec![0; 128 * 1024];
    while length < limit {
        let most = usize::try_from(limit - length).unwrap_or(usize::MAX).min(buffer.len());
        match source.piece(&mut buffer[..most]) {
            Ok(Piece::End) => break,
            Ok(Piece::Data(read)) => {
                see(Pumped::Data(&buffer[..read]));
                if let Some((path, file)) = &mut to {
                    file.write_all(&buffer[..read]).map_err(FileError::at(Action::Write, path))?;
                }
                length += read as u64;
            }
            Ok(Piece::Hole(zeros)) => {
                let zeros = zeros.min(limit - length);
                see(Pumped::Zeros(zeros));
                if let Some((path, file)) = &mut to {
                    file.hole(zeros).map_err(FileError::at(Action::Write, path))?;
                }
                length += zeros;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FileError::at(Action::Read, from)(error)),
        }
    }
    Ok(length)
}

fn hash_zeros(hash: &mut Sha256, mut zeros: u64) {
    let block = [0; 64 * 1024];
    while zeros > 0 {
        let next = usize::try_from(zeros).unwrap_or(block.len()).min(block.len());
        hash.update(&block[..next]);
        zeros -= next as u64;
    }
}

/// How many bytes of a file are no holes: what a copy of it will take.
///
/// # Errors
/// If it can't be read.
pub fn data_length(files: &dyn Files, path: &Path, length: u64) -> Result<u64, FileError> {
    // What is nearly all data is not worth a look.
    const WORTH_A_LOOK: u64 = 1 << 20;
    if length < WORTH_A_LOOK {
        return Ok(length);
    }
    let holes = files.open(path)?.holes().map_err(FileError::at(Action::Read, path))?;
    Ok(length.saturating_sub(holes))
}

/// Removes whatever stands there, with all that is in it, and says whether there was something. A
/// crash on the way leaves a part, and the next call goes on.
///
/// # Errors
/// If the system refuses; some of it may be gone then.
pub fn remove_tree(files: &dyn Files, path: &Path) -> Result<bool, FileError> {
    if !remove_below(files, path)? {
        return Ok(false);
    }
    sync_parent(files, path)?;
    Ok(true)
}

/// Removes a folder if it is there and empty.
///
/// # Errors
/// If the system refuses.
pub fn remove_if_empty(files: &dyn Files, path: &Path) -> Result<(), FileError> {
    if exists(files, path)? && files.list(path)?.is_empty() {
        files.remove_dir(path)?;
        sync_parent(files, path)?;
    }
    Ok(())
}

fn remove_below(files: &dyn Files, path: &Path) -> Result<bool, FileError> {
    let Some(stat) = files.stat(path)? else { return Ok(false) };
    if stat.kind != Kind::Directory {
        files.remove_file(path)?;
        return Ok(true);
    }
    // A folder that its owner may not write cannot be emptied either.
    if stat.mode & 0o700 != 0o700 {
        files.set_mode(path, 0o700)?;
    }
    for name in files.list(path)? {
        remove_below(files, &path.join(name))?;
    }
    files.remove_dir(path)?;
    Ok(true)
}
