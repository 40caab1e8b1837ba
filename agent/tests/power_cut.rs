//! A host whose power is cut at every single write, one after the other, and comes back. The host is a
//! model: what is on its disk, what runs, what a power cut takes away. What drives it is the real thing.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{cell::Cell, collections::BTreeSet, rc::Rc, time::Duration};

use jiff::Timestamp;
use refit_agent::{
    drive::{self, DriveError, Host, HostError, Observer, Transition},
    journal::{Journal, JournalError, MemoryJournal},
    update::{
        Attempt, BackupId, BackupMethod, BootId, Cause, Event, Failure, InstallId, Lease, LeaseId,
        Moment, Observed, Outcome, Phase, Proof, ReleaseId, Running, SealedBackup, Step, Terms,
        Undo, Update, Verdict,
    },
};
use refit_durable::{Batch, Table};
use refit_proto::{
    names::{Digest, Product, RingName, Version},
    package::{Reboot, WayBack},
};

/// The mains. Every write of the host or the journal goes through [`Power::write`].
#[derive(Clone, Default)]
struct Power {
    writes: Rc<Cell<u32>>,
    cut_at: Rc<Cell<Option<u32>>>,
}

/// The power went before or after the write took effect.
struct Cut;

impl Power {
    /// Does a write, unless the power goes just before it; or does it, and then the power goes.
    fn write(&self, effect: impl FnOnce()) -> Result<(), Cut> {
        let number = self.writes.get();
        self.writes.set(number + 2);
        match self.cut_at.get() {
            Some(cut) if cut == number => Err(Cut),
            Some(cut) if cut == number + 1 => {
                effect();
                Err(Cut)
            }
            _ => {
                effect();
                Ok(())
            }
        }
    }
}

impl From<Cut> for HostError {
    fn from(_: Cut) -> HostError {
        HostError::Failed("power cut".into())
    }
}

/// How the new release turns out.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Story {
    Good,
    FailsProbation,
    FailsInstall,
    RollbackFails,
}

/// What a host holds. The payload of a release has two halves, so that half of one can be seen.
#[derive(Debug, Clone, Default, PartialEq)]
struct Disk {
    halves: BTreeSet<(String, u8)>,
    link: Option<String>,
    /// What a backup says was there; the inner `None`: nothing.
    backup: Option<Option<String>>,
    sealed: bool,
    way_back: bool,
}

struct FakeHost {
    story: Story,
    power: Power,
    disk: Disk,
    running: Option<String>,
    boots: u32,
    clock: u64,
}

impl FakeHost {
    fn running(version: Option<&str>, story: Story, power: Power) -> FakeHost {
        let mut disk = Disk::default();
        for half in [0, 1] {
            disk.halves.extend(version.map(|version| (version.to_owned(), half)));
        }
        disk.link = version.map(str::to_owned);
        let running = disk.link.clone();
        FakeHost { story, power, disk, running, boots: 1, clock: 0 }
    }

    fn now(&self) -> Moment {
        Moment {
            wall: Timestamp::UNIX_EPOCH,
            boot: BootId::parse(&format!("boot-{}", self.boots)).unwrap(),
            running: Running::from_nanos(self.clock * 1_000_000_000),
        }
    }

    /// The power comes back: what the link points to starts again.
    fn boot(&mut self) {
        self.power.cut_at.set(None);
        self.boots += 1;
        self.clock = 1;
        self.running = self.disk.link.clone().filter(|version| self.is_whole(version));
    }

    fn is_whole(&self, version: &str) -> bool {
        [0, 1].iter().all(|half| self.disk.halves.contains(&(version.to_owned(), *half)))
    }

    fn sealed(&self) -> SealedBackup {
        SealedBackup { id: BackupId::parse("backup-1").unwrap(), seal: Digest::of(b"list") }
    }

    fn failed(cause: Cause) -> Event {
        Event::Failed { failure: Failure::new(cause, "the story says so") }
    }

