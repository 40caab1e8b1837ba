//! A host without a network takes a release from a file: by the same signatures, through the same steps, and
//! with the same way back. What is wrong with the file is told, and changes nothing.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use refit_durable::testing::not_run;
use refit_proto::{
    bundle::{self, About, Head, PartName, Writer},
    names::Digest,
};
use refit_tests::{process::Ran, release::Behaviour, sandbox::Sandbox, wait::until};

use super::stale_metadata::faketime;

/// Publishes and promotes a release while the host is off, exports it, and cuts the host off.
fn cut_off(fleet: &mut Sandbox, version: &str, behaviour: Behaviour) -> PathBuf {
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    fleet.publish(version, behaviour).unwrap();
    fleet.promote(version, "pilot").unwrap();
    let bundle = fleet.export(version, "pilot").unwrap();
    fleet.server().unwrap().terminate().unwrap();
    bundle
}

fn waits(fleet: &Sandbox) -> Vec<PathBuf> {
    let folder = fleet.host_named("web-1").data().join("install");
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_host_without_a_network_installs_from_a_bundle_and_reports_when_it_is_back() {
    let mut fleet = super::one_host_on_1_0();
    let bundle = cut_off(&mut fleet, "1.1", Behaviour::Good);
    let refused = fleet.install_from("web-1", &bundle).unwrap().refused().unwrap();
    assert!(refused.contains("no agent runs here"), "{refused}");
    fleet.start_agent("web-1").unwrap();
    fleet.until_listens("web-1").unwrap();
    let out = fleet.install_from("web-1", &bundle).unwrap().good().unwrap();
    assert!(out.contains("probation") && out.contains("payments 1.1 is installed"), "{out}");
    fleet.until_runs("web-1", "1.1").unwrap();
    let told = fleet.agent_status("web-1").unwrap();
    let attempt = &told["products"][0]["attempt"];
    assert_eq!(attempt["ordered_by"], "local-root", "{told}");
    assert!(attempt["lease_id"].as_str().unwrap().starts_with("local-root/"), "{told}");
    assert!(waits(&fleet).is_empty(), "{:?}", waits(&fleet));
    // The same once more changes nothing.
    let again = fleet.install_from("web-1", &bundle).unwrap().good().unwrap();
    assert!(again.contains("runs here already"), "{again}");
    // The network is back: what happened is told, and the host takes the next release from the server.
    fleet.start_server().unwrap();
    until("the server shows the host with the new release", || {
        let host = fleet.host_status("web-1")?;
        let product = &host["products"][0];
        Ok((product["installed"] == "1.1" && product["health"] == "good").then_some(()))
    })
    .unwrap();
    super::install(&fleet, "1.2");
}

/// The bundle with one part changed and closed with the right hash: what somebody hostile makes of it.
fn changed(bundle: &Path, name: &PartName, out: &Path) {
    let bytes = fs::read(bundle).unwrap();
    let index = bundle::read(&mut bytes.as_slice()).unwrap();
    let mut writer = Writer::new(Vec::new(), &index.head).unwrap();
    for (part, span) in index.parts() {
        let mut body = bytes[span.offset as usize..(span.offset + span.length) as usize].to_vec();
        if part == name {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        }
        writer.part(part.clone(), &body).unwrap();
    }
    fs::write(out, writer.finish().unwrap()).unwrap();
}

fn copy_folder(from: &Path, to: &Path) {
    Ran::of(Command::new("cp").arg("-a").arg(from).arg(to)).unwrap().good().unwrap();
}

fn parts(bundle: &Path) -> Vec<(PartName, Vec<u8>)> {
    let bytes = fs::read(bundle).unwrap();
    let index = bundle::read(&mut bytes.as_slice()).unwrap();
    let body = |span: bundle::Span| {
        bytes[span.offset as usize..(span.offset + span.length) as usize].to_vec()
    };
    index.parts().map(|(name, span)| (name.clone(), body(span))).collect()
}

/// MEN-1412, CVE-2022-28756: what a local user hands to the agent is verified as what a server sends.
#[test]
fn a_bundle_with_a_changed_byte_in_any_part_is_refused_by_name_and_changes_nothing() {
    let mut fleet = super::one_host_on_1_0();
    let had: BTreeSet<_> = parts(&fleet.export("1.0", "pilot").unwrap()).into_iter().collect();
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    // Else the host has them already, and takes them from no bundle.
    for role in ["targets", "policy"] {
        fleet.refit(["trust", "renew", role]).unwrap();
    }
    fleet.publish("1.1", Behaviour::Good).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    let bundle = fleet.export("1.1", "pilot").unwrap();
    fleet.server().unwrap().terminate().unwrap();
    fleet.start_agent("web-1").unwrap();
    fleet.until_listens("web-1").unwrap();
    let current = fleet.host_named("web-1").install().join("payments/current");
    let before = fs::read_link(&current).unwrap();
    let hostile = fleet.path().join("hostile.bundle");
    let mut refused = 0;
    let trust = fleet.host_named("web-1").data().join("trust");
    let copy = fleet.path().join("trust-copy");
    copy_folder(&trust, &copy);
    for (part, body) in parts(&bundle) {
        let is_content = matches!(part, PartName::Content(_));
        // What the host has is not taken from the bundle: its root, and files that 1.0 has too.
        if had.contains(&(part.clone(), body)) {
            continue;
        }
        // What was accepted in the try before is not asked for again: each part is tried afresh.
        fs::remove_dir_all(&trust).unwrap();
        copy_folder(&copy, &trust);
        changed(&bundle, &part, &hostile);
        let said = fleet.install_from("web-1", &hostile).unwrap().refused();
        let said = said.unwrap_or_else(|error| panic!("{part}: {error:#}"));
        let named = if is_content {
            said.contains("content") || said.contains("fetch-failed")
        } else {
            said.contains("metadata is refused") || said.contains("not-permitted")
        };
        assert!(named && said.contains("help:"), "{part}: {said}");
        assert_eq!(fs::read_link(&current).unwrap(), before, "{part}");
        refused += 1;
    }
    assert!(refused >= 9, "only {refused} parts were tried");
    // Damaged on its way: the hash at its end does not fit, and nothing is handed to the agent.
    let mut bytes = fs::read(&bundle).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    for (bytes, words) in [
        (bytes, "damaged"),
        (fs::read(&bundle).unwrap()[..middle].to_vec(), "ends in the middle"),
        (b"PK\x03\x04 something else".to_vec(), "not a bundle"),
    ] {
        fs::write(&hostile, bytes).unwrap();
        let said = fleet.install_from("web-1", &hostile).unwrap().refused().unwrap();
        assert!(said.contains(words), "{said}");
    }
    fs::File::options().append(true).open(&bundle).unwrap().write_all(b"x").unwrap();
    let said = fleet.install_from("web-1", &bundle).unwrap().refused().unwrap();
    assert!(said.contains("goes on after its end"), "{said}");
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.0");
    assert!(waits(&fleet).is_empty());
    // The attempts are told when the network is back.
    fleet.start_server().unwrap();
    until("the last refusal is on the server", || {
        let log = fs::read_to_string(fleet.host_named("web-1").folder().join("agent.log"))?;
        Ok(log.contains("the update ended refused").then_some(()))
    })
    .unwrap();
    fleet.until_runs("web-1", "1.1").unwrap();
}

#[test]
fn a_bundle_for_another_ring_or_another_release_than_it_says_is_refused_by_name() {
    let mut fleet = Sandbox::new(&super::TWO_RINGS).unwrap();
    fleet.host("web-1", &["ring=pilot"]).unwrap();
    super::install(&fleet, "1.0");
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    fleet.publish("1.1", Behaviour::Good).unwrap();
    fleet.promote("1.1", "early").unwrap();
    let early = fleet.export("1.1", "early").unwrap();
    let out = fleet.path().join("pilot.bundle").to_string_lossy().into_owned();
    let export = ["bundle", "export", "payments", "1.1", "--ring", "pilot", "--out", &out];
    let refused = fleet.refit_refused(export).unwrap();
    assert!(refused.contains("ring pilot of payments permits 1.0, not 1.1"), "{refused}");
    let too_long = ["--valid-for", "31d"];
    let refused = fleet.refit_refused(export.into_iter().chain(too_long)).unwrap();
    assert!(refused.contains("at most"), "{refused}");
    fleet.server().unwrap().terminate().unwrap();
    fleet.start_agent("web-1").unwrap();
    fleet.until_listens("web-1").unwrap();
    let said = fleet.install_from("web-1", &early).unwrap().refused().unwrap();
    assert!(said.contains("not-permitted") && said.contains("ring"), "{said}");
    // The head is only a wish: another release under the same signatures is refused too.
    let bytes = fs::read(&early).unwrap();
    let index = bundle::read(&mut bytes.as_slice()).unwrap();
    let head = &index.head;
    let about = About {
        product: head.product.clone(),
        version: "9.9".parse().unwrap(),
        digest: Digest::of(b"9.9"),
    };
    let rings = vec!["pilot".parse().unwrap()];
    let forged = Head::new(about, rings, head.platforms.clone(), head.made, head.expires);
    let mut writer = Writer::new(Vec::new(), &forged).unwrap();
    for (part, span) in index.parts() {
        let body = &bytes[span.offset as usize..(span.offset + span.length) as usize];
        writer.part(part.clone(), body).unwrap();
    }
    let hostile = fleet.path().join("hostile.bundle");
    fs::write(&hostile, writer.finish().unwrap()).unwrap();
    let said = fleet.install_from("web-1", &hostile).unwrap().refused().unwrap();
    assert!(said.contains("not-permitted"), "{said}");
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.0");
}

#[test]
fn an_expired_bundle_is_refused_by_name_and_is_not_tried_for_ever() {
    let claim = "an expired bundle is refused";
    let Some(faketime) = faketime() else {
        let why = format!("{claim} (libfaketime is not installed)");
        return not_run(&why, "sudo apt-get install libfaketime");
    };
    let mut fleet = super::one_host_on_1_0();
    let bundle = cut_off(&mut fleet, "1.1", Behaviour::Good);
    let library = faketime.to_string_lossy().into_owned();
    let later = [("LD_PRELOAD", library.as_str()), ("FAKETIME", "+31d")];
    fleet.start_agent_with("web-1", &later).unwrap();
    fleet.until_listens("web-1").unwrap();
    let said = fleet.install_from("web-1", &bundle).unwrap().refused().unwrap();
    assert!(said.contains("metadata-expired") && said.contains("freeze"), "{said}");
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.0");
    // A day before it is good, though every timestamp of the server's has long expired.
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    let sooner = [("LD_PRELOAD", library.as_str()), ("FAKETIME", "+29d")];
    fleet.start_agent_with("web-1", &sooner).unwrap();
    fleet.until_listens("web-1").unwrap();
    fleet.install_from("web-1", &bundle).unwrap().good().unwrap();
    fleet.until_runs("web-1", "1.1").unwrap();
    // Back online in the present, the server's own timestamp takes the place of the bundle's.
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    fleet.start_server().unwrap();
    fleet.start_agent("web-1").unwrap();
    super::install(&fleet, "1.2");
}

#[test]
fn a_bad_release_from_a_bundle_goes_back_by_itself() {
    let mut fleet = super::one_host_on_1_0();
    let bundle = cut_off(&mut fleet, "1.1", Behaviour::Unhealthy);
    fleet.start_agent("web-1").unwrap();
    fleet.until_listens("web-1").unwrap();
    let said = fleet.install_from("web-1", &bundle).unwrap().refused().unwrap();
    assert!(said.contains("rolled-back") && said.contains("health-check-failed"), "{said}");
    fleet.until_runs("web-1", "1.0").unwrap();
    let said = fleet.install_from("web-1", &bundle).unwrap().refused().unwrap();
    assert!(said.contains("quarantined"), "{said}");
    fleet.start_server().unwrap();
    until("the server knows of the quarantine", || {
        let host = fleet.host_status("web-1")?;
        let quarantine = host["products"][0]["quarantine"].as_array().map_or(0, Vec::len);
        Ok((quarantine == 1).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_pause_that_the_host_has_heard_holds_for_its_own_root_too_also_after_a_restart() {
    let mut fleet = super::one_host_on_1_0();
    // A promotion that is paused at once, and exported.
    fleet.publish("1.1", Behaviour::Hangs).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    let pause = ["rollout", "pause", "payments", "pilot", "--reason", "not tonight"];
    fleet.refit(pause).unwrap();
    until("the host has heard of the pause", || {
        let told = fleet.agent_status("web-1")?;
        let hold = &told["products"][0]["hold"]["reason"];
        Ok((hold == "paused" || hold == "halted").then_some(()))
    })
    .unwrap();
    let bundle = fleet.export("1.1", "pilot").unwrap();
    fleet.server().unwrap().terminate().unwrap();
    for _ in 0..2 {
        let said = fleet.install_from("web-1", &bundle).unwrap().refused().unwrap();
        assert!(said.contains("the server has stopped payments"), "{said}");
        fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
        fleet.start_agent("web-1").unwrap();
        fleet.until_listens("web-1").unwrap();
    }
    assert!(waits(&fleet).is_empty());
}
