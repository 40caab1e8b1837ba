//! Rules about hours: what is open, why not, until when; and what is refused as no rule.

use proptest::prelude::*;

use super::*;
use crate::{
    names::{LabelName, LabelValue},
    wire,
};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn labels(text: &str) -> Labels {
    let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap());
    pairs
        .map(|(name, value)| (LabelName::parse(name).unwrap(), LabelValue::parse(value).unwrap()))
        .collect()
}

fn scope(rings: &[&str], select: &[(&str, &str)]) -> Option<wire::Scope> {
    let rule = |(label, value): &(&str, &str)| wire::LabelRule {
        label: (*label).into(),
        values: vec![(*value).into()],
    };
    let rings = rings.iter().map(ToString::to_string).collect();
    Some(wire::Scope { rings, select: select.iter().map(rule).collect() })
}

fn window(zone: &str, open: &[&str], avoid: &[&str]) -> wire::WindowRule {
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    let (open, avoid) = (texts(open), texts(avoid));
    wire::WindowRule { scope: scope(&[], &[]), zone: zone.into(), open, avoid }
}

fn freeze(from: &str, until: &str) -> wire::Freeze {
    let (from, until) = (from.into(), until.into());
    wire::Freeze { scope: scope(&[], &[]), why: "closing".into(), from, until }
}

fn hours(windows: Vec<wire::WindowRule>, freezes: Vec<wire::Freeze>) -> Hours {
    wire::Hours { windows, freezes, settle_seconds: 600 }.try_into().unwrap()
}

/// `closed (window) until ...`, of a host with these labels in this zone.
fn said(hours: &Hours, ring: &str, text: &str, zone: &str, now: &str) -> String {
    let (ring, labels) = (RingName::parse(ring).unwrap(), labels(text));
    let zone = TimeZone::get(zone).ok();
    let host = HostPlace { labels: &labels, zone: zone.as_ref() };
    said_of(hours, Place { ring: &ring, host: Some(host) }, now)
}

fn said_of(hours: &Hours, place: Place<'_>, now: &str) -> String {
    let zones = Zones::of(hours, |name| TimeZone::get(name).ok());
    match hours.closed(place, &[], &zones, at(now)) {
        None => "open".into(),
        Some(Closing { why, opens }) => {
            let why = match why {
                Closed::Window => "window",
                Closed::Avoided => "avoided",
                Closed::Frozen { .. } => "frozen",
                Closed::UnknownZone(_) => "unknown zone",
            };
            format!("{why} until {}", opens.map_or("?".into(), |at| at.to_string()))
        }
    }
}

#[test]
fn all_rules_have_to_be_open_and_the_moment_is_named_at_which_they_are() {
    let hours = hours(
        vec![
            window("UTC", &["daily 02:00-06:00"], &[]),
            window("UTC", &[], &["mon-fri 00:00-05:00"]),
        ],
        vec![freeze("2026-12-01T00:00:00Z", "2026-12-02T03:00:00Z")],
    );
    for (now, expected) in [
        // A Monday: the window opens at two, and the other rule has it wait until five.
        ("2026-11-30T01:00:00Z", "window until 2026-11-30T05:00:00Z"),
        ("2026-11-30T03:00:00Z", "avoided until 2026-11-30T05:00:00Z"),
        ("2026-11-30T05:00:00Z", "open"),
        // After six comes the freeze, which ends at three on Wednesday: then it is five again.
        ("2026-11-30T06:00:00Z", "window until 2026-12-02T05:00:00Z"),
        ("2026-12-01T05:30:00Z", "frozen until 2026-12-02T05:00:00Z"),
        ("2026-12-05T02:00:00Z", "open"),
    ] {
        assert_eq!(said(&hours, "pilot", "", "UTC", now), expected, "{now}");
    }
}

#[test]
fn windows_that_are_never_open_together_say_that_nobody_knows_when() {
    let never = hours(
        vec![
            window("UTC", &["daily 02:00-03:00"], &[]),
            window("UTC", &["daily 04:00-05:00"], &[]),
        ],
        Vec::new(),
    );
    assert_eq!(said(&never, "pilot", "", "UTC", "2026-11-30T02:30:00Z"), "window until ?");
    let avoided = hours(vec![window("UTC", &[], &["daily 00:00-24:00"])], Vec::new());
    assert_eq!(said(&avoided, "pilot", "", "UTC", "2026-11-30T02:30:00Z"), "avoided until ?");
}

#[test]
fn the_same_night_comes_to_each_host_by_its_own_clock() {
    let night = hours(vec![window("host", &["daily 22:00-04:00"], &[])], Vec::new());
    for (zone, expected) in [
        ("Europe/Berlin", "open"),
        ("America/New_York", "window until 2026-12-01T03:00:00Z"),
        ("Asia/Tokyo", "window until 2026-12-01T13:00:00Z"),
        // The host does not say where it is: nobody knows.
        ("", "unknown zone until ?"),
    ] {
        assert_eq!(said(&night, "pilot", "", zone, "2026-11-30T22:00:00Z"), expected, "{zone}");
    }
}

