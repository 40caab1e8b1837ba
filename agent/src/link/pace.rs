//! When the next call comes: after the server's word with some jitter, or, after a failure, after a
//! random part of a span that doubles. Never later than two periods, whatever has happened. Pure; chance
//! is passed in as a number from 0 to 1.

use std::time::Duration;

/// How often to call where nobody has said anything yet.
const DEFAULT: Duration = Duration::from_secs(60);
/// The longest period that a server can ask for: an emergency brake must be heard within the hour.
const LONGEST: Duration = Duration::from_secs(3600);
/// The shortest: what a mistaken server can do to itself.
const SHORTEST: Duration = Duration::from_secs(1);
/// The span after the first failure.
const FIRST_FAILURE: Duration = Duration::from_secs(2);
/// By how much a period is shorter or longer by chance, so that hosts that came back together part.
const JITTER: f64 = 0.2;

/// The pace of calls.
#[derive(Debug, Clone)]
pub struct Pace {
    fixed: Option<Duration>,
    period: Duration,
    failures: u32,
}

impl Pace {
    /// The pace of a host whose administrator may have fixed the period.
    pub fn new(fixed: Option<Duration>) -> Pace {
        Pace { fixed, period: fixed.unwrap_or(DEFAULT), failures: 0 }
    }

    /// A call has succeeded, and the server asks for the next after this time.
    pub fn succeeded(&mut self, asked: Duration) {
        self.failures = 0;
        self.period = self.fixed.unwrap_or(asked).clamp(SHORTEST, LONGEST);
    }

    /// A call has failed.
    pub fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// How long to wait before the next call. After a failure the whole span is jitter: hosts that lost
    /// their server together don't come back together, and nothing echoes.
    pub fn delay(&self, chance: f64) -> Duration {
        let chance = chance.clamp(0.0, 1.0);
        match self.failures {
            0 => self.period.mul_f64(1.0 - JITTER + 2.0 * JITTER * chance),
            failures => {
                let span = FIRST_FAILURE.saturating_mul(1 << (failures - 1).min(16));
                // Not at once either, whatever chance says.
                span.min(self.period).mul_f64(chance).max(Duration::from_millis(100))
            }
        }
    }
}

/// A number from 0 to 1 by chance.
pub(crate) fn chance() -> f64 {
    // Without random bytes there is no jitter, and everything else works.
    f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_call_comes_within_two_periods_whatever_has_happened() {
        for asked in [0, 1, 5, 60, 86_400] {
            let mut pace = Pace::new(None);
            pace.succeeded(Duration::from_secs(asked));
            let period = Duration::from_secs(asked).clamp(SHORTEST, LONGEST);
            for _ in 0..40 {
                assert!(pace.delay(0.0) > Duration::ZERO);
                assert!(pace.delay(1.0) <= period * 2, "{asked} s, {} failures", pace.failures());
                pace.failed();
            }
        }
    }

    #[test]
    fn many_hosts_that_lost_their_server_together_come_back_spread_out() {
        let mut pace = Pace::new(None);
        pace.succeeded(Duration::from_secs(60));
        for _ in 0..6 {
            pace.failed();
        }
        let mut by_second = [0_u32; 61];
        for host in 0..10_000 {
            let delay = pace.delay(f64::from(host) / 10_000.0);
            by_second[usize::try_from(delay.as_secs()).unwrap()] += 1;
        }
        let mean = 10_000 / 60;
        assert!(by_second.iter().all(|hosts| *hosts <= 3 * mean), "{by_second:?}");
    }

    #[test]
    fn a_fixed_period_is_not_the_servers_to_change() {
        let mut pace = Pace::new(Some(Duration::from_secs(5)));
        pace.succeeded(Duration::from_secs(600));
        assert!(pace.delay(1.0) <= Duration::from_secs(6));
    }
}
