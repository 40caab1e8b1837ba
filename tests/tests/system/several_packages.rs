//! Packages of every kind in one release: they switch together or not at all, also where one of them fails,
//! the agent is killed between two of them, or the rescuer is alone.

use refit_tests::wait::until;

use super::kinds::{ALL, Lab, Release, good};

const GATES: &str = "/var/lib/gates";

/// Holds a script of a release once where the test wants it, until it lets it go.
const GATE: &str = "if [ -e /var/lib/gates/stop ]; then rm /var/lib/gates/stop; \
                    touch /var/lib/gates/at; until [ -e /var/lib/gates/go ]; do sleep 0.1; done; fi";

/// Where a switch can be held: before anything is changed, with the files placed and half of the Debian packages
/// installed, with all of these and half of what the module does, and with everything in its place.
const POINTS: [&str; 4] = ["before", "postinst", "module", "after"];

/// A release that is held at one of these points.
fn held<'a>(version: &'a str, point: &str) -> Release<'a> {
    let release = good(version, &ALL);
    match point {
        "before" => Release { before: GATE, ..release },
        "postinst" => Release { postinst: GATE, ..release },
        "module" => Release { installs: GATE, ..release },
        _ => Release { after: GATE, ..release },
    }
}

/// A host on which all packages are those of 1.0.
fn on_1_0(claim: &str) -> Option<Lab> {
    let lab = Lab::boot(claim)?;
    lab.promote(&good("1.0", &ALL));
    lab.fleet.until_rollout("pilot", "1.0", "done").unwrap();
    lab.until_stands("1.0", &ALL);
    Some(lab)
}

impl Lab {
    /// Promotes a release and waits until its switch is held at this point.
    fn hold(&self, version: &str, point: &str) {
        self.host.good(["sh", "-c", &format!("rm -f {GATES}/*; touch {GATES}/stop")]).unwrap();
        self.promote(&held(version, point));
        let at = self.host.root().join(&GATES[1..]).join("at");
        until(&format!("{version} is held {point}"), || Ok(at.exists().then_some(()))).unwrap();
        self.until_phase(version, "switching");
    }

    fn let_go(&self) {
        self.host.good(["touch", &format!("{GATES}/go")]).unwrap();
    }
}

#[test]
fn packages_of_every_kind_switch_together_and_a_failing_one_takes_all_of_them_back() {
    let claim = "packages of every kind in one release, on a booted Debian host";
    let Some(lab) = on_1_0(claim) else { return };
    let release = |version| good(version, &ALL);
    for (release, words) in [
        (Release { before: "exit 3", ..release("1.1") }, "hook-failed"),
        (Release { postinst: "echo no table; exit 3", ..release("1.2") }, "no table"),
        (Release { installs: "echo no disk; exit 3", ..release("1.3") }, "no disk"),
        (Release { after: "exit 3", ..release("1.4") }, "hook-failed"),
        (Release { check: "exit 1", ..release("1.5") }, "health-check-failed"),
    ] {
        lab.promote(&release);
        lab.until_reports(release.version, &["rolled-back", words]);
        lab.until_stands("1.0", &ALL);
        assert_eq!(lab.host.good(["dpkg", "--audit"]).unwrap(), "");
    }
    lab.promote(&good("2.0", &ALL));
    lab.fleet.until_rollout("pilot", "2.0", "done").unwrap();
    lab.until_stands("2.0", &ALL);

    // Packages that a release has no more go with it, in the same move.
    lab.promote(&good("3.0", &ALL[..2]));
    lab.fleet.until_rollout("pilot", "3.0", "done").unwrap();
    let kept = lab.stands();
    assert!(kept[0].1 == "3.0 3.0" && kept[1].1.starts_with("3.0 3.0"), "{kept:?}");
    assert!(!lab.host.run(["test", "-e", "/usr/lib/pay-deb"]).unwrap().success);
    assert!(!lab.host.run(["test", "-e", "/srv/pay-mender"]).unwrap().success);
}

#[test]
fn an_agent_killed_between_two_packages_brings_all_of_them_or_none() {
    let claim = "an agent killed between packages of one release, on a booted Debian host";
    let Some(lab) = on_1_0(claim) else { return };
    let mut stands = "1.0".to_owned();
    for point in POINTS {
        let version = format!("2.{point}");
        lab.hold(&version, point);
        lab.host.kill_agent().unwrap();
        lab.let_go();
        // A module that was cut off in its work is never called for the same again.
        if point == "module" {
            lab.until_reports(&version, &["rolled-back", "was cut off in ArtifactInstall"]);
        } else {
            lab.fleet.until_rollout("pilot", &version, "done").unwrap();
            stands = version;
        }
        lab.until_stands(&stands, &ALL);
        assert_eq!(lab.host.good(["dpkg", "--audit"]).unwrap(), "");
    }
}

#[test]
fn the_rescuer_alone_brings_all_packages_of_a_release_back_wherever_the_agent_was_lost() {
    let claim = "an agent lost between packages of one release, on a booted Debian host";
    let Some(lab) = on_1_0(claim) else { return };
    let drop_in = "/etc/systemd/system/refit-agent.service.d/lost.conf";
    lab.host.write(drop_in, "[Service]\nRestart=no\n[Unit]\nOnFailure=\n").unwrap();
    lab.host.good(["systemctl", "daemon-reload"]).unwrap();
    for point in POINTS {
        let version = format!("2.{point}");
        lab.hold(&version, point);
        lab.host.kill_agent().unwrap();
        lab.let_go();
        lab.until_reports(&version, &["rolled-back", "refit-rescue brought the host back"]);
        lab.until_stands("1.0", &ALL);
        assert_eq!(lab.host.good(["dpkg", "--audit"]).unwrap(), "");
    }
}
