//! The agent updates itself on a booted Debian host, by the path of every product.

use std::{fs, path::PathBuf};

use refit_tests::{
    agent_release::{AgentIs, write_agent},
    lab::{Cable, DebianHost, Lab},
    release::{Behaviour, Probation},
    sandbox::Sandbox,
    wait::until,
};
use serde_json::Value;

use super::lab_host::{SETTINGS, let_payments_be_reached, until_says};

const AGENT: &str = "refit-agent";
/// An agent takes its time to take over, and more to be missed.
const LIMITS: &str = r#"
soak = "1s"
lease = "60s"
poll = "1s"
silence = "300s"
update_limit = "600s"
halt = { failures = 1, percent = 50 }
"#;
/// The ring of the agent's releases.
const RING: &str = "agents";

/// A host whose agent is a product of its fleet, and that runs `payments` 1.0.
struct Own {
    lab: Lab,
    fleet: Sandbox,
    host: DebianHost,
}

impl Own {
    fn new(claim: &str, rescue_after: u32) -> Option<Own> {
        let lab = Lab::new(claim).unwrap()?;
        let host = lab.host("debian-1", &[]).unwrap();
        let fleet = lab.fleet(&super::ONE_RING).unwrap();
        let_payments_be_reached(&host);
        let_agents_be_updated(&fleet);
        let settings = format!("rescue_after_seconds = {rescue_after}\n{SETTINGS}");
        host.enroll(&fleet, &["ring=pilot"], &settings).unwrap();
        let own = Own { lab, fleet, host };
        own.payments("1.0");
        Some(own)
    }

    /// A good release of the product, by whatever agent runs.
    fn payments(&self, version: &str) {
        self.fleet.publish(version, Behaviour::Good).unwrap();
        self.fleet.promote(version, "pilot").unwrap();
        until_says(&self.host, version);
        self.fleet.until_rollout("pilot", version, "done").unwrap();
    }

    /// Publishes a release of the agent and lets it loose on the ring.
    fn let_loose(&self, version: &str, is: AgentIs, probation: Probation) {
        let source = self.fleet.path().join(format!("agent-source-{version}"));
        write_agent(&source, version, is, probation).unwrap();
        let built = self.fleet.path().join(format!("agent-{version}"));
        let (from, to) = (source.to_string_lossy(), built.to_string_lossy());
        let build = ["release", "build", &*from, "--product", AGENT, "--version", version];
        self.fleet.refit(build.into_iter().chain(["--out", &*to])).unwrap();
        self.fleet.refit(["release", "sign", &*to, "--key", "agent-release"]).unwrap();
        self.fleet.refit(["release", "publish", &*to]).unwrap();
        self.fleet.refit(["release", "promote", AGENT, version, "--to", RING]).unwrap();
        fs::remove_dir_all(source).unwrap();
    }

    fn until_rollout(&self, version: &str, state: &str) {
        self.fleet.until_rollout(RING, version, state).unwrap();
    }

    /// What the agent says of its own product.
    fn status(&self) -> anyhow::Result<Value> {
        let said = self.host.agent_status()?;
        let products = said["products"].as_array().cloned().unwrap_or_default();
        Ok(products.into_iter().find(|product| product["product"] == AGENT).unwrap_or(Value::Null))
    }

    fn until_phase(&self, phase: &str) {
        until(&format!("the agent's own update is in {phase}"), || {
            let status = self.status()?;
            anyhow::ensure!(status["phase"] == phase, "it is in {}", status["phase"]);
            Ok(Some(()))
        })
        .unwrap();
    }

    /// The program that runs as the agent, by its process.
    fn program(&self) -> anyhow::Result<PathBuf> {
        let process = self.host.good(["systemctl", "show", "-P", "MainPID", AGENT])?;
        let exe = format!("/proc/{}/exe", process.trim());
        Ok(PathBuf::from(self.host.good(["readlink", &exe])?.trim()))
    }

    /// The unit is active and enabled, its process runs what the link says, and it says this version.
    fn until_is(&self, version: &str) {
        until(&format!("the agent is {version}"), || {
            for (what, wanted) in [("is-active", "active"), ("is-enabled", "enabled")] {
                let said = self.host.run(["systemctl", what, AGENT])?.out;
                anyhow::ensure!(said.trim() == wanted, "its unit is {}", said.trim());
            }
            let program = self.program()?;
            let said = self.host.good([&*program.to_string_lossy(), "--version"])?;
            anyhow::ensure!(said.trim() == format!("refit-agent {version}"), "it says {said}");
            Ok(Some(()))
        })
        .unwrap();
        let current = self.host.run(["readlink", "-f", "/opt/refit/refit-agent/current"]).unwrap();
        let program = self.program().unwrap();
        match version == env!("CARGO_PKG_VERSION") {
            true => assert_eq!(program, PathBuf::from("/usr/bin/refit-agent")),
            false => assert_eq!(
                program.parent(),
                Some(PathBuf::from(current.out.trim()).join("refit-agent/bin").as_path())
            ),
        }
    }

