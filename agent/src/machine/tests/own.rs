//! The agent's own update on files in memory: which program a start of the unit runs is told by the disk, as
//! systemd would.

use std::sync::atomic::AtomicBool;

use refit_proto::{
    names::Product,
    package::{AGENT, AGENT_PROGRAM, Entry, Installer, PackagePath, RESCUE_PROGRAM},
};

use super::*;
use crate::{
    host::own::{Own, OwnUnit},
    unit::Unit,
    update::{Proof, Verdict},
};

const PACKAGED: &str = "/usr/bin/refit-agent";

fn agent() -> Product {
    Product::parse(AGENT).unwrap()
}

fn drop_in(unit: Unit) -> PathBuf {
    Path::new(Systemd::UNITS).join(unit.drop_in())
}

/// The agent as this world's systemd has started it.
struct FakeOwn {
    program: PathBuf,
    bad: Option<Digest>,
    ended: Arc<AtomicBool>,
}

impl Own for FakeOwn {
    fn program(&self) -> PathBuf {
        self.program.clone()
    }

    fn process(&self) -> u32 {
        7
    }

    fn arguments(&self) -> Vec<String> {
        ["run", "--data", "/data"].map(str::to_owned).into()
    }

    fn unit(&self, unit: &str) -> Result<OwnUnit, String> {
        assert_eq!(unit, Unit::Agent.name());
        let bad = self.bad.map(|bad| bad.to_string());
        let is_bad = bad.is_some_and(|bad| self.program.to_string_lossy().contains(&bad));
        let enabled = if is_bad { "masked" } else { "enabled" };
        Ok(OwnUnit { active: "active".into(), enabled: enabled.into(), main: 7 })
    }

    fn start_anew(&mut self, _: &str) -> Result<(), String> {
        self.ended.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// The machine's steps with this agent at work on it, until it is ended.
struct Running<'a> {
    machine: HostMachine,
    world: &'a World,
    ended: Arc<AtomicBool>,
}

impl Host for Running<'_> {
    fn perform(&mut self, step: &Step) -> Result<Event, HostError> {
        let (time, ended) = (self.world.time.clone(), self.ended.clone());
        let wait = |longest: Duration| {
            time.fetch_add(longest.as_nanos() as u64, Ordering::Relaxed);
            if ended.load(Ordering::Relaxed) { Waited::Ending } else { Waited::Over }
        };
        let done = match step {
            Step::Permit { .. } | Step::AskLeave { .. } | Step::AskReboot { .. } => {
                let machine = self.world.machine();
                let mut alone = Alone { machine, world: self.world };
                alone.perform(step)
            }
            step => self.machine.perform(step, &mut self.world.frames.clone(), &wait),
        };
        match self.world.files.is_dark() {
            true => Err(HostError::Failed("no power".into())),
            false => done,
        }
    }
}

impl World {
    /// What a start of the agent's unit runs; `None`: what it names is not there.
    fn started_program(&self) -> Option<PathBuf> {
        // systemd and the kernel look for themselves: what fails the agent's looks does not fail theirs.
        let seen = World { files: self.files.fork(), ..self.clone() };
        if !files::exists(&seen.files, &drop_in(Unit::Agent)).unwrap() {
            return Some(PACKAGED.into());
        }
        let text = files::read_file(&seen.files, &drop_in(Unit::Agent), 4096).unwrap();
        let through = format!("/opt/refit/{AGENT}/current/{AGENT}/{AGENT_PROGRAM} run");
        assert!(String::from_utf8(text).unwrap().contains(&through));
        let digest = seen.machine().tree().current(&agent()).unwrap()?;
        let folder = seen.machine().tree().folder(&agent(), &digest);
        let program = folder.join(AGENT).join(AGENT_PROGRAM);
        files::exists(&seen.files, &program).unwrap().then_some(program)
    }

