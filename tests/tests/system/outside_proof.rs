//! Data for which somebody else's backup stands: believed as long as its restore points are young and tested.

use std::{fs, path::Path};

use jiff::{SignedDuration, Timestamp};
use refit_tests::{
    process::Ran,
    release::{Behaviour, Probation},
    sandbox::Sandbox,
    wait::until,
};

fn backup(fleet: &Sandbox, words: &[&str]) -> Ran {
    fleet.agent_backup("web-1", words).unwrap()
}

/// What somebody else's backup says of itself.
#[expect(clippy::disallowed_methods, reason = "the host under test goes by the real clock")]
fn says(proof: &Path, made_hours_ago: i64) {
    let now = Timestamp::now();
    let ago = |hours: i64| now - SignedDuration::from_hours(hours);
    let (made, tested) = (ago(made_hours_ago), ago(48));
    let text =
        format!("{{\"restore_point\":\"vault 17\",\"made\":\"{made}\",\"tested\":\"{tested}\"}}\n");
    fs::write(proof, text).unwrap();
}

fn publish(fleet: &Sandbox, version: &str, behaviour: Behaviour, more: &str) {
    let declared = format!(
        "\n[backup]\npaths = [\"${{HOST_FOLDER}}/conf\"]\n[data]\npaths = [\"${{HOST_FOLDER}}/ledger\"]\n{more}"
    );
    let built = fleet.build_with(version, behaviour, Probation::default(), &declared).unwrap();
    fleet.publish_built(&built).unwrap();
    fleet.promote(version, "pilot").unwrap();
}

fn product(fleet: &Sandbox) -> serde_json::Value {
    fleet.agent_status("web-1").unwrap()["products"][0].clone()
}

#[test]
fn an_update_whose_data_somebody_else_has_waits_for_a_good_proof_and_goes_back_without_a_copy_of_it()
 {
    let mut fleet = super::one_host_on_1_0();
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    let host = fleet.host_named("web-1").folder().to_owned();
    let (ledger, conf, proof) = (host.join("ledger"), host.join("conf"), host.join("proof"));
    fs::create_dir(&ledger).unwrap();
    fs::write(ledger.join("rows"), "row 1\n").unwrap();
    fs::write(&conf, "port = 1").unwrap();
    says(&proof, 30);
    let settings = host.join("data/agent.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let more = format!(
        "\n[backup]\nmethods = [\"outside\", \"copy\"]\n[backup.outside]\ncommand = [\"/bin/cat\", {proof:?}]\n\
         max_age_hours = 24\nmax_test_age_days = 30\n"
    );
    fs::write(&settings, format!("{text}{more}")).unwrap();
    fleet.start_agent("web-1").unwrap();

    // With a copy allowed too, an old restore point is no reason to go on without one.
    publish(&fleet, "1.1", Behaviour::Good, "");
    fleet.until_runs("web-1", "1.1").unwrap();
    fleet.until_rollout("pilot", "1.1", "done").unwrap();
    let listed = backup(&fleet, &["list", "--output", "json"]).good().unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["to"], "1.1", "{listed}");
    assert_eq!(listed[0]["outside"], serde_json::Value::Null, "{listed}");
    let paths = |row: &serde_json::Value| row["paths"].to_string();
    assert!(paths(&listed[0]).contains("/ledger"), "{listed}");

    // A young one is.
    says(&proof, 2);
    publish(&fleet, "1.2", Behaviour::Good, "");
    fleet.until_runs("web-1", "1.2").unwrap();
    fleet.until_rollout("pilot", "1.2", "done").unwrap();
    let listed = backup(&fleet, &["list", "--output", "json"]).good().unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let newest = &listed[0];
    assert_eq!((newest["to"].as_str(), newest["state"].as_str()), (Some("1.2"), Some("sealed")));
    assert_eq!(newest["outside"]["restore_point"], "vault 17", "{newest}");
    assert!(paths(newest).contains("/conf") && !paths(newest).contains("/ledger"), "{newest}");
    assert!(newest["outside"]["paths"].to_string().contains("/ledger"), "{newest}");
    let shown = backup(&fleet, &["list"]).good().unwrap();
    assert!(shown.contains("data is outside: restore point vault 17"), "{shown}");
    assert!(backup(&fleet, &["verify"]).good().unwrap().contains("whole"));
    until("the server tells it too", || {
        let listed = fleet.refit(["host", "backup", "list", "web-1"])?;
        Ok(listed.contains("data is outside: restore point vault 17").then_some(()))
    })
    .unwrap();

    // A bad one writes to both: configuration comes back, data stays.
    let writes =
        format!("echo row 2 >> {0}/rows; echo port = 2 > {1}", ledger.display(), conf.display());
    let checks = "[[health.checked.checks]]\nname = \"never\"\nkind = \"command\"\ncommand = [\"/bin/false\"]\n";
    publish(&fleet, "1.3", Behaviour::Runs(Box::leak(writes.into_boxed_str())), checks);
    until("the host has gone back", || {
        Ok((product(&fleet)["phase"] == "rolled-back").then_some(()))
    })
    .unwrap();
    fleet.until_runs("web-1", "1.2").unwrap();
    assert_eq!(fs::read_to_string(&conf).unwrap(), "port = 1");
    assert_eq!(fs::read_to_string(ledger.join("rows")).unwrap(), "row 1\nrow 2\n");
}

#[test]
fn where_nothing_but_a_proof_would_do_an_old_one_refuses_the_update_by_name() {
    let mut fleet = super::one_host_on_1_0();
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    let host = fleet.host_named("web-1").folder().to_owned();
    let (ledger, proof) = (host.join("ledger"), host.join("proof"));
    fs::create_dir(&ledger).unwrap();
    fs::write(ledger.join("rows"), "row 1\n").unwrap();
    fs::write(host.join("conf"), "port = 1").unwrap();
    says(&proof, 30);
    let settings = host.join("data/agent.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let more = format!(
        "\n[backup]\nmethods = [\"outside\", \"reflink\"]\n[backup.outside]\ncommand = [\"/bin/cat\", {proof:?}]\n\
         max_age_hours = 24\nmax_test_age_days = 30\n"
    );
    fs::write(&settings, format!("{text}{more}")).unwrap();
    fleet.start_agent("web-1").unwrap();
    publish(&fleet, "1.1", Behaviour::Good, "");
    until("the update is refused", || Ok((product(&fleet)["phase"] == "refused").then_some(())))
        .unwrap();
    let failure = product(&fleet)["failure"].clone();
    assert_eq!(failure["cause"], "backup-failed", "{failure}");
    let text = failure["text"].as_str().unwrap();
    assert!(text.contains("the restore point vault 17 is 1 d 6 h old"), "{text}");
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.0");
}
