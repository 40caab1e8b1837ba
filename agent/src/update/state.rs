//! The life of one update: where it stands, what it waits for, and what may follow. One line of
//! [`Update::on`] per arrow of the drawing in [the module above](super).

use refit_proto::{names::Product, package::WayBack};
use serde::{Deserialize, Serialize};

use super::{
    attempt::{Attempt, Change, Lease, OrderedBy, Retry, SealedBackup, Terms},
    baseline::CheckId,
    cause::{Blame, Cause, Failure},
    event::{Event, Verdict},
    ids::{BackupId, InstallId, LeaseId},
    may_begin::Held,
    moment::Moment,
    phase::Phase,
    probation::{Probation, Proof},
    reboot,
    step::{Step, Undo},
};

/// Where an update stands. The journal keeps exactly this, so each state holds what it takes to go on
/// after a crash. Until Quiescing the host is untouched; from Switching on there is always a sealed
/// backup to go back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Update {
    /// The server offers a release; the host has not yet asked its own trust.
    Offered {
        /// What it is about.
        attempt: Attempt,
        /// Tries so far.
        retry: Retry,
    },
    /// The release is permitted here. Does it fit?
    Preflight {
        /// What it is about.
        attempt: Attempt,
        /// Tries so far.
        retry: Retry,
    },
    /// It fits. Content comes in; the network may take as long as it takes.
    Fetching {
        /// What it is about.
        attempt: Attempt,
        /// By which terms.
        terms: Terms,
        /// Tries so far.
        retry: Retry,
    },
    /// Everything is here. The window, the permission of the day, the lease are not.
    Waiting {
        /// What it is about.
        attempt: Attempt,
        /// By which terms.
        terms: Terms,
        /// Tries so far.
        retry: Retry,
    },
    /// The update has leave to begin, and saves what it may change. The services still run.
    BackingUp {
        /// What it is about.
        attempt: Attempt,
        /// By which terms.
        terms: Terms,
        /// The leave.
        lease: Lease,
    },
    /// The way back is armed, and services stop. From here on the host finishes to a whole release.
    Quiescing {
        /// What is about to change.
        change: Change,
    },
    /// What had to be saved at rest is saved; then the whole backup is sealed.
    Sealing {
        /// What is about to change.
        change: Change,
    },
    /// The target changes: payload, then pointer, then services.
    Switching {
        /// What changes.
        change: Change,
        /// What it can go back to.
        sealed: SealedBackup,
    },
    /// The new release is in its place and the host has to boot to run it.
    Rebooting {
        /// What changes.
        change: Change,
        /// What it can go back to.
        sealed: SealedBackup,
        /// What asks for the boot, and how far that has come.
        #[serde(flatten)]
        reboot: reboot::Rebooting,
    },
    /// The new release runs and has to prove its health.
    Probation {
        /// What changed.
        change: Change,
        /// What it can go back to.
        sealed: SealedBackup,
        /// How far it has come.
        probation: Probation,
    },
    /// What ran before takes its place again.
    RollingBack {
        /// What did not hold.
        change: Change,
        /// How it is undone.
        undo: Undo,
        /// Why.
        failure: Failure,
        /// Tries that failed.
        #[serde(default)]
        retry: Retry,
    },
    /// The update is over. Only tidying up is left, or, if `settled`, not even that.
    Finished {
        /// What it was about.
        attempt: Attempt,
        /// Under which leave it began; `None` if it never began.
        lease: Option<LeaseId>,
        /// How it ended.
        outcome: Outcome,
        /// Whether everything is tidied up.
        settled: bool,
    },
}

