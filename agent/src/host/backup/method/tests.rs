//! What each method promises: the same backup, whichever way its bytes came, and no more room than was told.

use std::path::{Path, PathBuf};

use refit_durable::testing::LoopFs;

use super::*;
use crate::{
    host::{
        backup::{About, Role, Tested},
        files::{Files, RealFiles},
        recording::{Fault, Kept, RecordingFiles, at_every_operation, put},
        tree::testing::payments,
    },
    update::{BackupId, SealedBackup},
};

fn about() -> About {
    let id = BackupId::parse("b1").unwrap();
    About { id, product: payments(), from: None, to: None, made: 0 }
}

fn declared(path: &str) -> Cover {
    Cover { path: path.into(), role: Role::Declared }
}

fn only(method: BackupMethod) -> Saving {
    Saving { by: method, methods: Methods::new(vec![method.into()]).unwrap(), ..Saving::default() }
}

fn seal(files: &dyn Files, saving: &Saving) -> Result<SealedBackup, BackupError> {
    let backups = Backups::new(files, "/data".into()).saving(saving.clone());
    backups.save(&about().id, &[declared("/etc/payments")])?;
    backups.seal(&about(), &[declared("/etc/payments")])
}

fn host() -> RecordingFiles {
    let files = RecordingFiles::default();
    files::create_dirs(&files, Path::new("/data"), 0o700).unwrap();
    for (name, length) in [("a", 40), ("b", 50), ("c/d", 3000), ("c/e", 4000)] {
        put(&files, &Path::new("/etc/payments").join(name), &vec![7; length], 0o640);
    }
    files.fork()
}

#[test]
fn a_cloned_backup_is_the_copied_one_and_a_cut_anywhere_leaves_none_or_a_whole_one() {
    let start = host();
    let copied = seal(&start.fork(), &only(BackupMethod::Copy)).unwrap();
    start.can_clone();
    let act = |files: &RecordingFiles| seal(files, &only(BackupMethod::Reflink));
    assert_eq!(act(&start.fork()).unwrap(), copied);
    for fault in [Fault::PowerCut, Fault::Fails(28), Fault::Fails(5)] {
        at_every_operation(&start, fault, act, |left, done, step| {
            for kept in Kept::ALL {
                let files = left.after_power_cut(kept);
                let backups = Backups::new(&files, "/data".into());
                if let Ok(sealed) = &done {
                    backups.verify(sealed).unwrap_or_else(|e| panic!("{step}, {kept:?}: {e}"));
                }
                assert_eq!(act(&files).unwrap(), copied, "{step}, {kept:?}");
            }
        });
    }
}

#[test]
fn what_cannot_be_cloned_is_copied_where_that_is_allowed_and_refused_by_name_where_not() {
    let files = host();
    let both = Saving { by: BackupMethod::Reflink, ..Saving::default() };
    seal(&files.fork(), &both).unwrap();
    let said = seal(&files, &only(BackupMethod::Reflink)).unwrap_err().to_string();
    assert!(said.contains("/etc/payments/a") && said.contains("backup.methods"), "{said}");
    assert_eq!(Backups::new(&files, "/data".into()).list().unwrap(), []);
}

#[test]
fn a_method_is_offered_where_it_works_and_costs_what_it_takes() {
    let files = host();
    let costs = |files: &RecordingFiles, restore_test| {
        let saving = Saving { restore_test, ..Saving::default() };
        let backups = Backups::new(files, "/data".into()).saving(saving);
        backups.costs(&[declared("/etc/payments"), declared("/etc/absent")]).unwrap()
    };
    let copy = costs(&files, u64::MAX);
    assert_eq!(copy.len(), 1, "nothing can be cloned here");
    // A test of a sample takes a sample's room.
    let blocks = copy[0].inodes / 2 * BLOCK;
    assert_eq!(costs(&files, 0)[0].bytes, (copy[0].bytes - 2 * blocks) / 2 + 2 * blocks);
    files.can_clone();
    let both = costs(&files, u64::MAX);
    assert_eq!(
        both.iter().map(|cost| cost.method).collect::<Vec<_>>(),
        [BackupMethod::Reflink, BackupMethod::Copy]
    );
    assert_eq!(both[1], copy[0]);
    assert!(both[0].bytes < both[1].bytes && both[0].inodes == both[1].inodes);
    assert_eq!(files.list(Path::new("/data/backups")).unwrap().len(), 0, "no trace of the try");
}

