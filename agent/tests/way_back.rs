//! A real folder is changed as an update changes it, and the way back is run: cut at every file
//! operation, run twice, with damaged backups and lost journals.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    cell::Cell,
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use refit_agent::{
    host::files::{
        Action, Attributes, FileError, Files, Reading, RealFiles, Space, Stat, Time, Together,
        Writing,
    },
    journal::{Journal, JournalError, MemoryJournal},
    update::{
        Attempt, BootId, Cause, InstallId, Outcome, Phase, ReleaseId, Retry, Running, Update,
    },
    way_back::{
        Place, RecoverError, Recovered, RunError, UndoStep, Undoing, Units, UnitsError, WayBack,
        recover, run,
    },
};
use refit_durable::Batch;
use refit_proto::names::{Digest, Product, RingName, Version};

/// Files of which one operation that changes something fails, just before it or just after it, as if
/// the power were cut there.
struct CutFiles {
    real: RealFiles,
    done: AtomicU32,
    cut_at: u32,
}

impl CutFiles {
    fn cut_at(cut_at: u32) -> CutFiles {
        CutFiles { real: RealFiles, done: AtomicU32::new(0), cut_at }
    }

    fn change<T>(
        &self,
        path: &Path,
        change: impl FnOnce() -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let number = self.done.fetch_add(2, Ordering::Relaxed);
        let cut = || FileError::at(Action::Write, path)(io::Error::other("power cut"));
        if self.cut_at == number {
            return Err(cut());
        }
        let changed = change()?;
        if self.cut_at == number + 1 { Err(cut()) } else { Ok(changed) }
    }
}

impl Files for CutFiles {
    fn resolve(&self, path: &Path) -> Result<PathBuf, FileError> {
        self.real.resolve(path)
    }
    fn stat(&self, path: &Path) -> Result<Option<Stat>, FileError> {
        self.real.stat(path)
    }
    fn list(&self, path: &Path) -> Result<Vec<OsString>, FileError> {
        self.real.list(path)
    }
    fn open(&self, path: &Path) -> Result<Box<dyn Reading>, FileError> {
        self.real.open(path)
    }
    fn read_link(&self, path: &Path) -> Result<PathBuf, FileError> {
        self.real.read_link(path)
    }
    fn attributes(&self, path: &Path) -> Result<Attributes, FileError> {
        self.real.attributes(path)
    }
    fn space(&self, path: &Path) -> Result<Space, FileError> {
        self.real.space(path)
    }
    fn together(&self, folder: &Path) -> Result<Option<Box<dyn Together>>, FileError> {
        self.real.together(folder)
    }
    fn create(&self, path: &Path, mode: u32) -> Result<Box<dyn Writing>, FileError> {
        self.change(path, || self.real.create(path, mode))
    }
    fn clone_file(&self, from: &Path, to: &Path, mode: u32) -> Result<bool, FileError> {
        self.change(to, || self.real.clone_file(from, to, mode))
    }
    fn append(&self, path: &Path) -> Result<Box<dyn Writing>, FileError> {
        self.change(path, || self.real.append(path))
    }
    fn reserve(&self, path: &Path, bytes: u64) -> Result<(), FileError> {
        self.change(path, || self.real.reserve(path, bytes))
    }
    fn create_dir(&self, path: &Path, mode: u32) -> Result<(), FileError> {
        self.change(path, || self.real.create_dir(path, mode))
    }
    fn symlink(&self, target: &Path, path: &Path) -> Result<(), FileError> {
        self.change(path, || self.real.symlink(target, path))
    }
    fn hard_link(&self, from: &Path, path: &Path) -> Result<(), FileError> {
        self.change(path, || self.real.hard_link(from, path))
    }
    fn rename(&self, from: &Path, path: &Path) -> Result<(), FileError> {
        self.change(path, || self.real.rename(from, path))
    }
    fn remove_file(&self, path: &Path) -> Result<(), FileError> {
        self.change(path, || self.real.remove_file(path))
    }
    fn remove_dir(&self, path: &Path) -> Result<(), FileError> {
        self.change(path, || self.real.remove_dir(path))
    }
    fn sync_file(&self, path: &Path) -> Result<(), FileError> {
        self.change(path, || self.real.sync_file(path))
    }
    fn sync_dir(&self, path: &Path) -> Result<(), FileError> {
        self.change(path, || self.real.sync_dir(path))
    }
    fn set_mode(&self, path: &Path, mode: u32) -> Result<(), FileError> {
        self.change(path, || self.real.set_mode(path, mode))
    }
    fn set_owner(&self, path: &Path, uid: u32, gid: u32) -> Result<(), FileError> {
        self.change(path, || self.real.set_owner(path, uid, gid))
    }
    fn set_modified(&self, path: &Path, time: Time) -> Result<(), FileError> {
        self.change(path, || self.real.set_modified(path, time))
    }
    fn set_attribute(&self, path: &Path, name: &OsString, value: &[u8]) -> Result<(), FileError> {
        self.change(path, || self.real.set_attribute(path, name, value))
    }
    fn remove_attribute(&self, path: &Path, name: &OsString) -> Result<(), FileError> {
        self.change(path, || self.real.remove_attribute(path, name))
    }
}

