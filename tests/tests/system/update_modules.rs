//! Mender update modules on a booted Debian host: those of Debian's own package `mender-client`, unchanged, and
//! ones that say what they find around them or ask for boots.

use std::{fs, path::Path, process::Command};

use refit_durable::testing::not_run;
use refit_tests::{lab::software, process::Ran, wait::until};

use super::kinds::{Lab, build_deb, write};

/// Where the host's modules are, by default.
const MODULES: &str = "/usr/share/mender/modules/v3";

/// What a package is made of.
#[derive(Clone, Copy)]
struct Package<'a> {
    kind: &'a str,
    /// The module, where the package brings it.
    module: Option<&'a str>,
    payload: &'a [(&'a str, &'a str)],
    /// What the module changes.
    paths: &'a [&'a str],
    /// What it may take, as TOML; nothing: what modules may by default.
    limits: &'a str,
    /// Exit code 0 is good.
    check: &'a str,
    good_seconds: u32,
}

/// A host with these modules of Debian's.
fn boot(claim: &str, debians: &[&str]) -> Option<Lab> {
    // First: the lab's network has no way to the archive.
    let modules = match debians {
        [] => None,
        _ => match software::unpacked("mender-client", None) {
            Ok(tree) => Some(tree.join(MODULES.trim_start_matches('/'))),
            Err(error) => {
                let needed = "a Debian 12 with `apt-get update` done";
                not_run(&format!("{claim} ({error:#})"), needed);
                return None;
            }
        },
    };
    let lab = Lab::boot(claim)?;
    for name in debians {
        lab.host.put(&modules.as_ref().unwrap().join(name), MODULES).unwrap();
    }
    Some(lab)
}

impl Lab {
    fn promote_package(&self, version: &str, package: &Package<'_>) {
        let source = self.fleet.path().join(format!("source-{version}"));
        let tree = source.join("tree");
        fs::create_dir_all(tree.join("payload")).unwrap();
        for (name, text) in package.payload {
            match text.strip_prefix("file:") {
                Some(from) => drop(fs::copy(from, tree.join("payload").join(name)).unwrap()),
                None => write(&tree, &format!("payload/{name}"), text, 0o644),
            }
        }
        if let Some(module) = package.module {
            write(&tree, &format!("module/{}", package.kind), module, 0o755);
        }
        self.promote_written(&source, &description(package), version);
    }

    fn until_done(&self, version: &str) {
        self.fleet.until_rollout("pilot", version, "done").unwrap();
    }

    /// What a file on the host holds; nothing if it is not there.
    fn reads(&self, path: &str) -> String {
        fs::read_to_string(self.host.root().join(path.trim_start_matches('/'))).unwrap_or_default()
    }

    /// Whether a process runs with this in its command line.
    fn runs(&self, what: &str) -> bool {
        let all = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '";
        self.host.good(["sh", "-c", all]).unwrap().contains(what)
    }

    fn nothing_is_left_of_the_work(&self) {
        until("nothing is left of the modules' work", || {
            let folder = self.host.root().join("var/lib/refit-agent/modules");
            anyhow::ensure!(!folder.exists(), "{}", folder.display());
            let units = self.host.good(["systemctl", "list-units", "--all", "refit-module-*"])?;
            anyhow::ensure!(units.contains("0 loaded units"), "{units}");
            Ok(Some(()))
        })
        .unwrap();
    }
}

fn description(package: &Package<'_>) -> String {
    let paths: Vec<_> = package.paths.iter().map(|path| format!("{path:?}")).collect();
    format!(
        "installer = \"mender\"\n\n[mender]\ntype = {:?}\ntimeout_seconds = 120\n{}\n\
         [backup]\npaths = [{}]\n\n[health.checked]\nstart_seconds = 1\ninterval_seconds = 1\n\
         failures = 2\ngood_seconds = {}\nmax_seconds = 600\n\n[[health.checked.checks]]\n\
         name = \"works\"\nkind = \"command\"\ncommand = [\"/bin/sh\", \"-c\", {:?}]\n",
        package.kind,
        package.limits,
        paths.join(", "),
        package.good_seconds,
        package.check,
    )
}

