//! A converted database on its way back, on a real disk: cut after each step, taken up by the agent or by the
//! rescuer, which has not a line of code in common with it, and then run once more.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use refit_agent::{
    host::{
        backup::{About, Backups, Index},
        database::{Databases, When},
        files::RealFiles,
    },
    update::{BackupId, BootId, InstallId, Running},
    way_back::{NoServices, Place, UnitsError, WayBack, run},
};
use refit_proto::{
    names::Product,
    package::{Data, Variables},
};

fn turn() -> InstallId {
    InstallId::parse("b1").unwrap()
}

/// Runs a saved command.
fn run_command(command: &[String]) -> Result<(), UnitsError> {
    let done = Command::new(&command[0]).args(&command[1..]).output().unwrap();
    match done.status.success() {
        true => Ok(()),
        false => Err(UnitsError(String::from_utf8_lossy(&done.stderr).into_owned())),
    }
}

/// A host with a database that is one file, known to two commands only.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Host {
        let host = Host(tempfile::tempdir().unwrap());
        fs::create_dir(host.data()).unwrap();
        fs::write(host.database(), "old").unwrap();
        host
    }

    fn root(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }

    fn data(&self) -> PathBuf {
        self.root().join("data")
    }

    fn database(&self) -> PathBuf {
        self.root().join("database")
    }

    fn backups(&self) -> Backups<'static> {
        Backups::new(&RealFiles, self.data())
    }

    fn declared(&self) -> Data {
        let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout);
        let file = self.database();
        let data = serde_json::json!({
            "use": "converted",
            "databases": [{
                "kind": "command",
                "name": "odd",
                "user": user.unwrap().trim(),
                "dump": ["/bin/cat", file],
                "check": ["/bin/grep", "-q", "old"],
                "restore": ["/bin/dd", "status=none", format!("of={}", file.display())],
            }],
        });
        serde_json::from_value(data).unwrap()
    }

    fn seal(&self) -> Index {
        let id = BackupId::parse("b1").unwrap();
        let databases = Databases::new(&RealFiles, self.data());
        let declared = self.declared();
        let mut dumps = Vec::new();
        for database in Databases::of(&declared, &Variables::new()).unwrap() {
            let used = declared.used;
            let dump = databases.save(&self.backups(), &id, &database, used, When::AtRest);
            dumps.push(dump.unwrap());
        }
        self.backups().keep_dumps(&id, &dumps).unwrap();
        let product = Product::parse("payments").unwrap();
        let about = About { id, product, from: None, to: None, made: 7 };
        let sealed = self.backups().seal(&about, &[]).unwrap();
        self.backups().verify(&sealed).unwrap()
    }

    fn way_back(&self, index: &Index) -> WayBack {
        WayBack {
            install: turn(),
            boot: BootId::parse("boot-1").unwrap(),
            deadline: Running::from_nanos(0),
            patience: Duration::from_secs(600),
            alone: Duration::from_secs(600),
            starts: 3,
            attempt: None,
            lease: None,
            restores: None,
            owners: Default::default(),
            steps: self.backups().undo_steps(index, &turn()).unwrap(),
        }
    }

    fn by_the_agent(&self, way_back: &WayBack) -> Result<(), String> {
        run(way_back, &RealFiles, &mut NoServices(run_command)).map_err(|error| error.to_string())
    }

    fn by_the_rescuer(&self, way_back: &WayBack) -> Result<(), String> {
        let place = Place::in_folder(Arc::new(RealFiles), &self.data());
        place.disarm().unwrap();
        place.arm(way_back).unwrap();
        let mut rescuer = Command::new(env!("CARGO_BIN_EXE_refit-rescue"));
        // Without a systemd: no unit of this machine is the test's.
        rescuer.env("PATH", "/nonexistent").arg("back").arg("--data").arg(self.data());
        let done = rescuer.output().unwrap();
        match done.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
        }
    }

    fn holds(&self) -> String {
        fs::read_to_string(self.database()).unwrap()
    }
}

#[test]
fn a_way_back_cut_after_any_step_brings_a_database_back_once_and_keeps_what_was_made_of_it() {
    type GoBack = fn(&Host, &WayBack) -> Result<(), String>;
    let ways: [GoBack; 2] = [Host::by_the_agent, Host::by_the_rescuer];
    let steps = {
        let host = Host::new();
        host.way_back(&host.seal()).steps.len()
    };
    assert!(steps > 7, "{steps}");
    for cut in 0..=steps {
        for (n, go_back) in ways.into_iter().enumerate() {
            let host = Host::new();
            let index = host.seal();
            let way_back = host.way_back(&index);
            fs::write(host.database(), "new, and written to").unwrap();
            let mut first = way_back.clone();
            first.steps.truncate(cut);
            host.by_the_agent(&first).unwrap();
            go_back(&host, &way_back).unwrap();
            assert_eq!(host.holds(), "old", "cut after {cut}, way {n}");
            // The release before runs, and writes; whoever comes next takes nothing of that away.
            fs::write(host.database(), "old, and written to").unwrap();
            host.by_the_agent(&way_back).unwrap();
            assert_eq!(host.holds(), "old, and written to", "cut after {cut}, way {n}");
            let kept = host.backups().finish(&index, &turn()).unwrap();
            let again = host.backups().finish(&index, &turn()).unwrap();
            assert_eq!((kept.len(), &again), (1, &kept));
            assert_eq!(fs::read_to_string(&kept[0].place).unwrap(), "new, and written to");
            assert!(kept[0].written.is_some_and(|(from, to)| from == 7 && to > 7), "{kept:?}");
            let noted = host.backups().noted_aside(&turn()).unwrap().unwrap();
            assert_eq!(noted.items.len(), 1);
        }
    }
}

#[test]
fn a_damaged_dump_or_command_is_noticed_before_anything_is_touched() {
    let host = Host::new();
    let index = host.seal();
    let way_back = host.way_back(&index);
    fs::write(host.database(), "new").unwrap();
    let content = host.data().join("backups/b1/content");
    let files: Vec<PathBuf> =
        fs::read_dir(&content).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 2, "the dump and the command: {files:?}");
    for file in files {
        let before = fs::read(&file).unwrap();
        let mut damaged = before.clone();
        damaged[0] ^= 1;
        fs::write(&file, damaged).unwrap();
        for said in [host.by_the_agent(&way_back), host.by_the_rescuer(&way_back)] {
            let said = said.unwrap_err();
            assert!(said.contains("not what was sealed"), "{said}");
            assert_eq!(host.holds(), "new");
            assert!(!Path::new(&host.data().join("set-aside")).exists());
        }
        fs::write(&file, before).unwrap();
    }
}

#[test]
fn what_no_check_would_take_back_is_no_backup() {
    let host = Host::new();
    fs::write(host.database(), "rubbish").unwrap();
    let id = BackupId::parse("b1").unwrap();
    let databases = Databases::new(&RealFiles, host.data());
    let declared = host.declared();
    let database = &Databases::of(&declared, &Variables::new()).unwrap()[0];
    let saved = databases.save(&host.backups(), &id, database, declared.used, When::Running);
    let said = saved.unwrap_err().to_string();
    assert!(said.contains("the database odd cannot be checked"), "{said}");
    assert_eq!(fs::read_dir(host.data().join("scratch")).unwrap().count(), 0);
    assert_eq!(host.holds(), "rubbish");
}
