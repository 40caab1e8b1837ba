//! Stopping needs nobody's signature and is obeyed within one lease.

use refit_tests::{
    release::{Behaviour, Probation},
    sandbox::{Ring, Sandbox},
    wait::until,
};

const SHORT_LEASE: Ring = Ring {
    name: "pilot",
    limits: r#"
max_in_flight = 1
soak = "1s"
lease = "3s"
poll = "1s"
silence = "60s"
update_limit = "120s"
halt = { failures = 1, percent = 50 }
"#,
};

#[test]
fn after_a_pause_no_host_begins_and_a_resume_lets_them_go_on() {
    let mut fleet = Sandbox::new(&[SHORT_LEASE]).unwrap();
    for host in ["web-1", "web-2", "web-3"] {
        fleet.host(host, &["ring=pilot"]).unwrap();
    }
    let built =
        fleet.build_with("1.0", Behaviour::Good, Probation { start: 1, good: 3 }, "").unwrap();
    fleet.publish_built(&built).unwrap();
    fleet.promote("1.0", "pilot").unwrap();
    let count = |fleet: &Sandbox, name: &str| -> anyhow::Result<u64> {
        Ok(fleet.ring("pilot")?["rollout"]["counts"][name].as_u64().unwrap_or_default())
    };
    until("the first host is in flight", || Ok((count(&fleet, "in_flight")? == 1).then_some(())))
        .unwrap();
    fleet.refit(["rollout", "pause", "payments", "pilot", "--reason", "lunch"]).unwrap();
    // The one in flight finishes; with the brake on, nobody follows it.
    until("nothing is in flight", || Ok((count(&fleet, "in_flight")? == 0).then_some(()))).unwrap();
    let running = |fleet: &Sandbox| {
        let hosts = ["web-1", "web-2", "web-3"];
        hosts.iter().filter(|host| fleet.host_named(host).says().is_ok()).count()
    };
    let paused_at = std::time::Instant::now();
    until("two leases have passed", || {
        assert_eq!(running(&fleet), 1, "a host began after the pause");
        Ok((paused_at.elapsed().as_secs() >= 6).then_some(()))
    })
    .unwrap();
    let held = fleet.ring("pilot").unwrap();
    assert_eq!(held["rollout"]["state"], "paused", "{held}");
    assert!(held["rollout"]["hold"]["text"].as_str().unwrap().contains("lunch"), "{held}");
    fleet.refit(["rollout", "resume", "payments", "pilot", "--reason", "back"]).unwrap();
    let done = fleet.until_rollout("pilot", "1.0", "done").unwrap();
    assert_eq!(done["rollout"]["counts"]["healthy"], 3, "{done}");
}

#[test]
fn a_host_that_was_out_of_reach_with_its_lease_does_not_begin_when_it_has_run_out() {
    let mut fleet = Sandbox::new(&[SHORT_LEASE]).unwrap();
    fleet.host("web-1", &["ring=pilot"]).unwrap();
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    // It dies with the lease in its journal, before it began.
    fleet.start_agent_with("web-1", &[("REFIT_CRASH_AT", "backing-up:after")]).unwrap();
    fleet.publish("1.0", Behaviour::Good).unwrap();
    fleet.promote("1.0", "pilot").unwrap();
    fleet.host_mut("web-1").agent().unwrap().ended().unwrap();
    fleet.refit(["rollout", "pause", "payments", "pilot", "--reason", "stop"]).unwrap();
    let died = std::time::Instant::now();
    until("the lease has run out", || Ok((died.elapsed().as_secs() > 4).then_some(()))).unwrap();
    fleet.start_agent("web-1").unwrap();
    let started = std::time::Instant::now();
    until("the agent has had time to begin", || {
        assert!(
            !fleet.host_named("web-1").install().join("payments/current").exists(),
            "it began with a lease that had run out"
        );
        Ok((started.elapsed().as_secs() >= 6).then_some(()))
    })
    .unwrap();
}
