//! People and their keys over the years: several holders on machines without network, keys that are lost,
//! stolen or exchanged while hosts are off, and a release that is taken back.

use std::{fs, path::PathBuf};

use refit_durable::testing::not_run;
use refit_tests::{
    process::{Process, Ran, command},
    release::{Behaviour, Probation},
    sandbox::{Ring, Sandbox},
    wait::until,
};

/// Debian's library that sets the clock of one program.
fn faketime() -> Option<PathBuf> {
    let library =
        format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    Some(PathBuf::from(library)).filter(|path| path.exists())
}

/// A holder's `refit`, on a machine that has never seen the server.
fn holder(fleet: &Sandbox, name: &str, words: &[&str]) -> Ran {
    let mut refit = fleet.refit_command_of(name).unwrap();
    Ran::of(refit.args(words)).unwrap()
}

fn make_key(fleet: &Sandbox, role: &str, name: &str) -> String {
    let words = ["key", "generate", "--role", role, "--name", name, "--unencrypted"];
    holder(fleet, name, &words).good().unwrap();
    let public = format!("home-{name}/keys/{role}.{name}.pub.json");
    assert!(fleet.path().join(&public).exists());
    public
}

/// The last word of the line that begins so.
fn last_word(text: &str, begin: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(begin));
    line.unwrap_or_else(|| panic!("no {begin:?} in {text}"))
        .split_whitespace()
        .last()
        .unwrap()
        .into()
}

/// The holder reads what the change does, and signs exactly that.
fn sign(fleet: &Sandbox, name: &str, file: &str) -> String {
    let asked = holder(fleet, name, &["trust", "sign", file]);
    let words = format!("{}{}", asked.out, asked.err);
    assert!(!asked.success && words.contains("nobody is here to answer"), "{words}");
    let id = last_word(&asked.out, "SHA-256 of this change:");
    let other = "0".repeat(64);
    let refused = holder(fleet, name, &["trust", "sign", file, "--yes", &other]).refused().unwrap();
    assert!(refused.contains("nothing was signed"), "{refused}");
    let signed = holder(fleet, name, &["trust", "sign", file, "--yes", &id]).good().unwrap();
    let written = last_word(&signed, "wrote ");
    assert!(fs::metadata(fleet.path().join(&written)).unwrap().len() < 200);
    written
}

#[test]
fn holders_on_machines_without_network_sign_a_new_root_and_a_host_follows_it() {
    let fleet = super::one_host_on_1_0();
    let (bob, carol) = (make_key(&fleet, "root", "bob"), make_key(&fleet, "root", "carol"));
    let made = fleet
        .refit([
            "trust",
            "rotate",
            "root",
            "--add",
            &bob,
            "--add",
            &carol,
            "--threshold",
            "2",
            "--out",
            "root.change",
        ])
        .unwrap();
    assert!(
        made.contains("of bob is added") && made.contains("needs 2 of 3 keys (was 1 of 1)"),
        "{made}"
    );
    assert!(made.contains("by the old root's keys: 1 of 1"), "{made}");
    assert!(
        made.contains("by its own keys: 1 of 2, waiting for ") && made.contains("bob ("),
        "{made}"
    );
    // Before it is signed nothing of it can be sent.
    let nothing = fleet.refit(["trust", "push"]).unwrap();
    assert!(nothing.contains("has everything"), "{nothing}");
    let signature = sign(&fleet, "carol", "root.change");
    let merged = fleet.refit(["trust", "merge", "root.change", &signature]).unwrap();
    assert!(merged.contains("signed by everybody"), "{merged}");
    let walked = fleet.refit(["trust", "verify"]).unwrap();
    assert!(walked.contains("root 2") && walked.contains("made here, not sent yet"), "{walked}");
    fleet.refit(["trust", "push"]).unwrap();
    let walked = fleet.refit(["trust", "verify"]).unwrap();
    assert!(walked.contains("root 2") && !walked.contains("made here"), "{walked}");
    super::install(&fleet, "1.1");

    // The first key is lost. Bob and carol put another in its place, over the server this time.
    let dave = make_key(&fleet, "root", "dave");
    fleet.refit(["trust", "rotate", "root", "--remove", "root", "--add", &dave]).unwrap();
    let refused =
        fleet.refit_refused(["trust", "rotate", "root", "--remove", "carol", "--add", &dave]);
    assert!(refused.unwrap().contains("has an open change by person alice"));
    let status = fleet.refit(["trust", "status"]).unwrap();
    assert!(status.contains("person alice") && status.contains("bob ("), "{status}");
    let shown = fleet.status().unwrap();
    assert_eq!(shown["changes"][0]["role"], "root", "{shown}");
    fleet.refit(["trust", "change", "fetch", "root", "--out", "open.change"]).unwrap();
    let bobs = sign(&fleet, "bob", "open.change");
    let half = fleet.refit(["trust", "merge", "root", &bobs]).unwrap();
    assert!(half.contains("by its own keys: 1 of 2, waiting for "), "{half}");
    assert!(fleet.refit(["trust", "change", "show", "root"]).unwrap().contains("of dave is added"));
    // Whoever comes in shows that the key is there.
    let daves = sign(&fleet, "dave", "open.change");
    let done = fleet.refit(["trust", "merge", "root", &daves]).unwrap();
    assert!(done.contains("published: root"), "{done}");
    assert!(fleet.refit(["trust", "change", "list"]).unwrap().contains("no change waits"));
    let audit = fleet.refit(["audit", "list"]).unwrap();
    assert!(audit.contains("change propose") && audit.contains("change publish"), "{audit}");
    super::install(&fleet, "1.2");
}

