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
    let releases = loot.signed("release.payments");
    let release = releases["targets"][format!("releases/payments/{version}.json")].clone();
    loot.forge(&format!("ring.payments.{ring}"), |file| {
        let targets = file["targets"].as_object_mut().unwrap();
        let mut promotion = targets.values().next().unwrap().clone();
        promotion["length"] = release["length"].clone();
        promotion["hashes"] = release["hashes"].clone();
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
