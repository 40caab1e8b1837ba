//! Whole updates on files in memory: forward, back, and cut or failed at every operation on files.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use jiff::Timestamp;
use refit_proto::{
    names::{PackageName, RingName, Version},
    package::{
        self, Backup, Check, FileRef, Health, Hook, Manifest, Observed, PackageRef, Probe, Reboot,
        Release, compress,
    },
};

mod modules;
mod outside;
mod own;
mod placed;
mod podman;
mod removal;
mod repair;
mod replaced;
mod reserve;
mod restore;
mod second;

use super::*;
use crate::{
    drive::{DriveError, Host, drive, resume},
    host::{
        content::FetchError,
        files,
        recording::{CutPoints, Fault, Kept, RecordingFiles, one_in, put, snapshot},
        service::{ServiceState, UnitFile, UnitsOf},
        tree::{
            Extras,
            testing::{file, payments, platform},
        },
    },
    journal::{Journal, MemoryJournal},
    update::{
        BootId, Cause, Lease, LeaseId, Outcome, Phase, ReleaseId, Running, SealedBackup, Update,
    },
    way_back,
};

/// What runs, and what would fail its check.
#[derive(Clone, Default)]
struct FakeServices {
    running: Arc<Mutex<BTreeSet<String>>>,
    bad: Option<Digest>,
    files: RecordingFiles,
}

const UNITS: &str = "/etc/units";

impl Services for FakeServices {
    fn unit_files(&self, service: &Service) -> Result<Vec<UnitFile>, ServiceError> {
        let path = Path::new(UNITS).join(service.unit.as_str());
        let bytes = format!("run {} {:?}", service.program, service.arguments).into_bytes();
        Ok(vec![
            UnitFile::File { path: path.clone(), bytes },
            UnitFile::Link { path: path.with_extension("wanted"), target: path },
        ])
    }

    fn drop_ins(&self, unit: &UnitName) -> Option<PathBuf> {
        Some(Path::new(UNITS).join(format!("{unit}.d")))
    }

    fn reload(&mut self) -> Result<(), ServiceError> {
        Ok(())
    }

    fn start(&mut self, unit: &UnitName) -> Result<(), ServiceError> {
        self.running.lock().unwrap().insert(unit.to_string());
        Ok(())
    }

    fn stop(&mut self, unit: &UnitName) -> Result<(), ServiceError> {
        self.running.lock().unwrap().remove(unit.as_str());
        Ok(())
    }

    fn log(&mut self, unit: &UnitName) -> String {
        format!("{unit} fell over\n")
    }

    fn state(&mut self, unit: &UnitName) -> Result<ServiceState, ServiceError> {
        let tree = Tree::new(&self.files, "/opt/refit".into(), platform());
        let bad = tree.current(&payments()).is_ok_and(|current| current == self.bad);
        Ok(match self.running.lock().unwrap().contains(unit.as_str()) {
            true if bad && self.bad.is_some() => {
                ServiceState::Failed { text: "it fell over".into() }
            }
            true => ServiceState::Active { restarts: 0 },
            false => ServiceState::Stopped,
        })
    }
}

/// Everything that was ever published.
#[derive(Clone, Default)]
struct Frames(BTreeMap<Digest, Vec<u8>>);

impl Frames {
    fn add(&mut self, bytes: &[u8]) {
        let mut frame = vec![];
        compress(&mut &bytes[..], &mut frame).unwrap();
        self.0.insert(Digest::of(bytes), frame);
    }
}

impl Frames {
    /// What the frame of this digest holds.
    fn plain(&self, digest: &Digest) -> Vec<u8> {
        let mut plain = vec![];
        // The length is not known here; past the bytes that are there, only it is wrong.
        let frame = &mut &self.0[digest][..];
        package::decompress(frame, &mut plain, *digest, u64::MAX - 1).unwrap_err();
        assert_eq!(Digest::of(&plain), *digest);
        plain
    }
}

impl Fetch for Frames {
    fn frame(&mut self, digest: Digest, offset: u64) -> Result<Box<dyn Read + '_>, FetchError> {
        let frame = self.0.get(&digest).ok_or(FetchError::Refused("unknown".into()))?;
        Ok(Box::new(&frame[offset as usize..]))
    }
}

/// A host, its disk, and what lives through a power cut beside it.
#[derive(Clone)]
struct World {
    files: RecordingFiles,
    frames: Frames,
    releases: BTreeMap<Digest, Vec<u8>>,
    bad: Option<Digest>,
    running: Arc<Mutex<BTreeSet<String>>>,
    journal: MemoryJournal,
    time: Arc<AtomicU64>,
    /// What its owner says of backups.
    backup: BackupSettings,
    /// How often the host was booted.
    boots: Arc<AtomicU64>,
    /// What ran when it was last asked to.
    ran_at_boot: Arc<Mutex<BTreeSet<String>>>,
    /// Where its podman stands.
    podman: Option<PathBuf>,
}