/// How an update ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Outcome {
    /// The new release stays.
    Committed {
        /// As what.
        proof: Proof,
        /// Kept, so that a person can still go back.
        sealed: SealedBackup,
        /// What was not healthy before; empty: nothing.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        red_before: String,
    },
    /// The host did not take the release, and is as it was.
    Refused {
        /// Why.
        failure: Failure,
    },
    /// The offer was taken back before the update had leave to begin.
    Dropped,
    /// What ran before runs again.
    RolledBack {
        /// Why.
        failure: Failure,
        /// How healthy it is; `None` if nothing ran before.
        health: Option<Verdict>,
    },
    /// Neither forward nor back: a person is needed.
    Stuck {
        /// Why the update failed.
        failure: Failure,
        /// Why going back failed; `None` if the release has no way back.
        rollback: Option<Failure>,
        /// What is left to go back to.
        backup: BackupId,
    },
}

impl Outcome {
    /// Its phase.
    pub fn phase(&self) -> Phase {
        match self {
            Outcome::Committed { .. } => Phase::Committed,
            Outcome::Refused { .. } => Phase::Refused,
            Outcome::Dropped => Phase::Dropped,
            Outcome::RolledBack { .. } => Phase::RolledBack,
            Outcome::Stuck { .. } => Phase::Stuck,
        }
    }

    /// Why it did not end Committed.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Outcome::Committed { .. } | Outcome::Dropped => None,
            Outcome::Refused { failure }
            | Outcome::RolledBack { failure, .. }
            | Outcome::Stuck { failure, .. } => Some(failure),
        }
    }

    /// Whether this host must not take the same release a second time: it ran here, and failed by its
    /// own fault. What was refused never ran, so there is nothing to hold against it: content that
    /// was changed on its way would else let whoever changed it ban a good release. A release of the
    /// agent that did not qualify did run, after every byte of it was found to be what was signed.
    pub fn quarantines(&self) -> bool {
        match self {
            // Who undoes what was committed does not want it back by itself.
            Outcome::RolledBack { failure, .. } if failure.cause == Cause::Restored => true,
            Outcome::RolledBack { failure, .. } | Outcome::Stuck { failure, .. } => {
                match failure.blame() {
                    Blame::Release => true,
                    Blame::Host | Blame::Weather | Blame::Order => false,
                }
            }
            Outcome::Refused { failure } => failure.cause == Cause::NotQualified,
            Outcome::Committed { .. } | Outcome::Dropped => false,
        }
    }
}

/// An event that cannot follow in a state: whoever reports it is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "an update of {product} in {phase} was told {event:?}, which cannot happen there\n\
     help: this is a defect of the agent; report it with the host's log"
)]
pub struct UnexpectedEvent {
    /// The update's product.
    pub product: Product,
    /// Where the update stands.
    pub phase: Phase,
    /// What it was told.
    pub event: &'static str,
}

/// How often the agent may be started again while one change is under way. Each time may be a power
/// cut, so a few must pass; a release that takes the host down with it must not loop for ever.
const MOST_STARTS: u32 = 10;

/// How often going back is tried again before a person is needed. A disk that is full or fails for a moment
/// must not leave a host with its services down; with the pauses between, this is about two minutes.
const MOST_ROLLBACKS: u32 = 6;

impl Update {
    /// An update that has just been offered.
    pub fn offered(attempt: Attempt) -> Update {
        Update::Offered { attempt, retry: Retry::default() }
    }

    /// What the update is about.
    pub fn attempt(&self) -> &Attempt {
        match self {
            Update::Offered { attempt, .. }
            | Update::Preflight { attempt, .. }
            | Update::Fetching { attempt, .. }
            | Update::Waiting { attempt, .. }
            | Update::BackingUp { attempt, .. }
            | Update::Finished { attempt, .. } => attempt,
            Update::Quiescing { change }
            | Update::Sealing { change }
            | Update::Switching { change, .. }
            | Update::Rebooting { change, .. }
            | Update::Probation { change, .. }
            | Update::RollingBack { change, .. } => &change.attempt,
        }
    }

    /// Which attempt it is.
    pub fn install(&self) -> &InstallId {
        &self.attempt().install
    }

