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

/// A frame of these bytes as they are, not compressed: for whoever has a few bytes and wants them taken the
/// way that frames are. A host that compressed them would carry an encoder of half a megabyte for it.
pub fn stored(plain: &[u8]) -> Vec<u8> {
    /// RFC 8878, sections 3.1.1.1 and 3.1.1.1.2: the magic number; neither length, checksum nor dictionary;
    /// a window of 128 KiB (exponent 7 over 2^10).
    const HEAD: [u8; 6] = [0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3];
    /// The longest block, which is the window.
    const BLOCK: usize = 128 << 10;
    let mut frame = HEAD.to_vec();
    let mut rest = plain;
    loop {
        let (block, left) = rest.split_at(rest.len().min(BLOCK));
        // Whether it is the last, two bits of 0 for bytes as they are, and how many.
        let head = u32::from(left.is_empty()) | (block.len() as u32) << 3;
        frame.extend_from_slice(&head.to_le_bytes()[..3]);
        frame.extend_from_slice(block);
        if left.is_empty() {
            return frame;
        }
        rest = left;
    }
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
    let io = |source| FrameError::Io { digest, source: in_words(source) };
    let mut decoder = zstd::stream::Decoder::new(frame).map_err(io)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(io)?;
    let (found, seen) = copy_hashed(&mut decoder, plain, length.saturating_add(1)).map_err(io)?;
    if found != digest || seen != length {
        return Err(FrameError::Mismatch { expected: digest, found, length: seen });
    }
    Ok(())
}

/// What unpacking failed of. A host's build of zstd carries no texts.
fn in_words(error: io::Error) -> io::Error {
    use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode as Code;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<zstd::Error>());
    let Some(inner) = inner else { return error };
    let words = [
        (Code::ZSTD_error_prefix_unknown, "it is no zstd frame"),
        (Code::ZSTD_error_frameParameter_windowTooLarge, "its frame asks for too much memory"),
        (Code::ZSTD_error_memory_allocation, "there is too little memory to unpack it"),
    ];
    let known = words.into_iter().find(|(kind, _)| inner.is(*kind));
    io::Error::other(known.map_or("its frame is damaged", |(_, words)| words))
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
    fn a_frame_that_can_not_be_unpacked_says_why_in_words_of_our_own() {
        let (frame, digest) = frame_of(&[7; 100_000]);
        let mut damaged = frame.clone();
        // The size of the first block, behind the head of the frame.
        damaged[6..].fill(0xff);
        let mut greedy = frame.clone();
        // A window of 2^41 bytes, and no single segment.
        greedy[4..6].copy_from_slice(&[0, 31 << 3]);
        for (frame, words) in [
            (b"no frame at all".to_vec(), "it is no zstd frame"),
            (greedy, "its frame asks for too much memory"),
            (damaged, "its frame is damaged"),
        ] {
            let error = decompress(&mut &frame[..], &mut Vec::new(), digest, 100_000).unwrap_err();
            assert!(error.to_string().ends_with(words), "{error}");
        }
    }

    #[test]
    fn a_stored_frame_gives_back_its_bytes_whatever_their_length() {
        for length in [0, 1, 1000, (128 << 10) - 1, 128 << 10, (128 << 10) + 1, 1_000_000] {
            let plain: Vec<u8> = (0..length).map(|at: usize| (at % 251) as u8).collect();
            let mut back = Vec::new();
            let digest = Digest::of(&plain);
            decompress(&mut &stored(&plain)[..], &mut back, digest, length as u64).unwrap();
            assert!(back == plain, "{length} bytes");
        }
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

    /// CVE-2021-38511, CVE-2026-33055, CVE-2026-33056, RUSTSEC-2025-0110, CVE-2025-62518.
    #[test]
    fn a_frame_that_unpacks_to_more_than_was_signed_is_cut_short() {
        let (frame, digest) = frame_of(&[0; 10_000_000]);
        let mut back = Vec::new();
        let error = decompress(&mut &frame[..], &mut back, digest, 1000).unwrap_err();
        assert!(matches!(error, FrameError::Mismatch { length: 1001, .. }), "{error}");
    }

    /// Fails at its n-th call; until then, and after it, it does what is asked.
    struct Failing<T> {
        inner: T,
        calls_left: usize,
    }

    impl<T> Failing<T> {
        fn call(&mut self) -> io::Result<()> {
            self.calls_left = self.calls_left.wrapping_sub(1);
            if self.calls_left == usize::MAX { Err(io::Error::other("EIO")) } else { Ok(()) }
        }
    }

    impl<T: Read> Read for Failing<T> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.call()?;
            let few = buffer.len().min(1000);
            self.inner.read(&mut buffer[..few])
        }
    }

    impl<T: Write> Write for Failing<T> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.call()?;
            self.inner.write(&bytes[..bytes.len().min(1000)])
        }
        fn flush(&mut self) -> io::Result<()> {
            self.inner.flush()
        }
    }

    /// CVE-2016-1252: an error while bytes are verified is never taken for a good end.
    #[test]
    fn an_error_anywhere_while_a_frame_is_read_or_its_file_written_is_no_success() {
        let plain: Vec<u8> = (0..5000_u32).flat_map(|n| n.to_le_bytes()).collect();
        let (frame, digest) = frame_of(&plain);
        let (mut failed, mut whole) = (0, 0);
        for calls_left in 0..60 {
            let mut reader = Failing { inner: &frame[..], calls_left };
            let mut back = Vec::new();
            let read = decompress(&mut reader, &mut back, digest, plain.len() as u64);
            let mut writer = Failing { inner: Vec::new(), calls_left };
            let wrote = decompress(&mut &frame[..], &mut writer, digest, plain.len() as u64);
            for (result, bytes, left) in
                [(read, back, reader.calls_left), (wrote, writer.inner, writer.calls_left)]
            {
                // Past zero: the error was given.
                let given = left > calls_left;
                assert_eq!(result.is_err(), given, "at call {calls_left}");
                assert!(given || bytes == plain);
                if given { failed += 1 } else { whole += 1 }
            }
        }
        assert!(failed > 20 && whole > 20, "{failed} {whole}");
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
