//! Checks a zstd frame as it arrives, piece by piece: it must unpack to just the bytes that its
//! digest and length name, end there, and be the only one. Keeps none of the bytes.

use std::io;

use refit_proto::names::Digest;
use sha2::{Digest as _, Sha256};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

/// 8 MiB, the largest window that a host unpacks: a hostile frame could ask for gigabytes.
const WINDOW_LOG_MAX: u32 = 23;
const PIECE: usize = 128 * 1024;

/// Why a frame is not what it was said to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Not a zstd frame, or a damaged one.
    #[error("it is not an undamaged zstd frame")]
    Damaged,
    /// The frame is not at its end.
    #[error("it ends in the middle of a frame")]
    Unfinished,
    /// Something follows the frame.
    #[error("bytes follow the end of the frame")]
    Trailing,
    /// More or fewer bytes than announced.
    #[error("it unpacks to {found} bytes or more instead of {expected}")]
    Length {
        /// Announced.
        expected: u64,
        /// Seen.
        found: u64,
    },
    /// Other bytes than announced.
    #[error("it unpacks to bytes with digest {found}")]
    Digest {
        /// Seen.
        found: Digest,
    },
}

/// A frame under check.
pub(super) struct FrameCheck {
    decoder: Decoder<'static>,
    output: Vec<u8>,
    hash: Sha256,
    expected: u64,
    length: u64,
    ended: bool,
}

impl FrameCheck {
    /// Begins, for plain bytes of this length.
    pub(super) fn new(expected: u64) -> io::Result<FrameCheck> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
        let (hash, output) = (Sha256::new(), vec![0; PIECE]);
        Ok(FrameCheck { decoder, output, hash, expected, length: 0, ended: false })
    }

    /// The next piece of the frame.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<(), Mismatch> {
        let mut input = InBuffer::around(piece);
        loop {
            if self.ended {
                let whole = input.pos() == piece.len();
                return if whole { Ok(()) } else { Err(Mismatch::Trailing) };
            }
            let (remaining, written) = {
                let mut output = OutBuffer::around(&mut self.output[..]);
                let remaining =
                    self.decoder.run(&mut input, &mut output).map_err(|_| Mismatch::Damaged)?;
                (remaining, output.pos())
            };
            self.hash.update(&self.output[..written]);
            self.length += written as u64;
            if self.length > self.expected {
                return Err(Mismatch::Length { expected: self.expected, found: self.length });
            }
            self.ended = remaining == 0;
            // A full output may have left more inside the decoder, also when all input is read.
            if !self.ended && input.pos() == piece.len() && written < self.output.len() {
                return Ok(());
            }
        }
    }

    /// The frame has come to its end.
    pub(super) fn finish(self, expected: Digest) -> Result<(), Mismatch> {
        if !self.ended {
            return Err(Mismatch::Unfinished);
        }
        if self.length != self.expected {
            return Err(Mismatch::Length { expected: self.expected, found: self.length });
        }
        let found = Digest::from(<[u8; 32]>::from(self.hash.finalize()));
        if found != expected {
            return Err(Mismatch::Digest { found });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(frame: &[u8], plain: &[u8], piece: usize) -> Result<(), Mismatch> {
        let mut check = FrameCheck::new(plain.len() as u64).unwrap();
        for piece in frame.chunks(piece) {
            check.take(piece)?;
        }
        check.finish(Digest::of(plain))
    }

    fn some_bytes(length: u32) -> Vec<u8> {
        (0..length).flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes()).collect()
    }

    #[test]
    fn a_whole_frame_passes_in_pieces_of_any_size() {
        for plain in [Vec::new(), b"refit".to_vec(), vec![7; 1_000_000], some_bytes(100_000)] {
            let frame = zstd::encode_all(&plain[..], 3).unwrap();
            for piece in [1, 7, 4096, frame.len()] {
                if frame.len() / piece < 10_000 {
                    assert_eq!(
                        check(&frame, &plain, piece),
                        Ok(()),
                        "{} bytes by {piece}",
                        plain.len()
                    );
                }
            }
        }
    }

    #[test]
    fn whatever_else_it_may_be_is_refused() {
        let plain = some_bytes(1000);
        let frame = zstd::encode_all(&plain[..], 3).unwrap();
        for at in 0..frame.len() {
            assert!(check(&frame[..at], &plain, 64).is_err(), "cut at {at}");
        }
        let twice = [&frame[..], &frame[..]].concat();
        assert_eq!(check(&twice, &plain, 64), Err(Mismatch::Trailing));
        assert_eq!(check(&[&frame[..], b"x"].concat(), &plain, 64), Err(Mismatch::Trailing));
        let other = zstd::encode_all(&vec![0; plain.len()][..], 3).unwrap();
        assert!(matches!(check(&other, &plain, 64), Err(Mismatch::Digest { .. })));
        assert!(matches!(check(b"garbage, not a frame", &plain, 64), Err(Mismatch::Damaged)));
    }

    #[test]
    fn a_small_frame_that_unpacks_to_a_flood_is_stopped_early() {
        let bomb = zstd::encode_all(&vec![0; 50_000_000][..], 3).unwrap();
        let mut check = FrameCheck::new(1000).unwrap();
        let Err(Mismatch::Length { found, .. }) = check.take(&bomb) else { panic!("not stopped") };
        assert!(found <= 1000 + PIECE as u64);
    }
}
