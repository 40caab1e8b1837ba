//! kill -9 at any moment loses nothing that was acknowledged, and leaves no half batch.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::time::Duration;

use common::{Numbers, Writer, last_acknowledged, options, round_of, write_if_asked};
use refit_durable::SledStore;

#[test]
fn writer() {
    write_if_asked();
}

#[test]
fn fifty_times_kill_9_loses_nothing_acknowledged_and_leaves_no_half_batch() {
    let dir = tempfile::tempdir().unwrap();
    let (place, acks) = (dir.path().join("store"), dir.path().join("acks"));
    let mut numbers = Numbers(1);
    let mut seen = 0;
    for kill in 0..50 {
        let mut writer = Writer::start("writer", &place, &acks);
        // Some die while they open the store, some in the midst of the work.
        if kill % 5 > 0 {
            writer.wait_for(numbers.below(40));
        }
        std::thread::sleep(Duration::from_micros(numbers.below(20_000)));
        writer.kill();

        let acknowledged = last_acknowledged(&acks);
        let opened = SledStore::open(options(&place)).unwrap();
        assert_eq!(opened.set_aside, None, "kill {kill}");
        assert!(!opened.repaired, "kill {kill}");
        let round = round_of(&opened.store);
        // One more than acknowledged: killed between the commit and the word about it. The writer
        // went on from what the one before it left, acknowledged or not.
        let least = acknowledged.max(seen);
        let fits = (least..=least + 1).contains(&round);
        assert!(fits, "kill {kill}: acknowledged {acknowledged}, left before {seen}, now {round}");
        seen = round;
    }
    assert!(last_acknowledged(&acks) > 500, "the writers hardly wrote");
}
