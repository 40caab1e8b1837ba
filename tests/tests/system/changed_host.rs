//! Somebody changes on a host what Refit installed: nobody is told that all is well.

use std::fs;

use refit_tests::{
    process::{Ran, command},
    release::Behaviour,
    sandbox::Sandbox,
    wait::until,
};

fn stop(fleet: &mut Sandbox) {
    assert!(fleet.host_mut("web-1").agent().unwrap().terminate().unwrap().success());
}

#[test]
fn an_installed_file_that_was_changed_is_named_and_the_host_is_not_called_good() {
    let mut fleet = super::one_host_on_1_0();
    stop(&mut fleet);
    let install = fleet.host_named("web-1").install();
    let file = install.join("payments/current/payments/share/version");
    fs::write(&file, "6.6").unwrap();
    fleet.start_agent("web-1").unwrap();
    until("the server does not count it as good", || {
        Ok((fleet.host_status("web-1")?["products"][0]["health"] == "unknown").then_some(()))
    })
    .unwrap();
    let mut status = command("refit-agent").unwrap();
    status.args(["status", "--data"]).arg(fleet.host_named("web-1").data());
    let said = Ran::of(&mut status).unwrap().good().unwrap();
    assert!(said.contains("payments/share/version is not what"), "{said}");
    // As it was signed again, it is good again.
    stop(&mut fleet);
    fs::write(&file, "1.0").unwrap();
    fleet.start_agent("web-1").unwrap();
    until("all is well", || {
        Ok((fleet.host_status("web-1")?["products"][0]["health"] == "good").then_some(()))
    })
    .unwrap();
}

/// What `refit-agent status --output json` says of the product.
fn product(fleet: &Sandbox) -> serde_json::Value {
    fleet.agent_status("web-1").unwrap()["products"][0].clone()
}

#[test]
fn a_host_whose_owner_wants_it_refuses_the_next_update_until_all_is_as_it_was_signed() {
    let mut fleet = super::one_host_on_1_0();
    stop(&mut fleet);
    let data = fleet.host_named("web-1").data();
    let settings = fs::read_to_string(data.join("agent.toml")).unwrap();
    fs::write(data.join("agent.toml"), format!("{settings}\n[drift]\npolicy = \"refuse\"\n"))
        .unwrap();
    let share = fleet.host_named("web-1").install().join("payments/current/payments/share");
    fs::write(share.join("version"), "6.6").unwrap();
    fleet.start_agent("web-1").unwrap();
    fleet.publish("1.1", Behaviour::Good).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    until("the update is refused", || Ok((product(&fleet)["phase"] == "refused").then_some(())))
        .unwrap();
    let said = product(&fleet);
    assert_eq!(said["failure"]["cause"], "changed-on-host", "{said}");
    let text = said["failure"]["text"].as_str().unwrap();
    assert!(text.contains("payments/share/version"), "{text}");
    let differences = said["drift"]["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 1, "{said}");
    assert_eq!(differences[0]["kind"], "changed");
    assert_eq!(said["installed"]["version"], "1.0", "nothing was changed");
    assert_eq!(fs::read(share.join("version")).unwrap(), b"6.6", "nothing was put back either");
    assert!(said["power_cut"].as_str().unwrap().contains("what is installed"), "{said}");

    // Put right, the release is taken when it is offered again; a restart of the agent is not needed.
    fs::write(share.join("version"), "1.0").unwrap();
    fleet.until_rollout("pilot", "1.1", "halted").unwrap();
    fleet.refit(["rollout", "resume", "payments", "pilot", "--reason", "put right"]).unwrap();
    fleet.until_runs("web-1", "1.1").unwrap();
}

#[test]
fn a_release_whose_link_was_removed_comes_again() {
    let mut fleet = super::one_host_on_1_0();
    stop(&mut fleet);
    let link = fleet.host_named("web-1").install().join("payments/current");
    let before = fs::read_link(&link).unwrap();
    fs::remove_file(&link).unwrap();
    fleet.start_agent("web-1").unwrap();
    until("the link is there again", || {
        Ok(fs::read_link(&link).is_ok_and(|to| to == before).then_some(()))
    })
    .unwrap();
    fleet.until_runs("web-1", "1.0").unwrap();
}

#[test]
fn a_host_whose_owner_wants_it_puts_back_what_was_changed_and_names_what_nobody_signed() {
    let mut fleet = super::one_host_on_1_0();
    stop(&mut fleet);
    let data = fleet.host_named("web-1").data();
    let settings = fs::read_to_string(data.join("agent.toml")).unwrap();
    fs::write(data.join("agent.toml"), format!("{settings}\n[drift]\npolicy = \"repair\"\n"))
        .unwrap();
    let package = fleet.host_named("web-1").install().join("payments/current/payments");
    let before = fs::read(package.join("share/fault")).unwrap();
    fs::write(package.join("share/version"), "6.6").unwrap();
    fs::remove_file(package.join("share/fault")).unwrap();
    fs::write(package.join("share/cache"), "of the service").unwrap();
    fleet.start_agent("web-1").unwrap();
    until("what was changed is put back", || {
        let back = fs::read(package.join("share/version"))? == b"1.0"
            && fs::read(package.join("share/fault")).is_ok_and(|found| found == before);
        Ok(back.then_some(()))
    })
    .unwrap();
    until("it is told", || {
        let repaired = product(&fleet)["drift"]["repaired"].to_string();
        let all = ["share/version", "share/fault"].iter().all(|path| repaired.contains(path));
        Ok(all.then_some(()))
    })
    .unwrap();
    let said = product(&fleet);
    assert_eq!(said["drift"]["differences"].as_array().unwrap().len(), 0, "{said}");
    assert!(said["drift"]["extra"].to_string().contains("share/cache"), "{said}");
    assert_eq!(fs::read(package.join("share/cache")).unwrap(), b"of the service");
    until("it counts as good", || {
        Ok((fleet.host_status("web-1")?["products"][0]["health"] == "good").then_some(()))
    })
    .unwrap();
    let mut status = command("refit-agent").unwrap();
    status.args(["status", "--data"]).arg(&data);
    let shown = Ran::of(&mut status).unwrap().good().unwrap();
    assert!(shown.contains("put back") && shown.contains("extra"), "{shown}");
    super::install(&fleet, "1.1");
}
