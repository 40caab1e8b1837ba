//! One open sled: reads, and commits that are durable when they return. Every call of sled goes
//! through [`calmly`], since sled can panic on damaged data.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::{contents::Contents, quiet::quietly, value};
use crate::{
    file::{self, is_full},
    store::{Batch, Entry, StoreError, Table},
};

/// The format of the whole store.
const SCHEMA: u32 = 1;

/// The store's own keys. Table 0 can't be named by a caller.
const SCHEMA_KEY: &[u8] = b"\0schema";
const CONTENTS_KEY: &[u8] = b"\0contents";

/// How often a lock is tried and how long between: 5 seconds. sled's threads hold the file for a moment
/// after it is closed, and so does a process that is being ended.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// What sled could not do, by what can be done about it.
#[derive(Debug)]
pub(super) enum Trouble {
    Full,
    Locked,
    Damaged(String),
    Newer { found: u32 },
    Io(io::Error),
}

impl Trouble {
    pub(super) fn of_store(self, store: &Path, action: &'static str) -> StoreError {
        let path = store.to_owned();
        match self {
            Trouble::Full => StoreError::Full { path },
            Trouble::Locked => StoreError::Busy { path },
            Trouble::Damaged(what) => StoreError::Corrupt { path, what },
            Trouble::Newer { found } => StoreError::Newer { path, found, known: SCHEMA },
            Trouble::Io(source) => StoreError::Io { path, action, source },
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        match error.kind() {
            kind if is_full(kind) => Trouble::Full,
            // What sled reads ends earlier than it wrote it, or says something else.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                Trouble::Damaged(error.to_string())
            }
            // sled's own words; it has no variant for it.
            _ if error.to_string().contains("could not acquire lock") => Trouble::Locked,
            _ => Trouble::Io(error),
        }
    }
}

impl From<file::FileError> for Trouble {
    fn from(error: file::FileError) -> Trouble {
        let kind = error.kind().unwrap_or(io::ErrorKind::Other);
        Trouble::from(io::Error::new(kind, error))
    }
}

impl From<sled::Error> for Trouble {
    fn from(error: sled::Error) -> Trouble {
        match error {
            sled::Error::Io(error) => Trouble::from(error),
            // `Unsupported` is what a damaged `conf` comes out as: its settings are always ours.
            error @ (sled::Error::Corruption { .. }
            | sled::Error::ReportableBug(_)
            | sled::Error::Unsupported(_)
            | sled::Error::CollectionNotFound(_)) => Trouble::Damaged(error.to_string()),
        }
    }
}

/// Calls sled for what it may start threads for.
fn calmly_and_quietly<T>(call: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, Trouble> {
    quietly(|| calmly(call))
}

/// Calls sled. A panic of it is damage.
fn calmly<T>(call: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, Trouble> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(Trouble::from),
        Err(panic) => {
            let what = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(Trouble::Damaged(format!("sled panicked: {what}")))
        }
    }
}

/// A batch on its way.
pub(super) struct Prepared {
    changes: sled::Batch,
    after: Contents,
}

/// An open sled.
pub(super) struct Engine {
    /// Some until dropped.
    db: Option<sled::Db>,
    /// Our own handle of sled's file: `fdatasync` on it is what makes a flush durable.
    sync: File,
    /// Beside the engine's directory: how many commits were acknowledged.
    acknowledged: File,
}

impl Engine {
    /// Makes an empty store in `dir`, closes it, and leaves it complete and durable. The caller then
    /// renames it into place, so that a store that has been begun and not finished is never opened.
    pub(super) fn create(dir: &Path, acknowledged: &Path, commits: u64) -> Result<(), Trouble> {
        let engine = Engine::open_raw(dir, acknowledged, 1024 * 1024)?;
        let mut first = sled::Batch::default();
        first.insert(SCHEMA_KEY, value::small(&SCHEMA.to_be_bytes()));
        first.insert(CONTENTS_KEY, value::small(&Contents::empty(commits).to_bytes()));
        engine.apply(first)?;
        engine.close(dir)
    }

    /// Opens the store in `dir` and reads all of it once.
    pub(super) fn open(
        dir: &Path,
        acknowledged: &Path,
        cache_capacity: u64,
    ) -> Result<(Engine, Contents), Trouble> {
        let engine = Engine::open_raw(dir, acknowledged, cache_capacity)?;
        let contents = engine.first_scan()?;
        let acknowledged = read_count(&engine.acknowledged)?;
        if contents.commits < acknowledged {
            return Err(Trouble::Damaged(format!(
                "it ends with commit {}, but {acknowledged} were acknowledged",
                contents.commits
            )));
        }
        Ok((engine, contents))
    }

