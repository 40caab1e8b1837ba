//! Rings played through before anything has started.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use proptest::prelude::*;
use refit_proto::hours::{HostPlace, Place};

use super::world::World;
use crate::rollout::{Course, Crowd, Forecast, HoursNow, forecast};

const UPDATE: SignedDuration = SignedDuration::from_mins(10);

/// A ring as lines of a script give it, and so many hosts without labels in UTC and in Tokyo.
fn played(script: &[&str], hosts: [u64; 2], from: &str) -> Option<Forecast> {
    let world = world(script);
    let (ring, policy, _) = &world.rings[0];
    let (policy, hours) = (policy.as_ref().unwrap(), &world.hours);
    let course = Course { ring, policy, hours, update: UPDATE };
    forecast(&course, &crowds(hosts), from.parse().unwrap())
}

fn world(script: &[&str]) -> World {
    let mut world = World::default();
    for line in script {
        world.run(line);
    }
    world
}

fn crowds(hosts: [u64; 2]) -> Vec<Crowd> {
    let crowd = |(zone, hosts): (&str, u64)| Crowd {
        labels: Default::default(),
        zone: Some(TimeZone::get(zone).unwrap()),
        hosts,
    };
    ["UTC", "Asia/Tokyo"].into_iter().zip(hosts).map(crowd).collect()
}

fn said(forecast: Option<Forecast>) -> String {
    let time = |at: Timestamp| at.strftime("%d %H:%M").to_string();
    forecast.map_or("never".into(), |Forecast { starts, through, proven }| {
        format!("{} to {}, proven {}", time(starts), time(through), time(proven))
    })
}

const NOON: &str = "2026-01-01T12:00:00Z";

#[test]
fn hosts_go_as_many_at_a_time_as_may_and_wave_by_wave() {
    let ring = |words: &str| format!("ring pilot soak=3600 {words}");
    for (words, hosts, expected) in [
        ("flight=10", 1, "01 12:00 to 01 12:10, proven 01 13:10"),
        ("flight=10", 10, "01 12:00 to 01 12:10, proven 01 13:10"),
        ("flight=10", 11, "01 12:00 to 01 12:20, proven 01 13:20"),
        ("flight=1", 6, "01 12:00 to 01 13:00, proven 01 14:00"),
        // One, then two, then the other ten.
        ("flight=10 waves=1,2", 13, "01 12:00 to 01 12:30, proven 01 13:30"),
        ("flight=10", 0, "01 12:00 to 01 12:00, proven 01 13:00"),
    ] {
        let ring = ring(words);
        assert_eq!(said(played(&[&ring], [hosts, 0], NOON)), expected, "{words}, {hosts}");
    }
}

#[test]
fn nobody_begins_outside_the_own_window_and_what_began_inside_is_finished() {
    let night = ["ring pilot soak=0 flight=1", "window open UTC daily 22:00-22:25"];
    // Three begin at 22:00, 22:10 and 22:20; the fourth the night after.
    let three = "01 22:00 to 01 22:30, proven 01 22:30";
    assert_eq!(said(played(&night, [3, 0], NOON)), three);
    assert_eq!(said(played(&night, [4, 0], NOON)), "01 22:00 to 02 22:10, proven 02 22:10");
    // 22:00 in Tokyo is 13:00 here.
    let own = ["ring pilot soak=0 flight=1", "window open host daily 22:00-23:00"];
    assert_eq!(said(played(&own, [1, 1], NOON)), "01 13:00 to 01 22:10, proven 01 22:10");
}

#[test]
fn what_its_windows_never_let_in_is_never_through() {
    let never =
        ["ring pilot", "window open UTC daily 02:00-03:00", "window open UTC daily 04:00-05:00"];
    assert_eq!(played(&never, [1, 0], NOON), None);
    assert!(played(&never, [0, 0], NOON).is_some(), "nobody waits");
    // A crowd that nobody knows the time of, by a window of its own clock.
    let world = world(&["ring pilot", "window open host daily 02:00-03:00"]);
    let (ring, policy, _) = &world.rings[0];
    let course =
        Course { ring, policy: policy.as_ref().unwrap(), hours: &world.hours, update: UPDATE };
    let lost = Crowd { labels: Default::default(), zone: None, hosts: 1 };
    assert_eq!(forecast(&course, &[lost], NOON.parse().unwrap()), None);
}

/// Every host's turn, played through minute by minute by the plain meaning of the rules.
fn by_minutes(hours: &HoursNow, flight: u64, hosts: [u64; 2], world: &World) -> Timestamp {
    let mut now: Timestamp = NOON.parse().unwrap();
    let mut left = hosts;
    let mut ends: Vec<Timestamp> = Vec::new();
    let crowds = crowds(hosts);
    loop {
        ends.retain(|end| *end > now);
        if left == [0, 0] && ends.is_empty() {
            return now;
        }
        for (crowd, left) in crowds.iter().zip(&mut left) {
            let host = HostPlace { labels: &crowd.labels, zone: crowd.zone.as_ref() };
            let place = Place { ring: &world.rings[0].0.ring, host: Some(host) };
            let open = hours.hours.closed(place, &[], &hours.zones, now).is_none();
            while open && *left > 0 && (ends.len() as u64) < flight {
                *left -= 1;
                ends.push(now + UPDATE);
            }
        }
        now += SignedDuration::from_mins(1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_forecast_is_what_playing_it_through_minute_by_minute_gives(
        flight in 1_u64..4, first in 0_u64..6, second in 0_u64..6, open in 0_u32..24, long in 1_u32..10,
    ) {
        let window =
            format!("window open host daily {open:02}:00-{:02}:30", (open + long) % 24);
        let ring = format!("ring pilot soak=0 flight={flight}");
        let world = world(&[&ring, &window]);
        let hosts = [first, second];
        let through = played(&[&ring, &window], hosts, NOON).unwrap().through;
        prop_assert_eq!(through, by_minutes(&world.hours, flight, hosts, &world));
    }
}
