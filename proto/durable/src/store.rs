//! The narrow trait behind which a key-value store hides: ordered keys in tables, and one way to write,
//! all or nothing and durable. Which store it is, and what the records mean, is no matter here.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
};

use crate::FileError;

/// The longest key. Keys are names and counters.
pub const MAX_KEY: usize = 512;

/// The largest value. Packages, backups, logs and hook output are files named by their hash; a store
/// that held them would grow without giving space back.
pub const MAX_VALUE: usize = 16 * 1024;

/// A part of the store with keys of its own. Byte 0 belongs to the store itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table(u8);

impl Table {
    /// The table under this byte; fixed for ever, since it is on disk.
    ///
    /// # Panics
    /// On byte 0. Tables are constants, so this is seen by the compiler.
    pub const fn new(byte: u8) -> Table {
        assert!(byte != 0, "table 0 belongs to the store itself");
        Table(byte)
    }

    /// The byte.
    pub const fn byte(self) -> u8 {
        self.0
    }
}

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// What is written together, or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// What each key becomes: a value, or nothing.
    pub(crate) changes: BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>,
    /// What must hold before any of it is written.
    pub(crate) guards: Vec<Guard>,
}

/// A key holds exactly this, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Guard {
    pub(crate) table: Table,
    pub(crate) key: Vec<u8>,
    pub(crate) expected: Option<Vec<u8>>,
}

impl Batch {
    /// Nothing yet.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Sets a key. The last word about a key in a batch counts.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.insert((table, key.into()), Some(value.into()));
    }

    /// Takes a key away, if it is there.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.changes.insert((table, key.into()), None);
    }

    /// Makes the whole batch depend on what a key holds before it: this value, or nothing.
    pub fn expect(&mut self, table: Table, key: impl Into<Vec<u8>>, expected: Option<Vec<u8>>) {
        self.guards.push(Guard { table, key: key.into(), expected });
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Refuses what no store takes, before anything is touched.
    pub(crate) fn check_sizes(&self) -> Result<(), StoreError> {
        for ((table, key), value) in &self.changes {
            check_size("key", *table, key, key.len(), MAX_KEY)?;
            let size = value.as_ref().map_or(0, Vec::len);
            check_size("value", *table, key, size, MAX_VALUE)?;
        }
        Ok(())
    }
}

fn check_size(
    what: &'static str,
    table: Table,
    key: &[u8],
    size: usize,
    limit: usize,
) -> Result<(), StoreError> {
    if size <= limit {
        return Ok(());
    }
    Err(StoreError::TooLarge { what, at: KeyName::new(table, key), size, limit })
}

/// A key as errors show it: readable where it is text, and never long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyName(String);

impl KeyName {
    /// The name of this key.
    pub fn new(table: Table, key: &[u8]) -> KeyName {
        const SHOWN: usize = 80;
        let text = key[..key.len().min(SHOWN)].escape_ascii();
        let rest = if key.len() > SHOWN { "..." } else { "" };
        KeyName(format!("{}/{text}{rest}", table.byte()))
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a store could not do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing of the batch is stored. The store goes on; it has given its reserve back to the file
    /// system, so what must be written still may be.
    #[error(
        "the store in {} has no space left\n\
         help: free space on this file system; the store goes on by itself", path.display()
    )]
    Full {
        /// The store's directory.
        path: PathBuf,
    },
    /// What is on disk is not what was written.
    #[error(
        "the store in {} is damaged: {what}\n\
         help: start again; what is damaged is then set aside and named", path.display()
    )]
    Corrupt {
        /// The store's directory.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// A newer program has written it.
    #[error(
        "the store in {} has format {found}, this program knows {known}\n\
         help: run the newer version, or restore the store from before", path.display()
    )]
    Newer {
        /// The store's directory.
        path: PathBuf,
        /// The format that was found.
        found: u32,
        /// The newest format that this program reads.
        known: u32,
    },
    /// Another process has it open.
    #[error(
        "the store in {} is in use by another process\n\
         help: stop that process, or ask it instead", path.display()
    )]
    Busy {
        /// The store's directory.
        path: PathBuf,
    },
    /// A key or value over the limit. Nothing of the batch is stored.
    #[error("the {what} at {at} has {size} bytes, at most {limit} are stored")]
    TooLarge {
        /// Key or value.
        what: &'static str,
        /// Where it was to go.
        at: KeyName,
        /// How large it is.
        size: usize,
        /// How large it may be.
        limit: usize,
    },
    /// A guard does not hold. Nothing of the batch is stored.
    #[error("{at} has changed meanwhile")]
    Conflict {
        /// The guarded key.
        at: KeyName,
    },
    /// The system refused. Whether the batch is stored shows only when the store is read again.
    #[error("cannot {action} the store in {}: {source}", path.display())]
    Io {
        /// The store's directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl StoreError {
    /// A file's error, told as the error of the store that it belongs to.
    pub(crate) fn of_file(store: &Path, error: FileError) -> StoreError {
        let path = store.to_owned();
        if error.is_full() {
            return StoreError::Full { path };
        }
        let kind = error.kind().unwrap_or(io::ErrorKind::Other);
        StoreError::Io { path, action: "use", source: io::Error::new(kind, error) }
    }
}

/// How a store is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// What it takes on disk; 0 where it has none.
    pub bytes_on_disk: u64,
    /// Keys that hold a value.
    pub live_keys: u64,
    /// Bytes of keys and values.
    pub live_bytes: u64,
    /// Whether the reserve for a full disk is in place. While it is not, nothing new should begin: the
    /// space that is left is for ending what has begun. It comes back by itself with the space.
    pub reserve: bool,
    /// The last error that was more than a refusal, if there has been one since the start.
    pub last_error: Option<String>,
}

/// A store of ordered keys. Whatever it is, it behaves as [`crate::MemStore`] does.
pub trait StateStore: Send + Sync {
    /// What a key holds.
    ///
    /// # Errors
    /// If the store can't be read.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The entries of a table from this key on, in the order of their bytes, at most `limit`. Never
    /// half of a batch.
    ///
    /// # Errors
    /// If the store can't be read.
    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError>;

    /// All of the batch or nothing, and on stable storage when it returns `Ok`.
    ///
    /// # Errors
    /// With `Full`, `TooLarge` and `Conflict` nothing is stored. After `Io` and `Corrupt` that shows
    /// only when the store is opened again.
    fn commit(&self, batch: Batch) -> Result<(), StoreError>;

    /// How the store is doing.
    fn stats(&self) -> StoreStats;
}