/// A host that is gone once it is asked to boot, and no service with it.
struct FakeBoots {
    world: World,
}

impl Boots for FakeBoots {
    fn held_by(&self) -> Vec<String> {
        Vec::new()
    }

    fn ask(&mut self) -> Result<(), String> {
        self.world.boots.fetch_add(1, Ordering::Relaxed);
        let ran = std::mem::take(&mut *self.world.running.lock().unwrap());
        *self.world.ran_at_boot.lock().unwrap() = ran;
        Ok(())
    }
}

/// The steps of the machine; trust and server always agree.
struct Alone<'a> {
    machine: HostMachine,
    world: &'a World,
}

impl Host for Alone<'_> {
    fn perform(&mut self, step: &Step) -> Result<Event, HostError> {
        let at = self.machine.clock.moment();
        let time = &self.world.time;
        let wait = |longest: Duration| {
            time.fetch_add(longest.as_nanos() as u64, Ordering::Relaxed);
            Waited::Over
        };
        let event = match step {
            Step::Permit { attempt, .. } => {
                let document = &self.world.releases[&attempt.release.digest];
                let learned = self.machine.learn(document);
                learned.map_or_else(|failure| Event::Failed { failure }, |()| Event::Permitted)
            }
            Step::AskLeave { .. } => {
                let (id, lasts) = (LeaseId::parse("l1").unwrap(), Duration::from_secs(600));
                Event::LeaseGiven { lease: Lease { id, asked: at.clone(), lasts }, at }
            }
            Step::AskReboot { .. } => Event::MayReboot,
            step => self.machine.perform(step, &mut self.world.frames.clone(), &wait)?,
        };
        if self.machine.clock.boot() != &self.world.boot() {
            return Err(HostError::Ending);
        }
        match self.world.files.is_dark() {
            true => Err(HostError::Failed("no power".into())),
            false => Ok(event),
        }
    }
}

impl World {
    fn services(&self) -> FakeServices {
        let (running, bad) = (self.running.clone(), self.bad);
        FakeServices { running, bad, files: self.files.clone() }
    }

    fn machine(&self) -> HostMachine {
        let time = self.time.clone();
        let clock = Clock::from_fns(
            self.boot(),
            || Timestamp::UNIX_EPOCH,
            move || Running::from_nanos(time.load(Ordering::Relaxed)),
        );
        let settings = Settings {
            data: "/data".into(),
            install_root: "/opt/refit".into(),
            services: Default::default(),
            variables: Variables::from([("ETC".into(), "/etc".into())]),
            poll: None,
            patience: crate::link::Patience::default(),
            proxies: Default::default(),
            drift: Default::default(),
            most_bytes_per_second: None,
            rescue_after: Duration::from_secs(600),
            reboot_hold: Duration::from_secs(600),
            holds: Default::default(),
            windows: None,
            red_before: RedBefore::Note,
            brake: Default::default(),
            backup: self.backup.clone(),
            mender: ModuleSettings { folder: None, device_type: "box".into() },
            platform: platform(),
        };
        let manager = Manager::Fake(Box::new(self.services()));
        let mut machine = HostMachine::new(Arc::new(self.files.clone()), &settings, clock, manager);
        machine.boots = Some(Box::new(FakeBoots { world: self.clone() }));
        machine.podman = self.podman.clone().unwrap_or(machine.podman);
        machine
    }

    fn boot(&self) -> BootId {
        BootId::parse(&format!("boot-{}", self.boots.load(Ordering::Relaxed))).unwrap()
    }

    fn update(&mut self, update: Update) -> Result<Outcome, String> {
        let machine = self.machine();
        let mut journal = self.journal.clone();
        let mut host = Alone { machine, world: self };
        let outcome = drive(update, &mut host, &mut journal, &mut ());
        self.journal = journal;
        outcome.map_err(|error| error.to_string())
    }

