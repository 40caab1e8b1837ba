//! Two machines that use one identity: what becomes of a host when its reports part into two chains, and how
//! many such hosts there are. That they part is found in [`crate::reports`].

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::{
    fleet::{Health, Host, HostState},
    store::{Commit, HostQuery, Listed, Note, Rev, Store, StoreFault},
};

/// How old the number may be that is shown: it is counted over all hosts.
const COUNTED: SignedDuration = SignedDuration::from_secs(30);
/// Hosts in one look.
const PAGE: usize = 1000;

/// The number of hosts that share their identity, counted now and then.
#[derive(Debug, Default)]
pub struct Twins(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    counted: Option<(Timestamp, u64)>,
    /// Grows with each change, so that a count from before one is not kept after it.
    changes: u64,
}

impl Twins {
    /// How many there are.
    ///
    /// # Errors
    /// If they can't be counted.
    pub fn count(&self, store: &dyn Store, now: Timestamp) -> Result<u64, StoreFault> {
        let before = {
            let known = self.known();
            if let Some((at, count)) = known.counted
                && now.duration_since(at) < COUNTED
            {
                return Ok(count);
            }
            known.changes
        };
        let query = HostQuery { state: Some(HostState::Shared), ..HostQuery::default() };
        let (mut count, mut after) = (0, None);
        loop {
            let Listed { rows, next } = store.find(&query, after.as_ref(), PAGE)?;
            count += rows.len() as u64;
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let mut known = self.known();
        if known.changes == before {
            known.counted = Some((now, count));
        }
        Ok(count)
    }

    /// A commit has made it another number: the next look counts.
    pub fn changed(&self) {
        let mut known = self.known();
        (known.counted, known.changes) = (None, known.changes.wrapping_add(1));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each change is one assignment: there is nothing half done to find.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks a host whose reports have parted: from now on nothing of it counts as healthy. Empty where that is
/// known already.
///
/// # Errors
/// If the store can't be read.
pub fn mark(store: &dyn Store, held: &Rev<Host>, now: Timestamp) -> Result<Commit, StoreFault> {
    let mut commit = Commit::new();
    if held.value.state != HostState::Active {
        return Ok(commit);
    }
    for placement in store.placements(&held.value.id)? {
        let mut after = placement.value.clone();
        (after.health, after.changed_at) = (Health::Unknown, now);
        commit.note(Note::Placements(after.product.clone(), vec![after.host_id.clone()]));
        commit.placement(Some(&placement), after);
    }
    commit.note(Note::Host(held.value.id.clone()));
    commit.host(held.rev, Host { state: HostState::Shared, ..held.value.clone() });
    Ok(commit)
}
