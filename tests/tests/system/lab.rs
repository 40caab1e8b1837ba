//! The lab does to its hosts what it says, to no other, and leaves nothing behind. What other tests show
//! there is worth no more than this.

use std::{fs, path::Path, process::Command, time::Duration};

use refit_durable::testing::not_run;
use refit_tests::{
    http,
    lab::{Cable, DebianHost, Lab, SmallDisk, clocks_can_move},
    process::Ran,
    release::Behaviour,
    wait::until,
};

use super::lab_host::{SETTINGS, let_payments_be_reached, until_says};

const DISKS: [SmallDisk; 2] = [
    SmallDisk { at: "/opt/refit", megabytes: 100 },
    SmallDisk { at: "/var/lib/refit-agent", megabytes: 100 },
];

fn main_process(host: &DebianHost) -> String {
    host.good(["systemctl", "show", "-P", "MainPID", "refit-agent"]).unwrap().trim().to_owned()
}

fn answers(host: &DebianHost) -> bool {
    http::get_at(host.at(8080), "/", Duration::from_millis(500)).is_ok()
}

fn free(host: &DebianHost, folder: &str) -> u64 {
    let free = host.good(["stat", "-f", "-c", "%a", folder]).unwrap();
    free.trim().parse().unwrap()
}

/// What this machine would still have of a lab.
fn left_of(name: &str, folder: &Path) -> Vec<String> {
    let told = |command: &mut Command| Ran::of(command).unwrap().good().unwrap();
    let namespaces = told(Command::new("ip").args(["netns", "list"]));
    let loops = told(Command::new("losetup").args(["--list", "--noheadings", "-O", "BACK-FILE"]));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let inside = folder.display().to_string();
    let mut left: Vec<String> = namespaces
        .lines()
        .filter(|line| line.starts_with(name))
        .chain(loops.lines().chain(mounts.lines()).filter(|line| line.contains(&inside)))
        .map(str::to_owned)
        .collect();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        if command.contains(&inside) {
            left.push(command);
        }
    }
    left.extend(folder.exists().then_some(inside));
    left
}

#[test]
fn what_the_lab_does_to_one_host_the_others_do_not_see_and_nothing_is_left_of_it() {
    let claim = "the lab's own tools on two booted hosts";
    let Some(lab) = Lab::new(claim).unwrap() else { return };
    let (name, folder) = (lab.network().to_owned(), lab.folder().to_owned());
    let mut one = lab.host("debian-1", &DISKS).unwrap();
    let other = lab.host("debian-2", &[]).unwrap();
    let fleet = lab.fleet(&super::ONE_RING).unwrap();
    for host in [&one, &other] {
        let_payments_be_reached(host);
        host.enroll(&fleet, &["ring=pilot"], SETTINGS).unwrap();
    }
    fleet.publish("1.0", Behaviour::Good).unwrap();
    fleet.promote("1.0", "pilot").unwrap();
    until_says(&one, "1.0");
    until_says(&other, "1.0");
    fleet.until_rollout("pilot", "1.0", "done").unwrap();
    let untouched = main_process(&other);

    for cable in [Cable::Silent, Cable::Pulled] {
        one.set_cable(cable).unwrap();
        assert!(!answers(&one), "{cable:?}");
        assert!(answers(&other));
        one.set_cable(Cable::Plugged).unwrap();
        until_says(&one, "1.0");
    }

    let before = main_process(&one);
    one.kill_agent().unwrap();
    until("systemd has started it again", || {
        let now = main_process(&one);
        Ok((now != before && now != "0").then_some(()))
    })
    .unwrap();

    let room = free(&other, "/var");
    for disk in DISKS {
        one.fill_disk(disk.at).unwrap();
        assert_eq!(free(&one, disk.at), 0);
        one.free_disk(disk.at).unwrap();
        assert!(free(&one, disk.at) > 0);
    }
    assert!(free(&other, "/var") > room / 2);

    one.cut_power().unwrap();
    assert!(!one.is_on() && !answers(&one) && answers(&other));
    one.power_on().unwrap();
    until_says(&one, "1.0");
    assert_eq!(main_process(&other), untouched, "the other host's agent was ended");

    drop((fleet, one, other, lab));
    assert_eq!(left_of(&name, &folder), Vec::<String>::new());
}

#[test]
fn an_agent_whose_clock_jumps_by_years_says_so_and_goes_on_when_it_is_right_again() {
    let claim = "a clock that jumps under the agent of a booted host";
    if !clocks_can_move() {
        return not_run(claim, "sudo apt-get install libfaketime");
    }
    let Some(lab) = Lab::new(claim).unwrap() else { return };
    let host = lab.host("debian-1", &[]).unwrap();
    let fleet = lab.fleet(&super::ONE_RING).unwrap();
    let_payments_be_reached(&host);
    host.enroll(&fleet, &["ring=pilot"], SETTINGS).unwrap();
    fleet.publish("1.0", Behaviour::Good).unwrap();
    fleet.promote("1.0", "pilot").unwrap();
    until_says(&host, "1.0");
    fleet.until_rollout("pilot", "1.0", "done").unwrap();

    host.move_clock("+0").unwrap();
    host.move_clock("+1000d").unwrap();
    until("the agent says that its server's certificate has expired", || {
        Ok(host.journal("refit-agent").contains("certificate expired").then_some(()))
    })
    .unwrap();
    // What runs is left alone.
    until_says(&host, "1.0");
    host.move_clock("+0").unwrap();
    fleet.publish("1.1", Behaviour::Good).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    until_says(&host, "1.1");
    fleet.until_rollout("pilot", "1.1", "done").unwrap();
}
