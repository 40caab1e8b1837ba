//! 10,000 hosts, simulated with the code that paces real ones: their server restarts or is away, and they come
//! back spread out, without an echo. Time is virtual; chance comes from a seed that is printed.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use refit_proto::names::HostId;

use super::pace::{Pace, Turn, again};
use crate::update::{Cause, Failure, Retry, Running};

const HOSTS: u32 = 10_000;
const SECOND: u64 = 1_000_000_000;

/// splitmix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// When the server is away, and when it comes back and asks everybody to come later.
struct Outage {
    from: u64,
    until: u64,
    /// For so long after that it sheds every call with this `Retry-After`.
    sheds: u64,
    retry_after: Duration,
}

/// How many calls the server got in each second.
struct Arrivals(Vec<u32>);

impl Arrivals {
    fn note(&mut self, nanos: u64) {
        let second = (nanos / SECOND) as usize;
        self.0.resize(self.0.len().max(second + 1), 0);
        self.0[second] += 1;
    }

    /// Panics unless the fullest second between these has at most three times the mean.
    fn assert_even(&self, what: &str, from: u64, until: u64) {
        let seconds = &self.0[(from / SECOND) as usize..(until / SECOND) as usize];
        let (sum, peak) = (seconds.iter().sum::<u32>(), *seconds.iter().max().unwrap());
        let mean = f64::from(sum) / seconds.len() as f64;
        let times = f64::from(peak) / mean;
        println!("{what}: {} s, mean {mean:.0}/s, peak {peak}/s, {times:.2} times", seconds.len());
        assert!(times <= 3.0, "{what}: peak {peak}/s is {times:.2} times the mean {mean:.0}/s");
    }
}

/// Hosts that poll and refresh every `period` seconds, both at the host's one turn. All of them were started
/// at the same moment.
fn polls(seed: u64, period: u64, outage: &Outage, end: u64) -> Arrivals {
    let (mut chance, mut arrivals) = (Chance(seed), Arrivals(Vec::new()));
    let asked = Duration::from_secs(period);
    let mut paces = Vec::new();
    for number in 0..HOSTS {
        let turn = Turn::of(&HostId::of_public_key(&number.to_be_bytes()), "sync");
        paces.extend([Pace::new(None, turn), Pace::new(None, turn)]);
    }
    // Hosts do not share a running clock: each was booted at its own time.
    let booted: Vec<u64> = (0..HOSTS).map(|_| (chance.next() * 1e15) as u64).collect();
    let mut due: BinaryHeap<Reverse<(u64, usize)>> =
        (0..paces.len()).map(|at| Reverse((0, at))).collect();
    while let Some(Reverse((now, at))) = due.pop() {
        if now >= end {
            break;
        }
        let (mut rest, pace) = (Duration::ZERO, &mut paces[at]);
        let away = (outage.from..outage.until).contains(&now);
        let sheds = (outage.until..outage.until + outage.sheds).contains(&now);
        if !away {
            arrivals.note(now);
        }
        if away || sheds {
            pace.failed();
            rest = if sheds { outage.retry_after } else { rest };
        } else {
            pace.succeeded(asked);
        }
        let running = Running::from_nanos(booted[at / 2] + now);
        let delay = pace.delay(running, rest, chance.next());
        due.push(Reverse((now + u64::try_from(delay.as_nanos()).unwrap(), at)));
    }
    arrivals
}

#[test]
fn ten_thousand_hosts_whose_server_restarts_come_back_spread_out_and_without_an_echo() {
    for seed in [1, 20_260_930] {
        for (period, away) in [(30, 1), (30, 5), (30, 20), (30, 45), (30, 600), (60, 10), (60, 900)]
        {
            println!("seed {seed}, period {period} s, away {away} s");
            let from = 1000 * SECOND;
            let until = from + away * SECOND;
            let outage = Outage { from, until, sheds: 0, retry_after: Duration::ZERO };
            let end = until + 10 * period * SECOND;
            let arrivals = polls(seed, period, &outage, end + SECOND);
            // They were started together, and parted at once.
            arrivals.assert_even("before", 100 * SECOND, from);
            arrivals.assert_even("coming back", until, until + period * SECOND * 3 / 2);
            for number in 1..10 {
                let start = until + number * period * SECOND;
                arrivals.assert_even("later", start, start + period * SECOND);
            }
        }
    }
}

#[test]
fn hosts_that_were_all_told_to_come_later_do_not_come_together() {
    let (period, seed) = (30, 7);
    println!("seed {seed}");
    for after in [5, 60] {
        let until = 1030 * SECOND;
        let retry_after = Duration::from_secs(after);
        let outage = Outage { from: 1000 * SECOND, until, sheds: 40 * SECOND, retry_after };
        let end = until + 600 * SECOND;
        let arrivals = polls(seed, period, &outage, end + SECOND);
        arrivals.assert_even("while it sheds", until, until + 40 * SECOND);
        arrivals.assert_even("then", until + 40 * SECOND, until + (40 + after + 30) * SECOND);
        let start = until + 200 * SECOND;
        arrivals.assert_even("later", start, end);
    }
}

#[test]
fn hosts_that_were_all_cut_off_in_their_downloads_come_back_spread_out() {
    let period = Duration::from_secs(30);
    for seed in [3, 99] {
        for away in [0, 5, 30, 120, 900] {
            println!("seed {seed}, away {away} s");
            let (mut chance, mut arrivals) = (Chance(seed), Arrivals(Vec::new()));
            let mut back = Vec::new();
            for number in 0..HOSTS {
                let turn = Turn::of(&HostId::of_public_key(&number.to_be_bytes()), "work");
                let booted = (chance.next() * 1e15) as u64;
                let (mut now, mut retry) = (0, Retry::default());
                loop {
                    retry = retry.after(Failure::new(Cause::ServerAway, "cut off"));
                    let at = (Running::from_nanos(booted + now), turn);
                    let delay = again(retry.pause(), Some(period), at, chance.next());
                    now += u64::try_from(delay.as_nanos()).unwrap();
                    if now >= away * SECOND {
                        break;
                    }
                }
                back.push(now);
                arrivals.note(now);
            }
            let (first, last) = (back.iter().min().unwrap(), back.iter().max().unwrap());
            arrivals.assert_even("downloads", *first, last + SECOND);
        }
    }
}
