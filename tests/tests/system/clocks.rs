//! Hosts whose clocks are wrong, and metadata that expires in the middle of an update: nothing that began stays
//! half done, nothing that runs is stopped, and no clock leaves a mark that a person has to remove.

use std::{fs, path::Path};

use refit_durable::testing::not_run;
use refit_tests::{
    release::{Behaviour, Probation},
    sandbox::Sandbox,
    wait::until,
};

use super::stale_metadata::faketime;

/// Starts the agent of the one host with another clock.
fn with_clock(fleet: &mut Sandbox, library: &Path, clock: &[(&str, &str)]) {
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    let library = library.to_string_lossy().into_owned();
    // Running time is not the wall clock's: only that one is wrong.
    let mut environment = vec![
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    environment.extend(clock);
    fleet.start_agent_with("web-1", &environment).unwrap();
}

fn log(fleet: &Sandbox) -> String {
    fs::read_to_string(fleet.host_named("web-1").folder().join("agent.log")).unwrap()
}

#[test]
fn a_clock_in_1970_or_one_day_back_is_named_and_the_host_updates_without_a_person() {
    let claim = "a clock in 1970 or one day back";
    let Some(faketime) = faketime() else {
        let why = format!("{claim} (libfaketime is not installed)");
        return not_run(&why, "sudo apt-get install libfaketime");
    };
    let mut fleet = super::one_host_on_1_0();
    for (version, clock) in [("1.1", "@1970-01-02 00:00:00"), ("1.2", "-1d")] {
        let before = log(&fleet).matches("this host's clock is wrong").count();
        with_clock(&mut fleet, &faketime, &[("FAKETIME", clock)]);
        super::install(&fleet, version);
        let after = log(&fleet).matches("this host's clock is wrong").count();
        assert_eq!(after, before + 1, "{clock}: it is not said");
    }
    // Right again, it goes on as if nothing had been.
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    fleet.start_agent("web-1").unwrap();
    super::install(&fleet, "1.3");
}

#[test]
fn a_clock_ten_years_ahead_begins_nothing_stops_nothing_and_leaves_no_mark() {
    let claim = "a clock ten years ahead";
    let Some(faketime) = faketime() else {
        let why = format!("{claim} (libfaketime is not installed)");
        return not_run(&why, "sudo apt-get install libfaketime");
    };
    let mut fleet = super::one_host_on_1_0();
    with_clock(&mut fleet, &faketime, &[("FAKETIME", "+10y")]);
    fleet.publish("1.1", Behaviour::Good).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    until("the host says why it stands still", || {
        let told = fleet.agent_status("web-1")?;
        let expired = told["metadata_expired"] == true;
        Ok((expired && told["products"][0]["hold"]["reason"] == "metadata-expired").then_some(()))
    })
    .unwrap();
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.0");
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    fleet.start_agent("web-1").unwrap();
    fleet.until_runs("web-1", "1.1").unwrap();
    fleet.until_rollout("pilot", "1.1", "done").unwrap();
}

#[test]
fn metadata_that_expires_in_the_middle_of_an_update_neither_stops_it_nor_its_way_back() {
    let claim = "metadata that expires in the middle of an update";
    let Some(faketime) = faketime() else {
        let why = format!("{claim} (libfaketime is not installed)");
        return not_run(&why, "sudo apt-get install libfaketime");
    };
    for (behaviour, ends, runs) in
        [(Behaviour::Good, "committed", "1.1"), (Behaviour::Unhealthy, "rolled-back", "1.0")]
    {
        let mut fleet = super::one_host_on_1_0();
        let clock = fleet.path().join("clock");
        fs::write(&clock, "+0").unwrap();
        let file = clock.to_string_lossy().into_owned();
        let own = [("FAKETIME_TIMESTAMP_FILE", file.as_str()), ("FAKETIME_NO_CACHE", "1")];
        with_clock(&mut fleet, &faketime, &own);
        let probation = Probation { start: 5, good: 5 };
        let built = fleet.build_with("1.1", behaviour, probation, "").unwrap();
        fleet.publish_built(&built).unwrap();
        fleet.promote("1.1", "pilot").unwrap();
        until("the update has begun", || {
            let told = fleet.agent_status("web-1")?;
            let phase = told["products"][0]["phase"].as_str().unwrap_or_default().to_owned();
            let begun = ["backing-up", "quiescing", "sealing", "switching", "probation"];
            Ok(begun.contains(&phase.as_str()).then_some(()))
        })
        .unwrap();
        // All that is signed for days is over in this moment. And the server can't be asked.
        fs::write(&clock, "+20d").unwrap();
        fleet.server().unwrap().kill().unwrap();
        let told = until("the update is over", || {
            let told = fleet.agent_status("web-1")?;
            Ok((told["products"][0]["phase"] == ends).then_some(told))
        })
        .unwrap();
        assert_eq!(told["metadata_expired"], true, "{told}");
        fleet.until_runs("web-1", runs).unwrap();
    }
}
