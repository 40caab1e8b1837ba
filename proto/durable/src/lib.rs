//! Files and key-value stores that survive a power cut. Knows no protocol.
//!
//! [`file`] holds what a program needs of the file system: a file is there whole, or not at all, and
//! what has been reported as done is on stable storage. [`store`] is the narrow trait behind which a
//! key-value store hides, [`MemStore`] the simple one, [`SledStore`] the one on disk, with everything
//! it takes to make sled safe.

#[cfg(feature = "testing")]
pub mod conformance;
pub mod file;
mod mem;
mod sled_store;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;

pub use file::FileError;
pub use mem::MemStore;
pub use sled_store::{Opened, Options, Probe, SledStore};
pub use store::{Batch, Entry, StateStore, StoreError, StoreStats, Table};
