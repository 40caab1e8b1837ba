//! The agent as a real systemd service on a real, booted Debian host, from our own package.

use refit_tests::{
    lab::{DebianHost, Lab},
    release::Behaviour,
    wait::until,
};
use serde_json::Value;

use super::lab_host::{SETTINGS, let_payments_be_reached, until_says};

#[test]
fn a_real_debian_host_takes_a_good_release_and_goes_back_from_a_bad_one() {
    let claim = "the agent as a systemd service on a booted Debian host";
    let Some(lab) = Lab::new(claim).unwrap() else { return };
    let mut host = lab.host("debian-1", &[]).unwrap();
    let fleet = lab.fleet(&super::ONE_RING).unwrap();
    let_payments_be_reached(&host);
    host.enroll(&fleet, &["ring=pilot"], SETTINGS).unwrap();

    fleet.publish("1.0", Behaviour::Good).unwrap();
    fleet.promote("1.0", "pilot").unwrap();
    until_says(&host, "1.0");
    assert_eq!(host.good(["systemctl", "is-active", "payments"]).unwrap().trim(), "active");
    fleet.until_rollout("pilot", "1.0", "done").unwrap();

    fleet.publish("1.1", Behaviour::Good).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    until_says(&host, "1.1");
    fleet.until_rollout("pilot", "1.1", "done").unwrap();

    fleet.publish("1.2", Behaviour::Unhealthy).unwrap();
    fleet.promote("1.2", "pilot").unwrap();
    fleet.until_rollout("pilot", "1.2", "halted").unwrap();
    until_says(&host, "1.1");
    let agent = host.good(["systemctl", "show", "-P", "ActiveState", "refit-agent"]).unwrap();
    assert_eq!(agent.trim(), "active");
    the_journal_tells_what_became_of(&host, "1.2");

    // Power is cut in the middle of an update; the host comes back on a whole release.
    fleet.publish("1.3", Behaviour::Good).unwrap();
    fleet.promote("1.3", "pilot").unwrap();
    until("the update has begun", || {
        let counts = fleet.ring("pilot")?["rollout"]["counts"].clone();
        Ok((counts["in_flight"] == 1).then_some(()))
    })
    .unwrap();
    host.cut_power().unwrap();
    host.power_on().unwrap();
    until_says(&host, "1.3");
    fleet.until_rollout("pilot", "1.3", "done").unwrap();
    assert_eq!(host.good(["systemctl", "is-enabled", "refit-agent"]).unwrap().trim(), "enabled");
}

/// Each line of the agent about an update has the product as a field of its own, and a program can ask for it.
fn the_journal_tells_what_became_of(host: &DebianHost, version: &str) {
    host.good(["journalctl", "--sync"]).unwrap();
    let asked = ["journalctl", "--output", "json", "REFIT_PRODUCT=payments"];
    let lines = host.good(asked).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told: Vec<Value> = lines.filter(|line| line["REFIT_VERSION"] == version).collect();
    assert!(!told.is_empty(), "no line of the journal has {version}");
    for line in told {
        assert_eq!(line["REFIT_PRODUCT"], "payments", "{line}");
        assert_eq!(line["SYSLOG_IDENTIFIER"], "refit-agent", "{line}");
        assert!(line["PRIORITY"].as_str().is_some_and(|it| it.parse::<u8>().is_ok()), "{line}");
        assert!(
            line["REFIT_TARGET"].as_str().is_some_and(|it| it.contains("refit_agent")),
            "{line}"
        );
    }
}
