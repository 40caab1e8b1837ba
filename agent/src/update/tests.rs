//! Every event in every state, and what no order of events may lead to.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;
use refit_proto::package::WayBack;

use super::{testing::*, *};

/// The drawing, as a table: state, event, and the phase that follows. A dot: the state stays what it
/// is. What is not in here must be refused.
const ARROWS: &str = "
    offered      permitted             preflight
    offered      weather               offered
    offered      release's_fault       refused
    offered      host's_fault          refused
    offered      not_permitted         refused
    offered      rescued               .
    offered      taken-back            dropped
    offered      back-out              dropped
    offered      resumed               .
    offered      resumed_after_a_boot  .
    preflight    preflight-passed      fetching
    preflight    weather               preflight
    preflight    release's_fault       refused
    preflight    host's_fault          refused
    preflight    not_permitted         refused
    preflight    rescued               .
    preflight    taken-back            dropped
    preflight    back-out              dropped
    preflight    resumed               .
    preflight    resumed_after_a_boot  .
    fetching     fetched               waiting
    fetching     weather               fetching
    fetching     release's_fault       refused
    fetching     host's_fault          refused
    fetching     not_permitted         refused
    fetching     rescued               .
    fetching     taken-back            dropped
    fetching     back-out              dropped
    fetching     resumed               .
    fetching     resumed_after_a_boot  .
    waiting      lease-given           backing-up
    waiting      held                  waiting
    waiting      weather               waiting
    waiting      release's_fault       refused
    waiting      host's_fault          refused
    waiting      not_permitted         refused
    waiting      rescued               .
    waiting      taken-back            dropped
    waiting      back-out              dropped
    waiting      resumed               .
    waiting      resumed_after_a_boot  .
    backing-up   backed-up             quiescing
    backing-up   held                  waiting
    backing-up   weather               waiting
    backing-up   release's_fault       refused
    backing-up   host's_fault          refused
    backing-up   not_permitted         refused
    backing-up   rescued               .
    backing-up   taken-back            .
    backing-up   back-out              refused
    backing-up   resumed               .
    backing-up   resumed_after_a_boot  waiting
    quiescing    quiesced              sealing
    quiescing    weather               rolling-back
    quiescing    release's_fault       rolling-back
    quiescing    host's_fault          rolling-back
    quiescing    not_permitted         rolling-back
    quiescing    rescued               rolling-back
    quiescing    taken-back            .
    quiescing    back-out              .
    quiescing    resumed               quiescing
    quiescing    resumed_after_a_boot  quiescing
    sealing      sealed                switching
    sealing      weather               rolling-back
    sealing      release's_fault       rolling-back
    sealing      host's_fault          rolling-back
    sealing      not_permitted         rolling-back
    sealing      rescued               rolling-back
    sealing      taken-back            .
    sealing      back-out              .
    sealing      resumed               sealing
    sealing      resumed_after_a_boot  sealing
    switching    switched              probation
    switching    weather               rolling-back
    switching    release's_fault       rolling-back
    switching    host's_fault          rolling-back
    switching    not_permitted         rolling-back
    switching    rescued               rolling-back
    switching    taken-back            .
    switching    back-out              .
    switching    resumed               switching
    switching    resumed_after_a_boot  switching
    rebooting    may-reboot            rebooting
    rebooting    reboot-held           rebooting
    rebooting    still-up              rebooting
    rebooting    rebooted              probation
    rebooting    weather               rolling-back
    rebooting    release's_fault       rolling-back
    rebooting    host's_fault          rolling-back
    rebooting    not_permitted         rolling-back
    rebooting    rescued               rolling-back
    rebooting    taken-back            .
    rebooting    back-out              rolling-back
    rebooting    resumed               .
    rebooting    resumed_after_a_boot  probation
    probation    good                  probation
    probation    bad                   rolling-back
    probation    unknown               probation
    probation    weather               .
    probation    release's_fault       rolling-back
    probation    host's_fault          rolling-back
    probation    not_permitted         rolling-back
    probation    rescued               rolling-back
    probation    taken-back            .
    probation    back-out              rolling-back
    probation    resumed               probation
    probation    resumed_after_a_boot  probation
    rolling-back went-back             rolled-back
    rolling-back weather               rolling-back
    rolling-back release's_fault       rolling-back
    rolling-back host's_fault          rolling-back
    rolling-back not_permitted         rolling-back
    rolling-back rescued               .
    rolling-back taken-back            .
    rolling-back back-out              .
    rolling-back resumed               .
    rolling-back resumed_after_a_boot  .
    END          settled               END
    committed    rescued               rolled-back
    END          rescued               .
    END          taken-back            .
    END          back-out              .
    END          resumed               .
    END          resumed_after_a_boot  .
