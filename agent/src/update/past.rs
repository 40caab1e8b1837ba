//! What the host's own brake makes of the updates that began here: how many in a day, and how often one product
//! has failed. The past is counted by running time within one boot, since a clock can be set; over a boot, by
//! the wall clock, or by how long the host has run since, whichever says more.

use std::time::Duration;

use jiff::Timestamp;
use refit_proto::{names::Product, sorted};
use serde::{Deserialize, Serialize};

use super::{ids::InstallId, moment::Moment};

/// An update that began to change this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// Which one.
    pub install: InstallId,
    /// Of which product.
    pub product: Product,
    /// When.
    pub at: Moment,
    /// It failed here by its release's fault, and nobody has forgiven that since.
    #[serde(default)]
    pub failed: bool,
}

/// How long a day is here: any 24 hours.
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Begun {
    /// How long ago it began. What seems to be in the future, since a clock was set, has just begun.
    fn age(&self, now: &Moment) -> Duration {
        if let Some(passed) = now.since(&self.at) {
            return passed;
        }
        let by_wall = Duration::try_from(now.wall.duration_since(self.at.wall)).unwrap_or_default();
        by_wall.max(Duration::from_nanos(now.running.as_nanos()))
    }
}

/// More updates began in a day than may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany {
    /// So many did.
    pub began: u32,
    /// When the next may.
    pub until: Timestamp,
}

/// Whether as many updates began in the last 24 hours as may.
pub fn too_many_in_a_day(past: &[Begun], most: u32, now: &Moment) -> Option<TooMany> {
    let mut ages: Vec<_> = past.iter().map(|begun| begun.age(now)).filter(|it| *it < DAY).collect();
    sorted::sort(&mut ages);
    let began = u32::try_from(ages.len()).unwrap_or(u32::MAX);
    if began < most {
        return None;
    }
    // Once the oldest of the `most` newest is a day ago, there is room for one.
    let oldest = ages.get(usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(1));
    let left = DAY.saturating_sub(oldest.copied().unwrap_or_default());
    Some(TooMany { began, until: now.wall.saturating_add(left).unwrap_or(now.wall) })
}

/// How often updates of a product failed here within this time, and nobody has forgiven it.
pub fn failures_of(past: &[Begun], product: &Product, within: Duration, now: &Moment) -> u32 {
    let failed = past.iter().filter(|begun| begun.failed && begun.product == *product);
    let count = failed.filter(|begun| begun.age(now) < within).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::testing::at_boot, *};

    const HOUR: u64 = 3600;

    fn moment(boot: &str, running: u64, wall: i64) -> Moment {
        Moment { wall: Timestamp::from_second(wall).unwrap(), ..at_boot(boot, running) }
    }

    fn begun(at: Moment) -> Begun {
        let install = InstallId::parse("install-1").unwrap();
        Begun { install, product: "payments".parse().unwrap(), at, failed: true }
    }

    #[test]
    fn the_next_update_may_begin_a_day_after_the_oldest_that_counts() {
        let past = [2, 5, 9].map(|hour| begun(moment("a", hour * HOUR, 0)));
        let now = moment("a", 10 * HOUR, 1_000_000);
        assert_eq!(too_many_in_a_day(&past, 4, &now), None);
        let held = too_many_in_a_day(&past, 3, &now).unwrap();
        assert_eq!((held.began, held.until.as_second()), (3, 1_000_000 + 16 * 3600));
        let held = too_many_in_a_day(&past, 1, &now).unwrap();
        assert_eq!(held.until.as_second(), 1_000_000 + 23 * 3600, "the newest counts");
        let later = moment("a", 26 * HOUR, 0);
        assert_eq!(too_many_in_a_day(&past, 3, &later), None);
    }

    #[test]
    fn a_clock_that_is_set_changes_nothing_within_a_boot() {
        let past = [begun(moment("a", HOUR, 1_000_000))];
        for wall in [0, 1_000_000, 4_000_000_000] {
            let now = moment("a", 2 * HOUR, wall);
            assert!(too_many_in_a_day(&past, 1, &now).is_some(), "{wall}");
        }
    }

    #[test]
    fn a_clock_that_was_once_ahead_holds_for_no_longer_than_a_day_of_running() {
        let past = [begun(moment("a", HOUR, 4_000_000_000))];
        assert!(too_many_in_a_day(&past, 1, &moment("b", HOUR, 1_000_000)).is_some());
        assert!(too_many_in_a_day(&past, 1, &moment("b", 24 * HOUR, 1_000_000)).is_none());
        // And one that was right counts while the host was off.
        let past = [begun(moment("a", HOUR, 1_000_000))];
        assert!(too_many_in_a_day(&past, 1, &moment("b", 5, 1_000_000 + 25 * 3600)).is_none());
    }

    #[test]
    fn a_products_failures_are_its_own_and_pass() {
        let week = Duration::from_secs(7 * 24 * HOUR);
        let mut past = vec![begun(moment("a", 0, 0)), begun(moment("a", 10, 0))];
        let now = moment("a", HOUR, 0);
        let product = past[0].product.clone();
        assert_eq!(failures_of(&past, &product, week, &now), 2);
        assert_eq!(failures_of(&past, &"other".parse().unwrap(), week, &now), 0);
        past[0].failed = false;
        assert_eq!(failures_of(&past, &product, week, &now), 1);
        assert_eq!(failures_of(&past, &product, week, &moment("a", 8 * 24 * HOUR, 0)), 0);
    }

    proptest! {
        /// Whoever obeys the answer never begins more than `most` in any 24 hours.
        #[test]
        fn no_day_has_more_than_it_may(most in 1_u32..5, tries in prop::collection::vec(0_u64..12 * HOUR, 1..60)) {
            let mut past: Vec<Begun> = Vec::new();
            let mut running = 0;
            for pause in tries {
                running += pause;
                let now = moment("a", running, 0);
                if too_many_in_a_day(&past, most, &now).is_none() {
                    past.push(begun(now));
                }
            }
            let starts: Vec<u64> =
                past.iter().map(|begun| begun.at.running.as_nanos() / 1_000_000_000).collect();
            for (number, start) in starts.iter().enumerate() {
                let day = starts[number..].iter().take_while(|at| **at < start + 24 * HOUR).count();
                prop_assert!(day <= most as usize, "{} in the day from {}", day, start);
            }
        }
    }
}
