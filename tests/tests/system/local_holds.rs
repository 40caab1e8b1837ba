//! Holds by people on a booted Debian host: nothing begins while one holds, whoever wants it, and none holds
//! for ever.

use refit_tests::{
    lab::{self, DebianHost},
    release::{Behaviour, Probation},
    sandbox::Sandbox,
    wait::until,
};

use super::lab_host::{SETTINGS, let_payments_be_reached, says, until_says};

fn on_1_0(claim: &str, settings: &str) -> Option<(Sandbox, DebianHost)> {
    let lab = lab::Lab::new(claim).unwrap()?;
    let host = lab.host("debian-1", &[]).unwrap();
    let fleet = lab.fleet(&super::ONE_RING).unwrap();
    let_payments_be_reached(&host);
    host.enroll(&fleet, &["ring=pilot"], settings).unwrap();
    promote(&fleet, "1.0");
    fleet.until_rollout("pilot", "1.0", "done").unwrap();
    until_says(&host, "1.0");
    Some((fleet, host))
}

fn promote(fleet: &Sandbox, version: &str) {
    fleet.publish(version, Behaviour::Good).unwrap();
    fleet.promote(version, "pilot").unwrap();
}

/// Waits until the server says that the update waits for a person on the host, and why.
fn until_held(fleet: &Sandbox, why: &str) {
    until(&format!("the update is held: {why}"), || {
        let product = fleet.host_status("debian-1")?["products"][0].clone();
        let hold = product["hold"].clone();
        let held = hold["reason"] == "local" && hold.to_string().contains(why);
        match held && product["phase"] == "waiting" {
            true => Ok(Some(())),
            false => anyhow::bail!("{product}"),
        }
    })
    .unwrap();
}

/// What `refit-agent hold` of this user prints, and whether it was taken.
fn hold(host: &DebianHost, user: &str, words: &[&str]) -> (bool, String) {
    let begin = ["runuser", "-u", user, "--", "refit-agent", "hold"];
    let ran = host.run(begin.into_iter().chain(words.iter().copied())).unwrap();
    (ran.success, format!("{}{}", ran.out, ran.err))
}

fn id(printed: &str) -> &str {
    printed.split_whitespace().next().unwrap()
}

#[test]
fn nothing_begins_on_a_host_that_a_person_holds_and_it_goes_on_when_the_hold_ends() {
    let claim = "holds by people on a booted Debian host";
    let Some((fleet, mut host)) = on_1_0(claim, SETTINGS) else { return };
    let (taken, printed) = hold(&host, "root", &["--for", "1h", "--why", "a demonstration"]);
    assert!(taken && printed.contains("every update held by root (0)"), "{printed}");
    promote(&fleet, "1.1");
    until_held(&fleet, "a demonstration");
    let shown = fleet.refit(["host", "show", "debian-1"]).unwrap();
    assert!(shown.contains("held          every update is held: a demonstration"), "{shown}");
    let status = host.good(["refit-agent", "status"]).unwrap();
    for part in ["HELD every update is held: a demonstration", "by          root (0)", "(local)"] {
        assert!(status.contains(part), "{part}: {status}");
    }

    // It outlives the agent and the power.
    host.cut_power().unwrap();
    host.power_on().unwrap();
    until("the agent answers", || {
        let listed = host.good(["refit-agent", "hold", "list"])?;
        Ok(listed.contains("a demonstration").then_some(()))
    })
    .unwrap();
    until_held(&fleet, "a demonstration");
    assert_eq!(says(&host).unwrap(), "payments 1.0");
    let (released, said) = hold(&host, "root", &["release", id(&printed)]);
    assert!(released && said.contains("is released"), "{said}");
    fleet.until_rollout("pilot", "1.1", "done").unwrap();
    until_says(&host, "1.1");
    assert!(host.good(["refit-agent", "hold", "list"]).unwrap().contains("nothing is held here"));

    // Made where no agent runs; of one product; and it ends by itself.
    host.good(["systemctl", "stop", "refit-agent"]).unwrap();
    let words = ["--for", "20s", "--why", "stocktaking", "--product", "payments"];
    let (taken, printed) = hold(&host, "root", &words);
    assert!(taken && printed.contains("updates of payments held by root (0)"), "{printed}");
    host.good(["systemctl", "start", "refit-agent"]).unwrap();
    promote(&fleet, "1.2");
    until_held(&fleet, "stocktaking");
    fleet.until_rollout("pilot", "1.2", "done").unwrap();
    until_says(&host, "1.2");

    // And what nobody may hold for ever is refused, with what may be done.
    for (words, part) in [
        (&["--for", "8d", "--why", "x"][..], "at most 7 days"),
        (&["--until", "2020-01-01 00:00", "--why", "x"], "is not to come"),
        (&["--for", "1h", "--why", " "], "needs a reason"),
        (&["--for", "1h"], "--why"),
        (&["release", "h0"], "there is no hold h0"),
    ] {
        let (taken, said) = hold(&host, "root", words);
        assert!(!taken && said.contains(part), "{words:?}: {said}");
    }
    assert!(host.good(["refit-agent", "hold", "list"]).unwrap().contains("nothing is held here"));
}

