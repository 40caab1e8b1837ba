//! How values lie in sled: under a version byte, and the large ones in pieces.
//!
//! sled writes a page over a quarter of a segment to a file of its own, which it never syncs: a power
//! cut would take acknowledged data with it. So the largest leaf has to stay under that, and a value
//! that would be too large for it is cut up.

use std::iter;

use super::engine::Trouble;
use crate::store::{MAX_KEY, MAX_VALUE};

/// What sled writes in one go; its default.
pub(super) const SEGMENT: usize = 512 * 1024;

/// Most entries of a leaf while sled rearranges it: it splits over 16, and merges in up to 3 more.
const LEAF: usize = 20;

/// The largest piece of a value.
const PIECE: usize = 5 * 1024;

/// What sled and the bytes below add to a piece, at most: lengths, kind, version, count.
const BESIDE: usize = 64;

const _: () = assert!(LEAF * (PREFIX.len() + 2 + MAX_KEY + PIECE + BESIDE) < SEGMENT / 4);
const _: () = assert!(MAX_VALUE.div_ceil(PIECE) < 256);

/// Before the key of each piece but the first: table 0, which no caller can name.
const PREFIX: &[u8] = b"\0+";

/// First byte of a value that is whole.
const WHOLE: u8 = 1;
/// First byte of a value in pieces; the second is how many more there are.
const FIRST_PIECE: u8 = 2;

/// A value that is whole.
pub(super) fn small(plain: &[u8]) -> Vec<u8> {
    [&[WHOLE], plain].concat()
}

/// The entries to write for a key and its value.
pub(super) fn pieces(key: &[u8], plain: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let Some((first, rest)) = plain.split_at_checked(PIECE).filter(|(_, rest)| !rest.is_empty())
    else {
        return vec![(key.to_vec(), small(plain))];
    };
    let rest = rest.chunks(PIECE);
    let head = [&[FIRST_PIECE, rest.len() as u8], first].concat();
    let further = (0..).zip(rest).map(|(n, piece)| (piece_key(key, n), small(piece)));
    iter::once((key.to_vec(), head)).chain(further).collect()
}

/// Where the pieces lie that belong to a value, beside what its key holds.
pub(super) fn further_pieces(key: &[u8], held: &[u8]) -> Result<Vec<Vec<u8>>, Trouble> {
    match held {
        [WHOLE, ..] => Ok(Vec::new()),
        [FIRST_PIECE, count, ..] => Ok((0..*count).map(|n| piece_key(key, n)).collect()),
        [other, ..] => Err(Trouble::Damaged(format!("a value of version {other}"))),
        [] => Err(Trouble::Damaged("a value without version".to_owned())),
    }
}

/// The value that a key holds, put together.
pub(super) fn whole<H: AsRef<[u8]>>(
    key: &[u8],
    held: &[u8],
    get: impl Fn(&[u8]) -> Result<Option<H>, Trouble>,
) -> Result<Vec<u8>, Trouble> {
    let further = further_pieces(key, held)?;
    let mut plain = held[if further.is_empty() { 1 } else { 2 }..].to_vec();
    for piece in further {
        match get(&piece)?.as_ref().map(H::as_ref) {
            Some([WHOLE, bytes @ ..]) => plain.extend_from_slice(bytes),
            Some(_) | None => {
                return Err(Trouble::Damaged(format!(
                    "a piece of {} is missing",
                    key.escape_ascii()
                )));
            }
        }
    }
    Ok(plain)
}

/// Whether this is the key of a piece.
pub(super) fn is_piece(key: &[u8]) -> bool {
    key.starts_with(PREFIX)
}

fn piece_key(key: &[u8], n: u8) -> Vec<u8> {
    [PREFIX, key, &[n]].concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_value_of_any_size_comes_back_and_no_entry_is_larger_than_a_piece() {
        for size in [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 1, MAX_VALUE] {
            let plain: Vec<u8> = (0..size).map(|n| (n % 249) as u8).collect();
            let entries: BTreeMap<_, _> = pieces(b"\x01key", &plain).into_iter().collect();
            assert_eq!(entries.len(), size.div_ceil(PIECE).max(1), "{size}");
            assert!(entries.values().all(|entry| entry.len() <= PIECE + 2), "{size}");
            let held = &entries[&b"\x01key"[..]];
            let back = whole(b"\x01key", held, |piece| Ok(entries.get(piece))).unwrap();
            assert_eq!(back, plain, "{size}");
            let lost = whole(b"\x01key", held, |_| Ok(None::<Vec<u8>>));
            assert_eq!(lost.is_err(), size > PIECE, "{size}");
        }
    }

    #[test]
    fn the_pieces_of_different_keys_never_meet() {
        // One key with the number of a piece at its end is another key.
        assert_ne!(piece_key(b"\x01a", 0), piece_key(b"\x01a\0", 0));
        let all: Vec<_> = [&b"\x01"[..], b"\x01\0", b"\x01\0\0"]
            .iter()
            .flat_map(|key| (0..3).map(|n| piece_key(key, n)))
            .collect();
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