    /// As an agent does at its start; again as long as something fails.
    fn resume(&mut self) -> Option<Outcome> {
        let machine = self.machine();
        let mut journal = self.journal.clone();
        let place = Place::in_folder(Arc::new(self.files.clone()), Path::new("/data"));
        let mut services = self.services();
        let backups = Backups::new(&self.files, "/data".into());
        let keep = |way_back: &way_back::WayBack| backups.finish_after(way_back);
        let mut units = UnitsOf(&mut services);
        way_back::recover(&place, &mut journal, &mut (), &self.files, &mut units, &keep).unwrap();
        let at = machine.clock.moment();
        let mut host = Alone { machine, world: self };
        let under_way = journal.load().unwrap();
        let stopped = under_way.as_ref().filter(|update| update.has_stopped_services(&at));
        host.machine.start_services(stopped.map(|update| &update.attempt().product));
        let outcome: Result<_, DriveError> = resume(at, &mut host, &mut journal, &mut ());
        self.journal = journal;
        match outcome {
            Err(DriveError::Host(HostError::Ending)) => self.resume(),
            outcome => outcome.unwrap(),
        }
    }

    /// The release that is whole and runs.
    fn stands_on(&self, step: &str) -> Option<Version> {
        let machine = self.machine();
        let installed = machine.tree().installed(&payments()).unwrap();
        let running = self.running.lock().unwrap().clone();
        let Some(release) = installed else {
            assert!(running.is_empty(), "{step}: {running:?}");
            return None;
        };
        machine.tree().verify(&release, Extras::Refused).unwrap_or_else(|e| panic!("{step}: {e}"));
        let services = machine.services_of(&payments(), &release).unwrap();
        let mut wanted = BTreeSet::new();
        let mut units = BTreeMap::new();
        for service in services {
            wanted.insert(service.unit.to_string());
            for file in self.services().unit_files(&service).unwrap() {
                units.insert(file.path().to_owned(), file);
            }
        }
        assert_eq!(running, wanted, "{step}: what runs is what is installed");
        for (path, unit) in &units {
            match unit {
                UnitFile::File { bytes, .. } => {
                    let found = files::read_file(&self.files, path, 1000).unwrap();
                    assert_eq!(&found, bytes, "{step}: {}", path.display());
                }
                UnitFile::Link { target, .. } => {
                    assert_eq!(&self.files.read_link(path).unwrap(), target, "{step}");
                }
            }
        }
        if files::exists(&self.files, Path::new(UNITS)).unwrap() {
            // What could not be brought away when it was set aside stays beside its place.
            let aside =
                |name: &&std::ffi::OsString| name.to_string_lossy().contains(".refit-aside-");
            let found = self.files.list(Path::new(UNITS)).unwrap();
            let found = found.iter().filter(|name| !aside(name)).count();
            assert_eq!(found, units.len(), "{step}: no other units are left");
        }
        Some(release.id.version)
    }

    /// What belongs to the host's owner and what the product was: everything but the agent's own.
    fn outside(&self) -> BTreeMap<PathBuf, String> {
        let mut all = snapshot(&self.files, Path::new("/etc"));
        all.extend(snapshot(&self.files, Path::new("/opt/refit/payments")));
        all
    }

    /// The current release is one, and whole; and the backup is what was sealed.
    fn can_be_mended(&self, step: &str) {
        let machine = self.machine();
        let current = machine.tree().installed(&payments()).unwrap().unwrap();
        machine.tree().verify(&current, Extras::Refused).unwrap_or_else(|e| panic!("{step}: {e}"));
        for id in machine.backups().list().unwrap() {
            if let Ok(index) = machine.backups().index(&id) {
                let seal = Digest::of(&index.to_bytes());
                let sealed = SealedBackup { id, seal };
                machine.backups().verify(&sealed).unwrap_or_else(|e| panic!("{step}: {e}"));
            }
        }
    }

    /// Nothing of an update under way is left.
    fn is_tidy(&self, step: &str) {
        assert!(!files::exists(&self.files, Path::new("/data/content")).unwrap(), "{step}");
        assert!(!files::exists(&self.files, Path::new("/data/way-back")).unwrap(), "{step}");
        for (folder, prefix) in
            [("/", "."), ("/data", ".reserved"), ("/data/backups", "."), ("/opt/refit", ".")]
        {
            if files::exists(&self.files, Path::new(folder)).unwrap() {
                for name in self.files.list(Path::new(folder)).unwrap() {
                    let name = name.to_string_lossy().into_owned();
                    assert!(!name.starts_with(prefix), "{step}: {folder}/{name}");
                }
            }
        }
    }

    /// The power goes; what was synced stays, no process does.
    fn after_power_cut(&self, kept: Kept) -> World {
        let files = self.files.after_power_cut(kept);
        let boots = Arc::new((self.boots.load(Ordering::Relaxed) + 1).into());
        World { files, running: Arc::default(), boots, ..self.clone() }
    }

