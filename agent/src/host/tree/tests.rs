//! What the tree installer promises: one whole release, whatever is cut or fails.

use proptest::prelude::*;

use super::{
    super::recording::{Fault, Kept, RecordingFiles, at_every_operation, put, snapshot},
    testing::{file, folder, link, payments, platform, release, stock},
    *,
};

fn tree(files: &dyn Files) -> Tree<'_> {
    Tree::new(files, "/opt/refit".into(), platform())
}

fn store(files: &dyn Files) -> ContentStore<'_> {
    ContentStore::new(files, "/data/content".into())
}

fn old() -> Documents {
    release("1.0", &[("payments", vec![folder("bin", 0o755), file("bin/run", 0o755, b"old")])])
}

/// Two packages, the same content twice with other modes, a link, a folder that forbids writing.
fn new() -> Documents {
    let main = vec![
        folder("bin", 0o755),
        file("bin/run", 0o755, b"new"),
        link("bin/start", "run"),
        folder("doc", 0o555),
        file("doc/run", 0o444, b"new"),
        file("doc/empty", 0o600, b""),
    ];
    release("2.0", &[("payments", main), ("tools", vec![file("tool", 0o711, b"tool")])])
}

/// A host on 1.0, with the content of 2.0 here.
fn host() -> RecordingFiles {
    let files = RecordingFiles::default();
    stock(&files, &store(&files), &[b"old"]);
    tree(&files).prepare(&old(), &store(&files)).unwrap();
    tree(&files).switch(&payments(), &old().id.digest).unwrap();
    store(&files).clear().unwrap();
    stock(&files, &store(&files), &[b"new", b"", b"tool"]);
    files
}

fn whole(files: &RecordingFiles, step: &str) -> Digest {
    let tree = tree(files);
    let installed = tree.installed(&payments()).unwrap().expect(step);
    tree.verify(&installed, Extras::Refused).unwrap_or_else(|error| panic!("{step}: {error}"));
    installed.id.digest
}

#[test]
fn a_release_is_put_beside_the_old_one_and_switched_to_in_one_move() {
    let files = host();
    let before = snapshot(&files, Path::new("/opt/refit/payments/current"));
    tree(&files).prepare(&new(), &store(&files)).unwrap();
    assert_eq!(snapshot(&files, Path::new("/opt/refit/payments/current")), before);
    assert_eq!(whole(&files, "prepared"), old().id.digest);

    let from = files.count();
    tree(&files).switch(&payments(), &new().id.digest).unwrap();
    let renames = files.operations(from).into_iter().filter(|op| op.starts_with("put in place"));
    assert_eq!(renames.count(), 1);
    assert_eq!(whole(&files, "switched"), new().id.digest);
    let top = tree(&files).folder(&payments(), &new().id.digest);
    let mode = |path: &str| files.stat(&top.join(path)).unwrap().unwrap().mode;
    let modes = ["payments/bin/run", "payments/doc/run", "payments/doc", "tools/tool"].map(mode);
    assert_eq!(modes, [0o755, 0o444, 0o555, 0o711]);

    tree(&files)
        .revert(&payments(), Some(&Path::new("releases").join(old().id.digest.to_string())))
        .unwrap();
    assert_eq!(whole(&files, "reverted"), old().id.digest);
}

#[test]
fn whenever_the_power_goes_the_host_stands_on_one_whole_release_and_the_next_try_ends_well() {
    let back = Path::new("releases").join(old().id.digest.to_string());
    let act = |files: &RecordingFiles| {
        tree(files).prepare(&new(), &store(files))?;
        tree(files).switch(&payments(), &new().id.digest)?;
        tree(files).revert(&payments(), Some(&back))
    };
    at_every_operation(&host(), Fault::PowerCut, act, |left, _, step| {
        for kept in Kept::ALL {
            let files = left.after_power_cut(kept);
            let on = whole(&files, step);
            assert!(on == old().id.digest || on == new().id.digest, "{step}, {kept:?}");
            act(&files).unwrap_or_else(|error| panic!("{step}, {kept:?}: {error}"));
            assert_eq!(whole(&files, step), old().id.digest, "{step}, {kept:?}");
            tree(&files).clean(&payments(), &BTreeSet::new()).unwrap();
            let left = files.list(Path::new("/opt/refit/payments/releases")).unwrap();
            assert_eq!(left, [old().id.digest.to_string().as_str()], "{step}, {kept:?}");
        }
    });
}

#[test]
fn a_cut_first_install_ends_whole_or_with_nothing_and_its_way_back_leaves_nothing() {
    let start = RecordingFiles::default();
    stock(&start, &store(&start), &[b"old"]);
    let act = |files: &RecordingFiles| {
        tree(files).prepare(&old(), &store(files))?;
        tree(files).switch(&payments(), &old().id.digest)
    };
    at_every_operation(&start, Fault::PowerCut, act, |left, _, step| {
        for kept in Kept::ALL {
            let files = left.after_power_cut(kept);
            if tree(&files).current(&payments()).unwrap().is_some() {
                whole(&files, step);
            }
            tree(&files).revert(&payments(), None).unwrap();
            tree(&files).clean(&payments(), &BTreeSet::new()).unwrap();
            let left = files::exists(&files, Path::new("/opt/refit/payments")).unwrap();
            assert!(!left, "{step}, {kept:?}");
        }
    });
}

