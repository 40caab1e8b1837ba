//! Who is named in the audit log, and which refusals get into it: each, but not each time again.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::{
    audit::Deed,
    fleet::{Actor, AuditOutcome},
    identity::{Caller, PersonKind},
};

/// The audit name of a caller.
pub fn actor(caller: &Caller) -> Actor {
    match caller {
        Caller::Host(id) => Actor::Host(id.clone()),
        Caller::Person { name, kind: PersonKind::Person } => Actor::Person(name.clone()),
        Caller::Person { name, kind: PersonKind::Ci } => Actor::Ci(name.clone()),
        Caller::Nobody => Actor::Unknown,
    }
}

/// The same refusal of the same caller is put on record once in an hour: a revoked host goes on asking.
const AGAIN: SignedDuration = SignedDuration::from_hours(1);
/// Refusals of callers that nobody can name, in one minute: what a flood may write. The rest is logged.
const STRANGERS: u32 = 30;
const MINUTE: SignedDuration = SignedDuration::from_mins(1);
/// Refusals that are remembered; with more, the oldest may be put on record again.
const REMEMBERED: usize = 10_000;

/// Keeps floods of refusals out of the audit log. It is memory alone: forgetting costs an entry too many.
#[derive(Debug, Default)]
pub struct Throttle {
    seen: BTreeMap<(String, String, String), Timestamp>,
    strangers: u32,
    since: Option<Timestamp>,
}

impl Throttle {
    /// Whether this is to be put on record.
    pub fn admits(&mut self, deed: &Deed, now: Timestamp) -> bool {
        let AuditOutcome::Refused(why) = &deed.outcome else { return true };
        let key = (deed.who.to_string(), deed.act.clone(), format!("{} {why}", deed.what));
        if self.seen.get(&key).is_some_and(|seen| now.duration_since(*seen) < AGAIN) {
            return false;
        }
        if matches!(deed.who, Actor::Token(_) | Actor::Unknown) && !self.admits_stranger(now) {
            return false;
        }
        if self.seen.len() >= REMEMBERED {
            self.seen.retain(|_, seen| now.duration_since(*seen) < AGAIN);
        }
        if self.seen.len() >= REMEMBERED {
            self.seen.clear();
        }
        self.seen.insert(key, now);
        true
    }

    fn admits_stranger(&mut self, now: Timestamp) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= MINUTE) {
            (self.since, self.strangers) = (Some(now), 0);
        }
        self.strangers = self.strangers.saturating_add(1);
        self.strangers <= STRANGERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn refused(who: Actor, why: &str) -> Deed {
        Deed::refused(who, "host enroll", "web-1", why)
    }

    #[test]
    fn a_refusal_that_repeats_is_on_record_once_an_hour() {
        let mut throttle = Throttle::default();
        let host = || Actor::Host(refit_proto::names::HostId::of_public_key(b"1"));
        assert!(throttle.admits(&refused(host(), "revoked"), at(0)));
        assert!(!throttle.admits(&refused(host(), "revoked"), at(30)));
        assert!(throttle.admits(&refused(host(), "another reason"), at(30)));
        assert!(throttle.admits(&refused(host(), "revoked"), at(3600)));
    }

    #[test]
    fn a_flood_of_strangers_fills_a_few_lines_and_leaves_the_known_alone() {
        let mut throttle = Throttle::default();
        let token = |n: u32| refused(Actor::Token(n.to_string()), "no");
        let admitted = (0..10_000).filter(|n| throttle.admits(&token(*n), at(0)));
        assert_eq!(admitted.count(), STRANGERS as usize);
        let alice = Actor::Person("alice".parse().unwrap());
        assert!(throttle.admits(&refused(alice, "no"), at(0)));
        assert!(throttle.admits(&refused(Actor::Unknown, "no"), at(60)));
    }

    #[test]
    fn what_was_done_is_always_on_record() {
        let mut throttle = Throttle::default();
        let deed = Deed::done(Actor::Server, "rollout halt", "payments pilot");
        assert!((0..100).all(|_| throttle.admits(&deed, at(0))));
    }
}