    fn fork(&self) -> World {
        let running = Arc::new(Mutex::new(self.running.lock().unwrap().clone()));
        let boots = Arc::new(self.boots.load(Ordering::Relaxed).into());
        World { files: self.files.fork(), running, boots, ..self.clone() }
    }
}

/// A release with these services, each one program, that changes its own configuration.
fn publish(world: &mut World, version: &str, services: &[&str]) -> ReleaseId {
    publish_booting(world, version, services, Reboot::Never)
}

/// The same with a word on whether the host has to boot.
fn publish_booting(
    world: &mut World,
    version: &str,
    services: &[&str],
    reboot: Reboot,
) -> ReleaseId {
    publish_with(world, version, services, |manifest| manifest.with_reboot(reboot))
}

fn service(name: &str, command: &[&str]) -> package::Service {
    package::Service {
        name: PackageName::parse(name).unwrap(),
        command: command.iter().map(ToString::to_string).collect(),
        environment: BTreeMap::new(),
        user: None,
        unit_file: None,
        options: vec![],
    }
}

/// Whether the unit of a service is active.
fn unit_check(service: &str) -> Check {
    let name = PackageName::parse(service).unwrap();
    Check { name: name.clone(), probe: Probe::Unit { service: name }, timeout_seconds: 5 }
}

/// A service that is watched by its unit alone.
fn watched(name: &str, command: &[&str]) -> (package::Service, Health) {
    let checks = vec![unit_check(name)];
    let health = Health::Checked(Observed { checks, good_seconds: 10, ..Observed::default() });
    (service(name, command), health)
}

/// The same with more in its manifest.
fn publish_with(
    world: &mut World,
    version: &str,
    services: &[&str],
    more: impl Fn(Manifest) -> Manifest,
) -> ReleaseId {
    let name = PackageName::parse("payments").unwrap();
    let program = format!("program {version}").into_bytes();
    let health = Health::Checked(Observed {
        checks: services.iter().map(|name| unit_check(name)).collect(),
        start_seconds: 0,
        interval_seconds: 5,
        failures: 2,
        good_seconds: 10,
        max_seconds: 100,
        ..Observed::default()
    });
    let health = if services.is_empty() { Health::None } else { health };
    let manifest = Manifest::new(
        name.clone(),
        vec![file("run", 0o755, &program), file("same", 0o644, b"the same in all")],
        services.iter().map(|name| service(name, &["./run", version])).collect(),
        health,
        Backup { paths: vec!["${ETC}/payments".into()] },
        Vec::<Hook>::new(),
    )
    .unwrap();
    let manifest = more(manifest);
    let manifest_ref = FileRef::to(&manifest.to_bytes());
    let platforms =
        BTreeMap::from([(platform(), vec![PackageRef { name, manifest: manifest_ref }])]);
    let version = Version::parse(version).unwrap();
    let release = Release::new(payments(), version.clone(), 1, platforms);
    for bytes in [&program[..], b"the same in all", &manifest.to_bytes()] {
        world.frames.add(bytes);
    }
    world.releases.insert(Digest::of(&release.to_bytes()), release.to_bytes());
    ReleaseId { version, digest: Digest::of(&release.to_bytes()) }
}

fn attempt(release: &ReleaseId, previous: Option<&ReleaseId>, install: &str) -> Update {
    Update::offered(Attempt {
        install: InstallId::parse(install).unwrap(),
        product: payments(),
        release: release.clone(),
        ring: RingName::parse("pilot").unwrap(),
        rollout: "r".into(),
        number: 1,
        rollback: false,
        previous: previous.cloned(),
        ordered_by: Default::default(),
    })
}

fn empty() -> World {
    let files = RecordingFiles::default();
    put(&files, Path::new("/etc/payments/conf"), b"port = 1", 0o640);
    let time = Arc::new(AtomicU64::new(1_000_000_000_000));
    let (frames, journal) = (Frames::default(), MemoryJournal::default());
    World {
        files,
        frames,
        releases: BTreeMap::new(),
        bad: None,
        running: Arc::default(),
        journal,
        time,
        backup: BackupSettings::default(),
        boots: Arc::default(),
        ran_at_boot: Arc::default(),
        podman: None,
    }
}

/// A host on 1.0, which runs `web` and `old`, and the release 2.0, which runs `web` and `new`.
fn on_one() -> (World, Update, ReleaseId) {
    let mut world = empty();
    let one = publish(&mut world, "1.0", &["web", "old"]);
    let two = publish(&mut world, "2.0", &["web", "new"]);
    let outcome = world.update(attempt(&one, None, "i1")).unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    assert_eq!(world.stands_on("installed").unwrap().as_str(), "1.0");
    world.files = world.files.fork();
    (world, attempt(&two, Some(&one), "i2"), two)
}

