//! Backups that a person brings back after the update was committed, on a disk that can lose its power or
//! fail at every operation.

use super::*;
use crate::{restore, update::BackupId};

fn backup(id: &str) -> BackupId {
    BackupId::parse(id).unwrap()
}

impl World {
    /// As `refit-agent backup restore` does it, to its end.
    pub(super) fn restore(&mut self, id: &str) -> Result<Outcome, String> {
        let mut machine = self.machine();
        let mut journal = self.journal.clone();
        let install = InstallId::parse("r1").unwrap();
        let time = self.time.clone();
        let wait = move |longest: Duration| {
            time.fetch_add(longest.as_nanos() as u64, Ordering::Relaxed);
            Waited::Over
        };
        let done = restore::begin(&mut machine, &journal, &backup(id), &install, &|_| None)
            .and_then(|()| restore::go_on(&mut machine, &mut journal, &wait));
        self.journal = journal;
        match done {
            _ if self.files.is_dark() => Err("no power".into()),
            Ok(Some(Update::Finished { outcome, .. })) => Ok(outcome),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    fn conf(&self) -> Vec<u8> {
        files::read_file(&self.files, Path::new("/etc/payments/conf"), 100).unwrap()
    }
}

/// A host that was led from 1.0 over 2.0 to 3.0, with the configuration changed before each.
fn on_three() -> World {
    let (mut world, to_two, two) = on_one();
    put(&world.files, Path::new("/etc/payments/conf"), b"port = 2", 0o640);
    world.update(to_two).unwrap();
    put(&world.files, Path::new("/etc/payments/conf"), b"port = 3", 0o640);
    let three = publish(&mut world, "3.0", &["web", "newest"]);
    world.update(attempt(&three, Some(&two), "i3")).unwrap();
    assert_eq!(world.stands_on("updated").unwrap().as_str(), "3.0");
    world.files = world.files.fork();
    world
}

#[test]
fn a_backup_is_brought_back_after_commit_with_program_units_and_configuration() {
    for (id, version, conf) in [("i3", "2.0", "port = 3"), ("i2", "1.0", "port = 2")] {
        let mut world = on_three();
        put(&world.files, Path::new("/etc/payments/conf"), b"port = 4", 0o640);
        let outcome = world.restore(id).unwrap();
        let Outcome::RolledBack { failure, .. } = &outcome else { panic!("{outcome:?}") };
        assert_eq!(failure.cause, Cause::Restored, "{failure}");
        assert_eq!(world.stands_on(id).unwrap().as_str(), version);
        assert_eq!(world.conf(), conf.as_bytes());
        // What stood there is kept, and named.
        assert!(failure.text.contains("/data/set-aside/r1/"), "{failure}");
        world.is_tidy(id);
        // What led further back still does, and the next update finds its way.
        let four = publish(&mut world, "4.0", &["web"]);
        let now = world.machine().tree().installed(&payments()).unwrap().unwrap().id;
        let outcome = world.update(attempt(&four, Some(&now), "i4")).unwrap();
        assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    }
}

#[test]
fn the_first_backup_leads_back_to_nothing_and_leaves_nothing() {
    let mut world = on_three();
    let outcome = world.restore("i1").unwrap();
    assert!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome:?}");
    assert_eq!(world.stands_on("none"), None);
    assert!(world.files.list(Path::new(UNITS)).unwrap().is_empty());
}

#[test]
fn a_power_cut_or_a_failure_while_a_backup_is_brought_back_ends_on_one_whole_release() {
    let start = on_three();
    for fault in [Fault::PowerCut, Fault::Fails(28), Fault::Fails(5)] {
        at_each_doing(
            start.fork(),
            |world| world.restore("i2"),
            fault,
            3,
            |world, done, step| {
                if done.is_err() || fault == Fault::PowerCut {
                    world.resume();
                }
                let version =
                    world.stands_on(step).unwrap_or_else(|| panic!("{step}: nothing runs"));
                match version.as_str() {
                    "1.0" => assert_eq!(world.conf(), b"port = 2", "{step}"),
                    "3.0" => assert_eq!(world.conf(), b"port = 3", "{step}"),
                    other => panic!("{step}: {other}"),
                }
                world.can_be_mended(step);
            },
        );
    }
}

#[test]
fn a_backup_that_is_damaged_unknown_or_in_the_way_of_an_update_changes_nothing() {
    let world = on_three();
    let before = world.outside();
    let damaged = world.fork();
    let content = Path::new("/data/backups/i2/content");
    let name = damaged.files.list(content).unwrap().remove(0);
    put(&damaged.files, &content.join(name), b"something else", 0o600);
    for (mut world, id, why) in
        [(damaged, "i2", "the backup is damaged"), (world.fork(), "i9", "i9")]
    {
        let error = world.restore(id).unwrap_err();
        assert!(error.contains(why), "{error}");
        assert_eq!(world.outside(), before);
        assert_eq!(world.stands_on(id).unwrap().as_str(), "3.0");
        assert!(!files::exists(&world.files, Path::new("/data/way-back")).unwrap());
    }
    let mut world = world.fork();
    let four = publish(&mut world, "4.0", &["web"]);
    let waiting = attempt(&four, None, "i4");
    world.journal.save(&waiting, refit_durable::Batch::new()).unwrap();
    let error = world.restore("i3").unwrap_err();
    assert!(error.contains("an update of payments is under way"), "{error}");
}
