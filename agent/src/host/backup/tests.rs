//! What a backup promises: nothing is forgotten, nothing damaged is taken for whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    os::unix::ffi::OsStringExt as _,
    time::Duration,
};

use proptest::prelude::*;
use refit_durable::testing::LoopFs;
use refit_proto::package::Variables;

use super::{
    super::{
        files::{Kind, RealFiles, Time},
        recording::{Fault, Kept, RecordingFiles, at_every_operation, put, snapshot},
        tree::testing::{payments, release_that_saves},
    },
    *,
};
use crate::{
    update::{BackupMethod, BootId, InstallId, Running},
    way_back::{self, NoServices, WayBack},
};

fn id() -> BackupId {
    BackupId::parse("b1").unwrap()
}

fn turn() -> InstallId {
    InstallId::parse("b1").unwrap()
}

fn path(text: &str) -> &Path {
    Path::new(text)
}

fn about(id: &BackupId, made: i64) -> About {
    About { id: id.clone(), product: payments(), from: None, to: None, made }
}

fn backups(files: &dyn Files) -> Backups<'_> {
    Backups::new(files, "/data".into())
}

const COVERED: [(&str, Role); 7] = [
    ("/opt/refit/payments/current", Role::Link),
    ("/etc/systemd/payments.service", Role::Unit),
    ("/etc/systemd/absent.service", Role::Unit),
    ("/etc/payments", Role::Declared),
    ("/etc/payments.toml", Role::Declared),
    ("/etc/absent.toml", Role::Declared),
    ("/etc/nothing", Role::Declared),
];

fn all() -> Vec<Cover> {
    COVERED.iter().map(|(path, role)| Cover { path: path.into(), role: *role }).collect()
}

fn odd() -> OsString {
    OsString::from_vec(b"odd \xff%\n=name".to_vec())
}

/// A host with something of everything that may be saved.
fn host() -> RecordingFiles {
    let files = RecordingFiles::default();
    files::create_dirs(&files, path("/data"), 0o700).unwrap();
    files::create_dirs(&files, path("/opt/refit/payments"), 0o755).unwrap();
    files::replace_link(&files, path("releases/old"), path("/opt/refit/payments/current")).unwrap();
    put(&files, path("/etc/systemd/payments.service"), b"[Service]", 0o644);
    put(&files, path("/etc/payments.toml"), b"port = 1", 0o640);
    files.set_owner(path("/etc/payments.toml"), 7, 8).unwrap();
    files.set_modified(path("/etc/payments.toml"), Time { seconds: 99, nanos: 1 }).unwrap();
    files.set_attribute(path("/etc/payments.toml"), &"user.who".into(), b"me\0").unwrap();
    put(&files, path("/etc/payments/a/deep"), &[7; 5000], 0o600);
    put(&files, path("/etc/payments/a/same"), &[7; 5000], 0o644);
    put(&files, path("/etc/payments/empty"), b"", 0o4755);
    put(&files, &path("/etc/payments").join(odd()), b"odd", 0o600);
    files.symlink(path("../nowhere"), path("/etc/payments/link")).unwrap();
    files.set_owner(path("/etc/payments/link"), 7, 8).unwrap();
    files.hard_link(path("/etc/payments/a/deep"), path("/etc/payments/second")).unwrap();
    files.special(path("/etc/payments/socket"), Kind::Socket);
    files.set_mode(path("/etc/payments/a"), 0o550).unwrap();
    files.fork()
}

/// What is covered, without the socket, which is left out.
fn state(files: &dyn Files) -> BTreeMap<PathBuf, String> {
    let mut state = BTreeMap::new();
    for (path, _) in COVERED {
        state.extend(snapshot(files, Path::new(path)));
    }
    state.remove(path("/etc/payments/socket"));
    state
}

fn seal(files: &RecordingFiles) -> Result<SealedBackup, BackupError> {
    backups(files).save(&id(), &all())?;
    backups(files).seal(&about(&id(), 0), &all())
}

