//! Updates whose backups are copied to a second place: one that is away, comes back, or fails with the
//! services down; and what both places still hold after any order of things.

use proptest::prelude::*;
use refit_copy::{Answer, Job, Listed, Pack, Part, Place, Record, Request, Why};

use super::*;
use crate::{
    host::second::{Copier, SecondError, Standing},
    machine::second::SecondPlace,
    restore,
    settings::{Required, SecondSettings},
    update::BackupId,
};

/// A second place in memory, which is away for some of its calls.
#[derive(Clone, Default)]
struct Elsewhere(Arc<Mutex<There>>);

#[derive(Default)]
struct There {
    packs: BTreeSet<String>,
    records: BTreeMap<String, Record>,
    /// The calls, and at which of them it is away.
    calls: usize,
    away: BTreeSet<usize>,
    files: Option<RecordingFiles>,
}

impl Elsewhere {
    fn away_at(calls: impl IntoIterator<Item = usize>) -> Elsewhere {
        let there = There { away: calls.into_iter().collect(), ..There::default() };
        Elsewhere(Arc::new(Mutex::new(there)))
    }

    fn there(&self) -> std::sync::MutexGuard<'_, There> {
        self.0.lock().unwrap()
    }
}

impl There {
    fn save(&mut self, job: &Job, heard: &mut dyn FnMut(Answer)) {
        let Job::Save { files, unsure, sure, record, .. } = job else { panic!("{job:?}") };
        let host = self.files.clone().unwrap();
        let wanted: BTreeSet<&str> = files.iter().map(|file| file.sha256.as_str()).collect();
        let holds = |pack: &&Pack| pack.holds.iter().any(|it| wanted.contains(it.file.as_str()));
        let mut packs: Vec<Pack> = sure.iter().filter(holds).cloned().collect();
        for pack in unsure.iter().filter(holds) {
            if self.packs.contains(&pack.sha256) {
                heard(Answer::Stored { pack: pack.clone() });
                packs.push(pack.clone());
            }
        }
        for file in files {
            let Ok(bytes) = files::read_file(&host, &file.path, u64::MAX - 1) else {
                // The power went.
                return heard(Answer::Failed { why: Why::Host, text: "it can't be read".into() });
            };
            assert_eq!(
                Digest::of(&bytes).to_string(),
                file.sha256,
                "what is sent is what was saved"
            );
            if !packs.iter().any(|pack| pack.holds.iter().any(|part| part.file == file.sha256)) {
                let sha256 = Digest::of(file.sha256.as_bytes()).to_string();
                let part = Part { file: file.sha256.clone(), offset: 0, length: file.length };
                let pack = Pack { sha256, length: file.length, holds: vec![part] };
                self.packs.insert(pack.sha256.clone());
                heard(Answer::Stored { pack: pack.clone() });
                packs.push(pack);
            }
        }
        if let Some(record) = record {
            let mut record = record.clone();
            record.packs = packs;
            self.records.insert(record.id.clone(), record);
        }
        heard(Answer::Done);
    }

    fn prune(&mut self, remove: &[String], keep: &[String]) {
        self.records.retain(|id, _| !remove.contains(id));
        let needed: BTreeSet<&String> =
            self.records.values().flat_map(|record| &record.packs).map(|it| &it.sha256).collect();
        let needed: BTreeSet<String> = needed.into_iter().chain(keep).cloned().collect();
        self.packs.retain(|pack| needed.contains(pack));
    }

    /// Whatever counts there is there whole.
    fn is_whole(&self) {
        for record in self.records.values() {
            for pack in &record.packs {
                assert!(self.packs.contains(&pack.sha256), "{} lacks a pack", record.id);
            }
        }
    }
}

impl Copier for Elsewhere {
    fn run(
        &self,
        request: &Request,
        _: Duration,
        heard: &mut dyn FnMut(Answer),
    ) -> Result<(), SecondError> {
        let mut there = self.there();
        there.calls += 1;
        if there.away.contains(&there.calls) {
            heard(Answer::Failed { why: Why::Away, text: "the disk is unplugged".into() });
            return Ok(());
        }
        match &request.job {
            job @ Job::Save { .. } => there.save(job, heard),
            Job::List => {
                let backups = there.records.values().cloned();
                let backups = backups.map(|record| Listed::Recorded { record }).collect();
                heard(Answer::List { backups });
            }
            Job::Prune { remove, keep } => there.prune(remove, keep),
            Job::Hosts | Job::Verify { .. } | Job::Fetch { .. } => panic!("nobody asked for this"),
        }
        Ok(())
    }
}

