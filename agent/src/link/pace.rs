//! When the next call comes. Each host has a turn of its own in each period, by its id: so no moment at which
//! all hosts call, whatever made it (a restart of the server, an order to all of them), has an echo. After a
//! failure one try comes early, by chance; the others come at the host's turn, so that a server that
//! comes back meets its hosts as it left them. Pure: time is passed in, and chance as a number from 0 to 1.

use std::time::Duration;

use refit_proto::names::{Digest, HostId};

use crate::update::Running;

/// How often to call where nobody has said anything yet: as rings do that say nothing of it.
const DEFAULT: Duration = Duration::from_secs(30);
/// The longest period that a server can ask for: an emergency brake must be heard within the hour.
const LONGEST: Duration = Duration::from_secs(3600);
/// The shortest: what a mistaken server can do to itself.
const SHORTEST: Duration = Duration::from_secs(1);
/// The early try after a failure comes within this share of the period. Each early try that all hosts have
/// adds as many calls per second again while a server is away, so there is one.
const EARLY: u32 = 4;
/// It comes within this time where periods are long.
const EARLY_MOST: Duration = Duration::from_secs(60);
/// Not at once either, whatever chance says.
const LEAST: Duration = Duration::from_millis(100);

/// A place in every period, from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Turn(f64);

impl Turn {
    /// Where this host does a thing of this name. The same at every start; of many hosts, evenly spread;
    /// and independent of where it does other things.
    pub fn of(host: &HostId, what: &str) -> Turn {
        let hash = Digest::of(format!("refit pace v1\n{host}\n{what}").as_bytes());
        let first: [u8; 4] = std::array::from_fn(|at| hash.as_bytes()[at]);
        Turn(f64::from(u32::from_be_bytes(first)) / (f64::from(u32::MAX) + 1.0))
    }