    fn open_raw(dir: &Path, acknowledged: &Path, cache_capacity: u64) -> Result<Engine, Trouble> {
        let config = sled::Config::new()
            .path(dir)
            .mode(sled::Mode::LowSpace)
            .segment_size(value::SEGMENT)
            .cache_capacity(cache_capacity)
            .flush_every_ms(None);
        let db = retry_while_locked(|| calmly_and_quietly(|| config.open()))?;
        // sled neither syncs its directory nor the settings it has written there.
        file::sync_file(&dir.join("conf"))?;
        let sync = File::open(dir.join("db"))?;
        sync.sync_all()?;
        file::sync_dir(&dir.join("blobs"))?;
        file::sync_dir(dir)?;
        file::sync_dir(dir.parent().unwrap_or(dir))?;
        let acknowledged = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(acknowledged)?;
        Ok(Engine { db: Some(db), sync, acknowledged })
    }

    /// Closes the store and waits until all of sled's threads have let go of its files.
    pub(super) fn close(self, dir: &Path) -> Result<(), Trouble> {
        drop(self);
        wait_until_released(dir)
    }

    fn db(&self) -> &sled::Db {
        self.db.as_ref().expect("only drop takes it")
    }

    pub(super) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Trouble> {
        let key = full_key(table, key);
        let held = self.raw(&key)?;
        held.map(|held| value::whole(&key, &held, |piece| self.raw(piece))).transpose()
    }

    fn raw(&self, key: &[u8]) -> Result<Option<sled::IVec>, Trouble> {
        calmly(|| self.db().get(key))
    }

