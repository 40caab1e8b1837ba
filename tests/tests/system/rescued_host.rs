//! Releases that take the agent away, on a booted Debian host: systemd holds the way back, and brings the
//! host to what ran before without the agent.

use refit_tests::{
    lab::{self, DebianHost, SmallDisk},
    release::{Behaviour, Probation},
    sandbox::Sandbox,
    wait::until,
};

use super::lab_host::{SETTINGS, let_payments_be_reached, until_says};

/// So long that none of these releases is committed before the host goes back.
const LONG: Probation = Probation { start: 1, good: 500 };

struct Lab {
    fleet: Sandbox,
    host: DebianHost,
}

impl Lab {
    /// A host on 1.0; `None` where this machine can't.
    fn on_1_0(claim: &str) -> Option<Lab> {
        Lab::on(claim, &[], 10)
    }

    /// The same with small disks of their own at these places, and another time, in seconds, after which
    /// a missing agent is no more waited for.
    fn on(claim: &str, disks: &[SmallDisk], rescue_after: u32) -> Option<Lab> {
        let lab = lab::Lab::new(claim).unwrap()?;
        let host = lab.host("debian-1", disks).unwrap();
        let fleet = lab.fleet(&super::ONE_RING).unwrap();
        let_payments_be_reached(&host);
        let settings = format!("rescue_after_seconds = {rescue_after}\n{SETTINGS}");
        host.enroll(&fleet, &["ring=pilot"], &settings).unwrap();
        let lab = Lab { fleet, host };
        lab.fleet.publish("1.0", Behaviour::Good).unwrap();
        lab.fleet.promote("1.0", "pilot").unwrap();
        lab.until_says("1.0");
        lab.fleet.until_rollout("pilot", "1.0", "done").unwrap();
        Some(lab)
    }

    fn until_says(&self, version: &str) {
        until_says(&self.host, version);
    }

    /// Without the pause that systemd makes before it starts an agent that has failed.
    fn start_agents_at_once(&self) {
        let folder = "/etc/systemd/system/refit-agent.service.d";
        self.host.write(&format!("{folder}/fast.conf"), "[Service]\nRestartSec=100ms\n").unwrap();
        self.host.good(["systemctl", "daemon-reload"]).unwrap();
    }

    /// How far the host's update is, by its own word.
    fn phase(&self) -> anyhow::Result<String> {
        let said = self.host.agent_status()?;
        Ok(said["products"][0]["phase"].as_str().unwrap_or_default().to_owned())
    }

    /// Lets a release loose and waits until it has taken the place of 1.0.
    fn let_loose(&self, version: &str, behaviour: Behaviour) {
        let built = self.fleet.build_with(version, behaviour, LONG, "").unwrap();
        self.fleet.publish_built(&built).unwrap();
        self.fleet.promote(version, "pilot").unwrap();
        self.until_says(version);
    }

    /// Waits until the host runs 1.0 again and the server knows why.
    fn until_back_from(&self, version: &str, why: &str) {
        self.until_says("1.0");
        until(&format!("the report says that {why}"), || {
            let host = self.fleet.host_status("debian-1")?.to_string();
            let told = host.contains("refit-rescue brought the host back") && host.contains(why);
            Ok((told && host.contains("rolled-back")).then_some(()))
        })
        .unwrap();
        let host = self.fleet.host_status("debian-1").unwrap().to_string();
        assert!(!host.contains("it failed"), "{}", self.host.journal("refit-rescue*"));
        self.fleet.until_rollout("pilot", version, "halted").unwrap();
        self.until_says("1.0");
        let agent = self.host.good(["systemctl", "is-active", "refit-agent"]).unwrap();
        assert_eq!(agent.trim(), "active");
        // Nothing is left behind that would start the rescuer again.
        until("the timer is gone", || {
            let shown = ["systemctl", "is-active", "refit-rescue-tick.timer"];
            Ok((self.host.run(shown)?.out.trim() == "inactive").then_some(()))
        })
        .unwrap();
    }
}

