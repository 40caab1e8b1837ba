//! What is on a host after a first install that failed, and after a product was removed: what was there
//! before, and Refit's own record. Everything is compared: files, units, packages, users.

use std::collections::{BTreeMap, BTreeSet};

use refit_tests::{lab::DebianHost, wait::until};

use super::kinds::{ALL, Kind, Lab, Release, good};

/// Refit's own record; what systemd and dpkg note of the passing of time; what is no disk.
const OUT_OF_SIGHT: &str = "\
    ./proc ./sys ./dev ./run ./tmp ./var/tmp ./var/log ./var/lib/refit-agent ./var/lib/gates \
    ./var/lib/dpkg/status-old ./var/lib/systemd/timers";

/// Everything that can be seen on a host, by name.
type Sight = BTreeMap<String, String>;

fn sight(host: &DebianHost) -> Sight {
    // A unit that is neither there nor has failed is a name that somebody asked systemd for.
    let script = r#"
        cd / && not=
        for it in $1; do not="$not -path $it -prune -o"; done
        find . -xdev $not -type f -printf 'file %p\t%m %U:%G %T@\n' \
            -o -printf 'file %p\t%y %m %U:%G %l\n' | sed '/[/]var[/]lib[/]dpkg[/]/s/ [0-9.]*$//'
        find . -xdev $not -type f -print0 | xargs -0 sha256sum | sed 's/^\(\S*\)  \(.*\)/bytes \2\t\1/'
        systemctl list-units --all --no-legend --plain --no-pager \
            --type=service,timer,socket,path,target \
            | awk '$2 " " $3 != "not-found inactive" { print "unit " $1 "\t" $2 " " $3 }'
        systemctl list-unit-files --no-legend --no-pager | awk '{ print "unit-file " $1 "\t" $2 }'
        dpkg-query -W -f 'package ${Package}\t${Version} ${db:Status-Status}\n'
        getent passwd | sed 's/^/user /'
        getent group | sed 's/^/group /'
        find /run/systemd/system /run/systemd/transient -not -type d 2>/dev/null | sed 's/^/unit-file /'
    "#;
    let said = host.good(["sh", "-c", script, "sight", OUT_OF_SIGHT]).unwrap();
    let pair = |line: &str| {
        let (name, what) = line.split_once('\t').unwrap_or((line, ""));
        (name.to_owned(), what.to_owned())
    };
    let sight: Sight = said.lines().map(pair).collect();
    assert!(sight.len() > 10_000, "that can't be all of a Debian: {}", sight.len());
    sight
}

/// What one sight has and the other has not, a line each.
fn differences(before: &Sight, now: &Sight) -> Vec<String> {
    let names: BTreeSet<_> = before.keys().chain(now.keys()).collect();
    let word = |found: Option<&String>| found.map_or("nothing".to_owned(), |it| format!("{it:?}"));
    let changed = names.into_iter().filter(|name| before.get(*name) != now.get(*name));
    changed
        .map(|name| format!("{name}: {}, now {}", word(before.get(name)), word(now.get(name))))
        .collect()
}

/// Waits until a host looks as it did, but for these: its agent tidies up after it has reported.
fn until_as_before(claim: &str, host: &DebianHost, before: &Sight, but: &[&str]) {
    until(claim, || {
        let mut left = differences(before, &sight(host));
        left.retain(|line| !but.iter().any(|but| line.contains(but)));
        anyhow::ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
        Ok(Some(()))
    })
    .unwrap();
}

const NO_BACKUP: &str = "[[package.data.databases]]\nkind = \"command\"\nname = \"ledger\"\n\
                         dump = [\"/bin/false\"]\ncheck = [\"/bin/true\"]\n";

/// The ways in which a first install fails, with what the host says of it.
fn ways<'a>(kind: Kind, kinds: &'a [Kind]) -> Vec<(&'static str, Release<'a>, &'static str)> {
    let release = good("", kinds);
    let mut ways = vec![
        ("no-backup", Release { more: NO_BACKUP, ..release }, "refused"),
        ("before", Release { before: "exit 3", ..release }, "rolled-back"),
        ("after", Release { after: "exit 3", ..release }, "rolled-back"),
        ("bad", Release { check: "exit 1", ..release }, "rolled-back"),
    ];
    match kind {
        Kind::Tree | Kind::Files => {}
        Kind::Deb => ways.push(("half", Release { postinst: "exit 3", ..release }, "rolled-back")),
        Kind::Mender => {
            ways.push(("half", Release { installs: "exit 3", ..release }, "rolled-back"));
        }
    }
    ways
}

