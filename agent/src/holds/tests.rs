//! Holds made, kept, counted and released, also where the disk fails.

use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;

use super::*;
use crate::{
    host::recording::{Fault, Kept, RecordingFiles, at_every_operation},
    update::{BootId, Running},
};

const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// A clock of seconds that a test moves.
struct Moved(Arc<AtomicU64>);

impl Moved {
    fn new() -> Moved {
        Moved(Arc::new(AtomicU64::new(0)))
    }

    fn on(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }

    fn clock(&self) -> Clock {
        let (wall, running) = (self.0.clone(), self.0.clone());
        let begun = 1_900_000_000;
        Clock::from_fns(
            BootId::parse("boot").unwrap(),
            move || {
                let now = i64::try_from(wall.load(Ordering::Relaxed)).unwrap();
                Timestamp::from_second(begun + now).unwrap()
            },
            move || Running::from_nanos(running.load(Ordering::Relaxed) * 1_000_000_000),
        )
    }

    fn holds(&self, files: &Arc<RecordingFiles>) -> Holds {
        Holds::load(files.clone(), Path::new("/data"), self.clock(), WEEK)
    }
}

fn asked(seconds: u64, why: &str) -> NewHold {
    NewHold { product: None, seconds, why: why.into(), by: None }
}

#[test]
fn a_hold_outlives_the_agent_and_ends_by_itself() {
    let (files, clock) = (Arc::new(RecordingFiles::default()), Moved::new());
    let made = clock.holds(&files).add(asked(3600, "a demonstration"), 0).unwrap();
    clock.on(1800);
    let again = clock.holds(&files);
    let holding = again.now();
    assert_eq!((&holding[0].id, holding[0].left()), (&made.id, Duration::from_secs(1800)));
    assert_eq!(again.now()[0].until(), made.until());
    clock.on(1801);
    assert_eq!(again.now(), []);
    assert_eq!(clock.holds(&files).now(), [], "that it is over is written down");
}

#[test]
fn one_that_is_released_is_gone_and_others_are_not_released_by_everybody() {
    let (files, clock) = (Arc::new(RecordingFiles::default()), Moved::new());
    let holds = clock.holds(&files);
    let hold = holds.add(asked(60, "a dump"), 4_000_001).unwrap();
    assert!(hold.who.contains("4000001"));
    let error = holds.release(&hold.id, 4_000_002).unwrap_err().to_string();
    assert!(error.contains(&hold.who), "{error}");
    assert!(holds.release("h", 0).is_err());
    assert_eq!(holds.now().len(), 1);
    holds.release(&hold.id, 4_000_001).unwrap();
    assert_eq!(holds.now(), []);
    assert_eq!(clock.holds(&files).now(), []);
}

#[test]
fn nobody_holds_for_ever_without_a_reason_or_without_end() {
    let (files, clock) = (Arc::new(RecordingFiles::default()), Moved::new());
    let holds = clock.holds(&files);
    let long = holds.add(asked(WEEK.as_secs() + 1, "x"), 0).unwrap_err().to_string();
    assert!(long.contains("at most 7 days") && long.contains("holds.longest_days"), "{long}");
    assert!(matches!(holds.add(asked(0, "x"), 0), Err(HoldError::Short)));
    assert!(matches!(holds.add(asked(60, " "), 0), Err(HoldError::Why)));
    assert!(matches!(holds.add(asked(60, &"x".repeat(201)), 0), Err(HoldError::Why)));
    for _ in 0..MOST {
        holds.add(asked(60, "\u{1b}[2Jx"), 0).unwrap();
    }
    assert!(matches!(holds.add(asked(60, "x"), 0), Err(HoldError::Many)));
    assert!(holds.now().iter().all(|hold| !hold.why.contains('\u{1b}')));
    // Set lower, it holds for those that are there.
    let day = Duration::from_secs(30);
    let shorter = Holds::load(files, Path::new("/data"), clock.clock(), day);
    clock.on(31);
    assert_eq!(shorter.now(), []);
}

#[test]
fn a_record_that_cannot_be_read_holds_for_the_longest_time_and_no_longer() {
    for bytes in [&b"[{"[..], b"[{\"id\":1}]", b"\xff"] {
        let (files, clock) = (Arc::new(RecordingFiles::default()), Moved::new());
        clock.holds(&files).add(asked(60, "x"), 0).unwrap();
        files::write_file(&*files, Path::new("/data/holds.json"), bytes, 0o600).unwrap();
        let holds = clock.holds(&files);
        assert!(holds.now()[0].why.contains("could not be read"));
        let aside = files::read_file(&*files, Path::new("/data/holds.unreadable"), 99).unwrap();
        assert_eq!(aside, bytes);
        clock.on(WEEK.as_secs());
        assert_eq!(clock.holds(&files).now(), []);
    }
}

#[test]
fn whatever_fails_what_is_said_to_be_held_is_held_by_the_next_agent_and_nothing_else() {
    let clock = Moved::new();
    for fault in [Fault::Stays(28), Fault::Fails(28), Fault::PowerCut] {
        at_every_operation(
            &RecordingFiles::default(),
            fault,
            |files| {
                let holds = clock.holds(&Arc::new(files.clone()));
                let first = holds.add(asked(60, "x"), 0).map(|hold| hold.id);
                let released = first.as_ref().is_ok_and(|id| holds.release(id, 0).is_ok());
                (first.is_ok(), released)
            },
            |left, (held, released), step| {
                for kept in Kept::ALL {
                    let files = Arc::new(left.after_power_cut(kept));
                    let now = clock.holds(&files).now();
                    // A record that could not be read holds for a while too, and says so.
                    let (own, others): (Vec<_>, Vec<_>) =
                        now.iter().partition(|hold| hold.why == "x");
                    let unread = |hold: &&LocalHold| hold.why.contains("could not be read");
                    assert!(others.iter().all(unread), "{step}: {now:?}");
                    let count = own.len();
                    match (held, released) {
                        (true, true) => assert_eq!(count, 0, "{step}"),
                        (true, false) | (false, false) => assert!(count <= 1, "{step}"),
                        (false, true) => panic!("{step}: nothing was there to be released"),
                    }
                    // And the next one is taken.
                    clock.holds(&files).add(asked(60, "again"), 0).unwrap();
                }
            },
        );
    }
}
