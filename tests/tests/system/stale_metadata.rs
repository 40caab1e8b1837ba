//! Metadata that has expired or that is older than what a host has seen: nothing new begins, nothing
//! that runs is stopped, and the host says so.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use refit_durable::testing::not_run;
use refit_tests::{
    process::{Process, Ran, command},
    release::Behaviour,
    sandbox::Sandbox,
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
fn a_server_put_back_two_publications_says_what_it_lacks_and_has_it_back_once_its_content_is_here()
{
    let mut fleet = super::one_host_on_1_0();
    let copy = copy_of_the_server(&mut fleet);
    super::install(&fleet, "1.1");
    super::install(&fleet, "1.2");
    until("the host has seen the newest", || {
        let seen =
            fs::read_to_string(fleet.host_named("web-1").data().join("trust/snapshot.json"))?;
        Ok(seen.contains("ring.payments.pilot").then_some(()))
    })
    .unwrap();
    put_back(&mut fleet, &copy);
    until("the server says which files it lacks", || {
        let shown = fleet.json(["server", "show"])?;
        let lacking: Vec<&str> = shown["lacking"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|it| it["role"].as_str())
            .collect();
        Ok((lacking == ["release.payments", "ring.payments.pilot"]).then_some(()))
    })
    .unwrap();
    assert_eq!(
        fleet.host_named("web-1").says().unwrap(),
        "payments 1.2",
        "nothing that runs is touched"
    );
    // What the copy has no content of comes from the publisher; the signed files come from the host. The
    // publisher's own copy is newer than the server, so all that the command can do now is to upload.
    for version in ["1.1", "1.2"] {
        let built = fleet.path().join(format!("release-{version}")).to_string_lossy().into_owned();
        let _told_that_the_server_is_behind =
            Ran::of(fleet.refit_command().unwrap().args(["release", "publish", &built])).unwrap();
    }
    until("the server lacks nothing", || {
        let shown = fleet.json(["server", "show"])?;
        Ok((shown["lacking"].as_array().is_some_and(Vec::is_empty)).then_some(()))
    })
    .unwrap();
    assert_eq!(fleet.releases().unwrap().len(), 3);
    super::install(&fleet, "1.3");
}

#[test]
fn a_server_put_back_while_every_host_is_away_has_two_roots_and_a_release_back_from_a_publisher() {
    let mut fleet = super::one_host_on_1_0();
    let copy = copy_of_the_server(&mut fleet);
    super::install(&fleet, "1.1");
    for (before, name) in [("root", "bob"), ("bob", "carol")] {
        fleet
            .refit(["key", "generate", "--role", "root", "--name", name, "--unencrypted"])
            .unwrap();
        fleet.refit(["trust", "rotate", "root", "--remove", before, "--add", name]).unwrap();
    }
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    put_back(&mut fleet, &copy);
    let built = fleet.path().join("release-1.1").to_string_lossy().into_owned();
    let told = Ran::of(fleet.refit_command().unwrap().args(["release", "publish", &built]));
    let told = told.unwrap();
    assert!(told.success && told.err.contains("put back to an older copy"), "{told:?}");
    assert!(fleet.refit(["trust", "verify"]).unwrap().contains("root 3"));
    assert_eq!(fleet.releases().unwrap().len(), 2);
    // Nothing of it is new to the host, which goes on.
    fleet.start_agent("web-1").unwrap();
    super::install(&fleet, "1.2");
}

#[test]
fn an_older_state_of_the_server_is_refused_by_the_host_and_named() {
    let mut fleet = super::one_host_on_1_0();
    let copy = copy_of_the_server(&mut fleet);
    super::install(&fleet, "1.1");
    // The server is put back to the day before 1.1.
    put_back(&mut fleet, &copy);
    until("the host names the attack", || {
        let log = fs::read_to_string(fleet.host_named("web-1").folder().join("agent.log"))?;
        Ok((log.contains("rollback") || log.contains("older")).then_some(()))
    })
    .unwrap();
    assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.1");
}

/// A copy of the server's folder, made while it does not run.
fn copy_of_the_server(fleet: &mut Sandbox) -> PathBuf {
    let copy = fleet.path().join("server-copy");
    fleet.server().unwrap().terminate().unwrap();
    copy_folder(&fleet.server_data(), &copy);
    fleet.start_server().unwrap();
    copy
}

/// Puts the server back to a copy.
fn put_back(fleet: &mut Sandbox, copy: &Path) {
    fleet.server().unwrap().terminate().unwrap();
    fs::remove_dir_all(fleet.server_data()).unwrap();
    copy_folder(copy, &fleet.server_data());
    fleet.start_server().unwrap();
}

fn copy_folder(from: &Path, to: &Path) {
    Ran::of(Command::new("cp").arg("-a").arg(from).arg(to)).unwrap().good().unwrap();
}
