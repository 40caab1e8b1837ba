//! What one host gets to hear: an offer, a hold, or that it should back out. Costs the same whatever the
//! size of the fleet.

use refit_proto::{names::RingName, wire};

use super::{
    counts::after,
    hold::{Hold, HoldReason},
    plan::{RingPlan, stopped, wave_limit, waves},
};
use crate::fleet::{
    Direction, Phase, Placement, ReleaseId, Rollout, RolloutId, RolloutState, placement::Stage,
};

/// What one host gets to hear about one product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Bring this release: fetch it, and ask for leave.
    Offer(Offer),
    /// Begin nothing new, and why.
    Hold(Hold),
    /// End a probation as if a check had failed.
    BackOut(Hold),
    /// The release runs, healthy: there is nothing to do.
    UpToDate,
}

/// What a host is to bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// By which rollout.
    pub rollout: RolloutId,
    /// Which try of this host, from 1. The same until it is admitted and has ended.
    pub attempt: u32,
    /// The host's ring.
    pub ring: RingName,
    /// What to bring.
    pub release: ReleaseId,
    /// The ring goes back.
    pub rollback: bool,
}

/// Decides what one host gets to hear. `ring` is the plan of the ring that the placement is in; `None`
/// if it is in no ring.
pub fn decide(ring: Option<&RingPlan>, placement: &Placement) -> Decision {
    let hold = |reason| Decision::Hold(Hold::new(reason, placement.changed_at));
    let Some(plan) = ring.filter(|plan| Some(&plan.ring.ring) == placement.ring.as_ref()) else {
        return hold(HoldReason::NoRing);
    };
    let Some(rollout) = &plan.rollout else {
        return Decision::Hold(Hold::new(HoldReason::NothingPromoted, plan.ring.defined_at));
    };
    if let Some(answer) = going_back(plan, rollout, placement) {
        return answer;
    }
    if placement.runs(&rollout.release.digest) && !under_way(placement) {
        return match failure(rollout, placement) {
            _ if placement.health.is_healthy() => Decision::UpToDate,
            Some(failed) => Decision::Hold(failed),
            None => hold(HoldReason::Unproven(1)),
        };
    }
    match obstacle(plan, rollout, placement) {
        Some(hold) => Decision::Hold(hold),
        None => Decision::Offer(offer(rollout, rollout.release.clone(), placement)),
    }
}

/// An update of the host is past its backup.
fn under_way(placement: &Placement) -> bool {
    placement.phase.map(Phase::stage) == Some(Stage::Started)
}

/// The answer of a ring that goes back; `None`: it goes forward.
fn going_back(plan: &RingPlan, rollout: &Rollout, placement: &Placement) -> Option<Decision> {
    if rollout.direction == Direction::Forward {
        return None;
    }
    let left =
        Hold::new(HoldReason::RolledBack(rollout.release.version.clone()), rollout.changed_at);
    let outward = match &placement.flight {
        Some(flight) => flight.rollout == rollout.id && flight.direction == Direction::Forward,
        // Lost on its way out, and back: only the release itself can be on probation here.
        None => {
            placement.phase == Some(Phase::Probation) && placement.runs(&rollout.release.digest)
        }
    };
    if outward {
        return Some(Decision::BackOut(left));
    }
    if let Some(hold) = stopped(rollout).or_else(|| plan.gate.clone()) {
        return Some(Decision::Hold(hold));
    }
    let Some(back) = &plan.ring.back else { return Some(Decision::Hold(left)) };
    let on_release = placement.runs(&rollout.release.digest);
    if placement.flight.is_none() && (!on_release || under_way(placement)) {
        return Some(Decision::Hold(left));
    }
    if let Some(hold) = own_obstacle(rollout, placement, &back.digest) {
        return Some(Decision::Hold(hold));
    }
    Some(Decision::Offer(offer(rollout, back.clone(), placement)))
}

/// Why a host is not offered the release of a rollout that goes forward.
fn obstacle(plan: &RingPlan, rollout: &Rollout, placement: &Placement) -> Option<Hold> {
    if placement.ahead {
        return Some(Hold::new(HoldReason::Ahead, placement.changed_at));
    }
    if let Some(hold) = stopped(rollout).or_else(|| plan.gate.clone()) {
        return Some(hold);
    }
    let retry = plan.ring.retry.contains(&rollout.release.digest);
    let digest = rollout.release.digest;
    if !retry && placement.quarantine.contains(&digest) {
        let reason = HoldReason::Quarantined(digest);
        return Some(Hold::new(reason, placement.changed_at));
    }
    if let Some(hold) = own_obstacle(rollout, placement, &digest) {
        return Some(hold);
    }
    match rollout.state {
        RolloutState::Running | RolloutState::Soaking { .. } | RolloutState::Done { .. } => {}
        RolloutState::Waiting
        | RolloutState::Paused { .. }
        | RolloutState::Halted { .. }
        | RolloutState::RollingBack
        | RolloutState::Superseded { .. } => {
            return Some(Hold::new(HoldReason::NotOffered, rollout.changed_at));
        }
    }
    tried_before(plan, rollout, placement).or_else(|| wave_is_full(plan, rollout, placement))
}