    /// The leave under which the update began; `None` before it has begun.
    pub fn lease(&self) -> Option<&LeaseId> {
        match self {
            Update::Offered { .. }
            | Update::Preflight { .. }
            | Update::Fetching { .. }
            | Update::Waiting { .. } => None,
            Update::BackingUp { lease, .. } => Some(&lease.id),
            Update::Quiescing { change }
            | Update::Sealing { change }
            | Update::Switching { change, .. }
            | Update::Rebooting { change, .. }
            | Update::Probation { change, .. }
            | Update::RollingBack { change, .. } => Some(&change.lease),
            Update::Finished { lease, .. } => lease.as_ref(),
        }
    }

    /// Where it stands, as reports say it (`ProductState.phase`).
    pub fn phase(&self) -> Phase {
        match self {
            Update::Offered { .. } => Phase::Offered,
            Update::Preflight { .. } => Phase::Preflight,
            Update::Fetching { .. } => Phase::Fetching,
            Update::Waiting { .. } => Phase::Waiting,
            Update::BackingUp { .. } => Phase::BackingUp,
            Update::Quiescing { .. } => Phase::Quiescing,
            Update::Sealing { .. } => Phase::Sealing,
            Update::Switching { .. } => Phase::Switching,
            Update::Rebooting { .. } => Phase::Rebooting,
            Update::Probation { .. } => Phase::Probation,
            Update::RollingBack { .. } => Phase::RollingBack,
            Update::Finished { outcome, .. } => outcome.phase(),
        }
    }

