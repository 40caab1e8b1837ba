//! Windows and freezes, as administrators set them and hosts hear of them.

use jiff::SignedDuration;
use refit_proto::{policy::Gate, trust::Override, wire, wire::lease_reply::Answer};
use tonic::{Code, Status};

use crate::{
    fleet::{Caller, Fleet},
    promotions::{self, terms},
    publisher::Publisher,
    rollouts::{HOUR, ask, lease, limits, offer, order, promoted},
};

fn hours(windows: Vec<wire::WindowRule>, freezes: Vec<wire::Freeze>) -> wire::Hours {
    wire::Hours { windows, freezes, settle_seconds: 600 }
}

/// Open in the hour that so long from now lies in, by this clock.
pub(crate) fn open_in(
    fleet: &Fleet,
    span: SignedDuration,
    zone: &str,
    clock: &str,
) -> wire::WindowRule {
    let wall = (fleet.now() + span).in_tz(clock).unwrap();
    let (from, to) = (wall.hour(), (wall.hour() + 1) % 24);
    let open = vec![format!("daily {from:02}:00-{to:02}:00")];
    wire::WindowRule { scope: None, zone: zone.into(), open, avoid: Vec::new() }
}

/// Sets the hours of a product with the usual limits.
pub(crate) async fn set(
    fleet: &Fleet,
    publisher: &Publisher,
    hours: wire::Hours,
    replaces_revision: u64,
) -> Result<(), Status> {
    let policy = wire::RolloutPolicy {
        product: "payments".into(),
        rings: vec![limits("pilot"), limits("early")],
        hours: Some(hours),
        ..Default::default()
    };
    let request = wire::SetRolloutPolicyRequest { policy: Some(policy), replaces_revision };
    fleet.admin(&publisher.person).set_rollout_policy(request).await.map(drop)
}

fn hold(answer: Answer) -> wire::Hold {
    match answer {
        Answer::Lease(lease) => panic!("leave was given: {lease:?}"),
        Answer::Hold(hold) => hold,
    }
}

/// The host says where it is.
async fn lives_in(fleet: &Fleet, host: &mut Caller, zone: &str) {
    let report = host.report(wire::HostState { time_zone: zone.into(), ..Default::default() });
    order(fleet, host, vec![report]).await;
}

#[tokio::test]
async fn a_host_gets_ready_at_once_and_begins_when_its_own_clock_says_so() {
    let (fleet, publisher, mut hosts) = promoted(&["tokyo"]).await;
    let window = open_in(&fleet, HOUR, "host", "Asia/Tokyo");
    set(&fleet, &publisher, hours(vec![window], Vec::new()), 1).await.unwrap();
    let offered = offer(&fleet, &hosts[0]).await;

    let unknown = hold(ask(&fleet, &hosts[0], &offered).await);
    assert_eq!((unknown.reason.as_str(), unknown.until.as_str()), ("unknown-zone", ""));
    lives_in(&fleet, &mut hosts[0], "Asia/Tokyo").await;
    let waits = hold(ask(&fleet, &hosts[0], &offered).await);
    assert_eq!(waits.reason, "outside-window");
    let opens: jiff::Timestamp = waits.until.parse().unwrap();
    assert!(opens > fleet.now() && opens <= fleet.now() + HOUR, "{waits:?}");

    fleet.pass(opens.duration_since(fleet.now()) + SignedDuration::from_secs(1));
    assert_eq!(lease(ask(&fleet, &hosts[0], &offered).await).seconds, 600);
}

#[tokio::test]
async fn a_freeze_says_why_and_until_when_and_taking_it_away_begins_nothing_at_once() {
    let (fleet, publisher, hosts) = promoted(&["web-1"]).await;
    let until = fleet.now() + HOUR * 24;
    let freeze = wire::Freeze {
        scope: None,
        why: "year-end closing".into(),
        from: fleet.now().to_string(),
        until: until.to_string(),
    };
    set(&fleet, &publisher, hours(Vec::new(), vec![freeze]), 1).await.unwrap();
    let offered = offer(&fleet, &hosts[0]).await;
    let waits = hold(ask(&fleet, &hosts[0], &offered).await);
    assert_eq!((waits.reason.as_str(), waits.until), ("frozen", until.to_string()));
    assert!(waits.text.contains("year-end closing"), "{}", waits.text);

    fleet.pass(HOUR);
    set(&fleet, &publisher, hours(Vec::new(), Vec::new()), 2).await.unwrap();
    assert_eq!(hold(ask(&fleet, &hosts[0], &offered).await).reason, "settling");
    fleet.pass(SignedDuration::from_mins(10));
    lease(ask(&fleet, &hosts[0], &offered).await);
}

#[tokio::test]
async fn what_the_signers_of_a_promotion_pass_over_is_passed_over_and_only_where_the_policy_lets_them()
 {
    let overrides = |reason: &str| refit_proto::trust::Terms {
        overrides: vec![Override { gate: Gate::Freeze, reason: reason.into() }],
        ..terms()
    };
    let (fleet, mut publisher) = promotions::fleet(|policy| {
        policy.rings[0].rules.overridable = [Gate::Freeze].into();
    })
    .await;
    let freeze = wire::Freeze {
        scope: None,
        why: "year-end closing".into(),
        from: fleet.now().to_string(),
        until: (fleet.now() + HOUR * 24).to_string(),
    };
    set(&fleet, &publisher, hours(Vec::new(), vec![freeze]), 0).await.unwrap();
    fleet.pass(HOUR);
    let host = fleet.host(&publisher.person, "web-1").await;
    publisher.promote(&fleet, "1.0", "pilot").await.unwrap();
    let offered = offer(&fleet, &host).await;
    assert_eq!(hold(ask(&fleet, &host, &offered).await).reason, "frozen");
    publisher.promote_on(&fleet, "1.0", "pilot", overrides("incident 7")).await.unwrap();
    lease(ask(&fleet, &host, &offered).await);
    let refused = publisher.promote_on(&fleet, "1.0", "early", overrides("incident 7")).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("freeze"), "{refused}");
}

#[tokio::test]
async fn rules_that_nobody_could_keep_are_refused_and_change_nothing() {
    let (fleet, publisher, _) = promoted(&[]).await;
    let rule = |zone: &str| {
        let mut rule = open_in(&fleet, HOUR, "UTC", "UTC");
        rule.zone = zone.into();
        hours(vec![rule], Vec::new())
    };
    let elsewhere = wire::Scope { rings: vec!["broad".into()], select: Vec::new() };
    let mut of_no_ring = rule("UTC");
    of_no_ring.windows[0].scope = Some(elsewhere);
    for (bad, part) in [
        (rule("Europe/Bonn"), "no time zone \"Europe/Bonn\""),
        (rule(""), "names no time zone"),
        (of_no_ring, "is about ring broad"),
    ] {
        let error = set(&fleet, &publisher, bad, 1).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().contains(part), "{error}");
    }
    set(&fleet, &publisher, rule("Europe/Berlin"), 1).await.unwrap();
}