    fn running(&self) -> Result<Running<'_>, String> {
        if self.started_program().is_none() {
            // systemd gives it up, and the rescuer goes back.
            let way_back = self.machine().place().load().map_err(|error| error.to_string())?;
            let mut services = self.services();
            let mut units = UnitsOf(&mut services);
            way_back::run(&way_back.expect("one is armed"), &self.files, &mut units)
                .map_err(|error| error.to_string())?;
        }
        let program = self.started_program().expect("an agent starts");
        let ended = Arc::new(AtomicBool::new(false));
        let mut machine = self.machine();
        machine.own = Some(Box::new(FakeOwn { program, bad: self.bad, ended: ended.clone() }));
        Ok(Running { machine, world: self, ended })
    }

    fn update_own(&mut self, update: Update) -> Result<Outcome, String> {
        let mut journal = self.journal.clone();
        let driven = drive(update, &mut self.running()?, &mut journal, &mut ());
        self.journal = journal;
        match driven {
            Err(DriveError::Host(HostError::Ending)) => self.resume_own().map(Option::unwrap),
            driven => driven.map_err(|error| error.to_string()),
        }
    }

    /// Starts the agent, as often as it is ended.
    fn resume_own(&mut self) -> Result<Option<Outcome>, String> {
        for _ in 0..20 {
            let mut journal = self.journal.clone();
            let place = Place::in_folder(Arc::new(self.files.clone()), Path::new("/data"));
            let mut host = self.running()?;
            let backups = Backups::new(&self.files, "/data".into());
            let keep = |way_back: &way_back::WayBack| backups.finish_after(way_back);
            let mut services = self.services();
            let mut units = UnitsOf(&mut services);
            let recovered =
                way_back::recover(&place, &mut journal, &mut (), &self.files, &mut units, &keep);
            let recovered = recovered.map_err(|error| error.to_string())?;
            if matches!(recovered, way_back::Recovered::WentBack(_)) && host.machine.is_undone() {
                drop(host);
                self.journal = journal;
                continue;
            }
            let at = host.machine.clock.moment();
            let outcome = resume(at, &mut host, &mut journal, &mut ());
            drop(host);
            self.journal = journal;
            match outcome {
                Err(DriveError::Host(HostError::Ending)) => {}
                outcome => return outcome.map_err(|error| error.to_string()),
            }
        }
        panic!("the agent is started again and again");
    }

    /// The release of the agent that runs, whole, with every unit of it; `None`: what was packaged.
    fn agent_is(&self, step: &str) -> Option<ReleaseId> {
        let program = self.started_program().unwrap_or_else(|| panic!("{step}: no agent"));
        let machine = self.machine();
        let installed = machine.tree().installed(&agent()).unwrap();
        let rescue = files::exists(&self.files, &drop_in(Unit::Rescue)).unwrap();
        let Some(documents) = installed else {
            assert_eq!(program, Path::new(PACKAGED), "{step}");
            assert!(!rescue, "{step}: nothing of it is left");
            return None;
        };
        machine
            .tree()
            .verify(&documents, Extras::Refused)
            .unwrap_or_else(|error| panic!("{step}: {error}"));
        let folder = machine.tree().folder(&agent(), &documents.id.digest).join(AGENT);
        assert_eq!(program, folder.join(AGENT_PROGRAM), "{step}");
        assert!(rescue, "{step}: the rescuer is its own");
        let text = files::read_file(&self.files, &drop_in(Unit::Rescue), 4096).unwrap();
        let own = format!("{} %i", folder.join(RESCUE_PROGRAM).display());
        assert!(String::from_utf8(text).unwrap().contains(&own), "{step}: and of this release");
        Some(documents.id)
    }

    fn own_is_tidy(&self, step: &str) {
        self.is_tidy(step);
        assert!(!files::exists(&self.files, Path::new("/data/qualify")).unwrap(), "{step}");
        for unit in Unit::OWN {
            let folder = drop_in(unit).parent().unwrap().to_owned();
            let empty = files::exists(&self.files, &folder).unwrap()
                && self.files.list(&folder).unwrap().is_empty();
            assert!(!empty, "{step}: {}", folder.display());
        }
    }
}

fn publish_agent(world: &mut World, version: &str) -> ReleaseId {
    let name = PackageName::parse(AGENT).unwrap();
    let (program, rescuer) = (format!("agent {version}"), format!("rescuer {version}"));
    let check = Check {
        name: name.clone(),
        probe: Probe::Tcp { address: "127.0.0.1:1".into() },
        timeout_seconds: 5,
    };
    let observed = Observed {
        checks: vec![check],
        start_seconds: 0,
        interval_seconds: 5,
        failures: 2,
        baseline_seconds: 30,
        good_seconds: 10,
        max_seconds: 100,
    };
    let folder = Entry::Directory { path: PackagePath::parse("bin").unwrap(), mode: 0o755 };
    let entries = vec![
        folder,
        file(AGENT_PROGRAM, 0o755, program.as_bytes()),
        file(RESCUE_PROGRAM, 0o755, rescuer.as_bytes()),
    ];
    let (health, backup) = (Health::Checked(observed), Backup::default());
    let manifest =
        Manifest::new(name.clone(), entries, vec![], health, backup, Vec::<Hook>::new()).unwrap();
    let mut manifest = manifest.installed_by(Installer::Agent, vec![]).unwrap();
    // An agent needs none: it looks at itself.
    if let Health::Checked(observed) = &mut manifest.health {
        observed.checks.clear();
    }
    let reference = PackageRef { name, manifest: FileRef::to(&manifest.to_bytes()) };
    let platforms = BTreeMap::from([(platform(), vec![reference])]);
    let version = Version::parse(version).unwrap();
    let release = Release::new(agent(), version.clone(), 1, platforms);
    for bytes in [program.as_bytes(), rescuer.as_bytes(), &manifest.to_bytes()] {
        world.frames.add(bytes);
    }
    world.releases.insert(Digest::of(&release.to_bytes()), release.to_bytes());
    ReleaseId { version, digest: Digest::of(&release.to_bytes()) }
}