    fn switch(&mut self, version: &str) -> Result<Event, HostError> {
        assert!(self.disk.sealed && self.disk.way_back, "no change without a way back");
        assert_eq!(self.running, None, "nothing runs while the target changes");
        for half in [0, 1] {
            self.power.clone().write(|| {
                self.disk.halves.insert((version.to_owned(), half));
            })?;
            if self.story == Story::FailsInstall {
                return Ok(FakeHost::failed(Cause::SwitchFailed));
            }
        }
        self.power.clone().write(|| self.disk.link = Some(version.to_owned()))?;
        self.power.clone().write(|| self.running = Some(version.to_owned()))?;
        Ok(Event::Switched { at: self.now(), reboot: None })
    }

    fn restore(&mut self) -> Result<Event, HostError> {
        assert!(self.disk.sealed, "only a sealed backup is restored");
        if self.story == Story::RollbackFails {
            return Ok(FakeHost::failed(Cause::BackupDamaged));
        }
        let before = self.disk.backup.clone().expect("sealed, so it is there");
        self.power.clone().write(|| self.running = None)?;
        self.power.clone().write(|| self.disk.link = before.clone())?;
        for half in [1, 0] {
            self.power.clone().write(|| {
                let new = ("2.0".to_owned(), half);
                self.disk.halves.remove(&new);
            })?;
        }
        self.power.clone().write(|| self.running = before.clone())?;
        Ok(Event::WentBack {
            health: before.map(|_| Verdict::Good),
            kept: Vec::new(),
            log: String::new(),
        })
    }

    /// What stays for good: nothing half, nothing that nothing refers to.
    fn tidy(&mut self) -> Result<Event, HostError> {
        self.power.clone().write(|| self.disk.way_back = false)?;
        self.power.clone().write(|| {
            let link = self.disk.link.clone();
            self.disk.halves.retain(|(version, _)| Some(version) == link.as_ref());
        })?;
        Ok(Event::Settled)
    }
}

impl Host for FakeHost {
    fn perform(&mut self, step: &Step) -> Result<Event, HostError> {
        self.clock += 5;
        let power = self.power.clone();
        let version = step.attempt().release.version.to_string();
        Ok(match step {
            Step::Permit { .. } => Event::Permitted,
            Step::Preflight { .. } => Event::PreflightPassed { terms: terms() },
            Step::Fetch { .. } => Event::Fetched,
            Step::AskLeave { .. } => Event::LeaseGiven {
                lease: Lease {
                    id: LeaseId::parse("lease-1").unwrap(),
                    asked: self.now(),
                    lasts: Duration::from_secs(600),
                },
                at: self.now(),
            },
            Step::BackUp { .. } => {
                power.write(|| self.disk.backup = Some(self.disk.link.clone()))?;
                let baseline = self.disk.link.as_ref().map(|_| Verdict::Good);
                let before = Default::default();
                Event::BackedUp { backup: self.sealed().id, baseline, before }
            }
            Step::Quiesce { .. } => {
                power.write(|| self.disk.way_back = true)?;
                power.write(|| self.running = None)?;
                Event::Quiesced
            }
            Step::Seal { .. } => {
                // After a power cut the init system may have started it.
                power.write(|| self.running = None)?;
                power.write(|| self.disk.sealed = true)?;
                Event::Sealed { sealed: self.sealed() }
            }
            Step::Switch { .. } => {
                power.write(|| self.running = None)?;
                self.switch(&version)?
            }
            Step::AskReboot { .. } | Step::Reboot { .. } => panic!("no story boots"),
            Step::Commit { .. } => panic!("no story has update modules"),
            Step::Watch { .. } => {
                let verdict = match self.story {
                    Story::Good | Story::FailsInstall => Verdict::Good,
                    Story::FailsProbation | Story::RollbackFails => {
                        Verdict::Bad { text: "503".into(), checks: Vec::new() }
                    }
                };
                Event::Checked { verdict, at: self.now() }
            }
            Step::GoBack { undo: Undo::StartAgain { .. }, .. } => {
                power.write(|| self.running = self.disk.link.clone())?;
                Event::WentBack {
                    health: Some(Verdict::Good),
                    kept: Vec::new(),
                    log: String::new(),
                }
            }
            Step::GoBack { undo: Undo::Restore { .. }, .. } => self.restore()?,
            Step::Settle { ended: Phase::Stuck, .. } => {
                power.write(|| self.disk.way_back = false)?;
                Event::Settled
            }
            Step::Settle { .. } => self.tidy()?,
        })
    }
}

