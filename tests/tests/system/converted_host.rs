//! Data that a release converts, on a booted Debian host with Debian's own PostgreSQL under systemd, and SQLite. The
//! release writes in its new schema and is bad in probation; the host goes back, once by its agent and once without.

use std::path::PathBuf;

use refit_durable::testing::not_run;
use refit_tests::{lab::software, wait::until};

use super::kinds::{Lab, write};

const PACKAGES: [&str; 2] = ["postgresql-15", "sqlite3"];
const CACHE: &str = "/var/lib/ledger/cache.db";

/// What the release before reads.
const OLD: &str = "CREATE TABLE entries (id integer PRIMARY KEY, text varchar(20)); \
     INSERT INTO entries VALUES (1, 'old 1'), (2, 'old 2'), (3, 'old 3')";
const OLD_ROWS: &str = "SELECT text FROM entries ORDER BY id";
const CONVERSION: &str = "ALTER TABLE entries RENAME COLUMN text TO words";
const NEW_ROWS: &str = "SELECT words FROM entries WHERE words LIKE 'written%'";

/// The new release's service writes as soon as it runs, in its own schema.
fn serve(version: &str, then: &str) -> String {
    let row = format!("INSERT INTO entries (id, words) VALUES (4, 'written by {version}')");
    format!(
        "#!/bin/sh\nset -e\nrunuser -u postgres -- psql -X -q -v ON_ERROR_STOP=1 -d ledger -c \"{row}\"\n\
         sqlite3 -bail {CACHE} \"{row}\"\n{then}\nexec sleep infinity\n"
    )
}

impl Lab {
    /// A host with the databases as the release before has made them; `None` where this machine can't.
    fn with_databases(claim: &str) -> Option<Lab> {
        // First: the lab's network has no way to the archive.
        let debs = match software::packages(&PACKAGES) {
            Ok(debs) => debs,
            Err(error) => {
                let remedy = "a Debian 12 with `apt-get update` done, as root";
                not_run(&format!("{claim} ({error:#})"), remedy);
                return None;
            }
        };
        let lab = Lab::boot(claim)?;
        for deb in &debs {
            lab.host.put(deb, "/root/debs").unwrap();
        }
        let install =
            "DEBIAN_FRONTEND=noninteractive dpkg --force-unsafe-io --install /root/debs/*.deb";
        lab.host.good(["sh", "-c", install]).unwrap();
        until("PostgreSQL answers", || Ok(lab.psql("postgres", "SELECT 1").is_ok().then_some(())))
            .unwrap();
        let active = ["systemctl", "is-active", "postgresql@15-main"];
        assert_eq!(lab.host.good(active).unwrap().trim(), "active");
        lab.psql("postgres", "CREATE DATABASE ledger").unwrap();
        lab.psql("ledger", OLD).unwrap();
        lab.host.good(["mkdir", "/var/lib/ledger"]).unwrap();
        lab.sqlite(CACHE, OLD);
        Some(lab)
    }

    fn psql(&self, database: &str, query: &str) -> anyhow::Result<String> {
        let psql = ["runuser", "-u", "postgres", "--", "psql", "-X", "-q", "-A", "-t"];
        let words = ["-v", "ON_ERROR_STOP=1", "-d", database, "-c", query];
        Ok(self.host.good(psql.into_iter().chain(words))?.trim().to_owned())
    }

    fn sqlite(&self, file: &str, query: &str) -> String {
        let asked = ["sqlite3", "-batch", "-bail", "-cmd", ".timeout 10000", file, query];
        self.host.good(asked).unwrap().trim().to_owned()
    }

    fn promote_serving(&self, version: &str, serve: &str, more: &str) {
        let source = self.fleet.path().join(format!("source-{version}"));
        write(&source.join("tree"), "bin/serve", serve, 0o755);
        let text = format!(
            "[[services]]\nname = \"ledger\"\ncommand = [\"bin/serve\"]\n{more}\n[health.checked]\n\
             start_seconds = 1\ninterval_seconds = 1\nfailures = 2\ngood_seconds = {}\n\
             max_seconds = 600\n\n[[health.checked.checks]]\nname = \"works\"\nkind = \"command\"\n\
             command = [\"/usr/bin/test\", \"!\", \"-e\", \"/root/bad\"]\n",
            if more.is_empty() { 1 } else { 500 },
        );
        self.promote_written(&source, &text, version);
    }

    /// A release that converts what is there, and then does this too.
    fn convert(&self, version: &str, then: &str) {
        let hook = |command: String| {
            format!(
                "\n[[hooks]]\nwhen = \"after-switch\"\ntimeout_seconds = 60\n\
                 writes = [\"/var/lib/ledger\"]\ncommand = [\"/bin/sh\", \"-c\", {command:?}]\n"
            )
        };
        let psql = "runuser -u postgres -- psql -X -q -v ON_ERROR_STOP=1 -d ledger -c";
        let more = format!(
            "\n[data]\nuse = \"converted\"\n\n[[data.databases]]\nname = \"ledger\"\n\
             kind = \"postgresql\"\ndatabase = \"ledger\"\n\n[[data.databases]]\nname = \"cache\"\n\
             kind = \"sqlite\"\npath = \"{CACHE}\"\n{}{}",
            hook(format!("{psql} '{CONVERSION}'")),
            hook(format!("sqlite3 -bail {CACHE} '{CONVERSION}'")),
        );
        self.promote_serving(version, &serve(version, then), &more);
    }

