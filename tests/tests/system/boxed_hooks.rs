//! Hooks in their box, on a booted Debian host: whatever one does, it is contained, ended, and named with
//! what it wrote.

use refit_tests::{
    lab::{self, DebianHost},
    release::{Behaviour, Probation},
    sandbox::Sandbox,
    wait::until,
};

use super::lab_host::{SETTINGS, let_payments_be_reached, until_says};

struct Lab {
    fleet: Sandbox,
    host: DebianHost,
}

impl Lab {
    fn on_1_0(claim: &str) -> Option<Lab> {
        let lab = lab::Lab::new(claim).unwrap()?;
        let host = lab.host("debian-1", &[]).unwrap();
        give_controllers(&host);
        host.good(["mkdir", "/srv/book"]).unwrap();
        let fleet = lab.fleet(&super::ONE_RING).unwrap();
        let_payments_be_reached(&host);
        host.enroll(&fleet, &["ring=pilot"], &format!("{SETTINGS}\n[brake]\nfailures = 0\n"))
            .unwrap();
        let lab = Lab { fleet, host };
        lab.promote("1.0", "", "");
        lab.fleet.until_rollout("pilot", "1.0", "done").unwrap();
        until_says(&lab.host, "1.0");
        Some(lab)
    }

    /// A release with a hook that runs this script, promoted.
    fn promote(&self, version: &str, script: &str, needs: &str) {
        let hook = format!(
            "[[hooks]]\nwhen = \"before-switch\"\ntimeout_seconds = 20\n{needs}\n\
             command = [\"/bin/bash\", \"-c\", '''\n{script}\n''']\n\
             [data]\nuse = \"untouched\"\npaths = [\"/srv/book\"]\n"
        );
        let hook = if script.is_empty() { "" } else { &hook };
        let probation = Probation { start: 10, good: 2 };
        let built = self.fleet.build_with(version, Behaviour::Good, probation, hook).unwrap();
        self.fleet.publish_built(&built).unwrap();
        self.fleet.promote(version, "pilot").unwrap();
    }

    /// Promotes it, and waits until it is undone, with all of these words in the host's report.
    fn is_undone(&self, version: &str, script: &str, needs: &str, words: &[&str]) {
        self.promote(version, script, needs);
        until(&format!("{version} is undone, with {words:?}"), || {
            let host = self.fleet.host_status("debian-1")?["products"][0].to_string();
            let all = ["rolled-back", "hook-failed"].iter().chain(words);
            match all.into_iter().all(|word| host.contains(word)) {
                true => Ok(Some(())),
                false => anyhow::bail!("it reports {host}"),
            }
        })
        .unwrap();
        self.fleet.until_rollout("pilot", version, "halted").unwrap();
        until_says(&self.host, "1.1");
        assert_eq!(self.processes("in-a-hook"), 0, "{version}");
    }

    /// How many processes of the host have this word in their command line.
    fn processes(&self, word: &str) -> usize {
        let all = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '";
        let all = self.host.good(["sh", "-c", all]).unwrap();
        all.matches(word).count()
    }

    fn is_there(&self, path: &str) -> bool {
        self.host.run(["test", "-e", path]).unwrap().success
    }
}

/// As on a machine of its own: systemd may limit memory and processes.
fn give_controllers(host: &DebianHost) {
    let give = "for it in memory pids; do test ! -d /sys/fs/cgroup/$it || \
                mount -o remount,rw,bind /sys/fs/cgroup/$it; done; systemctl daemon-reexec";
    host.good(["sh", "-c", give]).unwrap();
    until("systemd is back", || {
        let state = host.run(["systemctl", "is-system-running"])?.out;
        Ok(matches!(state.trim(), "running" | "degraded").then_some(()))
    })
    .unwrap();
}