    /// Why the update goes back, was refused or is stuck; or why it waits.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Update::Offered { retry, .. }
            | Update::Preflight { retry, .. }
            | Update::Fetching { retry, .. }
            | Update::Waiting { retry, .. } => retry.last.as_ref(),
            Update::Rebooting { reboot, .. } => reboot.retry.last.as_ref(),
            Update::RollingBack { failure, .. } => Some(failure),
            Update::Finished { outcome, .. } => outcome.failure(),
            Update::BackingUp { .. }
            | Update::Quiescing { .. }
            | Update::Sealing { .. }
            | Update::Switching { .. }
            | Update::Probation { .. } => None,
        }
    }

    /// The host's own reasons why it does not begin yet.
    pub fn holds(&self) -> &[Held] {
        match self {
            Update::Waiting { retry, .. } => &retry.holds,
            Update::Offered { .. }
            | Update::Preflight { .. }
            | Update::Fetching { .. }
            | Update::BackingUp { .. }
            | Update::Quiescing { .. }
            | Update::Sealing { .. }
            | Update::Switching { .. }
            | Update::Rebooting { .. }
            | Update::Probation { .. }
            | Update::RollingBack { .. }
            | Update::Finished { .. } => &[],
        }
    }

    /// Whether the update has stopped services that are not to be started by anybody else now. After the
    /// boot that it waited for they run.
    pub fn has_stopped_services(&self, at: &Moment) -> bool {
        if let Update::Rebooting { reboot, .. } = self {
            return !reboot.is_over(at);
        }
        match self.phase() {
            Phase::Quiescing
            | Phase::Sealing
            | Phase::Switching
            | Phase::Rebooting
            | Phase::RollingBack => true,
            Phase::Offered
            | Phase::Preflight
            | Phase::Fetching
            | Phase::Waiting
            | Phase::BackingUp
            | Phase::Probation
            | Phase::Committed
            | Phase::Refused
            | Phase::Dropped
            | Phase::RolledBack
            | Phase::Stuck => false,
        }
    }

    /// What the update waits for; `None` when nothing is left to do.
    pub fn next(&self) -> Option<Step> {
        Some(match self.clone() {
            Update::Offered { attempt, retry } => Step::Permit { attempt, pause: retry.pause() },
            Update::Preflight { attempt, retry } => {
                Step::Preflight { attempt, pause: retry.pause() }
            }
            Update::Fetching { attempt, retry, .. } => {
                Step::Fetch { attempt, pause: retry.pause() }
            }
            Update::Waiting { attempt, terms, retry } => {
                Step::AskLeave { attempt, reboot: terms.reboot, pause: retry.pause() }
            }
            Update::BackingUp { attempt, terms, .. } => Step::BackUp { attempt, terms },
            Update::Quiescing { change } => Step::Quiesce { change },
            Update::Sealing { change } => Step::Seal { change },
            Update::Switching { change, sealed } => Step::Switch { change, sealed },
            Update::Rebooting { change, sealed, reboot } => match reboot.leave {
                true => Step::Reboot { change, sealed },
                false => Step::AskReboot { change, pause: reboot.pause() },
            },
            Update::Probation { change, sealed, probation } => match probation.proven {
                Some(_) => Step::Commit { change, sealed },
                None => Step::Watch { change, sealed },
            },
            Update::RollingBack { change, undo, retry, .. } => {
                Step::GoBack { change, undo, pause: retry.pause() }
            }
            Update::Finished { settled: true, .. } => return None,
            Update::Finished { attempt, outcome, .. } => {
                Step::Settle { attempt, ended: outcome.phase() }
            }
        })
    }

    /// Where the update stands after this event.
    ///
    /// # Errors
    /// An event that cannot happen in this state.
    pub fn on(self, event: Event) -> Result<Update, UnexpectedEvent> {
        use Update::*;
        Ok(match (self, event) {
            // Forward.
            (Offered { attempt, .. }, Event::Permitted) => {
                Preflight { attempt, retry: Retry::default() }
            }
            (Preflight { attempt, .. }, Event::PreflightPassed { terms }) => {
                Fetching { attempt, terms, retry: Retry::default() }
            }
            (Fetching { attempt, terms, .. }, Event::Fetched) => {
                Waiting { attempt, terms, retry: Retry::default() }
            }
            (Waiting { attempt, terms, retry }, Event::LeaseGiven { lease, at }) => {
                if lease.holds(&at) {
                    BackingUp { attempt, terms, lease }
                } else {
                    Waiting { attempt, terms, retry: retry.after(lease_ran_out()) }
                }
            }
            (BackingUp { attempt, terms, lease }, Event::BackedUp { backup, baseline, before }) => {
                let lease = lease.id;
                let starts = 0;
                Quiescing {
                    change: Change { attempt, terms, lease, backup, baseline, before, starts },
                }
            }
            (Quiescing { change }, Event::Quiesced) => Sealing { change },
            (Sealing { change }, Event::Sealed { sealed }) => Switching { change, sealed },
            (Switching { change, sealed }, Event::Switched { at, reboot: Some(need) }) => {
                Rebooting { change, sealed, reboot: reboot::Rebooting::begin(need, at) }
            }
            (Switching { change, sealed }, Event::Switched { at, reboot: None }) => {
                Probation { change, sealed, probation: super::probation::Probation::begin(at) }
            }
            (Probation { change, sealed, probation }, Event::Checked { verdict, at })
                if probation.proven.is_none() =>
            {
                after_check(change, sealed, probation, verdict, at)
            }

            // Update modules may refuse what has proved itself.
            (
                Probation {
                    change,
                    sealed,
                    probation: super::probation::Probation { proven: Some(proof), .. },
                },
                Event::Agreed,
            ) => committed(change, sealed, proof),

            // Booting. A host that has booted is not there to say so: it resumes.
            (Rebooting { change, sealed, reboot }, Event::MayReboot) => {
                Rebooting { change, sealed, reboot: reboot.let_go() }
            }
            (Rebooting { change, sealed, reboot }, Event::RebootHeld { failure, at }) => {
                rebooting(change, sealed, reboot.held(failure, &at))
            }
            (Rebooting { change, sealed, reboot }, Event::StillUp { why }) => {
                rebooting(change, sealed, reboot.not_booted(&why))
            }
            (Rebooting { change, sealed, .. }, Event::Rebooted { at }) => {
                Probation { change, sealed, probation: super::probation::Probation::begin(at) }
            }
            (Rebooting { change, sealed, reboot }, Event::Resumed { at }) => {
                if reboot.is_over(&at) {
                    Probation { change, sealed, probation: super::probation::Probation::begin(at) }
                } else if reboot.leave {
                    let why = "the agent was started again in the same boot";
                    rebooting(change, sealed, reboot.not_booted(why))
                } else {
                    Rebooting { change, sealed, reboot }
                }
            }
            // Held off, it is not sure to come; asked for, it is on its way.
            (Rebooting { change, sealed, reboot }, Event::BackOut) if !reboot.leave => {
                go_back(change, sealed, backed_out())
            }

            // Weather: the same again, later. Nothing has begun, so there is no hurry.
            (Offered { attempt, retry }, Event::Failed { failure })
                if passes(&attempt, &failure) =>
            {
                Offered { attempt, retry: retry.after(failure) }
            }
            (Preflight { attempt, retry }, Event::Failed { failure })
                if passes(&attempt, &failure) =>
            {
                Preflight { attempt, retry: retry.after(failure) }
            }
            (Fetching { attempt, terms, retry }, Event::Failed { failure })
                if passes(&attempt, &failure) =>
            {
                Fetching { attempt, terms, retry: retry.after(failure) }
            }
            (Waiting { attempt, terms, retry }, Event::Failed { failure })
                if passes(&attempt, &failure) =>
            {
                Waiting { attempt, terms, retry: retry.after(failure) }
            }
            // The host's own brake: nothing has failed, and nothing has begun. A lease that it had is given
            // back by being reported as waiting.
            (Waiting { attempt, terms, retry }, Event::Held { holds, at }) => {
                Waiting { attempt, terms, retry: retry.held(holds, at.wall) }
            }
            (BackingUp { attempt, terms, .. }, Event::Held { holds, at }) => {
                Waiting { attempt, terms, retry: Retry::default().held(holds, at.wall) }
            }
            // With a new lease, since this one may run out meanwhile.
            (BackingUp { attempt, terms, .. }, Event::Failed { failure })
                if is_weather(&failure) =>
            {
                Waiting { attempt, terms, retry: Retry::default().after(failure) }
            }
            // The network has no say in probation.
            (Probation { change, sealed, probation }, Event::Failed { failure })
                if is_weather(&failure) =>
            {
                Probation { change, sealed, probation }
            }

            // Failures before anything was changed.
            (
                Offered { attempt, .. }
                | Preflight { attempt, .. }
                | Fetching { attempt, .. }
                | Waiting { attempt, .. },
                Event::Failed { failure },
            ) => finished(attempt, None, Outcome::Refused { failure }),
            (BackingUp { attempt, lease, .. }, Event::Failed { failure }) => {
                finished(attempt, Some(lease.id), Outcome::Refused { failure })
            }

            // Failures after it.
            (Quiescing { change } | Sealing { change }, Event::Failed { failure }) => {
                start_again(change, failure)
            }
            (
                Switching { change, sealed }
                | Rebooting { change, sealed, .. }
                | Probation { change, sealed, .. },
                Event::Failed { failure },
            ) => go_back(change, sealed, failure),

            // Going back.
            (RollingBack { change, failure, .. }, Event::WentBack { health, kept, log }) => {
                finished(
                    change.attempt,
                    Some(change.lease),
                    Outcome::RolledBack { failure: failure.and_kept(&kept).with_log(log), health },
                )
            }
            // What was damaged stays damaged; anything else may pass.
            (RollingBack { change, undo, failure, retry }, Event::Failed { failure: rollback })
                if rollback.cause != Cause::BackupDamaged && retry.failed < MOST_ROLLBACKS =>
            {
                RollingBack { change, undo, failure, retry: retry.after(rollback) }
            }
            (RollingBack { change, failure, .. }, Event::Failed { failure: rollback }) => {
                stuck(change, failure, Some(rollback))
            }

            // The end.
            (Finished { attempt, lease, outcome, .. }, Event::Settled) => {
                Finished { attempt, lease, outcome, settled: true }
            }

            // A stop before the lease ends the update. After it the host finishes to a whole release,
            // and only probation asks again what the server wants.
            (
                Offered { attempt, .. }
                | Preflight { attempt, .. }
                | Fetching { attempt, .. }
                | Waiting { attempt, .. },
                Event::TakenBack | Event::BackOut,
            ) => finished(attempt, None, Outcome::Dropped),
            (BackingUp { attempt, lease, .. }, Event::BackOut) => {
                finished(attempt, Some(lease.id), Outcome::Refused { failure: backed_out() })
            }
            (Probation { change, sealed, .. }, Event::BackOut) => {
                go_back(change, sealed, backed_out())
            }
            (
                update @ (Quiescing { .. }
                | Sealing { .. }
                | Switching { .. }
                | Rebooting { .. }
                | RollingBack { .. }
                | Finished { .. }),
                Event::TakenBack | Event::BackOut,
            )
            | (update @ (BackingUp { .. } | Probation { .. }), Event::TakenBack) => update,

            // A new start of the agent.
            (BackingUp { attempt, terms, lease }, Event::Resumed { at }) => {
                if lease.holds(&at) {
                    BackingUp { attempt, terms, lease }
                } else {
                    Waiting { attempt, terms, retry: Retry::default() }
                }
            }
            (Quiescing { change }, Event::Resumed { .. }) => match one_more_start(change) {
                (change, None) => Quiescing { change },
                (change, Some(failure)) => start_again(change, failure),
            },
            (Sealing { change }, Event::Resumed { .. }) => match one_more_start(change) {
                (change, None) => Sealing { change },
                (change, Some(failure)) => start_again(change, failure),
            },
            (Switching { change, sealed }, Event::Resumed { .. }) => match one_more_start(change) {
                (change, None) => Switching { change, sealed },
                (change, Some(failure)) => go_back(change, sealed, failure),
            },
            (Probation { change, sealed, probation }, Event::Resumed { .. }) => {
                match one_more_start(change) {
                    (change, None) => Probation { change, sealed, probation },
                    (change, Some(failure)) => go_back(change, sealed, failure),
                }
            }
            (
                update @ (Offered { .. }
                | Preflight { .. }
                | Fetching { .. }
                | Waiting { .. }
                | RollingBack { .. }
                | Finished { .. }),
                Event::Resumed { .. },
            ) => update,

            // The rescuer went back. The agent does the same steps once more, which is safe, and then
            // knows how it ended.
            (Quiescing { change } | Sealing { change }, Event::Rescued { failure }) => {
                start_again(change, failure)
            }
            (
                Switching { change, sealed }
                | Rebooting { change, sealed, .. }
                | Probation { change, sealed, .. },
                Event::Rescued { failure },
            ) => go_back(change, sealed, failure),
            // The end was saved, the way back was not yet removed, and then no agent ran.
            (
                Finished { attempt, lease, outcome: Outcome::Committed { .. }, settled: false },
                Event::Rescued { failure },
            ) => finished(attempt, lease, Outcome::RolledBack { failure, health: None }),
            (
                update @ (Offered { .. }
                | Preflight { .. }
                | Fetching { .. }
                | Waiting { .. }
                | BackingUp { .. }
                | RollingBack { .. }
                | Finished { .. }),
                Event::Rescued { .. },
            ) => update,

            (update, event) => {
                return Err(UnexpectedEvent {
                    product: update.attempt().product.clone(),
                    phase: update.phase(),
                    event: event.name(),
                });
            }
        })
    }
}

