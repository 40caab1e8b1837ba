//! Who has to say yes before a host installs: persons and kinds of approval, rings that come first, and
//! the server's own part. What the server thinks of it counts for nothing on the host.

use std::fs;

use refit_tests::{
    release::Behaviour,
    sandbox::{LIMITS, Sandbox},
    wait::until,
};

/// Makes a key for a ring of `payments`, kept by the administrator.
pub(super) fn key(fleet: &Sandbox, ring: &str, name: &str) {
    let key = ["key", "generate", "--role", "ring", "--product", "payments", "--ring", ring];
    fleet.refit(key.into_iter().chain(["--name", name, "--unencrypted"])).unwrap();
}

pub(super) fn delegate(fleet: &Sandbox, more: &[&str]) {
    let words = ["trust", "delegate", "--product", "payments"];
    fleet.refit(words.into_iter().chain(more.iter().copied())).unwrap();
    fleet.refit(["trust", "push"]).unwrap();
}

/// Applies a fleet file of product `payments` that begins so and has these rings, each with more to say.
pub(super) fn apply(fleet: &Sandbox, persons: &str, rings: &[(&str, &str)]) {
    let mut text = format!("[[product]]\nname = \"payments\"\n{persons}\n");
    for (ring, rules) in rings {
        text.push_str(&format!(
            "\n[[product.ring]]\nname = \"{ring}\"\nselect = {{ ring = \"{ring}\" }}\n{rules}\n{LIMITS}"
        ));
    }
    fs::write(fleet.path().join("fleet.toml"), text).unwrap();
    fleet.refit(["apply", "fleet.toml", "--yes"]).unwrap();
}

const PEOPLE: &str = r#"
[product.persons.alice]
"ring.payments.pilot.pilot" = ["technical"]

[product.persons.bob]
"ring.payments.pilot.bob" = ["business"]
"#;

#[test]
fn a_host_refuses_a_promotion_without_the_business_approval_and_takes_it_once_it_is_there() {
    let mut fleet = Sandbox::new(&super::ONE_RING).unwrap();
    key(&fleet, "pilot", "bob");
    delegate(&fleet, &["--ring", "pilot=pilot,bob"]);
    fleet.publish("1.0", Behaviour::Good).unwrap();
    let promote = ["release", "promote", "payments", "1.0", "--to", "pilot", "--key"];
    fleet.refit(promote.into_iter().chain(["pilot"])).unwrap();
    // The ring asks for more than its file has: the server offers it, and no host may believe that.
    apply(&fleet, PEOPLE, &[("pilot", "kinds = [\"business\"]")]);
    let shown = fleet.refit(["release", "show", "payments", "1.0"]).unwrap();
    assert!(shown.contains("signed by    alice (technical)"), "{shown}");
    assert!(shown.contains("no host takes it: no business approval"), "{shown}");

    fleet.host("web-1", &["ring=pilot"]).unwrap();
    until("the host's report names the reason", || {
        let told = fleet.host_status("web-1")?.to_string();
        Ok((told.contains("not-approved") && told.contains("no business approval")).then_some(()))
    })
    .unwrap();
    assert!(!fleet.host_named("web-1").install().join("payments/current").exists());
    let log = fs::read_to_string(fleet.host_named("web-1").folder().join("agent.log")).unwrap();
    assert!(log.contains("no business approval"), "{log}");
    // Again, and this time the ring is known to ask for more: it waits for whoever can give that.
    let again = ["release", "promote", "payments", "1.0", "--to", "pilot", "--retry", "--key"];
    let told = fleet.refit(again.into_iter().chain(["pilot"])).unwrap();
    assert!(told.contains("no business approval") && told.contains("put up for signing"), "{told}");
    // It has as many signatures as the role needs; the server publishes it no sooner for that.
    let change = ["trust", "change", "publish", "ring.payments.pilot"];
    assert!(fleet.refit_refused(change).unwrap().contains("no business approval"));
    let shown = fleet.refit(["trust", "change", "show", "ring.payments.pilot"]).unwrap();
    let id = shown.lines().find_map(|line| line.strip_prefix("SHA-256 of this change: "));
    let sign = ["trust", "sign", "ring.payments.pilot", "--key", "bob", "--yes", id.unwrap()];
    assert!(fleet.refit(sign).unwrap().contains("published"));
    // What was refused comes again more and more rarely; a person need not wait.
    for act in ["pause", "resume"] {
        fleet.refit(["rollout", act, "payments", "pilot", "--reason", "bob signed"]).unwrap();
    }
    fleet.until_runs("web-1", "1.0").unwrap();
    let shown = fleet.json(["release", "show", "payments", "1.0"]).unwrap();
    let ring = &shown["rings"][0];
    let signed = ring["signed_by"].as_array().unwrap();
    assert!(signed.iter().any(|it| it["who"] == "bob") && ring["closed"].is_null(), "{ring}");
}