const DEBIANS: [&str; 4] = ["single-file", "directory", "script", "deb"];

fn of<'a>(kind: &'a str, payload: &'a [(&'a str, &'a str)], paths: &'a [&'a str]) -> Package<'a> {
    Package { kind, module: None, payload, paths, limits: "", check: "true", good_seconds: 1 }
}

/// A tar file with one file of this text.
fn tar(folder: &Path, name: &str, text: &str) -> String {
    let root = folder.join(format!("tar-{text}"));
    write(&root, name, text, 0o640);
    let out = folder.join(format!("{text}.tar"));
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(&out).arg("-C").arg(&root).arg(name);
    Ran::of(&mut tar).unwrap().good().unwrap();
    format!("file:{}", out.display())
}

#[test]
fn debians_modules_with_a_rollback_run_unchanged_and_what_they_leave_behind_the_backup_takes_away()
{
    let claim = "Debian's update modules single-file and directory, on a booted Debian host";
    let Some(lab) = boot(claim, &DEBIANS) else { return };
    let file = |text| {
        [("dest_dir", "/srv/tool"), ("filename", "tool"), ("permissions", "750"), ("tool", text)]
    };
    let bad = |package| Package { check: "exit 1", ..package };

    // Its own rollback leaves a file where none was before; the backup does not.
    let (one, two) = (file("one"), file("two"));
    lab.promote_package("0.1", &bad(of("single-file", &two, &["/srv/tool"])));
    lab.until_reports("0.1", &["rolled-back", "health-check-failed"]);
    assert!(!lab.host.root().join("srv/tool").exists());
    lab.nothing_is_left_of_the_work();
    lab.promote_package("1.0", &of("single-file", &one, &["/srv/tool"]));
    lab.until_done("1.0");
    assert_eq!(lab.reads("/srv/tool/tool"), "one");
    let mode = lab.host.good(["stat", "-c", "%a", "/srv/tool/tool"]).unwrap();
    assert_eq!(mode.trim(), "750");
    lab.promote_package("1.1", &bad(of("single-file", &two, &["/srv/tool"])));
    lab.until_reports("1.1", &["rolled-back", "health-check-failed"]);
    assert_eq!(lab.reads("/srv/tool/tool"), "one");
    lab.nothing_is_left_of_the_work();

    // A payload that is no tar file: it fails when what was there is gone already.
    let broken = [("dest_dir", "/srv/tool"), ("update.tar", "no tar file")];
    lab.promote_package("1.2", &of("directory", &broken, &["/srv/tool"]));
    lab.until_reports("1.2", &["rolled-back", "hook-failed", "ArtifactInstall"]);
    assert_eq!(lab.reads("/srv/tool/tool"), "one");
    let packed = tar(lab.fleet.path(), "inside", "three");
    let whole = [("dest_dir", "/srv/tool"), ("update.tar", packed.as_str())];
    lab.promote_package("1.3", &bad(of("directory", &whole, &["/srv/tool"])));
    lab.until_reports("1.3", &["rolled-back", "health-check-failed"]);
    assert_eq!(
        (lab.reads("/srv/tool/tool"), lab.reads("/srv/tool/inside")),
        ("one".into(), "".into())
    );
    lab.promote_package("1.4", &of("directory", &whole, &["/srv/tool"]));
    lab.until_done("1.4");
    assert_eq!(
        (lab.reads("/srv/tool/tool"), lab.reads("/srv/tool/inside")),
        ("".into(), "three".into())
    );
    lab.nothing_is_left_of_the_work();
}

#[test]
fn debians_modules_without_a_rollback_are_undone_by_the_backup_after_a_failure_a_power_cut_or_alone()
 {
    let claim = "Debian's update modules script and deb, on a booted Debian host";
    let Some(mut lab) = boot(claim, &DEBIANS) else { return };
    lab.host.write("/srv/tool/tool", "one").unwrap();
    let paths = ["/srv/tool", "/etc/by-script"];
    let script = |run| [("run", run)];

    let half = "#!/bin/sh\necho half >/srv/tool/tool\necho x >/etc/by-script\necho no such table\nexit 3\n";
    lab.promote_package("1.2", &of("script", &script(half), &paths));
    lab.until_reports("1.2", &["rolled-back", "hook-failed", "ArtifactInstall", "no such table"]);
    let whole = "#!/bin/sh\necho whole >/srv/tool/tool\necho x >/etc/by-script\n";
    let good = script(whole);
    let bad = Package { check: "exit 1", ..of("script", &good, &paths) };
    lab.promote_package("1.3", &bad);
    lab.until_reports("1.3", &["rolled-back", "health-check-failed"]);
    assert_eq!(lab.reads("/srv/tool/tool"), "one");
    assert!(!lab.host.root().join("etc/by-script").exists());

    // Debian's `deb`: what dpkg notes is brought back with the files.
    let root = lab.fleet.path().join("deb-tool");
    write(&root, "usr/lib/tool/version", "1", 0o644);
    build_deb(&root, "tool", "1", lab.fleet.path());
    // Out of the layer that all hosts of the lab share, where no folder can be moved.
    let own = "cd /var/lib && cp -a dpkg own && rm -r dpkg && mv own dpkg";
    lab.host.good(["sh", "-c", own]).unwrap();
    let deb = format!("file:{}/tool_1_all.deb", lab.fleet.path().display());
    let payload = [("tool.deb", deb.as_str())];
    let paths_of_deb = ["/usr/lib/tool", "/var/lib/dpkg"];
    let package = of("deb", &payload, &paths_of_deb);
    lab.promote_package("1.4", &Package { check: "exit 1", ..package });
    lab.until_reports("1.4", &["rolled-back", "health-check-failed"]);
    assert!(!lab.host.root().join("usr/lib/tool").exists());
    assert!(!lab.host.run(["dpkg-query", "--show", "tool"]).unwrap().success);
    assert_eq!(lab.host.good(["dpkg", "--audit"]).unwrap(), "");

    // The power goes in the middle of it.
    let slow =
        "#!/bin/sh\necho cut >/srv/tool/tool\nsync /srv/tool/tool\ntouch /root/begun\nsleep 600\n";
    lab.promote_package("1.5", &of("script", &script(slow), &paths));
    let begun = lab.host.root().join("root/begun");
    until("the module is in the middle of it", || Ok(begun.exists().then_some(()))).unwrap();
    lab.host.cut_power().unwrap();
    lab.host.power_on().unwrap();
    lab.until_reports("1.5", &["rolled-back", "was cut off in ArtifactInstall"]);
    assert_eq!(lab.reads("/srv/tool/tool"), "one");
    lab.nothing_is_left_of_the_work();

    // It takes the agent away, and the rescuer brings the host back without it.
    let alone = "#!/bin/sh\necho alone >/srv/tool/tool\nsystemctl stop refit-agent\nsleep 600\n";
    lab.promote_package("1.6", &of("script", &script(alone), &paths));
    lab.until_reports("1.6", &["rolled-back", "refit-rescue brought the host back"]);
    assert_eq!(lab.reads("/srv/tool/tool"), "one");
    lab.nothing_is_left_of_the_work();
    // The same in probation, with the module's work done.
    let done = Package { good_seconds: 500, ..of("script", &good, &paths) };
    lab.promote_package("1.7", &done);
    lab.until_phase("1.7", "probation");
    assert_eq!(lab.reads("/srv/tool/tool"), "whole\n");
    lab.host.good(["systemctl", "stop", "refit-agent"]).unwrap();
    lab.until_reports("1.7", &["rolled-back", "refit-rescue brought the host back"]);
    assert_eq!(lab.reads("/srv/tool/tool"), "one");
    assert!(!lab.host.root().join("etc/by-script").exists());
    lab.nothing_is_left_of_the_work();

    lab.promote_package("2.0", &of("script", &script(whole), &paths));
    lab.until_done("2.0");
    assert_eq!(lab.reads("/srv/tool/tool"), "whole\n");
    lab.promote_package("2.1", &package);
    lab.until_done("2.1");
    assert_eq!(lab.reads("/usr/lib/tool/version"), "1");
    lab.nothing_is_left_of_the_work();
}

/// A module that writes down in what it runs, takes what a box would not let it, leaves a process behind and, of
/// the release `bad`, refuses the commit.
const LOOKS_AROUND: &str = r#"#!/bin/sh
unit() { sed -n 's,.*/\(refit-module-[^/]*\)$,\1,p' /proc/self/cgroup | sort -u; }
case $1 in
ArtifactInstall)
  cp files/what /srv/what
  systemctl show -p RuntimeMaxUSec,KillMode,MemoryMax,MemorySwapMax,TasksMax,ProtectSystem,PrivateNetwork,NoNewPrivileges,ControlGroup "$(unit)" >/root/unit
  touch /etc/by-module /usr/lib/by-module && echo writes >>/root/unit
  grep -q host0 /proc/net/dev && echo network >>/root/unit
  (exec -a left-by-module sleep 77777) </dev/null >/dev/null 2>&1 &
  sleep 0.2
  ;;
