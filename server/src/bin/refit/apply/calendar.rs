//! Freezes from a calendar: each event of an iCalendar file (RFC 5545), with its repetitions, in the next two years.
//! Repetitions are reckoned on the wall of the event's own zone, so that they stay at the same time of day; what time
//! that is, the system's zones say, as everywhere.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail, ensure};
use icalendar::{Calendar, Component as _, Event, EventStatus, Property};
use jiff::{
    SignedDuration, Span, Timestamp, Zoned,
    civil::{Date, DateTime},
    tz::TimeZone,
};

/// A time in which nothing begins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Frozen {
    /// From then on.
    pub(super) from: Timestamp,
    /// Until just before then.
    pub(super) until: Timestamp,
    /// The event's summary.
    pub(super) why: String,
}

/// How far ahead events count: whoever applies a file once a year never runs out.
const AHEAD: SignedDuration = SignedDuration::from_hours(2 * 366 * 24);
/// Most repetitions of one event that are looked at, from its first on.
const REPETITIONS: usize = 20_000;

/// The events of a calendar that are not over at `now`, in order of time. `zone` is meant where an event names none:
/// those of whole days, and those without a zone.
///
/// # Errors
/// The first event that can't be understood to the letter: a freeze that is read wrongly is none.
pub(super) fn freezes(
    text: &str,
    zone: Option<&TimeZone>,
    now: Timestamp,
) -> anyhow::Result<Vec<Frozen>> {
    let calendar: Calendar = text.parse().map_err(|error: String| {
        let first = error.lines().next().unwrap_or_default().to_owned();
        anyhow::anyhow!("it is no iCalendar file: {first}")
    })?;
    let reader = Reader { zone, now };
    let events: Vec<&Event> = calendar.events().collect();
    ensure!(!events.is_empty(), "there is no event in it (VEVENT)");
    // An event that was moved or changed is one of its own, in place of the repetition that it names.
    let mut moved = BTreeSet::new();
    for event in events.iter().filter(|event| event.properties().contains_key("RECURRENCE-ID")) {
        let moment =
            reader.moment(&event.properties()["RECURRENCE-ID"]).with_context(|| named(event))?;
        moved.insert((event.get_uid().unwrap_or_default().to_owned(), moment.wall));
    }
    let mut frozen = BTreeSet::new();
    for event in events {
        let read = reader.event(event, &moved).with_context(|| named(event))?;
        frozen.extend(read);
    }
    Ok(frozen.into_iter().collect())
}

fn named(event: &Event) -> String {
    format!("event {:?}", event.get_summary().unwrap_or("without a summary"))
}

/// A moment as it is written: on the wall of a zone.
#[derive(Debug, Clone)]
struct Moment {
    wall: DateTime,
    zone: TimeZone,
    whole_day: bool,
}

impl Moment {
    fn timestamp(&self) -> anyhow::Result<Timestamp> {
        Ok(self.zone.to_zoned(self.wall)?.timestamp())
    }
}

struct Reader<'a> {
    zone: Option<&'a TimeZone>,
    now: Timestamp,
}

