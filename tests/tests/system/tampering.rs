//! Whoever changes a byte that people signed is noticed, by the host as well as by the server.

use std::{fs, path::PathBuf};

use refit_proto::{names::Digest, package::compress};
use refit_tests::{release::Behaviour, sandbox::Sandbox, wait::until};

/// The server's file for a content.
pub(super) fn stored(fleet: &Sandbox, digest: &str) -> PathBuf {
    let mut folders = vec![fleet.server_data().join("content")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().contains(digest) {
                return path;
            }
        }
    }
    panic!("the server stores no {digest}");
}

fn forge(fleet: &Sandbox, digest: &str, with: &[u8]) {
    let mut frame = Vec::new();
    compress(&mut &*with, &mut frame).unwrap();
    fs::write(stored(fleet, digest), frame).unwrap();
}

/// Publishes 1.1, lets `tamper` change the server's disk, promotes it, and wants the host to refuse it
/// for this cause with everything as it was.
fn refused_after(tamper: impl FnOnce(&Sandbox, &serde_json::Value)) {
    let fleet = super::one_host_on_1_0();
    let built = fleet.build("1.1", Behaviour::Good).unwrap();
    fleet.publish_built(&built).unwrap();
    let release: serde_json::Value =
        serde_json::from_slice(&fs::read(built.join("release.json")).unwrap()).unwrap();
    tamper(&fleet, &release);
    let install = fleet.host_named("web-1").install().join("payments/current");
    let before = fs::read_link(&install).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    fleet.until_rollout("pilot", "1.1", "halted").unwrap();
    let host = fleet.host_status("web-1").unwrap();
    assert_eq!(host["products"][0]["failure"]["cause"], "content-mismatch", "{host}");
    assert_eq!(fs::read_link(&install).unwrap(), before);
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.0");
}

/// CVE-2025-15556.
#[test]
fn a_content_file_that_was_changed_on_the_server_is_refused_by_the_host() {
    refused_after(|fleet, _| forge(fleet, &Digest::of(b"1.1").to_string(), b"6.6"));
}

/// CVE-2025-15556.
#[test]
fn a_manifest_that_was_changed_on_the_server_is_refused_by_the_host() {
    refused_after(|fleet, release| {
        let platforms = release["platforms"].as_object().unwrap();
        let manifest = &platforms.values().next().unwrap()[0]["manifest"]["sha256"];
        forge(fleet, manifest.as_str().unwrap(), b"{}");
    });
}

#[test]
fn metadata_that_was_changed_on_the_host_is_fetched_again_and_never_trusted() {
    let mut fleet = super::one_host_on_1_0();
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    let trust = fleet.host_named("web-1").data().join("trust");
    let mut changed = 0;
    for path in fs::read_dir(&trust).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // The root is what everything else is measured by: without it the host refuses to go on.
        if path.is_file() && !name.contains("root") {
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).unwrap();
            changed += 1;
        }
    }
    assert!(changed > 3, "only {changed} metadata files in {}", trust.display());
    fleet.start_agent("web-1").unwrap();
    super::install(&fleet, "1.1");
}

/// mender-no-keys-no-check.
#[test]
fn a_host_whose_root_was_changed_refuses_to_update() {
    let mut fleet = super::one_host_on_1_0();
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    let trust = fleet.host_named("web-1").data().join("trust");
    for path in fs::read_dir(&trust).unwrap().map(|entry| entry.unwrap().path()) {
        if path.file_name().unwrap().to_string_lossy().contains("root") {
            fs::write(&path, b"").unwrap();
        }
    }
    fleet.start_agent("web-1").unwrap();
    fleet.publish("1.1", Behaviour::Good).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    until("the agent names the damaged root", || {
        let log = fs::read_to_string(fleet.host_named("web-1").folder().join("agent.log"))?;
        Ok(log.contains("root").then_some(()))
    })
    .unwrap();
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.0");
}

#[test]
fn the_server_refuses_a_signed_file_with_a_changed_byte_and_stores_nothing() {
    let fleet = super::one_host_on_1_0();
    let built = fleet.build("1.1", Behaviour::Good).unwrap();
    let path = built.to_string_lossy().into_owned();
    fleet.refit(["release", "sign", &path, "--key", "release"]).unwrap();
    let before = fleet.refit(["release", "list", "payments"]).unwrap();
    let signed = fs::read_dir(&built)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("release.payments"))
        .expect("the signed role file lies in the release's folder");
    let good = fs::read_to_string(&signed).unwrap();
    // A digit of the version, and a digit of the signature.
    let at = good.find("\"sig\"").unwrap() + 10;
    for change in [good.replace("1.1.json", "1.2.json"), flip_hex(&good, at)] {
        assert_ne!(change, good);
        fs::write(&signed, change).unwrap();
        let complaint = fleet.refit_refused(["release", "publish", &path]).unwrap();
        assert!(complaint.contains("help:"), "{complaint}");
        assert_eq!(fleet.refit(["release", "list", "payments"]).unwrap(), before);
    }
    fs::write(&signed, good).unwrap();
    fleet.refit(["release", "publish", &path]).unwrap();
}

fn flip_hex(text: &str, at: usize) -> String {
    let mut bytes = text.as_bytes().to_vec();
    bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
    String::from_utf8(bytes).unwrap()
}