ArtifactCommit) ! grep -q bad /srv/what || { echo I will not; exit 7; } ;;
esac
"#;

#[test]
fn a_module_has_a_unit_limits_and_a_clean_end_and_no_walls_and_its_refusal_to_commit_takes_all_back()
 {
    let claim = "what an update module runs in, on a booted Debian host";
    let Some(lab) = boot(claim, &[]) else { return };
    let interface = lab.host.good(["sh", "-c", "cat /proc/net/dev"]).unwrap();
    let interface = interface.lines().filter_map(|line| line.trim().split_once(':'));
    let interface = interface.map(|(name, _)| name).find(|name| *name != "lo").unwrap().to_owned();
    let module = LOOKS_AROUND.replace("host0", &interface).replace("/bin/sh", "/bin/bash");
    let paths = ["/srv/what", "/etc/by-module", "/usr/lib/by-module"];
    let package = |what| Package { module: Some(&module), ..of("looks", what, &paths) };
    lab.promote_package("1.0", &package(&[("what", "good")]));
    lab.until_done("1.0");
    let found = lab.reads("/root/unit");
    for part in [
        "RuntimeMaxUSec=2min",
        "KillMode=control-group",
        "MemoryMax=1073741824",
        "MemorySwapMax=0",
        "TasksMax=512",
        "ProtectSystem=no",
        "PrivateNetwork=no",
        "NoNewPrivileges=no",
        "ControlGroup=/system.slice/refit-module-",
        "writes",
        "network",
    ] {
        assert!(found.contains(part), "{part} in\n{found}");
    }
    assert!(!lab.runs("left-by-module"));

    lab.promote_package("1.1", &package(&[("what", "bad")]));
    lab.until_reports("1.1", &["rolled-back", "ArtifactCommit", "I will not"]);
    assert_eq!(lab.reads("/srv/what"), "good");
    lab.nothing_is_left_of_the_work();
}

