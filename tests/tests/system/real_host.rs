//! The agent as a real systemd service on a real, booted Debian host.

use refit_tests::{
    http,
    lab::DebianHost,
    release::Behaviour,
    sandbox::{Sandbox, free_port},
    wait::until,
};

fn says(port: u16) -> anyhow::Result<String> {
    Ok(http::get(port, "/")?.1.trim().to_owned())
}

fn until_says(port: u16, version: &str) {
    let wanted = format!("payments {version}");
    until(&format!("the host's service says {wanted}"), || {
        Ok((says(port)? == wanted).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_real_debian_host_takes_a_good_release_and_goes_back_from_a_bad_one() {
    let claim = "the agent as a systemd service on a booted Debian host";
    let Some(mut host) = DebianHost::boot(claim).unwrap() else { return };
    let fleet = Sandbox::new(&super::ONE_RING).unwrap();
    let port = free_port().unwrap();
    host.write(
        "/var/lib/refit-agent/agent.toml",
        &format!("services = \"systemd\"\n\n[variables]\nPORT = \"{port}\"\n"),
    )
    .unwrap();
    let token = fleet.token(&["ring=pilot"]).unwrap();
    host.good(["refit-agent", "enroll", "--token", &token, "--name", "debian-1"]).unwrap();
    host.install_units().unwrap();

    fleet.publish("1.0", Behaviour::Good).unwrap();
    fleet.promote("1.0", "pilot").unwrap();
    until_says(port, "1.0");
    assert_eq!(host.good(["systemctl", "is-active", "payments"]).unwrap().trim(), "active");
    fleet.until_rollout("pilot", "1.0", "done").unwrap();

    fleet.publish("1.1", Behaviour::Good).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    until_says(port, "1.1");
    fleet.until_rollout("pilot", "1.1", "done").unwrap();

    fleet.publish("1.2", Behaviour::Unhealthy).unwrap();
    fleet.promote("1.2", "pilot").unwrap();
    fleet.until_rollout("pilot", "1.2", "halted").unwrap();
    until_says(port, "1.1");
    let agent = host.good(["systemctl", "show", "-P", "ActiveState", "refit-agent"]).unwrap();
    assert_eq!(agent.trim(), "active");

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
    until_says(port, "1.3");
    fleet.until_rollout("pilot", "1.3", "done").unwrap();
    assert_eq!(host.good(["systemctl", "is-enabled", "refit-agent"]).unwrap().trim(), "enabled");
}
