//! A bad release goes back by itself, stops its rollout, and is not taken again.

use std::{fs, net::TcpListener};

use refit_tests::{release::Behaviour, sandbox::Sandbox};

#[test]
fn a_release_that_fails_its_health_check_goes_back_and_touches_no_other_ring() {
    for behaviour in [Behaviour::Unhealthy, Behaviour::Exits, Behaviour::Hangs] {
        let mut fleet = Sandbox::new(&super::TWO_RINGS).unwrap();
        fleet.host("web-1", &["ring=pilot"]).unwrap();
        fleet.host("web-2", &["ring=early"]).unwrap();
        for ring in ["pilot", "early"] {
            if ring == "pilot" {
                fleet.publish("1.0", Behaviour::Good).unwrap();
            }
            fleet.promote("1.0", ring).unwrap();
            fleet.until_rollout(ring, "1.0", "done").unwrap();
        }
        fleet.publish("1.1", behaviour).unwrap();
        fleet.promote("1.1", "early").unwrap();
        fleet.promote("1.1", "pilot").unwrap();
        let pilot = fleet.until_rollout("pilot", "1.1", "halted").unwrap();
        assert_eq!(pilot["rollout"]["counts"]["rolled_back"], 1, "{behaviour:?}: {pilot}");
        fleet.until_runs("web-1", "1.0").unwrap();
        assert_eq!(fleet.host_named("web-2").says().unwrap(), "payments 1.0", "{behaviour:?}");
        // The digest is refused from now on, and both sides say so.
        let host = fleet.host_status("web-1").unwrap();
        assert_eq!(host["products"][0]["quarantine"].as_array().map(Vec::len), Some(1), "{host}");
        let current = fs::read_link(fleet.host_named("web-1").install().join("payments/current"));
        fleet.refit(["rollout", "resume", "payments", "pilot", "--reason", "try again"]).unwrap();
        refit_tests::wait::until("the host is held for its quarantine", || {
            let host = fleet.host_status("web-1")?;
            Ok((host["products"][0]["hold"]["reason"] == "quarantined").then_some(()))
        })
        .unwrap();
        let now = fs::read_link(fleet.host_named("web-1").install().join("payments/current"));
        assert_eq!(now.unwrap(), current.unwrap(), "{behaviour:?}: it was installed again");
    }
}

#[test]
fn a_first_install_that_fails_leaves_nothing_behind() {
    let mut fleet = Sandbox::new(&super::ONE_RING).unwrap();
    fleet.host("web-1", &["ring=pilot"]).unwrap();
    fleet.publish("1.0", Behaviour::Unhealthy).unwrap();
    fleet.promote("1.0", "pilot").unwrap();
    fleet.until_rollout("pilot", "1.0", "halted").unwrap();
    let host = fleet.host_named("web-1");
    assert!(host.says().is_err(), "the service still runs");
    let left: Vec<_> = walk(&host.install());
    assert!(left.is_empty(), "left behind: {left:?}");
    // And the next, good release is taken as if nothing had been.
    super::install(&fleet, "1.1");
}

#[test]
fn a_release_that_failed_on_a_ring_never_becomes_the_rings_way_back() {
    let fleet = super::one_host_on_1_0();
    fleet.publish("1.1", Behaviour::Unhealthy).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    fleet.until_rollout("pilot", "1.1", "halted").unwrap();
    super::install(&fleet, "1.2");
    assert_eq!(fleet.ring("pilot").unwrap()["back"], "1.0");
    fleet.refit(["rollout", "rollback", "payments", "pilot", "--reason", "slow"]).unwrap();
    fleet.until_runs("web-1", "1.0").unwrap();
}

#[test]
fn a_release_that_failed_is_tried_again_where_a_promotion_says_so() {
    let mut fleet = Sandbox::new(&super::ONE_RING).unwrap();
    fleet.host("web-1", &["ring=pilot"]).unwrap();
    // Not the release is at fault: something else on the host has its port.
    let other = TcpListener::bind(("127.0.0.1", fleet.host_named("web-1").port)).unwrap();
    fleet.publish("1.0", Behaviour::Good).unwrap();
    fleet.promote("1.0", "pilot").unwrap();
    fleet.until_rollout("pilot", "1.0", "halted").unwrap();
    let quarantined = || {
        let host = fleet.host_status("web-1").unwrap();
        host["products"][0]["quarantine"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(quarantined(), 1);
    let told = fleet.promote("1.0", "pilot").unwrap();
    assert!(told.contains("already"), "{told}");
    drop(other);
    let promote = ["release", "promote", "payments", "1.0", "--to", "pilot", "--retry"];
    fleet.refit(promote).unwrap();
    fleet.until_runs("web-1", "1.0").unwrap();
    fleet.until_rollout("pilot", "1.0", "done").unwrap();
    assert_eq!(quarantined(), 0);
    let shown = fleet.json(["release", "show", "payments", "1.0"]).unwrap();
    assert_eq!(shown["rings"][0]["retry"], true, "{shown}");
}

/// Every file and link below a folder; folders that hold nothing do not count.
fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() && !path.is_symlink() {
            found.extend(walk(&path))
        } else {
            found.push(path)
        }
    }
    found
}

#[test]
fn the_last_words_of_a_release_that_failed_are_kept_and_reported() {
    let fleet = super::one_host_on_1_0();
    fleet.publish("1.1", Behaviour::Exits).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    fleet.until_rollout("pilot", "1.1", "halted").unwrap();
    let words = "share/fault says that this release can't start";
    let status = fleet.host_status("web-1").unwrap();
    let reported = status["products"][0]["failure"]["log"].as_str().unwrap();
    assert!(reported.contains(words), "{status}");
    let shown = fleet.refit(["host", "show", "web-1"]).unwrap();
    assert!(
        shown.lines().any(|line| line.starts_with("  log ") && line.contains(words)),
        "{shown}"
    );
    // On the host there is more of it than is reported.
    let kept: Vec<_> =
        std::fs::read_dir(fleet.host_named("web-1").data().join("failed")).unwrap().collect();
    let kept = std::fs::read_to_string(kept[0].as_ref().unwrap().path()).unwrap();
    assert!(kept.contains(words), "{kept}");
}