fn is_weather(failure: &Failure) -> bool {
    match failure.blame() {
        Blame::Weather => true,
        Blame::Release | Blame::Host | Blame::Order => false,
    }
}

/// Whether the failure passes by itself. What a bundle lacks it will lack for ever, and what has expired in
/// it is never renewed.
fn passes(attempt: &Attempt, failure: &Failure) -> bool {
    let waits_for_a_server = matches!(
        failure.cause,
        Cause::MetadataExpired | Cause::FetchFailed | Cause::ServerAway | Cause::LeaseDenied
    );
    match attempt.ordered_by {
        OrderedBy::Server => is_weather(failure),
        OrderedBy::LocalRoot => is_weather(failure) && !waits_for_a_server,
    }
}

fn finished(attempt: Attempt, lease: Option<LeaseId>, outcome: Outcome) -> Update {
    Update::Finished { attempt, lease, outcome, settled: false }
}

/// What a check of the new release leads to.
fn after_check(
    change: Change,
    sealed: SealedBackup,
    probation: Probation,
    verdict: Verdict,
    at: Moment,
) -> Update {
    if let Verdict::Bad { text, checks } = verdict {
        let failure = blame_for_bad_health(&change, &checks, text);
        return go_back(change, sealed, failure);
    }
    let probation = probation.after(verdict, at, &change.terms);
    match probation.proof(&change.terms) {
        Some(proof) if change.terms.modules => {
            let proven = Probation { proven: Some(proof), ..probation };
            Update::Probation { change, sealed, probation: proven }
        }
        Some(proof) => committed(change, sealed, proof),
        None => Update::Probation { change, sealed, probation },
    }
}