/// Goes back as a host does: by the file of the way back, then what is left to do.
fn go_back(files: &RecordingFiles, sealed: &SealedBackup) -> Result<Vec<PathBuf>, String> {
    let index = backups(files).verify(sealed).map_err(|error| error.to_string())?;
    let steps = backups(files).undo_steps(&index, &turn()).map_err(|error| error.to_string())?;
    let way_back = WayBack {
        install: turn(),
        boot: BootId::parse("b").unwrap(),
        deadline: Running::from_nanos(0),
        patience: Duration::ZERO,
        alone: Duration::ZERO,
        starts: 3,
        attempt: None,
        lease: None,
        restores: None,
        owners: Default::default(),
        steps,
    };
    let way_back = WayBack::parse(&way_back.to_bytes()).map_err(|error| error.to_string())?;
    way_back::run(&way_back, files, &mut NoServices(|_: &[String]| Ok(())))
        .map_err(|error| error.to_string())?;
    let kept = backups(files).finish(&index, &turn()).map_err(|error| error.to_string())?;
    Ok(kept.into_iter().map(|kept| kept.place.into()).collect())
}

/// What a release, a hook and a person may do to what is covered.
fn change_everything(files: &RecordingFiles) {
    let link = path("/opt/refit/payments/current");
    files::replace_link(files, path("releases/new"), link).unwrap();
    put(files, path("/etc/systemd/payments.service"), b"[Service]\nnew", 0o600);
    put(files, path("/etc/systemd/absent.service"), b"new", 0o644);
    put(files, path("/etc/payments.toml"), b"port = 2", 0o666);
    put(files, path("/etc/absent.toml"), b"made by the new release", 0o600);
    files::create_dirs(files, path("/etc/nothing"), 0o755).unwrap();
    put(files, path("/etc/nothing/file"), b"made by a person", 0o600);
    files::remove_tree(files, path("/etc/payments/a")).unwrap();
    put(files, path("/etc/payments/empty"), b"full", 0o600);
    put(files, path("/etc/payments/new"), b"precious", 0o600);
}

#[test]
fn going_back_brings_back_everything_as_it_was_and_keeps_what_was_written_since() {
    let files = host();
    let before = state(&files);
    let sealed = seal(&files).unwrap();
    assert_eq!(state(&files), before, "making a backup changes nothing");
    change_everything(&files);
    let kept = go_back(&files, &sealed).unwrap();
    assert_eq!(state(&files), before);

    let kept: Vec<_> = kept.iter().map(|path| path.to_str().unwrap()).collect();
    let aside = ["3-payments", "4-payments.toml", "5-absent.toml", "6-nothing"];
    assert_eq!(kept, aside.map(|name| format!("/data/set-aside/b1/{name}")));
    let read = |at: &str| files::read_file(&files, path(at), 100).unwrap();
    assert_eq!(read("/data/set-aside/b1/3-payments/new"), b"precious");
    assert_eq!(read("/data/set-aside/b1/4-payments.toml"), b"port = 2");
    assert_eq!(read("/data/set-aside/b1/6-nothing/file"), b"made by a person");
    // Nothing of ours is left beside.
    let names = files.list(path("/etc")).unwrap();
    assert_eq!(names, ["payments", "payments.toml", "systemd"]);
}

#[test]
fn going_back_where_nothing_changed_keeps_nothing_aside() {
    let files = host();
    let before = state(&files);
    let sealed = seal(&files).unwrap();
    assert_eq!(go_back(&files, &sealed).unwrap(), Vec::<PathBuf>::new());
    assert_eq!(state(&files), before);
}

#[test]
fn a_first_install_is_undone_to_nothing() {
    let files = RecordingFiles::default();
    for folder in ["/data", "/opt/refit/payments", "/etc/systemd"] {
        files::create_dirs(&files, path(folder), 0o755).unwrap();
    }
    let sealed = seal(&files).unwrap();
    assert_eq!(backups(&files).verify(&sealed).unwrap().link_target(), None);
    let before = state(&files);
    assert!(before.is_empty());
    files::replace_link(&files, path("x"), path("/opt/refit/payments/current")).unwrap();
    put(&files, path("/etc/systemd/payments.service"), b"new", 0o644);
    put(&files, path("/etc/payments/conf"), b"new", 0o644);
    let kept = go_back(&files, &sealed).unwrap();
    assert_eq!(kept, [PathBuf::from("/data/set-aside/b1/3-payments")]);
    assert_eq!(state(&files), before);
    assert_eq!(files.list(path("/etc")).unwrap(), ["systemd"]);
}

