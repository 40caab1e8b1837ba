//! What a release uses, measured on a booted Debian host against what the one before used: a release that takes
//! far more goes back, and noise that was there before is nobody's fault. And a host that boots without a network
//! judges nothing by it.

use refit_tests::{
    lab::{self, Cable, DebianHost},
    release::{self, Behaviour, Probation},
    sandbox::Sandbox,
    wait::until,
};

use super::lab_host::{SETTINGS, let_payments_be_reached, until_says};

/// What a service may take more, small enough for a machine that has much else to do.
const CHECKS: &str = r#"
[[health.checked.checks]]
name = "memory"
kind = "memory"
service = "payments"

[[health.checked.checks]]
name = "cpu"
kind = "cpu"
service = "payments"
growth = { percent = 300, least = 40 }

[[health.checked.checks]]
name = "files"
kind = "descriptors"
service = "payments"

[[health.checked.checks]]
name = "errors"
kind = "errors"
service = "payments"

[[health.checked.checks]]
name = "disk"
kind = "disk"
paths = ["/var/lib/payments"]
growth = { least = 10000000 }
"#;

struct Lab {
    fleet: Sandbox,
    host: DebianHost,
    /// Where the host finds the server.
    server: std::net::IpAddr,
}

impl Lab {
    fn new(claim: &str, settings: &str) -> Option<Lab> {
        let lab = lab::Lab::new(claim).unwrap()?;
        let host = lab.host("debian-1", &[]).unwrap();
        let fleet = lab.fleet(&super::ONE_RING).unwrap();
        let_payments_be_reached(&host);
        host.enroll(&fleet, &["ring=pilot"], settings).unwrap();
        Some(Lab { fleet, host, server: lab.address() })
    }

    /// A release that is watched by these checks; what ran before is measured for a few seconds.
    fn promote(&self, version: &str, behaviour: Behaviour, good: u32, checks: &str) {
        let probation = Probation { start: 1, good };
        let built = self.fleet.build_measured(version, behaviour, probation, 4, checks).unwrap();
        self.fleet.publish_built(&built).unwrap();
        self.fleet.promote(version, "pilot").unwrap();
    }

    fn until_committed(&self, version: &str) {
        self.fleet.until_rollout("pilot", version, "done").unwrap();
        until_says(&self.host, version);
    }

    /// Waits until the host has gone back, and says why by the name of this check.
    fn until_caught(&self, version: &str, check: &str) {
        self.fleet.until_rollout("pilot", version, "halted").unwrap();
        until(&format!("{version} is caught by its {check}"), || {
            let told = self.fleet.host_status("debian-1")?.to_string();
            let caught = told.contains("health-check-failed")
                && told.contains(&format!("{check}: "))
                && told.contains("before the update");
            if caught { Ok(Some(())) } else { anyhow::bail!("{told}") }
        })
        .unwrap();
        until_says(&self.host, "1.0");
    }
}

#[test]
fn a_release_that_takes_far_more_than_the_one_before_goes_back() {
    let claim =
        "releases that leak, spin, open files, log errors and fill a disk, on a booted Debian host";
    let Some(lab) = Lab::new(claim, &format!("{SETTINGS}\n[brake]\nfailures = 0\n")) else {
        return;
    };
    lab.promote("1.0", Behaviour::Good, 2, CHECKS);
    lab.until_committed("1.0");

    // 200 MB that nobody reads any more.
    let leaks = "(head -c 200000000 /dev/zero | tail -c 200000000 | sleep 1000) &";
    lab.promote("1.1", Behaviour::Runs(leaks), 300, CHECKS);
    lab.until_caught("1.1", "memory");

    let spins = "for n in 1 2 3; do (while :; do :; done) & done";
    lab.promote("1.2", Behaviour::Runs(spins), 300, CHECKS);
    lab.until_caught("1.2", "cpu");

    let opens = "bash -c 'for n in $(seq 300); do exec {f}</dev/null; done; sleep 1000' &";
    lab.promote("1.3", Behaviour::Runs(opens), 300, CHECKS);
    lab.until_caught("1.3", "files");

    let complains = "(while :; do echo '<3>the ledger is gone'; sleep 0.2; done) &";
    lab.promote("1.4", Behaviour::Runs(complains), 300, CHECKS);
    lab.until_caught("1.4", "errors");

    let fills =
        "mkdir -p /var/lib/payments; head -c 20000000 /dev/urandom >/var/lib/payments/spool";
    lab.promote("1.5", Behaviour::Runs(fills), 300, CHECKS);
    lab.until_caught("1.5", "disk");

    // What takes no more than before is good.
    lab.promote("1.6", Behaviour::Good, 5, CHECKS);
    lab.until_committed("1.6");
}

/// A service that systemd watches, and that gives no sign of life.
const SILENT: &str = "[Unit]
Description=payments
[Service]
WorkingDirectory=/opt/refit/payments/current/payments
ExecStart=/opt/refit/payments/current/payments/bin/demo-service 8080
WatchdogSec=4
Restart=always
RestartSec=0
[Install]
WantedBy=multi-user.target
";

