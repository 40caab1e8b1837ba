//! A store that is damaged comes back whole, or is set aside, named and reported. Never silently less.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use refit_durable::{Batch, Opened, Options, SledStore, StateStore, StoreError, Table};

const T: Table = Table::new(1);

fn open(dir: &Path) -> Opened {
    SledStore::open(Options::new(dir, Timestamp::from_second(1_800_000_000).unwrap())).unwrap()
}

fn put(store: &SledStore, key: &[u8], value: &[u8]) {
    let mut batch = Batch::new();
    batch.put(T, key, value);
    store.commit(batch).unwrap();
}

/// Writes so many keys that sled has a snapshot to make at the next start, and closes the store.
fn filled(dir: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let store = open(dir).store;
    for n in 0..200_u32 {
        put(&store, &n.to_be_bytes(), &[n as u8; 2000]);
    }
    let all = store.scan(T, b"", usize::MAX).unwrap();
    assert_eq!(all.len(), 200);
    drop(store);
    drop(open(dir));
    all
}

fn sled(dir: &Path) -> PathBuf {
    dir.join("sled")
}

fn files(dir: &Path, part: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.file_name().unwrap().to_str().unwrap().contains(part)).collect()
}

fn snapshot(dir: &Path) -> PathBuf {
    let found = files(&sled(dir), "snap.");
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

fn truncate(path: &Path, to: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(to).unwrap();
}

#[test]
fn a_snapshot_that_was_never_finished_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let all = filled(dir.path());
    let whole = fs::read(snapshot(dir.path())).unwrap();
    for part in [0, 1, whole.len() / 2] {
        // A name after the one of the snapshot: sled would prefer it.
        let unfinished = sled(dir.path()).join("snap.FFFFFFFFFFFFFFFF.generating");
        fs::write(&unfinished, &whole[..part]).unwrap();
        let opened = open(dir.path());
        assert!(!opened.repaired && opened.set_aside.is_none() && !opened.created);
        assert_eq!(opened.store.scan(T, b"", usize::MAX).unwrap(), all);
        assert!(!unfinished.exists());
    }
}

#[test]
fn a_damaged_snapshot_is_rebuilt_from_the_log_and_reported() {
    for damage in [
        |path: &Path| truncate(path, fs::metadata(path).unwrap().len() / 2),
        |path: &Path| truncate(path, 0),
        |path: &Path| {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.write_all_at(b"damage", 3).unwrap();
        },
    ] {
        let dir = tempfile::tempdir().unwrap();
        let all = filled(dir.path());
        damage(&snapshot(dir.path()));
        let opened = open(dir.path());
        assert!(opened.repaired);
        assert_eq!(opened.set_aside, None);
        assert_eq!(opened.store.scan(T, b"", usize::MAX).unwrap(), all);
        drop(opened);
        let again = open(dir.path());
        assert!(!again.repaired, "it is rebuilt once");
        assert!(files(&sled(dir.path()), "damaged").is_empty());
    }
}

