//! What a product's rollouts do next, and why the rest waits. Level-triggered: it looks only at what is
//! stored, so that a restart, a repeated round or a second leader changes nothing.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use refit_proto::{
    names::{Digest, Product},
    policy::Gate,
};

use super::{
    brake::{self, Heard},
    counts::{Counts, after},
    fold::{Step, count_failure},
    gate,
    hold::{Hold, HoldReason},
    hours::HoursNow,
};
use crate::fleet::{
    Direction, FailureKind, HaltReason, Placement, RingPolicy, RingRecord, Rollout, RolloutId,
    RolloutState, Tally,
    placement::{Phase, Stage},
};

/// A product as it is stored: its rings in the signed order.
#[derive(Debug, Clone)]
pub struct ProductView<'a> {
    /// Which product.
    pub product: &'a Product,
    /// In order.
    pub rings: Vec<RingView<'a>>,
    /// When updates may begin.
    pub hours: &'a Arc<HoursNow>,
    /// Since when this server has been listening without a break.
    pub listening_since: Timestamp,
}

/// A ring as it is stored.
#[derive(Debug, Clone)]
pub struct RingView<'a> {
    /// Its definition.
    pub ring: &'a RingRecord,
    /// What narrows it; `None`: nobody has set it, and nothing moves.
    pub policy: Option<&'a RingPolicy>,
    /// Its newest rollout.
    pub rollout: Option<&'a Rollout>,
    /// Its cells.
    pub tally: &'a Tally,
    /// Digests of the product's withdrawn releases.
    pub withdrawn: &'a [Digest],
    /// Hosts whose deadlines are to be looked at: all of the ring, or a part of it in each round.
    pub watched: Vec<Watched<'a>>,
}

/// A host whose deadlines are to be looked at.
#[derive(Debug, Clone)]
pub struct Watched<'a> {
    /// Where it stands.
    pub placement: &'a Placement,
    /// When it last called.
    pub last_seen: Timestamp,
}

/// What changes now, and why the rest waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// In the signed order.
    pub rings: Vec<RingPlan>,
}

/// What changes in a ring now, or why it waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingPlan {
    /// When the plan was made.
    pub at: Timestamp,
    /// The ring's definition.
    pub ring: RingRecord,
    /// What narrows it.
    pub policy: Option<RingPolicy>,
    /// Its newest rollout as it is after the plan.
    pub rollout: Option<Rollout>,
    /// Rollouts to store: new or changed ones, in one commit with `late`.
    pub write: Vec<Rollout>,
    /// Placements to store: hosts that missed a deadline, or whose lease ran out unused.
    pub late: Vec<Step>,
    /// What happened to the rollouts, for the audit log.
    pub changes: Vec<Change>,
    /// How the hosts stand, after `late`.
    pub counts: Counts,
    /// The cells that they stand in.
    pub tally: Tally,
    /// What keeps the whole ring closed.
    pub gate: Option<Hold>,
    /// When updates may begin.
    pub hours: Arc<HoursNow>,
    /// Why the ring does not move; `None`: it moves, or there is nothing left to do.
    pub hold: Option<Hold>,
}

impl Plan {
    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.rings.iter().all(|ring| ring.write.is_empty() && ring.late.is_empty())
    }

    /// The plan of a ring.
    pub fn ring(&self, name: &refit_proto::names::RingName) -> Option<&RingPlan> {
        self.rings.iter().find(|plan| plan.ring.ring == *name)
    }
}

/// What happened to a rollout by the server's own rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A promotion was seen.
    Created(RolloutId),
    /// A new promotion took its place.
    Superseded(RolloutId),
    /// Its gate opened.
    Started(RolloutId),
    /// This wave may begin.
    Wave(RolloutId, u32),
    /// Every host is through.
    Soaking(RolloutId),
    /// Not every host is through any more.
    Unsettled(RolloutId),
    /// Proven, or all the way back.
    Done(RolloutId),
    /// The brake.
    Halted(RolloutId, HaltReason),
}

/// Decides what changes now. Applying a plan and planning again at the same time gives an empty plan.
pub fn plan(view: &ProductView<'_>, now: Timestamp) -> Plan {
    let mut rollouts: Vec<Option<Rollout>> =
        view.rings.iter().map(|ring| ring.rollout.cloned()).collect();
    let mut drafts: Vec<Draft> = view
        .rings
        .iter()
        .enumerate()
        .map(|(at, ring)| Draft::open(ring, &mut rollouts[at], view.listening_since, now))
        .collect();
    // In order, so that a ring that becomes proven opens the next in the same round.
    for (at, draft) in drafts.iter_mut().enumerate() {
        advance(view, &mut rollouts, draft, at, now);
    }
    let rings = drafts.into_iter().enumerate();
    Plan { rings: rings.map(|(at, draft)| draft.finish(view, &rollouts, at, now)).collect() }
}

