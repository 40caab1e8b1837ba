//! A person on a host brings a backup back, hours after the update that made it was committed.

use std::fs;

use refit_tests::{
    process::{Ran, command},
    sandbox::Sandbox,
    wait::until,
};

fn backup(fleet: &Sandbox, words: &[&str]) -> Ran {
    fleet.agent_backup("web-1", words).unwrap()
}

#[test]
fn a_backup_is_listed_verified_and_brought_back_after_commit_and_the_server_hears_of_it() {
    let fleet = super::one_host_on_1_0();
    super::install(&fleet, "1.1");
    super::install(&fleet, "1.2");

    let listed = backup(&fleet, &["list", "--output", "json"]).good().unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let led: Vec<_> =
        listed.as_array().unwrap().iter().map(|it| (&it["from"], &it["to"])).collect();
    assert_eq!(led.len(), 3, "{listed}");
    let (from, to) = led[1];
    assert_eq!((from.as_str(), to.as_str()), (Some("1.0"), Some("1.1")), "{listed}");
    let id = listed[1]["id"].as_str().unwrap();
    assert!(backup(&fleet, &["list"]).good().unwrap().contains("payments 1.0 -> 1.1"));
    let verified = backup(&fleet, &["verify"]).good().unwrap();
    assert_eq!(verified.matches("whole").count(), 3, "{verified}");
    assert!(listed.as_array().unwrap().iter().all(|it| it["state"] == "sealed"), "{listed}");

    // Looked at in a folder of its own: nothing else is changed.
    let look = fleet.host_named("web-1").data().with_file_name("look");
    let said = backup(&fleet, &["restore", id, "--to", look.to_str().unwrap()]).good().unwrap();
    assert!(said.contains("nothing else on this host was changed"), "{said}");
    let again = backup(&fleet, &["restore", id, "--to", look.to_str().unwrap()]).refused().unwrap();
    assert!(again.contains("no empty folder"), "{again}");
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.2");

    let said = backup(&fleet, &["restore", id]).good().unwrap();
    assert!(said.contains("is brought back"), "{said}");
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.0");
    until("the server knows that the host was brought back, and leaves it there", || {
        let host = fleet.host_status("web-1")?;
        let product = &host["products"][0];
        let back = product["hold"]["reason"] == "quarantined";
        Ok(back.then_some(()))
    })
    .unwrap();
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.0");

    // What led away from 1.1 leads nowhere from here, and is said to be so.
    let seal = fleet.host_named("web-1").data().join("backups").join(id).join("seal");
    fs::write(&seal, "0".repeat(64)).unwrap();
    let said = backup(&fleet, &["verify", id]).refused().unwrap();
    assert!(said.contains("the backup is damaged") && said.contains("index.json"), "{said}");
    let mut verify = command("refit-agent").unwrap();
    verify.args(["backup", "verify", id, "--output", "json", "--data"]);
    let ended = verify.arg(fleet.host_named("web-1").data()).output().unwrap();
    assert!(!ended.status.success());
    let told: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(told[0]["state"], "damaged", "{told}");
    assert!(told[0]["damages"][0].as_str().unwrap().contains("index.json"), "{told}");
    let said = backup(&fleet, &["restore", id]).refused().unwrap();
    assert!(said.contains("is not brought back"), "{said}");
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.0");
    super::install(&fleet, "1.3");
}

#[test]
fn the_server_has_a_host_read_its_backups_again_and_tells_which_is_damaged() {
    let fleet = super::one_host_on_1_0();
    super::install(&fleet, "1.1");
    until("the server knows of both backups", || {
        let listed = fleet.refit(["host", "backup", "list", "web-1"])?;
        Ok((listed.matches("sealed").count() == 2).then_some(()))
    })
    .unwrap();
    let said = fleet.refit(["host", "backup", "verify", "web-1"]).unwrap();
    assert_eq!(said.matches("whole").count(), 2, "{said}");

    let listed = backup(&fleet, &["list", "--output", "json"]).good().unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let (newest, first) = (listed[0]["id"].as_str().unwrap(), listed[1]["id"].as_str().unwrap());
    let index = fleet.host_named("web-1").data().join("backups").join(newest).join("index.json");
    let mut bytes = fs::read(&index).unwrap();
    bytes[9] ^= 1;
    fs::write(&index, bytes).unwrap();
    let said = fleet.refit_refused(["host", "backup", "verify", "web-1"]).unwrap();
    assert!(said.contains("1 backups of web-1 can't be gone back to"), "{said}");
    let said = fleet.refit(["host", "backup", "verify", "web-1", first]).unwrap();
    assert!(said.contains("whole") && said.contains(first), "{said}");
    let all = fleet.json(["host", "backup", "list", "web-1"]).unwrap();
    let damaged = all.as_array().unwrap().iter().find(|it| it["id"] == newest).unwrap();
    let damages = damaged["damages"].to_string();
    assert!(damages.contains("its hash is not the sealed one"), "{all}");

    // Only of what the host has.
    let said = fleet.refit_refused(["host", "backup", "verify", "web-1", "none"]).unwrap();
    assert!(said.contains("has reported no such backup"), "{said}");
    // Nothing was changed by it, and the next update comes.
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.1");
    super::install(&fleet, "1.2");
}