#[test]
fn a_good_release_stays_and_what_it_may_go_back_to_is_kept() {
    let (mut world, update, _) = on_one();
    let outcome = world.update(update).unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    assert_eq!(world.stands_on("updated").unwrap().as_str(), "2.0");
    world.is_tidy("updated");
    let releases = world.files.list(Path::new("/opt/refit/payments/releases")).unwrap();
    assert_eq!(releases.len(), 2);
    assert_eq!(world.files.list(Path::new("/data/backups")).unwrap(), ["i1", "i2"]);
}

/// The same with a release 3.0 that has a word on boots.
fn on_one_booting(reboot: Reboot) -> (World, Update, ReleaseId) {
    let (mut world, _, _) = on_one();
    let one = world.machine().tree().installed(&payments()).unwrap().unwrap().id;
    let one = ReleaseId { version: one.version, digest: one.digest };
    let three = publish_booting(&mut world, "3.0", &["web", "new"], reboot);
    (world, attempt(&three, Some(&one), "i3"), three)
}

#[test]
fn a_release_that_needs_a_boot_starts_with_it_and_the_rescuer_counts_one_start_more() {
    let (mut world, update, _) = on_one_booting(Reboot::Always);
    let ended = world.update(update).unwrap_err();
    assert!(ended.contains("ending"), "{ended}");
    assert!(world.ran_at_boot.lock().unwrap().is_empty(), "nothing of it ran before");
    assert_eq!(world.journal.load().unwrap().unwrap().phase(), Phase::Rebooting);
    let way_back = files::read_file(&world.files, Path::new("/data/way-back"), 1 << 20).unwrap();
    assert!(String::from_utf8(way_back).unwrap().contains("\nstarts 4\n"));
    let outcome = world.resume().unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    assert_eq!(world.boots.load(Ordering::Relaxed), 1);
    assert_eq!(world.stands_on("booted").unwrap().as_str(), "3.0");
    world.is_tidy("booted");
}

#[test]
fn a_bad_release_that_needed_a_boot_goes_back() {
    let (mut world, update, three) = on_one_booting(Reboot::Always);
    world.bad = Some(three.digest);
    world.update(update).unwrap_err();
    let outcome = world.resume().unwrap();
    assert!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome:?}");
    assert_eq!(world.stands_on("back").unwrap().as_str(), "1.0");
    world.is_tidy("back");
}

#[test]
fn a_host_boots_where_it_says_that_it_has_to_and_says_for_whom() {
    let (mut world, update, _) = on_one_booting(Reboot::WhenRequired);
    let mut quiet = world.fork();
    let outcome = quiet.update(update.clone()).unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    assert_eq!(quiet.boots.load(Ordering::Relaxed), 0, "nothing asked for a boot");

    for (name, text) in [("", "*** System restart required ***\n"), (".pkgs", "libc6\nlinux\n")] {
        let path = format!("/run/reboot-required{name}");
        put(&world.files, Path::new(&path), text.as_bytes(), 0o644);
    }
    world.update(update).unwrap_err();
    assert!(!world.ran_at_boot.lock().unwrap().is_empty(), "until then it served");
    let waiting = world.journal.load().unwrap().unwrap();
    let said = serde_json::to_string(&waiting).unwrap();
    assert!(said.contains("*** System restart required *** (libc6 linux)"), "{said}");
    let outcome = world.resume().unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
}

#[test]
fn a_host_that_nobody_can_boot_refuses_what_needs_a_boot_before_anything_is_changed() {
    let (mut world, update, _) = on_one_booting(Reboot::Always);
    let before = world.outside();
    let mut machine = world.machine();
    machine.boots = None;
    let mut journal = world.journal.clone();
    let mut host = Alone { machine, world: &world };
    let outcome = drive(update, &mut host, &mut journal, &mut ()).unwrap();
    let Outcome::Refused { failure } = &outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.cause, Cause::Unsupported);
    assert_eq!(world.outside(), before);
    world.journal = journal;
}

#[test]
fn a_bad_release_goes_back_to_what_ran_and_leaves_everything_as_it_was() {
    let (mut world, update, two) = on_one();
    let before = world.outside();
    world.bad = Some(two.digest);
    let outcome = world.update(update).unwrap();
    assert!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome:?}");
    assert_eq!(world.stands_on("back").unwrap().as_str(), "1.0");
    let mut after = world.outside();
    // It failed, but what was before it is all there; the failed one is not.
    after.retain(|path, _| before.contains_key(path));
    assert_eq!(after, before);
    assert_eq!(world.outside(), before);
    world.is_tidy("back");
}

