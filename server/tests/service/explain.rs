//! Which rule decides for a host, asked of a real server.

use jiff::{SignedDuration, Timestamp};
use refit_proto::wire;
use tonic::Code;

use crate::{
    fleet::{Caller, Fleet},
    hours::{open_in, set},
    rollouts::{HOUR, ask, lease, offer, order, promoted, state},
};

async fn explain(
    fleet: &Fleet,
    caller: &Caller,
    host: &str,
) -> Result<wire::HostExplanation, tonic::Status> {
    let request = wire::ExplainHostRequest { host: host.into() };
    fleet.status(caller).explain_host(request).await.map(tonic::Response::into_inner)
}

fn reason(explained: &wire::HostExplanation) -> String {
    let placement = explained.products[0].placement.as_ref().unwrap();
    placement.hold.as_ref().map(|hold| hold.reason.clone()).unwrap_or_default()
}

#[tokio::test]
async fn it_names_ring_and_label_and_the_hold_that_decides_at_each_moment() {
    let (fleet, publisher, mut hosts) = promoted(&["web-1", "web-2"]).await;
    let offered = offer(&fleet, &hosts[0]).await;
    let person = &publisher.person;
    let ready = explain(&fleet, person, "web-1").await.unwrap();
    let product = &ready.products[0];
    let considered = [wire::ConsideredRing {
        ring: "pilot".into(),
        has_it: true,
        why: "the host has ring=pilot".into(),
    }];
    assert_eq!((&*product.product, product.considered.as_slice()), ("payments", &considered[..]));
    assert_eq!(reason(&ready), "hosts-not-ready");
    assert_eq!(product.earliest, fleet.now().to_string());
    let through: Timestamp = product.ring_through.parse().unwrap();
    // Two hosts, one after the other, a minute each: there is no health check.
    assert_eq!(through, fleet.now() + SignedDuration::from_mins(2));

    let order_ = wire::RolloutRequest {
        product: "payments".into(),
        ring: "pilot".into(),
        reason: "night".into(),
    };
    fleet.admin(person).pause_rollout(order_.clone()).await.unwrap();
    let paused = explain(&fleet, person, &hosts[0].id().to_string()).await.unwrap();
    assert_eq!((reason(&paused).as_str(), &*paused.products[0].earliest), ("paused", ""));
    fleet.admin(person).resume_rollout(order_).await.unwrap();

    let leave = lease(ask(&fleet, &hosts[0], &offered).await);
    let report = hosts[0].report(state(&offered, &leave, "committed", true));
    order(&fleet, &hosts[0], vec![report]).await;
    let done = explain(&fleet, person, "web-1").await.unwrap();
    let product = &done.products[0];
    assert_eq!((reason(&done).as_str(), &*product.earliest, &*product.ring_through), ("", "", ""));
}

#[tokio::test]
async fn a_host_that_waits_for_its_window_is_shown_so_before_it_asks() {
    let (fleet, publisher, hosts) = promoted(&["web-1"]).await;
    let opens = fleet.now() + HOUR * 3;
    let windows = vec![open_in(&fleet, HOUR * 3, "UTC", "UTC")];
    let hours = wire::Hours { windows, freezes: Vec::new(), settle_seconds: 0 };
    set(&fleet, &publisher, hours, 1).await.unwrap();
    offer(&fleet, &hosts[0]).await;
    let explained = explain(&fleet, &publisher.person, "web-1").await.unwrap();
    assert_eq!(reason(&explained), "outside-window");
    let earliest: Timestamp = explained.products[0].earliest.parse().unwrap();
    assert!(earliest > fleet.now() + HOUR && earliest <= opens, "{explained:?}");
    assert_eq!(earliest.as_second() % 3600, 0);
}

#[tokio::test]
async fn a_host_that_is_not_there_is_not_explained_and_hosts_may_not_ask() {
    let (fleet, publisher, hosts) = promoted(&["web-1"]).await;
    let unknown = explain(&fleet, &publisher.person, "web-9").await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound, "{unknown}");
    let wrong = explain(&fleet, &publisher.person, "no host!").await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument, "{wrong}");
    let refused = explain(&fleet, &hosts[0], "web-1").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}