impl World {
    fn machine_with(&self, place: &Elsewhere, required: Required) -> HostMachine {
        place.there().files = Some(self.files.clone());
        let settings = SecondSettings {
            place: Place::Folder { path: "/mnt/second".into(), apart_from: None },
            required,
            within: Duration::from_secs(60),
            seal_within: Duration::from_secs(60),
            retention: Default::default(),
            encrypt_to: Vec::new(),
        };
        let mut machine = self.machine();
        let copier = Box::new(place.clone());
        machine.second = Some(SecondPlace { settings, host: Some("h1".into()), copier });
        machine
    }

    fn update_copied(
        &mut self,
        update: Update,
        place: &Elsewhere,
        required: Required,
    ) -> Result<Outcome, String> {
        let machine = self.machine_with(place, required);
        let mut journal = self.journal.clone();
        let mut host = Alone { machine, world: self };
        let outcome = drive(update, &mut host, &mut journal, &mut ());
        self.journal = journal;
        outcome.map_err(|error| error.to_string())
    }

    fn standing(&self, id: &str) -> Option<Standing> {
        let copied = self.machine().backups().copied(&BackupId::parse(id).unwrap()).unwrap();
        copied.map(|copied| copied.standing)
    }
}

#[test]
fn a_backup_is_at_the_second_place_before_the_first_change() {
    let (mut world, update, _) = on_one();
    let place = Elsewhere::default();
    let outcome = world.update_copied(update, &place, Required::Delay).unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    let there = place.there();
    let record = &there.records["i2"];
    assert_eq!((record.from.as_deref(), record.to.as_deref()), (Some("1.0"), Some("2.0")));
    there.is_whole();
    assert!(matches!(world.standing("i2"), Some(Standing::Whole { .. })));
}

#[test]
fn an_update_waits_for_its_second_place_where_that_is_required_and_changes_nothing_until_then() {
    let (mut world, update, _) = on_one();
    let place = Elsewhere::away_at(1..=5);
    let outcome = world.update_copied(update, &place, Required::Delay).unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    assert!(place.there().calls > 5, "it was tried again");
    // With the place away for good, one try of the step leaves everything as it is.
    let (mut world, update, _) = on_one();
    let mut machine = world.machine_with(&Elsewhere::away_at(1..=9), Required::Delay);
    let before = world.outside();
    let attempt = update.attempt().clone();
    machine.learn(&world.releases[&attempt.release.digest]).unwrap();
    let mut perform =
        |step: Step| machine.perform(&step, &mut world.frames.clone(), &|_| Waited::Over).unwrap();
    let Event::PreflightPassed { terms } =
        perform(Step::Preflight { attempt: attempt.clone(), pause: Duration::ZERO })
    else {
        panic!("no preflight")
    };
    perform(Step::Fetch { attempt: attempt.clone(), pause: Duration::ZERO });
    let event = perform(Step::BackUp { attempt, terms });
    let Event::Failed { failure } = event else { panic!("{event:?}") };
    assert_eq!(failure.cause, Cause::SecondPlaceAway, "{failure}");
    let after: BTreeMap<_, _> =
        world.outside().into_iter().filter(|(path, _)| before.contains_key(path)).collect();
    assert_eq!(after, before);
    assert_eq!(world.stands_on("waiting").unwrap().as_str(), "1.0");
    world.bad = None;
}

#[test]
fn an_update_is_refused_with_nothing_changed_where_the_settings_say_so() {
    let (mut world, update, _) = on_one();
    let before = world.outside();
    let place = Elsewhere::away_at(1..=1);
    let outcome = world.update_copied(update, &place, Required::Refuse).unwrap();
    let Outcome::Refused { failure } = &outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.cause, Cause::BackupFailed, "{failure}");
    assert!(failure.text.contains("the disk is unplugged"), "{failure}");
    let after: BTreeMap<_, _> =
        world.outside().into_iter().filter(|(path, _)| before.contains_key(path)).collect();
    assert_eq!(after, before);
    assert_eq!(world.stands_on("refused").unwrap().as_str(), "1.0");
}

#[test]
fn a_second_place_that_goes_away_with_the_services_down_brings_the_old_release_up_again() {
    for (required, cause) in
        [(Required::Delay, Cause::SecondPlaceAway), (Required::Refuse, Cause::BackupFailed)]
    {
        let (mut world, update, _) = on_one();
        let place = Elsewhere::away_at(2..=2);
        let outcome = world.update_copied(update, &place, required).unwrap();
        let Outcome::RolledBack { failure, .. } = &outcome else { panic!("{outcome:?}") };
        assert_eq!(failure.cause, cause, "{failure}");
        assert!(!outcome.quarantines(), "it is not the release's fault");
        assert_eq!(world.stands_on("back").unwrap().as_str(), "1.0");
        world.is_tidy("back");
    }
}

