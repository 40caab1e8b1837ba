//! Data for which somebody else's backup stands.

use refit_proto::package::{Data, DataUse};

use super::*;
use crate::host::backup::{Method, Methods, Outside, Role};

const LEDGER: &str = "/srv/payments/ledger";

/// A host on 1.0 with data that the release 2.1 keeps, whose owner asks this command for a proof.
fn asking(order: &[Method], command: &str) -> (World, Update, ReleaseId) {
    let (mut world, update, _) = on_one();
    put(&world.files, Path::new(LEDGER), b"a row", 0o600);
    world.files = world.files.fork();
    let release = publish_with(&mut world, "2.1", &["web", "new"], |manifest| {
        let paths = vec!["/srv/payments".into()];
        manifest.with_data(Data { used: DataUse::Kept, paths, databases: vec![] })
    });
    world.backup.methods = Methods::new(order.to_vec()).unwrap();
    world.backup.outside = Some(Outside {
        command: ["/bin/sh", "-c", command].map(String::from).to_vec(),
        max_age: Duration::from_secs(24 * 3600),
        max_test_age: Duration::from_secs(30 * 24 * 3600),
        timeout: Duration::from_secs(20),
    });
    let previous = update.attempt().previous.clone();
    let update = attempt(&release, previous.as_ref(), "i3");
    (world, update, release)
}

/// A command that names a restore point of so many days ago, by the clock of these hosts.
fn proof(days_ago: i64) -> String {
    let now = empty().machine().clock.now();
    let made = now - jiff::SignedDuration::from_hours(24 * days_ago);
    format!(r#"echo '{{"restore_point":"vault 17","made":"{made}","tested":"{now}"}}'"#)
}

fn all(world: &World) -> BTreeMap<PathBuf, String> {
    let mut all = world.outside();
    all.extend(snapshot(&world.files, Path::new("/srv")));
    all
}

const OUTSIDE_FIRST: [Method; 2] = [Method::Outside, Method::Copy];

#[test]
fn data_that_somebody_else_has_is_not_saved_here_and_configuration_is_all_the_same() {
    let (mut world, update, _) = asking(&OUTSIDE_FIRST, &proof(0));
    let outcome = world.update(update).unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    world.is_tidy("updated");
    let index = world.machine().backups().index(&BackupId::parse("i3").unwrap()).unwrap();
    let paths: Vec<_> = index.covered.iter().map(|it| (it.role, it.path.as_path())).collect();
    assert!(paths.contains(&(Role::Declared, Path::new("/etc/payments"))), "{paths:?}");
    assert!(!paths.iter().any(|(role, _)| *role == Role::Data), "{paths:?}");
    let outside = index.outside.clone().unwrap();
    assert_eq!(outside.paths, [Path::new("/srv/payments")]);
    assert!(index.words().contains("restore point vault 17"), "{}", index.words());
    let row = FileRef::to(b"a row");
    assert!(!index.content().contains(&row), "no byte of it is here");
}

#[test]
fn going_back_from_it_brings_configuration_back_and_leaves_data_as_it_was_written_since() {
    let (mut world, update, release) = asking(&OUTSIDE_FIRST, &proof(0));
    world.bad = Some(release.digest);
    let before = all(&world);
    let outcome = world.update_that_writes(update, false);
    assert!(matches!(outcome, Some(Outcome::RolledBack { .. })), "{outcome:?}");
    assert_eq!(all(&world), before);
    world.is_tidy("back");
}

#[test]
fn without_a_proof_that_is_good_enough_nothing_is_changed_or_the_next_method_saves_it() {
    for command in [proof(2), "exit 7".into()] {
        let (mut world, update, _) = asking(&OUTSIDE_FIRST, &command);
        let fits = world.update(update).unwrap();
        assert!(matches!(fits, Outcome::Committed { .. }), "{fits:?}");
        let index = world.machine().backups().index(&BackupId::parse("i3").unwrap()).unwrap();
        assert!(index.covered.iter().any(|it| it.role == Role::Data) && index.outside.is_none());

        // By no other way: there is room for a clone alone, and nothing can be cloned.
        let (mut world, update, _) = asking(&[Method::Outside, Method::Reflink], &command);
        let before = all(&world);
        let outcome = world.update(update).unwrap();
        let Outcome::Refused { failure } = outcome else { panic!("{outcome:?}") };
        assert_eq!(failure.cause, Cause::BackupFailed);
        let why = if command.contains("exit") { "ended with 7" } else { "vault 17 is 2 d old" };
        assert!(failure.text.contains(why), "{failure}");
        assert_eq!(all(&world), before);
        world.is_tidy("refused");
    }
}

#[test]
fn a_proof_that_is_gone_when_the_backup_is_made_refuses_the_update_with_nothing_changed() {
    let folder = tempfile::tempdir().unwrap();
    let flag = folder.path().join("flag");
    std::fs::write(&flag, "").unwrap();
    // Good once, in preflight.
    let once = format!("rm {} && {}", flag.display(), proof(0));
    let (mut world, update, _) = asking(&OUTSIDE_FIRST, &once);
    let before = all(&world);
    let outcome = world.update(update).unwrap();
    let Outcome::Refused { failure } = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.cause, Cause::BackupFailed);
    assert!(failure.text.contains("backup.outside"), "{failure}");
    assert!(!flag.exists(), "it was asked in preflight");
    assert_eq!(all(&world), before);
    world.is_tidy("refused");
}
