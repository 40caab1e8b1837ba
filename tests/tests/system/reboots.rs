//! Releases that need a boot, on a booted Debian host: the boot comes when nothing holds it off, at most
//! twice, and what comes of it is judged afterwards.

use std::time::Duration;

use refit_tests::{
    http,
    lab::{self, DebianHost},
    release::{Behaviour, Probation},
    sandbox::Sandbox,
    wait::until,
};

use super::lab_host::{SETTINGS, let_payments_be_reached, says, until_says};

struct Lab {
    fleet: Sandbox,
    host: DebianHost,
}

impl Lab {
    /// A host on 1.0; `None` where this machine can't.
    fn on_1_0(claim: &str, hold: u32) -> Option<Lab> {
        let lab = lab::Lab::new(claim).unwrap()?;
        let host = lab.host("debian-1", &[]).unwrap();
        let fleet = lab.fleet(&super::ONE_RING).unwrap();
        let_payments_be_reached(&host);
        host.enroll(&fleet, &["ring=pilot"], &settings(hold)).unwrap();
        let lab = Lab { fleet, host };
        lab.fleet.publish("1.0", Behaviour::Good).unwrap();
        lab.fleet.promote("1.0", "pilot").unwrap();
        lab.fleet.until_rollout("pilot", "1.0", "done").unwrap();
        assert_eq!(lab.says(), "payments 1.0");
        Some(lab)
    }

    fn says(&self) -> String {
        says(&self.host).unwrap_or_default()
    }

    fn until_says(&self, version: &str) {
        until_says(&self.host, version);
    }

    fn promote(&self, version: &str, behaviour: Behaviour, head: &str, extra: &str) {
        let probation = Probation { start: 10, good: 2 };
        let built = self.fleet.build_headed(version, behaviour, probation, head, extra).unwrap();
        self.fleet.publish_built(&built).unwrap();
        self.fleet.promote(version, "pilot").unwrap();
    }

    /// Waits until what the server knows of the host has all of these words.
    fn until_reports(&self, words: &[&str]) {
        self.fleet.until_host_reports("debian-1", words).unwrap();
    }

    /// Holds a shutdown off from now on, in the name of a nightly dump.
    fn hold_off(&self) {
        let words = ["systemd-run", "--unit=nightly", "--quiet", "systemd-inhibit"];
        let inhibit = ["--what=shutdown", "--who=nightly", "--why=a dump is written"];
        let sleeps = ["--mode=block", "sleep", "infinity"];
        self.host.good(words.into_iter().chain(inhibit).chain(sleeps)).unwrap();
        until("the shutdown is held off", || {
            let held = self.host.good(["systemd-inhibit", "--list", "--no-legend"])?;
            Ok(held.contains("nightly").then_some(()))
        })
        .unwrap();
    }
}

fn settings(hold: u32) -> String {
    format!("reboot_hold_seconds = {hold}\n{SETTINGS}")
}

#[test]
fn a_release_that_needs_a_boot_is_committed_after_one_boot() {
    let Some(mut lab) = Lab::on_1_0("a release that needs a boot, on a booted Debian host", 600)
    else {
        return;
    };
    let before = lab.host.boot_id().unwrap();
    lab.promote("1.1", Behaviour::Good, "reboot = \"always\"", "");
    lab.host.comes_back().unwrap();
    assert_ne!(lab.host.boot_id().unwrap(), before);
    lab.fleet.until_rollout("pilot", "1.1", "done").unwrap();
    lab.until_says("1.1");
    let after = lab.host.boot_id().unwrap();

    // One that asks by what it puts on the host, as Debian's packages do; and the old release serves until
    // nothing holds the boot off.
    lab.hold_off();
    let hook = "[[hooks]]\nwhen = \"after-switch\"\ntimeout_seconds = 10\n\
                command = [\"/bin/sh\", \"-c\", \"echo restart >/run/reboot-required\"]\n";
    lab.promote("1.2", Behaviour::Good, "reboot = \"when-required\"", hook);
    lab.until_reports(&["waiting", "nightly holds a shutdown off: a dump is written"]);
    assert_eq!(lab.says(), "payments 1.1");
    assert_eq!(lab.host.boot_id().unwrap(), after, "nobody has booted it");
    lab.host.good(["systemctl", "stop", "nightly"]).unwrap();
    lab.host.comes_back().unwrap();
    lab.fleet.until_rollout("pilot", "1.2", "done").unwrap();
    lab.until_says("1.2");
}

