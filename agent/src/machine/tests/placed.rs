//! Releases with the installer `files`, on a disk that can lose its power or fail at every operation.

use refit_proto::package::{Entry, Installer, PackagePath, PlacedAs};

use super::*;
use crate::host::tree::testing::{folder, link};

fn placed_as(path: &str) -> PlacedAs {
    PlacedAs {
        path: PackagePath::parse(path).unwrap(),
        owner: Some("app".into()),
        group: Some("8".into()),
        mode: Some(0o4750),
        attributes: BTreeMap::from([("user.note".to_owned(), "0x0102".to_owned())]),
    }
}

/// A release of files, which also runs `web`.
fn publish_files(
    world: &mut World,
    version: &str,
    entries: Vec<Entry>,
    contents: &[&str],
    files: Vec<PlacedAs>,
) -> ReleaseId {
    publish_naming(world, version, entries, contents, files, Backup::default())
}

/// The same with paths that are configuration.
fn publish_naming(
    world: &mut World,
    version: &str,
    entries: Vec<Entry>,
    contents: &[&str],
    files: Vec<PlacedAs>,
    backup: Backup,
) -> ReleaseId {
    let name = PackageName::parse("payments").unwrap();
    let (service, health) = watched("web", &["/usr/share/app/one", version]);
    let manifest = Manifest::new(name.clone(), entries, vec![service], health, backup, vec![]);
    let manifest = manifest.unwrap().installed_by(Installer::Files, files).unwrap();
    for bytes in contents {
        world.frames.add(bytes.as_bytes());
    }
    world.frames.add(&manifest.to_bytes());
    let packages = vec![PackageRef { name, manifest: FileRef::to(&manifest.to_bytes()) }];
    let platforms = BTreeMap::from([(platform(), packages)]);
    let version = Version::parse(version).unwrap();
    let release = Release::new(payments(), version.clone(), 1, platforms);
    world.releases.insert(Digest::of(&release.to_bytes()), release.to_bytes());
    ReleaseId { version, digest: Digest::of(&release.to_bytes()) }
}

/// A host on which another hand has put `/etc/app.conf`, and what is to come.
fn host() -> (World, ReleaseId, ReleaseId) {
    let mut world = empty();
    put(
        &world.files,
        Path::new("/etc/passwd"),
        b"root:x:0:0::/:/bin/sh\napp:x:7:7::/:/bin/sh\n",
        0o644,
    );
    put(&world.files, Path::new("/etc/app.conf"), b"by hand", 0o600);
    put(&world.files, Path::new("/usr/share/other"), b"of others", 0o644);
    let folders = || {
        vec![
            folder("etc", 0o755),
            folder("usr", 0o755),
            folder("usr/share", 0o700),
            folder("usr/share/app", 0o750),
        ]
    };
    let mut one = folders();
    one.extend([
        file("etc/app.conf", 0o640, b"conf 1"),
        file("etc/old", 0o644, b"old"),
        file("usr/share/app/one", 0o755, b"program 1"),
        link("usr/share/app/link", "one"),
    ]);
    let mut two = folders();
    two.extend([
        folder("usr/lib", 0o755),
        folder("usr/lib/app", 0o755),
        file("etc/app.conf", 0o640, b"conf 2"),
        file("usr/lib/app/new", 0o644, b"new"),
        file("usr/share/app/one", 0o755, b"program 2"),
    ]);
    let as_app = || vec![placed_as("usr/share/app/one")];
    let contents = ["conf 1", "old", "program 1"];
    let one = publish_files(&mut world, "1.0", one, &contents, as_app());
    let contents = ["conf 2", "new", "program 2"];
    let two = publish_files(&mut world, "2.0", two, &contents, as_app());
    world.files = world.files.fork();
    (world, one, two)
}

fn on_one() -> (World, Update, ReleaseId) {
    let (mut world, one, two) = host();
    let outcome = world.update(attempt(&one, None, "i1")).unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    world.files = world.files.fork();
    (world, attempt(&two, Some(&one), "i2"), two)
}

impl World {
    /// Everything outside of the agent's own folders.
    fn places(&self) -> BTreeMap<PathBuf, String> {
        let mut all = snapshot(&self.files, Path::new("/etc"));
        all.extend(snapshot(&self.files, Path::new("/usr")));
        // The service manager's own; what is in it is compared by `stands_on`.
        all.retain(|path, _| !path.starts_with(UNITS));
        all
    }

