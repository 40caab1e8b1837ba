//! Databases by recipes, of servers that no one here wrote: dumped, tried and compared before a release comes;
//! and a release that converts data, and fails. What was written in its probation is found again, and named.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Context as _;
use refit_tests::{
    databases::{MariaDb, Postgresql, has_sqlite, sqlite},
    process::{Ran, command},
    release::{Behaviour, Probation},
    sandbox::Sandbox,
    wait::until,
};
use serde_json::Value;

/// Long enough to be in probation until the test has it fail.
const LONG: Probation = Probation { start: 1, good: 600 };

/// A check that fails as soon as the host has a file `bad`.
const UNTIL_BAD: &str = "\n[[health.checked.checks]]\nname = \"not-bad\"\nkind = \"command\"\n\
     command = [\"/usr/bin/test\", \"!\", \"-e\", \"${HOST_FOLDER}/bad\"]\n";

/// A hook that runs as the new release's own conversion would: the services are stopped.
fn conversion(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    let command = words.join(", ");
    format!("\n[[hooks]]\nwhen = \"after-switch\"\ntimeout_seconds = 60\ncommand = [{command}]\n")
}

/// The hook that has PostgreSQL do this with the database `ledger`.
fn conversion_by_psql(pg: &Postgresql, statement: &str) -> String {
    let socket = pg.socket();
    let words = ["/usr/bin/psql", "-X", "-w", "-h", &socket, "-U", "postgres", "-d", "ledger"];
    conversion(&[&words[..], &["-c", statement]].concat())
}

fn publish(
    fleet: &Sandbox,
    version: &str,
    behaviour: Behaviour,
    probation: Probation,
    extra: &str,
) {
    let built = fleet.build_with(version, behaviour, probation, extra).unwrap();
    fleet.publish_built(&built).unwrap();
    fleet.promote(version, "pilot").unwrap();
}

fn until_phase(fleet: &Sandbox, phase: &str) -> Value {
    until(&format!("web-1 is in {phase}"), || {
        let status = fleet.agent_status("web-1")?;
        Ok((status["products"][0]["phase"] == phase).then_some(status))
    })
    .unwrap()
}

fn have_it_fail(fleet: &Sandbox, version: &str) {
    fs::write(fleet.host_named("web-1").folder().join("bad"), "").unwrap();
    fleet.until_rollout("pilot", version, "halted").unwrap();
    fleet.until_runs("web-1", "1.0").unwrap();
}

/// The last failure of the host, as the server tells it.
fn failure(fleet: &Sandbox) -> String {
    let text = until("the server knows why", || {
        let status = fleet.host_status("web-1")?;
        Ok(status["products"][0]["failure"]["text"].as_str().map(str::to_owned))
    });
    text.unwrap()
}

/// What `refit-agent status` says is set aside.
fn set_aside(fleet: &Sandbox) -> Vec<String> {
    let status = fleet.agent_status("web-1").unwrap();
    let rows = status["set_aside"].as_array().cloned().unwrap_or_default();
    rows.iter().filter_map(|row| Some(row["place"].as_str()?.to_owned())).collect()
}

fn backup(fleet: &Sandbox, words: &[&str]) -> Ran {
    fleet.agent_backup("web-1", words).unwrap()
}

fn nothing_is_left_of_scratches(fleet: &Sandbox) {
    let scratch = fleet.host_named("web-1").data().join("scratch");
    let left = fs::read_dir(&scratch).map_or(0, Iterator::count);
    assert_eq!(left, 0, "{}", scratch.display());
}

