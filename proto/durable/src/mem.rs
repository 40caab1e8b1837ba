//! A store in memory: the plain meaning of [`StateStore`], which the one on disk is tested against.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, RwLock, RwLockReadGuard},
};

use crate::store::{Batch, Entry, KeyName, StateStore, StoreError, StoreStats, Table};

type Entries = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// A store in memory. Its clones are one store.
#[derive(Debug, Clone, Default)]
pub struct MemStore {
    entries: Arc<RwLock<Entries>>,
}

impl MemStore {
    /// An empty store.
    pub fn new() -> MemStore {
        MemStore::default()
    }

    fn read(&self) -> RwLockReadGuard<'_, Entries> {
        // A panic while the lock is held leaves the map whole: only `commit` writes, and it checks
        // everything first.
        self.entries.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl StateStore for MemStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.read().get(&(table, key.to_vec())).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        let start = Bound::Included((table, from.to_vec()));
        Ok(self
            .read()
            .range((start, Bound::Unbounded))
            .take_while(|((of, _), _)| *of == table)
            .take(limit)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect())
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        batch.check_sizes()?;
        let mut entries = self.entries.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        for guard in batch.guards {
            let at = (guard.table, guard.key);
            if entries.get(&at) != guard.expected.as_ref() {
                return Err(StoreError::Conflict { at: KeyName::new(at.0, &at.1) });
            }
        }
        for (at, value) in batch.changes {
            match value {
                Some(value) => entries.insert(at, value),
                None => entries.remove(&at),
            };
        }
        Ok(())
    }

    fn stats(&self) -> StoreStats {
        let entries = self.read();
        let live_bytes =
            entries.iter().map(|((_, key), value)| key.len() + value.len()).sum::<usize>();
        StoreStats {
            live_keys: entries.len() as u64,
            live_bytes: live_bytes as u64,
            ..StoreStats::default()
        }
    }
}
