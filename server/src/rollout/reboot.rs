//! Whether a host in the middle of its update may boot now. Changes nothing: the host has its place in
//! flight already, so nobody is in flight more than before, and a boot is a break only for its own.

use jiff::Timestamp;
use refit_proto::hours::HostPlace;

use super::{
    admit::Ask,
    brake,
    hold::{Hold, HoldReason},
    host::{Decision, decide},
    plan::{RingPlan, stopped},
};
use crate::fleet::Placement;

/// Why a host may not boot now; `None`: it may. `ring` is the plan of the placement's ring, made at `now`.
pub fn boot_hold(
    ring: Option<&RingPlan>,
    placement: &Placement,
    host: HostPlace<'_>,
    ask: &Ask,
    now: Timestamp,
) -> Option<Hold> {
    let not_offered = || Some(Hold::new(HoldReason::NotOffered, now));
    let Some((plan, flight)) = ring.zip(placement.flight.as_ref()) else { return not_offered() };
    if flight.rollout != ask.rollout || flight.digest != ask.digest {
        return not_offered();
    }
    if let Decision::BackOut(hold) = decide(ring, placement) {
        return Some(hold);
    }
    let Some((rollout, policy)) = plan.rollout.as_ref().zip(plan.policy.as_ref()) else {
        return not_offered();
    };
    let braked = || {
        let reason = brake::reached(policy, plan.counts.failures(), plan.counts.total)?;
        Some(Hold::new(HoldReason::Halted(reason), now))
    };
    let by_the_clock = || plan.hours.hold(&plan.ring, rollout, Some(host), now);
    stopped(rollout).or_else(|| plan.gate.clone()).or_else(braked).or_else(by_the_clock)
}