/// A journal on the same mains.
struct CutJournal {
    inner: MemoryJournal,
    power: Power,
}

impl Journal for CutJournal {
    fn save(&mut self, update: &Update, extras: Batch) -> Result<(), JournalError> {
        let mut saved = Ok(());
        let cut = self.power.write(|| saved = self.inner.save(update, extras));
        match cut {
            Ok(()) => saved,
            Err(Cut) => {
                Err(JournalError::Unreadable { record: "".into(), why: "power cut".into() })
            }
        }
    }

    fn load(&self) -> Result<Option<Update>, JournalError> {
        self.inner.load()
    }

    fn set_aside(&mut self) -> Result<(), JournalError> {
        self.inner.set_aside()
    }
}

/// Reports each move once, in the commit of the move.
struct Reports;

impl Observer for Reports {
    fn on_transition(&mut self, transition: Transition<'_>, extras: &mut Batch) {
        if transition.moved() {
            let word = transition.update.phase().as_str();
            extras.put(Table::new(b'o'), word.as_bytes(), word.as_bytes());
        }
    }
}

fn terms() -> Terms {
    Terms {
        probation: Duration::from_secs(15),
        probation_max: Duration::from_secs(1000),
        check_every: Duration::from_secs(5),
        health: Observed::ByChecks,
        way_back: WayBack::Automatic,
        reboot: Reboot::Never,
        modules: false,
        saves_by: BackupMethod::default(),
        data_outside: false,
    }
}

fn release(version: &str) -> ReleaseId {
    let digest = Digest::of(version.as_bytes());
    ReleaseId { version: Version::parse(version).unwrap(), digest }
}

fn to(version: &str, previous: Option<&str>) -> Update {
    Update::offered(Attempt {
        install: InstallId::parse("install-1").unwrap(),
        product: Product::parse("payments").unwrap(),
        release: release(version),
        ring: RingName::parse("pilot").unwrap(),
        rollout: "1".into(),
        number: 1,
        rollback: false,
        previous: previous.map(release),
        ordered_by: Default::default(),
    })
}

/// Runs a story to its end with the power cut at these writes, and says what is left.
fn run(
    previous: Option<&str>,
    story: Story,
    cuts: &[u32],
) -> (FakeHost, Outcome, MemoryJournal, bool) {
    let power = Power::default();
    let mut host = FakeHost::running(previous, story, power.clone());
    let mut journal = CutJournal { inner: MemoryJournal::default(), power: power.clone() };
    let mut cuts = cuts.iter();
    power.cut_at.set(cuts.next().copied());
    let mut result =
        drive::drive(to("2.0", previous), &mut host, &mut journal, &mut Reports).map(Some);
    let mut was_cut = false;
    loop {
        match result {
            Ok(Some(outcome)) => return (host, outcome, journal.inner, was_cut),
            // Cut after the end was settled, or before the first save; the latter begins again.
            Ok(None) if journal.inner.ended().is_empty() => {
                result = drive::drive(to("2.0", previous), &mut host, &mut journal, &mut Reports)
                    .map(Some);
            }
            Ok(None) => {
                let outcome = journal.inner.ended()[0].clone();
                return (host, outcome, journal.inner, was_cut);
            }
            Err(DriveError::Unexpected(error)) => panic!("{error}"),
            Err(DriveError::Journal(_) | DriveError::Host(_)) => {
                was_cut = true;
                host.boot();
                power.writes.set(0);
                power.cut_at.set(cuts.next().copied());
                result = drive::resume(host.now(), &mut host, &mut journal, &mut Reports);
            }
        }
    }
}

