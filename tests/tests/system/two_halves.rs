//! The agent as two processes: one that talks to the server and has no right on the host, one that changes
//! the host and talks to nobody. Either may end at any moment.

use std::{thread, time::Duration};

use refit_tests::{
    lab::{DebianHost, Lab},
    release::{Behaviour, Probation},
    wait::until,
};

use super::lab_host::{SETTINGS, let_payments_be_reached, says, until_says};

/// Longer than a step takes, so that a killed half is back for some of them.
const PAUSE: Duration = Duration::from_millis(700);

#[test]
fn a_network_half_that_is_killed_again_and_again_keeps_no_update_from_its_end() {
    let mut fleet = super::on_1_0(super::in_two_halves(&super::ONE_RING));
    for (version, behaviour, state) in
        [("1.1", Behaviour::Good, "done"), ("1.2", Behaviour::Unhealthy, "halted")]
    {
        fleet.publish(version, behaviour).unwrap();
        fleet.promote(version, "pilot").unwrap();
        for _ in 0..12 {
            fleet.host_mut("web-1").network_half().unwrap().kill().unwrap();
            fleet.start_network_half("web-1").unwrap();
            thread::sleep(PAUSE);
        }
        fleet.until_rollout("pilot", version, state).unwrap();
        until("1.1 runs", || {
            Ok((fleet.host_named("web-1").says()? == "payments 1.1").then_some(()))
        })
        .unwrap();
    }
}

#[test]
fn without_a_network_half_a_bad_release_goes_back_and_is_reported_when_there_is_one() {
    let mut fleet = super::on_1_0(super::in_two_halves(&super::ONE_RING));
    let built =
        fleet.build_with("1.1", Behaviour::Unhealthy, Probation { start: 5, good: 5 }, "").unwrap();
    fleet.publish_built(&built).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    until("the release is on probation", || {
        let state = fleet.agent_status("web-1")?;
        Ok((state["products"][0]["phase"] == "probation").then_some(()))
    })
    .unwrap();
    fleet.host_mut("web-1").network_half().unwrap().kill().unwrap();
    until("the old release runs again", || {
        Ok((fleet.host_named("web-1").says()? == "payments 1.0").then_some(()))
    })
    .unwrap();
    let counts = fleet.ring("pilot").unwrap()["rollout"]["counts"].clone();
    assert_eq!(counts["in_flight"], 1, "nobody has told the server: {counts}");
    fleet.start_network_half("web-1").unwrap();
    fleet.until_rollout("pilot", "1.1", "halted").unwrap();
}

fn process(host: &DebianHost, unit: &str) -> String {
    host.good(["systemctl", "show", "-P", "MainPID", unit]).unwrap().trim().to_owned()
}

/// What a shell of the host prints.
fn sh(host: &DebianHost, script: &str) -> String {
    host.good(["sh", "-c", script]).unwrap().trim().to_owned()
}

/// A host that runs 1.0, from our package.
fn on_a_real_host(lab: &Lab) -> (DebianHost, refit_tests::sandbox::Sandbox) {
    let host = lab.host("debian-1", &[]).unwrap();
    let fleet = lab.fleet(&super::ONE_RING).unwrap();
    let_payments_be_reached(&host);
    host.enroll(&fleet, &["ring=pilot"], SETTINGS).unwrap();
    fleet.publish("1.0", Behaviour::Good).unwrap();
    fleet.promote("1.0", "pilot").unwrap();
    until_says(&host, "1.0");
    fleet.until_rollout("pilot", "1.0", "done").unwrap();
    (host, fleet)
}

#[test]
fn the_half_that_talks_to_the_server_has_no_right_and_the_half_with_rights_talks_to_nobody() {
    let claim = "the agent's halves and their rights on a booted host";
    let Some(lab) = Lab::new(claim).unwrap() else { return };
    let (host, _fleet) = on_a_real_host(&lab);
    let (root, link) = (process(&host, "refit-agent"), process(&host, "refit-link"));
    assert_ne!(link, "0", "{}", host.journal("refit-link"));

    let status = host.good(["cat", &format!("/proc/{link}/status")]).unwrap();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(of("Uid:").iter().all(|uid| uid.parse::<u32>().unwrap() > 1000), "{status}");
    for capabilities in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(of(capabilities), ["0000000000000000"], "{capabilities} {status}");
    }
    assert_eq!((of("NoNewPrivs:"), of("Seccomp:")), (vec!["1".into()], vec!["2".into()]));

    // What it may not even see, tried in its place.
    let inside = |script: &str| {
        let words = ["nsenter", "--target", &link, "--mount", "--", "sh", "-c", script];
        host.run(words).unwrap().success
    };
    assert!(inside("true"));
    assert!(!inside("ls /var/lib/refit-agent/identity"), "it sees this host's keys");
    assert!(!inside("touch /etc/x || touch /var/x || touch /usr/x"), "it can write");

    // The same settings around another program: names of servers are found all the same.
    host.write("/etc/hosts", "10.9.8.7 server.example\n").unwrap();
    sh(
        &host,
        "cd /run/systemd/system && sed -e '/^StandardInput/d' -e '/^Watchdog/d' -e '/^Restart=/d' \
         -e 's/^Type=.*/Type=oneshot/' -e 's|^ExecStart=.*|ExecStart=/usr/bin/getent ahosts server.example|' \
         /usr/lib/systemd/system/refit-link.service > finds-names.service && systemctl daemon-reload \
         && systemctl start finds-names",
    );

    let scored = host.good(["systemd-analyze", "security", "--no-pager", "refit-link"]).unwrap();
    let score = scored.rsplit_once("refit-link.service: ").unwrap().1;
    let score: f64 = score.split_whitespace().next().unwrap().parse().unwrap();
    assert!(score <= 2.0, "{scored}");

    // Who is connected to the server, by the sockets that each process holds.
    let connected = |process: &str| {
        let script = "for fd in /proc/$1/fd/*; do readlink $fd; done | sed -n 's/socket:\\[\\(.*\\)\\]/\\1/p' \
             | while read inode; do grep \" $inode \" /proc/$1/net/tcp; done | wc -l";
        host.good(["sh", "-c", script, "connected", process]).unwrap().trim().to_owned()
    };
    until("the network half is connected", || Ok((connected(&link) != "0").then_some(()))).unwrap();
    assert_eq!(connected(&root), "0", "the root half is connected to somebody");
}