/// A module that wants a boot each way, and says of the release `bad` that its boot went wrong.
const BOOTS: &str = r#"#!/bin/sh
echo "$1" >>/var/lib/boots.log
sync /var/lib/boots.log
case $1 in
NeedsArtifactReboot) echo Automatic ;;
SupportsRollback) echo Yes ;;
Download)
  while next=$(cat stream-next) && [ -n "$next" ]; do cat "$next" >"tmp/${next##*/}"; done
  ;;
ArtifactInstall) [ ! -e /srv/loaded ] || cp /srv/loaded tmp/before; cp tmp/loaded /srv/loaded ;;
ArtifactVerifyReboot) ! grep -q bad /srv/loaded ;;
ArtifactRollback) rm -f /srv/loaded; [ ! -e tmp/before ] || cp tmp/before /srv/loaded ;;
esac
"#;

#[test]
fn a_module_that_asks_for_a_boot_gets_it_and_one_more_on_the_way_back() {
    let claim = "an update module that asks for boots, on a booted Debian host";
    let Some(mut lab) = boot(claim, &[]) else { return };
    let package =
        |payload| Package { module: Some(BOOTS), ..of("boots", payload, &["/srv/loaded"]) };
    lab.promote_package("1.0", &package(&[("loaded", "good 1")]));
    lab.host.comes_back().unwrap();
    lab.until_done("1.0");
    assert_eq!(lab.reads("/srv/loaded"), "good 1");
    let log = lab.reads("/var/lib/boots.log").replace('\n', " ");
    let good = "ProvidePayloadFileSizes Download ArtifactInstall NeedsArtifactReboot \
                ArtifactVerifyReboot ArtifactCommit Cleanup ";
    assert_eq!(log, good);

    lab.host.good(["rm", "/var/lib/boots.log"]).unwrap();
    lab.promote_package("1.1", &package(&[("loaded", "bad")]));
    lab.host.comes_back().unwrap();
    lab.host.comes_back().unwrap();
    lab.until_reports("1.1", &["rolled-back", "ArtifactVerifyReboot"]);
    assert_eq!(lab.reads("/srv/loaded"), "good 1");
    let log = lab.reads("/var/lib/boots.log").replace('\n', " ");
    let back = "ProvidePayloadFileSizes Download ArtifactInstall NeedsArtifactReboot \
                ArtifactVerifyReboot SupportsRollback ArtifactRollback NeedsArtifactReboot \
                ArtifactVerifyRollbackReboot ArtifactFailure Cleanup ";
    assert_eq!(log, back);
    lab.nothing_is_left_of_the_work();
}