#[test]
fn a_service_that_systemds_watchdog_kills_is_found_though_it_answers_between() {
    let claim = "a service killed by its watchdog, on a booted Debian host";
    let Some(lab) = Lab::new(claim, SETTINGS) else { return };
    lab.promote("1.0", Behaviour::Good, 2, "");
    lab.until_committed("1.0");
    let source = lab.fleet.path().join("source-1.1");
    let probation = Probation { start: 1, good: 300 };
    let unit = "[[health.checked.checks]]\nname = \"unit\"\nkind = \"unit\"\n\
                service = \"payments\"\ntimeout_seconds = 2\n";
    release::write(&source, "1.1", Behaviour::Good, probation, unit).unwrap();
    std::fs::write(source.join("tree/share/payments.service"), SILENT).unwrap();
    let path = source.join("refit.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let named = "name = \"payments\"\n";
    let own = format!("{named}unit_file = \"share/payments.service\"\n");
    std::fs::write(&path, text.replacen(named, &own, 1)).unwrap();
    lab.fleet.publish_built(&lab.fleet.build_from(&source, "1.1").unwrap()).unwrap();
    lab.fleet.promote("1.1", "pilot").unwrap();
    lab.fleet.until_rollout("pilot", "1.1", "halted").unwrap();
    until("what the watchdog did is the cause", || {
        let told = lab.fleet.host_status("debian-1")?.to_string();
        let caught = told.contains("health-check-failed") && told.contains("has ended");
        if caught { Ok(Some(())) } else { anyhow::bail!("{told}") }
    })
    .unwrap();
    until_says(&lab.host, "1.0");
    let journal = lab.host.good(["journalctl", "--unit", "payments", "--no-pager"]).unwrap();
    assert!(journal.contains("Watchdog timeout"), "{journal}");
}

#[test]
fn a_service_that_was_as_noisy_before_the_update_is_not_blamed() {
    let claim = "a service that is as noisy before its update as after it, on a booted Debian host";
    let Some(lab) = Lab::new(claim, SETTINGS) else { return };
    let noisy = "(while :; do echo '<3>the ledger is gone'; sleep 0.2; done) & \
                 (while :; do :; done) & \
                 (head -c 100000000 /dev/zero | tail -c 100000000 | sleep 1000) & \
                 bash -c 'for n in $(seq 300); do exec {f}</dev/null; done; sleep 1000' &";
    // Long enough for a whole minute of its errors.
    lab.promote("1.0", Behaviour::Runs(noisy), 75, "");
    lab.until_committed("1.0");
    lab.promote("1.1", Behaviour::Runs(noisy), 20, CHECKS);
    lab.until_committed("1.1");
    let told = lab.fleet.host_status("debian-1").unwrap().to_string();
    assert!(told.contains("\"good\""), "{told}");
}

#[test]
fn a_host_that_boots_without_a_network_in_probation_judges_nothing_by_it() {
    let claim = "a boot without a network in the middle of probation, on a booted Debian host";
    let Some(mut lab) = Lab::new(claim, SETTINGS) else { return };
    lab.promote("1.0", Behaviour::Good, 2, "");
    lab.until_committed("1.0");
    let checks = format!(
        "[[health.checked.checks]]\nname = \"server\"\nkind = \"tcp\"\ntimeout_seconds = 1\n\
         address = \"{}:{}\"\n",
        lab.server,
        lab.fleet.port()
    );
    lab.promote("1.1", Behaviour::Good, 20, &checks);
    until_says(&lab.host, "1.1");
    let said = |lab: &Lab| anyhow::Ok(lab.host.agent_status()?["products"][0].clone());
    until(
        "the release is in probation",
        || Ok((said(&lab)?["phase"] == "probation").then_some(())),
    )
    .unwrap();
    lab.host.cut_power().unwrap();
    lab.host.set_cable(Cable::Pulled).unwrap();
    lab.host.power_on().unwrap();
    until("the check says nothing", || {
        let said = said(&lab)?;
        let unknown = said["phase"] == "probation" && said["health"] == "unknown";
        if unknown { Ok(Some(())) } else { anyhow::bail!("{said}") }
    })
    .unwrap();
    // Asked far more often than makes it bad: once in two or three seconds.
    until("the agent has watched it for a while", || {
        let script = "read up _ </proc/uptime; \
                      began=$(systemctl show -P ActiveEnterTimestampMonotonic refit-agent); \
                      echo $((${up%.*} - began / 1000000))";
        let watched: u64 = lab.host.good(["sh", "-c", script])?.trim().parse()?;
        Ok((watched > 20).then_some(()))
    })
    .unwrap();
    let said = said(&lab).unwrap();
    assert_eq!(
        (said["phase"].as_str(), said["health"].as_str()),
        (Some("probation"), Some("unknown"))
    );
    lab.host.set_cable(Cable::Plugged).unwrap();
    lab.until_committed("1.1");
}
