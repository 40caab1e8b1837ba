//! A full disk stops a store, and no more: nothing acknowledged is lost, what must be written still
//! may be, and with space it goes on by itself.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use common::{batch, options, round_of};
use refit_durable::{Batch, SledStore, StateStore, StoreError, Table, testing::LoopFs};
use rustix::fs::{FallocateFlags, fallocate, statvfs};

const NOTES: Table = Table::new(77);
const GROWTH: Table = Table::new(78);

fn free(dir: &Path) -> u64 {
    let found = statvfs(dir).unwrap();
    found.f_bavail * found.f_frsize
}

/// Takes all space but so much.
fn fill(disk: &Path, but: u64) -> PathBuf {
    let filler = disk.join("filler");
    let file = File::create(&filler).unwrap();
    let mut size = free(disk).saturating_sub(but);
    while size > 0 && fallocate(&file, FallocateFlags::empty(), 0, size).is_err() {
        size = size.saturating_sub(4096);
    }
    filler
}

/// The next round, and something that stays: without growth sled makes do with the space it has.
fn growing(round: u64) -> Batch {
    let mut batch = batch(round);
    batch.put(GROWTH, round.to_be_bytes(), [7; 8_000]);
    batch
}

fn note(store: &SledStore, text: &str) -> Result<(), StoreError> {
    let mut batch = Batch::new();
    batch.put(NOTES, text.as_bytes(), b"");
    store.commit(batch)
}

#[test]
fn a_disk_that_fills_up_while_writing_loses_nothing_and_leaves_room_for_the_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let what = "a disk that fills up while the store writes";
    let Some(disk) = LoopFs::create(what, dir.path(), 48) else { return };
    let place = disk.path().join("store");
    for but in [0, 100, 700, 1500, 3000] {
        let store = SledStore::open(options(&place)).unwrap().store;
        let start = round_of(&store);
        assert!(store.stats().reserve);
        let filler = fill(disk.path(), but * 1024);

        let mut round = start;
        // Refused, or still stored: either way it shows, before the reserve is used.
        while store.stats().reserve {
            match store.commit(growing(round + 1)) {
                Ok(()) => round += 1,
                Err(StoreError::Full { .. }) => assert!(!store.stats().reserve, "{but}"),
                Err(other) => panic!("{but}: {other}"),
            }
            assert!(round < start + 10_000, "the disk never fills");
        }
        assert!(store.stats().last_error.is_some());
        assert_eq!(round_of(&store), round, "{but}: as if the last batch had not been tried");
        for word in 0..20 {
            note(&store, &format!("{but} {word}")).unwrap();
        }

        fs::remove_file(&filler).unwrap();
        store.commit(batch(round + 1)).unwrap();
        assert!(store.stats().reserve, "{but}: the reserve is taken again");
        drop(store);
        let opened = SledStore::open(options(&place)).unwrap();
        assert!(!opened.repaired && opened.set_aside.is_none(), "{but}");
        assert_eq!(round_of(&opened.store), round + 1, "{but}");
        assert_eq!(opened.store.scan(NOTES, but.to_string().as_bytes(), 20).unwrap().len(), 20);
        let mut last = Batch::new();
        opened
            .store
            .scan(NOTES, b"", 99)
            .unwrap()
            .into_iter()
            .for_each(|(key, _)| last.delete(NOTES, key));
        opened.store.commit(last).unwrap();
    }
}

#[test]
fn a_store_without_any_space_can_be_read_and_goes_on_once_there_is_some() {
    let dir = tempfile::tempdir().unwrap();
    let what = "a disk that stays full while the store writes";
    let Some(disk) = LoopFs::create(what, dir.path(), 48) else { return };
    let place = disk.path().join("store");
    let store = SledStore::open(options(&place)).unwrap().store;
    let mut round = 0;
    let filler = fill(disk.path(), 0);
    // The reserve, too, gets used up.
    let mut refused = 0;
    while refused < 3 {
        match store.commit(growing(round + 1)) {
            Ok(()) => round += 1,
            Err(StoreError::Full { .. }) => refused += 1,
            // It could not be opened again: what is stored shows when it can.
            Err(StoreError::Io { .. }) => {
                assert!(!store.stats().reserve);
                break;
            }
            Err(other) => panic!("{other}"),
        }
        assert!(round < 5_000, "the disk never fills");
    }
    fs::remove_file(&filler).unwrap();
    let held = round_of(&store);
    assert!((round..=round + 1).contains(&held), "{round} {held}");
    store.commit(batch(held + 1)).unwrap();
    assert_eq!(round_of(&store), held + 1);
}

#[test]
fn a_disk_that_is_full_at_the_start_costs_the_store_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let what = "a disk that is full when the store opens";
    let Some(disk) = LoopFs::create(what, dir.path(), 48) else { return };
    let place = disk.path().join("store");
    {
        let store = SledStore::open(options(&place)).unwrap().store;
        (1..=30).for_each(|round| store.commit(batch(round)).unwrap());
    }
    let mut refused = 0;
    // Every amount of space at which opening could fail somewhere else; the reserve gone already.
    for but in (0..3000).step_by(40) {
        let _used_up_before = fs::remove_file(place.join("reserve"));
        let filler = fill(disk.path(), but * 1024);
        match SledStore::open(options(&place)) {
            Ok(opened) => {
                assert!(!opened.repaired && opened.set_aside.is_none() && !opened.created);
                round_of(&opened.store);
            }
            Err(StoreError::Full { .. }) => refused += 1,
            Err(other) => panic!("{but}: {other}"),
        }
        fs::remove_file(&filler).unwrap();
        let opened = SledStore::open(options(&place)).unwrap();
        assert!(!opened.repaired && opened.set_aside.is_none() && !opened.created, "{but}");
        // The next start has something new to read from the log.
        let round = round_of(&opened.store);
        opened.store.commit(batch(round + 1)).unwrap();
    }
    assert!(refused > 0, "the disk was never full enough to matter");
}