#[test]
fn converted_data_goes_back_and_what_was_written_in_probation_is_found_again_and_named() {
    let claim = "data that a release converts, in PostgreSQL, MariaDB and SQLite";
    let (Some(pg), Some(maria)) =
        (Postgresql::start(claim).unwrap(), MariaDb::start(claim).unwrap())
    else {
        return;
    };
    if !has_sqlite(claim) {
        return;
    }
    let fleet = super::one_host_on_1_0();
    let host = fleet.host_named("web-1").folder().to_owned();
    let (file, folder) = (host.join("cache.db"), host.join("store"));
    pg.ask("postgres", "CREATE DATABASE ledger").unwrap();
    let rows = "CREATE TABLE entries (id serial PRIMARY KEY, text varchar(20)); \
         INSERT INTO entries (text) VALUES ('old 1'), ('old 2'), ('old 3')";
    pg.ask("ledger", rows).unwrap();
    pg.ask("postgres", "ALTER DATABASE ledger SET work_mem = '5MB'").unwrap();
    maria.ask("", "CREATE DATABASE shop CHARACTER SET utf8mb4").unwrap();
    maria.ask("shop", rows).unwrap();
    maria
        .ask("shop", "CREATE TRIGGER t BEFORE INSERT ON entries FOR EACH ROW SET NEW.id = NEW.id")
        .unwrap();
    // It will be broken by the conversion, and must not stand in the way back.
    maria.ask("shop", "CREATE VIEW texts AS SELECT text FROM entries").unwrap();
    maria.ask("shop", "CREATE EVENT e ON SCHEDULE EVERY 1 YEAR DO DELETE FROM entries").unwrap();
    sqlite(
        &file,
        "PRAGMA journal_mode = wal; CREATE TABLE entries (id integer PRIMARY KEY, text); \
         INSERT INTO entries (text) VALUES ('old 1'), ('old 2'), ('old 3')",
    )
    .unwrap();
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("format"), "1").unwrap();
    let rename = "ALTER TABLE entries RENAME COLUMN text TO words";
    let socket = format!("--socket={}", maria.socket());
    let extra = [
        UNTIL_BAD.to_owned(),
        format!("\n[data]\nuse = \"converted\"\npaths = [{folder:?}]\n"),
        pg.recipe("ledger", "ledger"),
        maria.recipe("shop", "shop"),
        format!("\n[[data.databases]]\nname = \"cache\"\nkind = \"sqlite\"\npath = {file:?}\n"),
        conversion_by_psql(&pg, rename),
        conversion(&["/usr/bin/mariadb", "--no-defaults", &socket, "shop", "-e", rename]),
        conversion(&["/usr/bin/sqlite3", file.to_str().unwrap(), rename]),
        conversion(&["/bin/sh", "-c", &format!("echo 2 > {}/format", folder.display())]),
    ];
    publish(&fleet, "2.0", Behaviour::Good, LONG, &extra.concat());
    until_phase(&fleet, "probation");
    // As the new release writes, in its own schema.
    let new = "INSERT INTO entries (words) VALUES ('written in probation')";
    pg.ask("ledger", new).unwrap();
    maria.ask("shop", new).unwrap();
    // As a service that is killed leaves it: the row is in the log beside the file, and not in it.
    let mut writer = Command::new("/usr/bin/sqlite3");
    let writer = writer.args(["-init", "/dev/null", "-batch"]).arg(&file);
    let mut writer = writer.stdin(Stdio::piped()).spawn().unwrap();
    writeln!(writer.stdin.as_mut().unwrap(), "{new};").unwrap();
    until("the row is written", || {
        Ok((sqlite(&file, "SELECT count(*) FROM entries")? == "4").then_some(()))
    })
    .unwrap();
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert!(fs::metadata(file.with_file_name("cache.db-wal")).unwrap().len() > 0);
    fs::write(folder.join("new"), "written in probation").unwrap();
    have_it_fail(&fleet, "2.0");

    // What the release before can read, and nothing else.
    let all = "SELECT text FROM entries ORDER BY id";
    for read in [pg.ask("ledger", all), maria.ask("shop", all), sqlite(&file, all)] {
        assert_eq!(read.unwrap(), "old 1\nold 2\nold 3");
    }
    assert_eq!(fs::read_to_string(folder.join("format")).unwrap(), "1");
    assert!(!folder.join("new").exists());
    assert_eq!(pg.ask("ledger", "SHOW work_mem").unwrap(), "5MB");
    assert_eq!(
        maria
            .ask(
                "shop",
                "SELECT COUNT(*) FROM information_schema.events WHERE event_schema = 'shop'"
            )
            .unwrap(),
        "1"
    );
    assert_eq!(
        maria
            .ask(
                "shop",
                "SELECT COUNT(*) FROM information_schema.triggers WHERE trigger_schema = 'shop'"
            )
            .unwrap(),
        "1"
    );

    // Found again, and named: in what the server shows, and on the host.
    let (said, aside) = (failure(&fleet), set_aside(&fleet));
    assert_eq!(aside.len(), 4, "{aside:?}");
    for place in &aside {
        assert!(said.contains(place.as_str()), "{place} is not named in: {said}");
    }
    assert!(said.contains("written from 20"), "{said}");
    let place = |part: &str| aside.iter().find(|place| place.contains(part)).unwrap().clone();
    let renamed = place("PostgreSQL").rsplit(' ').next().unwrap().to_owned();
    assert!(renamed.starts_with("ledger_refit_"), "{renamed}");
    let found = "SELECT words FROM entries WHERE words LIKE 'written%'";
    assert_eq!(pg.ask(&renamed, found).unwrap(), "written in probation");
    assert!(pg.ask(&renamed, "DELETE FROM entries").is_err(), "nobody writes to it");
    assert_eq!(sqlite(Path::new(&place("cache.db")), found).unwrap(), "written in probation");
    let store = PathBuf::from(place("store"));
    assert_eq!(fs::read_to_string(store.join("new")).unwrap(), "written in probation");
    maria.ask("", "CREATE DATABASE looked_at").unwrap();
    let dump = fs::read_to_string(place("shop.sql")).unwrap();
    maria.ask("looked_at", &dump).unwrap();
    assert_eq!(maria.ask("looked_at", found).unwrap(), "written in probation");
    nothing_is_left_of_scratches(&fleet);
    assert_eq!(pg.databases().unwrap(), ["ledger", &renamed]);
    assert_eq!(maria.databases().unwrap(), ["looked_at", "shop"]);

    // Kept until a person releases it.
    let text =
        Ran::of(command("refit-agent").unwrap().args(["status", "--data"]).arg(host.join("data")))
            .unwrap()
            .good()
            .unwrap();
    assert!(text.contains("set aside") && text.contains(&renamed), "{text}");
    super::install(&fleet, "2.1");
    assert_eq!(set_aside(&fleet), aside);
    let listed = backup(&fleet, &["set-aside", "--output", "json"]).good().unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let id = listed[0]["id"].as_str().with_context(|| listed.to_string()).unwrap();
    assert!(backup(&fleet, &["release", "no-such"]).refused().unwrap().contains("no-such"));
    backup(&fleet, &["release", id]).good().unwrap();
    assert_eq!(set_aside(&fleet), Vec::<String>::new());
    assert_eq!(pg.databases().unwrap(), ["ledger"]);
    assert!(!store.exists());
}

