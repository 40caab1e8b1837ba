//! Metadata that has expired or that is older than what a host has seen: nothing new begins, nothing
//! that runs is stopped, and the host says so.

use std::{fs, path::PathBuf, process::Command};

use refit_durable::testing::not_run;
use refit_tests::{
    process::{Process, Ran, command},
    release::Behaviour,
    wait::until,
};

/// Debian's library that sets the clock of one program.
pub(super) fn faketime() -> Option<PathBuf> {
    let library =
        format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    Some(PathBuf::from(library)).filter(|path| path.exists())
}

#[test]
fn an_expired_timestamp_begins_nothing_stops_nothing_and_is_stated() {
    let claim = "an expired timestamp begins nothing";
    let Some(faketime) = faketime() else {
        let why = format!("{claim} (libfaketime is not installed)");
        return not_run(&why, "sudo apt-get install libfaketime");
    };
    let mut fleet = super::one_host_on_1_0();
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    fleet.publish("1.1", Behaviour::Good).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    // For this host it is five days later; the timestamp is signed for three.
    let host = fleet.host_named("web-1");
    let log = host.folder().join("later.log");
    let mut run = command("refit-agent").unwrap();
    run.args(["run", "--data"]).arg(host.data());
    run.env("LD_PRELOAD", faketime).env("FAKETIME", "+5d");
    let mut later = Process::start(&mut run, &log).unwrap();
    until("the host states that its metadata has expired", || {
        Ok(fs::read_to_string(&log)?.contains("expired").then_some(()))
    })
    .unwrap();
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.0");
    later.terminate().unwrap();
    // Back in the present it goes on.
    fleet.start_agent("web-1").unwrap();
    fleet.until_runs("web-1", "1.1").unwrap();
}

#[test]
fn an_older_state_of_the_server_is_refused_by_the_host_and_named() {
    let mut fleet = super::one_host_on_1_0();
    let copy = fleet.path().join("server-copy");
    let copy_server = |from: &std::path::Path, to: &std::path::Path| {
        Ran::of(Command::new("cp").arg("-a").arg(from).arg(to)).unwrap().good().unwrap();
    };
    fleet.server().unwrap().terminate().unwrap();
    copy_server(&fleet.server_data(), &copy);
    fleet.start_server().unwrap();
    super::install(&fleet, "1.1");
    // The server is put back to the day before 1.1.
    fleet.server().unwrap().terminate().unwrap();
    fs::remove_dir_all(fleet.server_data()).unwrap();
    copy_server(&copy, &fleet.server_data());
    fleet.start_server().unwrap();
    until("the host names the attack", || {
        let log = fs::read_to_string(fleet.host_named("web-1").folder().join("agent.log"))?;
        Ok((log.contains("rollback") || log.contains("older")).then_some(()))
    })
    .unwrap();
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.1");
}