    /// The release that stands whole at its places, and nothing of another one.
    fn has_placed(&self, step: &str) -> Option<Version> {
        let version = self.stands_on(step)?;
        let machine = self.machine();
        let release = machine.tree().installed(&payments()).unwrap().unwrap();
        machine.placed().verify(&release).unwrap_or_else(|error| panic!("{step}: {error}"));
        let there = |path: &str| files::exists(&self.files, Path::new(path)).unwrap();
        let is_one = version.as_str() == "1.0";
        assert_eq!(there("/etc/old"), is_one, "{step}");
        assert_eq!(there("/usr/share/app/link"), is_one, "{step}");
        assert_eq!(there("/usr/lib"), !is_one, "{step}");
        for path in self.places().keys() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            assert!(!name.contains(".refit-"), "{step}: {}", path.display());
        }
        Some(version)
    }
}

#[test]
fn files_stand_at_their_places_with_owner_mode_and_attributes_and_only_those() {
    let (mut world, update, _) = on_one();
    assert_eq!(world.has_placed("installed").unwrap().as_str(), "1.0");
    let at = Path::new("/usr/share/app/one");
    let stat = world.files.stat(at).unwrap().unwrap();
    assert_eq!((stat.uid, stat.gid, stat.mode), (7, 8, 0o4750));
    assert_eq!(world.files.attributes(at).unwrap()[std::ffi::OsStr::new("user.note")], [1, 2]);
    let made = world.files.stat(Path::new("/usr/share/app")).unwrap().unwrap();
    let found = world.files.stat(Path::new("/usr/share")).unwrap().unwrap();
    assert_eq!((made.mode, found.mode), (0o750, 0o755), "a folder that was there stays as it is");

    let outcome = world.update(update).unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    assert_eq!(world.has_placed("updated").unwrap().as_str(), "2.0");
    world.is_tidy("updated");
}

#[test]
fn a_bad_release_of_files_leaves_the_host_as_it_was() {
    let (mut world, update, two) = on_one();
    let before = world.places();
    world.bad = Some(two.digest);
    let outcome = world.update(update).unwrap();
    assert!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome:?}");
    assert_eq!(world.places(), before);
    assert!(!outcome.failure().unwrap().text.contains("set-aside"), "{outcome:?}");
    assert_eq!(world.has_placed("back").unwrap().as_str(), "1.0");
}

#[test]
fn a_failing_first_install_of_files_brings_back_what_another_hand_had_put_there() {
    let (mut world, one, _) = host();
    let before = world.places();
    world.bad = Some(one.digest);
    let outcome = world.update(attempt(&one, None, "i1")).unwrap();
    assert!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome:?}");
    assert_eq!(world.places(), before);
    let left = snapshot(&world.files, Path::new("/opt/refit/payments"));
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn removing_a_product_of_files_takes_its_files_and_the_folders_that_it_brought() {
    let (mut world, update, two) = on_one();
    world.update(update).unwrap();
    let removal = world.publish_removal("3.0", &[]);
    let outcome = world.update(attempt(&removal, Some(&two), "i3")).unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    let left: Vec<_> = world.places().into_keys().collect();
    for gone in ["/etc/app.conf", "/usr/share/app", "/usr/lib"] {
        assert!(!left.iter().any(|path| path.starts_with(gone)), "{gone}: {left:?}");
    }
    assert!(left.contains(&PathBuf::from("/usr/share/other")));
}

#[test]
fn files_are_brought_back_with_the_folders_that_went_with_their_product() {
    let (mut world, update, two) = on_one();
    world.update(update).unwrap();
    let before = world.places();
    let removal = world.publish_removal("3.0", &[]);
    world.update(attempt(&removal, Some(&two), "i3")).unwrap();
    assert!(!files::exists(&world.files, Path::new("/usr/share/app")).unwrap());
    let outcome = world.restore("i3").unwrap();
    assert!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome:?}");
    assert_eq!(world.has_placed("brought back").unwrap().as_str(), "2.0");
    assert_eq!(world.places(), before, "with the modes that the release gives them");
    // And once more, they go with it.
    let removal = world.publish_removal("4.0", &[]);
    world.update(attempt(&removal, Some(&two), "i4")).unwrap();
    assert!(!files::exists(&world.files, Path::new("/usr/share/app")).unwrap());
    assert!(!files::exists(&world.files, Path::new("/usr/lib")).unwrap());
}

