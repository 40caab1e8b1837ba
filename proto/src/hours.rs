//! When updates of a product may begin: windows, hours to be avoided and freezes, each for some rings and some
//! hosts. What narrows adds up: every rule that is about a host has to let it. A rule that can't be evaluated is
//! closed. Which zones there are and what time it is, the caller passes in.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::{
    names::{Labels, RingName},
    policy::{Gate, Selector},
    windows::{Standing, Windows},
};

mod from_wire;

pub use from_wire::HoursError;

/// How long nothing begins after a change, where nobody says otherwise, seconds: time to see what one has done.
pub const SETTLE: u64 = 600;
/// Most rules and most freezes of a product.
pub const MOST: usize = 256;
/// How many closings in a row are looked through for the moment at which all of them are over.
const CLOSINGS: usize = 1000;

/// When updates of a product may begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hours {
    /// Every one that is about a host has to be open.
    #[serde(default)]
    pub windows: Vec<WindowRule>,
    /// Nothing begins in any of them.
    #[serde(default)]
    pub freezes: Vec<Freeze>,
    /// So long nothing begins after these rules were changed, or after a promotion where a window is open then.
    pub settle_seconds: u64,
}

/// No rules.
impl Default for Hours {
    fn default() -> Hours {
        Hours { windows: Vec::new(), freezes: Vec::new(), settle_seconds: SETTLE }
    }
}

/// Which hosts a rule is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Those in one of these rings; none named: whatever their ring.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub rings: BTreeSet<RingName>,
    /// Those that it selects; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<Selector>,
}

/// The clock on whose wall a window is read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Zone {
    /// That of the host itself, as it reports it.
    Host,
    /// One of the IANA time zone database: `Europe/Berlin`.
    Named(String),
}

/// How the host's own zone is written.
const HOST: &str = "host";

impl From<String> for Zone {
    fn from(text: String) -> Zone {
        if text == HOST { Zone::Host } else { Zone::Named(text) }
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> String {
        match zone {
            Zone::Host => HOST.to_owned(),
            Zone::Named(name) => name,
        }
    }
}

/// When hosts may begin, by the clock on the wall.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowRule {
    /// About which hosts.
    #[serde(flatten)]
    pub scope: Scope,
    /// By which clock.
    pub zone: Zone,
    /// Only then; `None`: at any time that is not to be avoided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<Windows>,
    /// Not then: business hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avoid: Option<Windows>,
}

/// A time in which nothing begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// About which hosts.
    #[serde(flatten)]
    pub scope: Scope,
    /// Why, in a person's words.
    pub why: String,
    /// From then on.
    pub from: Timestamp,
    /// Until just before then.
    pub until: Timestamp,
}

/// Time zones by name, as the caller has found them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zones(BTreeMap<String, TimeZone>);

impl Zones {
    /// Those that `hours` names and `find` knows.
    pub fn of(hours: &Hours, find: impl Fn(&str) -> Option<TimeZone>) -> Zones {
        let mut zones = BTreeMap::new();
        for name in hours.zone_names() {
            if let Some(zone) = find(name) {
                zones.insert(name.to_owned(), zone);
            }
        }
        Zones(zones)
    }

    fn by<'a>(&'a self, zone: &Zone, place: Place<'a>) -> Option<&'a TimeZone> {
        match zone {
            Zone::Named(name) => self.0.get(name),
            Zone::Host => place.host.and_then(|host| host.zone),
        }
    }
}

/// Who is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// In which ring.
    pub ring: &'a RingName,
    /// One host; `None`: the ring as a whole, which only rules decide that are about every host in it and read the
    /// clock of no host.
    pub host: Option<HostPlace<'a>>,
}

/// What a rule may ask of a host.
#[derive(Debug, Clone, Copy)]
pub struct HostPlace<'a> {
    /// Its labels.
    pub labels: &'a Labels,
    /// Its own zone, if it is known.
    pub zone: Option<&'a TimeZone>,
}

/// Why nothing begins now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// No window is open.
    Window,
    /// It is a time to be avoided.
    Avoided,
    /// A freeze.
    Frozen {
        /// In a person's words.
        why: String,
    },
    /// Nobody knows what time it is there.
    UnknownZone(Zone),
}

/// That nothing begins now, and when the next may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    /// Why.
    pub why: Closed,
    /// When all rules are open together; `None`: not as far as anybody can say.
    pub opens: Option<Timestamp>,
}