#[test]
fn a_power_cut_anywhere_on_the_way_back_is_made_good_by_running_it_again() {
    let start = host();
    let before = state(&start);
    let sealed = seal(&start).unwrap();
    change_everything(&start);
    let act = |files: &RecordingFiles| go_back(files, &sealed);
    at_every_operation(&start, Fault::PowerCut, act, |left, _, step| {
        // What is left of a cut in the last resort: all of it or only what was synced.
        for kept in [Kept::Synced, Kept::Everything] {
            let files = left.after_power_cut(kept);
            go_back(&files, &sealed).unwrap_or_else(|error| panic!("{step}, {kept:?}: {error}"));
            assert_eq!(state(&files), before, "{step}, {kept:?}");
            let aside = files::read_file(&files, path("/data/set-aside/b1/3-payments/new"), 100);
            assert_eq!(aside.unwrap(), b"precious", "{step}, {kept:?}");
            assert_eq!(files.list(path("/etc")).unwrap().len(), 3, "{step}, {kept:?}");
        }
    });
}

#[test]
fn whatever_fails_while_a_backup_is_made_leaves_the_target_untouched_and_no_half_backup() {
    let start = host();
    let before = state(&start);
    for errno in [28 /* ENOSPC */, 5 /* EIO */] {
        at_every_operation(&start, Fault::Fails(errno), seal, |files, sealed, step| {
            assert_eq!(state(files), before, "{step}");
            match sealed {
                Ok(sealed) => drop(backups(files).verify(&sealed).unwrap()),
                Err(error) => {
                    let text = error.to_string();
                    assert!(
                        text.contains("/data") || text.contains("/etc") || text.contains("/opt"),
                        "{step}: {text}"
                    );
                    if errno == 28 {
                        assert!(
                            text.contains("lacks") || text.contains("No space"),
                            "{step}: {text}"
                        );
                    }
                    assert_eq!(backups(files).list().unwrap(), [], "{step}");
                    seal(files).unwrap_or_else(|error| panic!("{step}: {error}"));
                }
            }
        });
    }
}

#[test]
fn whatever_fails_while_a_backup_is_made_anew_elsewhere_leaves_nothing_of_it_and_the_host_as_it_is()
{
    let start = host();
    let sealed = seal(&start).unwrap();
    change_everything(&start);
    let host = state(&start);
    let act = |files: &RecordingFiles| {
        let index = backups(files).verify(&sealed)?;
        backups(files).restore_to(&index, path("/look"))
    };
    at_every_operation(&start, Fault::Fails(28), act, |files, made, step| {
        assert_eq!(state(files), host, "{step}");
        assert_eq!(made.is_ok(), files.stat(path("/look")).unwrap().is_some(), "{step}");
        files::remove_tree(files, path("/look")).unwrap();
        assert_eq!(act(files).unwrap().len(), 3, "{step}");
        backups(files).verify(&sealed).unwrap();
    });
}

#[test]
fn a_backup_that_was_cut_off_is_no_backup_and_the_next_try_makes_one() {
    let start = host();
    let before = state(&start);
    at_every_operation(&start, Fault::PowerCut, seal, |left, _, step| {
        for kept in Kept::ALL {
            let files = left.after_power_cut(kept);
            assert_eq!(state(&files), before, "{step}, {kept:?}");
            if let Ok(index) = backups(&files).index(&id()) {
                let bytes = files::read_file(&files, &backups(&files).folder(&id()).join(SEAL), 64);
                let seal = Digest::parse(std::str::from_utf8(&bytes.unwrap()).unwrap()).unwrap();
                let sealed = SealedBackup { id: index.id, seal };
                backups(&files).verify(&sealed).unwrap_or_else(|e| panic!("{step}, {kept:?}: {e}"));
            }
            let sealed = seal(&files).unwrap_or_else(|e| panic!("{step}, {kept:?}: {e}"));
            backups(&files).verify(&sealed).unwrap();
        }
    });
}