/// What gathers while one ring is planned.
struct Draft {
    superseded: Option<Rollout>,
    late: Vec<Step>,
    tally: Tally,
    changes: Vec<Change>,
}

impl Draft {
    fn open(
        ring: &RingView<'_>,
        rollout: &mut Option<Rollout>,
        listening_since: Timestamp,
        now: Timestamp,
    ) -> Draft {
        let mut changes = Vec::new();
        let superseded = promote(ring, rollout, &mut changes, now);
        let late = deadlines(ring, rollout.as_ref(), listening_since, now);
        let tally = with(ring.tally, &late);
        Draft { superseded, late, tally, changes }
    }

    fn finish(
        self,
        view: &ProductView<'_>,
        rollouts: &[Option<Rollout>],
        at: usize,
        now: Timestamp,
    ) -> RingPlan {
        let ring = &view.rings[at];
        let rollout = rollouts[at].clone();
        let counts = rollout
            .as_ref()
            .map(|rollout| Counts::of(&self.tally, rollout, ring.policy, now))
            .unwrap_or_else(|| Counts { total: self.tally.count(|_| true), ..Counts::default() });
        let gate = gate::closed(&view.rings, rollouts, at);
        let hold = standstill(ring, rollout.as_ref(), gate.as_ref(), &counts)
            .map(|hold| by_the_clock(view, ring, rollout.as_ref(), hold, now));
        let hours = view.hours.clone();
        let changed = rollout.iter().filter(|rollout| Some(*rollout) != ring.rollout).cloned();
        let write = self.superseded.into_iter().chain(changed).collect();
        let (ring, policy) = (ring.ring.clone(), ring.policy.cloned());
        let (late, changes, tally) = (self.late, self.changes, self.tally);
        RingPlan {
            at: now,
            ring,
            policy,
            rollout,
            write,
            late,
            changes,
            counts,
            tally,
            gate,
            hours,
            hold,
        }
    }
}

/// The rollout of a promotion that has none yet. It follows from what is stored, so that two leaders
/// make the same one.
fn promote(
    ring: &RingView<'_>,
    newest: &mut Option<Rollout>,
    changes: &mut Vec<Change>,
    now: Timestamp,
) -> Option<Rollout> {
    let current = ring.ring.current.as_ref()?;
    if newest.as_ref().is_some_and(|newest| newest.promotion >= ring.ring.promotion) {
        return None;
    }
    let number = newest.as_ref().map_or(1, |newest| newest.id.number() + 1);
    let id = RolloutId::new(ring.ring.product.clone(), ring.ring.ring.clone(), number);
    changes.push(Change::Created(id.clone()));
    let rollout = Rollout {
        id: id.clone(),
        release: current.clone(),
        promotion: ring.ring.promotion,
        promoted_by: ring.ring.promoted_by.clone(),
        direction: Direction::Forward,
        state: RolloutState::Waiting,
        created_at: now,
        started_at: None,
        wave: 1,
        count: 1,
        count_since: now,
        granted: 0,
        changed_at: now,
    };
    let mut before = newest.replace(rollout)?;
    if matches!(before.state, RolloutState::Done { .. }) {
        return None;
    }
    changes.push(Change::Superseded(before.id.clone()));
    before.state = RolloutState::Superseded { by: id };
    before.changed_at = now;
    Some(before)
}

/// Hosts that missed a deadline, and leases that ran out unused.
fn deadlines(
    ring: &RingView<'_>,
    rollout: Option<&Rollout>,
    listening_since: Timestamp,
    now: Timestamp,
) -> Vec<Step> {
    let (Some(rollout), Some(policy)) = (rollout, ring.policy) else { return Vec::new() };
    let steps = ring.watched.iter().filter_map(|watched| {
        let before = watched.placement;
        let mut after = before.clone();
        let heard = Heard { host: watched.last_seen, listening_since };
        match brake::overdue(rollout, policy, before, heard, now) {
            Some(FailureKind::TimedOut) if waits_after_its_lease(before) => after.flight = None,
            Some(kind) => {
                let (id, count) = match after.flight.take() {
                    Some(flight) => (flight.rollout, flight.count),
                    None => (rollout.id.clone(), rollout.count),
                };
                count_failure(&mut after, id, count, kind, now);
            }
            None => return None,
        }
        Some(Step::between(before, after, now))
    });
    steps.collect()
}