#[test]
fn a_backup_above_the_limit_is_read_back_whole_and_a_named_sample_of_it_is_restored() {
    let files = host();
    let saving = Saving { restore_test: 3100, ..Saving::default() };
    let sealed = seal(&files, &saving).unwrap();
    let backups = Backups::new(&files, "/data".into());
    let index = backups.verify(&sealed).unwrap();
    let Tested::Checked { sample, files: all } = &index.tested else {
        panic!("{:?}", index.tested)
    };
    assert_eq!(*all, 4);
    assert!(!sample.is_empty() && !sample.contains(&PathBuf::from("/etc/payments/c/e")));
    assert!(sample.iter().all(|path| path.starts_with("/etc/payments")), "{sample:?}");
    assert!(index.tested.words().contains("checked, not restored"));
    // The smallest of each path is tried whatever the limit is.
    let none = seal(&files.fork(), &Saving { restore_test: 0, ..Saving::default() }).unwrap();
    let files_of_none = files.fork();
    seal(&files_of_none, &Saving { restore_test: 0, ..Saving::default() }).unwrap();
    let index = Backups::new(&files_of_none, "/data".into()).verify(&none).unwrap();
    let one = Tested::Checked { sample: vec!["/etc/payments/a".into()], files: 4 };
    assert_eq!(index.tested, one);
    // What fits is restored as ever, and its index is that of an agent of before.
    let small = seal(&files.fork(), &Saving { restore_test: 7090, ..Saving::default() }).unwrap();
    assert_eq!(small, seal(&files.fork(), &Saving::default()).unwrap());
}

#[test]
fn an_order_of_methods_names_each_once_and_at_least_one() {
    assert!(Methods::new(vec![]).unwrap_err().contains("configuration"));
    let twice = Methods::new(vec![Method::Copy, Method::Reflink, Method::Copy]);
    assert!(twice.unwrap_err().contains("copy twice"));
}

#[test]
fn on_a_real_file_system_a_clone_takes_no_room_and_outlives_a_change_of_what_it_was_made_of() {
    let dir = tempfile::tempdir().unwrap();
    let what = "backups are cloned on a real xfs";
    let Some(disk) = LoopFs::create_xfs(what, dir.path(), 512) else { return };
    let top = disk.path().canonicalize().unwrap();
    let (data, etc) = (top.join("data"), top.join("etc"));
    std::fs::create_dir_all(&etc).unwrap();
    std::fs::create_dir_all(&data).unwrap();
    let bytes: Vec<u8> = (0..32_u32 << 20).map(|n| (n ^ (n >> 9)) as u8).collect();
    std::fs::write(etc.join("large"), &bytes).unwrap();
    std::fs::File::open(etc.join("large")).unwrap().sync_all().unwrap();
    let cover = [Cover { path: etc.clone(), role: Role::Declared }];
    let backups = Backups::new(&RealFiles, data.clone()).saving(only(BackupMethod::Reflink));
    let costs = backups.costs(&cover).unwrap();
    let cheapest = costs.first().unwrap();
    assert_eq!(cheapest.method, BackupMethod::Reflink);

    let free = || RealFiles.space(&data).unwrap().bytes;
    let before = free();
    backups.save(&about().id, &cover).unwrap();
    let sealed = backups.seal(&about(), &cover).unwrap();
    let taken = before.saturating_sub(free());
    assert!(taken <= cheapest.bytes + (1 << 20), "{taken} bytes, told were {}", cheapest.bytes);
    std::fs::write(etc.join("large"), vec![0; 32 << 20]).unwrap();
    let index = backups.verify(&sealed).unwrap();
    assert_eq!(index.content().into_iter().next(), Some(FileRef::to(&bytes)));
}

#[test]
fn somebody_elses_word_is_asked_for_in_its_turn_and_never_stands_for_configuration() {
    use Method::{Copy, Outside, Reflink};
    let (clone, copy) = (BackupMethod::Reflink, BackupMethod::Copy);
    let turn = |data, methods: &[BackupMethod]| Turn { data, methods: methods.to_vec() };
    let turns = |order: &[Method]| Methods::new(order.to_vec()).unwrap().turns();
    assert_eq!(turns(&[Reflink, Copy]), [turn(DataBy::Us, &[clone, copy])]);
    assert_eq!(
        turns(&[Reflink, Outside, Copy]),
        [
            turn(DataBy::Us, &[clone]),
            turn(DataBy::Outside, &[clone, copy]),
            turn(DataBy::Us, &[copy])
        ]
    );
    assert_eq!(turns(&[Outside, Copy])[0], turn(DataBy::Outside, &[copy]));
    assert!(Methods::new(vec![Outside]).unwrap_err().contains("configuration"));
    let methods = Methods::new(vec![Reflink, Outside, Copy]).unwrap();
    assert_eq!(methods.without_outside(), [turn(DataBy::Us, &[clone, copy])]);
}
