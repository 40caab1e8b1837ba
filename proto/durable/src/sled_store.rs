//! The store on disk: sled, with what it takes to make it safe.
//!
//! sled's `flush` leaves the bytes in the page cache, a full disk can leave it unable to open, and it
//! may panic on damaged data. Nothing outside this module sees any of that:
//! [`engine`] makes a commit durable and turns panics into errors, [`open`] decides what becomes of a
//! store that does not open, [`value`] keeps everything in the log, [`reserve`] keeps a little space for a full disk, [`quiet`] lets
//! its threads sleep, and this file keeps reads whole and the store going when the disk has been full.
//! docs/decisions/0003-sled.md has the reasons.

mod contents;
mod engine;
mod open;
mod quiet;
mod reserve;
mod value;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use jiff::Timestamp;

use crate::store::{Batch, Entry, KeyName, StateStore, StoreError, StoreStats, Table};
use contents::Contents;
use engine::{Engine, Trouble};
use reserve::Reserve;

/// Where and how to open a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// The store's directory, for it alone.
    pub dir: PathBuf,
    /// The time, for the name of what is set aside.
    pub now: Timestamp,
    /// How much sled caches for writing. A scan takes more, whatever is said here.
    pub cache_capacity: u64,
    /// The size on disk over which a start looks whether copying the store gives space back.
    pub compact_over: u64,
    /// Where a panic ends the process: what opens the store in another one first, by [`SledStore::probe`].
    pub probe: Option<Probe>,
}

/// Has the store in this directory probed by a process of its own, and says how that ended.
pub type Probe = fn(&Path) -> io::Result<ExitStatus>;

impl Options {
    /// As a host needs it: a small cache.
    pub fn new(dir: impl Into<PathBuf>, now: Timestamp) -> Options {
        const MIB: u64 = 1024 * 1024;
        Options {
            dir: dir.into(),
            now,
            cache_capacity: 8 * MIB,
            compact_over: 64 * MIB,
            probe: None,
        }
    }
}

/// A store, and what became of the one that was there.
pub struct Opened {
    /// Ready for use.
    pub store: SledStore,
    /// Whether the store is new, or stands in for one set aside: it is empty.
    pub created: bool,
    /// The store that was there was damaged and is now here, whole as it was found; `store` is empty.
    /// To be reported, and the content rebuilt from the truth.
    pub set_aside: Option<PathBuf>,
    /// Commits were acknowledged here, and the store is gone: removed by somebody, or lost by the file
    /// system. `store` is empty. To be reported, and the content rebuilt from the truth.
    pub lost: bool,
    /// The shortcut that sled keeps for a quick start was damaged and has been rebuilt from the log.
    /// Everything acknowledged is there; to be reported, since a disk that damages one file damages more.
    pub repaired: bool,
    /// Damaged stores that still lie here from earlier starts, for an administrator to look at and remove.
    pub earlier_damage: Vec<PathBuf>,
}

/// A store on disk.
pub struct SledStore {
    options: Options,
    /// Held through a commit to its end, so that whoever reads sees whole batches, and only durable ones.
    state: RwLock<State>,
    last_error: Mutex<Option<String>>,
    /// Keeps other processes out for as long as it lives.
    _lock: File,
}

enum State {
    Open(Running),
    /// Closed after the system refused; the next use tries to open it again.
    Closed,
    /// Closed after damage was met. Only a new start sets a store aside, so that its owner learns of it.
    Damaged(String),
}

struct Running {
    engine: Engine,
    reserve: Reserve,
    contents: Contents,
}

impl SledStore {
    /// Opens the store, or makes one where none is.
    ///
    /// # Errors
    /// `Busy` if another process keeps it open for 5 seconds, `Newer`, `Full`, `Io`. Damage is no
    /// error: what is damaged is set aside, and [`Opened`] says so.
    pub fn open(options: Options) -> Result<Opened, StoreError> {
        open::open(options)
    }

    /// What a [`Probe`]'s process does: opens the store, reads all of it, and closes it. Whether it could does not
    /// matter, since whoever asked tries it next and tells; whether the process lives through it does.
    pub fn probe(dir: &Path) {
        open::probe(dir);
    }

    fn path(&self) -> &Path {
        &self.options.dir
    }