fn check_the_end(story: Story, previous: Option<&str>, host: &FakeHost, outcome: &Outcome) {
    let old = previous.map(str::to_owned);
    let new = Some("2.0".to_owned());
    let expected = match (story, outcome) {
        (Story::Good, Outcome::Committed { proof: Proof::Good, .. }) => new,
        (Story::FailsProbation | Story::FailsInstall, Outcome::RolledBack { .. }) => old.clone(),
        (Story::RollbackFails, Outcome::Stuck { rollback: Some(_), .. }) => new,
        (story, outcome) => panic!("{story:?} ended as {outcome:?}"),
    };
    assert_eq!(host.disk.link, expected, "one whole release, old or new");
    assert_eq!(host.running, expected, "and it runs");
    if let Some(version) = &expected {
        assert!(host.is_whole(version));
    }
    if story != Story::RollbackFails {
        let whole: BTreeSet<_> = host.disk.halves.iter().map(|(version, _)| version).collect();
        assert_eq!(whole, expected.iter().collect(), "and nothing of the other is left");
    }
    assert!(!host.disk.way_back, "the way back is disarmed");
}

const STORIES: [Story; 4] =
    [Story::Good, Story::FailsProbation, Story::FailsInstall, Story::RollbackFails];

#[test]
fn a_power_cut_at_any_write_leaves_the_host_on_a_whole_release() {
    for story in STORIES {
        for previous in [Some("1.0"), None] {
            for cut in 0.. {
                let (host, outcome, journal, was_cut) = run(previous, story, &[cut]);
                check_the_end(story, previous, &host, &outcome);
                assert_eq!(journal.ended(), [outcome], "{story:?}, cut at {cut}: ended once");
                if !was_cut {
                    assert!(cut > 20, "every write was cut once");
                    break;
                }
            }
        }
    }
}

#[test]
fn two_power_cuts_leave_the_host_on_a_whole_release() {
    for story in STORIES {
        for first in 0..80 {
            for second in (first % 3..40).step_by(3) {
                let (host, outcome, _, was_cut) = run(Some("1.0"), story, &[first, second]);
                check_the_end(story, Some("1.0"), &host, &outcome);
                if !was_cut {
                    break;
                }
            }
        }
    }
}

#[test]
fn every_move_is_reported_once_whatever_is_cut() {
    for cut in 0.. {
        let (_, _, journal, was_cut) = run(Some("1.0"), Story::FailsProbation, &[cut]);
        let mut reported = BTreeSet::new();
        let mut backwards = 0;
        for extras in journal.extras() {
            if !reported.insert(format!("{extras:?}")) {
                backwards += 1;
            }
        }
        // A lease does not survive a boot, so an update cut in BackingUp asks for one more.
        assert!(backwards == 0 || (was_cut && backwards <= 2), "cut at {cut}: {backwards} twice");
        assert_eq!(reported.len(), 11, "cut at {cut}: offered to probation, back, rolled back");
        if !was_cut {
            break;
        }
    }
}

#[test]
fn two_hundred_power_cycles_without_an_update_do_nothing() {
    let power = Power::default();
    let mut host = FakeHost::running(Some("1.0"), Story::Good, power);
    let mut journal = MemoryJournal::default();
    let before = host.disk.clone();
    for _ in 0..200 {
        host.boot();
        let ended = drive::resume(host.now(), &mut host, &mut journal, &mut ()).unwrap();
        assert_eq!(ended, None);
    }
    assert_eq!(host.disk, before);
}

#[test]
fn a_journal_that_cannot_be_read_is_never_nothing_pending() {
    let mut journal = MemoryJournal::default();
    journal.save(&to("2.0", None), Batch::new()).unwrap();
    journal.damage(b"refit-journal 8ae119".to_vec());
    let mut host = FakeHost::running(Some("1.0"), Story::Good, Power::default());
    let resumed = drive::resume(host.now(), &mut host, &mut journal, &mut ());
    assert!(matches!(resumed, Err(DriveError::Journal(JournalError::Unreadable { .. }))));
}