impl Reader<'_> {
    fn event(
        &self,
        event: &Event,
        moved: &BTreeSet<(String, DateTime)>,
    ) -> anyhow::Result<Vec<Frozen>> {
        if event.get_status() == Some(EventStatus::Cancelled) {
            return Ok(Vec::new());
        }
        let begins = event.properties().get("DTSTART").context("it has no beginning (DTSTART)")?;
        let begins = self.moment(begins)?;
        let length = self.length(event, &begins)?;
        let why = event.get_summary().unwrap_or_default().trim().to_owned();
        ensure!(!why.is_empty(), "it has no SUMMARY, and whoever waits would not be told why");
        let mut frozen = Vec::new();
        for wall in self.repetitions(event, &begins, moved)? {
            let from = Moment { wall, ..begins.clone() };
            let until = match &length {
                Length::Wall(span) => {
                    Moment { wall: wall.checked_add(*span)?, ..from.clone() }.timestamp()?
                }
                Length::Exact(duration) => from.timestamp()? + *duration,
            };
            let from = from.timestamp()?;
            ensure!(from < until, "it ends at {until}, which is not after its beginning");
            if self.now < until && from < self.now + AHEAD {
                frozen.push(Frozen { from, until, why: why.clone() });
            }
        }
        Ok(frozen)
    }

    /// From the first beginning to the end.
    fn length(&self, event: &Event, begins: &Moment) -> anyhow::Result<Length> {
        let properties = event.properties();
        match (properties.get("DTEND"), properties.get("DURATION")) {
            (Some(end), None) => {
                let end = self.moment(end)?;
                ensure!(
                    end.whole_day == begins.whole_day,
                    "one of beginning and end is a whole day"
                );
                match begins.whole_day {
                    true => Ok(Length::Wall(begins.wall.until(end.wall)?)),
                    false => {
                        Ok(Length::Exact(end.timestamp()?.duration_since(begins.timestamp()?)))
                    }
                }
            }
            (None, Some(duration)) => {
                let text = duration.value();
                let span: Span = text.parse().with_context(|| format!("DURATION {text:?}"))?;
                Ok(Length::Wall(span))
            }
            // RFC 5545, 3.6.1: a day without an end is that day.
            (None, None) if begins.whole_day => Ok(Length::Wall(Span::new().days(1))),
            (None, None) => bail!("it has no end (DTEND or DURATION)"),
            (Some(_), Some(_)) => bail!("it has both DTEND and DURATION"),
        }
    }

    /// When it begins, each time, on the wall.
    fn repetitions(
        &self,
        event: &Event,
        begins: &Moment,
        moved: &BTreeSet<(String, DateTime)>,
    ) -> anyhow::Result<Vec<DateTime>> {
        if event.properties().contains_key("RECURRENCE-ID") {
            return Ok(vec![begins.wall]);
        }
        for unknown in ["RDATE", "EXRULE"] {
            ensure!(
                all(event, unknown).is_empty(),
                "it has {unknown}, which is not understood here"
            );
        }
        let rules = all(event, "RRULE");
        let mut walls = match rules.as_slice() {
            [] => vec![begins.wall],
            [rule] => self.by_rule(rule.value(), begins)?,
            _ => bail!("it has more than one RRULE"),
        };
        let mut without: BTreeSet<DateTime> = BTreeSet::new();
        for property in all(event, "EXDATE") {
            for text in property.value().split(',') {
                let zone = property.params().get("TZID").map(|it| it.value());
                without.insert(self.read(text, zone)?.wall_in(begins)?);
            }
        }
        let uid = event.get_uid().unwrap_or_default();
        walls.retain(|wall| !without.contains(wall) && !moved.contains(&(uid.to_owned(), *wall)));
        Ok(walls)
    }

    /// Repetitions by the rule, as if the wall's clock were UTC: so no change of the clocks is in their way.
    fn by_rule(&self, rule: &str, begins: &Moment) -> anyhow::Result<Vec<DateTime>> {
        let (until, parts): (Vec<&str>, Vec<&str>) =
            rule.split(';').partition(|part| part.to_ascii_uppercase().starts_with("UNTIL="));
        let last = match until.as_slice() {
            [] => None,
            [until] => Some(self.read(&until["UNTIL=".len()..], None)?.wall_in(begins)?),
            _ => bail!("its RRULE has more than one UNTIL"),
        };
        let stamp = |wall: DateTime| wall.strftime("%Y%m%dT%H%M%SZ").to_string();
        let text = format!("DTSTART:{}\nRRULE:{}", stamp(begins.wall), parts.join(";"));
        let set: rrule::RRuleSet =
            text.parse().with_context(|| format!("RRULE {rule:?} is not understood"))?;
        // A day more, for zones. What began long ago may still go on: a year is enough for that.
        let (from, to) = (self.now.as_second() - 366 * 24 * 3600, (self.now + AHEAD).as_second());
        let mut seconds = Vec::new();
        for (number, at) in set.into_iter().map(|at| at.timestamp()).enumerate() {
            ensure!(number < REPETITIONS, "it repeats more than {REPETITIONS} times");
            if at > to + 24 * 3600 {
                break;
            }
            seconds.extend((at >= from).then_some(at));
        }
        let walls = seconds
            .into_iter()
            .map(|seconds| anyhow::Ok(TimeZone::UTC.to_datetime(Timestamp::from_second(seconds)?)));
        let walls = walls.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(walls.into_iter().filter(|wall| last.is_none_or(|last| *wall <= last)).collect())
    }

    fn moment(&self, property: &Property) -> anyhow::Result<Moment> {
        let zone = property.params().get("TZID").map(|it| it.value());
        let read = self.read(property.value(), zone);
        read.with_context(|| format!("{} {:?}", property.key(), property.value()))
    }

    /// `20261224`, `20261224T180000`, `20261224T180000Z`.
    fn read(&self, text: &str, zone: Option<&str>) -> anyhow::Result<Moment> {
        if let Some(utc) = text.strip_suffix('Z') {
            let wall = wall(utc)?;
            return Ok(Moment { wall, zone: TimeZone::UTC, whole_day: false });
        }
        let zone = match (zone, self.zone) {
            (Some(name), _) => TimeZone::get(name).with_context(|| {
                format!("time zone {name:?} is none of the IANA's\nhelp: export the calendar with names like \"Europe/Berlin\"")
            })?,
            (None, Some(zone)) => zone.clone(),
            (None, None) => bail!(
                "it names no time zone\nhelp: write zone = \"Europe/Berlin\" beside `calendar`, for events of whole days"
            ),
        };
        match text.contains('T') {
            true => Ok(Moment { wall: wall(text)?, zone, whole_day: false }),
            false => {
                let date: Date = text.parse().with_context(|| format!("{text:?} is no day"))?;
                Ok(Moment {
                    wall: date.to_datetime(jiff::civil::Time::midnight()),
                    zone,
                    whole_day: true,
                })
            }
        }
    }
}

