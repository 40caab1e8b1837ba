//! When a ring may move at all: it has limits, its release is not withdrawn, and the rings before it run
//! the same release, healthy and soaked. A rule that can't be evaluated is closed.

use refit_proto::policy::Gate;

use super::{
    hold::{Hold, HoldReason},
    plan::RingView,
};
use crate::fleet::{Direction, Rollout, RolloutState};

/// What keeps the ring at `at` closed; `None`: it is open. `rollouts` holds the newest rollout of each ring.
pub(super) fn closed(
    rings: &[RingView<'_>],
    rollouts: &[Option<Rollout>],
    at: usize,
) -> Option<Hold> {
    let ring = &rings[at];
    let Some(rollout) = rollouts[at].as_ref() else {
        return Some(Hold::new(HoldReason::NothingPromoted, ring.ring.defined_at));
    };
    let since = rollout.changed_at;
    if ring.policy.is_none() {
        return Some(Hold::new(HoldReason::NoPolicy, since));
    }
    // What a ring goes back to needs no proof of other rings: it ran here before.
    let (target, forward) = match rollout.direction {
        Direction::Forward => {
            let current = ring.ring.current.as_ref();
            (current.filter(|current| current.digest == rollout.release.digest), true)
        }
        Direction::Rollback => (ring.ring.back.as_ref(), false),
    };
    let Some(target) = target else {
        return Some(Hold::new(HoldReason::NothingPromoted, since));
    };
    if ring.withdrawn.contains(&target.digest) {
        return Some(Hold::new(HoldReason::Withdrawn(target.version.clone()), since));
    }
    // In an emergency its signers wait for no ring before.
    let waits = forward && !ring.ring.passed.contains(&Gate::After);
    if waits { behind(rings, rollouts, at, rollout) } else { None }
}

fn behind(
    rings: &[RingView<'_>],
    rollouts: &[Option<Rollout>],
    at: usize,
    rollout: &Rollout,
) -> Option<Hold> {
    let mut nearest = true;
    // In an emergency its signers take what came through there for enough.
    let hurried = rings[at].ring.passed.contains(&Gate::Soak);
    for before in (0..at).rev() {
        // A ring without hosts proves nothing and stops nothing.
        if rings[before].tally.count(|_| true) == 0 {
            continue;
        }
        let theirs = rollouts[before].as_ref();
        let same = theirs.filter(|it| it.release.digest == rollout.release.digest);
        let open = match same {
            Some(same) => proven(same) || (hurried && through(same)),
            // Only the nearest has to run the same release: the ones further up may have gone on.
            None => !nearest,
        };
        if !open {
            let since = theirs.map_or(rollout.created_at, |it| it.changed_at);
            let ring = rings[before].ring.ring.clone();
            return Some(Hold::new(HoldReason::Behind(ring), since));
        }
        nearest = false;
    }
    None
}

/// Every host is through, though it has not soaked.
fn through(rollout: &Rollout) -> bool {
    rollout.direction == Direction::Forward && matches!(rollout.state, RolloutState::Soaking { .. })
}

fn proven(rollout: &Rollout) -> bool {
    rollout.direction == Direction::Forward && matches!(rollout.state, RolloutState::Done { .. })
}
