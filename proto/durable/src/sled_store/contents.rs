//! What a store says it holds. Written with each commit and compared with what a start finds: sled
//! notices damage by the page, and not that a page is missing or an older one.

use super::engine::Trouble;

/// What a store holds, and how many commits it has taken in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) commits: u64,
    pub(super) keys: u64,
    pub(super) bytes: u64,
    /// The sum over all entries, each told by one number. Not against an enemy, who could write any.
    sum: u64,
}

impl Contents {
    /// An empty store that goes on counting from here.
    pub(super) fn empty(commits: u64) -> Contents {
        Contents { commits, ..Contents::default() }
    }

    pub(super) fn add(&mut self, key: &[u8], plain: &[u8]) {
        self.keys += 1;
        self.bytes += size(key, plain);
        self.sum = self.sum.wrapping_add(number(key, plain));
    }

    pub(super) fn remove(&mut self, key: &[u8], plain: &[u8]) {
        self.keys -= 1;
        self.bytes -= size(key, plain);
        self.sum = self.sum.wrapping_sub(number(key, plain));
    }

    pub(super) fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        let numbers = [self.commits, self.keys, self.bytes, self.sum];
        for (part, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            part.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Contents, Trouble> {
        let (numbers, []) = bytes.as_chunks::<8>() else { return Err(uncounted()) };
        let &[commits, keys, bytes, sum] = numbers else { return Err(uncounted()) };
        let [commits, keys, bytes, sum] = [commits, keys, bytes, sum].map(u64::from_be_bytes);
        Ok(Contents { commits, keys, bytes, sum })
    }
}

fn uncounted() -> Trouble {
    Trouble::Damaged("it does not say what it holds".to_owned())
}

/// Without the table's byte, as callers count.
fn size(key: &[u8], plain: &[u8]) -> u64 {
    (key.len() - 1 + plain.len()) as u64
}

/// FNV-1a over the key, its length, and the value.
fn number(key: &[u8], plain: &[u8]) -> u64 {
    let length = (key.len() as u64).to_be_bytes();
    let bytes = length.iter().chain(key).chain(plain);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