    /// Every file that the agent's own update may touch.
    fn units(&self) -> String {
        let list = "cd /etc/systemd/system && find . -name '*refit*' -print -exec sh -c \
                    'test -f \"$1\" && cat \"$1\"' x {} \\; | sort; \
                    readlink /opt/refit/refit-agent/current";
        self.host.good(["sh", "-c", &format!("{list} || true")]).unwrap()
    }

    fn told(&self, what: &[&str]) {
        self.fleet.until_host_reports("debian-1", what).unwrap();
    }
}

/// Makes the agent a product of the fleet, with a ring that has the same hosts as `pilot`.
fn let_agents_be_updated(fleet: &Sandbox) {
    let release = ["key", "generate", "--role", "release", "--product", AGENT];
    fleet.refit(release.into_iter().chain(["--name", "agent-release", "--unencrypted"])).unwrap();
    let ring = ["key", "generate", "--role", "ring", "--product", AGENT, "--ring", RING];
    fleet.refit(ring.into_iter().chain(["--name", RING, "--unencrypted"])).unwrap();
    let delegate = ["trust", "delegate", "--product", AGENT, "--release-key", "agent-release"];
    let ring = ["--policy-key", "policy", "--ring", "agents=agents"];
    fleet.refit(delegate.into_iter().chain(ring)).unwrap();
    fleet.refit(["trust", "push"]).unwrap();
    let product = |name: &str, ring: &str| {
        format!(
            "[[product]]\nname = \"{name}\"\n\n[[product.ring]]\nname = \"{ring}\"\n\
             select = {{ ring = \"pilot\" }}\n{LIMITS}\n"
        )
    };
    let all = product("payments", "pilot") + &product(AGENT, RING);
    fs::write(fleet.path().join("fleet.toml"), all).unwrap();
    fleet.refit(["apply", "fleet.toml", "--yes"]).unwrap();
}

const SHORT: Probation = Probation { start: 1, good: 2 };
/// So long that none of these releases is committed before the host goes back.
const LONG: Probation = Probation { start: 1, good: 500 };

/// The version of the packaged agent.
const PACKAGED: &str = env!("CARGO_PKG_VERSION");

#[test]
fn the_agent_takes_over_from_itself_and_updates_and_goes_back_as_before() {
    let claim = "the agent updates itself, on a booted Debian host";
    let Some(own) = Own::new(claim, 60) else { return };
    own.until_is(PACKAGED);
    for version in ["7.0", "7.1"] {
        own.let_loose(version, AgentIs::Good, SHORT);
        own.until_rollout(version, "done");
        own.until_is(version);
        own.told(&[version, "committed"]);
    }
    // What would bring the host back is of the same release.
    let rescue =
        own.host.good(["systemctl", "show", "-P", "ExecStart", "refit-rescue@boot"]).unwrap();
    let program = own.program().unwrap().with_file_name("refit-rescue");
    assert!(rescue.contains(&*program.to_string_lossy()), "{rescue}");

    // A product goes forward and back with it.
    own.payments("1.1");
    own.fleet.publish("1.2", Behaviour::Unhealthy).unwrap();
    own.fleet.promote("1.2", "pilot").unwrap();
    own.fleet.until_rollout("pilot", "1.2", "halted").unwrap();
    until_says(&own.host, "1.1");
    own.until_is("7.1");
}