impl Moment {
    /// The same moment on the wall of another.
    fn wall_in(&self, other: &Moment) -> anyhow::Result<DateTime> {
        if self.whole_day {
            // The last second of that day, for an UNTIL; a day without it, for a repetition of whole days.
            return match other.whole_day {
                true => Ok(self.wall),
                false => Ok(self.wall.checked_add(Span::new().hours(24).seconds(-1))?),
            };
        }
        let zoned: Zoned = self.zone.to_zoned(self.wall)?;
        Ok(zoned.with_time_zone(other.zone.clone()).datetime())
    }
}

/// How long each repetition is.
enum Length {
    /// By the clock on the wall: days that are 23 or 25 hours long are days all the same.
    Wall(Span),
    /// By the clock that runs.
    Exact(SignedDuration),
}

fn wall(text: &str) -> anyhow::Result<DateTime> {
    text.parse().with_context(|| format!("{text:?} is no time"))
}

/// A property that may stand once or several times.
fn all<'a>(event: &'a Event, name: &str) -> Vec<&'a Property> {
    let once = event.properties().get(name).into_iter();
    once.chain(event.multi_properties().get(name).into_iter().flatten()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-30T00:00:00Z";

    fn calendar(events: &str) -> String {
        let lines = events.lines().map(str::trim).filter(|line| !line.is_empty());
        let lines: Vec<&str> = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//test//"]
            .into_iter()
            .chain(lines)
            .chain(["END:VCALENDAR"])
            .collect();
        lines.join("\r\n") + "\r\n"
    }

    fn read(events: &str, zone: Option<&str>) -> anyhow::Result<Vec<String>> {
        let zone = zone.map(|name| TimeZone::get(name).unwrap());
        let frozen = freezes(&calendar(events), zone.as_ref(), NOW.parse().unwrap())?;
        let text = |it: &Frozen| format!("{} {} {}", it.from, it.until, it.why);
        Ok(frozen.iter().map(text).collect())
    }

    fn event(lines: &str) -> String {
        format!("BEGIN:VEVENT\nUID:1\nSUMMARY:closing\n{lines}\nEND:VEVENT")
    }

    #[test]
    fn whole_days_are_those_of_the_zone_that_is_given_and_past_events_are_left_out() {
        let days = event("DTSTART;VALUE=DATE:20261224\nDTEND;VALUE=DATE:20261227")
            + "\n"
            + &event("DTSTART;VALUE=DATE:20270101")
            + "\n"
            + &event("DTSTART;VALUE=DATE:20251224\nDTEND;VALUE=DATE:20251227");
        assert_eq!(
            read(&days, Some("Europe/Berlin")).unwrap(),
            [
                "2026-12-23T23:00:00Z 2026-12-26T23:00:00Z closing",
                "2026-12-31T23:00:00Z 2027-01-01T23:00:00Z closing",
            ]
        );
        let error = format!("{:#}", read(&days, None).unwrap_err());
        assert!(error.contains("names no time zone"), "{error}");
    }

    #[test]
    fn repetitions_stay_at_the_same_time_of_day_when_the_clocks_are_changed() {
        // The last Sunday of March is between the two.
        let weekly = event(
            "DTSTART;TZID=Europe/Berlin:20270324T180000
             DTEND;TZID=Europe/Berlin:20270324T200000
             RRULE:FREQ=WEEKLY;COUNT=2",
        );
        assert_eq!(
            read(&weekly, None).unwrap(),
            [
                "2027-03-24T17:00:00Z 2027-03-24T19:00:00Z closing",
                "2027-03-31T16:00:00Z 2027-03-31T18:00:00Z closing",
            ]
        );
        // Days of 23 and of 25 hours are whole days.
        let day = event("DTSTART;VALUE=DATE:20270328\nDURATION:P1D");
        let said = ["2027-03-27T23:00:00Z 2027-03-28T22:00:00Z closing"];
        assert_eq!(read(&day, Some("Europe/Berlin")).unwrap(), said);
    }

    #[test]
    fn a_rule_ends_where_it_says_and_leaves_out_and_moves_what_the_calendar_says() {
        let yearly = event(
            "DTSTART;VALUE=DATE:20201224
             RRULE:FREQ=YEARLY
             EXDATE;VALUE=DATE:20271224",
        );
        assert_eq!(
            read(&yearly, Some("UTC")).unwrap(),
            ["2026-12-24T00:00:00Z 2026-12-25T00:00:00Z closing"]
        );
        let until = event(
            "DTSTART;TZID=America/New_York:20261201T220000
             DURATION:PT2H
             RRULE:FREQ=DAILY;UNTIL=20261203T030000Z",
        );
        // The third would begin at 22:00 there, which is 03:00 of the fourth here.
        let two = [
            "2026-12-02T03:00:00Z 2026-12-02T05:00:00Z closing",
            "2026-12-03T03:00:00Z 2026-12-03T05:00:00Z closing",
        ];
        assert_eq!(read(&until, None).unwrap(), two);
        let moved = event(
            "DTSTART:20261201T100000Z\nDTEND:20261201T110000Z\nRRULE:FREQ=DAILY;COUNT=2",
        ) + "\n"
            + &event(
                "RECURRENCE-ID:20261202T100000Z\nDTSTART:20261205T100000Z\nDTEND:20261205T120000Z",
            );
        assert_eq!(
            read(&moved, None).unwrap(),
            [
                "2026-12-01T10:00:00Z 2026-12-01T11:00:00Z closing",
                "2026-12-05T10:00:00Z 2026-12-05T12:00:00Z closing",
            ]
        );
        let cancelled = event("STATUS:CANCELLED\nDTSTART:20261201T100000Z\nDTEND:20261201T110000Z");
        assert_eq!(read(&cancelled, None).unwrap(), [] as [&str; 0]);
    }

    #[test]
    fn what_is_not_understood_to_the_letter_is_refused_and_named() {
        let at = "DTSTART:20261201T100000Z";
        let to = "DTEND:20261201T110000Z";
        for (lines, part) in [
            (at.to_owned(), "it has no end"),
            (to.to_owned(), "it has no beginning"),
            (format!("{at}\nDTEND:20261201T090000Z"), "not after its beginning"),
            (format!("{at}\nDTEND;VALUE=DATE:20261202"), "names no time zone"),
            (format!("{at}\n{to}\nDURATION:PT1H"), "both DTEND and DURATION"),
            (format!("{at}\nDURATION:long"), "DURATION \"long\""),
            (format!("{at}\n{to}\nRRULE:FREQ=OFTEN"), "is not understood"),
            (format!("{at}\n{to}\nRRULE:FREQ=SECONDLY"), "repeats more than"),
            (format!("{at}\n{to}\nRDATE:20261205T100000Z"), "RDATE"),
            (
                "DTSTART;TZID=W. Europe Standard Time:20261201T100000\nDURATION:PT1H".into(),
                "none of the IANA's",
            ),
            ("DTSTART:20261301T100000Z\nDURATION:PT1H".into(), "is no time"),
        ] {
            let error = format!("{:#}", read(&event(&lines), None).unwrap_err());
            assert!(error.contains(part) && error.contains("closing"), "{lines}: {error}");
        }
        let mute = format!("BEGIN:VEVENT\nUID:1\n{at}\n{to}\nEND:VEVENT");
        assert!(format!("{:#}", read(&mute, None).unwrap_err()).contains("no SUMMARY"));
        for none in ["", "hello", "BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n"] {
            assert!(freezes(none, None, NOW.parse().unwrap()).is_err(), "{none:?}");
        }
    }
}