impl Hours {
    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty() && self.freezes.is_empty()
    }

    /// The time zones that windows name.
    pub fn zone_names(&self) -> impl Iterator<Item = &str> {
        self.windows.iter().filter_map(|rule| match &rule.zone {
            Zone::Named(name) => Some(name.as_str()),
            Zone::Host => None,
        })
    }

    /// Whether every ring that a rule names is one of these.
    ///
    /// # Errors
    /// The first that is not: such a rule would be about nobody, whatever was meant.
    pub fn check_rings<'a>(
        &self,
        rings: impl Iterator<Item = &'a RingName>,
    ) -> Result<(), HoursError> {
        let known: BTreeSet<&RingName> = rings.collect();
        let windows = self.windows.iter().map(|rule| &rule.scope);
        let scopes = windows.chain(self.freezes.iter().map(|freeze| &freeze.scope));
        let mut named = scopes.flat_map(|scope| &scope.rings);
        match named.find(|ring| !known.contains(ring)) {
            Some(unknown) => Err(HoursError::Ring(unknown.clone())),
            None => Ok(()),
        }
    }

    /// Why nothing begins at `now`, but for the gates that a promotion passes over; `None`: it may.
    pub fn closed(
        &self,
        place: Place<'_>,
        passed: &[Gate],
        zones: &Zones,
        now: Timestamp,
    ) -> Option<Closing> {
        let (why, mut until) = self.first_closed(place, passed, zones, now)?;
        for _ in 0..CLOSINGS {
            let Some(at) = until else { break };
            match self.first_closed(place, passed, zones, at) {
                None => return Some(Closing { why, opens: Some(at) }),
                Some((_, later)) => until = later.filter(|later| *later > at),
            }
        }
        Some(Closing { why, opens: None })
    }

    /// When the first rule closes of those that are open at `now`; `None`: none that anybody has to know of.
    pub fn closes(
        &self,
        place: Place<'_>,
        passed: &[Gate],
        zones: &Zones,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let freezes = self.freezes_about(place, passed).map(|freeze| freeze.from);
        let windows = self.windows_about(place, passed);
        let windows = windows.filter_map(|rule| rule.closes(zones.by(&rule.zone, place)?, now));
        freezes.filter(|from| *from > now).chain(windows).min()
    }

    /// The first rule that is closed at a moment, and until when that rule is.
    fn first_closed(
        &self,
        place: Place<'_>,
        passed: &[Gate],
        zones: &Zones,
        at: Timestamp,
    ) -> Option<(Closed, Option<Timestamp>)> {
        let mut frozen = self.freezes_about(place, passed);
        if let Some(freeze) = frozen.find(|freeze| freeze.from <= at && at < freeze.until) {
            return Some((Closed::Frozen { why: freeze.why.clone() }, Some(freeze.until)));
        }
        self.windows_about(place, passed).find_map(|rule| {
            // Of the ring as a whole nothing can be said by the clocks of its hosts.
            if rule.zone == Zone::Host && place.host.is_none() {
                return None;
            }
            let Some(zone) = zones.by(&rule.zone, place) else {
                return Some((Closed::UnknownZone(rule.zone.clone()), None));
            };
            rule.closed(zone, at)
        })
    }

    /// Whether a window is about them, so that it could be open at this moment by chance.
    pub fn has_windows(&self, place: Place<'_>) -> bool {
        self.windows_about(place, &[]).next().is_some()
    }

    fn windows_about(
        &self,
        place: Place<'_>,
        passed: &[Gate],
    ) -> impl Iterator<Item = &WindowRule> {
        let windows = self.windows.iter().filter(move |rule| rule.scope.is_about(place));
        windows.filter(|_| !passed.contains(&Gate::Window))
    }

    fn freezes_about(&self, place: Place<'_>, passed: &[Gate]) -> impl Iterator<Item = &Freeze> {
        let freezes = self.freezes.iter().filter(move |freeze| freeze.scope.is_about(place));
        freezes.filter(|_| !passed.contains(&Gate::Freeze))
    }
}

impl Scope {
    fn is_about(&self, place: Place<'_>) -> bool {
        let ring = self.rings.is_empty() || self.rings.contains(place.ring);
        let host = match (&self.select, place.host) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(select), Some(host)) => select.matches(host.labels),
        };
        ring && host
    }
}

impl WindowRule {
    fn closed(&self, zone: &TimeZone, at: Timestamp) -> Option<(Closed, Option<Timestamp>)> {
        let avoid = self.avoid.as_ref().map(|avoid| avoid.at(at, zone));
        if let Some(Standing::Open { until }) = avoid {
            return Some((Closed::Avoided, until));
        }
        match self.open.as_ref().map(|open| open.at(at, zone)) {
            Some(Standing::Closed { opens }) => Some((Closed::Window, opens)),
            Some(Standing::Open { .. }) | None => None,
        }
    }

    fn closes(&self, zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
        let avoided = self.avoid.as_ref().and_then(|avoid| match avoid.at(now, zone) {
            Standing::Closed { opens } => opens,
            Standing::Open { .. } => None,
        });
        let over = self.open.as_ref().and_then(|open| match open.at(now, zone) {
            Standing::Open { until } => until,
            Standing::Closed { .. } => None,
        });
        avoided.into_iter().chain(over).min()
    }
}

#[cfg(test)]
mod tests;