";

/// What the table says follows; `None`: the event cannot happen there.
fn arrow(phase: Phase, event: &str) -> Option<&'static str> {
    let find = |state: &str| {
        ARROWS.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == state && words.next()?.replace('_', " ") == event)
                .then(|| words.next())
                .flatten()
        })
    };
    find(phase.as_str()).or_else(|| if phase.is_end() { find("END") } else { None })
}

#[test]
fn every_event_in_every_state_moves_as_drawn_or_is_refused() {
    let states = every_state();
    let phases: BTreeSet<Phase> = states.iter().map(Update::phase).collect();
    assert_eq!(phases.len(), Phase::ALL.len(), "every phase is tried");
    for update in states {
        for (name, event) in every_event() {
            let (phase, context) = (update.phase(), format!("{name} in {}", update.phase()));
            match (arrow(phase, name), update.clone().on(event.clone())) {
                (None, Err(error)) => {
                    assert_eq!((error.phase, error.event), (phase, event.name()), "{context}");
                }
                (Some("."), Ok(after)) => assert_eq!(after, update, "{context}"),
                (Some("END"), Ok(after)) => {
                    assert_eq!(after.phase(), phase, "{context}");
                    assert_eq!(after.next(), None, "{context}");
                }
                (Some(to), Ok(after)) => assert_eq!(after.phase().as_str(), to, "{context}"),
                (drawn, got) => panic!("{context}: drawn {drawn:?}, got {got:?}"),
            }
        }
    }
}

#[test]
fn every_line_of_the_table_is_tried() {
    let names: Vec<_> = every_event().into_iter().map(|(name, _)| name).collect();
    for line in ARROWS.lines().filter(|line| !line.trim().is_empty()) {
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words.len(), 3, "{line}");
        assert!(words[0] == "END" || Phase::parse(words[0]).is_some(), "{line}");
        assert!(names.contains(&words[1].replace('_', " ").as_str()), "{line}");
    }
}

#[test]
fn only_what_is_settled_waits_for_nothing() {
    for update in every_state() {
        assert!(update.next().is_some(), "{}", update.phase());
    }
}

#[test]
fn weather_never_refuses_a_release_however_long_it_lasts() {
    for update in every_state().into_iter().take(4) {
        let phase = update.phase();
        let mut update = update;
        let mut longest = Duration::ZERO;
        for _ in 0..2000 {
            update = update.on(failed(Cause::FetchFailed)).unwrap();
            let pause = match update.next().unwrap() {
                Step::Permit { pause, .. }
                | Step::Preflight { pause, .. }
                | Step::Fetch { pause, .. }
                | Step::AskLeave { pause, .. } => pause,
                other => panic!("{other:?}"),
            };
            assert!(pause >= longest, "the pause never shrinks while the weather lasts");
            longest = pause;
        }
        assert_eq!(update.phase(), phase);
        assert!(longest >= Duration::from_secs(60) && longest <= Duration::from_secs(3600));
    }
}

#[test]
fn a_lease_that_ran_out_begins_nothing() {
    let waiting = every_state().remove(3);
    for late in [at(700), at(7000), at_boot("boot-2", 101)] {
        let given = Event::LeaseGiven { lease: lease(), at: late };
        let after = waiting.clone().on(given).unwrap();
        assert_eq!(after.phase(), Phase::Waiting);
        assert_eq!(after.lease(), None);
    }
    let given = Event::LeaseGiven { lease: lease(), at: at(699) };
    assert_eq!(waiting.on(given).unwrap().phase(), Phase::BackingUp);
}

/// The phase after these checks.
fn watch(terms: Terms, checks: impl IntoIterator<Item = Event>) -> Update {
    let mut update = probation(change_with(terms));
    for check in checks {
        if update.phase() != Phase::Probation {
            break;
        }
        update = update.on(check).unwrap();
    }
    update
}

fn proof(update: &Update) -> Option<Proof> {
    match update {
        Update::Finished { outcome: Outcome::Committed { proof, .. }, .. } => Some(*proof),
        _ => None,
    }
}

