//! Who may begin now. Entering flight happens here alone, under the rollout's own revision, so that at
//! most N hosts are in flight whatever happens at once; and the brake is part of the same decision.

use jiff::Timestamp;
use refit_proto::{hours::HostPlace, names::Digest};

use super::{
    brake,
    counts::after,
    fold::Step,
    hold::{Hold, HoldReason},
    host::{Decision, Offer, decide},
    plan::RingPlan,
};
use crate::fleet::{Direction, Flight, Lease, LeaseId, Placement, Rollout, RolloutId};

/// What a host asks leave for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The rollout of the offer.
    pub rollout: RolloutId,
    /// The try of the offer.
    pub attempt: u32,
    /// The release of the offer.
    pub digest: Digest,
}

/// The answer to a host that asks for leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// The host may begin.
    Granted(Box<Grant>),
    /// Not now, and why. With a step to store where the host turns out not to need the leave that it has.
    Held(Hold, Option<Box<Step>>),
    /// The plan has changes of its own, the brake's perhaps: store them, and ask again.
    PlanFirst,
}

/// Leave to begin. Good only once `step` and `rollout` are stored in one commit that expects the
/// revisions they were read at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The placement in flight; empty if it was so already.
    pub step: Step,
    /// The rollout, which has given one more lease; unchanged if the step is empty.
    pub rollout: Rollout,
    /// The leave.
    pub lease: Lease,
    /// How much of it is left.
    pub seconds: u32,
}

/// Decides whether a host may begin. `ring` is the plan of the placement's ring, made at `now` from
/// cells that were read after the rollout was (or in one snapshot with it): then a stale read can only
/// see too many in flight, since only admission adds to them, and it changes the rollout.
pub fn admit(
    ring: Option<&RingPlan>,
    placement: &Placement,
    host: HostPlace<'_>,
    ask: &Ask,
    now: Timestamp,
) -> Admission {
    let not_offered = || Hold::new(HoldReason::NotOffered, now);
    if ring.is_some_and(|plan| !plan.write.is_empty() || !plan.late.is_empty()) {
        return Admission::PlanFirst;
    }
    let offer = match decide(ring, placement) {
        Decision::Offer(offer) if matches(&offer, ask) => offer,
        Decision::Offer(_) | Decision::UpToDate => return held(placement, not_offered(), now),
        Decision::Hold(hold) | Decision::BackOut(hold) => return held(placement, hold, now),
    };
    let Some((plan, rollout, policy)) =
        ring.and_then(|plan| Some((plan, plan.rollout.as_ref()?, plan.policy.as_ref()?)))
    else {
        return held(placement, not_offered(), now);
    };
    // The plan has halted what reached a limit; this is for plans that nobody has made yet.
    if let Some(reason) = brake::reached(policy, plan.counts.failures(), plan.counts.total) {
        return held(placement, Hold::new(HoldReason::Halted(reason), now), now);
    }
    if let Some(hold) = plan.hours.hold(&plan.ring, rollout, Some(host), now) {
        return held(placement, hold, now);
    }
    if let Some(lease) = still_valid(placement, &offer, rollout, now) {
        let step = Step::between(placement, placement.clone(), now);
        let seconds = seconds_left(&lease, now);
        let rollout = rollout.clone();
        return Admission::Granted(Box::new(Grant { step, rollout, lease, seconds }));
    }
    // The host's own slot is free again: it asks, so it has not begun.
    let mine = u64::from(placement.flight.is_some());
    let updating = plan.counts.slots.saturating_sub(mine);
    let allowed = policy.max_in_flight;
    if updating >= u64::from(allowed) {
        let reason = HoldReason::AtCapacity { updating, allowed };
        return held(placement, Hold::new(reason, rollout.changed_at), now);
    }
    let closes = plan.hours.closes(&plan.ring, rollout, host, now);
    let until = closes.into_iter().chain([after(now, policy.lease_seconds.into())]).min();
    let until = until.filter(|until| until.duration_since(now).as_secs() > 0);
    match until {
        Some(until) => Admission::Granted(Box::new(grant(rollout, offer, until, placement, now))),
        // Less than a second of the window is left.
        None => held(placement, Hold::new(HoldReason::OutsideWindow, now), now),
    }
}

fn matches(offer: &Offer, ask: &Ask) -> bool {
    offer.rollout == ask.rollout
        && offer.attempt == ask.attempt
        && offer.release.digest == ask.digest
}

/// A host that asks has not begun, so a lease of its own that ran out is given back.
fn held(placement: &Placement, hold: Hold, now: Timestamp) -> Admission {
    let mut after = placement.clone();
    let lapsed = after.flight.take_if(|flight| flight.lease.until <= now).is_some();
    Admission::Held(hold, lapsed.then(|| Box::new(Step::between(placement, after, now))))
}

/// The lease of this very attempt, where the answer was lost on its way.
fn still_valid(
    placement: &Placement,
    offer: &Offer,
    rollout: &Rollout,
    now: Timestamp,
) -> Option<Lease> {
    let flight = placement.flight.as_ref()?;
    let same = flight.rollout == offer.rollout
        && flight.count == rollout.count
        && flight.digest == offer.release.digest
        && now < flight.lease.until;
    (same && seconds_left(&flight.lease, now) > 0).then(|| flight.lease.clone())
}

/// Whole seconds only: a host must never think that it has longer.
fn seconds_left(lease: &Lease, now: Timestamp) -> u32 {
    u32::try_from(lease.until.duration_since(now).as_secs()).unwrap_or(0)
}

fn grant(
    rollout: &Rollout,
    offer: Offer,
    until: Timestamp,
    placement: &Placement,
    now: Timestamp,
) -> Grant {
    let id = LeaseId::new(&rollout.id, &placement.host_id, offer.attempt);
    let lease = Lease { id, granted_at: now, until };
    let seconds = seconds_left(&lease, now);
    let direction = if offer.rollback { Direction::Rollback } else { Direction::Forward };
    let mut next = placement.clone();
    next.attempted = Some(rollout.id.clone());
    next.attempt = offer.attempt;
    next.ended_at = None;
    next.met = Some(rollout.id.clone());
    next.flight = Some(Flight {
        rollout: rollout.id.clone(),
        count: rollout.count,
        direction,
        digest: offer.release.digest,
        lease: lease.clone(),
    });
    let mut given = rollout.clone();
    given.granted += 1;
    Grant { step: Step::between(placement, next, now), rollout: given, lease, seconds }
}
