//! Releases of Debian packages on a booted Debian host, by the host's own dpkg.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};

use refit_tests::{
    lab::{self, DebianHost},
    process::Ran,
    release::{self, Behaviour},
    sandbox::Sandbox,
    wait::until,
};

use super::lab_host::{SETTINGS, let_payments_be_reached, until_says};

const CONF: &str = "/etc/payments.conf";

struct Lab {
    fleet: Sandbox,
    host: DebianHost,
}

impl Lab {
    fn boot(claim: &str) -> Option<Lab> {
        if Command::new("dpkg-deb").arg("--version").output().is_err() {
            refit_durable::testing::not_run(claim, "sudo apt-get install dpkg");
            return None;
        }
        let lab = lab::Lab::new(claim).unwrap()?;
        let host = lab.host("debian-1", &[]).unwrap();
        let fleet = lab.fleet(&super::ONE_RING).unwrap();
        let_payments_be_reached(&host);
        let settings = format!("rescue_after_seconds = 10\n{SETTINGS}");
        host.enroll(&fleet, &["ring=pilot"], &settings).unwrap();
        Some(Lab { fleet, host })
    }

    /// A package `payments` of this version, as its maintainer would build it.
    fn deb(&self, version: &str, behaviour: Behaviour, script: &str) -> PathBuf {
        let root = self.fleet.path().join(format!("deb-{version}"));
        let tree = root.join("usr/lib/payments");
        let made = self.fleet.path().join(format!("tree-{version}"));
        release::write(&made, version, behaviour, Default::default(), "").unwrap();
        fs::create_dir_all(tree.parent().unwrap()).unwrap();
        fs::rename(made.join("tree"), &tree).unwrap();
        let write = |path: &str, text: &str, mode: u32| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let unit = "[Service]\nWorkingDirectory=/usr/lib/payments\n\
             ExecStart=/usr/lib/payments/bin/demo-service 8080\n\
             [Install]\nWantedBy=multi-user.target\n";
        write("lib/systemd/system/payments.service", unit, 0o644);
        write(&CONF[1..], &format!("conf of {version}\n"), 0o644);
        let control = format!(
            "Package: payments\nVersion: {version}\nArchitecture: amd64\nInstalled-Size: 20000\n\
             Maintainer: The payments team <payments@example.org>\nDescription: payments\n"
        );
        write("DEBIAN/control", &control, 0o644);
        write("DEBIAN/conffiles", &format!("{CONF}\n"), 0o644);
        let script = format!(
            "#!/bin/sh\nset -e\n{script}\nsystemctl daemon-reload\nsystemctl enable payments\n\
             systemctl restart payments\n"
        );
        write("DEBIAN/postinst", &script, 0o755);
        write("DEBIAN/prerm", "#!/bin/sh\nsystemctl stop payments || true\n", 0o755);
        let out = self.fleet.path().join(format!("payments_{version}_amd64.deb"));
        let mut build = Command::new("dpkg-deb");
        build.args(["--root-owner-group", "-Zgzip", "-z1", "--build"]).arg(&root).arg(&out);
        Ran::of(&mut build).unwrap().good().unwrap();
        out
    }

    /// A release of that package, promoted.
    fn promote(&self, version: &str, behaviour: Behaviour, script: &str) {
        let deb = self.deb(version, behaviour, script);
        let source = self.fleet.path().join(format!("source-{version}"));
        fs::create_dir_all(source.join("tree")).unwrap();
        fs::copy(&deb, source.join("tree").join(deb.file_name().unwrap())).unwrap();
        let description = "installer = \"deb\"\n\n[[services]]\nname = \"payments\"\n\n\
            [health.checked]\nstart_seconds = 1\ninterval_seconds = 1\nfailures = 2\n\
            good_seconds = 1\nmax_seconds = 600\n\n[[health.checked.checks]]\nname = \"answers\"\n\
            kind = \"http\"\nurl = \"http://127.0.0.1:${PORT}/health\"\ntimeout_seconds = 2\n";
        fs::write(source.join("refit.toml"), description).unwrap();
        let built = self.fleet.build_from(&source, version).unwrap();
        self.fleet.publish_built(&built).unwrap();
        self.fleet.promote(version, "pilot").unwrap();
    }

