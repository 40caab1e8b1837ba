//! Rows of the store on disk: reading them whole, and gathering what a commit writes. A row that is
//! too large for one value goes on in parts of its own.

use refit_durable::{Batch, StateStore, Table, store::MAX_VALUE};

use super::keys;
use crate::store::{MAX_RECORD, StoreFault};

/// The largest part of a row. The first stands behind one byte: how many more there are.
const PART: usize = MAX_VALUE - 1;

const _: () = assert!((MAX_RECORD + 8).div_ceil(PART) <= 255);

/// Reads of a moment.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a>(pub(super) &'a dyn StateStore);

impl Rows<'_> {
    /// A row.
    pub(super) fn get(self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        let held = self.0.get(table, key)?;
        held.map(|held| self.whole(table, key, held)).transpose()
    }

    fn whole(self, table: Table, key: &[u8], held: Vec<u8>) -> Result<Vec<u8>, StoreFault> {
        let further = further(&held)?;
        let mut whole = held;
        whole.remove(0);
        for number in 0..further {
            let part = self.0.get(keys::PARTS, &keys::part(table, key, number))?;
            whole.extend(part.ok_or_else(|| StoreFault::corrupt("a part of a row is missing"))?);
        }
        Ok(whole)
    }

    /// The rows whose keys begin so, after one of them, in order; what `take` returns for each, until
    /// there are `limit`. `take` may pass over a row.
    pub(super) fn each<T>(
        self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        mut take: impl FnMut(&[u8], Vec<u8>) -> Result<Option<T>, StoreFault>,
    ) -> Result<Vec<T>, StoreFault> {
        const PAGE: usize = 256;
        let mut taken = Vec::new();
        let mut from = after.map_or_else(|| prefix.to_vec(), just_after);
        loop {
            let page = self.0.scan(table, &from, PAGE)?;
            let full = page.len() == PAGE;
            for (key, held) in page {
                if taken.len() >= limit || !key.starts_with(prefix) {
                    return Ok(taken);
                }
                let row = self.whole(table, &key, held)?;
                taken.extend(take(&key, row)?);
                from = just_after(&key);
            }
            if !full {
                return Ok(taken);
            }
        }
    }
}

fn just_after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

fn further(held: &[u8]) -> Result<u8, StoreFault> {
    held.first().copied().ok_or_else(|| StoreFault::corrupt("a row is empty"))
}

/// What a commit writes.
pub(super) struct Writes<'a> {
    rows: Rows<'a>,
    batch: Batch,
}

impl<'a> Writes<'a> {
    pub(super) fn new(rows: Rows<'a>) -> Writes<'a> {
        Writes { rows, batch: Batch::new() }
    }

    /// Writes a row, over whatever was there.
    pub(super) fn put(&mut self, table: Table, key: &[u8], row: &[u8]) -> Result<(), StoreFault> {
        self.delete(table, key)?;
        let (first, rest) = row.split_at_checked(PART).unwrap_or((row, &[]));
        let parts = rest.chunks(PART);
        self.batch.put(table, key, [&[parts.len() as u8], first].concat());
        for (number, part) in (0..).zip(parts) {
            self.batch.put(keys::PARTS, keys::part(table, key, number), part);
        }
        Ok(())
    }

    /// Takes a row away, with its parts.
    pub(super) fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), StoreFault> {
        if let Some(held) = self.rows.0.get(table, key)? {
            for number in 0..further(&held)? {
                self.batch.delete(keys::PARTS, keys::part(table, key, number));
            }
            self.batch.delete(table, key);
        }
        Ok(())
    }

    pub(super) fn commit(self) -> Result<(), StoreFault> {
        Ok(self.rows.0.commit(self.batch)?)
    }
}
