//! What another hand has changed is put back, where the host's owner wants that.

use super::*;
use crate::host::drift::Drift;

fn drift(world: &World) -> Drift {
    let found = world.machine().drifts(None, &mut |_| Ok(())).unwrap();
    found.get(&payments()).cloned().unwrap_or_default()
}

/// Everything that is installed, without the time of a file: one that is put back is new.
fn still(world: &World) -> BTreeMap<PathBuf, String> {
    let timeless = |state: String| match (state.find("Time {"), state.find('}')) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &state[..from], &state[to + 1..]),
        _ => state,
    };
    world.outside().into_iter().map(|(path, state)| (path, timeless(state))).collect()
}

/// Where a file of the current release is.
fn place(world: &World, name: &str) -> PathBuf {
    let release = world.machine().tree().current(&payments()).unwrap().unwrap();
    world.machine().tree().folder(&payments(), &release).join("payments").join(name)
}

fn repair(world: &World) -> Result<Vec<PathBuf>, Failure> {
    world.machine().repair(&payments(), &mut world.frames.clone())
}

/// A host on 1.0 on which another hand has changed a file, a mode and taken one away.
fn changed() -> World {
    let (world, _, _) = on_one();
    let (run, same) = (place(&world, "run"), place(&world, "same"));
    put(&world.files, &same, b"by another hand", 0o644);
    world.files.remove_file(&run).unwrap();
    World { files: world.files.fork(), ..world }
}

#[test]
fn what_was_changed_is_as_it_was_signed_again_and_what_no_manifest_names_is_named_and_left() {
    let (world, _, _) = on_one();
    let before = still(&world);
    let (run, same) = (place(&world, "run"), place(&world, "same"));
    put(&world.files, &same, b"by another hand", 0o644);
    world.files.remove_file(&run).unwrap();
    let extra = place(&world, "cache");
    put(&world.files, &extra, b"of the service", 0o600);
    let found = drift(&world);
    assert_eq!((found.differences.len(), found.extra.as_slice()), (2, &[extra.clone()][..]));
    let repaired = repair(&world).unwrap();
    assert_eq!(repaired, [run, same]);
    let after = drift(&world);
    assert!(after.is_empty() && after.extra == [extra.clone()], "{after:?}");
    world.files.remove_file(&extra).unwrap();
    assert_eq!(still(&world), before);
    world.is_tidy("repaired");
    assert!(!files::exists(&world.files, Path::new("/data/repair")).unwrap());
    // Nothing is left to do.
    assert_eq!(repair(&world).unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn a_mode_is_set_and_what_is_of_another_kind_or_can_not_be_had_stays_and_the_rest_is_put_back() {
    let (world, _, _) = on_one();
    let (run, same) = (place(&world, "run"), place(&world, "same"));
    world.files.set_mode(&run, 0o700).unwrap();
    world.files.remove_file(&same).unwrap();
    world.files.create_dir(&same, 0o755).unwrap();
    put(&world.files, &same.join("of-somebody"), b"needed", 0o600);
    assert_eq!(repair(&world).unwrap(), std::slice::from_ref(&run));
    assert_eq!(world.files.stat(&run).unwrap().unwrap().mode, 0o755);
    let found = drift(&world);
    assert_eq!(found.differences.len(), 1, "{found:?}");
    assert_eq!(found.differences[0].path, same);
    assert!(files::exists(&world.files, &same.join("of-somebody")).unwrap());

    // Nobody has the content any more: it stays as it is, and is still named.
    let world = World { frames: Frames::default(), ..changed() };
    let before = still(&world);
    assert_eq!(repair(&world).unwrap(), Vec::<PathBuf>::new());
    assert_eq!(still(&world), before);
    assert_eq!(drift(&world).differences.len(), 2);
}

#[test]
fn a_power_cut_or_a_failure_anywhere_in_a_repair_leaves_each_path_old_or_new_and_the_next_ends_it()
{
    let start = changed();
    let good = {
        let world = start.fork();
        repair(&world).unwrap();
        still(&world)
    };
    let done = |world: &mut World| -> Result<Outcome, String> {
        repair(world).map(|_| Outcome::Dropped).map_err(|failure| failure.to_string())
    };
    for fault in [Fault::PowerCut, Fault::Fails(28), Fault::Fails(5)] {
        let broken = still(&start);
        at_each_doing(start.fork(), done, fault, 1, |world, _, step| {
            for (path, state) in still(world) {
                let hidden = path
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().ends_with(".refit-new"));
                let known = [broken.get(&path), good.get(&path)];
                assert!(hidden || known.contains(&Some(&state)), "{step}: {path:?} {state}");
            }
            repair(world).unwrap_or_else(|failure| panic!("{step}: {failure}"));
            assert_eq!(still(world), good, "{step}");
            assert_eq!(world.stands_on_files(step).as_str(), "1.0");
            world.is_tidy(step);
        });
    }
}

impl World {
    /// The release that is whole, whatever runs.
    fn stands_on_files(&self, step: &str) -> Version {
        let machine = self.machine();
        let release = machine.tree().installed(&payments()).unwrap().unwrap();
        machine.tree().verify(&release, Extras::Refused).unwrap_or_else(|e| panic!("{step}: {e}"));
        release.id.version
    }
}
