//! Which method of the backup is taken where room is short.

use super::*;
use crate::{
    host::backup::{Method, Methods},
    update::BackupMethod,
};

const MIB: u64 = 1 << 20;

/// A host whose configuration is large, with room to bring it back once and not to copy it as well.
fn short_of_room() -> (World, Update) {
    let (mut world, update, _) = on_one();
    put(&world.files, Path::new("/etc/payments/large"), &vec![1; 20 << 20], 0o600);
    world.files = world.files.fork();
    world.files.set_free(60 * MIB, None);
    (world, update)
}

fn preflight(world: &World, update: &Update, methods: &[BackupMethod]) -> Event {
    let mut machine = world.machine();
    machine.backup.methods =
        Methods::new(methods.iter().copied().map(Method::from).collect()).unwrap();
    let attempt = update.attempt().clone();
    machine.learn(&world.releases[&attempt.release.digest]).unwrap();
    let step = Step::Preflight { attempt, pause: Duration::ZERO };
    machine.perform(&step, &mut world.frames.clone(), &|_| Waited::Over).unwrap()
}

#[test]
fn the_first_method_that_fits_is_taken_and_kept_in_the_journal_with_the_terms() {
    let (world, update) = short_of_room();
    world.files.can_clone();
    for order in [
        &[BackupMethod::Reflink, BackupMethod::Copy][..],
        &[BackupMethod::Copy, BackupMethod::Reflink],
        &[BackupMethod::Reflink],
    ] {
        let Event::PreflightPassed { terms } = preflight(&fork(&world), &update, order) else {
            panic!("{order:?} fits")
        };
        assert_eq!(terms.saves_by, BackupMethod::Reflink);
        let text = serde_json::to_string(&terms).unwrap();
        assert_eq!(serde_json::from_str::<crate::update::Terms>(&text).unwrap(), terms);
    }
    world.files.set_free(600 * MIB, None);
    let roomy = preflight(&world, &update, &[BackupMethod::Copy, BackupMethod::Reflink]);
    let Event::PreflightPassed { terms } = roomy else { panic!("{roomy:?}") };
    assert_eq!(terms.saves_by, BackupMethod::Copy);
    // As an agent of before wrote and reads it.
    assert!(!serde_json::to_string(&terms).unwrap().contains("saves_by"));
}

fn fork(world: &World) -> World {
    let forked = world.fork();
    forked.files.can_clone();
    forked
}

#[test]
fn what_does_not_fit_is_told_with_the_bytes_and_the_cheapest_method_that_would() {
    let (world, update) = short_of_room();
    let failed = |world: &World, methods: &[BackupMethod]| match preflight(world, &update, methods)
    {
        Event::Failed { failure } => failure,
        event => panic!("{event:?}"),
    };
    let before = world.outside();
    let copy = failed(&world, &[BackupMethod::Reflink, BackupMethod::Copy]);
    assert_eq!(copy.cause, Cause::NoSpace);
    assert!(copy.text.contains("lacks") && copy.text.contains("backup"), "{copy}");
    assert!(copy.text.contains("the cheapest backup, by copy, takes 4"), "{copy}");
    let cannot = failed(&world, &[BackupMethod::Reflink]);
    assert_eq!(cannot.cause, Cause::BackupFailed);
    assert!(cannot.text.contains("backup.methods"), "{cannot}");
    world.files.can_clone();
    let other = failed(&world, &[BackupMethod::Copy]);
    assert!(other.text.contains("would fit by reflink"), "{other}");
    assert_eq!(world.outside(), before);
}

#[test]
fn an_update_whose_backup_is_cloned_goes_through_and_goes_back() {
    let (mut world, update) = short_of_room();
    world.files.can_clone();
    let mut bad = fork(&world);
    let before = bad.outside();
    bad.bad = Some(update.attempt().release.digest);
    let outcome = bad.update(update.clone()).unwrap();
    assert!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome:?}");
    assert_eq!(bad.outside(), before);
    bad.is_tidy("back");
    let outcome = world.update(update).unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    world.is_tidy("updated");
}
