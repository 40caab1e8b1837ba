//! Claims about the whole system, each tried on real processes with real TLS. One program, so that it is
//! linked once; one file for each kind of claim.

#![expect(clippy::unwrap_used, reason = "a test that can't go on is to stop with what went wrong")]

mod approvals;
mod audit_log;
mod backup_restored;
mod bad_release;
mod boxed_hooks;
mod capped_host;
mod change_plan;
mod changed_host;
mod clocks;
mod cloned_host;
mod containers;
mod converted_host;
mod databases;
mod debian_packages;
mod disk_full;
mod enrollment;
mod files_release;
mod good_way;
mod installed_package;
mod keys;
mod killed_agent;
mod killed_server;
mod kinds;
mod lab;
mod lab_host;
mod left_behind;
mod local_holds;
mod lost_server;
mod mirrors;
mod moved_server;
mod offline_host;
mod outside_proof;
mod own_brake;
mod own_update;
mod page;
mod pause;
mod people;
mod pictured_host;
mod proxies;
mod publishing;
mod real_host;
mod real_software;
mod reboots;
mod replaced_host;
mod rescued_host;
mod second_place;
mod server_away;
mod several_packages;
mod stale_metadata;
mod taken_over;
mod tampering;
mod two_halves;
mod update_modules;
mod watched_host;

use refit_tests::sandbox::{LIMITS, Ring, Sandbox, Setup};

/// The rings of most tests: hosts with the label `ring=pilot` or `ring=early`.
const TWO_RINGS: [Ring; 2] =
    [Ring { name: "pilot", limits: LIMITS }, Ring { name: "early", limits: LIMITS }];

/// One ring, for claims about one host.
const ONE_RING: [Ring; 1] = [Ring { name: "pilot", limits: LIMITS }];

/// A fleet of one host in one ring that runs 1.0.
fn one_host_on_1_0() -> Sandbox {
    on_1_0(Sandbox::new(&ONE_RING).unwrap())
}

/// A fleet whose agents are two processes, as our package has it.
fn in_two_halves(rings: &[Ring]) -> Sandbox {
    Sandbox::set_up(Setup { halves: true, ..Setup::default() }, rings).unwrap()
}

fn on_1_0(mut fleet: Sandbox) -> Sandbox {
    fleet.host("web-1", &["ring=pilot"]).unwrap();
    install(&fleet, "1.0");
    fleet
}

/// Publishes a good release and sees it through the pilot ring.
fn install(fleet: &Sandbox, version: &str) {
    fleet.publish(version, refit_tests::release::Behaviour::Good).unwrap();
    fleet.promote(version, "pilot").unwrap();
    fleet.until_runs("web-1", version).unwrap();
    fleet.until_rollout("pilot", version, "done").unwrap();
}