#[test]
fn a_release_that_takes_the_agent_away_is_undone_without_it() {
    let claim =
        "a release that stops, masks, damages or cuts off the agent, on a booted Debian host";
    let Some(lab) = Lab::on_1_0(claim) else { return };

    lab.let_loose("1.1", Behaviour::Runs("systemctl stop refit-agent"));
    lab.until_back_from("1.1", "no agent ran during the update");

    lab.let_loose("1.2", Behaviour::Runs("systemctl mask --now refit-agent"));
    lab.until_back_from("1.2", "no agent ran during the update");

    let without_dbus = "systemctl mask --now dbus.socket dbus.service; systemctl stop refit-agent";
    lab.let_loose("1.3", Behaviour::Runs(without_dbus));
    lab.until_back_from("1.3", "no agent ran during the update");
}

#[test]
fn an_agent_whose_program_is_damaged_by_a_release_is_not_needed_to_go_back() {
    let claim = "a release that damages the agent's program, on a booted Debian host";
    let Some(lab) = Lab::on_1_0(claim) else { return };
    let damage = "cd /usr/bin && cp refit-agent /root/whole && \
                  head -c 100000 /root/whole > damaged && chmod 755 damaged && \
                  mv damaged refit-agent && systemctl kill -s KILL refit-agent";
    lab.let_loose("1.1", Behaviour::Runs(damage));
    lab.until_says("1.0");
    // Nobody could tell yet; once the program is whole again, the agent does.
    lab.host.good(["mv", "/root/whole", "/usr/bin/refit-agent"]).unwrap();
    lab.host.good(["systemctl", "restart", "refit-agent"]).unwrap();
    lab.until_back_from("1.1", "during the update");
}

#[test]
fn an_agent_that_systemd_gives_up_is_not_waited_for() {
    let claim = "an agent that fails again and again, on a booted Debian host";
    let Some(lab) = Lab::on(claim, &[], 86_400) else { return };
    // Twenty failures without the usual pause between them.
    lab.start_agents_at_once();
    let damage = "echo 'services = wrong' > /var/lib/refit-agent/agent.toml.new && \
                  cd /var/lib/refit-agent && mv agent.toml /root/whole && \
                  mv agent.toml.new agent.toml && systemctl kill -s KILL refit-agent";
    lab.let_loose("1.1", Behaviour::Runs(damage));
    lab.until_says("1.0");
    lab.host.good(["mv", "/root/whole", "/var/lib/refit-agent/agent.toml"]).unwrap();
    lab.until_back_from("1.1", "the agent failed again and again during the update");
}

#[test]
fn a_release_that_hangs_or_ends_at_once_is_undone_by_the_agent_and_the_rescuer_has_nothing_to_do() {
    let claim = "a release that hangs or crash-loops, on a booted Debian host";
    let Some(lab) = Lab::on_1_0(claim) else { return };
    for (version, behaviour) in [("1.1", Behaviour::Hangs), ("1.2", Behaviour::Exits)] {
        lab.fleet.publish(version, behaviour).unwrap();
        lab.fleet.promote(version, "pilot").unwrap();
        lab.fleet.until_rollout("pilot", version, "halted").unwrap();
        lab.until_says("1.0");
        let host = lab.fleet.host_status("debian-1").unwrap().to_string();
        assert!(host.contains("rolled-back") && !host.contains("refit-rescue"), "{host}");
        if behaviour == Behaviour::Exits {
            assert!(host.contains("says that this release can't start"), "its last words: {host}");
        }
    }
}

#[test]
fn a_host_that_is_started_for_the_third_time_in_one_probation_goes_back_and_before_that_does_not() {
    let claim = "three power cuts in one probation, on a booted Debian host";
    let Some(mut lab) = Lab::on_1_0(claim) else { return };
    lab.let_loose("1.1", Behaviour::Runs("true"));
    for start in 1..=2 {
        lab.host.cut_power().unwrap();
        lab.host.power_on().unwrap();
        lab.until_says("1.1");
        let shown = lab.host.good(["refit-rescue", "show"]).unwrap();
        assert!(shown.contains(&format!("started {start} of 3 times")), "{shown}");
    }
    lab.host.cut_power().unwrap();
    lab.host.power_on().unwrap();
    lab.until_back_from("1.1", "the host was started too often during the update");
}

