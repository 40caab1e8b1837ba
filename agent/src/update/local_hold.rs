//! A hold by a person on this host: nothing of a product, or of any, begins before it ends. Decides when it
//! ends, so that no clock that jumps, and no person who forgets, holds a security update off for ever.
//!
//! A hold lasts for a length, not to a moment. Within one boot the length passes by running time, whatever
//! the wall clock does. Over a boot nobody knows for how long the host was off but the wall clock: what it
//! says has passed counts, never less than nothing. So a clock that was set back lengthens a hold by the time
//! off at most, and one that leaps ahead while the host is off ends it early, which holds no update off.

use std::time::Duration;

use jiff::Timestamp;
use refit_proto::names::Product;
use serde::{Deserialize, Serialize};

use super::moment::Moment;

/// A hold by a person on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalHold {
    /// By which it is released.
    pub id: String,
    /// Of which product; `None`: of all.
    pub product: Option<Product>,
    /// Why, in the person's words.
    pub why: String,
    /// Who holds: `alice (1000)`.
    pub who: String,
    /// The same as the system's number.
    pub uid: u32,
    /// When it was made.
    pub made: Timestamp,
    /// For how long.
    pub lasts: Duration,
    /// How much of that has passed, as of `seen`.
    pub passed: Duration,
    /// When that was counted last.
    pub seen: Moment,
}

impl LocalHold {
    /// The same hold at a later moment.
    #[must_use]
    pub fn at(self, now: &Moment) -> LocalHold {
        let passed = match now.since(&self.seen) {
            Some(running) => running,
            // Negative is no duration: then nothing has passed.
            None => Duration::try_from(now.wall.duration_since(self.seen.wall)).unwrap_or_default(),
        };
        LocalHold { passed: self.passed.saturating_add(passed), seen: now.clone(), ..self }
    }

    /// How much of it is left, as of when it was counted last.
    pub fn left(&self) -> Duration {
        self.lasts.saturating_sub(self.passed)
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// When it will end, by the clock as it goes now.
    pub fn until(&self) -> Timestamp {
        self.seen.wall.saturating_add(self.left()).unwrap_or(Timestamp::MAX)
    }

    /// Whether it holds this product.
    pub fn holds(&self, product: &Product) -> bool {
        self.product.as_ref().is_none_or(|held| held == product)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::update::{BootId, Running};

    fn moment(wall: i64, boot: &str, running: u64) -> Moment {
        Moment {
            wall: Timestamp::from_second(wall).unwrap(),
            boot: BootId::parse(boot).unwrap(),
            running: Running::from_nanos(running * 1_000_000_000),
        }
    }

    fn hold(seconds: u64) -> LocalHold {
        LocalHold {
            id: "h1".into(),
            product: None,
            why: "a demonstration".into(),
            who: "root (0)".into(),
            uid: 0,
            made: Timestamp::from_second(1000).unwrap(),
            lasts: Duration::from_secs(seconds),
            passed: Duration::ZERO,
            seen: moment(1000, "a", 50),
        }
    }

    #[test]
    fn a_hold_ends_when_its_length_has_passed_whatever_the_clock_says_meanwhile() {
        // A year back, and a year ahead: an hour is an hour.
        for wall in [1000 - 31_536_000, 1000 + 31_536_000] {
            let half = hold(3600).at(&moment(wall, "a", 50 + 1800));
            assert_eq!(half.left(), Duration::from_secs(1800));
            assert_eq!(half.until(), Timestamp::from_second(wall + 1800).unwrap());
            assert!(half.at(&moment(wall, "a", 50 + 3600)).is_over());
        }
    }

    #[test]
    fn time_in_which_the_host_was_off_counts_and_a_clock_set_back_over_a_boot_counts_nothing() {
        let later = hold(3600).at(&moment(1000 + 1800, "b", 5));
        assert_eq!(later.left(), Duration::from_secs(1800));
        let back = hold(3600).at(&moment(-9000, "b", 5));
        assert_eq!(back.left(), Duration::from_secs(3600));
        assert!(back.at(&moment(-9000, "b", 3605)).is_over());
    }

    proptest! {
        /// Counted at whatever moments, with whatever clock: never longer than its length of running time.
        #[test]
        fn no_hold_lasts_longer_than_its_length_of_running_time(
            steps in prop::collection::vec((0_u64..4000, -100_000_i64..100_000, any::<bool>()), 0..60),
        ) {
            let (mut hold, mut ran, mut running, mut boots) = (hold(86_400), 0, 50, 0);
            for (span, wall, boot) in steps {
                if boot {
                    (boots, running) = (boots + 1, 0);
                    hold = hold.at(&moment(wall, &format!("boot-{boots}"), running));
                }
                (ran, running) = (ran + span, running + span);
                let name = if boots == 0 { "a".to_owned() } else { format!("boot-{boots}") };
                hold = hold.at(&moment(wall, &name, running));
                prop_assert!(hold.passed >= Duration::from_secs(ran));
            }
        }
    }
}
