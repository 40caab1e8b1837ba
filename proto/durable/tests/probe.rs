//! A store that is opened by a process of its own first, where a panic would end the one that needs it.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, ExitStatus},
};

use jiff::Timestamp;
use refit_durable::{Batch, Opened, Options, Probe, SledStore, StateStore as _, Table};

const TABLE: Table = Table::new(1);

/// What the probe's process stumbles over.
const STONE: &str = "sled/stone";

/// Ends by this signal where the store has the stone in it.
fn stumbles(store: &Path, signal: &str) -> io::Result<ExitStatus> {
    let script = format!("if [ -e \"$1\" ]; then kill -{signal} $$; fi");
    Command::new("sh").args(["-c", &script, "sh"]).arg(store.join(STONE)).status()
}

fn open(dir: &Path, probe: Probe) -> Opened {
    let options = Options::new(dir, Timestamp::UNIX_EPOCH);
    SledStore::open(Options { probe: Some(probe), ..options }).unwrap()
}

/// A store with something in it, and the stone.
fn with_a_stone() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path(), |store| stumbles(store, "ABRT"));
    let mut batch = Batch::new();
    batch.put(TABLE, "key", "value");
    opened.store.commit(batch).unwrap();
    drop(opened);
    std::fs::write(dir.path().join(STONE), "").unwrap();
    dir
}

fn holds(opened: &Opened) -> bool {
    opened.store.get(TABLE, b"key").unwrap().is_some()
}

#[test]
fn what_ends_the_process_that_opens_it_first_is_set_aside_and_named() {
    for probe in [
        (|store| stumbles(store, "ABRT")) as Probe,
        |store| stumbles(store, "SEGV"),
        |store| stumbles(store, "BUS"),
    ] {
        let dir = with_a_stone();
        let opened = open(dir.path(), probe);
        let aside = opened.set_aside.as_ref().expect("set aside");
        assert!(aside.join("stone").exists(), "as it was found");
        assert!(opened.created && !holds(&opened));
        drop(opened);
        let again = open(dir.path(), probe);
        assert!(again.set_aside.is_none() && !again.created, "once");
    }
}

#[test]
fn a_probe_that_somebody_ended_or_that_could_not_be_made_has_found_nothing() {
    for probe in [
        (|store| stumbles(store, "KILL")) as Probe,
        |store| stumbles(store, "TERM"),
        |_| Err(io::Error::from(io::ErrorKind::OutOfMemory)),
        |_| Ok(ExitStatus::from_raw(1 << 8)),
    ] {
        let dir = with_a_stone();
        let opened = open(dir.path(), probe);
        assert!(opened.set_aside.is_none() && !opened.created && holds(&opened));
    }
}

#[test]
fn a_probe_changes_nothing_and_leaves_the_store_free_to_be_opened() {
    let dir = with_a_stone();
    SledStore::probe(dir.path());
    SledStore::probe(&dir.path().join("nothing is here"));
    assert!(!dir.path().join("nothing is here").exists());
    assert!(holds(&open(dir.path(), |_| Ok(ExitStatus::default()))));
}