    fn lock(&self) -> RwLockWriteGuard<'_, State> {
        // Panics of sled are caught inside, so a poisoned lock tells nothing about the state.
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_error(&self) -> MutexGuard<'_, Option<String>> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads from the running engine, opening it again first if it had to close.
    fn reading<T>(&self, read: impl Fn(&Engine) -> Result<T, Trouble>) -> Result<T, StoreError> {
        let state: RwLockReadGuard<'_, State> =
            self.state.read().unwrap_or_else(PoisonError::into_inner);
        if let State::Open(running) = &*state {
            return read(&running.engine).map_err(|trouble| self.tell(trouble, "read"));
        }
        drop(state);
        let mut state = self.lock();
        let running = self.running(&mut state)?;
        read(&running.engine).map_err(|trouble| self.tell(trouble, "read"))
    }

    fn running<'a>(&self, state: &'a mut State) -> Result<&'a mut Running, StoreError> {
        if matches!(state, State::Closed) {
            *state = State::Open(self.reopen()?);
        }
        match state {
            State::Open(running) => Ok(running),
            State::Damaged(what) => Err(self.tell(Trouble::Damaged(what.clone()), "use")),
            State::Closed => unreachable!("opened above, or returned"),
        }
    }

    /// Opens what was closed, without setting anything aside.
    fn reopen(&self) -> Result<Running, StoreError> {
        let (running, _repaired) =
            open::open_existing(&self.options).map_err(|trouble| self.tell(trouble, "open"))?;
        Ok(running)
    }

    /// Remembers a trouble, and tells it as an error of this store.
    fn tell(&self, trouble: Trouble, action: &'static str) -> StoreError {
        let error = trouble.of_store(self.path(), action);
        *self.last_error() = Some(error.to_string());
        error
    }

    /// Closes the store after a failed commit, so that nothing built on a half-written state is read.
    fn give_up(
        &self,
        state: &mut State,
        trouble: Trouble,
        commits_before: u64,
    ) -> Result<(), StoreError> {
        *state = match &trouble {
            Trouble::Damaged(what) => State::Damaged(what.clone()),
            Trouble::Full | Trouble::Locked | Trouble::Newer { .. } | Trouble::Io(_) => {
                State::Closed
            }
        };
        let was_full = matches!(trouble, Trouble::Full);
        let error = self.tell(trouble, "write");
        if !was_full {
            return Err(error);
        }
        // sled goes on failing after a full disk; opened again, with the reserve given back, it works.
        // Not before its threads have ended: what they still have to write would fill the reserve.
        let _if_not_the_opening_says_so =
            engine::wait_until_released(&open::engine_dir(self.path()));
        reserve::give_back(self.path());
        let mut running = self.reopen().map_err(|open_error| StoreError::Io {
            path: self.path().to_owned(),
            action: "write and open again",
            source: std::io::Error::other(open_error),
        })?;
        let arrived = running.contents.commits > commits_before;
        let synced = if arrived { running.engine.sync() } else { Ok(()) };
        running.reserve = Reserve::GivenBack;
        *state = State::Open(running);
        match (arrived, synced) {
            (true, Ok(())) => Ok(()),
            (true, Err(trouble)) => Err(self.tell(trouble, "write")),
            (false, _) => Err(error),
        }
    }
}

impl StateStore for SledStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.reading(|engine| engine.get(table, key))
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.reading(|engine| engine.scan(table, from, limit))
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        batch.check_sizes()?;
        let mut state = self.lock();
        let running = self.running(&mut state)?;
        for guard in &batch.guards {
            let held = running
                .engine
                .get(guard.table, &guard.key)
                .map_err(|trouble| self.tell(trouble, "read"))?;
            if held != guard.expected {
                return Err(StoreError::Conflict { at: KeyName::new(guard.table, &guard.key) });
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        let before = running.contents;
        let written = running
            .engine
            .prepare(&batch, before)
            .and_then(|prepared| running.engine.commit(prepared));
        match written {
            Ok(after) => {
                running.contents = after;
                running.reserve.refill_if_there_is_room(&self.options.dir);
                Ok(())
            }
            Err(trouble) => self.give_up(&mut state, trouble, before.commits),
        }
    }

    fn stats(&self) -> StoreStats {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let last_error = self.last_error().clone();
        let bytes_on_disk = engine::bytes_on_disk(&open::engine_dir(self.path()));
        match &*state {
            State::Open(running) => StoreStats {
                bytes_on_disk,
                live_keys: running.contents.keys,
                live_bytes: running.contents.bytes,
                reserve: running.reserve == Reserve::InPlace,
                last_error,
            },
            State::Closed | State::Damaged(_) => {
                StoreStats { bytes_on_disk, last_error, ..StoreStats::default() }
            }
        }
    }
}
