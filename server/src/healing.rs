//! What this server once published and has lost, as far as it has heard of it: a server that was put back
//! to an older copy. In memory alone, since hosts say it again with every call.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use refit_proto::trust::Role;

/// One host is asked at a time: what it gives need not come from all.
const ASK_EVERY: SignedDuration = SignedDuration::from_secs(1);

/// What hosts hold and the server lacks.
#[derive(Debug, Default)]
pub struct Healing(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    lacking: BTreeMap<Role, u64>,
    asked: Option<Timestamp>,
}

impl Healing {
    /// Notes what a snapshot of the server's own key lists and the server lacks; says what is new of it.
    pub fn note(&self, lacking: &BTreeMap<Role, u64>) -> Vec<(Role, u64)> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = Vec::new();
        for (role, version) in lacking {
            let known = state.lacking.entry(role.clone()).or_default();
            if *known < *version {
                *known = *version;
                new.push((role.clone(), *version));
            }
        }
        new
    }

    /// What is lacking still, where these versions are held.
    pub fn lacking(&self, held: impl Fn(&Role) -> u64) -> BTreeMap<Role, u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.lacking.retain(|role, version| *version > held(role));
        state.lacking.clone()
    }

    /// Whether a host may be asked now, and notes that it is.
    pub fn may_ask(&self, now: Timestamp) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let soon = state.asked.is_some_and(|at| now.duration_since(at).abs() < ASK_EVERY);
        if !soon {
            state.asked = Some(now);
        }
        !soon
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_told_once_and_forgotten_when_it_is_back() {
        let healing = Healing::default();
        let lacking = BTreeMap::from([(Role::Policy, 5), (Role::Targets, 2)]);
        assert_eq!(healing.note(&lacking).len(), 2);
        assert_eq!(healing.note(&lacking), []);
        assert_eq!(healing.lacking(|_| 2), BTreeMap::from([(Role::Policy, 5)]));
        assert_eq!(healing.lacking(|_| 5), BTreeMap::new());
    }
}