fn to(release: &ReleaseId, previous: Option<&ReleaseId>, install: &str) -> Update {
    let Update::Offered { mut attempt, retry } = attempt(release, previous, install) else {
        panic!("an update begins with an offer");
    };
    attempt.product = agent();
    Update::Offered { attempt, retry }
}

/// A host with the packaged agent, and a release of it.
fn packaged() -> (World, ReleaseId, Update) {
    let mut world = empty();
    let one = publish_agent(&mut world, "1.0");
    let update = to(&one, None, "i1");
    (world, one, update)
}

/// A host on the agent 1.0, and the release 2.0.
fn on_agent_one() -> (World, [ReleaseId; 2], Update) {
    let (mut world, one, update) = packaged();
    let outcome = world.update_own(update).unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    let two = publish_agent(&mut world, "2.0");
    world.files = world.files.fork();
    let update = to(&two, Some(&one), "i2");
    (world, [one, two], update)
}

#[test]
fn a_release_of_the_agent_runs_in_its_own_unit_and_the_next_one_after_it() {
    let (mut world, [one, two], update) = on_agent_one();
    assert_eq!(world.agent_is("first"), Some(one));
    let outcome = world.update_own(update).unwrap();
    assert!(matches!(outcome, Outcome::Committed { proof: Proof::Good, .. }), "{outcome:?}");
    assert_eq!(world.agent_is("second"), Some(two));
    world.own_is_tidy("second");
    assert_eq!(world.files.list(Path::new("/opt/refit/refit-agent/releases")).unwrap().len(), 2);
}

#[test]
fn a_bad_release_of_the_agent_is_undone_by_itself_and_finished_by_the_one_of_before() {
    let (mut world, [one, two], update) = on_agent_one();
    let before = snapshot(&world.files, Path::new("/etc"));
    world.bad = Some(two.digest);
    let outcome = world.update_own(update).unwrap();
    let Outcome::RolledBack { failure, health } = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.cause, Cause::HealthCheckFailed);
    assert!(failure.log.contains("refit-agent.service fell over"), "{}", failure.log);
    assert_eq!(health, Some(Verdict::Good));
    assert_eq!(world.agent_is("back"), Some(one));
    assert_eq!(snapshot(&world.files, Path::new("/etc")), before);
    world.own_is_tidy("back");
}

#[test]
fn a_failing_first_release_of_the_agent_leaves_nothing_behind() {
    let (mut world, one, update) = packaged();
    let before = snapshot(&world.files, Path::new("/etc"));
    world.bad = Some(one.digest);
    let outcome = world.update_own(update).unwrap();
    assert!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome:?}");
    assert_eq!(world.agent_is("back"), None);
    let mut after = snapshot(&world.files, Path::new("/etc"));
    // The folder for units was made for it; it is empty.
    after.retain(|path, _| {
        before.contains_key(path) || !Path::new(Systemd::UNITS).starts_with(path)
    });
    assert_eq!(after, before);
    world.own_is_tidy("back");
}

