//! What a report changes: the new placement, and the cells that change with it. A repeated or older report
//! changes nothing. Leaves out whether the report is genuine; that was checked before.

use jiff::Timestamp;
use refit_proto::{
    names::{Digest, NameError, Product, RingName, Version},
    wire,
};

use super::brake;
use crate::fleet::{
    Failed, FailureKind, Flight, Have, Health, Phase, Placement, ReportedFailure, ReportedHold,
    ReportedHook, RingRecord, Rollout, RolloutId, TallyKey, changes, placement::Stage,
};

/// Most releases that a host may name as quarantined: it keeps the newest.
const MOST_QUARANTINED: usize = 64;
/// Longest text of a host that is kept, in bytes. A record stays small whatever a host sends.
const LONGEST_TEXT: usize = 1000;
/// The same of a log, whose end is kept.
const LONGEST_LOG: usize = 8 << 10;
/// Most hooks of an update that are kept, and how much of what they wrote, in bytes: each, and in all.
const MOST_HOOKS: usize = 32;
const LONGEST_OUTPUT: usize = 4 << 10;
const LONGEST_OUTPUT_IN_ALL: usize = 16 << 10;

/// What a report says of one product, parsed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProductReport {
    /// The product.
    pub product: Product,
    /// The ring that the host has found for itself.
    pub ring: Option<RingName>,
    /// What runs.
    pub have: Option<Have>,
    /// Where the update stands.
    pub phase: Option<Phase>,
    /// The update under way, or the last one.
    pub attempt: Option<Attempt>,
    /// Why the last update did not end well.
    pub failure: Option<ReportedFailure>,
    /// How the product is.
    pub health: Health,
    /// Releases that the host refuses.
    pub quarantine: Vec<Digest>,
    /// Why the host itself does not move.
    pub hold: Option<ReportedHold>,
    /// What runs is newer than the ring's current release.
    pub ahead: bool,
    /// How hooks went.
    pub hooks: Vec<ReportedHook>,
}

/// Which attempt a report is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The rollout that offered it.
    pub rollout: RolloutId,
    /// Counted from 1.
    pub number: u32,
    /// The release document's digest.
    pub digest: Digest,
    /// The host had a lease.
    pub leased: bool,
}

/// Why a report cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// A name in it is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The attempt names no rollout.
    #[error("the attempt is of {0:?}, which names no rollout")]
    Rollout(String),
    /// Too long a list.
    #[error("the report names {0} quarantined releases, at most {MOST_QUARANTINED} are kept")]
    TooManyQuarantined(usize),
}

impl TryFrom<wire::ProductState> for ProductReport {
    type Error = ReportError;

    fn try_from(wire: wire::ProductState) -> Result<Self, ReportError> {
        if wire.quarantine.len() > MOST_QUARANTINED {
            return Err(ReportError::TooManyQuarantined(wire.quarantine.len()));
        }
        let ring = Some(wire.ring).filter(|ring| !ring.is_empty());
        let quarantine: Result<Vec<_>, _> =
            wire.quarantine.iter().map(|digest| Digest::parse(digest)).collect();
        Ok(ProductReport {
            product: Product::parse(&wire.product)?,
            ring: ring.map(|ring| RingName::parse(&ring)).transpose()?,
            have: wire.installed.map(have).transpose()?,
            phase: Phase::parse(&wire.phase),
            attempt: wire
                .attempt
                .filter(|it| !it.rollout_id.is_empty())
                .map(attempt)
                .transpose()?,
            failure: wire.failure.map(reported),
            health: Health::parse(&wire.health),
            quarantine: quarantine?,
            hold: wire.hold.map(reported_hold),
            ahead: wire.ahead,
            hooks: hooks(wire.hooks),
        })
    }
}

fn have(installed: wire::Installed) -> Result<Have, ReportError> {
    let version = Version::parse(&installed.version)?;
    Ok(Have { version, digest: Digest::from_bytes(&installed.digest)? })
}

fn attempt(attempt: wire::Attempt) -> Result<Attempt, ReportError> {
    let rollout = RolloutId::parse(&attempt.rollout_id)
        .map_err(|_| ReportError::Rollout(attempt.rollout_id.chars().take(80).collect()))?;
    let digest = Digest::from_bytes(&attempt.digest)?;
    let leased = !attempt.lease_id.is_empty();
    Ok(Attempt { rollout, number: attempt.number, digest, leased })
}

/// What went wrong on a host, in its words, as long as they may be.
pub fn reported(failure: wire::Failure) -> ReportedFailure {
    let wire::Failure { cause, text, help, mut log } = failure;
    // The end is where the error stands.
    log.drain(..log.ceil_char_boundary(log.len().saturating_sub(LONGEST_LOG)));
    ReportedFailure { cause: short(cause), text: short(text), help: short(help), log }
}

