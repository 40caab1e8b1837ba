//! What can happen to an update: the answer to each step, and what comes from outside.

use serde::{Deserialize, Serialize};

use super::{
    attempt::{Lease, SealedBackup, Terms},
    baseline::{Baseline, CheckId},
    cause::Failure,
    ids::BackupId,
    may_begin::HostHold,
    moment::Moment,
    reboot::RebootNeed,
    set_aside::SetAside,
};

/// What a health check says. Unknown is not bad, and not good either.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    /// Every check passed.
    Good,
    /// A check failed as often in a row as its manifest allows.
    Bad {
        /// Which check, and what it found.
        text: String,
        /// The checks that failed; none where it was no check.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        checks: Vec<CheckId>,
    },
    /// A check could not be evaluated, or has not failed often enough to count.
    Unknown {
        /// Which check, and why.
        text: String,
    },
}

impl Verdict {
    /// The word on the wire (`ProductState.health`).
    pub fn as_str(&self) -> &'static str {
        match self {
            Verdict::Good => "good",
            Verdict::Bad { .. } => "bad",
            Verdict::Unknown { .. } => "unknown",
        }
    }
}

/// What has happened. Each answers one step, but for the last five, which can come at any time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// The host's own trust permits the release on the ring that the host is in.
    Permitted,
    /// It fits here, the space is reserved, and the manifests say these terms.
    PreflightPassed {
        /// The terms.
        terms: Terms,
    },
    /// All content is here and is what the manifests say.
    Fetched,
    /// The window is open, the release is still permitted, and the server gave a lease.
    LeaseGiven {
        /// The lease.
        lease: Lease,
        /// When the host acts on it.
        at: Moment,
    },
    /// This host may not begin now, by its own rules.
    Held {
        /// Every reason.
        holds: Vec<HostHold>,
        /// When.
        at: Moment,
    },
    /// What can be saved while the service runs is saved.
    BackedUp {
        /// The backup, not yet sealed.
        backup: BackupId,
        /// How healthy what runs now is; `None` if nothing does.
        baseline: Option<Verdict>,
        /// What the new release's checks found before.
        #[serde(default, skip_serializing_if = "Baseline::is_empty")]
        before: Baseline,
    },
    /// The way back is armed and the services are stopped.
    Quiesced,
    /// The backup is whole, sealed and test-restored.
    Sealed {
        /// What proves it.
        sealed: SealedBackup,
    },
    /// The new release is in its place, read back by hash, and its services are started, unless the
    /// host must boot first.
    Switched {
        /// When.
        at: Moment,
        /// Why the host has to boot; `None`: it need not.
        reboot: Option<RebootNeed>,
    },
    /// Nothing holds the boot off.
    MayReboot,
    /// Something holds the boot off.
    RebootHeld {
        /// What.
        failure: Failure,
        /// When.
        at: Moment,
    },
    /// The host was asked to boot and is still here.
    StillUp {
        /// What came of asking.
        why: String,
    },
    /// What the release needed in place of a boot of the host is done: an update module saw to it.
    Rebooted {
        /// When.
        at: Moment,
    },
    /// The update modules agree to the commit.
    Agreed,
    /// The new release's health was checked.
    Checked {
        /// What was found.
        verdict: Verdict,
        /// When.
        at: Moment,
    },
    /// What ran before the update is in its place again and its services run.
    WentBack {
        /// How healthy it is.
        health: Option<Verdict>,
        /// Where that is kept which stood in the way of what was brought back.
        kept: Vec<SetAside>,
        /// The end of what the failed release's services wrote.
        log: String,
    },
    /// Nothing is left to tidy up.
    Settled,
    /// The step failed.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// The agent has started again and has found this update in its journal.
    Resumed {
        /// When.
        at: Moment,
    },
    /// The rescuer went back from this update while no agent did.
    Rescued {
        /// Why.
        failure: Failure,
    },
    /// The server does not offer the release any more, or holds it.
    TakenBack,
    /// The server orders a host in probation to go back.
    BackOut,
}

impl Event {
    /// Its name, for errors and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Permitted => "permitted",
            Event::PreflightPassed { .. } => "preflight-passed",
            Event::Fetched => "fetched",
            Event::LeaseGiven { .. } => "lease-given",
            Event::Held { .. } => "held",
            Event::BackedUp { .. } => "backed-up",
            Event::Quiesced => "quiesced",
            Event::Sealed { .. } => "sealed",
            Event::Switched { .. } => "switched",
            Event::MayReboot => "may-reboot",
            Event::RebootHeld { .. } => "reboot-held",
            Event::StillUp { .. } => "still-up",
            Event::Rebooted { .. } => "rebooted",
            Event::Agreed => "agreed",
            Event::Checked { .. } => "checked",
            Event::WentBack { .. } => "went-back",
            Event::Settled => "settled",
            Event::Failed { .. } => "failed",
            Event::Resumed { .. } => "resumed",
            Event::Rescued { .. } => "rescued",
            Event::TakenBack => "taken-back",
            Event::BackOut => "back-out",
        }
    }
}
