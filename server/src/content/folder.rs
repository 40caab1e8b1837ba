//! Content in a folder: `content/<first two digits>/<digest>`, one zstd frame each, and `uploads/` for
//! what is on its way. Nothing is ever changed in place; two uploads of one digest are both right.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use refit_proto::names::Digest;
use tempfile::NamedTempFile;

use super::unpack::{FrameCheck, Mismatch};

/// Why content was not stored or not found.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// Not what its digest and length say.
    #[error(
        "content {digest} is refused: {mismatch}\nhelp: the upload was damaged or changed; publish again"
    )]
    Mismatch {
        /// As announced.
        digest: Digest,
        /// What is wrong.
        mismatch: Mismatch,
    },
    /// More than the server takes.
    #[error(
        "content {digest} is refused: {length} bytes are more than the {limit} that this server takes\nhelp: raise upload_bytes under [limits] in server.toml"
    )]
    TooLong {
        /// As announced.
        digest: Digest,
        /// As announced, or as sent.
        length: u64,
        /// See `upload_bytes`.
        limit: u64,
    },
    /// Nobody has uploaded it.
    #[error(
        "the server has no content {0}\nhelp: publish the release again; what is missing is then uploaded"
    )]
    Missing(Digest),
    /// The disk is full.
    #[error(
        "the server's disk is full\nhelp: free space on the file system of its data folder, and try again"
    )]
    Full,
    /// The file system fails otherwise.
    #[error("the server can't use its content folder: {0}")]
    Io(io::Error),
}

impl From<io::Error> for ContentError {
    fn from(error: io::Error) -> ContentError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ContentError::Full,
            _ => ContentError::Io(error),
        }
    }
}

/// The folder. Every method blocks on the disk.
#[derive(Debug, Clone)]
pub struct ContentFolder {
    content: PathBuf,
    uploads: PathBuf,
    limit: u64,
}

/// A stored frame, open at the offset that was asked for.
#[derive(Debug)]
pub struct Frame {
    /// What is left of it.
    pub file: File,
    /// Of the whole frame.
    pub length: u64,
}