#[test]
fn who_is_not_root_is_heard_by_neither_half_and_changes_nothing() {
    let claim = "other users of a booted host and the agent's sockets";
    let Some(lab) = Lab::new(claim).unwrap() else { return };
    let (host, fleet) = on_a_real_host(&lab);
    let bundle = fleet.export("1.0", "pilot").unwrap();
    host.put(&bundle, "/tmp").unwrap();
    let bundle = format!("/tmp/{}", bundle.file_name().unwrap().to_string_lossy());
    sh(&host, &format!("chmod 644 {bundle}; mkdir -p /tmp/fake && chmod 777 /tmp/fake"));
    let before = sh(
        &host,
        "cd /var/lib/refit-agent/identity && ls -l --time-style=+ | grep -v -e audit.json -e total",
    );
    let nobody = |command: &[&str]| {
        let mut words =
            vec!["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"];
        words.extend(command);
        host.run(words).unwrap()
    };
    for command in [
        &["refit-agent", "status"][..],
        &["refit-agent", "install", &bundle],
        &["refit-agent", "quarantine", "lift", "payments", &"0".repeat(64)],
        &["refit-agent", "backup", "list"],
        &["refit-agent", "run"],
        &["refit-agent", "enroll", "--token", "refit1-x"],
        &["systemctl", "restart", "refit-agent"],
    ] {
        let ran = nobody(command);
        assert!(!ran.success, "{command:?}: {}", ran.out);
    }
    // Nothing is under way: there is nothing to go back from, for anybody.
    nobody(&["refit-rescue", "back"]);
    // Neither socket can be opened, so nothing can be said on it.
    let perl = "use IO::Socket::UNIX; exit(IO::Socket::UNIX->new(Peer => $ARGV[0]) ? 0 : 1)";
    for socket in ["/run/refit-link/socket", "/var/lib/refit-agent/agent.sock"] {
        assert!(host.run(["perl", "-e", perl, socket]).unwrap().success, "root opens {socket}");
        assert!(!nobody(&["perl", "-e", perl, socket]).success, "nobody opens {socket}");
    }
    let after = sh(
        &host,
        "cd /var/lib/refit-agent/identity && ls -l --time-style=+ | grep -v -e audit.json -e total",
    );
    assert_eq!(after, before);
    assert_eq!(says(&host).unwrap(), "payments 1.0");
}

#[test]
fn either_half_is_killed_again_and_again_in_an_update_and_the_host_ends_whole() {
    let claim = "either half of the agent killed during updates of a booted host";
    let Some(lab) = Lab::new(claim).unwrap() else { return };
    let (host, fleet) = on_a_real_host(&lab);
    for (version, behaviour, state, runs) in
        [("1.1", Behaviour::Good, "done", "1.1"), ("1.2", Behaviour::Unhealthy, "halted", "1.1")]
    {
        fleet.publish(version, behaviour).unwrap();
        fleet.promote(version, "pilot").unwrap();
        for round in 0..12 {
            let half = if round % 3 == 2 { "refit-agent" } else { "refit-link" };
            let root = process(&host, "refit-agent");
            // One that is not up at the moment can't be killed.
            let _up_or_not =
                host.run(["systemctl", "kill", "--kill-whom=main", "--signal=KILL", half]).unwrap();
            thread::sleep(PAUSE);
            if half == "refit-link" && root != "0" {
                assert_eq!(
                    process(&host, "refit-agent"),
                    root,
                    "the root half went with the other"
                );
            }
        }
        fleet.until_rollout("pilot", version, state).unwrap();
        until_says(&host, runs);
    }
    for unit in ["refit-agent", "refit-link.socket", "refit-link"] {
        until(&format!("{unit} is up"), || {
            Ok((host.run(["systemctl", "is-active", unit])?.out.trim() == "active").then_some(()))
        })
        .unwrap();
    }
}