#[test]
fn a_stolen_key_of_any_role_is_exchanged_in_one_change_and_signs_nothing_any_more() {
    let fleet = super::one_host_on_1_0();
    let of_payments = ["--product", "payments"];
    let of_pilot = ["--product", "payments", "--ring", "pilot"];
    let stolen: [(&str, &str, &[&str], &str); 5] = [
        ("root", "root", &[], "root"),
        ("targets", "targets", &[], "targets"),
        ("policy", "policy", &[], "policy"),
        ("release.payments", "release", &of_payments, "release"),
        ("ring.payments.pilot", "ring", &of_pilot, "pilot"),
    ];
    for (role, kind, more, old) in stolen {
        let make = ["key", "generate", "--role", kind, "--name", "anew", "--unencrypted"];
        fleet.refit(make.iter().chain(more).copied().collect::<Vec<_>>()).unwrap();
        let words = ["trust", "rotate", role, "--remove", old, "--add", "anew", "--compromised"];
        let told = fleet.refit(words).unwrap();
        assert!(told.contains("is removed") && told.contains("of anew is added"), "{role}: {told}");
        assert!(told.contains("sent ") && told.contains(role), "{role}: {told}");
    }
    let built = fleet.build("1.1", Behaviour::Good).unwrap().to_string_lossy().into_owned();
    let refused = fleet.refit_refused(["release", "sign", &built, "--key", "release"]).unwrap();
    assert!(refused.contains("release.payments") && refused.contains("help:"), "{refused}");
    fleet.refit(["release", "sign", &built, "--key", "anew"]).unwrap();
    fleet.refit(["release", "publish", &built]).unwrap();
    let promote = ["release", "promote", "payments", "1.1", "--to", "pilot", "--key"];
    let with = |key| promote.iter().copied().chain([key]).collect::<Vec<_>>();
    assert!(fleet.refit_refused(with("pilot")).unwrap().contains("help:"));
    fleet.refit(with("anew")).unwrap();
    fleet.until_runs("web-1", "1.1").unwrap();
    fleet.refit(["trust", "verify"]).unwrap();
}

#[test]
fn a_stolen_freshness_key_is_replaced_and_hosts_go_on() {
    let mut fleet = super::one_host_on_1_0();
    let old = fs::read(fleet.server_data().join("keys/freshness.pem")).unwrap();
    let told = fleet.refit(["trust", "rotate", "freshness"]).unwrap();
    assert!(told.contains("hosts drop the snapshot and timestamp"), "{told}");
    super::install(&fleet, "1.1");
    // The server settles on the new key by itself; the old one is gone, also after a restart.
    until("the old key is gone", || {
        let now = fs::read(fleet.server_data().join("keys/freshness.pem"))?;
        Ok((now != old).then_some(()))
    })
    .unwrap();
    fleet.server().unwrap().terminate().unwrap();
    fleet.start_server().unwrap();
    super::install(&fleet, "1.2");
    fleet.refit(["trust", "verify"]).unwrap();
}

const ONE_AT_A_TIME: Ring = Ring {
    name: "pilot",
    limits: r#"
max_in_flight = 1
soak = "1s"
lease = "60s"
poll = "1s"
silence = "60s"
update_limit = "120s"
halt = { failures = 1, percent = 50 }
"#,
};

