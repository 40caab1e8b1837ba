//! Two machines that use one identity: noticed, shown, never healthy, and resolved by enrolling again.

use std::{fs, process::Command};

use refit_tests::{
    process::{Process, Ran, command},
    release::Behaviour,
    sandbox::free_port,
    wait::until,
};

#[test]
fn a_cloned_machine_is_noticed_and_its_ring_does_not_count_it_until_it_is_enrolled_again() {
    let mut fleet = super::one_host_on_1_0();
    // The disk of web-1 in a second machine: identity, state and all.
    let clone = fleet.path().join("clone");
    fs::create_dir(&clone).unwrap();
    let data = clone.join("data");
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    let from = fleet.host_named("web-1").data();
    Ran::of(Command::new("cp").arg("-a").arg(&from).arg(&data)).unwrap().good().unwrap();
    fleet.start_agent("web-1").unwrap();
    let settings = format!(
        "install_root = {:?}\nservices = \"own\"\n\n[variables]\nPORT = \"{}\"\nHOST_FOLDER = {clone:?}\n",
        clone.join("install"),
        free_port().unwrap(),
    );
    fs::write(data.join("agent.toml"), settings).unwrap();
    let mut run = command("refit-agent").unwrap();
    run.args(["run", "--data"]).arg(&data);
    let mut second = Process::start(&mut run, &clone.join("agent.log")).unwrap();
    fleet.publish("1.1", Behaviour::Good).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    until("the server shows that two machines use one identity", || {
        let host = fleet.host_status("web-1")?;
        Ok((host["state"] == "shared-identity").then_some(()))
    })
    .unwrap();
    let shown = fleet.host_status("web-1").unwrap();
    assert_ne!(shown["products"][0]["health"], "good", "{shown}");
    assert!(fleet.refit(["status"]).unwrap().contains("two machines use"));
    assert_ne!(fleet.ring("pilot").unwrap()["rollout"]["state"], "done");
    // As the runbook says.
    second.terminate().unwrap();
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    fleet.refit(["host", "retire", "web-1", "--yes", "--reason", "cloned"]).unwrap();
    fs::rename(from.join("identity"), from.join("identity.old")).unwrap();
    let token = fleet.token(&["ring=pilot"]).unwrap();
    let mut enroll = command("refit-agent").unwrap();
    enroll.args(["enroll", "--token", &token, "--name", "web-1", "--data"]).arg(&from);
    Ran::of(&mut enroll).unwrap().good().unwrap();
    fleet.start_agent("web-1").unwrap();
    until("the host counts as healthy again", || {
        let host = fleet.host_status("web-1")?;
        let healthy = host["products"][0]["health"] == "good";
        Ok((host["state"] == "active" && healthy).then_some(()))
    })
    .unwrap();
}