/// MEN-1412, swupdate-mix-and-match.
#[test]
fn one_changed_byte_in_any_part_of_a_package_is_refused_before_anything_is_touched() {
    let (world, update, two) = on_one();
    let document = Release::parse(&world.releases[&two.digest]).unwrap();
    let manifest = document.platforms[&platform()][0].manifest;
    // Names of services, commands of checks and hooks stand in the manifest; programs are files.
    let parts = [manifest.sha256, Digest::of(b"program 2.0")];
    for part in parts {
        let plain = world.frames.plain(&part);
        for at in [0, plain.len() / 2, plain.len() - 1] {
            let mut world = world.fork();
            let before = world.outside();
            let mut changed = plain.clone();
            changed[at] ^= 1;
            let mut frame = vec![];
            compress(&mut &changed[..], &mut frame).unwrap();
            world.frames.0.insert(part, frame);
            let outcome = world.update(update.clone()).unwrap();
            let Outcome::Refused { failure, .. } = &outcome else { panic!("{at}: {outcome:?}") };
            assert_eq!(failure.cause, Cause::ContentMismatch, "{failure}");
            assert_eq!(world.outside(), before);
            assert_eq!(world.stands_on("refused").unwrap().as_str(), "1.0");
        }
    }
}

/// A host on which a release writes where the manifest's backup says, as soon as it is on probation;
/// then the agent may be cut off.
struct Writing<'a> {
    alone: Alone<'a>,
    cut: bool,
}

impl Host for Writing<'_> {
    fn perform(&mut self, step: &Step) -> Result<Event, HostError> {
        if matches!(step, Step::Watch { .. }) {
            let files = &self.alone.world.files;
            put(files, Path::new("/etc/payments/conf"), b"written by a person", 0o640);
            if self.cut {
                return Err(HostError::Ending);
            }
        }
        self.alone.perform(step)
    }
}

impl World {
    /// An update whose release writes; its outcome, unless it is cut off there.
    fn update_that_writes(&mut self, update: Update, cut: bool) -> Option<Outcome> {
        let mut journal = self.journal.clone();
        let alone = Alone { machine: self.machine(), world: self };
        let outcome = drive(update, &mut Writing { alone, cut }, &mut journal, &mut ());
        self.journal = journal;
        outcome.ok()
    }

    /// What was written is whole, under the folder that is named.
    fn keeps_what_was_written(&self, said: &Failure) {
        let folder = "/data/set-aside/i2/";
        let at = said.text.find(folder).unwrap_or_else(|| panic!("{said}"));
        let kept = Path::new(said.text[at..].split_whitespace().next().unwrap());
        let written = files::read_file(&self.files, &kept.join("conf"), 100).unwrap();
        assert_eq!(written, b"written by a person");
    }
}

#[test]
fn what_was_written_under_a_bad_release_is_kept_and_named() {
    let (mut world, update, two) = on_one();
    let before = world.outside();
    world.bad = Some(two.digest);
    let outcome = world.update_that_writes(update, false);
    let Some(Outcome::RolledBack { failure, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.cause, Cause::HealthCheckFailed);
    world.keeps_what_was_written(&failure);
    assert_eq!(world.outside(), before);
}

#[test]
fn what_was_written_under_an_update_whose_journal_is_lost_is_kept_and_named() {
    let (mut world, update, _) = on_one();
    let before = snapshot(&world.files, Path::new("/etc"));
    assert_eq!(world.update_that_writes(update, true), None);
    world.journal = MemoryJournal::default();
    world.resume();
    assert_eq!(world.stands_on("back").unwrap().as_str(), "1.0");
    let after = snapshot(&world.files, Path::new("/etc"));
    assert_eq!(after, before, "nothing stays beside its place");
    let ended = world.journal.ended();
    let Some(failure) = ended.last().and_then(|ended| ended.failure()) else { panic!() };
    assert_eq!(failure.cause, Cause::JournalUnreadable);
    world.keeps_what_was_written(failure);
}

/// A host whose disk changes what was saved while the release is on probation.
struct Rotting<'a>(Alone<'a>);

impl Host for Rotting<'_> {
    fn perform(&mut self, step: &Step) -> Result<Event, HostError> {
        if matches!(step, Step::Watch { .. }) {
            let (files, folder) = (&self.0.world.files, Path::new("/data/backups/i2/content"));
            for saved in files.list(folder).unwrap() {
                put(files, &folder.join(saved), b"rot", 0o600);
            }
        }
        self.0.perform(step)
    }
}

