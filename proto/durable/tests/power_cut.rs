//! A power cut at any moment loses nothing that was acknowledged.
//!
//! The store lives on a file system in a file. The writer is stopped, the file is copied as it is: what
//! the kernel still had in memory is not in it. The copy is mounted, which replays its journal, as
//! after a power cut, and the store in it is checked. Without the sync of our own after sled's flush
//! this fails in most of its rounds.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    time::Duration,
};

use common::{Numbers, Writer, last_acknowledged, options, round_of, write_if_asked};
use refit_durable::{SledStore, testing::LoopFs};

const WHAT: &str = "the power-cut loop of the store";

#[test]
fn writer() {
    write_if_asked();
}

#[test]
fn a_power_cut_loses_nothing_acknowledged_and_leaves_no_half_batch() {
    let cuts = std::env::var("REFIT_POWER_CUTS").map_or(15, |cuts| cuts.parse().unwrap());
    let mut numbers = Numbers(7);
    let mut rounds = 0;
    for cut in 0..cuts {
        // In memory where there is some: the disk would only make it slow.
        let dir = tempfile::tempdir_in(fast_place()).unwrap();
        let Some(disk) = LoopFs::create(WHAT, dir.path(), 96) else { return };
        let (place, acks) = (disk.path().join("store"), dir.path().join("acks"));
        let mut writer = Writer::start("writer", &place, &acks);
        // A third of the stores is as young as can be: the names in new directories are lost first.
        writer.wait_for(if cut % 3 == 0 { 1 } else { numbers.below(400) });
        std::thread::sleep(Duration::from_micros(numbers.below(5_000)));
        writer.freeze();
        let acknowledged = last_acknowledged(&acks);
        let after = dir.path().join("after.img");
        copy_unchanged(disk.image(), &after);
        writer.kill();
        drop(disk);

        let Some(disk) = LoopFs::mount(WHAT, &after, &dir.path().join("after")) else { return };
        let opened = SledStore::open(options(&disk.path().join("store"))).unwrap();
        assert_eq!(opened.set_aside, None, "cut {cut}, {acknowledged} acknowledged");
        assert!(!opened.repaired, "cut {cut}, {acknowledged} acknowledged");
        let round = round_of(&opened.store);
        let fits = (acknowledged..=acknowledged + 1).contains(&round);
        assert!(fits, "cut {cut}: acknowledged {acknowledged}, there is {round}");
        rounds += round;
        drop(opened);
        drop(disk);
    }
    assert!(rounds >= cuts, "the writers hardly wrote");
}

fn fast_place() -> &'static Path {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory } else { Path::new("/tmp") }
}

/// Copies the file as it is at one moment: until two copies are the same, since the kernel may still
/// be writing to it.
fn copy_unchanged(from: &Path, to: &Path) {
    for _ in 0..20 {
        copy_sparse(from, to);
        if same(from, to) {
            return;
        }
    }
    panic!("the file system does not come to rest");
}

const PART: usize = 1024 * 1024;

fn copy_sparse(from: &Path, to: &Path) {
    let mut from = File::open(from).unwrap();
    let size = from.metadata().unwrap().len();
    let mut to = File::create(to).unwrap();
    to.set_len(size).unwrap();
    let mut part = vec![0; PART];
    loop {
        let read = from.read(&mut part).unwrap();
        if read == 0 {
            return;
        }
        if part[..read].iter().all(|byte| *byte == 0) {
            to.seek(SeekFrom::Current(read as i64)).unwrap();
        } else {
            to.write_all(&part[..read]).unwrap();
        }
    }
}

fn same(one: &Path, other: &Path) -> bool {
    let mut files = [File::open(one).unwrap(), File::open(other).unwrap()];
    let mut parts = [vec![0; PART], vec![0; PART]];
    loop {
        let mut read = [0; 2];
        for n in 0..2 {
            while read[n] < PART {
                match files[n].read(&mut parts[n][read[n]..]).unwrap() {
                    0 => break,
                    more => read[n] += more,
                }
            }
        }
        if parts[0][..read[0]] != parts[1][..read[1]] {
            return false;
        }
        if read[0] < PART {
            // Both were read to the end; what is shorter has differed above.
            let sizes = [one, other].map(|path| fs::metadata(path).unwrap().len());
            return sizes[0] == sizes[1];
        }
    }
}
