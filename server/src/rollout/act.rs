//! What people may do to a rollout. Stopping needs no more than one person; going on begins a fresh count.

use jiff::Timestamp;
use refit_proto::names::{Digest, Version};

use crate::fleet::{Direction, RingRecord, Rollout, RolloutId, RolloutState};

/// Why a rollout does not do as it is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActError {
    /// Another promotion took its place.
    #[error("rollout {id} was superseded by {by}\nhelp: name {by} instead")]
    Superseded {
        /// The one that was named.
        id: RolloutId,
        /// The one that counts.
        by: RolloutId,
    },
    /// Only what stands can go on.
    #[error("rollout {id} is {state}, so there is nothing to resume")]
    NotStopped {
        /// The one that was named.
        id: RolloutId,
        /// Where it stands.
        state: &'static str,
    },
    /// The ring names no release to go back to.
    #[error(
        "ring {ring} names no release to go back to\n\
         help: promote the release that should run there"
    )]
    NoWayBack {
        /// Product and ring.
        ring: String,
    },
    /// What the ring would go back to was withdrawn.
    #[error(
        "the ring would go back to {version}, which was withdrawn\n\
         help: promote the release that should run there"
    )]
    WayBackWithdrawn {
        /// The withdrawn release.
        version: Version,
    },
}

/// Stops a rollout. Stopping what stands already changes nothing.
///
/// # Errors
/// If another promotion took its place.
pub fn pause(
    rollout: &Rollout,
    by: &str,
    reason: &str,
    now: Timestamp,
) -> Result<Rollout, ActError> {
    let mut next = rollout.clone();
    match &rollout.state {
        RolloutState::Paused { .. } | RolloutState::Halted { .. } => {}
        RolloutState::Waiting
        | RolloutState::Running
        | RolloutState::Soaking { .. }
        | RolloutState::RollingBack
        | RolloutState::Done { .. } => {
            next.state = RolloutState::Paused { by: by.to_owned(), reason: reason.to_owned() };
            next.changed_at = now;
        }
        RolloutState::Superseded { by } => return Err(superseded(rollout, by)),
    }
    Ok(next)
}

/// Goes on after a pause or a halt, with a fresh count of failures: hosts that failed before it are tried
/// again, unless they refuse the release.
///
/// # Errors
/// If it does not stand.
pub fn resume(rollout: &Rollout, now: Timestamp) -> Result<Rollout, ActError> {
    let mut next = rollout.clone();
    next.state = match &rollout.state {
        RolloutState::Paused { .. } | RolloutState::Halted { .. } => {
            match (rollout.direction, rollout.started_at) {
                (Direction::Rollback, _) => RolloutState::RollingBack,
                (Direction::Forward, Some(_)) => RolloutState::Running,
                (Direction::Forward, None) => RolloutState::Waiting,
            }
        }
        RolloutState::Superseded { by } => return Err(superseded(rollout, by)),
        RolloutState::Waiting
        | RolloutState::Running
        | RolloutState::Soaking { .. }
        | RolloutState::RollingBack
        | RolloutState::Done { .. } => {
            return Err(ActError::NotStopped { id: rollout.id.clone(), state: rollout.word() });
        }
    };
    fresh_count(&mut next, now);
    Ok(next)
}

/// Takes the hosts of a ring from the release to the ring's `back`. From any state, also a halted one.
///
/// # Errors
/// If there is nothing to go back to.
pub fn roll_back(
    rollout: &Rollout,
    ring: &RingRecord,
    withdrawn: &[Digest],
    now: Timestamp,
) -> Result<Rollout, ActError> {
    if let RolloutState::Superseded { by } = &rollout.state {
        return Err(superseded(rollout, by));
    }
    let Some(back) = &ring.back else {
        return Err(ActError::NoWayBack { ring: format!("{} {}", ring.product, ring.ring) });
    };
    if withdrawn.contains(&back.digest) {
        return Err(ActError::WayBackWithdrawn { version: back.version.clone() });
    }
    let mut next = rollout.clone();
    if rollout.direction == Direction::Rollback {
        // It is on its way already; a second order must not wipe the count of the first.
        return Ok(next);
    }
    next.direction = Direction::Rollback;
    next.state = RolloutState::RollingBack;
    next.started_at.get_or_insert(now);
    fresh_count(&mut next, now);
    Ok(next)
}

fn fresh_count(rollout: &mut Rollout, now: Timestamp) {
    rollout.count = rollout.count.saturating_add(1);
    rollout.count_since = now;
    rollout.changed_at = now;
}

fn superseded(rollout: &Rollout, by: &RolloutId) -> ActError {
    ActError::Superseded { id: rollout.id.clone(), by: by.clone() }
}