#[test]
fn after_a_power_cut_or_a_failure_anywhere_the_files_of_one_whole_release_stand_there() {
    let (start, update, two) = on_one();
    for bad in [None, Some(two.digest)] {
        for fault in [Fault::PowerCut, Fault::Fails(if bad.is_none() { 28 } else { 5 })] {
            let start = World { bad, ..start.fork() };
            at_each_of(start, update.clone(), fault, 13, |world, outcome, step| {
                if outcome.is_err() || fault == Fault::PowerCut {
                    world.resume();
                }
                let version = world.has_placed(step).unwrap();
                assert!(bad.is_none() || version.as_str() == "1.0", "{step}: {version}");
            });
        }
    }
}

#[test]
fn what_cannot_be_placed_here_is_refused_before_anything_is_changed() {
    let (world, one, _) = host();
    let before = world.places();
    let nobody = PlacedAs { owner: Some("nobody-here".into()), ..placed_as("etc/x") };
    for (entry, files, why) in [
        (file("etc/x", 0o644, b"x"), vec![nobody], "/etc/passwd on this host has no nobody-here"),
        (file("data/x", 0o644, b"x"), vec![], "the agent's own files are there"),
        (file("opt/refit/x", 0o644, b"x"), vec![], "the agent's own files are there"),
    ] {
        let mut world = world.fork();
        let mut entries = Vec::new();
        let parents: Vec<_> = Path::new(entry.path().as_str()).ancestors().skip(1).collect();
        for parent in parents.into_iter().rev().filter_map(Path::to_str) {
            if !parent.is_empty() {
                entries.push(folder(parent, 0o755));
            }
        }
        entries.push(entry);
        let wrong = publish_files(&mut world, "9.0", entries, &["x"], files);
        let outcome = world.update(attempt(&wrong, None, "i9")).unwrap();
        let Outcome::Refused { failure } = &outcome else { panic!("{outcome:?}") };
        assert!(failure.text.contains(why), "{failure}");
        assert_eq!(world.places(), before);
    }
    let _ = one;
}

#[test]
fn what_another_hand_changed_is_named_by_path() {
    let (world, _, _) = on_one();
    let all = |machine: &HostMachine| machine.drifts(None, &mut |_| Ok(())).unwrap();
    assert!(all(&world.machine()).is_empty());
    put(&world.files, Path::new("/etc/app.conf"), b"changed", 0o640);
    let machine = world.machine();
    let found = all(&machine);
    let drift = &found[&payments()];
    assert_eq!(drift.differences.len(), 1, "{drift:?}");
    assert_eq!(drift.differences[0].path, Path::new("/etc/app.conf"));
    assert_eq!(drift.differences[0].kind, crate::host::drift::Kind::Changed);
    // One that is stopped says nothing.
    assert_eq!(machine.drifts(None, &mut |_| Err(crate::host::drift::Stopped)), None);
}

#[test]
fn a_placed_file_is_put_back_with_its_mode_but_for_one_that_is_configuration_too() {
    let (mut world, _, _) = host();
    let entries = vec![
        folder("etc", 0o755),
        file("etc/app.conf", 0o640, b"conf 1"),
        file("etc/old", 0o644, b"old"),
    ];
    let backup = Backup { paths: vec!["/etc/app.conf".into()] };
    let one = publish_naming(&mut world, "1.0", entries, &["conf 1", "old"], vec![], backup);
    let outcome = world.update(attempt(&one, None, "i1")).unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    put(&world.files, Path::new("/etc/app.conf"), b"by its owner", 0o600);
    put(&world.files, Path::new("/etc/old"), b"by another hand", 0o600);
    let repaired = world.machine().repair(&payments(), &mut world.frames.clone()).unwrap();
    assert_eq!(repaired, [Path::new("/etc/old")]);
    let read = |path: &str| files::read_file(&world.files, Path::new(path), 100).unwrap();
    assert_eq!(read("/etc/app.conf"), b"by its owner");
    assert_eq!(read("/etc/old"), b"old");
    assert_eq!(world.files.stat(Path::new("/etc/old")).unwrap().unwrap().mode, 0o644);
}
