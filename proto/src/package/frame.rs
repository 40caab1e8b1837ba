//! One content file as one zstd frame, for transfer and storage. Digests are of the plain bytes.

use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};

use crate::names::Digest;

/// Why a frame did not give the file that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Reading the frame or writing the file failed; a damaged frame is found here as well.
    #[error("the content {digest} could not be unpacked: {source}")]
    Io {
        /// The file that was expected.
        digest: Digest,
        /// What failed.
        source: io::Error,
    },
    /// Other bytes than the signed manifest names.
    #[error(
        "the content {expected} arrived with other bytes (digest {found}, {length} bytes)\n\
         help: whoever keeps the content changed it; publish the release again from its source"
    )]
    Mismatch {
        /// What the manifest names.
        expected: Digest,
        /// What came.
        found: Digest,
        /// Bytes seen, at most one more than the manifest allows.
        length: u64,
    },
}

/// zstd's own default level: publishing stays quick, and a level is not part of any format.
const LEVEL: i32 = 3;

/// Compresses a file into one frame. Returns the digest and length of the plain bytes.
///
/// # Errors
/// As `plain` and `frame` give them.
pub fn compress(plain: &mut dyn Read, frame: &mut dyn Write) -> io::Result<(Digest, u64)> {
    let mut encoder = zstd::stream::Encoder::new(frame, LEVEL)?;
    let (digest, length) = copy_hashed(plain, &mut encoder, u64::MAX)?;
    encoder.finish()?;
    Ok((digest, length))
}

/// Unpacks a frame into `plain` and checks it against what a signed manifest names. At most one byte
/// more than `length` is unpacked, so that a small frame cannot fill a disk.
///
/// # Errors
/// A damaged frame, a failed write, or other bytes than expected. What was written must be thrown away.
pub fn decompress(
    frame: &mut dyn Read,
    plain: &mut dyn Write,
    digest: Digest,
    length: u64,
) -> Result<(), FrameError> {
    let io = |source| FrameError::Io { digest, source };
    let mut decoder = zstd::stream::Decoder::new(frame).map_err(io)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(io)?;
    let (found, seen) = copy_hashed(&mut decoder, plain, length.saturating_add(1)).map_err(io)?;
    if found != digest || seen != length {
        return Err(FrameError::Mismatch { expected: digest, found, length: seen });
    }
    Ok(())
}

/// 8 MiB: level 3 uses 2 MiB; a hostile frame could ask for gigabytes.
const WINDOW_LOG_MAX: u32 = 23;

/// Copies at most `limit` bytes and says what they were.
pub(super) fn copy_hashed(
    from: &mut dyn Read,
    to: &mut dyn Write,
    limit: u64,
) -> io::Result<(Digest, u64)> {
    let mut hash = Sha256::new();
    let mut length = 0;
    let mut buffer = vec![0; 128 * 1024];
    let mut from = from.take(limit);
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok((Digest::from(<[u8; 32]>::from(hash.finalize())), length)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(&buffer[..read]);
        to.write_all(&buffer[..read])?;
        length += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame_of(plain: &[u8]) -> (Vec<u8>, Digest) {
        let mut frame = Vec::new();
        let (digest, _) = compress(&mut &plain[..], &mut frame).unwrap();
        (frame, digest)
    }

    #[test]
    fn a_frame_gives_back_the_bytes_that_its_digest_names() {
        for plain in [&b""[..], b"refit", &[7; 1_000_000]] {
            let (frame, digest) = frame_of(plain);
            let mut back = Vec::new();
            decompress(&mut &frame[..], &mut back, digest, plain.len() as u64).unwrap();
            assert_eq!((back.as_slice(), digest), (plain, Digest::of(plain)));
        }
    }

    #[test]
    fn a_frame_that_unpacks_to_more_than_was_signed_is_cut_short() {
        let (frame, digest) = frame_of(&[0; 10_000_000]);
        let mut back = Vec::new();
        let error = decompress(&mut &frame[..], &mut back, digest, 1000).unwrap_err();
        assert!(matches!(error, FrameError::Mismatch { length: 1001, .. }), "{error}");
    }

    #[test]
    fn every_flipped_or_missing_byte_is_noticed() {
        let plain: Vec<u8> = (0..4000_u32).flat_map(|n| n.to_le_bytes()).collect();
        let (frame, digest) = frame_of(&plain);
        let check = |frame: &[u8]| {
            let mut back = Vec::new();
            decompress(&mut &*frame, &mut back, digest, plain.len() as u64).is_err()
                // A bit that zstd itself ignores may be flipped; then the bytes are the right ones.
                || back == plain
        };
        for at in 0..frame.len() {
            let mut flipped = frame.clone();
            flipped[at] ^= 1;
            assert!(check(&flipped), "byte {at} flipped");
            assert!(check(&frame[..at]), "cut at {at}");
        }
    }
}
