//! The gate key is stolen, with everything else that is on the server: what it permits, and that it permits
//! nothing any more once it was replaced.

use std::fs;

use refit_proto::names::Digest;
use refit_tests::{release::Behaviour, sandbox::Sandbox, wait::until};
use serde_json::json;

use super::{
    super::approvals::{apply, delegate, delegate_to_both},
    DAYS, EARLY, Offered,
    attacker::{Attacker, Loot},
    metadata_refused, refused, runs,
};

const BROAD: Offered = Offered { ring: "broad", rollback: false };

/// A host of a ring for which a person and the gate key sign, or of one for which the gate key signs alone.
fn fleet(ring: &str) -> Sandbox {
    let mut fleet = Sandbox::new(&super::super::ONE_RING).unwrap();
    delegate_to_both(&fleet);
    delegate(&fleet, &["--ring", "broad=gate"]);
    let rules =
        [("pilot", ""), ("early", "gate = true"), ("broad", "gate = true\nafter = [\"pilot\"]")];
    apply(&fleet, "", &rules);
    fleet.host("web-1", &[&format!("ring={ring}")]).unwrap();
    fleet.host("web-2", &["ring=pilot"]).unwrap();
    everywhere(&fleet, "1.0");
    fleet
}

fn everywhere(fleet: &Sandbox, version: &str) {
    fleet.publish(version, Behaviour::Good).unwrap();
    fleet.promote(version, "pilot").unwrap();
    fleet.promote(version, "early").unwrap();
    fleet.until_runs("web-1", version).unwrap();
    fleet.until_runs("web-2", version).unwrap();
}

/// The ring permits this release, says whoever has the server's keys.
fn permit(loot: &mut Loot, ring: &str, version: &str) -> Digest {
    permit_on(loot, ring, version, None)
}

/// The same, and no host of it goes back behind this counter.
fn permit_on(loot: &mut Loot, ring: &str, version: &str, floor: Option<u64>) -> Digest {
    let releases = loot.signed("release.payments");
    let release = releases["targets"][format!("releases/payments/{version}.json")].clone();
    loot.forge(&format!("ring.payments.{ring}"), |file| {
        let targets = file["targets"].as_object_mut().unwrap();
        let mut promotion = targets.values().next().unwrap().clone();
        promotion["length"] = release["length"].clone();
        promotion["hashes"] = release["hashes"].clone();
        promotion["custom"].as_object_mut().unwrap().remove("change_plan");
        if let Some(floor) = floor {
            promotion["custom"]["min_release_counter"] = floor.into();
        }
        *targets =
            [(format!("rings/payments/{ring}/{version}.json"), promotion)].into_iter().collect();
    });
    loot.pin(DAYS);
    let release = json!(release);
    Digest::parse(release["hashes"]["sha256"].as_str().unwrap()).unwrap()
}

/// server-taken-over: the gate key permits nothing where a person has to sign as well.
#[test]
fn the_stolen_gate_key_alone_brings_nothing_to_a_ring_that_a_person_signs_for_too() {
    let mut fleet = fleet("early");
    fleet.publish("1.1", Behaviour::Good).unwrap();
    let attacker = Attacker::takes_over(&mut fleet);
    let mut loot = attacker.loot();
    let release = permit(&mut loot, "early", "1.1");
    loot.offer("payments", "1.1", release, EARLY);
    drop(loot);
    refused(&fleet, &attacker, "payments", "not-permitted", "(arbitrary software)");
    metadata_refused(&fleet, &attacker, "arbitrary-software");
}

/// A host of `broad` that runs 1.0. Pilot has just been given 1.1, which nobody runs, and 1.2 is published.
fn fleet_on_the_way_to_1_1() -> Sandbox {
    let mut fleet = fleet("broad");
    fleet.host_mut("web-2").agent().unwrap().terminate().unwrap();
    for version in ["1.1", "1.2"] {
        fleet.publish(version, Behaviour::Good).unwrap();
    }
    fleet.promote("1.1", "pilot").unwrap();
    fleet
}

/// server-taken-over: a ring that the gate key signs alone follows the ring before it. The thief can be
/// early, and brings nothing that people did not sign there.
#[test]
fn the_stolen_gate_key_brings_to_its_own_rings_only_what_people_signed_for_the_ring_before() {
    let mut fleet = fleet_on_the_way_to_1_1();
    let attacker = Attacker::takes_over(&mut fleet);
    let mut loot = attacker.loot();
    let release = permit(&mut loot, "broad", "1.2");
    loot.offer("payments", "1.2", release, BROAD);
    drop(loot);
    refused(&fleet, &attacker, "payments", "not-proven", "not what ring pilot names");
    let mut loot = attacker.loot();
    let release = permit(&mut loot, "broad", "1.1");
    loot.offer("payments", "1.1", release, BROAD);
    drop(loot);
    fleet.until_runs("web-1", "1.1").unwrap();
}

/// server-taken-over: nor does a floor that no release reaches shut the host out of everything.
#[test]
fn a_floor_above_the_promoted_release_is_refused_by_the_host_whoever_signed_it() {
    let mut fleet = fleet_on_the_way_to_1_1();
    let attacker = Attacker::takes_over(&mut fleet);
    let mut loot = attacker.loot();
    let release = permit_on(&mut loot, "broad", "1.1", Some(1 << 50));
    loot.offer("payments", "1.1", release, BROAD);
    drop(loot);
    refused(&fleet, &attacker, "payments", "below-floor", "sets the floor 1125899906842624");
}

/// server-taken-over: what the gate key permitted ends with the key.
#[test]
fn a_stolen_gate_key_is_replaced_and_permits_nothing_any_more() {
    let mut fleet = fleet("broad");
    let key = fleet.server_data().join("keys/gate.pem");
    let stolen = fs::read(&key).unwrap();
    let told = fleet.refit(["trust", "rotate", "gate", "--compromised"]).unwrap();
    assert!(told.contains("put up for signing"), "{told}");
    until("the server has signed its part, and the old key is gone", || {
        Ok((fs::read(&key)? != stolen).then_some(()))
    })
    .unwrap();
    assert!(fleet.refit(["trust", "change", "list"]).unwrap().contains("no change waits"));
    let audit = fleet.refit(["audit", "list"]).unwrap();
    assert!(audit.contains("gate exchange"), "{audit}");
    fleet.refit(["trust", "verify"]).unwrap();
    // Everything goes on with the new key, also where it signs alone and where it signs with a person.
    everywhere(&fleet, "1.1");
    assert_eq!(fleet.ring("early").unwrap()["current"], "1.1");
    apply(
        &fleet,
        "",
        &[("pilot", ""), ("early", "gate = true"), ("broad", "gate = true\nafter = [\"early\"]")],
    );

    fleet.publish("1.2", Behaviour::Good).unwrap();
    let before = runs(&fleet);
    let attacker = Attacker::takes_over_with(&mut fleet, &[("gate.pem", &stolen)]);
    let mut loot = attacker.loot();
    let release = permit(&mut loot, "broad", "1.2");
    loot.offer("payments", "1.2", release, BROAD);
    drop(loot);
    refused(&fleet, &attacker, "payments", "not-permitted", "(arbitrary software)");
    metadata_refused(&fleet, &attacker, "arbitrary-software");
    assert_eq!(runs(&fleet), before);
}