#[test]
fn a_ring_of_the_gate_key_alone_is_promoted_when_the_ring_before_is_through() {
    let mut fleet = Sandbox::new(&super::ONE_RING).unwrap();
    delegate(&fleet, &["--ring", "broad=gate"]);
    apply(&fleet, "", &[("pilot", ""), ("broad", "gate = true\nafter = [\"pilot\"]")]);
    fleet.host("web-1", &["ring=pilot"]).unwrap();
    fleet.host("web-2", &["ring=broad"]).unwrap();
    fleet.publish("1.0", Behaviour::Good).unwrap();
    let scan = fleet.path().join("scan.txt");
    fs::write(&scan, "nothing found").unwrap();
    let evidence = format!("security={}", scan.display());
    let promote = ["release", "promote", "payments", "1.0", "--to", "pilot", "--evidence"];
    fleet.refit(promote.into_iter().chain([evidence.as_str()])).unwrap();
    fleet.until_runs("web-2", "1.0").unwrap();
    assert_eq!(fleet.ring("pilot").unwrap()["rollout"]["state"], "done");
    let shown = fleet.refit(["release", "show", "payments", "1.0"]).unwrap();
    let broad = shown.split("ring broad").nth(1).unwrap();
    assert!(broad.contains("signed by    the server's gate key (needs 1)"), "{shown}");
    assert!(broad.contains("evidence     security"), "what was shown to pilot's signers: {shown}");
    // What fails on the ring before goes no further.
    fleet.publish("1.1", Behaviour::Exits).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    fleet.until_rollout("pilot", "1.1", "halted").unwrap();
    assert_eq!(fleet.host_named("web-2").says().unwrap(), "payments 1.0");
    let shown = fleet.refit(["release", "show", "payments", "1.1"]).unwrap();
    assert!(shown.contains("ring broad: not promoted"), "{shown}");
}

/// A ring for which a person and the server's gate key both have to sign. Nobody may change its definition
/// with fewer signatures than it takes.
pub(super) fn delegate_to_both(fleet: &Sandbox) {
    let second = ["key", "generate", "--role", "policy", "--name", "second", "--unencrypted"];
    fleet.refit(second).unwrap();
    fleet.refit(["trust", "rotate", "policy", "--add", "second", "--threshold", "2"]).unwrap();
    key(fleet, "early", "early");
    let both = ["--ring", "early=early,gate", "--threshold", "ring.payments.early=2"];
    delegate(fleet, &both);
}

#[test]
fn a_ring_of_a_person_and_the_gate_key_takes_a_release_from_neither_alone() {
    let mut fleet = Sandbox::new(&super::ONE_RING).unwrap();
    delegate_to_both(&fleet);
    apply(&fleet, "", &[("pilot", ""), ("early", "gate = true\nafter = [\"pilot\"]")]);
    fleet.host("web-1", &["ring=pilot"]).unwrap();
    fleet.host("web-2", &["ring=early"]).unwrap();
    fleet.publish("1.0", Behaviour::Good).unwrap();
    // The person alone: it waits for the server, which waits for the ring before.
    let promote = ["release", "promote", "payments", "1.0", "--to", "early", "--key", "early"];
    let told = fleet.refit(promote).unwrap();
    assert!(told.contains("ring.payments.early 1: 1 of 2") && told.contains("put up"), "{told}");
    let waiting = fleet.refit(["trust", "change", "list"]).unwrap();
    assert!(waiting.contains("ring.payments.early") && waiting.contains("alice"), "{waiting}");
    assert_eq!(fleet.ring("early").unwrap()["current"], "");
    fleet.promote("1.0", "pilot").unwrap();
    fleet.until_runs("web-2", "1.0").unwrap();
    assert_eq!(fleet.ring("pilot").unwrap()["rollout"]["state"], "done");
    let shown = fleet.refit(["release", "show", "payments", "1.0"]).unwrap();
    let early = shown.split("ring early").nth(1).unwrap();
    assert!(early.contains("the server's gate key") && early.contains("(needs 2)"), "{shown}");
    let audit = fleet.refit(["audit", "list"]).unwrap();
    assert!(audit.contains("gate sign") && audit.contains("ring.payments.early"), "{audit}");
    // The server alone: the ring before is through, and nobody asks for more.
    super::install(&fleet, "1.1");
    assert!(fleet.refit(["trust", "change", "list"]).unwrap().contains("no change waits"));
    let ring = fleet.ring("early").unwrap();
    assert_eq!(
        (&ring["current"], fleet.host_named("web-2").says().unwrap().as_str()),
        (&"1.0".into(), "payments 1.0")
    );
}
