//! The words for where an update stands, as reports, status and logs use them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where an update stands, without what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The server offers a release; nothing is checked yet.
    Offered,
    /// Does it fit here?
    Preflight,
    /// Content comes in.
    Fetching,
    /// Everything is here; the window or the lease is not.
    Waiting,
    /// What the release may change is being saved, while the service runs.
    BackingUp,
    /// The way back is armed and services stop.
    Quiescing,
    /// What had to be saved at rest is saved, and the whole backup is sealed.
    Sealing,
    /// The new release takes the old one's place.
    Switching,
    /// The host boots into the new release.
    Rebooting,
    /// The new release runs and has to prove its health.
    Probation,
    /// The new release stays.
    Committed,
    /// The host did not take the release, and is as it was.
    Refused,
    /// The offer was taken back before anything began.
    Dropped,
    /// The old release takes its place again.
    RollingBack,
    /// The old release runs again.
    RolledBack,
    /// Neither forward nor back: a person is needed.
    Stuck,
}

impl Phase {
    /// All of them, in the order of an update's life.
    pub const ALL: [Phase; 16] = [
        Phase::Offered,
        Phase::Preflight,
        Phase::Fetching,
        Phase::Waiting,
        Phase::BackingUp,
        Phase::Quiescing,
        Phase::Sealing,
        Phase::Switching,
        Phase::Rebooting,
        Phase::Probation,
        Phase::Committed,
        Phase::Refused,
        Phase::Dropped,
        Phase::RollingBack,
        Phase::RolledBack,
        Phase::Stuck,
    ];

    /// The word on the wire (`ProductState.phase`) and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Offered => "offered",
            Phase::Preflight => "preflight",
            Phase::Fetching => "fetching",
            Phase::Waiting => "waiting",
            Phase::BackingUp => "backing-up",
            Phase::Quiescing => "quiescing",
            Phase::Sealing => "sealing",
            Phase::Switching => "switching",
            Phase::Rebooting => "rebooting",
            Phase::Probation => "probation",
            Phase::Committed => "committed",
            Phase::Refused => "refused",
            Phase::Dropped => "dropped",
            Phase::RollingBack => "rolling-back",
            Phase::RolledBack => "rolled-back",
            Phase::Stuck => "stuck",
        }
    }

    /// The phase that the word names.
    pub fn parse(word: &str) -> Option<Phase> {
        Phase::ALL.into_iter().find(|phase| phase.as_str() == word)
    }

    /// Whether the update is over.
    pub fn is_end(self) -> bool {
        match self {
            Phase::Committed
            | Phase::Refused
            | Phase::Dropped
            | Phase::RolledBack
            | Phase::Stuck => true,
            Phase::Offered
            | Phase::Preflight
            | Phase::Fetching
            | Phase::Waiting
            | Phase::BackingUp
            | Phase::Quiescing
            | Phase::Sealing
            | Phase::Switching
            | Phase::Rebooting
            | Phase::Probation
            | Phase::RollingBack => false,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