/// The host has said, after its lease ran out, that it has not begun.
fn waits_after_its_lease(placement: &Placement) -> bool {
    let waits = placement.phase.map(Phase::stage) == Some(Stage::NotStarted);
    let until = placement.flight.as_ref().map(|flight| flight.lease.until);
    waits && placement.last_report_at > until
}

fn with(tally: &Tally, steps: &[Step]) -> Tally {
    let mut cells: BTreeMap<_, _> = tally.0.iter().cloned().collect();
    for (cell, n) in steps.iter().flat_map(|step| &step.tally) {
        *cells.entry(cell.clone()).or_insert(0) += n;
    }
    Tally(cells.into_iter().collect())
}

/// Takes a ring's rollout as far as it goes now.
fn advance(
    view: &ProductView<'_>,
    rollouts: &mut [Option<Rollout>],
    draft: &mut Draft,
    at: usize,
    now: Timestamp,
) {
    let ring = &view.rings[at];
    // Every change goes forward along Waiting, Running, waves, Soaking, Done; so this ends.
    loop {
        let closed = gate::closed(&view.rings, rollouts, at).is_some();
        let (Some(rollout), Some(policy)) = (rollouts[at].as_mut(), ring.policy) else { return };
        let counts = Counts::of(&draft.tally, rollout, Some(policy), now);
        let Some((state, change)) = next(rollout, policy, &counts, closed, now) else { return };
        if let Change::Started(_) = change {
            rollout.started_at.get_or_insert(now);
            rollout.count_since = now;
        }
        if let Change::Wave(_, wave) = change {
            rollout.wave = wave;
        }
        rollout.state = state;
        rollout.changed_at = now;
        draft.changes.push(change);
    }
}

/// The one thing that a rollout does next; `None`: nothing now.
fn next(
    rollout: &Rollout,
    policy: &RingPolicy,
    counts: &Counts,
    closed: bool,
    now: Timestamp,
) -> Option<(RolloutState, Change)> {
    let id = || rollout.id.clone();
    if let Some(reason) = brake::reached(policy, counts.failures(), counts.total)
        && brakes(&rollout.state)
    {
        return Some((RolloutState::Halted { reason }, Change::Halted(id(), reason)));
    }
    match &rollout.state {
        RolloutState::Waiting if !closed && counts.total > 0 => {
            Some((RolloutState::Running, Change::Started(id())))
        }
        // A closed gate stops whatever has not begun; what is proven is not proven by a closed gate.
        RolloutState::Running if counts.settled() && !closed => {
            Some((RolloutState::Soaking { since: now }, Change::Soaking(id())))
        }
        RolloutState::Running if wave_is_through(rollout, policy, counts) && !closed => {
            Some((RolloutState::Running, Change::Wave(id(), rollout.wave + 1)))
        }
        RolloutState::Soaking { .. } if !counts.settled() => {
            Some((RolloutState::Running, Change::Unsettled(id())))
        }
        RolloutState::Soaking { since } if now >= after(*since, policy.soak_seconds) && !closed => {
            Some((RolloutState::Done { at: now }, Change::Done(id())))
        }
        RolloutState::RollingBack if counts.on_release == 0 && counts.in_flight == 0 => {
            Some((RolloutState::Done { at: now }, Change::Done(id())))
        }
        RolloutState::Waiting
        | RolloutState::Running
        | RolloutState::Soaking { .. }
        | RolloutState::RollingBack
        | RolloutState::Paused { .. }
        | RolloutState::Halted { .. }
        | RolloutState::Done { .. }
        | RolloutState::Superseded { .. } => None,
    }
}

/// What the brake can still stop. A paused rollout stands already and stays paused; when it is resumed
/// it begins a fresh count.
fn brakes(state: &RolloutState) -> bool {
    match state {
        RolloutState::Waiting
        | RolloutState::Running
        | RolloutState::Soaking { .. }
        | RolloutState::RollingBack
        | RolloutState::Done { .. } => true,
        RolloutState::Paused { .. }
        | RolloutState::Halted { .. }
        | RolloutState::Superseded { .. } => false,
    }
}

/// What narrows a ring under its promotion of now: one that passes over the share lets all waves begin at once.
pub fn narrows(ring: &RingRecord, policy: &RingPolicy) -> RingPolicy {
    let waves = match ring.passed.contains(&Gate::Share) {
        true => Vec::new(),
        false => policy.waves.clone(),
    };
    RingPolicy { waves, ..policy.clone() }
}