impl ContentFolder {
    /// Takes a data folder into use. Uploads that a killed server left unfinished are removed.
    ///
    /// # Errors
    /// If a folder can't be made or emptied.
    pub fn open(data: &Path, limit: u64) -> Result<ContentFolder, ContentError> {
        let (content, uploads) = (data.join("content"), data.join("uploads"));
        fs::create_dir_all(&content)?;
        match fs::remove_dir_all(&uploads) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => fs::create_dir(&uploads)?,
        }
        sync(data)?;
        Ok(ContentFolder { content, uploads, limit })
    }

    /// Whether it is here.
    ///
    /// # Errors
    /// If the disk can't be read.
    pub fn contains(&self, digest: Digest) -> Result<bool, ContentError> {
        Ok(self.place(digest).try_exists()?)
    }

    /// Opens a frame.
    ///
    /// # Errors
    /// If it is not here. An offset behind its end gives an empty rest.
    pub fn open_frame(&self, digest: Digest, offset: u64) -> Result<Frame, ContentError> {
        let mut file = File::open(self.place(digest)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ContentError::Missing(digest),
            _ => error.into(),
        })?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(offset))?;
        Ok(Frame { file, length })
    }

    /// The plain bytes of a document, checked once more: the disk may have changed since the upload.
    ///
    /// # Errors
    /// If it is not here, longer than `length`, or damaged.
    pub fn read_document(&self, digest: Digest, length: u64) -> Result<Vec<u8>, ContentError> {
        let plain = self.unpacked(digest, length)?;
        if plain.len() as u64 != length {
            let mismatch = Mismatch::Length { expected: length, found: plain.len() as u64 };
            return Err(ContentError::Mismatch { digest, mismatch });
        }
        checked(digest, plain)
    }

    /// The plain bytes of a document whose length is not known.
    ///
    /// # Errors
    /// If it is not here, longer than `limit`, or damaged.
    pub fn read_up_to(&self, digest: Digest, limit: u64) -> Result<Vec<u8>, ContentError> {
        checked(digest, self.unpacked(digest, limit)?)
    }

    /// What a frame holds, or one byte more than `limit` of it.
    fn unpacked(&self, digest: Digest, limit: u64) -> Result<Vec<u8>, ContentError> {
        let frame = self.open_frame(digest, 0)?;
        let mut plain = Vec::new();
        zstd::stream::Decoder::new(frame.file)?
            .take(limit.saturating_add(1))
            .read_to_end(&mut plain)
            .map_err(|_| ContentError::Mismatch { digest, mismatch: Mismatch::Damaged })?;
        Ok(plain)
    }

    /// Unpacks a stored frame once more and holds it against digest and length: a manifest may name a
    /// length that is not the content's, and the disk may have changed.
    ///
    /// # Errors
    /// If it is not here, or not that.
    pub fn verify(&self, digest: Digest, length: u64) -> Result<(), ContentError> {
        let mut frame = self.open_frame(digest, 0)?;
        let mismatch = |mismatch| ContentError::Mismatch { digest, mismatch };
        let mut check = FrameCheck::new(length)?;
        let mut piece = vec![0; 256 * 1024];
        loop {
            match frame.file.read(&mut piece)? {
                0 => return check.finish(digest).map_err(mismatch),
                read => check.take(&piece[..read]).map_err(mismatch)?,
            }
        }
    }

    /// Begins an upload of content with this digest and plain length.
    ///
    /// # Errors
    /// If it is longer than the server takes, or the disk fails.
    pub fn begin(&self, digest: Digest, length: u64) -> Result<Upload, ContentError> {
        if length > self.limit {
            return Err(ContentError::TooLong { digest, length, limit: self.limit });
        }
        let file = NamedTempFile::new_in(&self.uploads)?;
        let check = FrameCheck::new(length)?;
        let room = longest_frame(length);
        Ok(Upload { place: self.place(digest), digest, file, check, length: 0, room })
    }

    fn place(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.content.join(&name[..2]).join(&name)
    }
}

/// Bound on a frame: zstd adds under 1 % to what does not compress, and a header.
fn longest_frame(length: u64) -> u64 {
    length.saturating_add(length / 64).saturating_add(4096)
}

/// One upload. Dropped before its end, it leaves nothing.
pub struct Upload {
    place: PathBuf,
    digest: Digest,
    file: NamedTempFile,
    check: FrameCheck,
    length: u64,
    room: u64,
}