#[test]
fn a_release_is_committed_when_it_was_good_for_the_whole_of_its_probation() {
    let early = watch(terms(), (1..=3).map(|n| good(100 + 5 * n)));
    assert_eq!(early.phase(), Phase::Probation);
    let whole = watch(terms(), (1..=4).map(|n| good(100 + 5 * n)));
    assert_eq!(proof(&whole), Some(Proof::Good));
}

#[test]
fn what_has_proved_itself_is_committed_when_the_update_modules_agree_and_else_undone() {
    let asked = Terms { modules: true, ..terms() };
    let proven = watch(asked, (1..=4).map(|n| good(100 + 5 * n)));
    assert_eq!(proven.phase(), Phase::Probation);
    assert!(matches!(proven.next(), Some(Step::Commit { .. })), "{proven:?}");
    assert_eq!(proof(&proven.clone().on(Event::Agreed).unwrap()), Some(Proof::Good));
    let resumed = proven.clone().on(Event::Resumed { at: at_boot("boot-2", 1) }).unwrap();
    assert!(matches!(resumed.next(), Some(Step::Commit { .. })), "asked again after a cut");
    for event in [failed(Cause::HookFailed), failed(Cause::HostFault), Event::BackOut] {
        assert_eq!(proven.clone().on(event).unwrap().phase(), Phase::RollingBack);
    }
    assert!(proven.clone().on(good(200)).is_err(), "nobody asks for its health any more");
    let read: Update = serde_json::from_value(serde_json::to_value(&proven).unwrap()).unwrap();
    assert_eq!(read, proven);
    assert!(probation(change()).on(Event::Agreed).is_err(), "nothing was proved");
}

#[test]
fn unknown_is_not_good_and_breaks_the_time_that_was() {
    let checks = [good(105), good(110), good(115), unknown(120), good(125), good(130), good(135)];
    let update = watch(terms(), checks);
    assert_eq!(update.phase(), Phase::Probation);
    assert_eq!(proof(&update.on(good(140)).unwrap()), Some(Proof::Good));
}

#[test]
fn unknown_is_never_bad_and_ends_as_unproven() {
    let update = watch(terms(), (1..20).map(|n| unknown(100 + 5 * n)));
    assert_eq!(update.phase(), Phase::Probation);
    assert_eq!(proof(&update.on(unknown(200)).unwrap()), Some(Proof::Unproven));
}

#[test]
fn one_good_check_after_a_long_unknown_does_not_prove_a_release() {
    let checks = (1..20).map(|n| unknown(100 + 5 * n)).chain([good(200)]);
    assert_eq!(proof(&watch(terms(), checks)), Some(Proof::Unproven));
}

#[test]
fn a_release_without_checks_is_unobserved_once_its_tree_is_verified() {
    let terms = Terms { health: Observed::Not, ..terms() };
    assert_eq!(proof(&watch(terms.clone(), [good(101)])), Some(Proof::Unobserved));
    assert_eq!(watch(terms, [bad()]).phase(), Phase::RollingBack);
}

#[test]
fn time_in_which_nobody_looked_proves_nothing() {
    // Suspended, stopped, or under a clock that was set.
    let late = watch(terms(), [good(105), good(100_000)]);
    assert_eq!(late.phase(), Phase::Probation);
    // Off: another boot, whatever its clock says.
    let checked = Event::Checked { verdict: Verdict::Good, at: at_boot("boot-2", 1_000_000) };
    let off = late.on(checked).unwrap();
    let Update::Probation { probation, .. } = &off else { panic!("{off:?}") };
    assert_eq!(probation.watched, Duration::from_secs(5 + 10));
    // And time does not run backwards.
    let checked = Event::Checked { verdict: Verdict::Good, at: at_boot("boot-2", 5) };
    let Update::Probation { probation, .. } = off.on(checked).unwrap() else { panic!() };
    assert_eq!(probation.watched, Duration::from_secs(5 + 10));
}

#[test]
fn what_was_red_before_is_not_the_releases_fault() {
    let red =
        Change { baseline: Some(Verdict::Bad { text: "503".into(), checks: vec![] }), ..change() };
    for (change, cause, quarantined) in
        [(change(), Cause::HealthCheckFailed, true), (red, Cause::UnhealthyBefore, false)]
    {
        let back = probation(change).on(bad()).unwrap();
        assert_eq!(back.failure().map(|failure| failure.cause), Some(cause));
        let went_back =
            Event::WentBack { health: Some(Verdict::Good), kept: Vec::new(), log: String::new() };
        let Update::Finished { outcome, .. } = back.on(went_back).unwrap() else { panic!() };
        assert_eq!(outcome.quarantines(), quarantined);
    }
}

