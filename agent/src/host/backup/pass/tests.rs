//! What a pass promises: a name in a backup means bytes on stable storage.

use refit_durable::testing::LoopFs;
use refit_proto::names::Product;

use super::{
    super::{About, Cover, Role},
    *,
};
use crate::host::{
    files::Files,
    recording::{Fault, Kept, RecordingFiles, TOGETHER, at_every_operation, put, snapshot},
};

fn path(text: &str) -> &Path {
    Path::new(text)
}

fn id() -> BackupId {
    BackupId::parse("b1").unwrap()
}

fn backups(files: &dyn Files) -> Backups<'_> {
    Backups::new(files, "/data".into())
}

const CONTENT: &str = "/data/backups/b1/content";

/// Five files, four of them different.
fn host() -> RecordingFiles {
    let files = RecordingFiles::default();
    files::create_dirs(&files, path("/data"), 0o700).unwrap();
    for (name, bytes) in [("a", "one"), ("b", "two"), ("c", "three"), ("d", "two"), ("e", "")] {
        put(&files, &path("/etc/conf").join(name), bytes.as_bytes(), 0o644);
    }
    files.fork()
}

/// Such a host where many files are synced together, and one where each has to be.
fn hosts() -> [RecordingFiles; 2] {
    let each = host();
    each.syncs_each();
    [host(), each]
}

fn covers() -> [Cover; 1] {
    [Cover { path: "/etc/conf".into(), role: Role::Declared }]
}

fn save(files: &RecordingFiles) -> Result<(), BackupError> {
    backups(files).save(&id(), &covers())
}

fn seal(files: &RecordingFiles) -> crate::update::SealedBackup {
    let product = Product::parse("payments").unwrap();
    let about = About { id: id(), product, from: None, to: None, made: 0 };
    let sealed = backups(files).seal(&about, &covers()).unwrap();
    backups(files).verify(&sealed).unwrap();
    sealed
}

fn content(files: &RecordingFiles) -> Vec<PathBuf> {
    match files::exists(files, path(CONTENT)).unwrap() {
        true => {
            files.list(path(CONTENT)).unwrap().iter().map(|it| path(CONTENT).join(it)).collect()
        }
        false => Vec::new(),
    }
}

fn is_new(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == NEW)
}

#[test]
fn what_has_its_name_in_a_backup_is_whole_wherever_the_power_goes() {
    for start in hosts() {
        at_every_operation(&start, Fault::PowerCut, save, |left, _, step| {
            for kept in Kept::ALL {
                let files = left.after_power_cut(kept);
                for place in content(&files).iter().filter(|place| !is_new(place)) {
                    let bytes = files::read_file(&files, place, 10).unwrap();
                    let name = Digest::of(&bytes).to_string();
                    assert_eq!(place.file_name().unwrap(), name.as_str(), "{step}, {kept:?}");
                }
                seal(&files);
                assert_eq!(content(&files).len(), 4, "{step}, {kept:?}");
            }
        });
        // What was saved is there, and not only until the power goes.
        let files = start.fork();
        save(&files).unwrap();
        assert_eq!(content(&files.after_power_cut(Kept::Synced)).len(), 4);
    }
}

#[test]
fn many_files_are_synced_together_and_each_where_the_system_cannot_be_relied_on() {
    let [together, each] = hosts();
    let syncs = |files: &RecordingFiles| {
        save(files).unwrap();
        let made = files.operations(0);
        let of = |what: &dyn Fn(&str) -> bool| made.iter().filter(|it| what(it)).count();
        let all = of(&|it| it == TOGETHER);
        (
            all,
            of(&|it| it.starts_with("sync ")),
            of(&|it| it.starts_with("create ") && it.ends_with(NEW)),
        )
    };
    // The first alone, as a small backup would be.
    assert_eq!(syncs(&together), (1, 1, 4));
    assert_eq!(syncs(&each), (0, 4, 4));
}

#[test]
fn what_a_power_cut_has_left_unfinished_is_not_believed_whatever_is_in_it() {
    let files = host();
    let left = |bytes: &str| path(CONTENT).join(format!("{}.{NEW}", Digest::of(bytes.as_bytes())));
    // Of a file that is to be saved, with the bytes of another; and of one that is not there any more.
    put(&files, &left("two"), b"tw\0", 0o600);
    put(&files, &left("gone"), b"gone", 0o600);
    save(&files).unwrap();
    seal(&files);
    assert_eq!(content(&files).len(), 4);
    assert!(!content(&files).iter().any(|place| is_new(place)));
}

