//! Windows against the clock on the wall: midnight, the ends of weeks, and clocks that are changed.

use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;

fn windows(texts: &[&str]) -> Windows {
    let windows: Vec<Window> = texts.iter().map(|text| text.parse().unwrap()).collect();
    windows.try_into().unwrap()
}

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

/// `open until 04:00` or `closed until 22:00`, in UTC.
fn said(texts: &[&str], zone_name: &str, now: &str) -> String {
    let shown = |at: Option<Timestamp>| at.map_or("?".into(), |at| at.to_string());
    match windows(texts).at(now.parse().unwrap(), &zone(zone_name)) {
        Standing::Open { until } => format!("open until {}", shown(until)),
        Standing::Closed { opens } => format!("closed until {}", shown(opens)),
    }
}

#[test]
fn a_window_opens_at_its_first_minute_and_is_closed_at_its_last() {
    // 2026-11-30 is a Monday.
    for (now, expected) in [
        ("2026-11-30T01:59:59Z", "closed until 2026-11-30T02:00:00Z"),
        ("2026-11-30T02:00:00Z", "open until 2026-11-30T05:30:00Z"),
        ("2026-11-30T05:29:59Z", "open until 2026-11-30T05:30:00Z"),
        ("2026-11-30T05:30:00Z", "closed until 2026-12-01T02:00:00Z"),
    ] {
        assert_eq!(said(&["daily 02:00-05:30"], "UTC", now), expected, "{now}");
    }
}

#[test]
fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
    let friday_night = ["fri 22:00-04:00"];
    for (now, expected) in [
        ("2026-12-04T03:00:00Z", "closed until 2026-12-04T22:00:00Z"),
        ("2026-12-04T22:00:00Z", "open until 2026-12-05T04:00:00Z"),
        ("2026-12-05T03:59:00Z", "open until 2026-12-05T04:00:00Z"),
        ("2026-12-05T04:00:00Z", "closed until 2026-12-11T22:00:00Z"),
        ("2026-12-05T22:00:00Z", "closed until 2026-12-11T22:00:00Z"),
    ] {
        assert_eq!(said(&friday_night, "UTC", now), expected, "{now}");
    }
}

#[test]
fn windows_that_touch_or_overlap_are_one() {
    let weekend = ["fri 20:00-24:00", "sat,sun 00:00-24:00", "sun 23:00-02:00"];
    assert_eq!(said(&weekend, "UTC", "2026-12-04T21:00:00Z"), "open until 2026-12-07T02:00:00Z");
    assert_eq!(said(&["daily 00:00-24:00"], "UTC", "2026-12-04T21:00:00Z"), "open until ?");
}

#[test]
fn an_hour_that_a_change_of_the_clocks_leaves_out_opens_nothing() {
    // Berlin, 2027-03-28: 02:00 becomes 03:00, at 01:00 UTC.
    let berlin = "Europe/Berlin";
    for (now, expected) in [
        ("2027-03-28T00:59:59Z", "closed until 2027-03-29T00:15:00Z"),
        ("2027-03-28T01:00:00Z", "closed until 2027-03-29T00:15:00Z"),
    ] {
        assert_eq!(said(&["daily 02:15-02:45"], berlin, now), expected, "{now}");
    }
    // What is left of a window that reaches into it opens with the change.
    let late = "closed until 2027-03-28T01:00:00Z";
    assert_eq!(said(&["daily 02:30-04:00"], berlin, "2027-03-28T00:59:00Z"), late);
    let open = "open until 2027-03-28T02:00:00Z";
    assert_eq!(said(&["daily 02:30-04:00"], berlin, "2027-03-28T01:00:00Z"), open);
}

#[test]
fn an_hour_that_comes_twice_is_open_twice() {
    // Berlin, 2026-10-25: 03:00 becomes 02:00, at 01:00 UTC.
    let berlin = "Europe/Berlin";
    for (now, expected) in [
        ("2026-10-25T00:14:00Z", "closed until 2026-10-25T00:15:00Z"),
        ("2026-10-25T00:15:00Z", "open until 2026-10-25T00:45:00Z"),
        ("2026-10-25T00:45:00Z", "closed until 2026-10-25T01:15:00Z"),
        ("2026-10-25T01:15:00Z", "open until 2026-10-25T01:45:00Z"),
        ("2026-10-25T01:45:00Z", "closed until 2026-10-26T01:15:00Z"),
    ] {
        assert_eq!(said(&["daily 02:15-02:45"], berlin, now), expected, "{now}");
    }
    let both = "open until 2026-10-25T03:00:00Z";
    assert_eq!(said(&["daily 02:00-04:00"], berlin, "2026-10-25T00:00:00Z"), both);
}

#[test]
fn a_window_that_a_zone_skips_for_a_whole_day_opens_the_week_after() {
    // Apia left out Friday, 2011-12-30.
    let said = said(&["fri 10:00-11:00"], "Pacific/Apia", "2011-12-29T00:00:00Z");
    assert_eq!(said, "closed until 2012-01-05T20:00:00Z");
}

#[test]
fn what_is_no_window_is_refused_and_named() {
    for text in [
        "",
        "daily",
        "22:00-04:00",
        "mon 22-04",
        "mon 2:00-4:00",
        "mon 22:00-25:00",
        "mon 24:00-01:00",
        "monday 22:00-23:00",
        "mon- 22:00-23:00",
        "mon 22:00-23:00 UTC",
        "mon 22:60-23:00",
        "mon,,tue 01:00-02:00",
        "mon -1:00-02:00",
        "mon +1:00-02:00",
    ] {
        let refused = text.parse::<Window>();
        assert!(matches!(refused, Err(WindowError::Form(_))), "{text:?}: {refused:?}");
    }
    assert_eq!(Windows::try_from(vec![]), Err(WindowError::None));
}

#[test]
fn a_window_is_written_as_it_is_read() {
    for (text, written) in [
        ("daily 02:00-05:00", "daily 02:00-05:00"),
        ("Mon-Sun 00:00-24:00", "daily 00:00-00:00"),
        ("fri-mon 22:00-04:00", "mon,fri,sat,sun 22:00-04:00"),
        ("sun 23:00-01:00", "sun 23:00-01:00"),
    ] {
        let window: Window = text.parse().unwrap();
        assert_eq!(window.to_string(), written);
        assert_eq!(written.parse::<Window>().unwrap(), window);
    }
}

proptest! {
    /// The end that is named is an end, and nothing changes before it: asked minute by minute.
    #[test]
    fn nothing_changes_before_the_moment_that_is_named(
        start in 1_767_225_600_i64..1_830_297_600,
        (from, to) in (0_u32..1440, 0_u32..1440),
        day in prop::sample::select(vec!["daily", "mon", "sat,sun", "fri-tue"]),
        name in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/Sao_Paulo",
            "Australia/Lord_Howe", "Asia/Kathmandu", "America/New_York"]),
    ) {
        let text = format!("{day} {:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60);
        let windows = windows(&[&text]);
        let zone = zone(name);
        let now = Timestamp::from_second(start).unwrap();
        let (open, changes) = match windows.at(now, &zone) {
            Standing::Open { until } => (true, until),
            Standing::Closed { opens } => (false, opens),
        };
        let horizon = changes.unwrap_or(now + SignedDuration::from_hours(24 * 8));
        let mut at = now;
        while at < horizon {
            prop_assert_eq!(windows.cover(at, &zone), open, "{} at {}", text, at);
            at += SignedDuration::from_secs(307);
        }
        if let Some(changes) = changes {
            prop_assert_eq!(windows.cover(changes, &zone), !open);
        }
    }
}