/// What a hook finds of its box; it goes well all the same.
const LOOKS_AROUND: &str = r#"
grep -c eth0 /proc/net/dev
touch /etc/by-hook || echo "etc is closed"
touch /run/by-hook || echo "run is closed"
touch /root/by-hook || echo "home is closed"
mount -o remount,rw / && touch /etc/by-hook || echo "it stays so"
touch /proc/1/root/etc/by-hook || echo "no way around"
systemctl start by-hook || echo "systemd is closed"
systemd-run touch /etc/by-hook || echo "no unit of its own"
touch /srv/by-hook && rm /srv/by-hook && echo "what is named is open"
touch /srv/book/by-hook || echo "data is closed"
ls /var/lib/refit-agent/identity || echo "keys are hidden"
touch /tmp/by-hook && touch mine && rm mine && echo "its own is open"
(setsid bash -c 'exec -a in-a-hook sleep 77777' </dev/null >/dev/null 2>&1 &)
"#;

#[test]
fn a_hook_in_its_box_reaches_nothing_that_it_does_not_declare_and_whatever_it_does_is_named() {
    let Some(lab) = Lab::on_1_0("hooks in their box, on a booted Debian host") else { return };
    lab.promote("1.1", LOOKS_AROUND, "writes = [\"/srv\"]");
    lab.fleet.until_rollout("pilot", "1.1", "done").unwrap();
    until_says(&lab.host, "1.1");
    let shown = lab.fleet.refit(["host", "show", "debian-1"]).unwrap();
    let status = lab.host.good(["refit-agent", "status"]).unwrap();
    let whole = lab.fleet.host_status("debian-1").unwrap()["products"][0]["hooks"][0].clone();
    let output = whole["output"].as_str().unwrap();
    for part in [
        "0\n",
        "etc is closed",
        "run is closed",
        "home is closed",
        "it stays so",
        "no way around",
        "systemd is closed",
        "no unit of its own",
        "what is named is open",
        "data is closed",
        "keys are hidden",
        "its own is open",
    ] {
        assert!(output.contains(part), "{part}: {output}");
    }
    for text in [&shown, &status] {
        assert!(text.contains("hook        before-switch 0 of payments ended well"), "{text}");
        assert!(text.contains("output      its own is open"), "{text}");
    }
    for path in ["/etc/by-hook", "/run/by-hook", "/root/by-hook", "/tmp/by-hook"] {
        assert!(!lab.is_there(path), "{path}");
    }
    assert_eq!(lab.processes("in-a-hook"), 0, "a daemon has outlived its hook");

    // What fails, with its reason; and each is undone.
    let writes = "set -e; echo x >/etc/by-hook";
    lab.is_undone("1.2", writes, "", &["ended with 1", "Read-only file system"]);
    let sleeps = "trap '' TERM; exec -a in-a-hook sleep 77777 & trap '' TERM; echo begun; wait";
    lab.is_undone("1.3", sleeps, "", &["took longer than 20 s", "begun"]);
    let eats = "perl -e 'push @a, q(x) x 1000000 for 1..400; print q(fed)'";
    lab.is_undone("1.4", eats, "memory_mb = 64", &["64 MiB"]);
    let forks = "exec sh -c 'for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 60 & done; wait'";
    lab.is_undone("1.5", forks, "tasks = 10", &["Cannot fork"]);
    let prints = "head -c 10000000 /dev/zero | tr '\\0' x; echo; echo the end; exit 7";
    lab.is_undone("1.6", prints, "", &["ended with 7", "the end"]);
    let kept = "ls -l /var/lib/refit-agent/hooks | awk '$5 > 300000'";
    let kept = lab.host.good(["sh", "-c", kept]).unwrap();
    assert!(!kept.contains(".json"), "too much is kept: {kept}");
    assert!(!lab.is_there("/etc/by-hook"));

    // And what is declared is given.
    let declared = "set -e; grep -q eth0 /proc/net/dev; echo x >/etc/hooks/by-hook; \
                    systemctl is-active dbus; echo all of it";
    lab.host.good(["mkdir", "/etc/hooks"]).unwrap();
    let needs = "network = true\nsystemd = true\nwrites = [\"/etc/hooks\"]";
    lab.promote("1.7", declared, needs);
    lab.fleet.until_rollout("pilot", "1.7", "done").unwrap();
    until_says(&lab.host, "1.7");
    assert!(lab.is_there("/etc/hooks/by-hook"));
    let failed = lab.host.good(["systemctl", "list-units", "--all", "refit-hook-*"]).unwrap();
    assert!(failed.contains("0 loaded units"), "systemd is left with {failed}");
}