    /// From here until the next turn in periods of this length.
    fn after(self, now: Running, period: Duration) -> Duration {
        let whole = period.as_nanos().max(1);
        let at = period.mul_f64(self.0).as_nanos();
        let into = now.since(Running::from_nanos(0)).as_nanos() % whole;
        let nanos = (at + whole - into) % whole;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The pace of calls.
#[derive(Debug, Clone)]
pub struct Pace {
    turn: Turn,
    fixed: Option<Duration>,
    period: Duration,
    failures: u32,
}

impl Pace {
    /// The pace of a host whose administrator may have fixed the period.
    pub fn new(fixed: Option<Duration>, turn: Turn) -> Pace {
        Pace { turn, fixed, period: fixed.unwrap_or(DEFAULT), failures: 0 }
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

    /// How long to wait before the next call: never longer than one period and a half, but for so long as
    /// the server itself has asked to be left alone (`rest`), and then until this host's turn.
    pub fn delay(&self, now: Running, rest: Duration, chance: f64) -> Duration {
        if !rest.is_zero() {
            return rest + self.turn.after(now.plus(rest), self.period);
        }
        match self.failures {
            // Not so soon after a call out of turn.
            0 => {
                let half = self.period / 2;
                half + self.turn.after(now.plus(half), self.period)
            }
            1 => {
                let most = (self.period / EARLY).min(EARLY_MOST);
                most.mul_f64(chance.clamp(0.0, 1.0)).max(LEAST)
            }
            _ => LEAST + self.turn.after(now.plus(LEAST), self.period),
        }
    }
}

/// How long to wait before something that failed is tried again: a pause, and up to a half more by chance. If the
/// server was away (`away` is its period), all hosts that were at work with it failed at the same moment: each
/// comes back at its turn after the pause, so that no second has more of them than the server asks for.
pub(crate) fn again(
    pause: Duration,
    away: Option<Duration>,
    (now, turn): (Running, Turn),
    chance: f64,
) -> Duration {
    match away {
        _ if pause.is_zero() => pause,
        Some(period) => pause + turn.after(now.plus(pause), period.min(LONGEST)),
        None => pause + (pause / 2).mul_f64(chance.clamp(0.0, 1.0)),
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

    pub(super) fn host(number: u32) -> HostId {
        HostId::of_public_key(&number.to_be_bytes())
    }

    fn pace(fixed: Option<Duration>, number: u32) -> Pace {
        Pace::new(fixed, Turn::of(&host(number), "test"))
    }

    #[test]
    fn the_next_call_comes_within_two_periods_whatever_has_happened() {
        for asked in [0, 1, 5, 60, 86_400] {
            for number in 0..20 {
                let mut pace = pace(None, number);
                pace.succeeded(Duration::from_secs(asked));
                let period = Duration::from_secs(asked).clamp(SHORTEST, LONGEST);
                let now = Running::from_nanos(u64::from(number) * 777_777_777);
                for chance in [0.0, 0.5, 1.0, 1.0, 1.0] {
                    let delay = pace.delay(now, Duration::ZERO, chance);
                    assert!(delay > Duration::ZERO);
                    assert!(delay <= period * 2, "{asked} s, {} failures", pace.failures());
                    pace.failed();
                }
            }
        }
    }

    #[test]
    fn a_place_is_the_same_at_every_start_and_hosts_and_things_have_others() {
        let place = |number, what| Turn::of(&host(number), what);
        assert_eq!(place(1, "sync"), place(1, "sync"));
        assert_ne!(place(1, "sync"), place(2, "sync"));
        assert_ne!(place(1, "sync"), place(1, "refresh"));
        // Of 10,000 hosts, each hundredth of the period has its share.
        let mut shares = [0_u32; 100];
        for number in 0..10_000 {
            shares[(place(number, "sync").0 * 100.0) as usize] += 1;
        }
        assert!(shares.iter().all(|share| (50..200).contains(share)), "{shares:?}");
    }

    #[test]
    fn calls_come_at_the_hosts_own_place_however_they_came_before() {
        let mut pace = pace(None, 7);
        pace.succeeded(Duration::from_secs(30));
        let mut places = Vec::new();
        for seconds in [0, 3, 11, 29, 30, 1000] {
            let now = Running::from_nanos(seconds * 1_000_000_000);
            let next = now.plus(pace.delay(now, Duration::ZERO, 0.3));
            places.push(next.since(Running::from_nanos(0)).as_nanos() % 30_000_000_000);
        }
        assert!(places.iter().all(|place| *place == places[0]), "{places:?}");
    }

    #[test]
    fn a_server_that_asks_to_be_left_alone_is_until_then_and_hosts_come_back_over_a_period() {
        let (now, rest) = (Running::from_nanos(5_000_000_000), Duration::from_secs(100));
        let mut delays = Vec::new();
        for number in 0..1000 {
            let mut pace = pace(None, number);
            pace.succeeded(Duration::from_secs(30));
            for _ in 0..3 {
                delays.push(pace.delay(now, rest, 0.0));
                pace.failed();
            }
        }
        let last = rest + Duration::from_secs(30);
        assert!(delays.iter().all(|delay| (rest..=last).contains(delay)));
        let early = delays.iter().filter(|delay| **delay < rest + Duration::from_secs(10)).count();
        assert!((800..1200).contains(&early), "a third comes in the first third: {early} of 3000");
    }

    #[test]
    fn a_fixed_period_is_not_the_servers_to_change() {
        let mut pace = pace(Some(Duration::from_secs(5)), 1);
        pace.succeeded(Duration::from_secs(600));
        assert!(pace.delay(Running::from_nanos(0), Duration::ZERO, 1.0) <= Duration::from_secs(8));
    }

    #[test]
    fn what_failed_with_the_server_comes_at_the_hosts_turn_and_what_did_not_comes_soon() {
        let (pause, period) = (Duration::from_secs(2), Duration::from_secs(30));
        let at = |seconds: u64| (Running::from_nanos(seconds * 1_000_000_000), Turn(0.5));
        assert_eq!(again(Duration::ZERO, Some(period), at(0), 1.0), Duration::ZERO);
        assert_eq!(again(pause, None, at(0), 1.0), Duration::from_secs(3));
        assert_eq!(again(pause, Some(period), at(0), 1.0), Duration::from_secs(15));
        assert_eq!(again(pause, Some(period), at(14), 1.0), Duration::from_secs(31));
        assert_eq!(again(Duration::from_secs(90), Some(period), at(0), 1.0).as_secs(), 105);
    }
}