#[test]
fn a_rule_is_about_its_rings_and_labels_and_nobody_else() {
    let mut rule = window("UTC", &["daily 02:00-03:00"], &[]);
    rule.scope = scope(&["early", "broad"], &[("region", "eu")]);
    let hours = hours(vec![rule], Vec::new());
    let noon = "2026-11-30T12:00:00Z";
    let shut = "window until 2026-12-01T02:00:00Z";
    for (ring, labels, expected) in [
        ("early", "region=eu role=db", shut),
        ("broad", "region=eu", shut),
        ("pilot", "region=eu", "open"),
        ("early", "region=us", "open"),
        ("early", "", "open"),
    ] {
        assert_eq!(said(&hours, ring, labels, "UTC", noon), expected, "{ring} {labels}");
    }
    // Of the ring as a whole, only what is about every host in it can be said.
    let ring = RingName::parse("early").unwrap();
    assert_eq!(said_of(&hours, Place { ring: &ring, host: None }, noon), "open");
}

#[test]
fn what_a_promotion_passes_over_is_passed_over_and_nothing_else() {
    let hours = hours(
        vec![window("UTC", &["daily 02:00-03:00"], &[])],
        vec![freeze("2026-11-30T00:00:00Z", "2026-12-02T00:00:00Z")],
    );
    let ring = RingName::parse("early").unwrap();
    let place = Place { ring: &ring, host: None };
    let zones = Zones::of(&hours, |name| TimeZone::get(name).ok());
    let why = |passed: &[Gate]| {
        hours.closed(place, passed, &zones, at("2026-11-30T12:00:00Z")).map(|closing| closing.why)
    };
    assert_eq!(why(&[Gate::After]), Some(Closed::Frozen { why: "closing".into() }));
    assert_eq!(why(&[Gate::Window]), Some(Closed::Frozen { why: "closing".into() }));
    assert_eq!(why(&[Gate::Freeze]), Some(Closed::Window));
    assert_eq!(why(&[Gate::Freeze, Gate::Window]), None);
}

#[test]
fn what_is_no_rule_is_refused() {
    let refused = |windows: Vec<wire::WindowRule>, freezes: Vec<wire::Freeze>| {
        let wire = wire::Hours { windows, freezes, settle_seconds: 0 };
        Hours::try_from(wire).unwrap_err()
    };
    let good = || window("UTC", &["daily 02:00-03:00"], &[]);
    let bad = |window: wire::WindowRule| refused(vec![window], Vec::new());
    assert_eq!(bad(window("UTC", &[], &[])), HoursError::Nothing);
    assert_eq!(bad(window("", &["daily 02:00-03:00"], &[])), HoursError::NoZone);
    assert!(matches!(bad(window("UTC", &["at night"], &[])), HoursError::Window(_)));
    let mut rule = good();
    rule.scope = scope(&["Early"], &[]);
    assert!(matches!(bad(rule), HoursError::Name(_)));
    let mut rule = good();
    let no_value = wire::LabelRule { label: "region".into(), values: Vec::new() };
    rule.scope = Some(wire::Scope { rings: Vec::new(), select: vec![no_value] });
    assert_eq!(bad(rule), HoursError::NoLabel);
    assert_eq!(refused(vec![good(); MOST + 1], Vec::new()), HoursError::TooMany("window rules"));
    for (from, until) in [
        ("2026-12-02T00:00:00Z", "2026-12-02T00:00:00Z"),
        ("2026-12-03T00:00:00Z", "2026-12-02T00:00:00Z"),
        ("2026-12-01", "2026-12-02"),
        ("", ""),
    ] {
        let error = refused(Vec::new(), vec![freeze(from, until)]);
        assert!(matches!(error, HoursError::Freeze { .. }), "{from} {until}: {error}");
    }
    let mute =
        wire::Freeze { why: " ".into(), ..freeze("2026-12-01T00:00:00Z", "2026-12-02T00:00:00Z") };
    assert_eq!(refused(Vec::new(), vec![mute]), HoursError::NoReason);
    let known = [RingName::parse("pilot").unwrap()];
    let mut rule = good();
    rule.scope = scope(&["early"], &[]);
    let error = hours(vec![rule], Vec::new()).check_rings(known.iter()).unwrap_err();
    assert_eq!(error, HoursError::Ring(RingName::parse("early").unwrap()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every five minutes: what is said to open at a moment is closed until then and open at it; and what is open
    /// stays so until the moment at which it is said to close.
    #[test]
    fn what_is_said_to_come_comes_then_and_not_before(
        from in 0_u32..24, length in 1_u32..24, avoid in 0_u32..24, start in 0_i64..10_000, frozen in 0_i64..3000,
    ) {
        let open = format!("mon-fri {from:02}:00-{:02}:00", (from + length) % 24);
        let avoid = format!("tue,sat {avoid:02}:00-{:02}:30", avoid);
        let first = at("2026-10-20T00:00:00Z");
        let minute = |n: i64| first + jiff::SignedDuration::from_mins(n);
        let hours = hours(
            vec![window("Europe/Berlin", &[&open], &[]), window("Asia/Kathmandu", &[], &[&avoid])],
            vec![freeze(&minute(frozen).to_string(), &minute(frozen + 700).to_string())],
        );
        let zones = Zones::of(&hours, |name| TimeZone::get(name).ok());
        let ring = RingName::parse("early").unwrap();
        let place = Place { ring: &ring, host: None };
        let closed = |now| hours.closed(place, &[], &zones, now);
        let now = minute(start);
        let (is_open, changes) = match closed(now) {
            None => (true, hours.closes(place, &[], &zones, now)),
            Some(closing) => (false, closing.opens),
        };
        for n in (0..3 * 24 * 60).step_by(5) {
            let then = minute(start + n);
            if changes.is_some_and(|changes| changes <= then) {
                prop_assert_eq!(closed(changes.unwrap()).is_none(), !is_open);
                break;
            }
            prop_assert_eq!(closed(then).is_none(), is_open, "{} of {:?}", then, changes);
        }
    }
}