#[test]
fn a_unit_that_starts_another_program_than_the_release_is_gone_back_from() {
    let (mut world, _, update) = packaged();
    // An administrator's own drop-in that goes over ours: every start runs the packaged program.
    let mut journal = world.journal.clone();
    let mut outcome = None;
    for start in 0..20 {
        let mut host = world.running().unwrap();
        let ended = host.ended.clone();
        host.machine.own = Some(Box::new(FakeOwn { program: PACKAGED.into(), bad: None, ended }));
        let at = host.machine.clock.moment();
        let driven = match start {
            0 => drive(update.clone(), &mut host, &mut journal, &mut ()).map(Some),
            _ => resume(at, &mut host, &mut journal, &mut ()),
        };
        if !matches!(driven, Err(DriveError::Host(HostError::Ending))) {
            outcome = driven.unwrap();
            break;
        }
    }
    let Some(Outcome::RolledBack { failure, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.cause, Cause::SwitchFailed);
    assert!(failure.text.contains(PACKAGED), "{failure}");
    world.journal = journal;
    assert_eq!(world.agent_is("back"), None);
}

#[test]
fn a_new_agent_that_finds_its_journal_lost_undoes_itself_and_the_one_of_before_goes_on() {
    let (mut world, [one, two], update) = on_agent_one();
    let mut journal = world.journal.clone();
    let mut host = world.running().unwrap();
    let handed = drive(update, &mut host, &mut journal, &mut ());
    assert!(matches!(handed, Err(DriveError::Host(HostError::Ending))));
    drop(host);
    let program = world.started_program().unwrap();
    assert!(program.to_string_lossy().contains(&two.digest.to_string()));
    world.journal = MemoryJournal::default();
    world.resume_own().unwrap();
    assert_eq!(world.agent_is("back"), Some(one));
    let ended = world.journal.ended().last().cloned();
    let Some(Outcome::RolledBack { failure, .. }) = ended else { panic!("{ended:?}") };
    assert_eq!(failure.cause, Cause::JournalUnreadable);
}

#[test]
fn an_agent_that_systemd_does_not_run_or_that_has_no_way_back_is_not_replaced() {
    let (mut world, one, update) = packaged();
    let outcome = world.update(update.clone()).unwrap();
    let Outcome::Refused { failure } = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.cause, Cause::Unsupported);
    assert!(failure.text.contains("systemd does not run it"), "{failure}");
    let mut document = Release::parse(&world.releases[&one.digest]).unwrap();
    document.plan.way_back = package::WayBack::None;
    let digest = Digest::of(&document.to_bytes());
    world.releases.insert(digest, document.to_bytes());
    let outcome = world.update_own(to(&ReleaseId { digest, ..one }, None, "i3")).unwrap();
    assert!(matches!(outcome, Outcome::Refused { .. }), "{outcome:?}");
    assert_eq!(world.agent_is("refused"), None);
}

/// How it ended, if it began: the journal has one end more than before.
fn ended(world: &World, before: usize) -> Option<Phase> {
    world.journal.ended().get(before).map(Outcome::phase)
}

#[test]
fn after_a_power_cut_anywhere_in_a_good_update_of_the_agent_one_whole_agent_starts() {
    let (start, [one, two], update) = on_agent_one();
    let act = |world: &mut World| world.update_own(update.clone());
    at_each_doing(start, act, Fault::PowerCut, 3, |world, _, step| {
        world.resume_own().unwrap();
        let expected = match ended(world, 1) {
            Some(Phase::Committed) => &two,
            _ => &one,
        };
        assert_eq!(world.agent_is(step).as_ref(), Some(expected), "{step}");
    });
}

#[test]
fn after_a_power_cut_anywhere_in_the_first_update_of_the_agent_one_whole_agent_starts() {
    let (start, one, update) = packaged();
    let act = |world: &mut World| world.update_own(update.clone());
    at_each_doing(start, act, Fault::PowerCut, 3, |world, _, step| {
        world.resume_own().unwrap();
        let committed = ended(world, 0) == Some(Phase::Committed);
        assert_eq!(world.agent_is(step), committed.then(|| one.clone()), "{step}");
    });
}

#[test]
fn after_a_power_cut_anywhere_in_a_bad_update_of_the_agent_the_one_of_before_runs() {
    for first in [false, true] {
        let (mut start, before, bad, update) = match first {
            true => {
                let (world, one, update) = packaged();
                (world, None, one, update)
            }
            false => {
                let (world, [one, two], update) = on_agent_one();
                (world, Some(one), two, update)
            }
        };
        start.bad = Some(bad.digest);
        let act = |world: &mut World| world.update_own(update.clone());
        at_each_doing(start, act, Fault::PowerCut, 3, |world, _, step| {
            world.resume_own().unwrap();
            assert_eq!(world.agent_is(step), before, "{step}");
        });
    }
}

#[test]
fn whatever_fails_in_an_update_of_the_agent_one_whole_agent_starts() {
    const ENOSPC: i32 = 28;
    const EIO: i32 = 5;
    let faults = [Fault::Fails(ENOSPC), Fault::Fails(EIO), Fault::Stays(ENOSPC), Fault::ShortWrite];
    for fault in faults {
        let (start, [one, two], update) = on_agent_one();
        let act = |world: &mut World| world.update_own(update.clone());
        at_each_doing(start, act, fault, 7, |world, _, step| {
            world.resume_own().unwrap();
            let expected = match ended(world, 1) {
                Some(Phase::Committed) => &two,
                // A person is needed, and both are whole.
                Some(Phase::Stuck) => return assert!(world.started_program().is_some(), "{step}"),
                _ => &one,
            };
            assert_eq!(world.agent_is(step).as_ref(), Some(expected), "{step}");
        });
    }
}