fn committed(change: Change, sealed: SealedBackup, proof: Proof) -> Update {
    let Change { attempt, lease, baseline, .. } = change;
    let red_before = match baseline {
        Some(Verdict::Bad { text, .. }) => text,
        Some(Verdict::Good | Verdict::Unknown { .. }) | None => String::new(),
    };
    finished(attempt, Some(lease), Outcome::Committed { proof, sealed, red_before })
}

/// Already red before is not the release's fault, but no proof of health either. Told check by check, where
/// that is known: one that was red before excuses no other.
fn blame_for_bad_health(change: &Change, checks: &[CheckId], text: String) -> Failure {
    let known = !checks.is_empty() && !change.before.is_empty();
    let red_before = match &change.baseline {
        Some(Verdict::Bad { .. }) if !known => true,
        Some(_) | None => known && checks.iter().all(|check| change.before.red(check).is_some()),
    };
    let cause = if red_before { Cause::UnhealthyBefore } else { Cause::HealthCheckFailed };
    Failure::new(cause, text)
}

/// Goes back where the target is still untouched: its services only have to run again.
fn start_again(change: Change, failure: Failure) -> Update {
    let undo = Undo::StartAgain { backup: change.backup.clone() };
    Update::RollingBack { change, undo, failure, retry: Retry::default() }
}