/// How many waves there are: those that are named, and one for all that are left.
pub(crate) fn waves(policy: &RingPolicy) -> u32 {
    u32::try_from(policy.waves.len()).unwrap_or(u32::MAX).saturating_add(1)
}

/// How many hosts may have begun by the end of the wave that may begin.
pub(super) fn wave_limit(rollout: &Rollout, policy: &RingPolicy) -> u64 {
    let wave = usize::try_from(rollout.wave).unwrap_or(usize::MAX);
    if wave > policy.waves.len() {
        return u64::MAX;
    }
    policy.waves[..wave].iter().map(|hosts| u64::from(*hosts)).sum()
}

/// Every host that began is through, the wave is full, and at least one host shows that the release works.
fn wave_is_through(rollout: &Rollout, policy: &RingPolicy, counts: &Counts) -> bool {
    rollout.wave < waves(policy)
        && counts.begun >= wave_limit(rollout, policy)
        && counts.in_flight == 0
        && counts.unproven == 0
        && counts.healthy > 0
}

/// Why the ring does not move.
fn standstill(
    ring: &RingView<'_>,
    rollout: Option<&Rollout>,
    gate: Option<&Hold>,
    counts: &Counts,
) -> Option<Hold> {
    let Some(rollout) = rollout else { return gate.cloned() };
    let since = rollout.changed_at;
    let hold = |reason| Some(Hold::new(reason, since));
    match &rollout.state {
        RolloutState::Paused { .. } | RolloutState::Halted { .. } => stopped(rollout),
        RolloutState::Done { .. } if rollout.direction == Direction::Rollback => {
            hold(HoldReason::RolledBack(rollout.release.version.clone()))
        }
        RolloutState::Done { .. } | RolloutState::Superseded { .. } => None,
        RolloutState::Waiting
        | RolloutState::Running
        | RolloutState::Soaking { .. }
        | RolloutState::RollingBack
            if gate.is_some() =>
        {
            gate.cloned()
        }
        RolloutState::Waiting => hold(HoldReason::NoHosts),
        RolloutState::Running => running(counts).and_then(hold),
        RolloutState::Soaking { since } => {
            let soak = ring.policy.map_or(0, |policy| policy.soak_seconds);
            Some(Hold::until(HoldReason::Soaking, *since, after(*since, soak)))
        }
        RolloutState::RollingBack if counts.in_flight > 0 => None,
        RolloutState::RollingBack => hold(HoldReason::HostsNotReady(counts.on_release)),
    }
}

/// Hosts that have not asked for their leave may not be able to have it: then the clock is the reason.
fn by_the_clock(
    view: &ProductView<'_>,
    ring: &RingView<'_>,
    rollout: Option<&Rollout>,
    hold: Hold,
    now: Timestamp,
) -> Hold {
    match (&hold.reason, rollout) {
        (HoldReason::HostsNotReady(_), Some(rollout)) => {
            view.hours.hold(ring.ring, rollout, None, now).unwrap_or(hold)
        }
        _ => hold,
    }
}

/// The hold of a rollout that a person or the brake stopped.
pub(super) fn stopped(rollout: &Rollout) -> Option<Hold> {
    let reason = match &rollout.state {
        RolloutState::Paused { by, reason } => {
            HoldReason::Paused { by: by.clone(), why: reason.clone() }
        }
        RolloutState::Halted { reason } => HoldReason::Halted(*reason),
        RolloutState::Waiting
        | RolloutState::Running
        | RolloutState::Soaking { .. }
        | RolloutState::Done { .. }
        | RolloutState::RollingBack
        | RolloutState::Superseded { .. } => return None,
    };
    Some(Hold::new(reason, rollout.changed_at))
}

fn running(counts: &Counts) -> Option<HoldReason> {
    if counts.in_flight > 0 {
        None
    } else if counts.waiting > 0 && counts.unproven == 0 {
        Some(HoldReason::HostsNotReady(counts.waiting))
    } else if counts.unproven > 0 {
        Some(HoldReason::Unproven(counts.unproven))
    } else if counts.total == 0 {
        Some(HoldReason::NoHosts)
    } else if counts.healthy == 0 && counts.away > 0 && counts.failures() == 0 {
        Some(HoldReason::AllAway(counts.away))
    } else if counts.healthy == 0 {
        Some(HoldReason::NoneHealthy)
    } else {
        None
    }
}