#[test]
fn a_release_that_is_not_what_it_is_called_or_does_not_start_is_refused_once_and_changes_nothing() {
    let claim = "releases of the agent that do not qualify, on a booted Debian host";
    let Some(own) = Own::new(claim, 60) else { return };
    let units = own.units();
    // As one that can't reach the server from where the running agent does.
    let alone = "$agent \"$@\" || exit; test $1 = qualify || exit 0; \
                 sed -i 's/\"server\",\"finding\":\"good\"/\"server\",\"finding\":\"away\"/' $5/answer.json";
    let spoils = "case $1 in qualify) for at in /etc /usr /var/lib; do touch $at/spoilt; done;; esac; \
                  exec $agent \"$@\"";
    for (number, (version, is, why)) in [
        ("8.0", AgentIs::Called("7.9"), "says that it is 7.9"),
        ("8.1", AgentIs::CutTo(1_000_000), "not-qualified"),
        ("8.2", AgentIs::CutTo(0), "not-qualified"),
        ("8.3", AgentIs::Script("exit 0"), "said nothing of itself"),
        ("8.4", AgentIs::Script(alone), "it answers this one"),
    ]
    .into_iter()
    .enumerate()
    {
        own.let_loose(version, is, SHORT);
        own.until_rollout(version, "halted");
        own.told(&[why, "refused"]);
        own.until_is(PACKAGED);
        assert_eq!(own.units(), units, "{version}");
        let status = own.status().unwrap();
        let quarantined = status["quarantine"].as_array().map_or(0, Vec::len);
        assert_eq!(quarantined, number + 1, "{version}: {status}");
    }
    // Offered again, it is not tried again: its digest is known.
    let tried = |own: &Own| own.host.journal(AGENT).matches("is tried beside this one").count();
    let before = tried(&own);
    own.fleet.refit(["rollout", "resume", AGENT, RING, "--reason", "try again"]).unwrap();
    own.told(&["quarantine"]);
    assert_eq!(tried(&own), before);
    assert!(own.host.run(["ls", "/var/lib/refit-agent/qualify"]).unwrap().refused().is_ok());

    // One that would write elsewhere while it is tried can't.
    own.let_loose("8.5", AgentIs::Script(spoils), SHORT);
    own.until_rollout("8.5", "done");
    let spoilt = own.host.run(["sh", "-c", "ls /etc/spoilt /usr/spoilt /var/lib/spoilt"]).unwrap();
    assert_eq!(spoilt.out, "");
    own.payments("1.1");
}

#[test]
fn an_agent_that_does_not_come_up_is_undone_by_what_the_one_of_before_has_armed() {
    let claim = "releases of the agent that crash or hang, on a booted Debian host";
    let Some(own) = Own::new(claim, 15) else { return };
    own.let_loose("7.0", AgentIs::Good, SHORT);
    own.until_rollout("7.0", "done");
    own.until_is("7.0");
    let units = own.units();
    let crashes = "case $1 in run) exit 3;; *) exec $agent \"$@\";; esac";
    let hangs = "case $1 in run) exec sleep 100000;; *) exec $agent \"$@\";; esac";
    let holds =
        "case $1 in run) exec flock --no-fork $3/lock sleep 100000;; *) exec $agent \"$@\";; esac";
    for (version, script, why) in [
        ("9.0", crashes, "refit-rescue brought the host back"),
        ("9.1", hangs, "no agent ran during the update"),
        ("9.2", holds, "the update took longer than it may"),
    ] {
        own.let_loose(version, AgentIs::Script(script), LONG);
        own.until_rollout(version, "halted");
        own.told(&[why, "rolled-back"]);
        own.until_is("7.0");
        assert_eq!(own.units(), units, "{version}");
    }
    own.payments("1.1");
}

#[test]
fn power_cuts_and_a_server_that_is_away_leave_an_agent_that_starts() {
    let claim = "power cuts in an update of the agent, on a booted Debian host";
    let Some(mut own) = Own::new(claim, 60) else { return };
    // While the server is away the new agent is waited for, not refused.
    let waits = "case $1 in qualify) while test ! -e /run/go-on; do sleep 0.1; done;; esac; \
                 exec $agent \"$@\"";
    own.let_loose("7.0", AgentIs::Script(waits), LONG);
    until("the new agent is tried", || {
        Ok(own.host.journal(AGENT).contains("is tried beside this one").then_some(()))
    })
    .unwrap();
    own.host.set_cable(Cable::Pulled).unwrap();
    own.host.good(["touch", "/run/go-on"]).unwrap();
    until("it is said that the server is away", || {
        let status = own.status()?;
        anyhow::ensure!(status["phase"] == "fetching", "{status}");
        Ok(status.to_string().contains("server-away").then_some(()))
    })
    .unwrap();
    own.host.set_cable(Cable::Plugged).unwrap();
    own.until_phase("probation");
    own.until_is("7.0");

    for _ in 1..=2 {
        own.host.cut_power().unwrap();
        own.host.power_on().unwrap();
        own.until_phase("probation");
        own.until_is("7.0");
    }
    own.host.cut_power().unwrap();
    own.host.power_on().unwrap();
    own.told(&["the host was started too often during the update", "rolled-back"]);
    own.until_is(PACKAGED);
    own.until_rollout("7.0", "halted");

    // Cut at some moment of another, it ends on one whole agent.
    own.let_loose("7.1", AgentIs::Good, SHORT);
    until("the update has begun", || {
        let phase = own.status()?["phase"].as_str().unwrap_or_default().to_owned();
        Ok(["backing-up", "quiescing", "sealing", "switching", "probation", "committed"]
            .contains(&&*phase)
            .then_some(()))
    })
    .unwrap();
    own.host.cut_power().unwrap();
    own.host.power_on().unwrap();
    own.until_rollout("7.1", "done");
    own.until_is("7.1");
    own.payments("1.1");
    assert!(own.lab.folder().exists());
}
