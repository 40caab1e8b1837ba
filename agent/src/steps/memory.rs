//! What a host remembers of promotions after they are gone: the floor of each product, which is never
//! lowered, and which quarantines a promotion has lifted already, so that it does so once.

use std::sync::Arc;

use refit_durable::{Batch, StateStore, StoreError, Table};
use refit_proto::names::{Digest, Product};
use serde::{Deserialize, Serialize};

const MEMORY: Table = Table::new(b'm');

/// The memory in the host's store.
pub struct Memory(Arc<dyn StateStore>);

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Floor {
    /// No release with a smaller counter is installed.
    floor: u64,
    /// What the floor becomes once this release is committed.
    next: Option<(Digest, u64)>,
}

impl Memory {
    /// The memory in this store.
    pub fn new(store: Arc<dyn StateStore>) -> Memory {
        Memory(store)
    }

    /// The least counter that a release of this product must have to be installed.
    ///
    /// # Errors
    /// If it can't be read. A record that makes no sense is an error: a floor is never lowered.
    pub fn floor(&self, product: &Product) -> Result<u64, StoreError> {
        Ok(self.record(product)?.floor)
    }

    /// Remembers what the floor becomes if this release is committed.
    ///
    /// # Errors
    /// If it is not certain that it is remembered.
    pub fn expect_floor(
        &self,
        product: &Product,
        release: &Digest,
        floor: Option<u64>,
    ) -> Result<(), StoreError> {
        let record = self.record(product)?;
        let next = floor.map(|floor| (*release, floor));
        if record.next == next {
            return Ok(());
        }
        self.put(product, &Floor { next, ..record })
    }

    /// The release was committed: its promotion's floor is this host's, if it is higher.
    ///
    /// # Errors
    /// If it is not certain that it is remembered.
    pub fn committed(&self, product: &Product, release: &Digest) -> Result<(), StoreError> {
        let record = self.record(product)?;
        match record.next {
            Some((digest, floor)) if digest == *release => {
                self.put(product, &Floor { floor: record.floor.max(floor), next: None })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether this version of a ring's file may lift the quarantine of a release: once. Remembers it.
    ///
    /// # Errors
    /// If it is not certain that it is remembered.
    pub fn lifts(&self, release: &Digest, ring_version: u64) -> Result<bool, StoreError> {
        let key = [b"lifted/", release.as_bytes().as_slice()].concat();
        let before = self.0.get(MEMORY, &key)?;
        let before = before.and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)));
        if before.is_some_and(|before| before >= ring_version) {
            return Ok(false);
        }
        let mut batch = Batch::new();
        batch.put(MEMORY, key, ring_version.to_be_bytes());
        self.0.commit(batch)?;
        Ok(true)
    }

    fn record(&self, product: &Product) -> Result<Floor, StoreError> {
        let Some(bytes) = self.0.get(MEMORY, &key(product))? else { return Ok(Floor::default()) };
        serde_json::from_slice(&bytes).map_err(|error| StoreError::Corrupt {
            path: "the state store".into(),
            what: format!("the floor of {product}: {error}"),
        })
    }

    fn put(&self, product: &Product, floor: &Floor) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        // Numbers and words: this cannot fail.
        batch.put(MEMORY, key(product), serde_json::to_vec(floor).unwrap_or_default());
        self.0.commit(batch)
    }
}

fn key(product: &Product) -> Vec<u8> {
    format!("floor/{product}").into_bytes()
}

#[cfg(test)]
mod tests {
    use refit_durable::MemStore;

    use super::*;

    #[test]
    fn a_floor_is_taken_over_with_the_commit_and_never_lowered() {
        let memory = Memory::new(Arc::new(MemStore::new()));
        let (product, one, two) = ("p".parse().unwrap(), Digest::of(b"1"), Digest::of(b"2"));
        memory.expect_floor(&product, &one, Some(5)).unwrap();
        assert_eq!(memory.floor(&product).unwrap(), 0, "not before it is committed");
        memory.committed(&product, &two).unwrap();
        assert_eq!(memory.floor(&product).unwrap(), 0, "and not by another release");
        memory.committed(&product, &one).unwrap();
        assert_eq!(memory.floor(&product).unwrap(), 5);
        for lower in [Some(3), None] {
            memory.expect_floor(&product, &two, lower).unwrap();
            memory.committed(&product, &two).unwrap();
            assert_eq!(memory.floor(&product).unwrap(), 5);
        }
    }

    #[test]
    fn a_promotion_lifts_a_quarantine_once() {
        let memory = Memory::new(Arc::new(MemStore::new()));
        let release = Digest::of(b"1");
        assert!(memory.lifts(&release, 7).unwrap());
        assert!(!memory.lifts(&release, 7).unwrap());
        assert!(!memory.lifts(&release, 6).unwrap());
        assert!(memory.lifts(&release, 8).unwrap());
    }
}
