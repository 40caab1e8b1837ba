//! Somebody changes on a host what Refit installed: nobody is told that all is well.

use std::fs;

use refit_tests::{
    process::{Ran, command},
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
