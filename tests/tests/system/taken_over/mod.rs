//! The server is taken over, with its keys, its database and its place in the network: what an attacker
//! tries then ends as a named error on the host, in its log and in its report, and the host goes on
//! running what it ran. docs/SECURITY-MODEL.md says what a taken-over server still can do.

mod attacker;
mod gate_key;

use std::{fs, path::PathBuf};

use anyhow::{Result, bail, ensure};
use attacker::{Attacker, Offered, Sending};
use jiff::SignedDuration;
use refit_proto::{names::Digest, wire::Report};
use refit_tests::{
    process::{Ran, command},
    release::Behaviour,
    sandbox::Sandbox,
    wait::until,
};
use serde_json::{Value, json};

const PILOT: Offered = Offered { ring: "pilot", rollback: false };
const EARLY: Offered = Offered { ring: "early", rollback: false };
const DAYS: SignedDuration = SignedDuration::from_hours(48);

/// What the running host says of itself. Without an agent the command would read the store, and keep one
/// that just starts from it.
fn status(fleet: &Sandbox) -> Result<Value> {
    ensure!(fleet.host_named("web-1").data().join("agent.sock").exists(), "the agent starts");
    fleet.agent_status("web-1")
}

fn of_product(state: &Value, product: &str) -> Value {
    let found = state["products"].as_array().unwrap().iter().find(|it| it["product"] == product);
    found.cloned().unwrap_or_default()
}

fn log(fleet: &Sandbox) -> String {
    fs::read_to_string(fleet.host_named("web-1").folder().join("agent.log")).unwrap_or_default()
}

/// Which release the host runs: the link, and what the service says.
fn runs(fleet: &Sandbox) -> (PathBuf, String) {
    let host = fleet.host_named("web-1");
    (fs::read_link(host.install().join("payments/current")).unwrap(), host.says().unwrap())
}

/// Waits until the host refuses the offer for this cause and says these words, and nothing has changed.
fn refused(fleet: &Sandbox, attacker: &Attacker, product: &str, cause: &str, words: &str) {
    let before = runs(fleet);
    let is_it = |failure: &Value| {
        failure["cause"] == cause && failure["text"].as_str().unwrap_or_default().contains(words)
    };
    until(&format!("the host names {cause}: {words}"), || {
        let said = of_product(&status(fleet)?, product);
        if is_it(&said["failure"]) { Ok(Some(())) } else { bail!("{said}") }
    })
    .unwrap();
    until("its report names it", || {
        let loot = attacker.loot();
        let mut said = loot.reports().flat_map(|report| &report.state).flat_map(|it| &it.products);
        Ok(said
            .any(|it| {
                let failure = it.failure.clone().unwrap_or_default();
                it.product == product && is_it(&json!(failure))
            })
            .then_some(()))
    })
    .unwrap();
    until("its log names it", || Ok(log(fleet).contains(words).then_some(()))).unwrap();
    assert_eq!(runs(fleet), before);
}

/// Waits until the host says that it is given metadata that would be this attack.
fn metadata_refused(fleet: &Sandbox, attacker: &Attacker, attack: &str) {
    until(&format!("the host names {attack}"), || {
        let state = status(fleet)?;
        let found = &state["metadata_failure"];
        if found["cause"] == attack { Ok(Some(())) } else { bail!("{found}") }
    })
    .unwrap();
    until("its report names it", || {
        let loot = attacker.loot();
        let named = |report: &Report| {
            let failure = report.state.as_ref()?.metadata_failure.as_ref()?;
            (failure.cause == attack).then_some(())
        };
        let found = loot.reports().find_map(named);
        drop(loot);
        Ok(found)
    })
    .unwrap();
    until("its log names it", || Ok(log(fleet).contains(&format!("({attack})")).then_some(())))
        .unwrap();
    let mut shown = command("refit-agent").unwrap();
    shown.args(["status", "--data"]).arg(fleet.host_named("web-1").data());
    let shown = Ran::of(&mut shown).unwrap().good().unwrap();
    assert!(shown.contains(&format!("metadata is refused ({attack})")), "{shown}");
}

/// A host of this ring that runs 1.0, while 1.1 is published and promoted to pilot alone. Its agent is
/// stopped, so that nothing of 1.1 has reached it yet.
fn before_1_1(ring: &'static str) -> Sandbox {
    let mut fleet = super::in_two_halves(&super::TWO_RINGS);
    fleet.host("web-1", &[&format!("ring={ring}")]).unwrap();
    fleet.publish("1.0", Behaviour::Good).unwrap();
    fleet.promote("1.0", "pilot").unwrap();
    fleet.promote("1.0", "early").unwrap();
    fleet.until_runs("web-1", "1.0").unwrap();
    fleet.until_rollout(ring, "1.0", "done").unwrap();
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    fleet.publish("1.1", Behaviour::Good).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    fleet
}