#[test]
fn every_failure_names_its_path_and_leaves_the_old_release_untouched() {
    let before = snapshot(&host(), &tree(&host()).folder(&payments(), &old().id.digest));
    let act = |files: &RecordingFiles| {
        tree(files).prepare(&new(), &store(files))?;
        tree(files).switch(&payments(), &new().id.digest)
    };
    for errno in [28 /* ENOSPC */, 5 /* EIO */] {
        at_every_operation(&host(), Fault::Fails(errno), act, |files, result, step| {
            let folder = tree(files).folder(&payments(), &old().id.digest);
            assert_eq!(snapshot(files, &folder), before, "{step}");
            match result {
                Ok(()) => assert_eq!(whole(files, step), new().id.digest, "{step}"),
                Err(error) => {
                    assert!(error.to_string().contains("/"), "{step}: {error}");
                    act(files).unwrap_or_else(|error| panic!("{step}: {error}"));
                    assert_eq!(whole(files, step), new().id.digest, "{step}");
                }
            }
        });
    }
}

/// CVE-2020-25860.
#[test]
fn content_that_changed_on_the_disk_is_noticed_before_the_release_has_its_name() {
    for which in [&b"new"[..], b"tool"] {
        let files = host();
        files.tamper(&store(&files).path(&Digest::of(which)), |bytes| bytes[0] ^= 1);
        let error = tree(&files).prepare(&new(), &store(&files)).unwrap_err();
        assert!(matches!(error, InstallError::Damaged { .. }), "{error}");
        assert_eq!(whole(&files, "untouched"), old().id.digest);
        let names = files.list(Path::new("/opt/refit/payments/releases")).unwrap();
        assert_eq!(names.len(), 1, "{names:?}");
    }
}

/// CVE-2020-25860.
#[test]
fn a_prepared_release_that_was_tampered_with_is_made_again_and_never_switched_to() {
    let changes: [fn(&RecordingFiles, &Path); 5] = [
        |files, top| files.tamper(&top.join("payments/bin/run"), |bytes| bytes.push(1)),
        |files, top| files.set_mode(&top.join("tools/tool"), 0o777).unwrap(),
        |files, top| put(files, &top.join("payments/bin/extra"), b"", 0o755),
        |files, top| files.remove_file(&top.join("payments/bin/start")).unwrap(),
        |files, top| files.tamper(&top.join(".refit/release.json"), |bytes| bytes.push(b' ')),
    ];
    for change in changes {
        let files = host();
        tree(&files).prepare(&new(), &store(&files)).unwrap();
        change(&files, &tree(&files).folder(&payments(), &new().id.digest));
        // What was linked into the tree is no longer trusted either: it has to be fetched again.
        store(&files).clear().unwrap();
        stock(&files, &store(&files), &[b"new", b"", b"tool"]);
        tree(&files).prepare(&new(), &store(&files)).unwrap();
        tree(&files).switch(&payments(), &new().id.digest).unwrap();
        assert_eq!(whole(&files, "made again"), new().id.digest);
    }
}

#[test]
fn what_refit_did_not_put_there_is_never_replaced() {
    let files = RecordingFiles::default();
    stock(&files, &store(&files), &[b"old"]);
    put(&files, Path::new("/opt/refit/payments/current/data"), b"precious", 0o600);
    let switched = tree(&files).switch(&payments(), &old().id.digest);
    assert!(matches!(switched, Err(InstallError::Foreign { .. })));
    let files = host();
    let link = tree(&files).link(&payments());
    files.remove_file(&link).unwrap();
    files.symlink(Path::new("/etc"), &link).unwrap();
    assert!(matches!(tree(&files).installed(&payments()), Err(InstallError::Foreign { .. })));
    let cleaned = tree(&files).clean(&payments(), &BTreeSet::new());
    assert!(cleaned.is_err(), "who cannot tell what is current removes nothing");
}

#[test]
fn a_release_without_packages_is_current_like_any_other() {
    let files = host();
    let gone = release("3.0", &[]);
    tree(&files).prepare(&gone, &store(&files)).unwrap();
    tree(&files).switch(&payments(), &gone.id.digest).unwrap();
    assert_eq!(whole(&files, "removed"), gone.id.digest);
    let top = tree(&files).folder(&payments(), &gone.id.digest);
    assert_eq!(files.list(&top).unwrap(), [".refit"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn clean_never_removes_what_is_current_or_referred_to(
        steps in prop::collection::vec((0..5_usize, prop::collection::btree_set(0..5_usize, 0..3)), 1..6)
    ) {
        let files = RecordingFiles::default();
        let releases: Vec<_> = (0..5).map(|n| {
            let bytes = format!("release {n}").into_bytes();
            (release(&format!("{n}"), &[("payments", vec![file("run", 0o755, &bytes)])]), bytes)
        }).collect();
        for (next, referred) in steps {
            let (docs, bytes) = &releases[next];
            stock(&files, &store(&files), &[bytes]);
            tree(&files).prepare(docs, &store(&files)).unwrap();
            let keep: BTreeSet<_> = referred.iter().map(|n| releases[*n].0.id.digest).collect();
            let there = |digest: &Digest| files::exists(&files, &tree(&files).folder(&payments(), digest)).unwrap();
            let held: Vec<_> = keep.iter().filter(|digest| there(digest)).copied().collect();
            tree(&files).switch(&payments(), &docs.id.digest).unwrap();
            tree(&files).clean(&payments(), &keep).unwrap();
            prop_assert_eq!(whole(&files, "current"), docs.id.digest);
            prop_assert!(held.iter().all(there), "what is referred to stays");
            let names = files.list(Path::new("/opt/refit/payments/releases")).unwrap();
            prop_assert!(names.len() <= keep.len() + 1, "and nothing else: {names:?}");
        }
    }
}
