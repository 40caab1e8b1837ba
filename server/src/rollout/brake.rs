//! What stops a rollout: errors, time-outs and silence feed one count, and a limit in number or share,
//! compared exactly, halts. Works in every state; leaves out who is told.

use jiff::Timestamp;
use refit_proto::cause;

use super::counts::after;
use crate::fleet::{
    FailureKind, HaltReason, Placement, ReportedFailure, RingPolicy, Rollout, RolloutState,
    placement::{Phase, Stage},
};

/// Which limit this many failures reach. Reaching is enough, and either is.
pub fn reached(policy: &RingPolicy, failed: u64, total: u64) -> Option<HaltReason> {
    if failed == 0 {
        return None;
    }
    if policy.failures_count > 0 && failed >= u64::from(policy.failures_count) {
        return Some(HaltReason::Count { failed, allowed: policy.failures_count });
    }
    // Multiplied, not divided: 1 of 5 is 20 %, and no rounding makes 4 of 5 look like all.
    let (share, limit) =
        (u128::from(failed) * 100, u128::from(policy.failures_percent) * u128::from(total));
    if policy.failures_percent > 0 && share >= limit {
        return Some(HaltReason::Share { failed, total, percent: policy.failures_percent });
    }
    None
}

/// How many failures halt a ring of this size: what a limit in percent comes to.
pub fn halts_at(policy: &RingPolicy, total: u64) -> u64 {
    let count = match policy.failures_count {
        0 => u64::MAX,
        count => u64::from(count),
    };
    let share = match policy.failures_percent {
        0 => u64::MAX,
        percent => u64::try_from((u128::from(percent) * u128::from(total)).div_ceil(100))
            .unwrap_or(u64::MAX)
            .max(1),
    };
    count.min(share)
}

/// Whether an attempt that ended so counts as a failure: also one for a cause that we have never heard of.
/// A host that needs a person always does.
pub fn counts(kind: FailureKind, failure: Option<&ReportedFailure>) -> bool {
    let blameless = |failure: &ReportedFailure| cause::BLAMELESS.contains(&failure.cause.as_str());
    kind == FailureKind::Stuck || !failure.is_some_and(blameless)
}

/// What is known about silence.
#[derive(Debug, Clone, Copy)]
pub struct Heard {
    /// When the host last called.
    pub host: Timestamp,
    /// Since when the server has been listening without a break: nobody can be heard by a server that is
    /// down, so that time is nobody's silence.
    pub listening_since: Timestamp,
}

/// Whether a host has missed its deadline: too long in flight, or silent. `None` also for a host that was
/// away from the start: that is nobody's failure.
pub fn overdue(
    rollout: &Rollout,
    policy: &RingPolicy,
    placement: &Placement,
    heard: Heard,
    now: Timestamp,
) -> Option<FailureKind> {
    let silent_since = heard.host.max(heard.listening_since).max(rollout.count_since);
    let silent = now >= after(silent_since, policy.silence_seconds);
    if let Some(flight) = &placement.flight {
        let limit =
            after(flight.lease.granted_at.max(heard.listening_since), policy.update_limit_seconds);
        return match (silent, now >= limit) {
            (true, _) => Some(FailureKind::LostAfterStart),
            (false, true) => Some(FailureKind::TimedOut),
            (false, false) => None,
        };
    }
    if !silent || placement.met.as_ref() != Some(&rollout.id) || already_counted(rollout, placement)
    {
        return None;
    }
    if placement.attempted.as_ref() == Some(&rollout.id) && placement.runs(&rollout.release.digest)
    {
        // Went through and fell silent before the release was proven: that is how a release looks
        // that cuts its host off.
        return proving(rollout).then_some(FailureKind::LostAfterStart);
    }
    let to_go = !placement.runs(&rollout.release.digest) && !placement.refuses && !placement.ahead;
    if !to_go || !offering(rollout) {
        return None;
    }
    match placement.phase.map(Phase::stage) {
        None | Some(Stage::NotFetching | Stage::Ended) => Some(FailureKind::NeverFetched),
        Some(Stage::NotStarted) => Some(FailureKind::NeverStarted),
        Some(Stage::Started) => Some(FailureKind::LostAfterStart),
    }
}

fn already_counted(rollout: &Rollout, placement: &Placement) -> bool {
    placement
        .failed
        .as_ref()
        .is_some_and(|failed| failed.rollout == rollout.id && failed.count == rollout.count)
}

/// Hosts are offered the release, so their silence means something.
fn offering(rollout: &Rollout) -> bool {
    match rollout.state {
        RolloutState::Running | RolloutState::Soaking { .. } | RolloutState::Done { .. } => true,
        RolloutState::Waiting
        | RolloutState::Paused { .. }
        | RolloutState::Halted { .. }
        | RolloutState::RollingBack
        | RolloutState::Superseded { .. } => false,
    }
}

/// The release is still proving itself on hosts that run it.
fn proving(rollout: &Rollout) -> bool {
    match rollout.state {
        RolloutState::Running | RolloutState::Soaking { .. } | RolloutState::Paused { .. } => true,
        RolloutState::Waiting
        | RolloutState::Halted { .. }
        | RolloutState::Done { .. }
        | RolloutState::RollingBack
        | RolloutState::Superseded { .. } => false,
    }
}
