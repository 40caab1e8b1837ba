//! Frames, the only packed thing that Refit unpacks: one file, whose digest and length were signed.

use std::io::{self, Write};

use crate::{
    names::Digest,
    package::{FrameError, compress, decompress},
};

/// A fuzzed frame may announce at most this much.
const MOST: u64 = 1 << 20;

/// A frame gives the bytes that were signed or nothing, and never more than one byte beyond them.
pub fn archive(data: &[u8]) {
    let Some((announced, frame)) = data.split_first_chunk::<4>() else { return };
    let length = u64::from(u32::from_le_bytes(*announced)) % MOST;
    let mut plain = Bounded { bytes: Vec::new(), most: length + 1 };
    let anything = Digest::of(b"what a frame is very unlikely to hold");
    match decompress(&mut &frame[..], &mut plain, anything, length) {
        Ok(()) => panic!("a digest was met by chance"),
        Err(FrameError::Io { .. }) => {}
        Err(FrameError::Mismatch { found, length: seen, .. }) => {
            assert_eq!((found, seen), (Digest::of(&plain.bytes), plain.bytes.len() as u64));
            if seen <= length {
                let mut again = Vec::new();
                decompress(&mut &frame[..], &mut again, found, seen).expect("what was signed");
                assert_eq!(again, plain.bytes);
            }
        }
    }
    round_trip(data);
}

fn round_trip(data: &[u8]) {
    let (mut frame, mut back) = (Vec::new(), Vec::new());
    let (digest, length) = compress(&mut &data[..], &mut frame).expect("memory takes it");
    decompress(&mut frame.as_slice(), &mut back, digest, length).expect("our own frame");
    assert_eq!(back, data);
}

/// A disk that may not get more than this.
struct Bounded {
    bytes: Vec<u8>,
    most: u64,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        assert!(self.bytes.len() as u64 <= self.most, "more was unpacked than was signed");
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