/// Why a host does not move, in its words, as long as they may be.
pub fn reported_hold(hold: wire::Hold) -> ReportedHold {
    ReportedHold {
        reason: short(hold.reason),
        text: short(hold.text),
        since: hold.since.parse().ok(),
        until: hold.until.parse().ok(),
        who: short(hold.who),
    }
}

fn hooks(runs: Vec<wire::HookRun>) -> Vec<ReportedHook> {
    let each = LONGEST_OUTPUT.min(LONGEST_OUTPUT_IN_ALL / runs.len().clamp(1, MOST_HOOKS));
    let kept = runs.into_iter().take(MOST_HOOKS).map(|run| {
        let wire::HookRun { package, when, number, good, how, mut output } = run;
        // The end is where the error stands.
        output.drain(..output.ceil_char_boundary(output.len().saturating_sub(each)));
        let (package, when, how) = (short(package), short(when), short(how));
        ReportedHook { package, when, number, good, how, output }
    });
    kept.collect()
}

/// Cut where a character begins.
fn short(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(LONGEST_TEXT));
    text
}

/// A placement's change: what to store, and what to add to the cells with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The placement as it is then.
    pub placement: Placement,
    /// At most one cell less and one more.
    pub tally: Vec<(TallyKey, i64)>,
    /// There is nothing to store.
    pub is_empty: bool,
}

impl Step {
    /// From one placement to the other.
    pub(super) fn between(before: &Placement, mut after: Placement, now: Timestamp) -> Step {
        // A host in flight holds its slot where it was let in; and a failure is seen there before it goes.
        let stays = before.flight.is_some() || after.flight.is_some();
        if !stays && after.ring != after.selected_by {
            after.ring.clone_from(&after.selected_by);
            after.met = None;
            after.refuses = false;
        }
        let is_empty = *before == after;
        let heard = |placement: &Placement| (placement.seq, placement.last_report_at);
        let (seq, last_report_at) = heard(&after);
        (after.seq, after.last_report_at) = heard(before);
        if *before != after {
            after.changed_at = now;
        }
        (after.seq, after.last_report_at) = (seq, last_report_at);
        Step { tally: changes(Some(before), Some(&after)), placement: after, is_empty }
    }
}

/// Takes a report in. `rollout` and `ring` are the newest rollout and the definition of the ring that the
/// placement is in.
pub fn fold(
    before: &Placement,
    seq: u64,
    report: &ProductReport,
    rollout: Option<&Rollout>,
    ring: Option<&RingRecord>,
    now: Timestamp,
) -> Step {
    let mut after = before.clone();
    if seq <= before.seq {
        return Step::between(before, after, now);
    }
    after.seq = seq;
    after.last_report_at = Some(now);
    after.have.clone_from(&report.have);
    after.phase = report.phase;
    after.health = report.health;
    after.failure.clone_from(&report.failure);
    after.hold.clone_from(&report.hold);
    after.quarantine.clone_from(&report.quarantine);
    after.ahead = report.ahead;
    after.hooks.clone_from(&report.hooks);
    stop_short(before, &mut after, report);
    end_attempt(&mut after, report, rollout, now);
    if let Some(rollout) = rollout {
        turn_bad(before, &mut after, rollout, now);
    }
    note_meeting(&mut after, rollout, ring);
    Step::between(before, after, now)
}

/// How an attempt ended, as a report tells it: by its last phase, or, where the host has gone back to
/// having no update, by what it left behind.
fn ending(report: &ProductReport, attempt: &Attempt) -> Option<Option<FailureKind>> {
    let on_release = report.have.as_ref().is_some_and(|have| have.digest == attempt.digest);
    match report.phase {
        Some(Phase::Committed | Phase::Dropped) => Some(None),
        Some(Phase::Refused) => Some(Some(FailureKind::Refused)),
        Some(Phase::RolledBack) => Some(Some(FailureKind::RolledBack)),
        Some(Phase::Stuck) => Some(Some(FailureKind::Stuck)),
        Some(_) => None,
        None => match (&report.failure, on_release) {
            (None, true) => Some(None),
            // Neither there nor failed: the host has not come to this attempt yet.
            (None, false) => None,
            (Some(_), true) => Some(Some(FailureKind::Stuck)),
            (Some(_), false) if attempt.leased => Some(Some(FailureKind::RolledBack)),
            (Some(_), false) => Some(Some(FailureKind::Refused)),
        },
    }
}

/// A host that had begun and waits again has changed nothing and gives its leave back: its own rules, or a
/// person there, came in between. Another host may have the place; this one asks again.
fn stop_short(before: &Placement, after: &mut Placement, report: &ProductReport) {
    let begun = before.phase.map(Phase::stage) == Some(Stage::Started);
    let waits = begun && report.phase == Some(Phase::Waiting);
    let Some(attempt) = report.attempt.as_ref().filter(|attempt| waits && !attempt.leased) else {
        return;
    };
    let number = after.attempt;
    let given = |flight: &mut Flight| flight.rollout == attempt.rollout && number == attempt.number;
    after.flight.take_if(given);
}

