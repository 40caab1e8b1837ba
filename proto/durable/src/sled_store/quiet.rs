//! sled's threads look for work once a second each, for as long as the process lives, and no setting ends
//! that: 420 wake-ups a minute on a host that has nothing to do. A thread inherits how late its timers may
//! be; started with a long slack, they sleep on, and still work at once when work is handed to them.

use std::num::NonZeroU64;

use rustix::thread::{current_timer_slack, set_current_timer_slack};

/// How late sled's threads may notice that they had nothing to do: an hour, in nanoseconds.
pub(super) const SLACK: NonZeroU64 = NonZeroU64::new(3_600 * 1_000_000_000).expect("not zero");

/// Does this with a long slack for every thread that it starts. The caller's own is as before afterwards.
/// Where the system knows no slack, threads only wake more often.
pub(super) fn quietly<T>(start: impl FnOnce() -> T) -> T {
    let before = current_timer_slack().ok().and_then(NonZeroU64::new);
    let Some(before) = before.filter(|_| set_current_timer_slack(Some(SLACK)).is_ok()) else {
        return start();
    };
    let _put_back = PutBack(before);
    start()
}

/// Also where it panics.
struct PutBack(NonZeroU64);

impl Drop for PutBack {
    fn drop(&mut self) {
        let _was_set_before = set_current_timer_slack(Some(self.0));
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;
    use crate::{Batch, Options, SledStore, StateStore as _, Table};

    /// The threads of this process with such a name.
    fn threads(name: &str) -> Vec<PathBuf> {
        let all = fs::read_dir("/proc/self/task").unwrap().map(|thread| thread.unwrap().path());
        let named = |thread: &PathBuf| {
            fs::read_to_string(thread.join("comm")).is_ok_and(|comm| comm.starts_with(name))
        };
        all.filter(named).collect()
    }

    /// A process of its own is not needed: sled starts its threads once in a process, whoever opens first.
    #[test]
    fn sleds_threads_may_sleep_for_an_hour_and_whoever_opens_it_as_before() {
        let before = current_timer_slack().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let now = jiff::Timestamp::UNIX_EPOCH;
        let store = SledStore::open(Options::new(folder.path(), now)).unwrap().store;
        let mut batch = Batch::new();
        batch.put(Table::new(1), b"key", b"value");
        store.commit(batch).unwrap();
        let threads = threads("sled-io");
        assert!(!threads.is_empty(), "sled has threads, or this module has no reason any more");
        for thread in threads {
            let number = thread.file_name().unwrap().to_str().unwrap();
            let slack = fs::read_to_string(format!("/proc/{number}/timerslack_ns")).unwrap();
            assert_eq!(slack.trim().parse::<u64>().unwrap(), SLACK.get(), "thread {number}");
        }
        assert_eq!(current_timer_slack().unwrap(), before);
    }
}