#[test]
fn going_back_is_tried_again_and_a_damaged_backup_is_not() {
    let damaged = rolling_back().on(failed(Cause::BackupDamaged)).unwrap();
    assert_eq!(damaged.phase(), Phase::Stuck);
    let mut update = rolling_back();
    let mut waited = Duration::ZERO;
    while update.phase() == Phase::RollingBack {
        let Some(Step::GoBack { pause, .. }) = update.next() else { panic!("{update:?}") };
        waited += pause;
        update = update.on(failed(Cause::RollbackFailed)).unwrap();
    }
    assert_eq!(update.phase(), Phase::Stuck);
    assert!((60..=180).contains(&waited.as_secs()), "{waited:?}");
}

#[test]
fn a_release_without_a_way_back_ends_as_stuck_with_its_backup_kept() {
    let change = change_with(Terms { way_back: WayBack::None, ..terms() });
    let switching = Update::Switching { change: change.clone(), sealed: sealed() };
    for update in [
        probation(change.clone()).on(bad()).unwrap(),
        switching.on(failed(Cause::SwitchFailed)).unwrap(),
    ] {
        let Update::Finished { outcome: Outcome::Stuck { rollback, backup, .. }, .. } = update
        else {
            panic!("{update:?}")
        };
        assert_eq!((rollback, backup), (None, sealed().id));
    }
    // As long as nothing was changed, the services can just be started again.
    let sealing = Update::Sealing { change };
    let back = sealing.on(failed(Cause::BackupFailed)).unwrap();
    assert!(matches!(back, Update::RollingBack { undo: Undo::StartAgain { .. }, .. }));
}

#[test]
fn an_update_that_is_interrupted_a_few_times_goes_on_and_one_that_always_is_goes_back() {
    for update in [
        Update::Quiescing { change: change() },
        Update::Sealing { change: change() },
        Update::Switching { change: change(), sealed: sealed() },
        probation(change()),
    ] {
        let phase = update.phase();
        let resumed = |boot: u32| Event::Resumed { at: at_boot(&format!("boot-{boot}"), 1) };
        let mut update = update;
        for boot in 0..6 {
            update = update.on(resumed(boot)).unwrap();
            assert_eq!(update.phase(), phase, "start {boot}");
        }
        for boot in 6..50 {
            update = update.on(resumed(boot)).unwrap();
        }
        assert_eq!(update.phase(), Phase::RollingBack, "from {phase}");
    }
}

fn waiting_for_a_boot() -> Update {
    let switching = Update::Switching { change: change(), sealed: sealed() };
    switching.on(Event::Switched { at: at(110), reboot: Some(reboot_need()) }).unwrap()
}

#[test]
fn a_host_that_does_not_boot_is_asked_twice_and_goes_back() {
    let mut update = waiting_for_a_boot();
    for _ in 0..2 {
        assert!(matches!(update.next(), Some(Step::AskReboot { .. })), "asked again each time");
        update = update.on(Event::MayReboot).unwrap();
        assert!(matches!(update.next(), Some(Step::Reboot { .. })));
        update = update.on(still_up()).unwrap();
    }
    assert_eq!(update.phase(), Phase::RollingBack);
    assert_eq!(update.failure().map(|failure| failure.cause), Some(Cause::RebootFailed));
}

#[test]
fn starts_of_the_agent_in_the_same_boot_count_only_once_the_host_was_asked() {
    let mut update = waiting_for_a_boot();
    for _ in 0..50 {
        update = update.on(Event::Resumed { at: at(200) }).unwrap();
        assert_eq!(update, waiting_for_a_boot());
    }
    for _ in 0..2 {
        assert_eq!(update.phase(), Phase::Rebooting);
        update = update.on(Event::MayReboot).unwrap();
        update = update.on(Event::Resumed { at: at(200) }).unwrap();
    }
    assert_eq!(update.failure().map(|failure| failure.cause), Some(Cause::RebootFailed));
}