#[test]
fn a_release_that_fills_the_disk_and_stops_the_agent_is_undone_all_the_same() {
    let claim = "a release that fills the disks, on a booted Debian host";
    let disk = |at| SmallDisk { at, megabytes: 160 };
    let disks = ["/opt/refit", "/var/lib/refit-agent"].map(disk);
    let Some(lab) = Lab::on(claim, &disks, 10) else { return };
    let fill = "for at in /opt/refit /var/lib/refit-agent; do \
                dd if=/dev/zero of=$at/fill bs=1M; dd if=/dev/zero of=$at/rest bs=1; \
                stat -f -c %a $at >> /run/free; done; \
                systemctl stop refit-agent";
    lab.let_loose("1.1", Behaviour::Runs(fill));
    lab.until_says("1.0");
    // It was not by luck: to the last block they were full.
    let free = lab.host.good(["cat", "/run/free"]).unwrap();
    assert_eq!(free.split_whitespace().collect::<Vec<_>>(), ["0", "0"]);
    // The agent may not even start on a full disk; with room it does, and tells.
    for at in ["/opt/refit", "/var/lib/refit-agent"] {
        lab.host.good(["rm", "-f", &format!("{at}/fill"), &format!("{at}/rest")]).unwrap();
    }
    lab.host.good(["systemctl", "restart", "refit-agent"]).unwrap();
    lab.until_back_from("1.1", "during the update");
}

#[test]
fn a_clock_that_jumps_by_a_year_in_probation_neither_ends_it_nor_keeps_the_host_from_going_back() {
    let claim = "a clock that jumps by a year in probation, on a booted Debian host";
    if !lab::clocks_can_move() {
        let why = format!("{claim} (libfaketime is not installed)");
        refit_durable::testing::not_run(&why, "sudo apt-get install libfaketime");
        return;
    }
    let Some(lab) = Lab::on_1_0(claim) else { return };
    lab.start_agents_at_once();
    lab.host.move_clock("+0").unwrap();
    let probation = Probation { start: 1, good: 15 };
    let built = lab.fleet.build_with("1.1", Behaviour::Good, probation, "").unwrap();
    lab.fleet.publish_built(&built).unwrap();
    lab.fleet.promote("1.1", "pilot").unwrap();
    lab.until_says("1.1");
    for by in ["+365d", "-365d", "+365d"] {
        lab.host.move_clock(by).unwrap();
        lab.host.kill_agent().unwrap();
        until("the agent watches the release again", || {
            let active = lab.host.run(["systemctl", "is-active", "refit-agent"])?.out;
            anyhow::ensure!(lab.phase()? == "probation", "it is {}", lab.phase()?);
            Ok((active.trim() == "active").then_some(()))
        })
        .unwrap();
        lab.until_says("1.1");
    }
    // With the clock as wrong as that nobody can be told; the verdict is the host's own.
    until("it is committed", || Ok((lab.phase()? == "committed").then_some(()))).unwrap();
    lab.host.move_clock("+0").unwrap();
    lab.host.good(["systemctl", "restart", "refit-agent"]).unwrap();
    lab.fleet.until_rollout("pilot", "1.1", "done").unwrap();

    // And where the agent is gone, running time alone says when it is enough.
    let gone = "echo +365d > /etc/refit-lab/clock; systemctl stop refit-agent";
    lab.let_loose("1.2", Behaviour::Runs(gone));
    lab.until_says("1.1");
    lab.host.move_clock("+0").unwrap();
    lab.host.good(["systemctl", "restart", "refit-agent"]).unwrap();
    lab.fleet.until_rollout("pilot", "1.2", "halted").unwrap();
    let host = lab.fleet.host_status("debian-1").unwrap().to_string();
    assert!(host.contains("no agent ran during the update"), "{host}");
}
