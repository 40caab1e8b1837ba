//! A release on its way through a ring, as hosts hear of it: offers, leases, the brake, a pause.

use std::time::Duration;

use jiff::SignedDuration;
use refit_proto::{
    envelope, wire,
    wire::{lease_reply::Answer, product_order::Order},
};

use crate::{
    fleet::{Caller, Fleet},
    publisher::Publisher,
};

pub(crate) const HOUR: SignedDuration = SignedDuration::from_hours(1);

pub(crate) fn limits(ring: &str) -> wire::RingPolicy {
    wire::RingPolicy {
        ring: ring.into(),
        waves: Vec::new(),
        max_in_flight: 1,
        soak_seconds: 3600,
        failures_count: 1,
        failures_percent: 0,
        silence_seconds: 7200,
        update_limit_seconds: 3600,
        lease_seconds: 600,
        poll_seconds: 7,
    }
}

/// A fleet with 1.0 promoted to `pilot`, which has these hosts.
pub(crate) async fn promoted(names: &[&str]) -> (Fleet, Publisher, Vec<Caller>) {
    let fleet = Fleet::start().await;
    let mut publisher = Publisher::found(&fleet).await;
    let rings = vec![limits("pilot"), limits("early")];
    let policy = wire::RolloutPolicy { product: "payments".into(), rings, ..Default::default() };
    let request = wire::SetRolloutPolicyRequest { policy: Some(policy), replaces_revision: 0 };
    fleet.admin(&publisher.person).set_rollout_policy(request).await.unwrap();
    let mut hosts = Vec::new();
    for name in names {
        hosts.push(fleet.host(&publisher.person, name).await);
    }
    let document = publisher.build(&fleet, "1.0", 1, b"program").await;
    publisher.upload(&fleet, &document).await.unwrap();
    publisher.publish(&fleet, "1.0", &document).await.unwrap();
    publisher.promote(&fleet, "1.0", "pilot").await.unwrap();
    (fleet, publisher, hosts)
}

pub(crate) async fn order(
    fleet: &Fleet,
    host: &Caller,
    reports: Vec<wire::Envelope>,
) -> Option<Order> {
    let request = wire::SyncRequest { reports, ..Default::default() };
    let reply = fleet.agent(host).sync(request).await.unwrap().into_inner();
    assert_eq!(reply.poll_after_seconds, 7);
    let orders: wire::Orders = envelope::unwrap_unsigned(&reply.orders.unwrap()).unwrap();
    orders.products.into_iter().find(|order| order.product == "payments")?.order
}