#[test]
fn what_holds_a_boot_off_is_shown_and_has_a_bound() {
    let held = |seconds| {
        let failure = failure(Cause::Busy);
        Event::RebootHeld { failure, at: at(seconds) }
    };
    let mut update = waiting_for_a_boot();
    for seconds in [111, 300, 709] {
        update = update.on(held(seconds)).unwrap();
        assert_eq!(update.phase(), Phase::Rebooting);
        assert_eq!(update.failure(), Some(&failure(Cause::Busy)), "it says why it waits");
        let Some(Step::AskReboot { pause, .. }) = update.next() else { panic!("{update:?}") };
        assert!(pause <= Duration::from_secs(15), "{pause:?}");
    }
    let over = update.on(held(710)).unwrap();
    assert_eq!(over.phase(), Phase::RollingBack);
    assert!(over.failure().unwrap().text.contains("held off for 600 s"), "{over:?}");
}

/// What answers the step that the update waits for, if all goes well.
fn answer(update: &Update) -> Event {
    match update.next() {
        Some(Step::Permit { .. }) => Event::Permitted,
        Some(Step::Preflight { .. }) => Event::PreflightPassed { terms: terms() },
        Some(Step::Fetch { .. }) => Event::Fetched,
        Some(Step::AskLeave { .. }) => Event::LeaseGiven { lease: lease(), at: at(101) },
        Some(Step::BackUp { .. }) => {
            let before = Baseline::default();
            Event::BackedUp { backup: sealed().id, baseline: Some(Verdict::Good), before }
        }
        Some(Step::Quiesce { .. }) => Event::Quiesced,
        Some(Step::Seal { .. }) => Event::Sealed { sealed: sealed() },
        Some(Step::Switch { .. }) => Event::Switched { at: at(110), reboot: None },
        Some(Step::AskReboot { .. }) => Event::MayReboot,
        Some(Step::Reboot { .. }) => Event::Resumed { at: at_boot("boot-2", 1) },
        Some(Step::Watch { .. }) => good(200),
        Some(Step::Commit { .. }) => Event::Agreed,
        Some(Step::GoBack { .. }) => {
            Event::WentBack { health: Some(Verdict::Good), kept: Vec::new(), log: String::new() }
        }
        Some(Step::Settle { .. }) | None => Event::Settled,
    }
}

/// Whether the update has begun to change the host.
fn touches(update: &Update) -> bool {
    match update.next() {
        Some(
            Step::Switch { .. }
            | Step::AskReboot { .. }
            | Step::Reboot { .. }
            | Step::Watch { .. }
            | Step::Commit { .. },
        ) => true,
        Some(Step::GoBack { undo, .. }) => matches!(undo, Undo::Restore { .. }),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_happens_in_whatever_order(
        // Half of the time what the update waits for, so that late states are reached too.
        order in prop::collection::vec(prop::option::of(0..every_event().len()), 1..60),
        reboot in any::<bool>(),
    ) {
        let events = every_event();
        let mut update = Update::offered(attempt_of("payments", "2.0"));
        let mut was_sealed = false;
        let mut has_switched = false;
        for chosen in order {
            let mut event = chosen.map_or_else(|| answer(&update), |index| events[index].1.clone());
            if let Event::Switched { reboot: need, .. } = &mut event {
                *need = reboot.then(reboot_need);
            }
            // What the file system tells outweighs the journal.
            let is_rescue = matches!(event, Event::Rescued { .. });
            let is_seal = matches!(event, Event::Sealed { .. });
            let before = update.clone();
            let Ok(after) = update.on(event) else {
                // Refused: nothing has moved.
                update = before;
                continue;
            };
            was_sealed |= is_seal && after.phase() == Phase::Switching;
            has_switched |= touches(&after);
            prop_assert!(!touches(&after) || was_sealed, "no change without a sealed backup");
            match after.phase() {
                Phase::Refused | Phase::Dropped => {
                    prop_assert!(!has_switched, "what was refused left the target untouched");
                    prop_assert!(before.phase() <= Phase::BackingUp || before.phase().is_end());
                }
                Phase::Committed => prop_assert!(was_sealed),
                _ => {}
            }
            if before.phase().is_end() && !is_rescue {
                prop_assert_eq!(before.phase(), after.phase(), "an end is an end");
            }
            if after.phase() >= Phase::BackingUp && after.phase() <= Phase::Committed {
                prop_assert!(after.lease().is_some(), "nothing begins without a lease");
            }
            let written = serde_json::to_vec(&after).unwrap();
            prop_assert_eq!(&serde_json::from_slice::<Update>(&written).unwrap(), &after);
            update = after;
        }
    }
}