#[test]
fn data_that_is_not_converted_stays_as_the_failed_release_left_it_and_its_dump_is_whole() {
    let claim = "a database that a release writes to and does not convert";
    let Some(pg) = Postgresql::start(claim).unwrap() else { return };
    if !has_sqlite(claim) {
        return;
    }
    let fleet = super::one_host_on_1_0();
    let host = fleet.host_named("web-1").folder().to_owned();
    let file = host.join("cache.db");
    pg.ask("postgres", "CREATE DATABASE ledger").unwrap();
    pg.ask("ledger", "CREATE TABLE t (a int); INSERT INTO t VALUES (1)").unwrap();
    sqlite(&file, "CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
    fs::create_dir(host.join("store")).unwrap();
    fs::write(host.join("store/a"), "before").unwrap();
    let data = [
        format!("\n[data]\npaths = [{:?}]\n", host.join("store")),
        pg.recipe("ledger", "ledger"),
        format!("\n[[data.databases]]\nname = \"cache\"\nkind = \"sqlite\"\npath = {file:?}\n"),
    ]
    .concat();
    publish(&fleet, "1.1", Behaviour::Good, LONG, &format!("{UNTIL_BAD}{data}"));
    until_phase(&fleet, "probation");
    pg.ask("ledger", "INSERT INTO t VALUES (2)").unwrap();
    sqlite(&file, "INSERT INTO t VALUES (2)").unwrap();
    fs::write(host.join("store/a"), "after").unwrap();
    have_it_fail(&fleet, "1.1");
    assert_eq!(pg.ask("ledger", "SELECT count(*) FROM t").unwrap(), "2");
    assert_eq!(sqlite(&file, "SELECT count(*) FROM t").unwrap(), "2");
    assert_eq!(fs::read_to_string(host.join("store/a")).unwrap(), "after");
    assert_eq!(set_aside(&fleet), Vec::<String>::new());
    assert_eq!(pg.databases().unwrap(), ["ledger"]);

    fs::remove_file(host.join("bad")).unwrap();
    publish(&fleet, "1.2", Behaviour::Good, Probation::default(), &data);
    fleet.until_rollout("pilot", "1.2", "done").unwrap();
    let listed = backup(&fleet, &["list", "--output", "json"]).good().unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["databases"], serde_json::json!(["ledger", "cache"]), "{listed}");
    assert!(listed[0]["paths"].to_string().contains("store"), "{listed}");
    assert!(backup(&fleet, &["verify"]).good().unwrap().contains("whole"));
    nothing_is_left_of_scratches(&fleet);
}

