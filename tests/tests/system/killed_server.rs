//! The server is killed at any moment; nothing is lost and nothing is doubled.

use std::{thread, time::Duration};

use refit_tests::{
    process::{Ran, command},
    release::Behaviour,
    sandbox::Sandbox,
    wait::until,
};

/// Runs a `refit` command, kills the server after `delay`, starts it again, and repeats the command until
/// it succeeds, as a person would.
fn with_a_kill(fleet: &mut Sandbox, delay: Duration, words: &[&str]) {
    let mut refit = fleet.refit_command().unwrap();
    refit.args(words);
    let running = thread::spawn(move || Ran::of(&mut refit).unwrap());
    // The moment of the kill is what is varied; nothing is waited for here.
    thread::sleep(delay);
    fleet.server().unwrap().kill().unwrap();
    let first = running.join().unwrap();
    fleet.start_server().unwrap();
    if !first.success {
        until("the command succeeds when it is repeated", || {
            fleet.refit(words.iter().copied()).map(Some)
        })
        .unwrap();
    }
}

#[test]
fn a_server_killed_during_publish_and_promotion_loses_and_doubles_nothing() {
    let mut fleet = super::one_host_on_1_0();
    for (at, delay) in [0, 20, 40, 60, 80, 120, 200].into_iter().enumerate() {
        let version = format!("2.{at}");
        let delay = Duration::from_millis(delay);
        let built = fleet.build(&version, Behaviour::Good).unwrap().to_string_lossy().into_owned();
        fleet.refit(["release", "sign", &built, "--key", "release"]).unwrap();
        with_a_kill(&mut fleet, delay, &["release", "publish", &built]);
        with_a_kill(
            &mut fleet,
            delay,
            &["release", "promote", "payments", &version, "--to", "pilot"],
        );
        let list = fleet.releases().unwrap();
        let listed = list.iter().filter(|listed| **listed == version).count();
        assert_eq!(listed, 1, "killed after {delay:?}: {list:?}");
        fleet.refit(["audit", "verify"]).unwrap();
    }
    fleet.until_runs("web-1", "2.6").unwrap();
    let done = fleet.until_rollout("pilot", "2.6", "done").unwrap();
    assert_eq!(done["rollout"]["counts"]["healthy"], 1, "{done}");
}

#[test]
fn a_server_killed_again_and_again_in_mid_rollout_counts_every_host_once() {
    let mut fleet = super::one_host_on_1_0();
    for host in ["web-2", "web-3"] {
        fleet.host(host, &["ring=pilot"]).unwrap();
        fleet.until_runs(host, "1.0").unwrap();
    }
    fleet.publish("1.1", Behaviour::Good).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    for _ in 0..6 {
        thread::sleep(Duration::from_millis(700));
        fleet.server().unwrap().kill().unwrap();
        fleet.start_server().unwrap();
    }
    for host in ["web-1", "web-2", "web-3"] {
        fleet.until_runs(host, "1.1").unwrap();
    }
    let done = fleet.until_rollout("pilot", "1.1", "done").unwrap();
    let counts = &done["rollout"]["counts"];
    assert_eq!(
        (&counts["healthy"], &counts["failed"], &counts["total"]),
        (&3.into(), &0.into(), &3.into())
    );
    fleet.refit(["audit", "verify"]).unwrap();
}

#[test]
fn an_init_that_is_run_twice_changes_nothing() {
    let fleet = Sandbox::new(&super::ONE_RING).unwrap();
    let before = fleet.refit(["audit", "list"]).unwrap();
    let again = Ran::of(
        command("refit-server")
            .unwrap()
            .args(["init", "--admin", "mallory", "--data"])
            .arg(fleet.server_data()),
    )
    .unwrap();
    assert!(!again.out.contains("refit1-"), "a second token was given: {}", again.out);
    assert_eq!(fleet.refit(["audit", "list"]).unwrap(), before);
}