#[test]
fn where_it_is_not_required_the_update_goes_on_and_the_copy_is_made_after_it_or_noted_as_missing() {
    let (mut world, update, two) = on_one();
    let place = Elsewhere::away_at(1..=2);
    let outcome = world.update_copied(update, &place, Required::No).unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    assert!(matches!(world.standing("i2"), Some(Standing::Whole { .. })));
    assert!(place.there().records.contains_key("i2"));

    let three = publish(&mut world, "3.0", &["web"]);
    let gone = Elsewhere::away_at(1..=100);
    let outcome =
        world.update_copied(attempt(&three, Some(&two), "i3"), &gone, Required::No).unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    let Some(Standing::Failed { text, .. }) = world.standing("i3") else { panic!("not noted") };
    assert!(text.contains("the disk is unplugged"), "{text}");
}

#[test]
fn a_power_cut_or_a_failure_at_any_operation_leaves_a_whole_release_and_nothing_half_at_the_second_place()
 {
    let (start, update, _) = on_one();
    let places = Mutex::new(BTreeMap::new());
    for fault in [Fault::PowerCut, Fault::Fails(28)] {
        at_each_doing(
            start.fork(),
            |world| {
                let place = Elsewhere::default();
                places.lock().unwrap().insert(0, place.clone());
                world.update_copied(update.clone(), &place, Required::Delay)
            },
            fault,
            7,
            |world, done, step| {
                if done.is_err() || fault == Fault::PowerCut {
                    world.resume();
                }
                assert!(world.stands_on(step).is_some(), "{step}");
                world.can_be_mended(step);
                places.lock().unwrap()[&0].there().is_whole();
            },
        );
    }
}

#[derive(Debug, Clone)]
enum Turn {
    /// A good release, or one that fails its check; at which of its calls the place is away.
    Update(bool, Option<usize>),
    /// Which of the backups that are here is brought back.
    Restore(usize),
}

fn turn() -> impl Strategy<Value = Turn> {
    let away = prop::option::weighted(0.3, 1..5_usize);
    prop_oneof![
        3 => (prop::bool::weighted(0.7), away).prop_map(|(good, away)| Turn::Update(good, away)),
        1 => (0..4_usize).prop_map(Turn::Restore),
    ]
}

impl World {
    /// Whatever the link, the journal or a backup that is kept refers to is here, whole.
    fn holds_what_is_referred_to(&self, place: &Elsewhere, step: &str) {
        self.stands_on(step);
        let machine = self.machine();
        for id in machine.backups().list().unwrap() {
            let sealed = machine.backups().own_seal(&id).unwrap();
            let index = machine.backups().verify(&sealed).unwrap_or_else(|e| panic!("{step}: {e}"));
            let target =
                index.link_target().and_then(|target| super::super::settle::release_in(target));
            if let Some(digest) = target {
                let led = machine.tree().documents(&payments(), &digest);
                let led = led.unwrap_or_else(|error| panic!("{step}: {id} leads nowhere: {error}"));
                machine.tree().verify(&led, Extras::Ignored).unwrap();
            }
        }
        if let Some(Update::Finished { outcome: Outcome::Committed { sealed, .. }, .. }) =
            self.journal.load().unwrap()
        {
            machine.backups().verify(&sealed).unwrap_or_else(|e| panic!("{step}: {e}"));
        }
        place.there().is_whole();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn in_any_order_of_updates_going_back_and_restores_nothing_that_is_referred_to_is_removed_anywhere(
        turns in prop::collection::vec(turn(), 1..8),
    ) {
        let (mut world, _, _) = on_one();
        let place = Elsewhere::default();
        for (n, turn) in turns.into_iter().enumerate() {
            let step = format!("{n}: {turn:?}");
            let now = world.machine().tree().installed(&payments()).unwrap().map(|it| it.id);
            match turn {
                Turn::Update(good, away) => {
                    let release = publish(&mut world, &format!("9.{n}"), &["web"]);
                    world.bad = (!good).then_some(release.digest);
                    let calls = place.there().calls;
                    place.there().away = away.map(|away| calls + away).into_iter().collect();
                    let update = attempt(&release, now.as_ref(), &format!("u{n}"));
                    world.update_copied(update, &place, Required::No).unwrap();
                    world.bad = None;
                }
                Turn::Restore(which) => {
                    let ids = world.machine().backups().list().unwrap();
                    let Some(id) = ids.get(which).cloned() else { continue };
                    let mut machine = world.machine_with(&place, Required::No);
                    let mut journal = world.journal.clone();
                    let install = InstallId::parse(&format!("r{n}")).unwrap();
                    let begun = restore::begin(&mut machine, &journal, &id, &install, &|_| None);
                    if begun.is_ok() {
                        restore::go_on(&mut machine, &mut journal, &|_| Waited::Over).unwrap();
                    }
                }
            }
            world.holds_what_is_referred_to(&place, &step);
        }
    }
}