#[test]
fn a_file_system_that_cannot_be_synced_gives_no_backup_and_the_next_try_makes_one() {
    let start = host();
    let before = snapshot(&start, path("/etc"));
    let at = {
        let files = start.fork();
        save(&files).unwrap();
        files.operations(0).iter().position(|it| it == TOGETHER).unwrap()
    };
    for fault in [Fault::Fails(5), Fault::Fails(28), Fault::Stays(5), Fault::Stays(28)] {
        let files = start.fork();
        files.fault_after(at, fault);
        let error = save(&files).unwrap_err();
        match fault {
            Fault::Fails(28) => assert!(matches!(error, BackupError::Full { .. }), "{error}"),
            Fault::Fails(_) => assert!(error.to_string().contains(CONTENT), "{error}"),
            // What else fails then is another matter.
            _ => {}
        }
        files.mend();
        assert!(
            content(&files).iter().all(|place| is_new(place)),
            "{fault:?}: nothing is believed"
        );
        if matches!(fault, Fault::Fails(_)) {
            assert_eq!(backups(&files).list().unwrap(), [], "{fault:?}: nothing of it is left");
        }
        seal(&files);
        assert_eq!(snapshot(&files, path("/etc")), before, "{fault:?}");
    }
}

#[test]
fn what_was_brought_back_beside_is_there_after_a_power_cut() {
    for start in hosts() {
        let sealed = seal(&start);
        let index = backups(&start).verify(&sealed).unwrap();
        let files = start.fork();
        backups(&files).restore_to(&index, path("/look")).unwrap();
        let made = snapshot(&files, path("/look"));
        assert_eq!(made.len(), 1 + 1 + 1 + 5, "{made:?}");
        assert_eq!(snapshot(&files.after_power_cut(Kept::Synced), path("/look")), made);
    }
}

#[test]
fn a_large_file_and_one_with_holes_are_saved_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().canonicalize().unwrap();
    let real = crate::host::files::RealFiles;
    let etc = top.join("etc");
    std::fs::create_dir(&etc).unwrap();
    std::fs::write(etc.join("large"), vec![7; AT_ONCE + 1]).unwrap();
    std::fs::write(etc.join("just"), vec![8; AT_ONCE]).unwrap();
    std::fs::write(etc.join("short"), vec![9; AT_ONCE - 1]).unwrap();
    std::fs::File::create(etc.join("hole")).unwrap().set_len(AT_ONCE as u64 / 2).unwrap();
    let backups = Backups::new(&real, top.join("data"));
    files::create_dirs(&real, &top.join("data"), 0o700).unwrap();
    let covers = [Cover { path: etc.clone(), role: Role::Declared }];
    let product = Product::parse("payments").unwrap();
    let about = About { id: id(), product, from: None, to: None, made: 0 };
    let sealed = backups.seal(&about, &covers).unwrap();
    let index = backups.verify(&sealed).unwrap();
    backups.restore_to(&index, &top.join("look")).unwrap();
    let there = top.join("look").join(etc.strip_prefix("/").unwrap());
    for name in ["large", "just", "short", "hole"] {
        let read = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
        assert!(read(&etc) == read(&there), "{name}");
    }
    let blocks = |path: &Path| {
        std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(path.join("hole")).unwrap())
    };
    assert_eq!((blocks(&etc), blocks(&there)), (0, 0), "a hole takes no room");
}

/// The disk loses a byte behind the back of the file system, which still has it in memory.
#[test]
fn bytes_that_only_memory_has_are_no_backup() {
    let dir = tempfile::tempdir().unwrap();
    let what = "a backup is read back from the disk and not from memory";
    let Some(disk) = LoopFs::create(what, dir.path(), 16) else { return };
    let top = dir.path().canonicalize().unwrap();
    let etc = top.join("etc");
    std::fs::create_dir(&etc).unwrap();
    let bytes = |n: u8| Vec::from_iter((0..60_000_u32).map(|at| (at % 251) as u8 ^ n));
    for n in 0..3 {
        std::fs::write(etc.join(n.to_string()), bytes(n)).unwrap();
    }
    let real = crate::host::files::RealFiles;
    let backups = Backups::new(&real, disk.path().canonicalize().unwrap());
    let covers = [Cover { path: etc, role: Role::Declared }];
    let seal = || {
        let product = Product::parse("payments").unwrap();
        backups.seal(&About { id: id(), product, from: None, to: None, made: 0 }, &covers)
    };
    for n in 0..3 {
        backups.save(&id(), &covers).unwrap();
        let mut image = std::fs::read(disk.image()).unwrap();
        let pattern = &bytes(n)[..4096];
        let at = image.windows(4096).position(|it| it == pattern).expect("it is on the disk");
        image.truncate(at + 1);
        let changed = [image[at] ^ 1];
        let file = std::fs::File::options().write(true).open(disk.image()).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &changed, at as u64).unwrap();
        let place = backups.content(&id(), &Digest::of(&bytes(n)));
        assert!(std::fs::read(&place).unwrap() == bytes(n), "memory has it");
        let error = seal().unwrap_err();
        assert!(matches!(&error, BackupError::Damaged { path, .. } if *path == place), "{error}");
    }
    seal().unwrap();
}
