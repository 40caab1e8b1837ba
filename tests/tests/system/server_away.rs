//! Losing the server is not bad health, and what a host has to report arrives exactly once.

use std::fs;

use refit_tests::{
    release::{Behaviour, Probation},
    sandbox::Sandbox,
    wait::until,
};

/// What the agent says of the product.
fn product(fleet: &Sandbox) -> anyhow::Result<serde_json::Value> {
    Ok(fleet.agent_status("web-1")?["products"][0].clone())
}

/// Waits until the host has its leave, and has not come to an end.
fn until_begun(fleet: &Sandbox) {
    until("the host holds a lease", || {
        let phase = product(fleet)?["phase"].as_str().unwrap_or_default().to_owned();
        Ok(["backing-up", "quiescing", "sealing", "switching", "probation"]
            .contains(&phase.as_str())
            .then_some(()))
    })
    .unwrap();
}

fn until_rolled_back(fleet: &Sandbox) {
    until("the host has gone back by itself", || {
        Ok((product(fleet)?["phase"].as_str() == Some("rolled-back")).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_server_away_from_the_lease_on_does_not_undo_a_healthy_release_and_hears_of_it_later() {
    let mut fleet = super::one_host_on_1_0();
    let built =
        fleet.build_with("1.1", Behaviour::Good, Probation { start: 1, good: 4 }, "").unwrap();
    fleet.publish_built(&built).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    until_begun(&fleet);
    fleet.server().unwrap().kill().unwrap();
    fleet.until_runs("web-1", "1.1").unwrap();
    until("the host commits without the server", || {
        let product = product(&fleet)?;
        Ok((product["installed"]["version"] == "1.1" && product["health"] == "good").then_some(()))
    })
    .unwrap();
    // Away over a restart of the host as well.
    fleet.host_mut("web-1").agent().unwrap().kill().unwrap();
    fleet.start_agent("web-1").unwrap();
    fleet.until_runs("web-1", "1.1").unwrap();
    fleet.start_server().unwrap();
    let done = fleet.until_rollout("pilot", "1.1", "done").unwrap();
    let counts = &done["rollout"]["counts"];
    assert_eq!((&counts["healthy"], &counts["failed"]), (&1.into(), &0.into()), "{done}");
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.1");
}

#[test]
fn a_bad_release_goes_back_without_the_server_and_the_brake_hears_of_it_later() {
    let mut fleet = super::one_host_on_1_0();
    let built =
        fleet.build_with("1.1", Behaviour::Unhealthy, Probation { start: 4, good: 1 }, "").unwrap();
    fleet.publish_built(&built).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    fleet.until_runs("web-1", "1.1").unwrap();
    fleet.server().unwrap().kill().unwrap();
    fleet.until_runs("web-1", "1.0").unwrap();
    until_rolled_back(&fleet);
    fleet.start_server().unwrap();
    let halted = fleet.until_rollout("pilot", "1.1", "halted").unwrap();
    assert_eq!(halted["rollout"]["counts"]["rolled_back"], 1, "{halted}");
}

#[test]
fn an_agent_without_its_server_keeps_asking() {
    let mut fleet = super::one_host_on_1_0();
    fleet.server().unwrap().kill().unwrap();
    until("the agent says that the server is away", || {
        let log = fs::read_to_string(fleet.host_named("web-1").folder().join("agent.log"))?;
        Ok(log.contains("server").then_some(()))
    })
    .unwrap();
    fleet.start_server().unwrap();
    super::install(&fleet, "1.1");
}

#[test]
fn a_rollback_that_nobody_watched_is_reported_with_its_cause_and_the_last_words_of_the_release() {
    let mut fleet = super::one_host_on_1_0();
    let built =
        fleet.build_with("1.1", Behaviour::Exits, Probation { start: 4, good: 5 }, "").unwrap();
    fleet.publish_built(&built).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    until_begun(&fleet);
    fleet.server().unwrap().kill().unwrap();
    until_rolled_back(&fleet);
    fleet.until_runs("web-1", "1.0").unwrap();
    // The agent of that time is gone as well; another one tells of it.
    fleet.host_mut("web-1").agent().unwrap().kill().unwrap();
    fleet.start_agent("web-1").unwrap();
    let told = product(&fleet).unwrap();
    assert!(!told["since"].as_str().unwrap_or_default().is_empty(), "{told}");
    fleet.start_server().unwrap();
    fleet.until_rollout("pilot", "1.1", "halted").unwrap();
    let said = fleet.host_status("web-1").unwrap();
    let failure = &said["products"][0]["failure"];
    assert!(
        ["health-check-failed", "services-did-not-start"]
            .contains(&failure["cause"].as_str().unwrap_or_default()),
        "{said}"
    );
    let log = failure["log"].as_str().unwrap_or_default();
    assert!(log.contains("share/fault says that this release can't start"), "{said}");
}
