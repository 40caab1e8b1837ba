//! Both stores are the same store to whoever uses them.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::sync::Arc;

use jiff::Timestamp;
use refit_durable::{
    MemStore, Options, SledStore, StateStore,
    conformance::{Place, check},
};

struct InMemory(MemStore);

impl Place for InMemory {
    fn open(&self) -> Arc<dyn StateStore> {
        Arc::new(self.0.clone())
    }
}

struct OnDisk(tempfile::TempDir);

impl Place for OnDisk {
    fn open(&self) -> Arc<dyn StateStore> {
        let opened = SledStore::open(Options::new(self.0.path(), Timestamp::UNIX_EPOCH)).unwrap();
        assert_eq!(opened.set_aside, None);
        assert!(!opened.repaired);
        Arc::new(opened.store)
    }
}

#[test]
fn the_store_in_memory_conforms() {
    check(|| InMemory(MemStore::new()));
}

#[test]
fn the_store_on_disk_conforms() {
    check(|| OnDisk(tempfile::tempdir().unwrap()));
}