#[test]
fn a_withdrawn_release_is_begun_by_nobody_any_more_and_goes_on_where_it_runs() {
    let mut fleet = Sandbox::new(&[ONE_AT_A_TIME]).unwrap();
    for host in ["web-1", "web-2"] {
        fleet.host(host, &["ring=pilot"]).unwrap();
    }
    fleet.publish("1.0", Behaviour::Good).unwrap();
    fleet.promote("1.0", "pilot").unwrap();
    fleet.until_rollout("pilot", "1.0", "done").unwrap();
    let slow = Probation { start: 1, good: 8 };
    let built = fleet.build_with("1.1", Behaviour::Good, slow, "").unwrap();
    fleet.publish_built(&built).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    // One host runs it; the other has it and waits for its turn.
    until("one host is on 1.1 and the other was offered it", || {
        let on: Vec<bool> = ["web-1", "web-2"]
            .iter()
            .map(|host| fleet.host_named(host).says().is_ok_and(|says| says == "payments 1.1"))
            .collect();
        let waits = |host: &str| -> anyhow::Result<bool> {
            Ok(fleet.host_status(host)?["products"][0]["phase"] == "waiting")
        };
        let other = if on[0] { "web-2" } else { "web-1" };
        Ok((on.iter().filter(|on| **on).count() == 1 && waits(other)?).then_some(()))
    })
    .unwrap();
    fleet.refit(["trust", "withdraw", "payments", "1.1", "--yes"]).unwrap();
    let (first, second) = match fleet.host_named("web-1").says().unwrap().as_str() {
        "payments 1.1" => ("web-1", "web-2"),
        _ => ("web-2", "web-1"),
    };
    until("the waiting host says why it does not begin", || {
        let told = fleet.host_status(second)?;
        let log = fs::read_to_string(fleet.host_named(second).folder().join("agent.log"))?;
        let says = format!("{told}{log}").contains("withdrawn");
        Ok(says.then_some(()))
    })
    .unwrap();
    until("the first host is through with it", || {
        let told = fleet.host_status(first)?;
        Ok((told["products"][0]["phase"] == "committed").then_some(()))
    })
    .unwrap();
    assert_eq!(fleet.host_named(first).says().unwrap(), "payments 1.1");
    assert_eq!(fleet.host_named(second).says().unwrap(), "payments 1.0");
    let told = fleet.host_status(first).unwrap();
    assert_eq!(told["products"][0]["installed"], "1.1", "{told}");
    let ring = fleet.ring("pilot").unwrap();
    assert!(ring.to_string().contains("withdrawn"), "{ring}");
    // What is permitted next replaces it on both.
    fleet.publish("1.2", Behaviour::Good).unwrap();
    fleet.promote("1.2", "pilot").unwrap();
    for host in ["web-1", "web-2"] {
        fleet.until_runs(host, "1.2").unwrap();
    }
}

#[test]
fn a_host_that_was_off_for_a_year_while_root_changed_twice_updates() {
    let claim = "a host that was off for a year follows two new roots";
    let Some(faketime) = faketime() else {
        let why = format!("{claim} (libfaketime is not installed)");
        return not_run(&why, "sudo apt-get install libfaketime");
    };
    let faketime = faketime.to_string_lossy().into_owned();
    let mut fleet = super::one_host_on_1_0();
    fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
    let mut holders = vec!["root".to_owned()];
    for (days, name) in [("+150d", "bob"), ("+300d", "carol")] {
        let clock = [("LD_PRELOAD", faketime.as_str()), ("FAKETIME", days)];
        fleet.server().unwrap().terminate().unwrap();
        fleet.start_server_with(&clock).unwrap();
        let alice = |words: &[&str]| {
            let mut refit = fleet.refit_command().unwrap();
            Ran::of(refit.args(words).envs(clock)).unwrap().good().unwrap()
        };
        alice(&["key", "generate", "--role", "root", "--name", name, "--unencrypted"]);
        let before = holders.pop().unwrap();
        alice(&["trust", "rotate", "root", "--remove", &before, "--add", name]);
        for role in ["targets", "policy", "release.payments", "ring.payments.pilot"] {
            alice(&["trust", "renew", role]);
        }
        holders.push(name.to_owned());
    }
    let clock = [("LD_PRELOAD", faketime.as_str()), ("FAKETIME", "+365d")];
    fleet.server().unwrap().terminate().unwrap();
    fleet.start_server_with(&clock).unwrap();
    let built = fleet.build("1.1", Behaviour::Good).unwrap().to_string_lossy().into_owned();
    for words in [
        &["release", "sign", &built][..],
        &["release", "publish", &built],
        &["release", "promote", "payments", "1.1", "--to", "pilot"],
    ] {
        let mut refit = fleet.refit_command().unwrap();
        Ran::of(refit.args(words).envs(clock)).unwrap().good().unwrap();
    }
    let host = fleet.host_named("web-1");
    let mut run = command("refit-agent").unwrap();
    run.args(["run", "--data"]).arg(host.data()).envs(clock);
    let mut later = Process::start(&mut run, &host.folder().join("later.log")).unwrap();
    fleet.until_runs("web-1", "1.1").unwrap();
    later.terminate().unwrap();
}

#[test]
fn the_bad_days_can_be_rehearsed_without_touching_the_fleet() {
    let fleet = Sandbox::new(&super::ONE_RING).unwrap();
    let before = fleet.refit(["trust", "status", "--output", "json"]).unwrap();
    let told = fleet.refit(["trust", "drill"]).unwrap();
    for claim in ["lost a key", "left", "was stolen", "was off for 300 days"] {
        assert!(told.contains(claim), "{told}");
    }
    let version = |text: &str| -> serde_json::Value {
        let shown: serde_json::Value = serde_json::from_str(text).unwrap();
        shown["roles"].as_array().unwrap().iter().map(|role| role["version"].clone()).collect()
    };
    let after = fleet.refit(["trust", "status", "--output", "json"]).unwrap();
    assert_eq!(version(&before), version(&after));
}