/// Each of these loses what was acknowledged. None may pass for a whole store.
#[test]
fn a_store_that_lost_something_is_set_aside_whole_and_named() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 5] = [
        ("the log is empty", |dir| truncate(&sled(dir).join("db"), 0)),
        ("the log is cut in half", |dir| {
            let db = sled(dir).join("db");
            truncate(&db, fs::metadata(&db).unwrap().len() / 2);
        }),
        ("the log is gone", |dir| fs::remove_file(sled(dir).join("db")).unwrap()),
        ("all of the log is overwritten", |dir| {
            let db = OpenOptions::new().write(true).open(sled(dir).join("db")).unwrap();
            let size = db.metadata().unwrap().len();
            db.write_all_at(&vec![0x5a; size as usize], 0).unwrap();
        }),
        ("the settings are nonsense", |dir| {
            fs::write(sled(dir).join("conf"), b"these are no settings of sled's").unwrap();
        }),
    ];
    for (what, damage) in cases {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        damage(dir.path());
        let found: Vec<_> =
            fs::read_dir(sled(dir.path())).unwrap().map(|e| e.unwrap().file_name()).collect();

        let opened = open(dir.path());
        let aside = dir.path().join("sled.corrupt-20270115T080000Z");
        assert_eq!(opened.set_aside.as_ref(), Some(&aside), "{what}");
        assert!(opened.created, "{what}");
        assert!(opened.earlier_damage.is_empty(), "{what}");
        for name in found.iter().filter(|name| *name != "db") {
            let name = name.to_str().unwrap();
            let kept = !files(&aside, name).is_empty();
            assert!(kept || name.starts_with("snap."), "{what}: {name} is gone");
        }
        assert!(opened.store.scan(T, b"", usize::MAX).unwrap().is_empty(), "{what}");
        put(&opened.store, b"new", b"life");
        drop(opened);

        // The new store is whole; the old one is still told of, and a second one gets its own name.
        let again = open(dir.path());
        assert_eq!(again.set_aside, None, "{what}");
        assert_eq!(again.earlier_damage, [aside], "{what}");
        assert_eq!(again.store.get(T, b"new").unwrap(), Some(b"life".to_vec()), "{what}");
        drop(again);
        truncate(&sled(dir.path()).join("db"), 0);
        let second = dir.path().join("sled.corrupt-20270115T080000Z-2");
        assert_eq!(open(dir.path()).set_aside, Some(second), "{what}");
    }
}

/// sled itself passes over some of it, and opens with keys missing.
#[test]
fn wherever_the_log_is_overwritten_the_store_is_whole_or_set_aside() {
    let (mut whole, mut set_aside) = (0, 0);
    let dir = tempfile::tempdir().unwrap();
    let all = filled(dir.path());
    let size = fs::metadata(sled(dir.path()).join("db")).unwrap().len();
    for (n, part) in (0..40).map(|n| (n, n * size / 40)) {
        let damaged = dir.path().join(format!("damaged-{n}"));
        copy(&sled(dir.path()), &sled(&damaged));
        fs::copy(dir.path().join("acknowledged"), damaged.join("acknowledged")).unwrap();
        let db = OpenOptions::new().write(true).open(sled(&damaged).join("db")).unwrap();
        db.write_all_at(&[0x5a; 600], part).unwrap();
        let opened = open(&damaged);
        if opened.set_aside.is_some() {
            set_aside += 1;
        } else {
            assert_eq!(opened.store.scan(T, b"", usize::MAX).unwrap(), all, "{part} of {size}");
            whole += 1;
        }
    }
    assert!(whole > 0 && set_aside > 0, "{whole} {set_aside}");
}

/// No checksum of a page notices this: an older state, whole in itself.
#[test]
fn a_store_put_back_to_an_older_state_is_not_taken_for_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let older = dir.path().join("older");
    copy(&sled(dir.path()), &older);
    put(&open(dir.path()).store, b"acknowledged", b"1");
    fs::remove_dir_all(sled(dir.path())).unwrap();
    copy(&older, &sled(dir.path()));
    let opened = open(dir.path());
    assert!(opened.set_aside.is_some());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let place = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &place) } else { fs::copy(&path, &place).map(drop).unwrap() }
    }
}

#[test]
fn damage_is_reported_also_if_the_start_that_found_it_was_cut_short() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    // Between the two renames.
    let aside = dir.path().join("sled.corrupt-20270101T000000Z");
    fs::rename(sled(dir.path()), &aside).unwrap();
    fs::create_dir(dir.path().join("sled.creating")).unwrap();
    let opened = open(dir.path());
    assert!(opened.created);
    assert_eq!(opened.set_aside, Some(aside));
    assert!(opened.earlier_damage.is_empty());
}

#[test]
fn a_store_that_is_gone_is_not_taken_for_a_first_start() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    assert!(first.created && !first.lost);
    drop(first);
    assert!(!open(dir.path()).lost);
    fs::remove_dir_all(sled(dir.path())).unwrap();
    assert!(!open(dir.path()).lost, "nothing was acknowledged");
    put(&open(dir.path()).store, b"key", b"value");
    fs::remove_dir_all(sled(dir.path())).unwrap();
    let opened = open(dir.path());
    assert!(opened.created && opened.lost && opened.set_aside.is_none());
    drop(opened);
    assert!(!open(dir.path()).lost, "told once");
}

