//! What was measured before the update, and what a check of the new release says beside it. The same numbers
//! before and after are never bad; what is unknown before or after is never good and never bad; and what
//! failed before already is not the release's fault.

use std::fmt;

use refit_proto::{names::PackageName, package::Limit};
use serde::{Deserialize, Serialize};

/// One check of a release: its package, and its name there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CheckId {
    /// The package.
    pub package: PackageName,
    /// The check.
    pub check: PackageName,
}

impl fmt::Display for CheckId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.package, self.check)
    }
}

/// What one check of the new release found before the update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "found")]
pub enum Found {
    /// The check failed.
    Red {
        /// How.
        text: String,
    },
    /// These numbers, at least one.
    Measured {
        /// One for each round.
        samples: Vec<u64>,
    },
    /// There was nothing to measure: the service did not run or was not there.
    Absent,
    /// It could not be told.
    Unknown {
        /// Why.
        why: String,
    },
    /// What a later version of the agent has written and this one does not know: it can't be told.
    #[serde(other)]
    Unrecognised,
}

/// What was found before the update, by check of the new release. A check that asks and has passed, or was
/// not there, has nothing here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline(Vec<(CheckId, Found)>);

impl Baseline {
    /// Of these findings.
    pub fn of(found: impl IntoIterator<Item = (CheckId, Found)>) -> Baseline {
        Baseline(found.into_iter().collect())
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What this check found.
    pub fn found(&self, check: &CheckId) -> Option<&Found> {
        self.0.iter().find(|(id, _)| id == check).map(|(_, found)| found)
    }

    /// How this check failed before; `None` if it did not.
    pub fn red(&self, check: &CheckId) -> Option<&str> {
        match self.found(check)? {
            Found::Red { text } => Some(text),
            Found::Measured { .. }
            | Found::Absent
            | Found::Unknown { .. }
            | Found::Unrecognised => None,
        }
    }
}

/// What a number of the new release says beside what was measured before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compared {
    /// It has not grown too much.
    Good,
    /// It has grown too much: over this.
    Over {
        /// The largest number before; `None` where nothing was measured.
        before: Option<u64>,
    },
    /// Nobody can say.
    Unknown(String),
    /// Nothing ran before that it could be compared with, and the manifest names no number of its own: the
    /// check has no say.
    NoSay,
}

/// Compares a number of the new release with what was measured before.
pub fn compare(before: Option<&Found>, now: u64, limit: &Limit) -> Compared {
    let before = match before {
        None => return Compared::Unknown("it was not measured before the update".into()),
        Some(Found::Unknown { why }) => {
            return Compared::Unknown(format!("before the update it could not be measured: {why}"));
        }
        Some(Found::Red { .. } | Found::Unrecognised) => {
            return Compared::Unknown("what was measured before the update can't be read".into());
        }
        Some(Found::Absent) => None,
        Some(Found::Measured { samples }) => match samples.iter().max() {
            Some(largest) => Some(*largest),
            None => return Compared::Unknown("nothing was measured before the update".into()),
        },
    };
    let over = match (before, limit.most) {
        (None, None) => return Compared::NoSay,
        (None, Some(most)) => now > most,
        (Some(before), most) => {
            now > before && (has_grown(before, now, limit) || most.is_some_and(|most| now > most))
        }
    };
    if over { Compared::Over { before } } else { Compared::Good }
}

/// Beyond the ratio and the floor, both.
fn has_grown(before: u64, now: u64, limit: &Limit) -> bool {
    let beyond = u128::from(now) * 100 > u128::from(before) * u128::from(limit.percent);
    beyond && now - before > limit.least
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TWICE: Limit = Limit { percent: 200, least: 100, most: None };

    fn measured(samples: &[u64]) -> Found {
        Found::Measured { samples: samples.to_vec() }
    }

    #[test]
    fn a_number_is_bad_only_beyond_both_the_ratio_and_the_floor() {
        let over = |before: &[u64], now| {
            matches!(compare(Some(&measured(before)), now, &TWICE), Compared::Over { .. })
        };
        assert!(!over(&[10], 110), "ten times as much, and not a hundred more");
        assert!(over(&[10], 111));
        assert!(!over(&[1000], 2000), "a thousand more, and not more than twice");
        assert!(over(&[1000], 2001));
        assert!(!over(&[10, 900, 20], 1800), "the largest counts");
        assert!(over(&[0], 101) && !over(&[0], 100));
    }

    #[test]
    fn where_nothing_ran_before_only_a_number_of_the_manifests_own_has_a_say() {
        let most = Limit { most: Some(50), ..TWICE };
        assert_eq!(compare(Some(&Found::Absent), 1 << 40, &TWICE), Compared::NoSay);
        assert_eq!(compare(Some(&Found::Absent), 50, &most), Compared::Good);
        assert_eq!(compare(Some(&Found::Absent), 51, &most), Compared::Over { before: None });
        // What was over it before is not the release's.
        assert_eq!(compare(Some(&measured(&[60])), 60, &most), Compared::Good);
        assert_eq!(compare(Some(&measured(&[60])), 61, &most), Compared::Over { before: Some(60) });
    }

    fn limits() -> impl Strategy<Value = Limit> {
        (100_u32..1000, any::<u64>(), any::<Option<u64>>())
            .prop_map(|(percent, least, most)| Limit { percent, least, most })
    }

    proptest! {
        #[test]
        fn the_same_numbers_before_and_after_are_never_bad(
            samples in prop::collection::vec(any::<u64>(), 1..20),
            limit in limits(),
            at in any::<prop::sample::Index>(),
        ) {
            let now = samples[at.index(samples.len())];
            prop_assert_eq!(compare(Some(&measured(&samples)), now, &limit), Compared::Good);
        }

        #[test]
        fn what_is_unknown_before_is_never_good_and_never_bad(now in any::<u64>(), limit in limits()) {
            for before in [
                None,
                Some(Found::Unknown { why: "no cgroup".into() }),
                Some(Found::Unrecognised),
                Some(Found::Red { text: String::new() }),
                Some(measured(&[])),
            ] {
                let said = compare(before.as_ref(), now, &limit);
                prop_assert!(matches!(said, Compared::Unknown(_)), "{:?}: {:?}", before, said);
            }
        }

        #[test]
        fn less_is_never_worse_than_more(
            samples in prop::collection::vec(any::<u64>(), 1..20),
            limit in limits(),
            (less, more) in (any::<u64>(), any::<u64>()),
        ) {
            prop_assume!(less <= more);
            let bad = |now| {
                matches!(compare(Some(&measured(&samples)), now, &limit), Compared::Over { .. })
            };
            prop_assert!(!bad(less) || bad(more));
        }
    }
}
