//! A good release goes from ring to ring, in order, and only where a ring selects.

use refit_tests::{
    release::Behaviour,
    sandbox::{LIMITS, Ring, Sandbox},
    wait::until,
};

#[test]
fn a_good_release_travels_through_three_rings_in_order() {
    let rings = ["pilot", "early", "broad"].map(|name| Ring { name, limits: LIMITS });
    let mut fleet = Sandbox::new(&rings).unwrap();
    for (host, ring) in [("web-1", "pilot"), ("web-2", "early"), ("web-3", "broad")] {
        fleet.host(host, &[&format!("ring={ring}")]).unwrap();
    }
    fleet.publish("1.0", Behaviour::Good).unwrap();
    // All promoted at once: the order is the rollout's to keep, not the person's.
    for ring in ["broad", "early", "pilot"] {
        fleet.promote("1.0", ring).unwrap();
    }
    for (host, ring, before) in [("web-2", "early", "pilot"), ("web-3", "broad", "early")] {
        fleet.until_runs(host, "1.0").unwrap();
        // "done" is never left for the same release, so looking after the fact is enough.
        let state = fleet.ring(before).unwrap()["rollout"]["state"].clone();
        assert_eq!(state, "done", "{ring} ran before {before} had soaked");
    }
    for ring in ["pilot", "early", "broad"] {
        let found = fleet.until_rollout(ring, "1.0", "done").unwrap();
        let counts = &found["rollout"]["counts"];
        assert_eq!((&counts["healthy"], &counts["total"]), (&1.into(), &1.into()), "{ring}");
    }
    assert!(fleet.refit(["audit", "verify"]).is_ok());
}

#[test]
fn nothing_is_offered_to_a_ring_that_was_not_promoted_to() {
    let mut fleet = Sandbox::new(&super::TWO_RINGS).unwrap();
    fleet.host("web-1", &["ring=pilot"]).unwrap();
    fleet.host("web-2", &["ring=early"]).unwrap();
    fleet.publish("1.0", Behaviour::Good).unwrap();
    fleet.promote("1.0", "pilot").unwrap();
    fleet.until_rollout("pilot", "1.0", "done").unwrap();
    // It asks again and again, and gets nothing.
    for _ in 0..3 {
        let before = last_seen(&fleet, "web-2");
        until("web-2 has asked again", || Ok((last_seen(&fleet, "web-2") != before).then_some(())))
            .unwrap();
    }
    assert!(!fleet.host_named("web-2").install().join("payments/current").exists());
    assert!(
        fleet.ring("early").unwrap()["hold"]["text"].as_str().is_some_and(|text| !text.is_empty())
    );
}

/// When a host last called, as the server tells.
fn last_seen(fleet: &Sandbox, host: &str) -> String {
    fleet.host_status(host).unwrap()["last_seen"].to_string()
}

#[test]
fn a_host_that_no_ring_selects_is_left_alone_and_shown_as_such() {
    let mut fleet = Sandbox::new(&super::ONE_RING).unwrap();
    fleet.host("web-1", &["ring=pilot"]).unwrap();
    fleet.host("lost-1", &["region=eu"]).unwrap();
    super::install(&fleet, "1.0");
    assert!(!fleet.host_named("lost-1").install().join("payments/current").exists());
    until("the fleet counts the host", || {
        Ok((fleet.status()?["hosts_without_ring"] == 1).then_some(()))
    })
    .unwrap();
    let shown = fleet.refit(["host", "show", "lost-1"]).unwrap();
    assert!(shown.contains("no ring"), "{shown}");
}

#[test]
fn a_host_that_enrolls_later_gets_the_rings_release_through_the_same_gates() {
    let mut fleet = super::one_host_on_1_0();
    fleet.host("web-2", &["ring=pilot"]).unwrap();
    fleet.until_runs("web-2", "1.0").unwrap();
}

#[test]
fn a_ring_that_is_rolled_back_returns_to_the_release_before() {
    let fleet = super::one_host_on_1_0();
    super::install(&fleet, "1.1");
    fleet
        .refit(["rollout", "rollback", "payments", "pilot", "--reason", "customers complain"])
        .unwrap();
    fleet.until_runs("web-1", "1.0").unwrap();
    let audit = fleet.refit(["audit", "list"]).unwrap();
    assert!(audit.contains("customers complain") && audit.contains("alice"), "{audit}");
}
