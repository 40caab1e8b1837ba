//! What a release would do to the fleet, asked before anything starts.

use jiff::{SignedDuration, Timestamp};
use refit_proto::wire;
use tonic::Code;

use crate::{
    fleet::{Caller, Fleet},
    hours::{open_in, set},
    publisher::Publisher,
    rollouts::{HOUR, ask, lease, offer, order, promoted, state},
};

async fn impact(
    fleet: &Fleet,
    caller: &Caller,
    version: &str,
) -> Result<wire::Impact, tonic::Status> {
    let request = wire::GetImpactRequest {
        product: "payments".into(),
        version: version.into(),
        update_seconds: 600,
    };
    fleet.status(caller).get_impact(request).await.map(tonic::Response::into_inner)
}

/// 1.1 shares no file with 1.0, and is published; nothing is promoted.
async fn publish(fleet: &Fleet, publisher: &mut Publisher, program: &[u8]) {
    let document = publisher.build(fleet, "1.1", 2, program).await;
    publisher.upload(fleet, &document).await.unwrap();
    publisher.publish(fleet, "1.1", &document).await.unwrap();
}

fn blocked(ring: &wire::RingImpact) -> Vec<(&str, Vec<&str>)> {
    let names = |it: &wire::BlockedHosts| it.names.len() as u64 == it.hosts;
    assert!(ring.blocked.iter().all(names), "{ring:?}");
    let blocked = ring.blocked.iter();
    blocked.map(|it| (&*it.reason, it.names.iter().map(String::as_str).collect())).collect()
}

#[tokio::test]
async fn it_tells_who_would_be_updated_who_is_blocked_and_by_what() {
    let names = ["web-1", "web-2", "web-3", "web-4", "web-5"];
    let (fleet, mut publisher, mut hosts) = promoted(&names).await;
    // The first runs 1.0, the others nothing.
    let offered = offer(&fleet, &hosts[0]).await;
    let leave = lease(ask(&fleet, &hosts[0], &offered).await);
    let report = hosts[0].report(state(&offered, &leave, "committed", true));
    order(&fleet, &hosts[0], vec![report]).await;
    let digest = impact(&fleet, &publisher.person, "1.0").await.unwrap().digest;

    let local = wire::Hold { reason: "local".into(), text: "audit".into(), ..Default::default() };
    let refuses = wire::ProductState {
        product: "payments".into(),
        quarantine: vec![digest],
        ..Default::default()
    };
    for (host, state) in [
        (1, wire::HostState { free_bytes: 6, ..Default::default() }),
        (2, wire::HostState { holds: vec![local], ..Default::default() }),
        (3, wire::HostState { products: vec![refuses], ..Default::default() }),
        (4, wire::HostState { free_bytes: 12, ..Default::default() }),
    ] {
        let report = hosts[host].report(state);
        order(&fleet, &hosts[host], vec![report]).await;
    }
    let told = impact(&fleet, &publisher.person, "1.0").await.unwrap();
    let pilot = &told.rings[0];
    assert_eq!((pilot.hosts, pilot.on_release, pilot.to_update), (5, 1, 1));
    let all =
        [("disk-full", vec!["web-2"]), ("local", vec!["web-3"]), ("quarantined", vec!["web-4"])];
    assert_eq!(blocked(pilot), all);
    // `program` has seven bytes; the one that runs it has nothing to fetch.
    assert_eq!((pilot.bytes, told.update_seconds), (7, 600));
    assert_eq!(pilot.versions, [("nothing".to_owned(), 1)].into());
    assert_eq!(pilot.platforms, [("linux-x86_64".to_owned(), 1)].into());
    assert_eq!(pilot.labels, [("ring=pilot".to_owned(), 1)].into());
    assert!(pilot.hold.is_some(), "it is promoted there, and nobody is in flight: {pilot:?}");

    // Another release, nowhere promoted, with a file of twelve bytes.
    publish(&fleet, &mut publisher, b"next program").await;
    fleet.pass(HOUR * 3);
    order(&fleet, &hosts[4], Vec::new()).await;
    let told = impact(&fleet, &publisher.person, "1.1").await.unwrap();
    let silent = ("away", vec!["web-1", "web-2", "web-3", "web-4"]);
    assert_eq!(told.rings[0].hold, None);
    assert_eq!(blocked(&told.rings[0])[0], silent);
    assert_eq!(told.rings[0].to_update, 1, "{told:?}");
}

#[tokio::test]
async fn it_tells_when_each_ring_would_be_through_under_its_windows() {
    let (fleet, mut publisher, hosts) = promoted(&["web-1", "web-2", "web-3"]).await;
    publish(&fleet, &mut publisher, b"program").await;
    let begins = fleet.now() + HOUR * 5;
    let windows = vec![open_in(&fleet, HOUR * 5, "UTC", "UTC")];
    let hours = wire::Hours { windows, freezes: Vec::new(), settle_seconds: 0 };
    set(&fleet, &publisher, hours, 1).await.unwrap();

    let told = impact(&fleet, &publisher.person, "1.1").await.unwrap();
    let (pilot, early) = (&told.rings[0], &told.rings[1]);
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    // Three hosts, one at a time, ten minutes each, from the full hour on; then it soaks for an hour.
    let starts = at(&pilot.starts);
    assert_eq!(starts.as_second() % 3600, 0);
    assert!(starts > fleet.now() + HOUR * 4 && starts <= begins, "{told:?}");
    assert_eq!(at(&pilot.through), starts + SignedDuration::from_mins(30));
    assert_eq!(at(&pilot.proven), starts + SignedDuration::from_mins(90));
    // Nobody is in the second ring.
    assert_eq!((early.hosts, &*early.starts, &*early.no_times), (0, "", ""));
    drop(hosts);
}

#[tokio::test]
async fn what_is_not_published_has_no_impact_and_hosts_may_not_ask() {
    let (fleet, publisher, hosts) = promoted(&["web-1"]).await;
    let unknown = impact(&fleet, &publisher.person, "9.9").await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.message().contains("refit release list payments"), "{unknown}");
    assert_eq!(
        impact(&fleet, &publisher.person, "").await.unwrap_err().code(),
        Code::InvalidArgument
    );
    fleet.pass(HOUR * 3);
    let told = impact(&fleet, &publisher.person, "1.0").await.unwrap();
    assert!(told.rings[0].no_times.contains("no host of ring pilot would go to it"), "{told:?}");
    let refused = impact(&fleet, &hosts[0], "1.0").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}
