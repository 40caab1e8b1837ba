//! What becomes of a store at a start: left-overs are cleared, the snapshot is given up where it is
//! damaged, and a store that can't be read is set aside and named, never silently replaced.
//!
//! In the store's directory: `lock`; `reserve`; `acknowledged`, the number of commits told as done;
//! `sled/`; `sled.creating/` and `sled.compacting/` for a moment; `sled.corrupt-TIME/`, set aside.

use std::{
    fs, io,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{Mutex, RwLock},
};

use jiff::{Timestamp, tz::TimeZone};
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    process::Signal,
};

use super::{
    Opened, Options, Running, SledStore, State,
    engine::{self, Engine, Trouble},
    reserve::Reserve,
};
use crate::{
    StoreError,
    file::{self, Action, FileError, failed},
};

const SET_ASIDE: &str = "sled.corrupt-";

pub(super) fn engine_dir(store: &Path) -> PathBuf {
    store.join("sled")
}

fn acknowledged(store: &Path) -> PathBuf {
    store.join("acknowledged")
}

/// Opens the store, or makes one, and says what it found.
pub(super) fn open(options: Options) -> Result<Opened, StoreError> {
    let dir = options.dir.clone();
    let told = |trouble: Trouble| trouble.of_store(&dir, "open");
    file::create_dir_all(&dir).map_err(|error| StoreError::of_file(&dir, error))?;
    let lock = engine::lock(&dir.join("lock")).map_err(told)?;
    // Taken now: a store set aside by this very start is told apart.
    let earlier_damage = set_aside_before(&dir).map_err(told)?;
    let found = find(&options, &earlier_damage).map_err(told)?;
    let mut running = found.running;
    running = compacted(&options, running).map_err(told)?;
    running.reserve.refill_if_there_is_room(&dir);
    Ok(Opened {
        store: SledStore {
            options,
            state: RwLock::new(State::Open(running)),
            last_error: Mutex::new(None),
            _lock: lock,
        },
        created: found.created,
        earlier_damage: earlier_damage
            .into_iter()
            .filter(|path| found.set_aside.as_ref() != Some(path))
            .collect(),
        set_aside: found.set_aside,
        lost: found.lost,
        repaired: found.repaired,
    })
}

struct Found {
    running: Running,
    created: bool,
    set_aside: Option<PathBuf>,
    lost: bool,
    repaired: bool,
}

fn find(options: &Options, earlier_damage: &[PathBuf]) -> Result<Found, Trouble> {
    let dir = &options.dir;
    let place = engine_dir(dir);
    if !place.exists() {
        let acknowledged = engine::acknowledged_commits(&acknowledged(dir))?;
        put_new(dir)?;
        let (running, repaired) = open_existing(options)?;
        // Without a store but with a damaged one, an earlier start was cut short between the two
        // renames of `set_aside`, and nobody has been told yet.
        let set_aside = earlier_damage.last().cloned();
        let lost = acknowledged > 0 && set_aside.is_none();
        if lost {
            tracing::error!(path = %place.display(), acknowledged, "the store is gone");
        }
        return Ok(Found { running, created: true, set_aside, lost, repaired });
    }
    match open_existing(options) {
        Ok((running, repaired)) => {
            Ok(Found { running, created: false, set_aside: None, lost: false, repaired })
        }
        Err(Trouble::Damaged(what)) => {
            let set_aside = set_aside(options)?;
            tracing::error!(path = %set_aside.display(), what, "a damaged store has been set aside");
            let (running, repaired) = open_existing(options)?;
            Ok(Found { running, created: true, set_aside: Some(set_aside), lost: false, repaired })
        }
        Err(trouble) => Err(trouble),
    }
}

/// Opens the store that is there, without its snapshot if that is damaged. Says whether it was.
pub(super) fn open_existing(options: &Options) -> Result<(Running, bool), Trouble> {
    let place = engine_dir(&options.dir);
    let reserve = Reserve::before_start(&options.dir);
    remove_unfinished_snapshots(&place)?;
    let open = || {
        if let Some(probe) = options.probe {
            survived(probe(&options.dir))?;
        }
        let (engine, contents) =
            Engine::open(&place, &acknowledged(&options.dir), options.cache_capacity)?;
        Ok(Running { engine, reserve, contents })
    };
    match open() {
        Ok(running) => Ok((running, false)),
        Err(Trouble::Damaged(what)) => {
            // A panic can leave the file locked for as long as this process lives.
            if engine::wait_until_released(&place).is_err() {
                return Err(Trouble::Damaged(what));
            }
            let moved = move_snapshots_aside(&place)?;
            if moved.is_empty() {
                return Err(Trouble::Damaged(what));
            }
            tracing::warn!(what, "the store is read from its log, without the snapshot");
            let running = open()?;
            for path in moved {
                file::remove(&path)?;
            }
            Ok((running, true))
        }
        Err(trouble) => Err(trouble),
    }
}

/// What a probe's process does.
pub(super) fn probe(dir: &Path) {
    /// It reads once and writes nothing.
    const CACHE: u64 = 1024 * 1024;
    let place = engine_dir(dir);
    // sled would make one where none is.
    if place.exists()
        && let Ok((engine, _)) = Engine::open(&place, &acknowledged(dir), CACHE)
    {
        drop(engine);
    }
}

