//! When a ring would be through with a release, before anything has started: its waves, its limit of hosts in
//! flight and the hours of its hosts, played through with a length that one update is taken to have. Every host is
//! taken to begin as soon as it may and to succeed: nothing can go faster, and much can go slower.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use refit_proto::{
    hours::{HostPlace, Place},
    names::Labels,
};

use super::{counts::after, hours::HoursNow};
use crate::fleet::{RingPolicy, RingRecord};

/// Hosts that the clock treats alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crowd {
    /// Labels of each.
    pub labels: Labels,
    /// Time zone of each.
    pub zone: Option<TimeZone>,
    /// How many.
    pub hosts: u64,
}

/// What is played through.
#[derive(Debug, Clone, Copy)]
pub struct Course<'a> {
    /// The ring.
    pub ring: &'a RingRecord,
    /// What narrows it.
    pub policy: &'a RingPolicy,
    /// When updates may begin.
    pub hours: &'a HoursNow,
    /// How long one update takes, from its leave to its commit.
    pub update: SignedDuration,
}

/// When what happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// The first host begins.
    pub starts: Timestamp,
    /// The last host is through.
    pub through: Timestamp,
    /// The release has soaked, and the next ring may begin.
    pub proven: Timestamp,
}

/// Further ahead nobody plans.
const HORIZON: SignedDuration = SignedDuration::from_hours(366 * 24);

/// Plays a ring through from the moment at which its gate opens; `None`: not within a year, since its windows do not
/// let every host in.
pub fn forecast(course: &Course<'_>, crowds: &[Crowd], from: Timestamp) -> Option<Forecast> {
    let mut play = Play::new(course, crowds, from);
    while !play.is_over() {
        if play.now.duration_since(from) > HORIZON {
            return None;
        }
        play.let_in();
        play.wait()?;
    }
    let through = play.now;
    let proven = after(through, course.policy.soak_seconds);
    Some(Forecast { starts: play.starts.unwrap_or(from), through, proven })
}

struct Play<'a> {
    course: &'a Course<'a>,
    crowds: Vec<Waiting<'a>>,
    now: Timestamp,
    starts: Option<Timestamp>,
    wave: usize,
    begun: u64,
    /// How many end when.
    in_flight: BTreeMap<Timestamp, u64>,
}

struct Waiting<'a> {
    crowd: &'a Crowd,
    left: u64,
    /// What the clock says, and until when it says so.
    turn: Turn,
}

#[derive(Clone, Copy)]
enum Turn {
    Unknown,
    Open { closes: Option<Timestamp> },
    Closed { opens: Option<Timestamp> },
}

impl<'a> Play<'a> {
    fn new(course: &'a Course<'a>, crowds: &'a [Crowd], now: Timestamp) -> Play<'a> {
        let crowds = crowds.iter().filter(|crowd| crowd.hosts > 0);
        let waiting = |crowd: &'a Crowd| Waiting { crowd, left: crowd.hosts, turn: Turn::Unknown };
        let (crowds, in_flight) = (crowds.map(waiting).collect(), BTreeMap::new());
        Play { course, crowds, now, starts: None, wave: 0, begun: 0, in_flight }
    }

    fn is_over(&self) -> bool {
        self.in_flight.is_empty() && self.crowds.iter().all(|crowd| crowd.left == 0)
    }

    /// Lets in whom wave, limit and clock let in now.
    fn let_in(&mut self) {
        let limit = u64::from(self.course.policy.max_in_flight);
        let flying: u64 = self.in_flight.values().sum();
        let mut free = limit.saturating_sub(flying).min(self.of_this_wave());
        for waiting in self.crowds.iter_mut().filter(|waiting| waiting.left > 0) {
            if free > 0 && waiting.is_open(self.course, self.now) {
                let begin = free.min(waiting.left);
                (waiting.left, free) = (waiting.left - begin, free - begin);
                self.begun += begin;
                self.starts.get_or_insert(self.now);
                *self.in_flight.entry(self.now + self.course.update).or_default() += begin;
            }
        }
    }

    /// How many more the wave takes that may begin. The next one may once everybody is through.
    fn of_this_wave(&mut self) -> u64 {
        let waves = &self.course.policy.waves;
        let limit = |wave: usize| match waves.get(..=wave) {
            Some(so_far) => so_far.iter().map(|hosts| u64::from(*hosts)).sum(),
            None => u64::MAX,
        };
        while limit(self.wave) <= self.begun && self.in_flight.is_empty() {
            self.wave += 1;
        }
        limit(self.wave).saturating_sub(self.begun)
    }

    /// Until something may happen: an update ends, or somebody's clock lets them in. `None`: never.
    fn wait(&mut self) -> Option<()> {
        let ends = self.in_flight.first_key_value().map(|(at, _)| *at);
        let opens = self.crowds.iter().filter(|waiting| waiting.left > 0);
        let opens = opens.filter_map(|waiting| match waiting.turn {
            Turn::Closed { opens } => opens,
            Turn::Open { .. } | Turn::Unknown => None,
        });
        let next = ends.into_iter().chain(opens).min()?;
        self.now = self.now.max(next);
        self.in_flight = self.in_flight.split_off(&(self.now + SignedDuration::from_nanos(1)));
        Some(())
    }
}

impl Waiting<'_> {
    fn is_open(&mut self, course: &Course<'_>, now: Timestamp) -> bool {
        let over = match self.turn {
            Turn::Unknown => true,
            Turn::Open { closes: until } | Turn::Closed { opens: until } => {
                until.is_some_and(|until| until <= now)
            }
        };
        if over {
            let host = HostPlace { labels: &self.crowd.labels, zone: self.crowd.zone.as_ref() };
            let place = Place { ring: &course.ring.ring, host: Some(host) };
            let (HoursNow { hours, zones, .. }, passed) = (course.hours, &course.ring.passed);
            self.turn = match hours.closed(place, passed, zones, now) {
                Some(closing) => Turn::Closed { opens: closing.opens },
                None => Turn::Open { closes: hours.closes(place, passed, zones, now) },
            };
        }
        matches!(self.turn, Turn::Open { .. })
    }
}
