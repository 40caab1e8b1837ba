//! A plan as a commit: the rollouts and placements that it changes, each on the revision that it was
//! made from, with what happened in the words of the audit log.

use crate::{
    audit::Deed,
    fleet::{Actor, Placement, RolloutId},
    product_view::ProductNow,
    rollout::{Change, HoldReason, Plan},
    store::{Commit, Note, Rev},
};

/// What to store of a plan. `watched` are the placements that it looked at.
pub fn commit(view: &ProductNow, plan: &Plan, watched: &[Rev<Placement>]) -> (Commit, Vec<Deed>) {
    let mut commit = Commit::new();
    let mut deeds = Vec::new();
    let revision = |id: &RolloutId| {
        let held = view.rings.iter().filter_map(|ring| ring.rollout.as_ref());
        held.filter(|held| held.value.id == *id).map(|held| held.rev).next()
    };
    for ring in &plan.rings {
        for rollout in &ring.write {
            commit.note(Note::Rollout(rollout.id.clone()));
            commit.doc(revision(&rollout.id).unwrap_or(0), rollout.clone());
        }
        for step in ring.late.iter().filter(|step| !step.is_empty) {
            let after = &step.placement;
            let before = watched.iter().find(|held| {
                held.value.host_id == after.host_id && held.value.product == after.product
            });
            commit.note(Note::Placements(after.product.clone(), vec![after.host_id.clone()]));
            commit.placement(before, after.clone());
        }
        deeds.extend(ring.changes.iter().map(deed));
    }
    (commit, deeds)
}

fn deed(change: &Change) -> Deed {
    let done = |act: &str, what: String| Deed::done(Actor::Server, act, what);
    match change {
        Change::Created(id) => done("rollout create", id.to_string()),
        Change::Superseded(id) => done("rollout supersede", id.to_string()),
        Change::Started(id) => done("rollout start", id.to_string()),
        Change::Wave(id, wave) => done("rollout wave", format!("{id} wave {wave}")),
        Change::Soaking(id) => done("rollout soak", id.to_string()),
        Change::Unsettled(id) => done("rollout unsettle", id.to_string()),
        Change::Done(id) => done("rollout finish", id.to_string()),
        Change::Halted(id, reason) => {
            done("rollout halt", format!("{id}: {}", HoldReason::Halted(*reason).text()))
        }
    }
}