/// A module that goes back by itself, writes down in what it does so, and leaves a process behind. Going back from
/// `greedy` it takes more memory than it may have, from `slow` the first time for ever.
const GOES_BACK: &str = r#"#!/bin/bash
unit() { sed -n 's,.*/\(refit-module-[^/]*\)$,\1,p' /proc/self/cgroup | sort -u; }
case $1 in
SupportsRollback) echo looking >&2; echo Yes ;;
ArtifactInstall) [ ! -e /srv/what ] || cp /srv/what tmp/before; cp files/what /srv/what ;;
ArtifactRollback)
  cat /proc/self/cgroup >/root/back
  systemctl show -p TimeoutStartUSec,KillMode,MemoryMax,MemorySwapMax,OOMPolicy,TasksMax,LimitCORE,ControlGroup "$(unit)" >>/root/back
  (exec -a left-by-rollback sleep 77777) </dev/null >/dev/null 2>&1 &
  sleep 0.2
  what=$(cat /srv/what)
  [ ! -e tmp/before ] || cp tmp/before /srv/what
  [ "$what" != greedy ] || eaten=$(head -c 300000000 /dev/zero | tr '\0' x)
  if [ "$what" = slow ] && [ ! -e /root/begun ]; then touch /root/begun; exec -a slow-rollback sleep 77777; fi
  ;;
esac
"#;

const WHAT: [&str; 1] = ["/srv/what"];

impl Lab {
    /// Has a release of the module that goes back replace the one before, and waits until it is watched.
    fn let_loose(&self, version: &str, what: &str) {
        self.host.run(["rm", "-f", "/root/back", "/root/bad"]).unwrap();
        let payload = [("what", what)];
        let package = Package {
            module: Some(GOES_BACK),
            limits: "memory_mb = 64\ntasks = 40\n",
            check: "test ! -e /root/bad",
            good_seconds: 500,
            ..of("back", &payload, &WHAT)
        };
        self.promote_package(version, &package);
        self.until_phase(version, "probation");
        assert_eq!(self.reads("/srv/what"), what);
    }

    /// What the module went back in; afterwards nothing is left of it.
    fn went_back_in(&self) -> String {
        assert_eq!(self.reads("/srv/what"), "good");
        self.nothing_is_left_of_the_work();
        let found = self.reads("/root/back");
        // It was its only one: what it ran in is where it was cleaned up.
        let left = self.runs("left-by-rollback") || self.runs("slow-rollback");
        assert!(!left || !found.contains("/refit-module-"), "{found}");
        found
    }

    fn went_back_in_a_unit(&self) {
        let found = self.went_back_in();
        for part in [
            "TimeoutStartUSec=2min",
            "KillMode=control-group",
            "MemoryMax=67108864",
            "MemorySwapMax=0",
            "OOMPolicy=kill",
            "TasksMax=40",
            "LimitCORE=0",
            "ControlGroup=/system.slice/refit-module-",
        ] {
            assert!(found.contains(part), "{part} in\n{found}");
        }
    }
}