#[test]
fn every_flipped_or_missing_byte_of_a_backup_is_noticed_before_the_target_is_touched() {
    let start = host();
    let sealed = seal(&start).unwrap();
    change_everything(&start);
    let before = state(&start);
    let saved = snapshot(&start, &backups(&start).folder(&id()));
    let saved: Vec<_> = saved.into_iter().filter(|(_, what)| what.starts_with("File")).collect();
    assert!(saved.len() >= 7, "{saved:?}");
    for (file, _) in saved {
        let length = start.stat(&file).unwrap().unwrap().length as usize;
        // Each byte of the seal and of what is small, every 61st of what is large.
        let places: Vec<_> = (0..length).step_by(if length > 100 { 61 } else { 1 }).collect();
        type Damage = Box<dyn Fn(&mut Vec<u8>)>;
        let mut damages: Vec<Damage> = vec![];
        for at in places {
            damages.push(Box::new(move |bytes| bytes[at] ^= 1));
            damages.push(Box::new(move |bytes| bytes.truncate(at)));
        }
        damages.push(Box::new(|bytes| bytes.push(0)));
        for damage in damages {
            let files = start.fork();
            files.tamper(&file, |bytes| damage(bytes));
            let error = go_back(&files, &sealed).expect_err("damaged");
            assert!(error.contains("the backup is damaged"), "{}: {error}", file.display());
            assert_eq!(state(&files), before, "{}", file.display());
        }
        let files = start.fork();
        files.remove_file(&file).unwrap();
        assert!(go_back(&files, &sealed).is_err(), "{} is gone", file.display());
        assert_eq!(state(&files), before);
    }
}

#[test]
fn damage_is_told_as_such_when_a_backup_is_tried_and_when_it_is_made_anew_elsewhere() {
    type Damage = fn(&RecordingFiles, &Path);
    let flipped: Damage = |files, file| files.tamper(file, |bytes| bytes[0] ^= 1);
    let longer: Damage = |files, file| files.tamper(file, |bytes| bytes.push(0));
    let gone: Damage = |files, file| files.remove_file(file).unwrap();
    for by in [BackupMethod::Copy, BackupMethod::Reflink] {
        let start = host();
        start.can_clone();
        fn backups(files: &dyn Files, by: BackupMethod) -> Backups<'_> {
            super::tests::backups(files).saving(Saving { by, ..Saving::default() })
        }
        backups(&start, by).save(&id(), &all()).unwrap();
        let saved = backups(&start, by).folder(&id()).join("content");
        let mut tried = 0;
        for name in start.list(&saved).unwrap() {
            let file = saved.join(name);
            let empty = start.stat(&file).unwrap().unwrap().length == 0;
            for damage in [flipped, longer, gone].into_iter().skip(usize::from(empty)) {
                // What is gone before the seal is saved once more.
                let files = start.fork();
                damage(&files, &file);
                if files::exists(&files, &file).unwrap() {
                    let error = backups(&files, by).seal(&about(&id(), 0), &all()).unwrap_err();
                    assert!(matches!(error, BackupError::Damaged { .. }), "{by:?}: {error}");
                    assert_eq!(backups(&files, by).list().unwrap(), []);
                }
                let files = start.fork();
                backups(&files, by).seal(&about(&id(), 0), &all()).unwrap();
                damage(&files, &file);
                let index = backups(&files, by).index(&id()).unwrap();
                let error = backups(&files, by).restore_to(&index, path("/look")).unwrap_err();
                let error = error.to_string();
                assert!(error.contains("the backup is damaged"), "{by:?}: {error}");
                assert!(!files::exists(&files, path("/look")).unwrap(), "nothing of it is left");
                tried += 1;
            }
        }
        assert_eq!(tried, 4 * 3 + 2, "five different files, one of them empty");
    }
}

#[test]
fn what_cannot_be_brought_back_is_refused_by_name() {
    let refused = |make: &dyn Fn(&RecordingFiles)| {
        let files = host();
        make(&files);
        let error = backups(&files).save(&id(), &all()).unwrap_err().to_string();
        assert!(error.contains("/etc/") || error.contains("/opt/"), "{error}");
        assert_eq!(backups(&files).list().unwrap(), []);
        error
    };
    let pipe = refused(&|files| files.special(path("/etc/payments/pipe"), Kind::Special));
    assert!(pipe.contains("/etc/payments/pipe") && pipe.contains("pipe or a device"), "{pipe}");
    let link = refused(&|files| {
        files.remove_file(path("/opt/refit/payments/current")).unwrap();
        put(files, path("/opt/refit/payments/current"), b"somebody's", 0o600);
    });
    assert!(link.contains("not the link"), "{link}");
}