#[test]
fn a_power_cut_in_place_of_the_boot_is_a_boot_and_what_holds_it_off_too_long_sends_the_host_back() {
    let claim = "a power cut in place of a boot, on a booted Debian host";
    let Some(mut lab) = Lab::on_1_0(claim, 5) else { return };
    // Held off from the moment of the switch on: by then the host has begun.
    let hook = "[[hooks]]\nwhen = \"after-switch\"\ntimeout_seconds = 60\nsystemd = true\n\
                command = [\"/bin/sh\", \"-c\", \"systemctl start nightly; \
                until systemd-inhibit --list | grep -q nightly; do sleep 0.1; done\"]\n";
    let unit = "[Service]\nExecStart=systemd-inhibit --what=shutdown --who=nightly \
                --why=dumping --mode=block sleep infinity\n";
    lab.host.write("/etc/systemd/system/nightly.service", unit).unwrap();
    lab.host.good(["systemctl", "daemon-reload"]).unwrap();
    lab.promote("1.1", Behaviour::Good, "reboot = \"always\"", hook);
    lab.until_reports(&["rolled-back", "the boot was held off for", "nightly holds a shutdown"]);
    lab.until_says("1.0");
    lab.fleet.until_rollout("pilot", "1.1", "halted").unwrap();

    // Longer now, so that the power goes first.
    lab.host.good(["systemctl", "stop", "nightly"]).unwrap();
    lab.host.write("/etc/refit/agent.toml", &settings(3600)).unwrap();
    lab.host.good(["systemctl", "restart", "refit-agent"]).unwrap();
    lab.promote("1.2", Behaviour::Good, "reboot = \"always\"", hook);
    lab.until_reports(&["rebooting", "nightly holds a shutdown off"]);
    lab.host.cut_power().unwrap();
    lab.host.power_on().unwrap();
    lab.fleet.until_rollout("pilot", "1.2", "done").unwrap();
    lab.until_says("1.2");
}

#[test]
fn a_host_that_boots_in_a_loop_or_not_at_all_goes_back() {
    let claim = "a loop of boots, and none at all, on a booted Debian host";
    let Some(mut lab) = Lab::on_1_0(claim, 600) else { return };
    lab.promote("1.1", Behaviour::Runs("systemctl reboot"), "reboot = \"always\"", "");
    // The one that was asked for, and then each start of the new release boots the host: at the third of
    // those nobody waits any more.
    let at = lab.host.at(8080);
    let begun = std::cell::Cell::new(false);
    let back = || {
        let said = http::get_at(at, "/", Duration::from_secs(1)).map(|said| said.1);
        let said = said.unwrap_or_default();
        begun.set(begun.get() || said.is_empty());
        begun.get() && said.trim() == "payments 1.0"
    };
    let boots = lab.host.keep_booting(back).unwrap();
    assert_eq!(boots, 4);
    lab.until_says("1.0");
    lab.until_reports(&["rolled-back", "the host was started too often during the update"]);
    lab.fleet.until_rollout("pilot", "1.1", "halted").unwrap();

    // A host that refuses to boot: asked twice.
    let before = lab.host.boot_id().unwrap();
    lab.host.good(["systemctl", "mask", "--runtime", "reboot.target"]).unwrap();
    lab.promote("1.2", Behaviour::Good, "reboot = \"always\"", "");
    lab.until_reports(&["rolled-back", "reboot-failed", "was asked 2 times to boot and did not"]);
    assert_eq!(lab.host.boot_id().unwrap(), before);
    lab.until_says("1.0");
}