#[test]
fn a_first_install_of_any_kind_that_fails_in_any_way_leaves_nothing_behind() {
    let claim = "failing first installs of each kind of package, on a booted Debian host";
    let Some(lab) = Lab::boot(claim) else { return };
    let before = sight(&lab.host);
    for kind in ALL {
        let kinds = [kind];
        for (way, release, ends) in ways(kind, &kinds) {
            let version = format!("0.{kind:?}.{way}");
            lab.promote(&Release { version: &version, ..release });
            lab.until_reports(&version, &[ends]);
            let claim = format!("nothing is left of {version}");
            until_as_before(&claim, &lab.host, &before, &[]);
        }
        // The rescuer alone brings the host back.
        let version = format!("0.{kind:?}.alone");
        lab.promote(&Release { version: &version, good_seconds: 500, ..good("", &kinds) });
        lab.until_phase(&version, "probation");
        lab.until_stands(&version, &kinds);
        lab.host.good(["systemctl", "stop", "refit-agent"]).unwrap();
        lab.until_reports(&version, &["rolled-back", "refit-rescue brought the host back"]);
        let claim = format!("nothing is left of {version}");
        until_as_before(&claim, &lab.host, &before, &[]);
    }
}

/// What tells a host that the product was removed.
const RECORD: &str = "./opt/refit/payments";

#[test]
fn a_product_of_any_kind_is_removed_by_a_release_leaves_its_data_and_nothing_else_and_comes_back() {
    let claim = "products of each kind of package removed, on a booted Debian host";
    let Some(lab) = Lab::boot(claim) else { return };
    for kind in ALL {
        let kinds = [kind];
        lab.host.write("/var/lib/payments/ledger", "rows").unwrap();
        let before = sight(&lab.host);
        let (one, gone) = (format!("1.{kind:?}"), format!("2.{kind:?}"));
        lab.promote(&good(&one, &kinds));
        lab.fleet.until_rollout("pilot", &one, "done").unwrap();
        lab.until_stands(&one, &kinds);
        let on_one = sight(&lab.host);

        lab.promote_removal(&gone, "");
        lab.fleet.until_rollout("pilot", &gone, "done").unwrap();
        lab.until_stands(&gone, &[]);
        let claim = format!("nothing is left after {gone}");
        // Without being told to, nobody runs a script that may take data.
        let kept = match kind {
            Kind::Deb => &[RECORD, "pay-data", "var/lib/dpkg"][..],
            Kind::Tree | Kind::Files | Kind::Mender => &[RECORD],
        };
        until_as_before(&claim, &lab.host, &before, kept);

        let back = ["rollout", "rollback", "payments", "pilot", "--reason", "it was needed"];
        lab.fleet.refit(back).unwrap();
        lab.until_stands(&one, &kinds);
        let claim = format!("{one} is back as it was");
        let now = without_times(&on_one);
        until(&claim, || {
            let mut left = differences(&now, &without_times(&sight(&lab.host)));
            left.retain(|line| !line.contains("./opt/refit/payments/releases"));
            anyhow::ensure!(left.is_empty(), "{}", left.join("\n"));
            Ok(Some(()))
        })
        .unwrap();

        // For good now, and with data that is named.
        let for_good = format!("3.{kind:?}");
        lab.promote_removal(&for_good, "paths = [\"/var/lib/payments\"]\npurge = true");
        lab.fleet.until_rollout("pilot", &for_good, "done").unwrap();
        let claim = format!("nothing is left after {for_good}, not even data");
        until_as_before(&claim, &lab.host, &before, &[RECORD, "./var/lib/payments"]);
        assert!(!lab.host.root().join("var/lib/payments").exists());
        if kind == Kind::Files {
            bring_newest_back(&lab.host);
            lab.until_stands(&one, &kinds);
            let ledger = lab.host.good(["cat", "/var/lib/payments/ledger"]).unwrap();
            assert_eq!(ledger, "rows");
            lab.promote_removal("4", "");
            lab.fleet.until_rollout("pilot", "4", "done").unwrap();
            until_as_before("nothing is left after 4", &lab.host, &before, &[RECORD]);
        }
    }
}

/// As a person on the host does it.
fn bring_newest_back(host: &DebianHost) {
    let listed = host.good(["refit-agent", "backup", "list", "--output", "json"]).unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let id = listed[0]["id"].as_str().unwrap();
    host.good(["refit-agent", "backup", "restore", id]).unwrap();
}

/// A file that is placed anew is as old as its placing.
fn without_times(sight: &Sight) -> Sight {
    let mut sight = sight.clone();
    for (name, what) in &mut sight {
        if name.starts_with("file ") && what.contains('.') {
            let kept = what.rsplit_once(' ').map_or("", |(kept, _)| kept).to_owned();
            *what = kept;
        }
    }
    sight
}