/// CVE-2025-15556, server-taken-over.
#[test]
fn an_unsigned_release_is_refused_and_the_real_server_hears_of_it() {
    let mut fleet = super::on_1_0(super::in_two_halves(&super::ONE_RING));
    let attacker = Attacker::takes_over(&mut fleet);
    let mut loot = attacker.loot();
    let evil = loot.signed("release.payments")["targets"]["releases/payments/1.0.json"].clone();
    let evil = loot.plant(format!("{evil} of mine").as_bytes());
    let digest = Digest::parse(evil["hashes"]["sha256"].as_str().unwrap()).unwrap();
    loot.forge("release.payments", |file| {
        file["targets"]["releases/payments/6.6.6.json"] = evil.clone();
    });
    loot.forge("ring.payments.pilot", |file| {
        let targets = file["targets"].as_object_mut().unwrap();
        let mut promotion = targets.values().next().unwrap().clone();
        promotion["length"] = evil["length"].clone();
        promotion["hashes"] = evil["hashes"].clone();
        targets.clear();
        targets.insert("rings/payments/pilot/6.6.6.json".into(), promotion);
    });
    loot.pin(DAYS);
    loot.offer("payments", "6.6.6", digest, PILOT);
    drop(loot);
    refused(&fleet, &attacker, "payments", "not-permitted", "(arbitrary software)");
    metadata_refused(&fleet, &attacker, "arbitrary-software");
    attacker.leaves(&mut fleet);
    until("the real server shows what the host refused", || {
        let shown = fleet.host_status("web-1")?;
        let said = shown["metadata_failure"]["cause"].as_str().unwrap_or_default();
        // The stolen key has signed newer files than the real server's, which is named as well.
        let named = ["arbitrary-software", "rollback"].contains(&said);
        if named { Ok(Some(())) } else { bail!("{shown}") }
    })
    .unwrap();
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.0");
}

/// server-taken-over: a release with a known hole, signed long ago.
#[test]
fn an_old_release_below_the_floor_is_refused() {
    let mut fleet = super::on_1_0(super::in_two_halves(&super::ONE_RING));
    fleet.publish("1.1", Behaviour::Good).unwrap();
    let listed = fleet.json(["release", "list", "payments"]).unwrap();
    let counter = |version: &str| {
        let rows = listed.as_array().unwrap();
        rows.iter().find(|row| row["version"] == version).unwrap()["counter"].clone()
    };
    let floor = counter("1.1").to_string();
    let promote = ["release", "promote", "payments", "1.1", "--to", "pilot", "--floor", &floor];
    fleet.refit(promote).unwrap();
    fleet.until_runs("web-1", "1.1").unwrap();
    fleet.until_rollout("pilot", "1.1", "done").unwrap();
    let attacker = Attacker::takes_over(&mut fleet);
    let mut loot = attacker.loot();
    let old = loot.released("1.0");
    loot.offer("payments", "1.0", old, Offered { rollback: true, ..PILOT });
    drop(loot);
    refused(&fleet, &attacker, "payments", "below-floor", "the floor here is");
}

/// server-taken-over.
#[test]
fn a_release_of_another_product_is_refused() {
    let mut fleet = super::on_1_0(super::in_two_halves(&super::ONE_RING));
    let attacker = Attacker::takes_over(&mut fleet);
    let mut loot = attacker.loot();
    let release = loot.released("1.0");
    loot.offer("billing", "1.0", release, PILOT);
    drop(loot);
    refused(&fleet, &attacker, "billing", "not-permitted", "no policy for billing is signed");
}

/// server-taken-over.
#[test]
fn a_release_of_another_platform_is_refused() {
    let mut fleet = super::on_1_0(super::in_two_halves(&super::ONE_RING));
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    let source = fleet.path().join("source-1.1");
    refit_tests::release::write(&source, "1.1", Behaviour::Good, Default::default(), "").unwrap();
    let built = fleet.path().join("release-1.1");
    let (source, out) = (source.to_string_lossy(), built.to_string_lossy());
    let words = ["release", "build", &source, "--product", "payments", "--version", "1.1"];
    let platform = ["--platform", "linux-sparc64", "--out", &*out];
    fleet.refit(words.into_iter().chain(platform)).unwrap();
    fleet.publish_built(&built).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    let attacker = Attacker::takes_over(&mut fleet);
    let mut loot = attacker.loot();
    let release = loot.released("1.1");
    loot.offer("payments", "1.1", release, PILOT);
    drop(loot);
    fleet.start_agent("web-1").unwrap();
    refused(&fleet, &attacker, "payments", "unsupported", "has no packages for linux-");
}