#[test]
fn a_manifest_names_no_path_that_would_bring_back_too_much() {
    let files = host();
    files::create_dirs(&files, path("/opt/refit"), 0o755).unwrap();
    let covers = |paths: &[&str]| {
        let release = release_that_saves("1", &[("payments", vec![])], paths);
        let variables =
            Variables::from([("ETC".into(), "/etc".into()), ("UP".into(), "/..".into())]);
        let link = path("/opt/refit/payments/current");
        let own = [path("/data"), path("/opt/refit")];
        let units = [PathBuf::from("/etc/systemd/payments.service")];
        covers(&files, &release, &variables, link, &units, Vec::new(), &own)
    };
    for bad in [
        "/",
        "/data",
        "/data/backups/x",
        "/opt",
        "/opt/refit/payments",
        "/etc",
        "/etc/systemd",
        "${UP}/etc",
        "${NOBODY}/x",
        "${ETC}${UP}/x",
    ] {
        assert!(covers(&[bad]).is_err(), "{bad}");
    }
    let long = format!("/etc/{}", "x".repeat(200));
    assert!(covers(&[&long]).is_err(), "no room in the name to put it aside");
    let good = covers(&["${ETC}/payments/a", "/etc/payments", "/etc/payments.toml"]).unwrap();
    let declared: Vec<_> = good.iter().filter(|cover| cover.role == Role::Declared).collect();
    let paths: Vec<_> = declared.iter().map(|cover| cover.path.to_str().unwrap()).collect();
    assert_eq!(paths, ["/etc/payments", "/etc/payments.toml"], "what is inside is saved with it");
}