#[test]
fn a_module_goes_back_in_a_unit_with_limits_and_a_clean_end_by_the_agent_and_by_the_rescuer_alone()
{
    let claim = "what an update module goes back in, on a booted Debian host";
    let Some(mut lab) = boot(claim, &[]) else { return };
    let good = [("what", "good")];
    lab.promote_package("1.0", &Package { module: Some(GOES_BACK), ..of("back", &good, &WHAT) });
    lab.until_done("1.0");

    lab.let_loose("1.1", "bad");
    lab.host.good(["touch", "/root/bad"]).unwrap();
    lab.until_reports("1.1", &["rolled-back", "health-check-failed"]);
    lab.went_back_in_a_unit();

    // All of the call is ended, and of the host nothing else.
    let agent = ["systemctl", "show", "-P", "MainPID", "refit-agent"];
    let agent_before = lab.host.good(agent).unwrap();
    lab.let_loose("1.2", "greedy");
    lab.host.good(["touch", "/root/bad"]).unwrap();
    let failed = "failed to go back: ArtifactRollback";
    lab.until_reports("1.2", &["rolled-back", failed, "was brought back from the backup"]);
    lab.went_back_in_a_unit();
    assert_eq!(lab.host.good(agent).unwrap(), agent_before);
    let said = lab.fleet.host_status("debian-1").unwrap()["products"][0].to_string();
    let at = said.find(failed).unwrap();
    println!("of the greedy one it is said: {}", &said[at..(at + 200).min(said.len())]);
    let limited = lab.host.run(["grep", "-qw", "memory", "/sys/fs/cgroup/cgroup.controllers"]);
    if limited.unwrap().success {
        assert!(said.contains("oom-kill"), "{said}");
    }

    // Without an agent, and without a D-Bus.
    lab.let_loose("1.3", "bad");
    let gone = "systemctl mask --now dbus.socket dbus.service; systemctl stop refit-agent";
    lab.host.good(["sh", "-c", gone]).unwrap();
    lab.until_reports("1.3", &["rolled-back", "refit-rescue brought the host back"]);
    lab.went_back_in_a_unit();
    lab.host.good(["systemctl", "unmask", "dbus.socket", "dbus.service"]).unwrap();
    lab.host.good(["systemctl", "start", "dbus.socket", "dbus.service"]).unwrap();

    // The rescuer is killed in the middle of it: what it had begun is ended, and begun again.
    lab.let_loose("1.4", "slow");
    lab.host.good(["systemctl", "stop", "refit-agent"]).unwrap();
    let begun = lab.host.root().join("root/begun");
    until("the module is in the middle of it", || Ok(begun.exists().then_some(()))).unwrap();
    assert!(lab.runs("slow-rollback"));
    lab.host.good(["systemctl", "kill", "-s", "KILL", "refit-rescue-tick.service"]).unwrap();
    lab.until_reports("1.4", &["rolled-back", "refit-rescue brought the host back"]);
    lab.went_back_in_a_unit();

    // While the host boots, before the units of others may start.
    lab.let_loose("1.5", "bad");
    for _ in 0..3 {
        lab.host.cut_power().unwrap();
        lab.host.power_on().unwrap();
    }
    lab.until_reports("1.5", &["rolled-back", "started too often"]);
    lab.went_back_in_a_unit();

    // Where systemd can't be had to start one, there is none, and the host goes back all the same.
    lab.let_loose("1.6", "bad");
    lab.host.good(["mv", "/usr/bin/systemd-run", "/root/systemd-run"]).unwrap();
    lab.host.good(["touch", "/root/bad"]).unwrap();
    lab.until_reports("1.6", &["rolled-back", "health-check-failed"]);
    let found = lab.went_back_in();
    assert!(found.contains("refit-agent.service"), "{found}");
    lab.host.good(["mv", "/root/systemd-run", "/usr/bin/systemd-run"]).unwrap();
}