fn end_attempt(
    after: &mut Placement,
    report: &ProductReport,
    rollout: Option<&Rollout>,
    now: Timestamp,
) {
    let Some(attempt) = &report.attempt else { return };
    let Some(failure) = ending(report, attempt) else { return };
    let number = after.attempt;
    let flying = after
        .flight
        .take_if(|flight| flight.rollout == attempt.rollout && number == attempt.number);
    let (id, count) = match (&flying, rollout) {
        (Some(flight), _) => (flight.rollout.clone(), flight.count),
        // It ended without leave: refused before it asked for one, or its leave had been taken back.
        (None, Some(rollout))
            if rollout.id == attempt.rollout
                && after.next_attempt(&rollout.id) == attempt.number =>
        {
            (rollout.id.clone(), rollout.count)
        }
        // Told before, or of a rollout that nobody counts any more.
        (None, _) => return,
    };
    let known = flying.is_none() && given_up(after, &id);
    after.attempted = Some(id.clone());
    after.attempt = attempt.number;
    after.ended_at = Some(now);
    if let Some(kind) = failure
        && !known
        && brake::counts(kind, report.failure.as_ref())
    {
        count_failure(after, id, count, kind, now);
    }
}

/// The attempt was counted as late or lost when its leave was taken back, in this count or the one
/// before a resume: how it ended is no second failure.
fn given_up(placement: &Placement, rollout: &RolloutId) -> bool {
    placement.failed.as_ref().is_some_and(|failed| {
        failed.rollout == *rollout
            && matches!(failed.kind, FailureKind::TimedOut | FailureKind::LostAfterStart)
    })
}

/// One failure for each host and count, and it stays: a limit that was once reached is never unreached.
pub(super) fn count_failure(
    placement: &mut Placement,
    rollout: RolloutId,
    count: u32,
    kind: FailureKind,
    at: Timestamp,
) {
    let counted = placement
        .failed
        .as_ref()
        .is_some_and(|failed| failed.rollout == rollout && failed.count == count);
    if !counted {
        placement.failed = Some(Failed { rollout, count, kind, at });
    }
}

/// A host that went through and turned bad afterwards. Only the turn counts: what was bad before is not
/// this release's fault, and what was counted before a resume is not counted again.
fn turn_bad(before: &Placement, after: &mut Placement, rollout: &Rollout, now: Timestamp) {
    let through = after.flight.is_none()
        && after.phase.map(Phase::stage) != Some(Stage::Started)
        && after.attempted.as_ref() == Some(&rollout.id)
        && after.runs(&rollout.release.digest);
    let turned = after.health == Health::Bad && before.health != Health::Bad;
    if through && turned {
        count_failure(after, rollout.id.clone(), rollout.count, FailureKind::Unhealthy, now);
    }
}

/// Notes that the host has called, where the rollout does not know yet. Every call of a host may come
/// here: it is empty from the second time on.
pub fn meet(
    before: &Placement,
    rollout: Option<&Rollout>,
    ring: Option<&RingRecord>,
    now: Timestamp,
) -> Step {
    let mut after = before.clone();
    note_meeting(&mut after, rollout, ring);
    Step::between(before, after, now)
}

fn note_meeting(after: &mut Placement, rollout: Option<&Rollout>, ring: Option<&RingRecord>) {
    let Some(rollout) = rollout.filter(|rollout| rollout.started_at.is_some()) else {
        after.met = None;
        after.refuses = false;
        return;
    };
    let retry = ring.is_some_and(|ring| ring.retry.contains(&rollout.release.digest));
    after.met = Some(rollout.id.clone());
    after.refuses = !retry && after.quarantine.contains(&rollout.release.digest);
}

/// Gives a lease back that ran out unused. Only after the newest report of a host: an older one says that
/// the host waits although it may have begun since.
pub fn give_back(before: &Placement, now: Timestamp) -> Step {
    let mut after = before.clone();
    // `now` is the time at which that newest report was folded in.
    let idle = match before.phase.map(Phase::stage) {
        None | Some(Stage::NotFetching | Stage::NotStarted) => true,
        Some(Stage::Started | Stage::Ended) => false,
    };
    if idle && before.last_report_at == Some(now) {
        after.flight.take_if(|flight| flight.lease.until <= now);
    }
    Step::between(before, after, now)
}

/// Puts a host into the ring that selects it now, or, while it is in flight, as soon as that has ended. It
/// passes the gates of that ring like everybody else.
pub fn place(before: &Placement, ring: Option<RingName>, now: Timestamp) -> Step {
    let mut after = before.clone();
    after.selected_by = ring;
    Step::between(before, after, now)
}

/// A host that may not call any more: it holds no slot, and nobody waits for it.
pub fn leave(before: &Placement, now: Timestamp) -> Step {
    let mut after = before.clone();
    after.flight = None;
    after.met = None;
    // Also where nothing else changes: it is since then that the host stands still for that reason.
    after.changed_at = now;
    Step::between(before, after, now)
}