    pub(super) fn scan(
        &self,
        table: Table,
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<Entry>, Trouble> {
        let found: Vec<_> = calmly(|| {
            self.db()
                .range(full_key(table, from)..)
                .take_while(
                    |entry| !matches!(entry, Ok((key, _)) if key.first() != Some(&table.byte())),
                )
                .take(limit)
                .collect::<Result<_, _>>()
        })?;
        let plain = |(key, held): (sled::IVec, sled::IVec)| {
            let plain = value::whole(&key, &held, |piece| self.raw(piece))?;
            Ok((key[1..].to_vec(), plain))
        };
        found.into_iter().map(plain).collect()
    }

    /// What the batch comes to: what sled is to write, and what the store holds afterwards.
    pub(super) fn prepare(&self, batch: &Batch, now: Contents) -> Result<Prepared, Trouble> {
        let mut after = now;
        after.commits += 1;
        let mut changes = sled::Batch::default();
        for ((table, key), becomes) in &batch.changes {
            let key = full_key(*table, key);
            if let Some(held) = self.raw(&key)? {
                for piece in value::further_pieces(&key, &held)? {
                    changes.remove(piece);
                }
                after.remove(&key, &value::whole(&key, &held, |piece| self.raw(piece))?);
            }
            match becomes {
                Some(new) => {
                    after.add(&key, new);
                    for (key, piece) in value::pieces(&key, new) {
                        changes.insert(key, piece);
                    }
                }
                None => changes.remove(key),
            }
        }
        changes.insert(CONTENTS_KEY, value::small(&after.to_bytes()));
        Ok(Prepared { changes, after })
    }

    /// Writes what was prepared; durable when it returns.
    pub(super) fn commit(&self, prepared: Prepared) -> Result<Contents, Trouble> {
        let Prepared { changes, after } = prepared;
        self.apply(changes)?;
        // Not synced: after a power cut it may be behind, never ahead of what is durable. That is
        // enough to notice a store that was cut short or put back to an older state.
        self.acknowledged.write_all_at(&after.commits.to_be_bytes(), 0)?;
        Ok(after)
    }

    fn apply(&self, changes: sled::Batch) -> Result<(), Trouble> {
        calmly_and_quietly(|| self.db().apply_batch(changes))?;
        self.sync()
    }

    /// Brings everything written so far to stable storage.
    pub(super) fn sync(&self) -> Result<(), Trouble> {
        calmly_and_quietly(|| self.db().flush())?;
        Ok(self.sync.sync_data()?)
    }

    /// Reads everything once: damage shows now, and not in the middle of the work.
    fn first_scan(&self) -> Result<Contents, Trouble> {
        self.check_schema()?;
        let mut found = Contents::default();
        let mut said = None;
        let mut entries = self.db().iter();
        while let Some((key, held)) = calmly(|| entries.next().transpose())? {
            if value::is_piece(&key) {
                // Looked at from the value that it belongs to.
                continue;
            }
            let plain = value::whole(&key, &held, |piece| self.raw(piece))?;
            match &*key {
                SCHEMA_KEY => {}
                CONTENTS_KEY => said = Some(Contents::from_bytes(&plain)?),
                [0, ..] | [] => {
                    return Err(Trouble::Damaged(format!("unknown key {}", key.escape_ascii())));
                }
                [_, ..] => found.add(&key, &plain),
            }
        }
        let said = said.unwrap_or_default();
        found.commits = said.commits;
        if found != said {
            return Err(Trouble::Damaged(format!("it says it holds {said:?}, there is {found:?}")));
        }
        Ok(found)
    }

    /// Before anything else is read: a newer format is no damage.
    fn check_schema(&self) -> Result<(), Trouble> {
        let held = self.raw(SCHEMA_KEY)?;
        let schema = held
            .map(|held| value::whole(SCHEMA_KEY, &held, |piece| self.raw(piece)))
            .transpose()?;
        match schema.map(<[u8; 4]>::try_from) {
            Some(Ok(bytes)) => match u32::from_be_bytes(bytes) {
                SCHEMA => Ok(()),
                found if found > SCHEMA => Err(Trouble::Newer { found }),
                found => Err(Trouble::Damaged(format!("its format is said to be {found}"))),
            },
            // It is written before the store is put in place.
            Some(Err(_)) | None => Err(Trouble::Damaged("its format is not recorded".to_owned())),
        }
    }

    /// Writes all that this store holds into a new one in `dir`, and leaves that closed and durable.
    pub(super) fn copy_to(&self, dir: &Path, acknowledged: &Path) -> Result<(), Trouble> {
        /// Enough that a sync is not felt, little enough to hold in memory.
        const PART: usize = 512;
        let copy = Engine::open_raw(dir, acknowledged, 1024 * 1024)?;
        let mut part = sled::Batch::default();
        let mut size = 0;
        let mut entries = self.db().iter();
        while let Some((key, held)) = calmly(|| entries.next().transpose())? {
            part.insert(key, held);
            size += 1;
            if size == PART {
                copy.apply(std::mem::take(&mut part))?;
                size = 0;
            }
        }
        copy.apply(part)?;
        copy.close(dir)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let db = self.db.take();
        // sled flushes when it is dropped, which may panic as any other call. Nothing is lost by it:
        // what was acknowledged is on the disk.
        let _closed = quietly(|| catch_unwind(AssertUnwindSafe(|| drop(db))));
    }
}

fn full_key(table: Table, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(1 + key.len());
    full.push(table.byte());
    full.extend_from_slice(key);
    full
}

/// The number in the file; 0 while there is none.
fn read_count(file: &File) -> Result<u64, Trouble> {
    let mut bytes = [0; 8];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(u64::from_be_bytes(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// How many commits the store that belongs to this file has acknowledged.
pub(super) fn acknowledged_commits(path: &Path) -> Result<u64, Trouble> {
    match File::open(path) {
        Ok(file) => read_count(&file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Tries for 5 seconds while another has the lock.
pub(super) fn retry_while_locked<T>(
    mut attempt: impl FnMut() -> Result<T, Trouble>,
) -> Result<T, Trouble> {
    for _ in 1..LOCK_TRIES {
        match attempt() {
            Err(Trouble::Locked) => thread::sleep(LOCK_PAUSE),
            done => return done,
        }
    }
    attempt()
}

/// Takes the lock of a file, for as long as the returned handle lives.
pub(super) fn lock(path: &Path) -> Result<File, Trouble> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    retry_while_locked(|| match file.try_lock() {
        Ok(()) => Ok(()),
        Err(fs::TryLockError::WouldBlock) => Err(Trouble::Locked),
        Err(fs::TryLockError::Error(error)) => Err(error.into()),
    })?;
    Ok(file)
}

/// sled's threads keep its files for a moment after the last handle is gone.
pub(super) fn wait_until_released(dir: &Path) -> Result<(), Trouble> {
    let db = dir.join("db");
    if db.exists() { lock(&db).map(drop) } else { Ok(()) }
}

/// What the files in a directory and those right below it take on disk. Files that go away meanwhile
/// count as nothing.
pub(super) fn bytes_on_disk(dir: &Path) -> u64 {
    fn files(dir: &Path) -> impl Iterator<Item = PathBuf> {
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
    }
    let blocks = |path: &Path| fs::symlink_metadata(path).map_or(0, |found| found.blocks());
    let top = files(dir).map(|path| blocks(&path)).sum::<u64>();
    let below = files(&dir.join("blobs")).map(|path| blocks(&path)).sum::<u64>();
    (top + below) * 512
}