/// The offer, as soon as the leader has got round to it.
pub(crate) async fn offer(fleet: &Fleet, host: &Caller) -> wire::Offer {
    for _ in 0..500 {
        if let Some(Order::Offer(offer)) = order(fleet, host, Vec::new()).await {
            return offer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no offer: {:?}", order(fleet, host, Vec::new()).await);
}

pub(crate) async fn ask(fleet: &Fleet, host: &Caller, offer: &wire::Offer) -> Answer {
    let request = wire::LeaseRequest {
        product: "payments".into(),
        rollout_id: offer.rollout_id.clone(),
        attempt: offer.attempt,
        digest: offer.digest.clone(),
    };
    let reply = fleet.agent(host).request_lease(request).await.unwrap();
    reply.into_inner().answer.unwrap()
}

pub(crate) fn lease(answer: Answer) -> wire::Lease {
    match answer {
        Answer::Lease(lease) => lease,
        Answer::Hold(hold) => panic!("held: {hold:?}"),
    }
}

fn held(answer: Answer) -> String {
    match answer {
        Answer::Lease(lease) => panic!("leave was given: {lease:?}"),
        Answer::Hold(hold) => hold.reason,
    }
}

pub(crate) fn state(
    offer: &wire::Offer,
    lease: &wire::Lease,
    phase: &str,
    good: bool,
) -> wire::HostState {
    let installed =
        wire::Installed { version: offer.version.clone(), digest: offer.digest.clone() };
    let failure = wire::Failure { cause: "health-check-failed".into(), ..Default::default() };
    let product = wire::ProductState {
        product: "payments".into(),
        ring: "pilot".into(),
        installed: good.then_some(installed),
        phase: phase.into(),
        attempt: Some(wire::Attempt {
            rollout_id: offer.rollout_id.clone(),
            number: offer.attempt,
            version: offer.version.clone(),
            digest: offer.digest.clone(),
            lease_id: lease.id.clone(),
            ..Default::default()
        }),
        failure: (!good).then_some(failure),
        health: if good { "good" } else { "unknown" }.into(),
        ..Default::default()
    };
    wire::HostState { products: vec![product], ..Default::default() }
}

/// Waits until the ring's rollout is in this state.
async fn until(fleet: &Fleet, publisher: &Publisher, state: &str) -> wire::RingStatus {
    let mut last = None;
    for _ in 0..500 {
        let request = wire::GetFleetRequest::default();
        let status = fleet.status(&publisher.person).get_fleet(request).await.unwrap().into_inner();
        let ring = status.products[0].rings[0].clone();
        if ring.rollout.as_ref().is_some_and(|rollout| rollout.state == state) {
            return ring;
        }
        last = Some(ring);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never {state}: {last:?}");
}

/// Waits until the leader has stored that it did this.
pub(crate) async fn recorded(fleet: &Fleet, publisher: &Publisher, act: &str) {
    for _ in 0..500 {
        if fleet.on_record(&publisher.person, &[act, "done"]).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {act}");
}

#[tokio::test]
async fn hosts_go_one_by_one_and_the_ring_is_done_when_it_has_soaked() {
    let (mut fleet, publisher, mut hosts) = promoted(&["web-1", "web-2"]).await;
    let first = offer(&fleet, &hosts[0]).await;
    let second = offer(&fleet, &hosts[1]).await;
    let leave = lease(ask(&fleet, &hosts[0], &first).await);
    assert_eq!(leave.seconds, 600);
    // Asked again after a lost answer, it is the same leave; and there is only one.
    assert_eq!(lease(ask(&fleet, &hosts[0], &first).await).id, leave.id);
    assert_eq!(held(ask(&fleet, &hosts[1], &second).await), "at-capacity");

    fleet.restart().await;
    assert_eq!(held(ask(&fleet, &hosts[1], &second).await), "at-capacity");
    let report = hosts[0].report(state(&first, &leave, "committed", true));
    assert_eq!(order(&fleet, &hosts[0], vec![report]).await, None);
    let leave = lease(ask(&fleet, &hosts[1], &second).await);
    let report = hosts[1].report(state(&second, &leave, "committed", true));
    order(&fleet, &hosts[1], vec![report]).await;

    // The time counts from the moment at which it is stored.
    recorded(&fleet, &publisher, "rollout soak").await;
    fleet.pass(HOUR);
    let ring = until(&fleet, &publisher, "done").await;
    assert_eq!(ring.versions, [("1.0".to_owned(), 2)].into());
}

#[tokio::test]
async fn many_hosts_ask_at_once_and_no_more_begin_than_may() {
    let names: Vec<String> = (0..8).map(|n| format!("web-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (fleet, _publisher, hosts) = promoted(&names).await;
    let mut asked = Vec::new();
    for host in &hosts {
        let offer = offer(&fleet, host).await;
        let mut agent = fleet.agent(host);
        asked.push(tokio::spawn(async move {
            let request = wire::LeaseRequest {
                product: "payments".into(),
                rollout_id: offer.rollout_id,
                attempt: offer.attempt,
                digest: offer.digest,
            };
            agent.request_lease(request).await.unwrap().into_inner().answer.unwrap()
        }));
    }
    let mut leases = 0;
    for answer in asked {
        match answer.await.unwrap() {
            Answer::Lease(_) => leases += 1,
            Answer::Hold(hold) => assert_eq!(hold.reason, "at-capacity"),
        }
    }
    assert_eq!(leases, 1);
}

#[tokio::test]
async fn a_failure_halts_the_rollout_and_nobody_else_begins() {
    let (fleet, publisher, mut hosts) = promoted(&["web-1", "web-2"]).await;
    let first = offer(&fleet, &hosts[0]).await;
    let second = offer(&fleet, &hosts[1]).await;
    let leave = lease(ask(&fleet, &hosts[0], &first).await);
    let report = hosts[0].report(state(&first, &leave, "rolled-back", false));
    order(&fleet, &hosts[0], vec![report]).await;
    // Before the leader has looked, or after: the brake is part of the same decision.
    assert_eq!(held(ask(&fleet, &hosts[1], &second).await), "halted");
    let ring = until(&fleet, &publisher, "halted").await;
    assert_eq!(ring.rollout.unwrap().counts.unwrap().failed, 1);
    assert!(fleet.on_record(&publisher.person, &["server", "rollout halt", "done"]).await);
}

#[tokio::test]
async fn a_pause_is_obeyed_at_once_and_says_who_and_why() {
    let (fleet, publisher, hosts) = promoted(&["web-1"]).await;
    let offered = offer(&fleet, &hosts[0]).await;
    let pause = wire::RolloutRequest {
        product: "payments".into(),
        ring: "pilot".into(),
        reason: "night".into(),
    };
    fleet.admin(&publisher.person).pause_rollout(pause.clone()).await.unwrap();
    assert_eq!(held(ask(&fleet, &hosts[0], &offered).await), "paused");
    let Some(Order::Hold(hold)) = order(&fleet, &hosts[0], Vec::new()).await else {
        panic!("no hold");
    };
    assert!(hold.text.contains("alice") && hold.text.contains("night"), "{hold:?}");
    fleet.admin(&publisher.person).resume_rollout(pause).await.unwrap();
    let offered = offer(&fleet, &hosts[0]).await;
    lease(ask(&fleet, &hosts[0], &offered).await);
}

async fn may_boot(fleet: &Fleet, host: &Caller, offer: &wire::Offer) -> Result<(), String> {
    let request = wire::RebootRequest {
        product: "payments".into(),
        rollout_id: offer.rollout_id.clone(),
        attempt: offer.attempt,
        digest: offer.digest.clone(),
    };
    let reply = fleet.agent(host).request_reboot(request).await.unwrap().into_inner();
    assert_eq!(reply.may, reply.hold.is_none());
    reply.hold.map_or(Ok(()), |hold| Err(hold.reason))
}

#[tokio::test]
async fn a_host_in_flight_may_boot_unless_its_rollout_has_stopped_and_nobody_else_may() {
    let (fleet, publisher, hosts) = promoted(&["web-1", "web-2"]).await;
    let offered = offer(&fleet, &hosts[0]).await;
    let not_offered = Err("not-offered".to_owned());
    assert_eq!(may_boot(&fleet, &hosts[0], &offered).await, not_offered, "it has not begun");
    let before = lease(ask(&fleet, &hosts[0], &offered).await);
    for _ in 0..3 {
        assert_eq!(may_boot(&fleet, &hosts[0], &offered).await, Ok(()));
    }
    assert_eq!(may_boot(&fleet, &hosts[1], &offered).await, not_offered, "another has begun");
    let other = wire::Offer { digest: vec![7; 32], ..offered.clone() };
    assert_eq!(may_boot(&fleet, &hosts[0], &other).await, not_offered);
    // Asking took nothing from the leave.
    assert_eq!(lease(ask(&fleet, &hosts[0], &offered).await).id, before.id);

    let order = wire::RolloutRequest {
        product: "payments".into(),
        ring: "pilot".into(),
        reason: "night".into(),
    };
    fleet.admin(&publisher.person).pause_rollout(order.clone()).await.unwrap();
    assert_eq!(may_boot(&fleet, &hosts[0], &offered).await, Err("paused".into()));
    fleet.admin(&publisher.person).resume_rollout(order).await.unwrap();
    assert_eq!(may_boot(&fleet, &hosts[0], &offered).await, Ok(()));
}