    fn set_aside(&self) -> Vec<String> {
        let status = self.host.agent_status().unwrap();
        let rows = status["set_aside"].as_array().cloned().unwrap_or_default();
        rows.iter().filter_map(|row| Some(row["place"].as_str()?.to_owned())).collect()
    }

    /// The rows of before are there for the release of before, and nothing else.
    fn data_is_as_before(&self) {
        let old = "old 1\nold 2\nold 3";
        assert_eq!(self.psql("ledger", OLD_ROWS).unwrap(), old);
        assert_eq!(self.sqlite(CACHE, OLD_ROWS), old);
        let owner = self.host.good(["stat", "-c", "%U %a", CACHE]).unwrap();
        assert_eq!(owner.trim(), "root 644");
    }

    /// What `version` wrote is set aside in these places alone, named on the host and in its report.
    fn is_found_again(&self, version: &str, known: &[String]) -> Vec<String> {
        let all = self.set_aside();
        let new: Vec<_> = all.iter().filter(|place| !known.contains(place)).cloned().collect();
        assert_eq!((new.len(), all.len()), (2, known.len() + 2), "{all:?}");
        let text = self.fleet.host_status("debian-1").unwrap()["products"][0]["failure"]["text"]
            .as_str()
            .unwrap()
            .to_owned();
        println!("{version}: {text}");
        for place in &new {
            assert!(text.contains(place.as_str()), "{place} is not named in: {text}");
        }
        assert!(text.contains("written from 20"), "{text}");
        let place = |part: &str| new.iter().find(|place| place.contains(part)).unwrap().clone();
        let renamed = place("PostgreSQL").rsplit(' ').next().unwrap().to_owned();
        let written = format!("written by {version}");
        assert_eq!(self.psql(&renamed, NEW_ROWS).unwrap(), written);
        assert!(self.psql(&renamed, "DELETE FROM entries").is_err(), "nobody writes to it");
        let file = PathBuf::from(place("cache.db"));
        assert_eq!(self.sqlite(file.to_str().unwrap(), NEW_ROWS), written);
        all
    }
}

#[test]
fn what_a_release_converts_comes_back_by_the_agent_or_without_it_and_what_it_wrote_is_found_again()
{
    let claim = "PostgreSQL and SQLite that a release converts, on a booted Debian host";
    let Some(lab) = Lab::with_databases(claim) else { return };
    lab.promote_serving("1.0", "#!/bin/sh\nexec sleep infinity\n", "");
    lab.fleet.until_rollout("pilot", "1.0", "done").unwrap();

    lab.convert("2.0", "");
    lab.until_phase("2.0", "probation");
    until("the new release has written", || {
        Ok((lab.sqlite(CACHE, "SELECT count(*) FROM entries") == "4").then_some(()))
    })
    .unwrap();
    assert_eq!(lab.psql("ledger", NEW_ROWS).unwrap(), "written by 2.0");
    assert!(lab.psql("ledger", OLD_ROWS).is_err(), "it is the new schema");
    lab.host.good(["touch", "/root/bad"]).unwrap();
    lab.until_reports("2.0", &["rolled-back", "health-check-failed"]);
    lab.data_is_as_before();
    let aside = lab.is_found_again("2.0", &[]);

    // The release takes the agent away as soon as it has written.
    lab.host.good(["rm", "/root/bad"]).unwrap();
    lab.convert("2.1", "systemctl mask --now refit-agent");
    lab.until_reports("2.1", &["rolled-back", "refit-rescue brought the host back"]);
    lab.data_is_as_before();
    lab.is_found_again("2.1", &aside);
    let agent = lab.host.good(["systemctl", "is-active", "refit-agent"]).unwrap();
    assert_eq!(agent.trim(), "active");
}

#[test]
fn a_host_that_goes_back_while_it_boots_waits_for_the_database_that_is_not_up_yet() {
    let claim = "a database that is not up yet when the host goes back, on a booted Debian host";
    let Some(mut lab) = Lab::with_databases(claim) else { return };
    lab.promote_serving("1.0", "#!/bin/sh\nexec sleep infinity\n", "");
    lab.fleet.until_rollout("pilot", "1.0", "done").unwrap();
    lab.convert("2.0", "sync");
    lab.until_phase("2.0", "probation");
    until("the new release has written", || {
        Ok((lab.sqlite(CACHE, "SELECT count(*) FROM entries") == "4").then_some(()))
    })
    .unwrap();
    // At the third start the rescuer goes back before anything else is started, PostgreSQL too; the agent takes that
    // up, while it still is not there.
    let slow = "/etc/systemd/system/postgresql@15-main.service.d/slow.conf";
    lab.host.write(slow, "[Service]\nExecStartPre=/bin/sleep 20\n").unwrap();
    lab.host.good(["sync"]).unwrap();
    for _ in 0..3 {
        lab.host.cut_power().unwrap();
        lab.host.power_on().unwrap();
    }
    lab.until_reports("2.0", &["rolled-back", "started too often"]);
    lab.data_is_as_before();
    lab.is_found_again("2.0", &[]);
}
