//! Delegated roles: how one is obtained under one delegator, and the search for a target by its path
//! (TUF 5.6.7). Refit's hosts ask for roles by name; the search is for any other TUF repository.

use std::collections::BTreeSet;

use super::{Refresh, Request, State};
use crate::trust::{
    error::TrustError,
    metadata::{TargetFile, limits},
    role::Role,
};

/// What a search waits for, or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The target, as the first role in order of precedence signs it.
    Target(TargetFile),
    /// No role that may sign it does, or one that had to be asked can't be trusted.
    Nothing,
    /// Fetch this, call [`Refresh::supply`] or [`Refresh::absent`], then search again.
    Fetch(Request),
}

/// Where a delegated role's file stands.
pub(super) enum Obtained {
    /// In the set.
    Held,
    /// Not delegated, or the snapshot does not list it.
    Unlisted,
    /// It can't be trusted.
    Refused,
    /// To be fetched.
    Fetch(Request),
}

impl Refresh {
    /// Searches for a target: depth first, in the order of delegations, each role once, a terminating
    /// delegation ending it. Called again after each fetched file until it has an answer.
    ///
    /// # Errors
    /// If the refresh has not come to the targets yet.
    pub fn find(&mut self, path: &str) -> Result<Found, TrustError> {
        let mut visited = BTreeSet::new();
        let mut to_visit = vec![(Role::Root, Role::Targets)];
        while let Some((delegator, role)) = to_visit.pop() {
            if visited.len() > limits::VISITS {
                return Ok(Found::Nothing);
            }
            if !visited.insert(role.clone()) {
                continue;
            }
            if role != Role::Targets {
                match self.obtain(&delegator, &role) {
                    Obtained::Held => {}
                    Obtained::Unlisted => continue,
                    Obtained::Refused => return Ok(Found::Nothing),
                    Obtained::Fetch(request) => return Ok(Found::Fetch(request)),
                }
            }
            let State::Delegated { set } = &self.state else { return Err(TrustError::Unfinished) };
            let file = match &role {
                Role::Targets => Some(set.targets()),
                other => set.delegated_by(&delegator, other),
            };
            let Some(file) = file else { return Ok(Found::Nothing) };
            if let Some(target) = file.targets.get(path) {
                return Ok(Found::Target(target.clone()));
            }
            let mut children = Vec::new();
            if let Some(bin) = file.bins.as_ref().and_then(|bins| bins.bin_of(path)) {
                // A path has one bin: nobody else is asked.
                to_visit.clear();
                children.push((role.clone(), bin));
            }
            for delegation in file.delegations.iter().filter(|d| d.paths.cover(path)) {
                children.push((role.clone(), delegation.role.clone()));
                if delegation.terminating {
                    to_visit.clear();
                    break;
                }
            }
            to_visit.extend(children.into_iter().rev());
        }
        Ok(Found::Nothing)
    }

    /// Brings a delegated role's file into the set from the stored one, or says what to fetch.
    pub(super) fn obtain(&mut self, delegator: &Role, role: &Role) -> Obtained {
        let State::Delegated { set } = &mut self.state else { return Obtained::Unlisted };
        if set.delegated_by(delegator, role).is_some() {
            return Obtained::Held;
        }
        if set.refused_by(delegator, role).is_some() {
            return Obtained::Refused;
        }
        let Some(pin) = set.pin(role).cloned() else { return Obtained::Unlisted };
        if *delegator == Role::Targets && set.targets().authority(role).is_none() {
            return Obtained::Unlisted;
        }
        // A stored file is verified under this delegator's keys, whoever vouched for it before.
        let held = self.stored.get(role).and_then(|bytes| {
            let file = set.verify_delegated(delegator, role, bytes).ok()?;
            file.fresh(self.now).ok()?;
            set.admit(delegator, file).ok()
        });
        if held.is_some() {
            return Obtained::Held;
        }
        self.asked = Some((delegator.clone(), role.clone()));
        Obtained::Fetch(self.pinned(role, &pin))
    }
}
