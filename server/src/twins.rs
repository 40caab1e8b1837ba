//! Two machines that use one identity: what becomes of a host when its reports part into two chains. That
//! they part is found in [`crate::reports`]; how many such hosts there are, in [`crate::troubles`].

use jiff::Timestamp;

use crate::{
    fleet::{Health, Host, HostState},
    store::{Commit, Note, Rev, Store, StoreFault},
};

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