    fn until_says(&self, version: &str) {
        until_says(&self.host, version);
    }

    /// The version that dpkg has; nothing if it has none, and nothing of it.
    fn installed(&self) -> String {
        let asked =
            ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Version}", "payments"];
        let asked = self.host.run(asked).unwrap();
        if asked.success { asked.out } else { String::new() }
    }

    fn conf(&self) -> String {
        fs::read_to_string(self.host.root().join(&CONF[1..])).unwrap_or_default()
    }

    fn until_reports(&self, words: &[&str]) {
        self.fleet.until_host_reports("debian-1", words).unwrap();
    }
}

#[test]
fn debian_packages_are_installed_and_a_bad_one_leaves_the_one_before_and_the_owners_configuration()
{
    let Some(lab) = Lab::boot("releases of Debian packages, on a booted Debian host") else {
        return;
    };

    // A failing first install leaves nothing, not even to dpkg.
    lab.promote("0.1", Behaviour::Unhealthy, "");
    lab.fleet.until_rollout("pilot", "0.1", "halted").unwrap();
    assert_eq!((lab.installed(), lab.conf()), (String::new(), String::new()));
    assert!(!lab.host.root().join("usr/lib/payments").exists());

    // What somebody else installed, and nobody could go back to, is not touched.
    let by_hand = lab.deb("0.5", Behaviour::Good, "");
    fs::copy(&by_hand, lab.host.root().join("root/by-hand.deb")).unwrap();
    lab.host.good(["dpkg", "--install", "/root/by-hand.deb"]).unwrap();
    lab.until_says("0.5");
    lab.promote("0.6", Behaviour::Good, "");
    lab.until_reports(&["refused", "no .deb of payments 0.5"]);
    assert_eq!(lab.installed(), "installed 0.5");
    let cache = "/var/cache/apt/archives/payments_0.5_amd64.deb";
    lab.host.good(["cp", "/root/by-hand.deb", cache]).unwrap();
    lab.promote("0.7", Behaviour::Unhealthy, "");
    lab.fleet.until_rollout("pilot", "0.7", "halted").unwrap();
    lab.until_says("0.5");
    assert_eq!(lab.installed(), "installed 0.5");

    lab.promote("1.0", Behaviour::Good, "");
    lab.fleet.until_rollout("pilot", "1.0", "done").unwrap();
    lab.until_says("1.0");
    lab.host.write(CONF, "the owner's\n").unwrap();

    // A script that fails in the middle, and a release that installs and is not healthy.
    lab.promote("1.1", Behaviour::Good, "echo the database is missing >&2; exit 3");
    lab.until_reports(&["rolled-back", "hook-failed", "the database is missing"]);
    lab.promote("1.2", Behaviour::Unhealthy, "");
    lab.fleet.until_rollout("pilot", "1.2", "halted").unwrap();
    lab.until_says("1.0");
    assert_eq!((lab.installed(), lab.conf()), ("installed 1.0".into(), "the owner's\n".into()));
    assert_eq!(lab.host.good(["dpkg", "--audit"]).unwrap(), "");

    lab.promote("1.3", Behaviour::Good, "");
    lab.fleet.until_rollout("pilot", "1.3", "done").unwrap();
    lab.until_says("1.3");
    assert_eq!(lab.conf(), "the owner's\n");
    assert_eq!(lab.host.good(["systemctl", "is-enabled", "payments"]).unwrap().trim(), "enabled");

    // What another hand changes of it is named; its configuration is the owner's.
    lab.host.write("/usr/lib/payments/share/version", "6.6").unwrap();
    lab.host.good(["systemctl", "restart", "refit-agent"]).unwrap();
    until("the host names what was changed", || {
        let said = lab.host.good(["refit-agent", "status"])?;
        Ok(said.contains("/usr/lib/payments/share/version is not what").then_some(()))
    })
    .unwrap();
}

