//! Our own Debian package on a booted host: installed, updated and removed as an administrator would.

use std::{fs, path::Path};

use refit_tests::{
    lab::{DebianHost, Lab, debian_package},
    release::{Behaviour, Probation},
    wait::until,
};

use super::lab_host::{SETTINGS, let_payments_be_reached, until_says};

const PACKAGE: &str = "refit-agent";

fn is(host: &DebianHost, what: &str, unit: &str) -> String {
    host.run(["systemctl", what, unit]).unwrap().out.trim().to_owned()
}

fn main_process(host: &DebianHost) -> String {
    host.good(["systemctl", "show", "-P", "MainPID", PACKAGE]).unwrap().trim().to_owned()
}

fn version(host: &DebianHost) -> String {
    host.good(["dpkg-query", "-W", "-f", "${Version} ${Status}", PACKAGE]).unwrap()
}

/// Installs a package that was made on this machine.
fn dpkg_install(host: &DebianHost, package: &Path) {
    host.put(package, "/root").unwrap();
    let name = package.file_name().unwrap().to_string_lossy().into_owned();
    host.good(["dpkg", "--force-unsafe-io", "--install", &format!("/root/{name}")]).unwrap();
    host.good(["rm", &format!("/root/{name}")]).unwrap();
}

/// Everything below a folder of the host, by name.
fn all_files(host: &DebianHost) -> Vec<String> {
    let script = "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp \
                  -o -path /var/log -o -path /var/lib/systemd -o -path /var/lib/dpkg \\) -prune -o -print";
    host.good(["sh", "-c", script]).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn our_package_installs_updates_itself_with_its_state_and_leaves_nothing_behind() {
    let claim = "our Debian package on a booted host";
    let Some(lab) = Lab::new(claim).unwrap() else { return };
    let host = lab.host("debian-1", &[]).unwrap();
    // Removed and purged first: what is there then is what must be there at the end.
    host.good(["dpkg", "--purge", PACKAGE]).unwrap();
    let before = all_files(&host);
    let package = debian_package(lab.folder(), None).unwrap();
    dpkg_install(&host, &package);
    assert_eq!(is(&host, "is-enabled", PACKAGE), "enabled");
    assert_eq!(is(&host, "is-enabled", "refit-rescue@boot"), "enabled");
    // Not enrolled: nothing to run, and nothing that failed.
    assert_eq!(is(&host, "is-active", PACKAGE), "inactive");
    assert_eq!(host.good(["dpkg", "--verify", PACKAGE]).unwrap(), "");

    let fleet = lab.fleet(&super::ONE_RING).unwrap();
    let_payments_be_reached(&host);
    host.enroll(&fleet, &["ring=pilot"], SETTINGS).unwrap();
    assert_eq!(is(&host, "is-active", PACKAGE), "active");
    fleet.publish("1.0", Behaviour::Good).unwrap();
    fleet.promote("1.0", "pilot").unwrap();
    until_says(&host, "1.0");
    fleet.until_rollout("pilot", "1.0", "done").unwrap();

    // The next version of the package: the same host, the same settings, a new process.
    let process = main_process(&host);
    let next = debian_package(lab.folder(), Some("0.1.1~test")).unwrap();
    dpkg_install(&host, &next);
    assert_eq!(version(&host), "0.1.1~test install ok installed");
    assert_eq!(is(&host, "is-active", PACKAGE), "active");
    assert_ne!(main_process(&host), process, "the old program still runs");
    assert!(host.good(["cat", "/etc/refit/agent.toml"]).unwrap().contains("PORT"));
    until_says(&host, "1.0");

    // In the middle of an update it stays: nothing else could go back.
    let long = Probation { start: 1, good: 500 };
    let built = fleet.build_with("1.1", Behaviour::Good, long, "").unwrap();
    fleet.publish_built(&built).unwrap();
    fleet.promote("1.1", "pilot").unwrap();
    until_says(&host, "1.1");
    let refused = host.run(["dpkg", "--purge", PACKAGE]).unwrap().refused().unwrap();
    assert!(refused.contains("an update is under way"), "{refused}");
    assert_eq!(is(&host, "is-active", PACKAGE), "active");
    host.good(["refit-rescue", "back"]).unwrap();
    until_says(&host, "1.0");
    until("the way back is not needed any more", || {
        Ok(host.run(["test", "-e", "/var/lib/refit-agent/way-back"])?.refused().ok())
    })
    .unwrap();

    host.good(["dpkg", "--remove", PACKAGE]).unwrap();
    assert_eq!(is(&host, "is-active", PACKAGE), "inactive");
    // What it has installed runs on, and is no part of it.
    until_says(&host, "1.0");
    host.good(["sh", "-c", "systemctl disable --now payments; rm -r /opt/refit /etc/payments"])
        .unwrap();
    host.good(["rm", "-f", "/etc/systemd/system/payments.service"]).unwrap();
    host.good(["dpkg", "--purge", PACKAGE]).unwrap();
    let left: Vec<String> =
        all_files(&host).into_iter().filter(|file| !before.contains(file)).collect();
    assert_eq!(left, Vec::<String>::new());
    let units = host.good(["systemctl", "list-unit-files", "--no-legend"]).unwrap();
    assert!(units.contains("dbus.service") && !units.contains("refit"), "{units}");
    fs::remove_file(package).unwrap();
}