impl Upload {
    /// The next piece of the frame.
    ///
    /// # Errors
    /// If the frame is already known to be wrong, or the disk fails.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), ContentError> {
        self.length += piece.len() as u64;
        if self.length > self.room {
            let (digest, length, limit) = (self.digest, self.length, self.room);
            return Err(ContentError::TooLong { digest, length, limit });
        }
        let digest = self.digest;
        self.check.take(piece).map_err(|mismatch| ContentError::Mismatch { digest, mismatch })?;
        Ok(self.file.write_all(piece)?)
    }

    /// Puts the frame into its place: checked, synced, whole.
    ///
    /// # Errors
    /// If it is not what was announced, or the disk fails. Nothing is stored then.
    pub fn finish(self) -> Result<(), ContentError> {
        let digest = self.digest;
        self.check
            .finish(digest)
            .map_err(|mismatch| ContentError::Mismatch { digest, mismatch })?;
        self.file.as_file().sync_all()?;
        let Some(folder) = self.place.parent() else { return Ok(()) };
        if !folder.try_exists()? {
            fs::create_dir_all(folder)?;
            folder.parent().map_or(Ok(()), sync)?;
        }
        // Over a file that is already there: both hold the same plain bytes.
        self.file.persist(&self.place).map_err(|error| error.error)?;
        Ok(sync(folder)?)
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn checked(digest: Digest, plain: Vec<u8>) -> Result<Vec<u8>, ContentError> {
    match Digest::of(&plain) {
        found if found == digest => Ok(plain),
        found => {
            let mismatch = Mismatch::Digest { found };
            Err(ContentError::Mismatch { digest, mismatch })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, ContentFolder) {
        let data = tempfile::tempdir().unwrap();
        let folder = ContentFolder::open(data.path(), 1_000_000).unwrap();
        (data, folder)
    }

    fn frame(plain: &[u8]) -> Vec<u8> {
        zstd::encode_all(plain, 3).unwrap()
    }

    fn files(data: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![data.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found
    }

    #[test]
    fn what_was_uploaded_reads_back_from_any_offset() {
        let (_data, folder) = folder();
        let (plain, digest) = (b"refit".repeat(1000), Digest::of(&b"refit".repeat(1000)));
        assert!(!folder.contains(digest).unwrap());
        let frame = frame(&plain);
        let mut upload = folder.begin(digest, plain.len() as u64).unwrap();
        frame.chunks(10).for_each(|piece| upload.write(piece).unwrap());
        upload.finish().unwrap();

        assert!(folder.contains(digest).unwrap());
        assert_eq!(folder.read_document(digest, plain.len() as u64).unwrap(), plain);
        let mut stored = folder.open_frame(digest, 5).unwrap();
        let mut rest = Vec::new();
        stored.file.read_to_end(&mut rest).unwrap();
        assert_eq!((rest.as_slice(), stored.length), (&frame[5..], frame.len() as u64));
    }

    #[test]
    fn an_upload_that_is_wrong_or_given_up_leaves_nothing() {
        let (data, folder) = folder();
        let digest = Digest::of(b"refit");
        let mut wrong = folder.begin(digest, 5).unwrap();
        wrong.write(&frame(b"retif")).unwrap();
        assert!(matches!(wrong.finish(), Err(ContentError::Mismatch { .. })));
        let mut given_up = folder.begin(digest, 5).unwrap();
        given_up.write(&frame(b"refit")[..4]).unwrap();
        drop(given_up);
        let mut endless = folder.begin(digest, 5).unwrap();
        assert!((0..10_000).any(|_| endless.write(&[0x5a; 64]).is_err()));
        drop(endless);
        assert_eq!(files(data.path()), Vec::<PathBuf>::new());
        assert!(!folder.contains(digest).unwrap());
    }

    #[test]
    fn two_uploads_of_one_digest_both_end_well() {
        let (_data, folder) = folder();
        let digest = Digest::of(b"refit");
        let mut uploads: Vec<_> = (0..2).map(|_| folder.begin(digest, 5).unwrap()).collect();
        uploads.iter_mut().for_each(|upload| upload.write(&frame(b"refit")).unwrap());
        uploads.into_iter().for_each(|upload| upload.finish().unwrap());
        assert_eq!(folder.read_document(digest, 5).unwrap(), b"refit");
    }

    #[test]
    fn what_a_killed_server_left_half_uploaded_is_gone_after_the_next_start() {
        let (data, folder) = folder();
        let upload = folder.begin(Digest::of(b"refit"), 5).unwrap();
        std::mem::forget(upload);
        assert_eq!(files(data.path()).len(), 1);
        ContentFolder::open(data.path(), 1).unwrap();
        assert_eq!(files(data.path()), Vec::<PathBuf>::new());
    }

    /// CVE-2024-54143.
    #[test]
    fn a_file_that_changed_on_the_disk_is_not_taken_for_its_digest() {
        let (data, folder) = folder();
        let digest = Digest::of(b"refit");
        let mut upload = folder.begin(digest, 5).unwrap();
        upload.write(&frame(b"refit")).unwrap();
        upload.finish().unwrap();
        fs::write(&files(data.path())[0], frame(b"retif")).unwrap();
        assert!(matches!(folder.read_document(digest, 5), Err(ContentError::Mismatch { .. })));
    }
}