#[test]
fn a_release_whose_database_cannot_be_brought_back_is_refused_and_nothing_has_changed() {
    let claim = "a database that can't be dumped, loaded or relied on";
    let Some(mut pg) = Postgresql::start(claim).unwrap() else { return };
    if !has_sqlite(claim) {
        return;
    }
    let fleet = super::one_host_on_1_0();
    let host = fleet.host_named("web-1").folder().to_owned();
    pg.ask("postgres", "CREATE DATABASE ledger").unwrap();
    pg.ask("ledger", "CREATE TABLE t (a int); INSERT INTO t VALUES (1)").unwrap();
    let file = host.join("cache.db");
    sqlite(&file, "CREATE TABLE t (a); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) \
         INSERT INTO t SELECT i FROM n; CREATE INDEX i ON t (a)").unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 3000].fill(0x55);
    fs::write(&file, &bytes).unwrap();
    let by_command = |dump: &str, check: &str| {
        format!(
            "\n[[data.databases]]\nname = \"odd\"\nkind = \"command\"\ndump = [\"/bin/sh\", \"-c\", {dump:?}]\n\
             check = [\"/bin/sh\", \"-c\", {check:?}]\ntimeout_seconds = 3\n"
        )
    };
    let missing =
        pg.recipe("ledger", "ledger").replace("user = \"postgres\"", "user = \"nobody-here\"");
    let cases = [
        (
            "3.0",
            format!("\n[[data.databases]]\nname = \"cache\"\nkind = \"sqlite\"\npath = {file:?}\n"),
            "the database cache cannot be",
        ),
        (
            "3.1",
            by_command("echo half; echo 'no such table' >&2; exit 3", "cat"),
            "the database odd cannot be dumped: /bin/sh ended with Some(3): no such table",
        ),
        (
            "3.2",
            by_command("echo whole", "read -r it; echo \"$it is of another server\" >&2; exit 1"),
            "whole is of another server",
        ),
        ("3.3", by_command("sleep 600", "cat"), "/bin/sh took longer than 3 s"),
        ("3.4", missing, "this host has no user nobody-here"),
    ];
    let as_before = |fleet: &Sandbox, pg: Option<&Postgresql>| {
        assert_eq!(fleet.host_named("web-1").says().unwrap(), "payments 1.0");
        assert_eq!(fs::read(&file).unwrap(), bytes);
        nothing_is_left_of_scratches(fleet);
        let backups = backup(fleet, &["list", "--output", "json"]).good().unwrap();
        let backups: Value = serde_json::from_str(&backups).unwrap();
        assert_eq!(backups.as_array().unwrap().len(), 1, "{backups}");
        if let Some(pg) = pg {
            assert_eq!(pg.databases().unwrap(), ["ledger"]);
        }
    };
    let refused = |fleet: &Sandbox, version: &str, recipe: &str, words: &str| {
        publish(fleet, version, Behaviour::Good, Probation::default(), recipe);
        until(&format!("{version} is refused: {words}"), || {
            let status = fleet.host_status("web-1")?;
            let failure = &status["products"][0]["failure"];
            let said = failure["text"].as_str().unwrap_or_default();
            anyhow::ensure!(said.contains(words), "{status}");
            Ok(Some(()))
        })
        .unwrap();
    };
    for (version, recipe, words) in &cases {
        refused(&fleet, version, recipe, words);
        as_before(&fleet, Some(&pg));
    }
    pg.stop();
    refused(
        &fleet,
        "3.5",
        &pg.recipe("ledger", "ledger"),
        "the database ledger cannot be asked for its size",
    );
    as_before(&fleet, None);
}