#[test]
fn a_damaged_backup_is_never_reported_as_gone_back_and_nothing_is_touched() {
    let (mut world, update, two) = on_one();
    world.bad = Some(two.digest);
    let mut journal = world.journal.clone();
    let machine = world.machine();
    let outcome =
        drive(update, &mut Rotting(Alone { machine, world: &world }), &mut journal, &mut ());
    let Ok(Outcome::Stuck { rollback: Some(rollback), .. }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(rollback.cause, Cause::BackupDamaged);
    assert_eq!(world.stands_on("stuck").unwrap().as_str(), "2.0");
}

#[test]
fn a_release_without_a_way_back_is_not_undone_where_the_journal_is_lost() {
    let (mut world, _, _) = on_one();
    let release = publish(&mut world, "3.0", &["web"]);
    let mut document = Release::parse(&world.releases[&release.digest]).unwrap();
    document.plan.way_back = package::WayBack::None;
    let digest = Digest::of(&document.to_bytes());
    world.releases.insert(digest, document.to_bytes());
    let release = ReleaseId { digest, ..release };
    let before = world.machine().tree().installed(&payments()).unwrap().unwrap().id;
    assert_eq!(world.update_that_writes(attempt(&release, Some(&before), "i2"), true), None);
    world.journal = MemoryJournal::default();
    world.resume();
    assert_eq!(world.stands_on("forward").unwrap().as_str(), "3.0");
}

#[test]
fn thirty_updates_in_a_row_leave_the_current_release_and_those_that_backups_lead_to() {
    let mut world = empty();
    let mut before: Option<ReleaseId> = None;
    for n in 1..=30 {
        let release = publish(&mut world, &format!("{n}.0"), &["web"]);
        // Every third one is bad.
        world.bad = (n % 3 == 0).then_some(release.digest);
        let outcome = world.update(attempt(&release, before.as_ref(), &format!("i{n}"))).unwrap();
        if n % 3 != 0 {
            assert!(matches!(outcome, Outcome::Committed { .. }), "{n}: {outcome:?}");
            before = Some(release);
        }
        let runs = world.stands_on(&format!("update {n}")).unwrap();
        assert_eq!(Some(&runs), before.as_ref().map(|release| &release.version), "{n}");
        let releases = world.files.list(Path::new("/opt/refit/payments/releases")).unwrap();
        // Three backups are kept by default, each with the release that it leads back to.
        assert!(releases.len() <= 4, "{n}: {releases:?}");
        let backups = world.files.list(Path::new("/data/backups")).unwrap();
        assert!(backups.len() <= 3, "{n}: {backups:?}");
        world.is_tidy(&format!("update {n}"));
    }
}

#[test]
fn a_failing_first_install_ends_with_nothing_left() {
    let mut world = empty();
    let one = publish(&mut world, "1.0", &["web"]);
    world.bad = Some(one.digest);
    let before = world.outside();
    let outcome = world.update(attempt(&one, None, "i1")).unwrap();
    let Outcome::RolledBack { health: None, failure } = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.log, "web.service fell over\n");
    let kept = files::read_file(&world.files, Path::new("/data/failed/i1.log"), 100).unwrap();
    assert_eq!(kept, b"web.service fell over\n");
    assert_eq!(world.stands_on("back"), None);
    let after = world.outside();
    // The folder for units was made for it; it is empty.
    let left: Vec<_> = after.keys().filter(|path| !before.contains_key(*path)).collect();
    assert_eq!(left, [Path::new(UNITS)]);
    world.is_tidy("back");
}

#[test]
fn a_release_that_does_not_fit_is_refused_and_nothing_is_changed() {
    let (mut world, update, _) = on_one();
    let before = world.outside();
    world.files.set_free(20 << 20, None);
    let outcome = world.update(update).unwrap();
    let Outcome::Refused { failure } = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.cause, Cause::NoSpace, "{failure}");
    assert_eq!(world.outside(), before);
    assert_eq!(world.stands_on("refused").unwrap().as_str(), "1.0");
    world.is_tidy("refused");
}

/// Carries the update with the fault at each operation on files, then on to its end.
fn at_each(fault: Fault, bad: bool, check: impl Fn(&mut World, Result<Outcome, String>, &str)) {
    let (mut start, update, two) = on_one();
    start.bad = bad.then_some(two.digest);
    at_each_of(start, update, fault, 1, check);
}

fn at_each_of(
    start: World,
    update: Update,
    fault: Fault,
    share: usize,
    check: impl Fn(&mut World, Result<Outcome, String>, &str),
) {
    at_each_doing(start, |world| world.update(update.clone()), fault, share, check);
}