#[test]
fn only_root_and_members_of_the_named_group_hold_and_they_can_do_nothing_else() {
    let settings = format!("{SETTINGS}\n[holds]\ngroup = \"holders\"\nlongest_days = 1\n");
    let claim = "holds by a group of a booted Debian host";
    let lab = lab::Lab::new(claim).unwrap();
    let Some(lab) = lab else { return };
    let host = lab.host("debian-1", &[]).unwrap();
    host.good(["groupadd", "holders"]).unwrap();
    host.good(["useradd", "--groups", "holders", "alice"]).unwrap();
    host.good(["useradd", "--groups", "holders", "carol"]).unwrap();
    host.good(["useradd", "bob"]).unwrap();
    let fleet = lab.fleet(&super::ONE_RING).unwrap();
    let_payments_be_reached(&host);
    host.enroll(&fleet, &["ring=pilot"], &settings).unwrap();

    let words = ["--for", "2h", "--why", "month-end"];
    let (taken, said) = hold(&host, "bob", &words);
    assert!(!taken && said.contains("only root may") && said.contains("holds.group"), "{said}");
    let (taken, printed) = hold(&host, "alice", &words);
    assert!(taken && printed.contains("held by alice ("), "{printed}");
    let (taken, said) = hold(&host, "alice", &["--for", "25h", "--why", "x"]);
    assert!(!taken && said.contains("at most 1 days"), "{said}");
    let (released, said) = hold(&host, "carol", &["release", id(&printed)]);
    assert!(!released && said.contains("is alice ("), "{said}");

    promote(&fleet, "1.0");
    until_held(&fleet, "month-end");
    // The same socket answers nothing else.
    let script = "use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new('/run/refit-agent/holds.sock') \
                  or die $!; print $s '{\"ask\":\"status\"}'; $s->shutdown(1); print <$s>;";
    let asked = host.good(["runuser", "-u", "alice", "--", "perl", "-e", script]).unwrap();
    assert!(asked.contains("only holds are told here"), "{asked}");
    let (released, said) = hold(&host, "alice", &["release", id(&printed)]);
    assert!(released, "{said}");
    fleet.until_rollout("pilot", "1.0", "done").unwrap();
    until_says(&host, "1.0");
}

/// A check that compares with what ran before.
const COMPARES: &str = r#"
[[health.checked.checks]]
name = "errors"
kind = "errors"
service = "payments"
"#;

#[test]
fn a_hold_that_comes_while_the_backup_is_made_comes_before_any_service_stops() {
    let claim = "a hold in the last moment, on a booted Debian host";
    let Some((fleet, host)) = on_1_0(claim, SETTINGS) else { return };
    let process = |of: &str| host.good(["systemctl", "show", "-P", "MainPID", of]).unwrap();
    let before = process("payments");

    // What runs before is measured for so long that a person is fast enough.
    let probation = Probation::default();
    let built = fleet.build_measured("1.1", Behaviour::Good, probation, 20, COMPARES).unwrap();
    fleet.publish_built(&built).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    let phase = || anyhow::Ok(fleet.host_status("debian-1")?["products"][0]["phase"].clone());
    until("the host has its leave and saves", || Ok((phase()? == "backing-up").then_some(())))
        .unwrap();
    let (taken, printed) = hold(&host, "root", &["--for", "1h", "--why", "the till is open"]);
    assert!(taken, "{printed}");
    until_held(&fleet, "the till is open");
    assert_eq!(process("payments"), before, "it was stopped");
    assert_eq!(says(&host).unwrap(), "payments 1.0");

    let (released, said) = hold(&host, "root", &["release", id(&printed)]);
    assert!(released, "{said}");
    fleet.until_rollout("pilot", "1.1", "done").unwrap();
    until_says(&host, "1.1");
    assert_ne!(process("payments"), before);
}
