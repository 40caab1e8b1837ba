//! Releases that remove the product, on a disk that can lose its power or fail at every operation.

use refit_proto::package::Removal;

use super::*;

const LEDGER: &str = "/var/lib/payments/2024/ledger";

impl World {
    /// A release that removes the product, and these paths.
    pub(super) fn publish_removal(&mut self, version: &str, paths: &[&str]) -> ReleaseId {
        let version = Version::parse(version).unwrap();
        let platforms = BTreeMap::from([(platform(), vec![])]);
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let release = Release::new(payments(), version.clone(), 9, platforms)
            .removing(Removal { paths, purge: false });
        let digest = Digest::of(&release.to_bytes());
        self.releases.insert(digest, release.to_bytes());
        ReleaseId { version, digest }
    }

    fn has(&self, path: &str) -> bool {
        files::exists(&self.files, Path::new(path)).unwrap()
    }
}

/// A host on 2.0 with data, and the removal that is to come.
fn with_data(removes: &[&str]) -> (World, Update, ReleaseId, ReleaseId) {
    let (mut world, update, two) = on_one();
    world.update(update).unwrap();
    put(&world.files, Path::new(LEDGER), b"rows", 0o640);
    put(&world.files, Path::new("/var/lib/other/ledger"), b"of others", 0o640);
    let gone = world.publish_removal("3.0", removes);
    world.files = world.files.fork();
    let update = attempt(&gone, Some(&two), "i3");
    (world, update, two, gone)
}

#[test]
fn a_release_without_packages_removes_the_product_leaves_its_data_and_is_reversible() {
    let (mut world, update, two, gone) = with_data(&[]);
    let outcome = world.update(update).unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    assert_eq!(world.stands_on("removed").unwrap().as_str(), "3.0");
    assert!(world.running.lock().unwrap().is_empty());
    assert!(world.has(LEDGER), "data stays unless it is named");
    let outcome = world.update(attempt(&two, Some(&gone), "i4")).unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    assert_eq!(world.stands_on("again").unwrap().as_str(), "2.0");
}

#[test]
fn what_goes_with_a_product_by_name_is_gone_and_comes_back_with_the_backup() {
    let (mut world, update, _, _) = with_data(&["/var/lib/payments"]);
    let before = snapshot(&world.files, Path::new("/var/lib"));
    let outcome = world.update(update).unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    assert!(!world.has("/var/lib/payments") && world.has("/var/lib/other/ledger"));
    world.is_tidy("removed");
    world.restore("i3").unwrap();
    assert_eq!(world.stands_on("restored").unwrap().as_str(), "2.0");
    assert_eq!(snapshot(&world.files, Path::new("/var/lib")), before);
}

#[test]
fn after_a_power_cut_or_a_failure_anywhere_the_product_and_its_data_are_there_or_gone_together() {
    let (start, update, _, _) = with_data(&["/var/lib/payments"]);
    for fault in [Fault::PowerCut, Fault::Fails(28), Fault::Fails(5)] {
        at_each_of(start.fork(), update.clone(), fault, 3, |world, outcome, step| {
            if outcome.is_err() || fault == Fault::PowerCut {
                world.resume();
            }
            let is_there = match world.stands_on(step).unwrap().as_str() {
                "2.0" => true,
                "3.0" => false,
                other => panic!("{step}: {other}"),
            };
            assert_eq!(world.has(LEDGER), is_there, "{step}");
            assert_eq!(world.has("/var/lib/payments"), is_there, "{step}");
        });
    }
}

#[test]
fn configuration_in_a_folder_that_is_not_there_is_brought_back_as_the_folders_absence() {
    let (mut world, _, two) = on_one();
    let nowhere = Backup { paths: vec!["/srv/not/there/conf".into()] };
    let name = PackageName::parse("payments").unwrap();
    let (service, health) = watched("web", &["/bin/run"]);
    let manifest =
        Manifest::new(name.clone(), vec![], vec![service], health, nowhere, vec![]).unwrap();
    world.frames.add(&manifest.to_bytes());
    let packages = vec![PackageRef { name, manifest: FileRef::to(&manifest.to_bytes()) }];
    let version = Version::parse("4.0").unwrap();
    let platforms = BTreeMap::from([(platform(), packages)]);
    let release = Release::new(payments(), version.clone(), 4, platforms);
    let four = ReleaseId { version, digest: Digest::of(&release.to_bytes()) };
    world.releases.insert(four.digest, release.to_bytes());
    world.bad = Some(four.digest);
    let one = world.machine().tree().installed(&payments()).unwrap().unwrap().id;
    assert_ne!(one, two);
    let outcome = world.update(attempt(&four, Some(&one), "i4")).unwrap();
    assert!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome:?}");
    assert_eq!(world.stands_on("back").unwrap().as_str(), "1.0");
    assert!(!world.has("/srv/not") && !world.has("/srv/.not"));
}

#[test]
fn a_removal_of_what_may_not_go_is_refused_and_changes_nothing() {
    for (path, why) in [
        ("/data", "the agent's own files are there"),
        ("/opt", "the agent's own files are there"),
        ("${NOWHERE}/x", "NOWHERE"),
    ] {
        let (mut world, update, _, _) = with_data(&[path]);
        let before = world.outside();
        let outcome = world.update(update).unwrap();
        let Outcome::Refused { failure } = &outcome else { panic!("{outcome:?}") };
        assert!(failure.text.contains(why), "{failure}");
        assert_eq!(world.outside(), before);
        assert_eq!(world.stands_on(path).unwrap().as_str(), "2.0");
    }
}