/// server-taken-over.
#[test]
fn a_release_that_is_permitted_on_another_ring_only_is_refused() {
    let mut fleet = before_1_1("early");
    let attacker = Attacker::takes_over(&mut fleet);
    let mut loot = attacker.loot();
    let release = loot.released("1.1");
    loot.offer("payments", "1.1", release, EARLY);
    drop(loot);
    fleet.start_agent("web-1").unwrap();
    refused(
        &fleet,
        &attacker,
        "payments",
        "not-permitted",
        "ring early of payments does not permit",
    );
}

/// server-taken-over: which ring a host is in is told by signed definitions and its own labels.
#[test]
fn the_server_moves_no_host_into_an_easier_ring() {
    let mut fleet = before_1_1("early");
    let attacker = Attacker::takes_over(&mut fleet);
    let mut loot = attacker.loot();
    let release = loot.released("1.1");
    loot.offer("payments", "1.1", release, PILOT);
    drop(loot);
    fleet.start_agent("web-1").unwrap();
    refused(&fleet, &attacker, "payments", "not-permitted", "ring early");
    assert_eq!(of_product(&status(&fleet).unwrap(), "payments")["ring"], "early");
    // New definitions, and labels from the centre, signed with all that the server had.
    let policy = r#"{"_type":"policy","format":1,"product":"payments","rings":[{"ring":"pilot","select":{"labels":{"ring":["early","pilot"]}}}]}"#;
    let mut loot = attacker.loot();
    let target = loot.plant(policy.as_bytes());
    loot.forge("policy", |file| file["targets"]["policy/payments.json"] = target);
    loot.pin(DAYS);
    drop(loot);
    metadata_refused(&fleet, &attacker, "arbitrary-software");
    let ring = of_product(&status(&fleet).unwrap(), "payments")["ring"].clone();
    assert_ne!(ring, "pilot");
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.0");
}

