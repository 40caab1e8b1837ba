//! What an update waits for. This is the interface between what decides, with the network at its
//! side, and what changes the host: typed, serialisable, journaled before it is done. A step names
//! everything by digest or id, so that whoever does it can check what it is given; and each is safe to
//! repeat, since after a crash nobody knows whether it was done.

use std::time::Duration;

use refit_proto::package::Reboot;
use serde::{Deserialize, Serialize};

use super::{
    attempt::{Attempt, Change, SealedBackup, Terms},
    ids::BackupId,
    phase::Phase,
};

/// What an update waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub enum Step {
    /// Ask the host's own trust whether the release is permitted here. → `Permitted`
    Permit {
        /// The release.
        attempt: Attempt,
        /// How long to wait first; more after each failure.
        pause: Duration,
    },
    /// Get the manifests, and find and reserve the space that all of it takes. → `PreflightPassed`
    Preflight {
        /// The release.
        attempt: Attempt,
        /// How long to wait first.
        pause: Duration,
    },
    /// Bring in the content, from what is here already and from the network. → `Fetched`
    Fetch {
        /// The release.
        attempt: Attempt,
        /// How long to wait first.
        pause: Duration,
    },
    /// Wait for the window, ask trust once more, then ask the server for the leave. → `LeaseGiven`
    AskLeave {
        /// The release.
        attempt: Attempt,
        /// Whether it will have the host boot: then what holds a boot off holds the update off too.
        reboot: Reboot,
        /// How long to wait first.
        pause: Duration,
    },
    /// Save what the release may change, while the services run. Changes nothing. → `BackedUp`
    BackUp {
        /// The release.
        attempt: Attempt,
        /// Its terms.
        terms: Terms,
    },
    /// Arm the way back, then stop the services. → `Quiesced`
    Quiesce {
        /// What is about to change.
        change: Change,
    },
    /// Save what had to be at rest, seal the whole, test-restore it, write it into the way back. → `Sealed`
    Seal {
        /// What is about to change.
        change: Change,
    },
    /// Payload, then pointer, then services. The first step that changes the target. → `Switched`
    Switch {
        /// What changes.
        change: Change,
        /// What it can go back to.
        sealed: SealedBackup,
    },
    /// Ask what may hold a boot off: who works on the host, and the server. → `MayReboot` or `RebootHeld`
    AskReboot {
        /// What changes.
        change: Change,
        /// How long to wait first.
        pause: Duration,
    },
    /// Boot the host. → `StillUp` or `Rebooted`, or nobody is left to answer
    Reboot {
        /// What changes.
        change: Change,
        /// What it can go back to.
        sealed: SealedBackup,
    },
    /// Wait for the next check and do it. → `Checked`
    Watch {
        /// What is on probation.
        change: Change,
        /// What it can go back to.
        sealed: SealedBackup,
    },
    /// Ask the update modules to agree to the commit. → `Agreed`
    Commit {
        /// What has proved itself.
        change: Change,
        /// What it can go back to.
        sealed: SealedBackup,
    },
    /// Put back what ran before. → `WentBack`
    GoBack {
        /// What did not hold.
        change: Change,
        /// How.
        undo: Undo,
        /// How long to wait first.
        pause: Duration,
    },
    /// After the end: disarm the way back, give back the reserved space, remove what nothing refers
    /// to. → `Settled`
    Settle {
        /// The update that is over.
        attempt: Attempt,
        /// How it ended.
        ended: Phase,
    },
}

/// How to put back what ran before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "undo")]
pub enum Undo {
    /// Nothing was changed: start the services again.
    StartAgain {
        /// Not needed to go back; removed when it is over.
        backup: BackupId,
    },
    /// Bring back what the sealed backup holds, and remove what was not there.
    Restore {
        /// Which backup, and what proves it.
        sealed: SealedBackup,
    },
}

impl Step {
    /// Its name, for errors and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Step::Permit { .. } => "permit",
            Step::Preflight { .. } => "preflight",
            Step::Fetch { .. } => "fetch",
            Step::AskLeave { .. } => "ask-leave",
            Step::BackUp { .. } => "back-up",
            Step::Quiesce { .. } => "quiesce",
            Step::Seal { .. } => "seal",
            Step::Switch { .. } => "switch",
            Step::AskReboot { .. } => "ask-reboot",
            Step::Reboot { .. } => "reboot",
            Step::Watch { .. } => "watch",
            Step::Commit { .. } => "commit",
            Step::GoBack { .. } => "go-back",
            Step::Settle { .. } => "settle",
        }
    }

    /// What the step is about.
    pub fn attempt(&self) -> &Attempt {
        match self {
            Step::Permit { attempt, .. }
            | Step::Preflight { attempt, .. }
            | Step::Fetch { attempt, .. }
            | Step::AskLeave { attempt, .. }
            | Step::BackUp { attempt, .. }
            | Step::Settle { attempt, .. } => attempt,
            Step::Quiesce { change }
            | Step::Seal { change }
            | Step::Switch { change, .. }
            | Step::AskReboot { change, .. }
            | Step::Reboot { change, .. }
            | Step::Watch { change, .. }
            | Step::Commit { change, .. }
            | Step::GoBack { change, .. } => &change.attempt,
        }
    }
}