/// Does it again and again, with the fault at one operation of the disk after the other.
fn at_each_doing(
    start: World,
    act: impl Fn(&mut World) -> Result<Outcome, String>,
    fault: Fault,
    share: usize,
    check: impl Fn(&mut World, Result<Outcome, String>, &str),
) {
    let share = one_in(share);
    // Each way to lose what was not synced; in a share of the cut points, one in its turn.
    let ways =
        if fault == Fault::PowerCut && share == 1 && one_in(2) == 1 { Kept::ALL.len() } else { 1 };
    let mut points = CutPoints::default();
    for n in (0..).step_by(share) {
        let mut world = start.fork();
        world.files.fault_after(n, fault);
        let outcome = act(&mut world);
        let hit = world.files.operations(0).get(n).cloned();
        let step = format!("{fault:?} at operation {n}: {}", hit.as_deref().unwrap_or("none"));
        if fault == Fault::PowerCut {
            for way in 0..ways {
                let kept = Kept::ALL[(n + way) % Kept::ALL.len()];
                let (mut world, outcome) = (world.after_power_cut(kept), outcome.clone());
                points.survives(|| check(&mut world, outcome, &format!("{step}, {kept:?} kept")));
            }
        } else {
            world.files.mend();
            points.survives(|| check(&mut world, outcome, &step));
        }
        if hit.is_none() {
            return points.end();
        }
    }
}

#[test]
fn after_a_power_cut_anywhere_in_a_good_update_the_host_comes_to_stand_on_one_whole_release() {
    at_each(Fault::PowerCut, false, |world, _, step| {
        world.resume();
        let version = world.stands_on(step).unwrap_or_else(|| panic!("{step}: nothing runs"));
        let ended = world.journal.ended().last().map(Outcome::phase);
        let expected = match ended {
            _ if world.journal.ended().len() == 1 => "1.0",
            Some(Phase::Committed) => "2.0",
            _ => "1.0",
        };
        assert_eq!(version.as_str(), expected, "{step}: {ended:?}");
    });
}

#[test]
fn after_a_power_cut_anywhere_in_an_update_with_a_boot_the_host_stands_on_one_whole_release() {
    let (start, update, _) = on_one_booting(Reboot::Always);
    at_each_of(start, update, Fault::PowerCut, 1, |world, _, step| {
        world.resume();
        let version = world.stands_on(step).unwrap_or_else(|| panic!("{step}: nothing runs"));
        let ended = world.journal.ended().last().map(Outcome::phase);
        let begun = world.journal.ended().len() > 1;
        let committed = begun && ended == Some(Phase::Committed);
        assert_eq!(version.as_str(), if committed { "3.0" } else { "1.0" }, "{step}: {ended:?}");
    });
}

#[test]
fn after_a_power_cut_anywhere_in_a_bad_update_the_host_runs_what_ran_before() {
    at_each(Fault::PowerCut, true, |world, _, step| {
        world.resume();
        assert_eq!(world.stands_on(step).unwrap().as_str(), "1.0", "{step}");
        let conf = files::read_file(&world.files, Path::new("/etc/payments/conf"), 100).unwrap();
        assert_eq!(conf, b"port = 1", "{step}");
    });
}

#[test]
fn whatever_fails_in_a_good_update_once_or_for_ever_the_host_stands_on_one_whole_release() {
    const ENOSPC: i32 = 28;
    const EIO: i32 = 5;
    const EDQUOT: i32 = 122;
    const EROFS: i32 = 30;
    let faults = [ENOSPC, EIO, EDQUOT, EROFS].into_iter();
    let faults = faults.flat_map(|errno| [Fault::Fails(errno), Fault::Stays(errno)]);
    for fault in faults.chain([Fault::ShortWrite]) {
        let (start, update, _) = on_one();
        at_each_of(start, update, fault, 7, |world, outcome, step| {
            let outcome = match outcome {
                Ok(outcome) => outcome,
                // The agent tries again from its journal, or from its beginning.
                Err(_) => match world.resume() {
                    Some(outcome) => outcome,
                    None => return drop(world.stands_on(step).unwrap()),
                },
            };
            if let Outcome::Stuck { .. } = &outcome
                && matches!(fault, Fault::Stays(_))
            {
                return world.can_be_mended(step);
            }
            let version = world.stands_on(step).unwrap();
            match outcome {
                Outcome::Committed { .. } => assert_eq!(version.as_str(), "2.0", "{step}"),
                Outcome::Refused { .. } | Outcome::RolledBack { .. } => {
                    assert_eq!(version.as_str(), "1.0", "{step}");
                }
                other => panic!("{step}: {other:?}"),
            }
        });
    }
}