/// Attempts that may follow each other at once.
const AT_ONCE: u32 = 2;
/// Longest pause between two attempts, in seconds.
const LONGEST_PAUSE: u64 = 15 * 60;

/// A host whose attempts end early again and again, which is nobody's failure and halts nothing, is offered
/// the release more and more rarely: else the two would go round in circles for ever.
fn tried_before(plan: &RingPlan, rollout: &Rollout, placement: &Placement) -> Option<Hold> {
    let idle = placement.flight.is_none() && !under_way(placement);
    let tried = placement.attempted.as_ref() == Some(&rollout.id);
    // Not since the placement changed last: this very hold comes back in the host's reports.
    let since = placement.ended_at?;
    // A fresh count lets every host begin at once.
    if !idle || !tried || since <= rollout.count_since {
        return None;
    }
    let doublings = placement.attempt.checked_sub(AT_ONCE)?.min(16);
    let poll = u64::from(plan.policy.as_ref()?.poll_seconds);
    let until = after(since, (poll << doublings).min(LONGEST_PAUSE));
    let reason = HoldReason::TriedBefore(placement.attempt);
    (plan.at < until).then(|| Hold::until(reason, since, until))
}

/// What the host's own last attempt stands in the way of.
fn own_obstacle(
    rollout: &Rollout,
    placement: &Placement,
    target: &refit_proto::names::Digest,
) -> Option<Hold> {
    let over = placement.flight.is_none() && !under_way(placement) && !placement.runs(target);
    failure(rollout, placement).filter(|_| over)
}

/// The host's failure in this count. A host that was silent and is back has not failed at anything, so
/// it may go on.
fn failure(rollout: &Rollout, placement: &Placement) -> Option<Hold> {
    let failed = placement.failed.as_ref()?;
    let blocks =
        failed.rollout == rollout.id && failed.count == rollout.count && !failed.kind.is_silence();
    blocks.then(|| Hold::new(HoldReason::Failed(failed.kind), failed.at))
}

/// Why a wave takes nobody else. Waves are over once every host is through.
fn wave_is_full(plan: &RingPlan, rollout: &Rollout, placement: &Placement) -> Option<Hold> {
    let policy = plan.policy.as_ref()?;
    let in_waves = matches!(rollout.state, RolloutState::Running);
    // The host's own place, where it has one.
    let mine = u64::from(placement.flight.is_some() || under_way(placement));
    let begun = plan.counts.begun.saturating_sub(mine);
    if in_waves && begun >= wave_limit(rollout, policy) {
        let reason = HoldReason::NextWave { wave: rollout.wave, waves: waves(policy) };
        return Some(Hold::new(reason, rollout.changed_at));
    }
    None
}

fn offer(rollout: &Rollout, release: ReleaseId, placement: &Placement) -> Offer {
    Offer {
        rollout: rollout.id.clone(),
        attempt: placement.next_attempt(&rollout.id),
        ring: rollout.id.ring().clone(),
        release,
        rollback: rollout.direction == Direction::Rollback,
    }
}

impl From<Offer> for wire::Offer {
    fn from(offer: Offer) -> wire::Offer {
        wire::Offer {
            rollout_id: offer.rollout.to_string(),
            attempt: offer.attempt,
            ring: offer.ring.to_string(),
            version: offer.release.version.to_string(),
            digest: offer.release.digest.as_bytes().to_vec(),
            rollback: offer.rollback,
        }
    }
}

impl Decision {
    /// The order for the host; `None`: there is nothing to do.
    pub fn order(self) -> Option<wire::product_order::Order> {
        use wire::product_order::Order;
        match self {
            Decision::Offer(offer) => Some(Order::Offer(offer.into())),
            Decision::Hold(hold) => Some(Order::Hold(hold.into())),
            Decision::BackOut(hold) => Some(Order::BackOut(hold.into())),
            Decision::UpToDate => None,
        }
    }
}
