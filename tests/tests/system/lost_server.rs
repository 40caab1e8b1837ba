//! The server's disk is lost, with its keys, its records and its content. People still have their keys and
//! copies of what was signed; hosts have their own keys, and certificates of an authority that is no more.

use std::fs;

use refit_tests::{
    process::{Ran, command},
    sandbox::Sandbox,
    wait::until,
};

/// Writes which server there is into the fleet's file beside what is in it.
fn fleet_file_with_servers(fleet: &Sandbox, authority: &str) {
    let here = format!("127.0.0.1:{}", fleet.port());
    let text = fs::read_to_string(fleet.path().join("fleet.toml")).unwrap();
    let servers = format!("[servers]\naddresses = [{here:?}]\nauthorities = [{authority:?}]\n\n");
    fs::write(fleet.path().join("restored.toml"), servers + &text).unwrap();
}

fn audit(fleet: &Sandbox, words: &[&str]) -> bool {
    let log = fleet.refit(["audit", "list"]).unwrap();
    log.lines().any(|line| words.iter().all(|word| line.contains(word)))
}

#[test]
fn a_fleet_goes_on_after_the_servers_keys_were_lost_with_its_disk() {
    let mut fleet = super::one_host_on_1_0();
    super::install(&fleet, "1.1");
    // As people have it: who runs a fleet keeps the authority's certificate.
    let lost = fs::read(fleet.server_data().join("keys/ca.crt")).unwrap();
    fs::write(fleet.path().join("lost.crt"), lost).unwrap();
    fleet.server().unwrap().terminate().unwrap();
    fs::remove_dir_all(fleet.server_data()).unwrap();

    // A new machine at the same address. Hosts of the lost authority may knock.
    let token = fleet.init_server().unwrap();
    let mut accept = command("refit-server").unwrap();
    accept.args(["ca", "accept", "lost.crt", "--data"]).arg(fleet.server_data());
    Ran::of(accept.current_dir(fleet.path())).unwrap().good().unwrap();
    fs::copy(fleet.server_data().join("keys/ca.crt"), fleet.path().join("new.crt")).unwrap();
    fleet.start_server().unwrap();
    fleet.refit(["login", &token, "--new-server"]).unwrap();

    // What people have kept, under a new root that names the new keys.
    let told = fleet.refit(["trust", "restore"]).unwrap();
    assert!(told.contains("root 1 to 2 and targets"), "{told}");
    assert!(told.contains("release.payments is not taken yet"), "{told}");
    let before = fleet.json(["trust", "status"]).unwrap();
    fleet_file_with_servers(&fleet, "new.crt");
    let open = ["host", "readmit", "--authority", "lost.crt", "--for", "1h", "--yes"];
    fleet.refit(open).unwrap();
    fleet.refit(["apply", "restored.toml", "--yes"]).unwrap();
    let releases = ["release-1.0", "release-1.1"];
    let told = fleet.refit(["trust", "restore"].into_iter().chain(releases)).unwrap();
    assert!(told.contains("everything that is kept here"), "{told} {before}");
    fleet.refit(["trust", "verify"]).unwrap();
    assert_eq!(fleet.releases().unwrap(), ["1.1", "1.0"]);

    // The host finds the new authority in the signed list, and is taken back with the key that it has.
    // It asks whoever answers once a minute; an agent that has just started asks at once.
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.1");
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    fleet.start_agent("web-1").unwrap();
    until("the host is readmitted", || {
        let status = fleet.host_status("web-1")?;
        Ok((status["products"][0]["installed"] == "1.1").then_some(()))
    })
    .unwrap();
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.1");
    assert!(audit(&fleet, &["host readmit", "web-1"]));
    assert!(audit(&fleet, &["readmission open", "person alice"]));
    let shown = fleet.json(["server", "show"]).unwrap();
    assert_eq!(shown["readmission"]["hosts"], 1, "{shown}");
    let ended = fleet.refit(["host", "readmit", "--end"]).unwrap();
    assert!(ended.contains("1 came back"), "{ended}");

    // And takes the next release from there.
    super::install(&fleet, "1.2");
    assert_eq!(fleet.host_status("web-1").unwrap()["labels"]["ring"], "pilot");
    // A new audit log under a new authority that people signed is no forged one.
    assert!(fleet.agent_status("web-1").unwrap()["audit_failure"].is_null());
    fleet.refit(["audit", "verify"]).unwrap();
}
