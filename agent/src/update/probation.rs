//! When a new release has proved itself: how the checks of its probation add up. Says when it may be
//! committed, and as what; going back is decided in `state.rs`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    attempt::{Observed, Terms},
    event::Verdict,
    moment::Moment,
};

/// How far a probation has come, in running time that was watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probation {
    /// When the release was last looked at; at first, when it was switched to.
    pub seen: Moment,
    /// For how long it has been good without a break.
    pub good: Duration,
    /// For how long it was watched, good or unknown.
    pub watched: Duration,
    /// What the last check said.
    pub last: Option<Verdict>,
    /// It has proved itself, and update modules are asked to agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven: Option<Proof>,
}

/// As what a release is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// It was good for the whole of its probation.
    Good,
    /// No verdict until the longest probation was over: it stays, but counts as healthy for no gate.
    Unproven,
    /// It has no checks; what is installed is what was signed.
    Unobserved,
}

impl Proof {
    /// The word on the wire (`ProductState.health`).
    pub fn as_str(self) -> &'static str {
        match self {
            Proof::Good => "good",
            Proof::Unproven => "unproven",
            Proof::Unobserved => "unobserved",
        }
    }
}

/// A pause between checks that is longer than this many times the agreed one was not watched: the
/// host was suspended, or the agent stood still. One time for the check itself, one for a late one.
const LATE: u32 = 2;

impl Probation {
    /// A probation that begins now.
    pub fn begin(at: Moment) -> Probation {
        Probation {
            seen: at,
            good: Duration::ZERO,
            watched: Duration::ZERO,
            last: None,
            proven: None,
        }
    }

    /// After one more check. Time in which nobody looked counts for nothing: neither while the host
    /// was off or suspended, nor by a clock that was set.
    #[must_use]
    pub fn after(self, verdict: Verdict, at: Moment, terms: &Terms) -> Probation {
        let longest = terms.check_every.saturating_mul(LATE);
        let passed = at.since(&self.seen).unwrap_or_default().min(longest);
        let good = match verdict {
            Verdict::Good => self.good.saturating_add(passed),
            Verdict::Bad { .. } | Verdict::Unknown { .. } => Duration::ZERO,
        };
        Probation {
            seen: at,
            good,
            watched: self.watched.saturating_add(passed),
            last: Some(verdict),
            proven: None,
        }
    }

    /// Whether the release may be committed now, and as what.
    pub fn proof(&self, terms: &Terms) -> Option<Proof> {
        match (terms.health, &self.last) {
            (Observed::Not, Some(Verdict::Good)) => Some(Proof::Unobserved),
            (Observed::ByChecks, Some(Verdict::Good)) if self.good >= terms.probation => {
                Some(Proof::Good)
            }
            (_, Some(Verdict::Good | Verdict::Unknown { .. }))
                if self.watched >= terms.probation_max =>
            {
                Some(Proof::Unproven)
            }
            (_, Some(_) | None) => None,
        }
    }
}
