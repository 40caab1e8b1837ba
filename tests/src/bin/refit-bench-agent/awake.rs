//! How often processes are awake: by how often their threads have gone to sleep by themselves.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// How often is looked.
const LOOK: Duration = Duration::from_millis(100);

/// What a process does after it was woken is one moment, however often it waits for a disk or an answer in
/// between: wakes that are closer together than this are one moment.
const APART: Duration = Duration::from_secs(1);

/// What was seen of some processes together.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// How often a thread went to sleep again, for each process.
    pub(super) switches: BTreeMap<u32, u64>,
    /// When each moment began.
    moments: Vec<Instant>,
    last: Option<Instant>,
}

impl Seen {
    /// From the beginning of one moment to that of the next, on average and at least; `None` below two.
    pub(super) fn every(&self) -> Option<(Duration, Duration)> {
        let (first, last) = (self.moments.first()?, self.moments.last()?);
        let gaps = self.moments.windows(2).map(|pair| pair[1] - pair[0]);
        let shortest = gaps.min()?;
        let count = u32::try_from(self.moments.len() - 1).unwrap_or(u32::MAX);
        Some(((*last - *first) / count, shortest))
    }

    /// How many moments there were.
    pub(super) fn moments(&self) -> usize {
        self.moments.len()
    }

    fn note(&mut self, process: u32, switches: u64, now: Instant) {
        *self.switches.entry(process).or_default() += switches;
        if switches == 0 {
            return;
        }
        if self.last.is_none_or(|last| now - last >= APART) {
            self.moments.push(now);
        }
        self.last = Some(now);
    }
}

/// Watches groups of processes for so long.
pub(super) fn watch(groups: &[Vec<u32>], span: Duration) -> Vec<Seen> {
    let mut seen: Vec<Seen> = groups.iter().map(|_| Seen::default()).collect();
    let mut before: BTreeMap<u32, u64> =
        groups.iter().flatten().map(|id| (*id, switches(*id))).collect();
    let until = Instant::now() + span;
    while Instant::now() < until {
        thread::sleep(LOOK);
        let now = Instant::now();
        for (group, seen) in groups.iter().zip(&mut seen) {
            for id in group {
                let count = switches(*id);
                let last = before.insert(*id, count).unwrap_or(count);
                // A thread that has ended takes its count with it.
                seen.note(*id, count.saturating_sub(last), now);
            }
        }
    }
    seen
}

/// How often the threads of a process went to sleep by themselves so far.
fn switches(id: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let of = |task: PathBuf| {
        let status = task.join("status").display().to_string();
        field(&status, "voluntary_ctxt_switches:").unwrap_or(0)
    };
    tasks.map(|task| of(task.path())).sum()
}

/// A number from one of the kernel's files about a process.
pub(super) fn field(file: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(file).with_context(|| file.to_owned())?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let line = line.with_context(|| format!("{file} has no {name}"))?;
    Ok(line.split_whitespace().next().context("nothing")?.parse()?)
}
