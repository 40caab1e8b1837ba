//! Maintenance windows: when something may begin, by the clock on the wall of one time zone. Decides whether
//! a moment lies in a window and when that changes next; which zone is meant and what time it is, the caller
//! passes in, so that host and server say the same.
//!
//! A moment lies in a window if a clock on the wall there shows a time within it. So an hour that a change
//! of the clocks leaves out opens nothing, and one that comes twice is open twice.

use std::{collections::BTreeSet, fmt, str::FromStr};

use jiff::{
    Timestamp, ToSpan as _,
    civil::{Date, Time, Weekday},
    tz::TimeZone,
};
use serde::{Deserialize, Serialize};

/// Most windows in one list: more than one for each hour of a week is a mistake.
const MOST: usize = 168;

/// How far ahead a change is looked for, days. A window comes at least once a week; the rest is for one that
/// a change of the clocks leaves out.
const AHEAD: i32 = 15;

/// One span of the week: `mon-fri 22:00-04:00`. Its days are those on which it begins; an end that is not
/// after the beginning is on the next day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    days: BTreeSet<Day>,
    from: Time,
    to: Time,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    const ALL: [Day; 7] = [Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sat, Day::Sun];

    fn word(self) -> &'static str {
        match self {
            Day::Mon => "mon",
            Day::Tue => "tue",
            Day::Wed => "wed",
            Day::Thu => "thu",
            Day::Fri => "fri",
            Day::Sat => "sat",
            Day::Sun => "sun",
        }
    }

    fn of(weekday: Weekday) -> Day {
        match weekday {
            Weekday::Monday => Day::Mon,
            Weekday::Tuesday => Day::Tue,
            Weekday::Wednesday => Day::Wed,
            Weekday::Thursday => Day::Thu,
            Weekday::Friday => Day::Fri,
            Weekday::Saturday => Day::Sat,
            Weekday::Sunday => Day::Sun,
        }
    }

    fn parse(word: &str) -> Option<Day> {
        Day::ALL.into_iter().find(|day| word.eq_ignore_ascii_case(day.word()))
    }
}

/// Why a text is no window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// It does not have the form of one.
    #[error(
        "{0:?} is no window: write days and times, `mon-fri 22:00-04:00` or `daily 02:00-05:00`"
    )]
    Form(String),
    /// A list of none would never open.
    #[error("there is no window in the list: name one, or leave the list out to have none at all")]
    None,
    /// A list of too many.
    #[error("there are {0} windows in the list, more than {MOST}")]
    Many(usize),
}

impl FromStr for Window {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Window, WindowError> {
        parse(text).ok_or_else(|| WindowError::Form(text.chars().take(60).collect()))
    }
}

fn parse(text: &str) -> Option<Window> {
    let mut words = text.split_whitespace();
    let (days, times) = (words.next()?, words.next()?);
    if words.next().is_some() {
        return None;
    }
    let (from, to) = times.split_once('-')?;
    let (from, to) = (time(from)?, if to == "24:00" { Time::midnight() } else { time(to)? });
    let mut on = BTreeSet::new();
    if days.eq_ignore_ascii_case("daily") {
        on.extend(Day::ALL);
        return Some(Window { days: on, from, to });
    }
    for part in days.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (Day::parse(first)?, Day::parse(last)?);
        // `fri-mon` goes over the end of the week.
        let round = Day::ALL.into_iter().cycle().skip_while(|day| *day != first).take(7);
        for day in round {
            on.insert(day);
            if day == last {
                break;
            }
        }
    }
    Some(Window { days: on, from, to })
}

/// `HH:MM`, both digits of both.
fn time(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    let two = |text: &str| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<i8>().ok()).flatten()
    };
    Time::new(two(hour)?, two(minute)?, 0, 0).ok()
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days.len() == Day::ALL.len() {
            f.write_str("daily")?;
        } else {
            let days: Vec<_> = self.days.iter().map(|day| day.word()).collect();
            f.write_str(&days.join(","))?;
        }
        write!(f, " {}-{}", self.from.strftime("%H:%M"), self.to.strftime("%H:%M"))
    }
}

impl TryFrom<String> for Window {
    type Error = WindowError;

    fn try_from(text: String) -> Result<Window, WindowError> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> String {
        window.to_string()
    }
}

impl Window {
    fn crosses_midnight(&self) -> bool {
        self.to <= self.from
    }

    /// Whether a clock on the wall that shows this lies within the window.
    fn covers(&self, date: Date, time: Time) -> bool {
        let begins_on = |date: Option<Date>| {
            date.is_some_and(|date| self.days.contains(&Day::of(date.weekday())))
        };
        if !self.crosses_midnight() {
            return begins_on(Some(date)) && self.from <= time && time < self.to;
        }
        let evening = begins_on(Some(date)) && self.from <= time;
        evening || (begins_on(date.yesterday().ok()) && time < self.to)
    }
}

/// Windows of one time zone; open while one of them is. At least one, so that a list is never closed for
/// ever by having been left empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Window>", into = "Vec<Window>")]
pub struct Windows(Vec<Window>);

impl TryFrom<Vec<Window>> for Windows {
    type Error = WindowError;

    fn try_from(windows: Vec<Window>) -> Result<Windows, WindowError> {
        match windows.len() {
            0 => Err(WindowError::None),
            1..=MOST => Ok(Windows(windows)),
            many => Err(WindowError::Many(many)),
        }
    }
}

impl From<Windows> for Vec<Window> {
    fn from(windows: Windows) -> Vec<Window> {
        windows.0
    }
}

/// Whether windows are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "windows")]
pub enum Standing {
    /// One is.
    Open {
        /// Until then; `None`: for longer than anybody has to know.
        until: Option<Timestamp>,
    },
    /// None is.
    Closed {
        /// Until then; `None`: nobody can say.
        opens: Option<Timestamp>,
    },
}

impl Windows {
    /// Whether one of the windows is open at this moment in this zone, and when that changes.
    pub fn at(&self, now: Timestamp, zone: &TimeZone) -> Standing {
        let open = self.cover(now, zone);
        let changes = self.edges(now, zone).into_iter().find(|at| self.cover(*at, zone) != open);
        if open { Standing::Open { until: changes } } else { Standing::Closed { opens: changes } }
    }

    fn cover(&self, at: Timestamp, zone: &TimeZone) -> bool {
        let wall = zone.to_datetime(at);
        self.0.iter().any(|window| window.covers(wall.date(), wall.time()))
    }

    /// Every moment after now at which something may change, in order: where a window begins or ends by each
    /// reading of the clock, and where the clocks are changed.
    fn edges(&self, now: Timestamp, zone: &TimeZone) -> BTreeSet<Timestamp> {
        let today = zone.to_datetime(now).date();
        let mut edges = BTreeSet::new();
        for days in -1..=AHEAD {
            let Ok(date) = today.checked_add(days.days()) else { continue };
            for window in &self.0 {
                for time in [window.from, window.to] {
                    let either = zone.to_ambiguous_timestamp(date.to_datetime(time));
                    edges.extend(either.earlier().ok());
                    edges.extend(either.later().ok());
                }
            }
        }
        let last = edges.last().copied();
        let changes = zone.following(now).map(|change| change.timestamp());
        edges.extend(changes.take_while(|at| last.is_some_and(|last| *at <= last)));
        edges.retain(|at| *at > now);
        edges
    }
}

#[cfg(test)]
mod tests;
