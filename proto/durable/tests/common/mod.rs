//! A writer in a process of its own, to be stopped at any moment, and the check of what it left.
//!
//! Each batch replaces a set of keys over two tables by the next one. Whatever moment it is stopped
//! at, exactly one set must be there, whole, and none older than the last one that was acknowledged.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use jiff::Timestamp;
use refit_durable::{Batch, Options, SledStore, StateStore, Table};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

const DIR: &str = "REFIT_WRITER_DIR";
const ACKS: &str = "REFIT_WRITER_ACKS";

const TABLES: [Table; 2] = [Table::new(1), Table::new(9)];
const STATE: Table = Table::new(2);

pub(crate) fn options(dir: &Path) -> Options {
    Options::new(dir, Timestamp::UNIX_EPOCH)
}

/// The keys of a round, some of them large.
fn keys(round: u64) -> impl Iterator<Item = (Table, Vec<u8>, Vec<u8>)> {
    (0..12_u64).map(move |n| {
        let size = if n == 0 { 16_000 } else { 40 * n as usize };
        let key = [round.to_be_bytes(), n.to_be_bytes()].concat();
        (TABLES[(n % 2) as usize], key, vec![(round % 251) as u8; size])
    })
}

pub(crate) fn batch(round: u64) -> Batch {
    let mut batch = Batch::new();
    for (table, key, _) in keys(round - 1) {
        batch.delete(table, key);
    }
    for (table, key, value) in keys(round) {
        batch.put(table, key, value);
    }
    batch.put(STATE, b"round", round.to_be_bytes());
    batch
}

/// Which round a store is on, after checking that it is that round and nothing else.
pub(crate) fn round_of(store: &impl StateStore) -> u64 {
    let round = store.get(STATE, b"round").unwrap();
    let round = round.map_or(0, |round| u64::from_be_bytes(round.try_into().unwrap()));
    for table in TABLES {
        let meant: Vec<_> = keys(round)
            .filter(|(of, _, _)| *of == table && round > 0)
            .map(|(_, key, value)| (key, value))
            .collect();
        let held = store.scan(table, b"", usize::MAX).unwrap();
        assert!(held == meant, "half a batch around round {round}");
    }
    round
}

/// The body of the writer's process; returns at once in any other. To be called by a test, which
/// [`Writer::start`] then runs alone.
pub(crate) fn write_if_asked() {
    let (Some(dir), Some(acks)) = (std::env::var_os(DIR), std::env::var_os(ACKS)) else { return };
    let store = SledStore::open(options(Path::new(&dir))).unwrap().store;
    let mut acks = OpenOptions::new().append(true).create(true).open(acks).unwrap();
    for round in round_of(&store) + 1.. {
        store.commit(batch(round)).unwrap();
        acks.write_all(&round.to_be_bytes()).unwrap();
    }
}

/// A process that commits round after round.
pub(crate) struct Writer {
    process: Child,
    acks: PathBuf,
    before: u64,
}

impl Writer {
    /// Starts it on the store in `dir`. `test` is the test that calls [`write_if_asked`].
    pub(crate) fn start(test: &str, dir: &Path, acks: &Path) -> Writer {
        let before = fs::metadata(acks).map_or(0, |found| found.len());
        let process = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(DIR, dir)
            .env(ACKS, acks)
            .stdout(Stdio::null())
            .stderr(File::create(acks.with_extension("stderr")).unwrap())
            .spawn()
            .unwrap();
        Writer { process, acks: acks.to_owned(), before }
    }

    /// Waits until so many more rounds are acknowledged than when it was started.
    pub(crate) fn wait_for(&mut self, rounds: u64) {
        for _ in 0..60_000 {
            let acknowledged = fs::metadata(&self.acks).map_or(0, |found| found.len());
            if acknowledged >= self.before + rounds * 8 {
                return;
            }
            if let Some(status) = self.process.try_wait().unwrap() {
                let said = fs::read_to_string(self.acks.with_extension("stderr")).unwrap();
                panic!("the writer ended: {status}\n{said}");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("the writer does not get on");
    }

    /// Stops it where it is, not to be noticed by it. All of its threads stand still on return.
    pub(crate) fn freeze(&self) {
        let process = Pid::from_child(&self.process);
        kill_process(process, Signal::STOP).unwrap();
        let (_, status) = waitpid(Some(process), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped(), "the writer ended: {status:?}");
    }

    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// The last round that was acknowledged.
pub(crate) fn last_acknowledged(acks: &Path) -> u64 {
    let bytes = fs::read(acks).unwrap_or_default();
    let (whole, _torn) = bytes.as_chunks::<8>();
    whole.last().map_or(0, |round| u64::from_be_bytes(*round))
}

/// Numbers without pattern, the same in every run.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        // Knuth's linear congruential generator; its high bits are good enough to spread moments.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