#[test]
fn old_backups_go_and_what_is_referred_to_or_unreadable_stays() {
    let files = host();
    for (made, name) in (0..).zip(["b1", "b2", "b3", "b4", "b5", "b6"]) {
        let id = BackupId::parse(name).unwrap();
        backups(&files).seal(&about(&id, made), &all()).unwrap();
    }
    files.tamper(path("/data/backups/b3/index.json"), |bytes| bytes[3] ^= 1);
    backups(&files).pin(&BackupId::parse("b4").unwrap()).unwrap();
    let held = BTreeSet::from([BackupId::parse("b2").unwrap()]);
    let retention = Retention { count: 1, ..Retention::default() };
    backups(&files).clean(&payments(), &retention, &held, 10).unwrap();
    let left: Vec<_> = backups(&files).list().unwrap();
    let left: Vec<_> = left.iter().map(BackupId::as_str).collect();
    assert_eq!(left, ["b2", "b3", "b4", "b6"], "referred to, unreadable, pinned, the newest");
    for name in ["b2", "b4", "b6"] {
        let sealed = backups(&files).own_seal(&BackupId::parse(name).unwrap()).unwrap();
        backups(&files).verify(&sealed).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever is done to the clock, also by an agent of before that had nothing else: from there on.
    #[test]
    fn however_the_clock_steps_the_backups_made_last_are_the_newest_and_are_those_that_stay(
        steps in prop::collection::vec(prop_oneof![-40_000_000..40_000_000_i64, Just(0)], 1..7),
        count in 1..4_usize,
        uncounted in 0..3_usize,
    ) {
        let files = host();
        let retention = Retention { count, age: Duration::from_secs(u64::MAX), bytes: u64::MAX };
        let mut clock = 1_800_000_000;
        let mut made = Vec::new();
        for (n, step) in steps.into_iter().enumerate() {
            // An agent that did not count is put in order as far as its clock went on.
            let counts = n >= uncounted;
            clock = if counts { clock + step } else { clock + 1 };
            let id = BackupId::parse(&format!("b{n}")).unwrap();
            backups(&files).seal(&about(&id, clock), &all()).unwrap();
            if !counts {
                forget_counter(&files, &id);
            }
            made.push(id);
            backups(&files).clean(&payments(), &retention, &BTreeSet::new(), clock).unwrap();
            let newest: Vec<_> = made.iter().skip(made.len().saturating_sub(count)).collect();
            let left = backups(&files).list().unwrap();
            prop_assert_eq!(left.iter().collect::<Vec<_>>(), newest.clone());
            let orders: Vec<_> =
                newest.iter().map(|id| backups(&files).index(id).unwrap().order()).collect();
            prop_assert!(orders.is_sorted_by(|a, b| a < b), "{:?}", orders);
        }
    }
}

/// The index as an agent wrote it that did not count.
fn forget_counter(files: &RecordingFiles, id: &BackupId) {
    let folder = backups(files).folder(id);
    let bytes = files::read_file(files, &folder.join(INDEX), INDEX_MAX).unwrap();
    let mut index: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    index.as_object_mut().unwrap().remove("counter");
    let bytes = serde_json::to_vec(&index).unwrap();
    files::write_file(files, &folder.join(INDEX), &bytes, 0o600).unwrap();
    let seal = Digest::of(&bytes).to_string();
    files::write_file(files, &folder.join(SEAL), seal.as_bytes(), 0o600).unwrap();
}

#[test]
fn what_two_backups_hold_lies_there_once_and_damaged_content_is_not_taken_over() {
    let files = host();
    let seal = |name: &str| {
        let about = about(&BackupId::parse(name).unwrap(), 0);
        let sealed = backups(&files).seal(&about, &all()).unwrap();
        backups(&files).verify(&sealed).unwrap()
    };
    let index = seal("b1");
    let own = |index: &Index| backups(&files).own_bytes(index).unwrap();
    let all_bytes = own(&index);
    assert!(all_bytes > 5000);
    let second = seal("b2");
    assert_eq!((own(&index), own(&second)), (0, 0), "each has all of it with the other");
    let digest = Digest::of(&[7; 5000]).to_string();
    files.tamper(&path("/data/backups/b1/content").join(&digest), |bytes| bytes[0] ^= 1);
    let third = seal("b3");
    assert_eq!(own(&third), 5000, "read from the host again");
    backups(&files).remove(&third.id).unwrap();
    backups(&files).remove(&second.id).unwrap();
    assert_eq!(own(&index), all_bytes);
}

#[test]
fn on_a_real_disk_everything_comes_back_with_owner_mode_time_and_attributes() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().canonicalize().unwrap();
    let etc = top.join("etc");
    std::fs::create_dir_all(etc.join("conf/sub")).unwrap();
    std::fs::write(etc.join("conf/sub/file"), vec![1; 300_000]).unwrap();
    std::os::unix::fs::symlink("sub/file", etc.join("conf/link")).unwrap();
    std::fs::hard_link(etc.join("conf/sub/file"), etc.join("conf/second")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(etc.join("conf/socket")).unwrap());
    let file = etc.join("conf/sub/file");
    RealFiles.set_attribute(&file, &"user.refit".into(), b"x").unwrap();
    RealFiles.set_modified(&file, Time { seconds: 1_000_000, nanos: 5 }).unwrap();
    RealFiles.set_mode(&etc.join("conf/sub"), 0o750).unwrap();
    if rustix::process::geteuid().is_root() {
        RealFiles.set_owner(&file, 12, 34).unwrap();
        RealFiles.set_owner(&etc.join("conf/link"), 12, 34).unwrap();
    }
    let backups = Backups::new(&RealFiles, top.join("data"));
    files::create_dirs(&RealFiles, &top.join("data"), 0o700).unwrap();
    let covers = [Cover { path: etc.join("conf"), role: Role::Declared }];
    let sealed = backups.seal(&about(&id(), 0), &covers).unwrap();
    let index = backups.verify(&sealed).unwrap();
    let before = {
        std::fs::remove_file(etc.join("conf/socket")).unwrap();
        RealFiles.set_modified(&etc.join("conf"), index.covered[0].entries[0].modified).unwrap();
        let mut before = snapshot(&RealFiles, &etc);
        before.remove(&etc);
        before
    };
    std::fs::write(&file, "changed").unwrap();
    std::fs::remove_file(etc.join("conf/link")).unwrap();
    let steps = backups.undo_steps(&index, &turn()).unwrap();
    let way_back = WayBack {
        install: turn(),
        boot: BootId::parse("b").unwrap(),
        deadline: Running::from_nanos(0),
        patience: Duration::ZERO,
        alone: Duration::ZERO,
        starts: 3,
        attempt: None,
        lease: None,
        restores: None,
        owners: Default::default(),
        steps,
    };
    way_back::run(&way_back, &RealFiles, &mut NoServices(|_: &[String]| Ok(()))).unwrap();
    let kept = backups.finish(&index, &turn()).unwrap();
    let mut after = snapshot(&RealFiles, &etc);
    after.remove(&etc);
    // A link's own owner is not in a way back; everything else is as it was.
    assert_eq!(after, before);
    assert_eq!(std::fs::read(Path::new(&kept[0].place).join("sub/file")).unwrap(), b"changed");
}