/// endless-data, slow-retrieval.
#[test]
fn an_endless_and_a_slow_stream_are_given_up_and_named() {
    let mut fleet = before_1_1("pilot");
    let settings = fleet.host_named("web-1").data().join("agent.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let impatient = format!("patience_seconds = 2\nslowest_bytes_per_second = 1000\n{text}");
    fs::write(&settings, impatient).unwrap();
    let attacker = Attacker::takes_over(&mut fleet);
    let mut loot = attacker.loot();
    let release = loot.released("1.1");
    loot.offer("payments", "1.1", release, PILOT);
    loot.sending = Sending::Slowly;
    drop(loot);
    fleet.start_agent("web-1").unwrap();
    let before = runs(&fleet);
    // What may pass is a hold, and tried again.
    let held = |words: &str| {
        until(&format!("the host names {words}"), || {
            let said = of_product(&status(&fleet)?, "payments");
            let text = said["hold"]["text"].as_str().unwrap_or_default();
            if text.contains(words) { Ok(Some(())) } else { bail!("{said}") }
        })
        .unwrap();
        until("its report names it", || {
            let loot = attacker.loot();
            let states = loot.reports().flat_map(|report| &report.state);
            let holds = states.flat_map(|it| &it.products).flat_map(|it| &it.hold);
            Ok(holds.into_iter().any(|it| it.text.contains(words)).then_some(()))
        })
        .unwrap();
        until("its log names it", || Ok(log(&fleet).contains(words).then_some(()))).unwrap();
    };
    held("slow-retrieval");
    attacker.loot().sending = Sending::Endlessly;
    held("more came than the file can be");
    assert_eq!(runs(&fleet), before);
    let left = fleet.host_named("web-1").data().join("content");
    let length = |path: &PathBuf| fs::metadata(path).map_or(0, |it| it.len());
    let size: u64 = walk(&left).iter().map(length).sum();
    assert!(size < 100 << 20, "{size} bytes of an endless stream are kept");
}

fn walk(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|it| it.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// endless-data: messages without bytes are no progress.
#[test]
fn a_stream_of_empty_messages_and_an_endless_metadata_file_are_given_up_and_named() {
    let mut fleet = before_1_1("pilot");
    let settings = fleet.host_named("web-1").data().join("agent.toml");
    let text = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, format!("patience_seconds = 1\n{text}")).unwrap();
    let attacker = Attacker::takes_over(&mut fleet);
    let mut loot = attacker.loot();
    let release = loot.released("1.1");
    loot.offer("payments", "1.1", release, PILOT);
    loot.sending = Sending::Nothing;
    drop(loot);
    fleet.start_agent("web-1").unwrap();
    until("the host names the slow stream", || {
        let said = of_product(&status(&fleet)?, "payments");
        let text = said["hold"]["text"].as_str().unwrap_or_default();
        if text.contains("slow-retrieval") { Ok(Some(())) } else { bail!("{said}") }
    })
    .unwrap();
    for length in [2 << 20, 20 << 20] {
        let mut loot = attacker.loot();
        let timestamp = loot.files.get_mut(&refit_proto::trust::Role::Timestamp).unwrap();
        timestamp.resize(length, b' ');
        drop(loot);
        metadata_refused(&fleet, &attacker, "endless-data");
    }
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.0");
}

/// frozen-fleet: nothing new is signed any more, and nobody says so but the hosts.
#[test]
fn a_frozen_host_notices_says_so_and_reports_it() {
    let mut fleet = before_1_1("pilot");
    let attacker = Attacker::takes_over(&mut fleet);
    let mut loot = attacker.loot();
    let release = loot.released("1.1");
    // What was signed last, shortly before the attacker stopped signing.
    loot.pin(SignedDuration::from_secs(5));
    assert!(loot.signed("timestamp")["expires"].as_str() > Some(&attacker::now().to_string()));
    drop(loot);
    fleet.start_agent("web-1").unwrap();
    let before = runs(&fleet);
    until("the host states that its metadata has expired", || {
        let state = status(&fleet)?;
        let hold = of_product(&state, "payments")["hold"]["reason"].clone();
        let stated = state["metadata_expired"] == true && hold == "metadata-expired";
        if stated { Ok(Some(())) } else { bail!("{state}") }
    })
    .unwrap();
    metadata_refused(&fleet, &attacker, "freeze");
    let mut loot = attacker.loot();
    let reported = loot.reports().flat_map(|report| &report.state).any(|it| it.metadata_expired);
    assert!(reported, "no report says that the metadata has expired");
    loot.offer("payments", "1.1", release, PILOT);
    drop(loot);
    until("an offer does not begin either", || {
        Ok(log(&fleet).contains("metadata-expired").then_some(()))
    })
    .unwrap();
    assert_eq!(runs(&fleet), before);
    // The fleet's owners see it as soon as anything reaches them.
    attacker.leaves(&mut fleet);
    until("the server shows which host is frozen", || {
        let shown = fleet.host_status("web-1")?;
        let frozen = shown["metadata_failure"]["cause"].as_str().unwrap_or_default();
        // The stolen key has signed a newer file than the real server's: also named.
        if ["freeze", "rollback"].contains(&frozen) { Ok(Some(())) } else { bail!("{shown}") }
    })
    .unwrap();
}

/// server-taken-over: old and new metadata, each signed, put together.
#[test]
fn old_and_new_metadata_are_not_mixed() {
    let mut fleet = super::on_1_0(super::in_two_halves(&super::ONE_RING));
    fleet.refit(["trust", "status"]).unwrap();
    let old = fs::read(fleet.path().join("home-alice/trust/ring.payments.pilot.json")).unwrap();
    super::install(&fleet, "1.1");
    let attacker = Attacker::takes_over(&mut fleet);
    let ring = refit_proto::trust::Role::parse("ring.payments.pilot").unwrap();
    // The old file in the new one's place, as the newest snapshot does not pin it.
    let mut loot = attacker.loot();
    loot.forge("ring.payments.pilot", |_| {});
    loot.pin(DAYS);
    loot.files.insert(ring.clone(), old.clone());
    drop(loot);
    metadata_refused(&fleet, &attacker, "mix-and-match");
    // And pinned by a snapshot of the stolen key.
    let mut loot = attacker.loot();
    loot.files.insert(ring, old);
    loot.pin(DAYS);
    let release = loot.released("1.0");
    loot.offer("payments", "1.0", release, PILOT);
    drop(loot);
    metadata_refused(&fleet, &attacker, "rollback");
    refused(&fleet, &attacker, "payments", "not-permitted", "(rollback)");
}