#[test]
fn an_agent_killed_on_its_way_back_from_converted_data_comes_back_to_it_once() {
    let claim = "an agent that is killed while a PostgreSQL database goes back";
    let Some(pg) = Postgresql::start(claim).unwrap() else { return };
    let mut fleet = super::one_host_on_1_0();
    let host = fleet.host_named("web-1").folder().to_owned();
    pg.ask("postgres", "CREATE DATABASE ledger").unwrap();
    pg.ask("ledger", "CREATE TABLE t (a int); INSERT INTO t VALUES (1)").unwrap();
    let points = [
        "backing-up:after",
        "sealing:before",
        "sealing:after",
        "rolling-back:before",
        "rolling-back:after",
        "rolled-back:before",
    ];
    for (n, point) in points.iter().enumerate() {
        let version = format!("4.{n}");
        let rename = "ALTER TABLE t RENAME COLUMN a TO b";
        let extra = format!(
            "{UNTIL_BAD}\n[data]\nuse = \"converted\"\n{}{}",
            pg.recipe("ledger", "ledger"),
            conversion_by_psql(&pg, rename)
        );
        fleet.host_mut("web-1").agent().unwrap().terminate().unwrap();
        fleet.start_agent_with("web-1", &[("REFIT_CRASH_AT", point)]).unwrap();
        publish(&fleet, &version, Behaviour::Good, LONG, &extra);
        if point.starts_with("roll") {
            until_phase(&fleet, "probation");
            fs::write(host.join("bad"), "").unwrap();
        }
        fleet.host_mut("web-1").agent().unwrap().ended().unwrap();
        fleet.start_agent("web-1").unwrap();
        if !point.starts_with("roll") {
            until_phase(&fleet, "probation");
        }
        have_it_fail(&fleet, &version);
        assert_eq!(pg.ask("ledger", "SELECT a FROM t").unwrap(), "1", "{point}");
        assert_eq!(pg.databases().unwrap().len(), 2 + n, "{point}: {:?}", pg.databases());
        nothing_is_left_of_scratches(&fleet);
        fs::remove_file(host.join("bad")).unwrap();
    }
}

#[test]
fn the_rescuer_alone_brings_a_converted_database_back_and_nothing_written_after_it_is_lost() {
    let claim = "a PostgreSQL database that the rescuer brings back without the agent";
    let Some(pg) = Postgresql::start(claim).unwrap() else { return };
    let mut fleet = super::one_host_on_1_0();
    let host = fleet.host_named("web-1").folder().to_owned();
    pg.ask("postgres", "CREATE DATABASE ledger").unwrap();
    pg.ask("ledger", "CREATE TABLE t (a int); INSERT INTO t VALUES (1)").unwrap();
    let rename = "ALTER TABLE t RENAME COLUMN a TO b";
    let extra = format!(
        "{UNTIL_BAD}\n[data]\nuse = \"converted\"\n{}{}",
        pg.recipe("ledger", "ledger"),
        conversion_by_psql(&pg, rename)
    );
    publish(&fleet, "5.0", Behaviour::Good, LONG, &extra);
    until_phase(&fleet, "probation");
    pg.ask("ledger", "INSERT INTO t VALUES (2)").unwrap();
    fleet.host_mut("web-1").agent().unwrap().kill().unwrap();

    // No systemd runs here: one who says yes stands in its place, so that the steps are what is tried.
    let yes = host.join("systemctl");
    fs::write(&yes, "#!/bin/sh\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&yes, mode).unwrap();
    let rescue = || {
        let mut rescuer = command("refit-rescue").unwrap();
        rescuer.env("PATH", format!("{}:/usr/bin:/bin", host.display()));
        Ran::of(rescuer.args(["back", "--data"]).arg(host.join("data"))).unwrap()
    };
    // The server is down, as it is at the start of a boot: nothing is lost, and it is tried again.
    let mut pg = pg;
    pg.stop();
    rescue().refused().unwrap();
    pg.start_again().unwrap();
    rescue().good().unwrap();
    assert_eq!(pg.ask("ledger", "SELECT a FROM t").unwrap(), "1");
    assert_eq!(pg.databases().unwrap().len(), 2);
    // The release before runs again, and writes.
    pg.ask("ledger", "INSERT INTO t VALUES (3)").unwrap();
    // A person who went back by hand is not asked whether it may come again.
    fleet
        .refit(["rollout", "pause", "payments", "pilot", "--reason", "a person went back"])
        .unwrap();
    fleet.start_agent("web-1").unwrap();
    let aside = until("what was set aside is named", || {
        let aside = set_aside(&fleet);
        Ok((!aside.is_empty()).then_some(aside))
    })
    .unwrap();
    fleet.until_runs("web-1", "1.0").unwrap();
    assert_eq!(pg.ask("ledger", "SELECT a FROM t ORDER BY a").unwrap(), "1\n3");
    let name = aside[0].rsplit(' ').next().unwrap();
    assert_eq!(pg.ask(name, "SELECT b FROM t ORDER BY b").unwrap(), "1\n2");
    until("the server hears of it by name", || Ok(failure(&fleet).contains(name).then_some(())))
        .unwrap();
}