#[test]
fn a_way_back_knows_owners_by_name_but_not_from_a_list_that_it_brings_back_itself() {
    let files = RecordingFiles::default();
    put(&files, path("/etc/passwd"), b"pay:x:998:997::/:\n", 0o644);
    put(&files, path("/etc/group"), b"pays:x:997:\n", 0o644);
    put(&files, path("/etc/key"), b"key", 0o600);
    files.set_owner(path("/etc/key"), 998, 997).unwrap();
    let names_in = |id: &str, covered: &[&str]| {
        let covers = covered.iter().map(|at| Cover { path: at.into(), role: Role::Declared });
        let about = about(&BackupId::parse(id).unwrap(), 0);
        let backups = backups(&files);
        let sealed = backups.seal(&about, &covers.collect::<Vec<_>>()).unwrap();
        let owners = backups.verify(&sealed).unwrap().owners_back();
        (owners.users.into_values().collect::<String>(), owners.groups.into_values().collect())
    };
    let both = |user: &str, group: &str| (user.to_owned(), group.to_owned());
    assert_eq!(names_in("b1", &["/etc/key"]), both("pay", "pays"));
    assert_eq!(names_in("b2", &["/etc/key", "/etc/passwd"]), both("", "pays"));
    assert_eq!(names_in("b3", &["/etc/key", "/etc/group"]), both("pay", ""));
    assert_eq!(names_in("b4", &["/etc"]), both("", ""));
}

#[test]
fn a_full_disk_refuses_the_backup_and_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let what = "a backup on a full disk is refused";
    let Some(disk) = LoopFs::create(what, dir.path(), 16) else { return };
    let etc = dir.path().canonicalize().unwrap().join("etc");
    std::fs::create_dir(&etc).unwrap();
    std::fs::write(etc.join("large"), vec![7; 20 << 20]).unwrap();
    let before = snapshot(&RealFiles, &etc);
    let data = disk.path().canonicalize().unwrap();
    let backups = Backups::new(&RealFiles, data.clone());
    let free = RealFiles.space(&data).unwrap().bytes;
    let covers = [Cover { path: etc.clone(), role: Role::Declared }];
    let error = backups.seal(&about(&id(), 0), &covers).unwrap_err();
    let BackupError::Full { path, file_system, bytes } = &error else { panic!("{error}") };
    assert!(path.starts_with(&data), "{error}");
    assert_eq!(file_system, &data);
    assert!(*bytes > 1 << 20 && *bytes < 20 << 20, "{error}");
    assert_eq!(snapshot(&RealFiles, &etc), before);
    assert_eq!(backups.list().unwrap(), []);
    assert!(RealFiles.space(&data).unwrap().bytes + (1 << 16) >= free, "its space is given back");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    #[test]
    fn an_index_reads_back_as_it_was_written(name in prop::collection::vec(1..=255_u8, 1..20), value in prop::collection::vec(any::<u8>(), 0..20)) {
        let name: Vec<_> = name.into_iter().filter(|b| *b != b'/').collect();
        let name = PathBuf::from(OsString::from_vec([b"x", name.as_slice()].concat()));
        let entry = Entry {
            path: name.clone(),
            what: What::Link { target: name.clone() },
            mode: 0o777,
            uid: 1,
            gid: 2,
            modified: Time { seconds: -1, nanos: 3 },
            attributes: [(name.clone().into_os_string(), value)].into(),
        };
        let covered = Covered { path: path("/a").join(name), role: Role::Declared, entries: vec![entry] };
        let index = Index::new(about(&id(), 7), vec![covered], Tested::Restored);
        prop_assert_eq!(Index::parse(&index.to_bytes()), Some(index));
    }
}
