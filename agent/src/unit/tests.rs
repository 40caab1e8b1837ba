//! The units, and what systemd makes of their settings.

use super::*;

#[test]
fn the_unit_starts_the_program_and_the_folder_that_it_was_printed_for() {
    let (program, data) = (Path::new("/usr/local/bin/refit-agent"), Path::new("/data/a b%"));
    let unit = text(Unit::Agent, program, data);
    assert!(
        unit.contains("\nExecStart=/usr/local/bin/refit-agent run --data \"/data/a b%%\" --link /run/refit-link/socket\n"),
        "{unit}"
    );
    assert!(unit.contains("\nConditionPathExists=/data/a b%%/identity\n"), "{unit}");
    let rescue = text(Unit::Rescue, program, data);
    assert!(
        rescue.contains("\nExecStart=/usr/local/bin/refit-rescue %i --data \"/data/a b%%\"\n"),
        "{rescue}"
    );
    for unit in [Unit::Agent, Unit::Link, Unit::LinkSocket, Unit::Rescue] {
        let text = text(unit, program, data);
        for left in ["@PROGRAM@", "@RESCUE@", "@IDENTITY@", "@DATA@", "@SOCKET@"] {
            assert!(!text.contains(left), "{left}");
        }
    }
}

const HARDENING: &str = include_str!("../../../docs/HARDENING.md");

/// What systemd makes of a unit's settings: its exposure, and the settings that are missing by name.
fn judged(unit: Unit, name: &str) -> Option<(f64, Vec<String>)> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    let printed = text(unit, Path::new("/usr/bin/refit-agent"), Path::new("/var/lib/refit-agent"));
    std::fs::write(&file, printed).unwrap();
    let ask = |form: &str| {
        let mut ask = std::process::Command::new("systemd-analyze");
        ask.args(["security", "--offline=true", "--no-pager", form]).arg(&file);
        let said = ask.output().ok().filter(|said| said.status.success())?;
        String::from_utf8(said.stdout).ok()
    };
    let shown = ask("--json=off").filter(|shown| shown.contains("exposure level"));
    let Some((shown, listed)) = shown.zip(ask("--json=short")) else {
        refit_durable::testing::not_run(
            "the units' settings, judged by `systemd-analyze security`",
            "sudo apt-get install systemd",
        );
        return None;
    };
    let score = shown.rsplit_once(&format!("{name}: ")).unwrap().1;
    let score = score.split_whitespace().next().unwrap().parse().unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let missing = listed.as_array().unwrap().iter().filter(|setting| setting["set"] == false);
    Some((score, missing.map(|setting| setting["name"].as_str().unwrap().to_owned()).collect()))
}

/// The settings in the table under this heading of docs/HARDENING.md, each with what it would break.
fn documented(heading: &str) -> Vec<String> {
    let part = HARDENING.split("\n## ").find(|part| part.starts_with(heading)).unwrap();
    let rows = part.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    rows.inspect(|(setting, why)| assert!(why.len() >= 8, "{setting} has no reason"))
        .map(|(setting, _)| setting.replace("\\|", "|"))
        .collect()
}

#[test]
fn the_network_halfs_unit_is_exposed_by_no_more_than_two_of_ten() {
    let Some((score, missing)) = judged(Unit::Link, "refit-link.service") else { return };
    assert!(score <= 2.0, "{score}: {missing:?}");
    same(&missing, &documented("The network half"));
}

#[test]
fn each_setting_that_the_root_half_does_without_stands_in_the_docs_with_what_it_would_break() {
    let Some((_, missing)) = judged(Unit::Agent, "refit-agent.service") else { return };
    same(&missing, &documented("The root half"));
}

fn same(missing: &[String], documented: &[String]) {
    let unsaid: Vec<_> = missing.iter().filter(|it| !documented.contains(it)).collect();
    assert!(unsaid.is_empty(), "docs/HARDENING.md does not say what these would break: {unsaid:?}");
    let set: Vec<_> = documented.iter().filter(|it| !missing.contains(it)).collect();
    assert!(set.is_empty(), "docs/HARDENING.md has rows for what is set, or unknown: {set:?}");
}

#[test]
fn a_drop_in_changes_the_program_and_nothing_else() {
    let (program, data) = (Path::new("/opt/refit/current/bin/refit-agent"), Path::new("/data"));
    let arguments = ["run", "--data", "/a b"].map(str::to_owned);
    let agent = Unit::Agent.starts(program, data, &arguments);
    let start = "\n[Service]\nExecStart=\n\
                 ExecStart=/opt/refit/current/bin/refit-agent run --data \"/a b\"\n";
    assert!(agent.ends_with(start), "{agent}");
    let link = Unit::Link.starts(program, data, &arguments);
    assert!(link.ends_with("\nExecStart=/opt/refit/current/bin/refit-agent link\n"), "{link}");
    let rescue = Unit::Rescue.starts(program, data, &arguments);
    let start = "\nExecStart=/opt/refit/current/bin/refit-rescue %i --data /data\n";
    assert!(rescue.ends_with(start), "{rescue}");
    let place = Path::new("refit-rescue@.service.d/50-refit-release.conf");
    assert_eq!(Unit::Rescue.drop_in(), place);
}