/// A probe that was ended by what it found has found damage. One that could not be made, or was ended by
/// somebody else, has found nothing.
fn survived(probed: io::Result<ExitStatus>) -> Result<(), Trouble> {
    let signal = match probed {
        Ok(status) => status.signal().and_then(Signal::from_named_raw),
        Err(error) => {
            tracing::warn!(%error, "the store can't be probed before it is opened");
            None
        }
    };
    match signal {
        Some(signal @ (Signal::ABORT | Signal::SEGV | Signal::BUS | Signal::ILL | Signal::FPE)) => {
            Err(Trouble::Damaged(format!("sled ended the process that opened it ({signal:?})")))
        }
        _ => Ok(()),
    }
}

/// sled writes a snapshot as `snap.X.generating` and renames it; cut short, it takes the unfinished one
/// for a snapshot at the next start and never opens again.
fn remove_unfinished_snapshots(place: &Path) -> Result<(), FileError> {
    for path in snapshots(place)? {
        if path.extension().is_some_and(|extension| extension == "generating") {
            file::remove(&path)?;
        }
    }
    Ok(())
}

/// Gives the snapshots names that sled does not look at. If the store opens without them they are
/// worth nothing; if not, they are part of what is set aside.
fn move_snapshots_aside(place: &Path) -> Result<Vec<PathBuf>, FileError> {
    let mut moved = Vec::new();
    for path in snapshots(place)? {
        let mut name = std::ffi::OsString::from("damaged.");
        name.push(path.file_name().unwrap_or_default());
        let aside = path.with_file_name(name);
        file::rename(&path, &aside)?;
        moved.push(aside);
    }
    Ok(moved)
}

fn snapshots(place: &Path) -> Result<Vec<PathBuf>, FileError> {
    entries(place, "snap.")
}

/// What lies in a directory under names that begin so, in order.
fn entries(dir: &Path, prefix: &str) -> Result<Vec<PathBuf>, FileError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed(Action::List, dir))? {
        let entry = entry.map_err(failed(Action::List, dir))?;
        if entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) {
            found.push(entry.path());
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn set_aside_before(dir: &Path) -> Result<Vec<PathBuf>, Trouble> {
    Ok(entries(dir, SET_ASIDE)?)
}

/// Puts a new, empty store in place. It goes on counting commits where the one before ended.
fn put_new(dir: &Path) -> Result<(), Trouble> {
    let creating = new_store(dir)?;
    Ok(file::rename(&creating, &engine_dir(dir))?)
}

/// Makes a new, empty store beside the place.
fn new_store(dir: &Path) -> Result<PathBuf, Trouble> {
    let creating = dir.join("sled.creating");
    file::remove_dir_all(&creating)?;
    let commits = engine::acknowledged_commits(&acknowledged(dir))?;
    Engine::create(&creating, &acknowledged(dir), commits)?;
    Ok(creating)
}

/// Moves the damaged store aside, all of it, and puts a new one in its place.
fn set_aside(options: &Options) -> Result<PathBuf, Trouble> {
    let dir = &options.dir;
    let creating = new_store(dir)?;
    let aside = free_name(dir, options.now);
    file::rename(&engine_dir(dir), &aside)?;
    file::rename(&creating, &engine_dir(dir))?;
    Ok(aside)
}

/// A name in order of time. Twice in one second gets a number.
fn free_name(dir: &Path, now: Timestamp) -> PathBuf {
    let time = now.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string();
    let first = dir.join(format!("{SET_ASIDE}{time}"));
    let others = (2..).map(|count: u32| dir.join(format!("{SET_ASIDE}{time}-{count}")));
    std::iter::once(first).chain(others).find(|path| !path.exists()).expect("names never run out")
}

/// Copies the store where sled holds on to much more space than it uses: it never gives any back.
fn compacted(options: &Options, running: Running) -> Result<Running, Trouble> {
    /// How many times the live bytes a store may take before it is worth the copy.
    const TIMES: u64 = 10;
    let dir = &options.dir;
    let place = engine_dir(dir);
    let copy = dir.join("sled.compacting");
    // From a start that was cut short: an unfinished copy, or the store that was replaced.
    file::remove_dir_all(&copy)?;
    let on_disk = engine::bytes_on_disk(&place);
    let live = running.contents.bytes;
    if on_disk <= options.compact_over || on_disk <= TIMES * live {
        return Ok(running);
    }
    tracing::info!(on_disk, live, "the store is copied to give space back");
    if let Err(trouble) = running.engine.copy_to(&copy, &acknowledged(dir)) {
        // The store itself is fine, and a copy can wait.
        tracing::warn!(?trouble, "the store can't be copied now");
        file::remove_dir_all(&copy)?;
        return Ok(running);
    }
    running.engine.close(&place)?;
    match renameat_with(CWD, &copy, CWD, &place, RenameFlags::EXCHANGE) {
        Ok(()) => file::sync_dir(dir)?,
        Err(error) => tracing::warn!(%error, "the copied store can't be put in place"),
    }
    file::remove_dir_all(&copy)?;
    Ok(open_existing(options)?.0)
}
