//! The agent is killed at every transition of an update, and finds its way at the next start.

use refit_tests::{release::Behaviour, wait::until};

/// The states that a good update passes, as docs/ARCHITECTURE.md draws them.
const GOOD_WAY: [&str; 9] = [
    "offered",
    "preflight",
    "fetching",
    "waiting",
    "backing-up",
    "quiescing",
    "sealing",
    "switching",
    "probation",
];

#[test]
fn an_agent_killed_at_any_transition_of_a_good_update_still_brings_it() {
    let mut fleet = super::on_1_0(super::in_two_halves(&super::ONE_RING));
    let points = GOOD_WAY.iter().chain(&["committed"]);
    for (at, phase) in points.enumerate() {
        for when in ["before", "after"] {
            let version = format!("2.{at}-{when}");
            fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
            let crash = format!("{phase}:{when}");
            fleet.start_agent_with("web-1", &[("REFIT_CRASH_AT", &crash)]).unwrap();
            fleet.publish(&version, Behaviour::Good).unwrap();
            fleet.promote(&version, "pilot").unwrap();
            let ended = fleet.host_mut("web-1").agent().unwrap().ended();
            ended.unwrap_or_else(|error| panic!("{crash}: {error:#}"));
            fleet.start_agent("web-1").unwrap();
            fleet.until_runs("web-1", &version).unwrap();
            let done = fleet.until_rollout("pilot", &version, "done").unwrap();
            assert_eq!(done["rollout"]["counts"]["healthy"], 1, "{crash}: {done}");
        }
    }
}

#[test]
fn an_agent_killed_at_any_transition_of_a_bad_update_still_goes_back() {
    let mut fleet = super::one_host_on_1_0();
    for (at, phase) in ["switching", "probation", "rolling-back", "rolled-back"].iter().enumerate()
    {
        for when in ["before", "after"] {
            let version = format!("2.{at}-{when}");
            fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
            let crash = format!("{phase}:{when}");
            fleet.start_agent_with("web-1", &[("REFIT_CRASH_AT", &crash)]).unwrap();
            fleet.publish(&version, Behaviour::Unhealthy).unwrap();
            fleet.promote(&version, "pilot").unwrap();
            let ended = fleet.host_mut("web-1").agent().unwrap().ended();
            ended.unwrap_or_else(|error| panic!("{crash}: {error:#}"));
            fleet.start_agent("web-1").unwrap();
            fleet.until_rollout("pilot", &version, "halted").unwrap();
            until("the old release runs again", || {
                Ok((fleet.host_named("web-1").says()? == "payments 1.0").then_some(()))
            })
            .unwrap_or_else(|error| panic!("{crash}: {error:#}"));
        }
    }
}

#[test]
fn an_agent_that_is_told_to_stop_in_the_middle_goes_on_at_the_next_start() {
    let mut fleet = super::one_host_on_1_0();
    fleet.publish("1.1", Behaviour::Good).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    while fleet.host_named("web-1").says().ok().as_deref() != Some("payments 1.1") {
        let status = fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
        assert!(status.success(), "SIGTERM is an ordinary end: {status}");
        fleet.start_agent("web-1").unwrap();
        // Long enough for some transitions, too short for the whole update.
        std::thread::sleep(std::time::Duration::from_millis(1500));
    }
    fleet.until_rollout("pilot", "1.1", "done").unwrap();
}