#[test]
fn a_first_start_that_was_cut_short_leaves_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sled.creating")).unwrap();
    fs::write(dir.path().join("sled.creating/conf"), b"half").unwrap();
    let opened = open(dir.path());
    assert!(opened.created && opened.set_aside.is_none() && !opened.repaired);
    assert!(!dir.path().join("sled.creating").exists());
}

#[test]
fn a_store_that_is_open_is_busy_and_stays_whole() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).store;
    let Err(error) = SledStore::open(Options::new(dir.path(), Timestamp::UNIX_EPOCH)) else {
        panic!("opened twice");
    };
    assert!(matches!(error, StoreError::Busy { .. }), "{error}");
    put(&first, b"key", b"value");
}

#[test]
fn a_store_opens_at_once_after_it_was_closed() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..20_u8 {
        put(&open(dir.path()).store, &[round], b"");
    }
    assert_eq!(open(dir.path()).store.stats().live_keys, 20);
}

/// sled never syncs the files of its `blobs` directory, so nothing may ever get there.
#[test]
fn the_largest_values_stay_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).store;
    let key = |n: u32| [&[7; 508][..], &n.to_be_bytes()].concat();
    // In one direction, in the other, over each other, and taken away so that leaves merge.
    for n in (0..60).chain((60..120).rev()).chain((0..120).step_by(3)) {
        put(&store, &key(n), &[n as u8; 16 * 1024]);
    }
    for chunk in (0..120_u32).collect::<Vec<_>>().chunks(40) {
        let mut batch = Batch::new();
        for n in chunk {
            if n % 5 == 0 {
                batch.put(T, key(*n), vec![1; 16 * 1024]);
            } else {
                batch.delete(T, key(*n));
            }
        }
        store.commit(batch).unwrap();
    }
    assert_eq!(store.stats().live_keys, 24);
    assert!(files(&sled(dir.path()).join("blobs"), "").is_empty());
}

#[test]
fn a_store_that_holds_on_to_space_is_copied_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).store;
    for round in 0..150_u8 {
        let mut batch = Batch::new();
        for key in 0..20_u8 {
            batch.put(T, [key], vec![round; 10_000]);
        }
        store.commit(batch).unwrap();
    }
    let mut batch = Batch::new();
    for key in 1..20_u8 {
        batch.delete(T, [key]);
    }
    store.commit(batch).unwrap();
    drop(store);

    // Less than sled keeps of it, whatever its threads gave back meanwhile; a fresh store takes 0.5 MiB.
    let options =
        Options { compact_over: 768 * 1024, ..Options::new(dir.path(), Timestamp::UNIX_EPOCH) };
    let before = open(dir.path()).store.stats();
    assert!(before.bytes_on_disk > options.compact_over, "{before:?}");
    let opened = SledStore::open(options).unwrap();
    let after = opened.store.stats();
    assert!(after.bytes_on_disk < before.bytes_on_disk / 4 * 3, "{before:?} {after:?}");
    assert!(!opened.created && opened.set_aside.is_none());
    assert_eq!(opened.store.scan(T, b"", 9).unwrap(), [(vec![0], vec![149; 10_000])]);
    put(&opened.store, b"more", b"");
    drop(opened);
    let again = open(dir.path());
    assert_eq!(again.store.stats().live_keys, 2);
    assert!(files(dir.path(), "compacting").is_empty());
}

#[test]
fn a_store_of_a_newer_program_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    {
        let db = ::sled::open(sled(dir.path())).unwrap();
        db.insert(b"\0schema", &[1, 0, 0, 0, 2]).unwrap();
        db.insert(b"\0a key of the newer program", b"\x09").unwrap();
        db.flush().unwrap();
    }
    let Err(error) = SledStore::open(Options::new(dir.path(), Timestamp::UNIX_EPOCH)) else {
        panic!("opened");
    };
    assert!(matches!(error, StoreError::Newer { found: 2, known: 1, .. }), "{error}");
    assert!(files(dir.path(), "corrupt").is_empty());
}