/// Goes back where the target was changed, if the release has a way back.
fn go_back(change: Change, sealed: SealedBackup, failure: Failure) -> Update {
    match change.terms.way_back {
        WayBack::Automatic => {
            let (undo, retry) = (Undo::Restore { sealed }, Retry::default());
            Update::RollingBack { change, undo, failure, retry }
        }
        WayBack::None => stuck(change, failure, None),
    }
}

fn stuck(change: Change, failure: Failure, rollback: Option<Failure>) -> Update {
    let Change { attempt, lease, backup, .. } = change;
    finished(attempt, Some(lease), Outcome::Stuck { failure, rollback, backup })
}

/// Counts a start of the agent in the middle of a change, and says whether there were too many.
fn one_more_start(change: Change) -> (Change, Option<Failure>) {
    let starts = change.starts.saturating_add(1);
    let change = Change { starts, ..change };
    if starts <= MOST_STARTS {
        return (change, None);
    }
    let text = format!("the agent was started {starts} times during this update");
    (change, Some(Failure::new(Cause::Interrupted, text)))
}

fn rebooting(
    change: Change,
    sealed: SealedBackup,
    next: Result<reboot::Rebooting, Failure>,
) -> Update {
    match next {
        Ok(reboot) => Update::Rebooting { change, sealed, reboot },
        Err(failure) => go_back(change, sealed, failure),
    }
}

fn lease_ran_out() -> Failure {
    Failure::new(Cause::LeaseDenied, "the lease ran out before it was used")
}

fn backed_out() -> Failure {
    Failure::new(Cause::BackedOut, "the server ordered this host to go back")
}