/// appliance-build#800, algo#14335.
#[test]
fn a_locked_dpkg_is_waited_for_an_interrupted_one_refused_and_a_power_cut_in_it_made_good() {
    let claim = "a locked, an interrupted and a cut dpkg, on a booted Debian host";
    let Some(mut lab) = Lab::boot(claim) else { return };
    lab.promote("1.0", Behaviour::Good, "");
    lab.fleet.until_rollout("pilot", "1.0", "done").unwrap();

    let lock = "use Fcntl; open F, '+<', '/var/lib/dpkg/lock-frontend' or die; \
                my $lock = pack('s s x4 q q i x4', F_WRLCK, 0, 0, 0, 0); \
                fcntl(F, F_SETLK, $lock) or die; open D, '>', '/root/locked'; sleep 1000;";
    lab.host.write("/root/lock.pl", lock).unwrap();
    lab.host.good(["systemd-run", "--unit=apt-like", "--quiet", "perl", "/root/lock.pl"]).unwrap();
    let there = |path: &str| lab.host.root().join(path).exists().then_some(());
    until("dpkg is locked", || Ok(there("root/locked"))).unwrap();
    lab.promote("1.1", Behaviour::Good, "");
    lab.until_reports(&["busy", "another program installs packages"]);
    lab.until_says("1.0");
    lab.host.good(["systemctl", "stop", "apt-like"]).unwrap();
    lab.fleet.until_rollout("pilot", "1.1", "done").unwrap();
    lab.until_says("1.1");

    // Half installed by somebody else.
    let other = lab.deb("0.5", Behaviour::Good, "");
    let folder = lab.fleet.path().join("deb-0.5");
    let control = fs::read_to_string(folder.join("DEBIAN/control")).unwrap();
    fs::write(folder.join("DEBIAN/control"), control.replace("payments", "half")).unwrap();
    for path in ["usr", "lib", "etc", "DEBIAN/conffiles", "DEBIAN/postinst", "DEBIAN/prerm"] {
        let path = folder.join(path);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    let half = lab.host.root().join("root/half.deb");
    let mut build = Command::new("dpkg-deb");
    build.args(["--root-owner-group", "-Zgzip", "--build"]).arg(&folder).arg(&half);
    Ran::of(&mut build).unwrap().good().unwrap();
    assert!(other.exists());
    lab.host.good(["dpkg", "--unpack", "/root/half.deb"]).unwrap();
    lab.promote("1.2", Behaviour::Good, "");
    lab.until_reports(&["refused", "dpkg was interrupted on this host"]);
    lab.until_says("1.1");
    lab.host.good(["dpkg", "--configure", "-a"]).unwrap();

    // The power goes while a maintainer's script runs.
    lab.promote("1.3", Behaviour::Good, "touch /root/begun; sleep 3");
    until("dpkg is in the middle of it", || Ok(there("root/begun"))).unwrap();
    lab.host.cut_power().unwrap();
    lab.host.power_on().unwrap();
    lab.fleet.until_rollout("pilot", "1.3", "done").unwrap();
    lab.until_says("1.3");
    assert_eq!(lab.installed(), "installed 1.3");
    assert_eq!(lab.host.good(["dpkg", "--audit"]).unwrap(), "");
}

/// puppet#3700, mcollective#454: the installer ended with the agent.
#[test]
fn packages_whose_script_stops_the_agent_are_installed_whole_and_taken_back_without_it() {
    let claim = "a package that stops the agent while it is installed, on a booted Debian host";
    let Some(lab) = Lab::boot(claim) else { return };
    lab.promote("1.0", Behaviour::Good, "");
    lab.fleet.until_rollout("pilot", "1.0", "done").unwrap();
    lab.promote("1.1", Behaviour::Good, "systemctl stop refit-agent; sleep 2");
    lab.until_says("1.1");
    assert_eq!(lab.host.good(["dpkg", "--audit"]).unwrap(), "", "it was not cut in half");
    lab.until_says("1.0");
    lab.until_reports(&["rolled-back", "refit-rescue brought the host back"]);
    lab.fleet.until_rollout("pilot", "1.1", "halted").unwrap();
    lab.until_says("1.0");
    assert_eq!(lab.installed(), "installed 1.0");
}