/// Which services run. The way back must stop one before it touches files, and start it after.
#[derive(Default)]
struct FakeUnits {
    runs: Cell<bool>,
    refuses_to_start: Option<String>,
    started: Vec<String>,
}

impl Units for FakeUnits {
    fn stop(&mut self, _: &str) -> Result<(), UnitsError> {
        self.runs.set(false);
        Ok(())
    }
    fn start(&mut self, unit: &str) -> Result<(), UnitsError> {
        if self.refuses_to_start.as_deref() == Some(unit) {
            return Err(UnitsError(format!("{unit} ended at once")));
        }
        self.runs.set(true);
        self.started.push(unit.to_owned());
        Ok(())
    }
    fn reload(&mut self) -> Result<(), UnitsError> {
        Ok(())
    }
    fn run(&mut self, _: &[String], _: u32) -> Result<(), UnitsError> {
        Ok(())
    }
}

/// Everything under a folder: what it is, its mode, what it holds.
fn tree(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let there = fs::symlink_metadata(&path).unwrap();
            let holds = if there.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else if there.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), (there.mode(), holds));
        }
    }
    found
}

fn write(path: &Path, bytes: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A host's folders: `live` is what an update changes, `own` is the agent's.
struct Sandbox {
    folder: tempfile::TempDir,
}

impl Sandbox {
    /// Release 1.0 with its unit, a configuration file and data.
    fn with_1_0() -> Sandbox {
        let sandbox = Sandbox { folder: tempfile::tempdir().unwrap() };
        write(&sandbox.live("releases/1.0/serve"), "old program", 0o755);
        symlink("releases/1.0", sandbox.live("current")).unwrap();
        write(&sandbox.live("payments.service"), "old unit", 0o644);
        write(&sandbox.live("data/orders"), "old data", 0o600);
        fs::create_dir_all(sandbox.own("")).unwrap();
        sandbox
    }

    fn empty() -> Sandbox {
        let sandbox = Sandbox { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(sandbox.live("")).unwrap();
        fs::create_dir_all(sandbox.own("")).unwrap();
        sandbox
    }

    fn live(&self, path: &str) -> PathBuf {
        self.folder.path().join("live").join(path)
    }

    fn own(&self, path: &str) -> PathBuf {
        self.folder.path().join("own").join(path)
    }

    fn place(&self) -> Place {
        Place::in_folder(Arc::new(RealFiles), &self.own(""))
    }

    fn file(&self, path: &str, saved: &str, bytes: &str, mode: u32) -> Undoing {
        let from = self.own(saved);
        write(&from, bytes, 0o600);
        let own = fs::metadata(&from).unwrap();
        let (uid, gid) = (own.uid(), own.gid());
        Undoing::File {
            path: self.live(path),
            from,
            digest: Digest::of(bytes.as_bytes()),
            mode,
            uid,
            gid,
        }
    }

    /// Saves what 1.0 is, and says how to bring it back.
    fn back_to_1_0(&self) -> WayBack {
        let aside = self.live("data.aside");
        let own = fs::metadata(self.live("data")).unwrap();
        let staged = self.live("data.back");
        let unless = |undoing| UndoStep { undoing, unless: Some(aside.clone()) };
        way_back(vec![
            Undoing::StopUnit { unit: "payments.service".into() }.into(),
            Undoing::Link { path: self.live("current"), target: "releases/1.0".into() }.into(),
            self.file("payments.service", "backup/unit", "old unit", 0o644).into(),
            unless(Undoing::Folder {
                path: staged.clone(),
                mode: own.mode() & 0o7777,
                uid: own.uid(),
                gid: own.gid(),
            }),
            unless(self.file("data.back/orders", "backup/orders", "old data", 0o600)),
            Undoing::Swap { path: self.live("data"), from: staged, aside: aside.clone() }.into(),
            Undoing::Remove { path: self.live("releases/2.0") }.into(),
            Undoing::ReloadUnits.into(),
            Undoing::StartUnit { unit: "payments.service".into() }.into(),
        ])
    }

    /// Says how to go back to nothing.
    fn back_to_nothing(&self) -> WayBack {
        way_back(vec![
            Undoing::StopUnit { unit: "payments.service".into() }.into(),
            Undoing::RemoveLink { path: self.live("current") }.into(),
            Undoing::Remove { path: self.live("payments.service") }.into(),
            Undoing::Remove { path: self.live("releases") }.into(),
            Undoing::Remove { path: self.live("data") }.into(),
            Undoing::ReloadUnits.into(),
        ])
    }

    /// Does what an update to 2.0 does.
    fn install_2_0(&self) {
        write(&self.live("releases/2.0/serve"), "new program", 0o755);
        let _ = fs::remove_file(self.live("current"));
        symlink("releases/2.0", self.live("current")).unwrap();
        write(&self.live("payments.service"), "new unit", 0o600);
        write(&self.live("data/orders"), "new data", 0o644);
        write(&self.live("data/more"), "newer data", 0o644);
    }

    /// What is live, without what was set aside.
    fn seen(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut seen = tree(&self.live(""));
        seen.retain(|path, _| !path.starts_with("data.aside"));
        seen
    }
}

fn attempt() -> Attempt {
    let release = |version: &str| ReleaseId {
        version: Version::parse(version).unwrap(),
        digest: Digest::of(version.as_bytes()),
    };
    Attempt {
        install: InstallId::parse("install-1").unwrap(),
        product: Product::parse("payments").unwrap(),
        release: release("2.0"),
        ring: RingName::parse("pilot").unwrap(),
        rollout: "1".into(),
        number: 1,
        rollback: false,
        previous: Some(release("1.0")),
        ordered_by: Default::default(),
    }
}

fn way_back(steps: Vec<UndoStep>) -> WayBack {
    WayBack {
        install: attempt().install,
        boot: BootId::parse("boot-1").unwrap(),
        deadline: Running::from_nanos(0),
        patience: Duration::from_secs(600),
        alone: Duration::from_secs(600),
        starts: 10,
        attempt: Some(attempt()),
        lease: None,
        restores: None,
        owners: Default::default(),
        steps,
    }
}

#[test]
fn a_way_back_cut_at_any_file_operation_leads_back_when_it_is_run_again() {
    for cut in 0.. {
        for first_install in [false, true] {
            let host = if first_install { Sandbox::empty() } else { Sandbox::with_1_0() };
            let before = host.seen();
            let back = if first_install { host.back_to_nothing() } else { host.back_to_1_0() };
            host.install_2_0();
            assert_ne!(host.seen(), before);
            let mut units = FakeUnits::default();
            let was_cut = run(&back, &CutFiles::cut_at(cut), &mut units).is_err();
            if was_cut {
                run(&back, &RealFiles, &mut units).unwrap();
            }
            // Once more: whoever runs it cannot know that it was run.
            run(&back, &RealFiles, &mut units).unwrap();
            assert_eq!(host.seen(), before, "cut at {cut}, first install: {first_install}");
            assert_eq!(units.runs.get(), !first_install);
            if !first_install {
                let kept = fs::read_to_string(host.live("data.aside/more")).unwrap();
                assert_eq!(kept, "newer data", "what the new release wrote is kept");
            }
            if !first_install && !was_cut {
                assert!(cut > 40, "every operation was cut once");
                return;
            }
        }
    }
}

#[test]
fn a_damaged_backup_is_noticed_before_anything_is_touched() {
    let host = Sandbox::with_1_0();
    let back = host.back_to_1_0();
    host.install_2_0();
    let installed = host.seen();
    for damage in ["", "old dat", "old dataa", "Old data"] {
        fs::write(host.own("backup/orders"), damage).unwrap();
        let mut units = FakeUnits::default();
        units.runs.set(true);
        let refused = run(&back, &RealFiles, &mut units).unwrap_err();
        assert!(matches!(refused, RunError::Damaged { number: 5, .. }), "{refused}");
        assert_eq!(host.seen(), installed);
        assert!(units.runs.get(), "and nothing is stopped");
    }
    fs::remove_file(host.own("backup/orders")).unwrap();
    assert!(run(&back, &RealFiles, &mut FakeUnits::default()).is_err());
    assert_eq!(host.seen(), installed);
}

#[test]
fn a_service_that_does_not_start_keeps_no_other_from_starting() {
    let start = |unit: &str| UndoStep::from(Undoing::StartUnit { unit: unit.into() });
    let back = way_back(vec![start("a.service"), start("b.service")]);
    let refuses_to_start = Some("a.service".to_owned());
    let mut units = FakeUnits { refuses_to_start, ..FakeUnits::default() };
    let failed = run(&back, &RealFiles, &mut units).unwrap_err();
    assert!(matches!(failed, RunError::Step { number: 1, .. }), "{failed}");
    assert_eq!(units.started, ["b.service"]);
}

#[test]
fn a_link_to_remove_that_is_a_folder_is_not_removed() {
    let host = Sandbox::empty();
    write(&host.live("current/precious"), "x", 0o644);
    let undoing = Undoing::RemoveLink { path: host.live("current") };
    let back = way_back(vec![undoing.into()]);
    assert!(run(&back, &RealFiles, &mut FakeUnits::default()).is_err());
    assert!(host.live("current/precious").exists());
}

#[test]
fn what_is_armed_is_there_until_it_is_disarmed_and_never_half() {
    let host = Sandbox::with_1_0();
    let place = host.place();
    assert_eq!(place.load().unwrap(), None);
    let back = host.back_to_1_0();
    place.arm(&back).unwrap();
    assert_eq!(place.load().unwrap(), Some(back));
    let whole = fs::read(place.path()).unwrap();
    for length in 0..whole.len() {
        fs::write(place.path(), &whole[..length]).unwrap();
        assert!(place.load().is_err(), "cut at {length} is an error, never nothing");
    }
    assert!(place.disarm().unwrap());
    assert!(!place.disarm().unwrap());
    assert_eq!(place.load().unwrap(), None);
}

/// What `recover` finds in the journal.
fn journal_with(bytes: Option<&[u8]>, update: Option<&Update>) -> MemoryJournal {
    let mut journal = MemoryJournal::default();
    if let Some(update) = update {
        journal.save(update, Batch::new()).unwrap();
    }
    if let Some(bytes) = bytes {
        journal.damage(bytes.to_vec());
    }
    journal
}

fn recover_on(host: &Sandbox, journal: &mut MemoryJournal) -> Result<Recovered, RecoverError> {
    let none = |_: &WayBack| Vec::new();
    recover(&host.place(), journal, &mut (), &RealFiles, &mut FakeUnits::default(), &none)
}

#[test]
fn a_lost_journal_never_means_that_nothing_is_pending() {
    // Unreadable, and empty as after a store that was set aside.
    for bytes in [Some(b"garbage".as_slice()), None] {
        let host = Sandbox::with_1_0();
        let before = host.seen();
        host.place().arm(&host.back_to_1_0()).unwrap();
        host.install_2_0();
        let mut journal = journal_with(bytes, None);
        let Ok(Recovered::WentBack(Some(Outcome::RolledBack { failure, .. }))) =
            recover_on(&host, &mut journal)
        else {
            panic!("it must go back and say so")
        };
        assert_eq!(failure.cause, Cause::JournalUnreadable);
        assert_eq!(host.seen(), before);
        assert_eq!(journal.load().unwrap(), None);
        assert_eq!(journal.ended().len(), 1, "and it is reported");
        assert!(matches!(recover_on(&host, &mut journal), Ok(Recovered::Nothing)));
        assert_eq!(host.seen(), before, "once");
    }
}

#[test]
fn a_journal_that_knows_the_update_has_the_word() {
    let host = Sandbox::with_1_0();
    host.place().arm(&host.back_to_1_0()).unwrap();
    host.install_2_0();
    let installed = host.seen();
    let known = Update::Finished {
        attempt: attempt(),
        lease: None,
        outcome: Outcome::Dropped,
        settled: false,
    };
    let mut journal = journal_with(None, Some(&known));
    assert!(matches!(recover_on(&host, &mut journal), Ok(Recovered::Nothing)));
    assert_eq!(host.seen(), installed, "what is committed is never rolled back by a file");
    assert_eq!(journal.load().unwrap(), Some(known));
}

#[test]
fn an_update_of_which_the_journal_knows_nothing_goes_back_before_another_goes_on() {
    let host = Sandbox::with_1_0();
    let before = host.seen();
    host.place().arm(&host.back_to_1_0()).unwrap();
    host.install_2_0();
    let mut other = attempt();
    other.install = InstallId::parse("install-2").unwrap();
    let other = Update::Preflight { attempt: other, retry: Retry::default() };
    let mut journal = journal_with(None, Some(&other));
    assert!(matches!(recover_on(&host, &mut journal), Ok(Recovered::WentBack(Some(_)))));
    assert_eq!(host.seen(), before);
    assert_eq!(journal.load().unwrap().map(|update| update.phase()), Some(Phase::Preflight));
}

#[test]
fn an_unreadable_journal_without_a_way_back_is_kept_for_a_person_and_nothing_is_touched() {
    let host = Sandbox::with_1_0();
    let before = host.seen();
    let mut journal = journal_with(Some(b"garbage"), None);
    assert!(matches!(recover_on(&host, &mut journal), Ok(Recovered::SetAside)));
    assert_eq!(journal.load().unwrap(), None);
    assert_eq!(host.seen(), before);
}

#[test]
fn where_neither_can_be_read_a_person_is_asked_and_nothing_is_touched() {
    let host = Sandbox::with_1_0();
    fs::write(host.place().path(), "refit-way-back 1\n").unwrap();
    host.install_2_0();
    let installed = host.seen();
    let mut journal = journal_with(Some(b"garbage"), None);
    assert!(matches!(recover_on(&host, &mut journal), Err(RecoverError::Lost { .. })));
    assert!(matches!(journal.load(), Err(JournalError::Unreadable { .. })));
    assert_eq!(host.seen(), installed);
}
