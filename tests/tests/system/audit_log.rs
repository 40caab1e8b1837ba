//! The audit log in the hands of a thief who has the server's audit key and its store, and the key replaced.

use std::{fs, path::Path};

use refit_tests::{
    process::{Ran, command},
    sandbox::Sandbox,
    wait::until,
};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// The end of the log that a host says it has seen.
fn held(fleet: &Sandbox) -> u64 {
    fleet.host_status("web-1").unwrap()["audit_held"]["length"].as_u64().unwrap_or(0)
}

/// Has things happen whose entries hosts see and report.
fn until_held_is_above(fleet: &Sandbox, length: u64) {
    until("the host reports a later end of the log", || {
        let held = held(fleet);
        if held > length { Ok(Some(())) } else { anyhow::bail!("{held}, not above {length}") }
    })
    .unwrap();
}

#[test]
fn a_thief_with_the_audit_key_who_rewrites_history_is_told_by_the_hosts_that_saw_it() {
    let mut fleet = super::one_host_on_1_0();
    until_held_is_above(&fleet, 0);
    let whole = fleet.refit(["audit", "verify"]).unwrap();
    assert!(whole.contains("1 hosts have seen this log"), "{whole}");
    // The store as it is before what the thief wants to be forgotten.
    fleet.server().unwrap().terminate().unwrap();
    let (store, before) = (fleet.server_data().join("store"), fleet.path().join("before"));
    copy(&store, &before);
    fleet.start_server().unwrap();
    let earlier = held(&fleet);
    super::install(&fleet, "1.1");
    until_held_is_above(&fleet, earlier);

    // Another history from there on, each entry chained, the end signed with the server's audit key.
    fleet.server().unwrap().terminate().unwrap();
    fs::remove_dir_all(&store).unwrap();
    copy(&before, &store);
    fleet.start_server().unwrap();
    for _ in 0..30 {
        fleet.token(&["ring=pilot"]).unwrap();
    }
    until("the host says so", || {
        let status = fleet.agent_status("web-1")?;
        let cause = &status["audit_failure"]["cause"];
        Ok((cause == "audit-forked" || cause == "audit-shortened").then_some(()))
    })
    .unwrap();
    let log = fs::read_to_string(fleet.host_named("web-1").folder().join("agent.log")).unwrap();
    assert!(log.contains("cause=\"audit-") && log.contains("this host has seen"), "{log}");
    until("the server shows it", || {
        Ok((fleet.status()?["hosts_audit_contradicted"] == 1).then_some(()))
    })
    .unwrap();
    // A person who never looked before has nothing but the hosts' word.
    fs::remove_file(fleet.path().join("home-alice/audit-checkpoint.json")).unwrap();
    let refused = fleet.refit_refused(["audit", "verify"]).unwrap();
    assert!(
        refused.contains("hosts have seen another log") && refused.contains("web-1"),
        "{refused}"
    );
    assert!(fleet.refit(["audit", "list"]).unwrap().contains("audit contradicted"));
}

#[test]
fn a_stolen_audit_key_is_replaced_and_the_history_before_still_verifies() {
    let mut fleet = super::one_host_on_1_0();
    until_held_is_above(&fleet, 0);
    fleet.refit(["audit", "verify"]).unwrap();
    let old = fleet.refit(["audit", "list", "--output", "json"]).unwrap();
    fs::write(fleet.path().join("old.json"), old).unwrap();
    let known = fs::read_to_string(fleet.path().join("home-alice/server-keys.json")).unwrap();
    let known: serde_json::Value = serde_json::from_str(&known).unwrap();
    fs::write(fleet.path().join("old.pub.json"), known["audit"].to_string()).unwrap();

    fleet.server().unwrap().terminate().unwrap();
    let mut replace = command("refit-server").unwrap();
    replace.args(["audit", "replace", "--data"]).arg(fleet.server_data());
    let told = Ran::of(&mut replace).unwrap().good().unwrap();
    fs::write(fleet.path().join("audit.pub.json"), told.lines().next().unwrap()).unwrap();
    fleet.start_server().unwrap();

    // Who has not heard of it is told; nobody takes another key for the noted one silently.
    let refused = fleet.refit_refused(["audit", "verify"]).unwrap();
    assert!(refused.contains("help:"), "{refused}");
    fleet.refit(["audit", "believe", "audit.pub.json"]).unwrap();
    let whole = fleet.refit(["audit", "verify"]).unwrap();
    assert!(whole.contains("the log is whole"), "{whole}");
    let by_the_old = ["audit", "verify", "--file", "old.json", "--audit-key", "old.pub.json"];
    fleet.refit(by_the_old).unwrap();
    assert!(fleet.refit(["audit", "list"]).unwrap().contains("audit key replace"));
    // Hosts go on with the new key: the log is the same.
    let earlier = held(&fleet);
    super::install(&fleet, "1.1");
    until_held_is_above(&fleet, earlier);
    assert!(fleet.agent_status("web-1").unwrap()["audit_failure"].is_null());
}
