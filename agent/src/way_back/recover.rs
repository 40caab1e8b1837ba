//! What an agent does first when it starts: journal and way back together say whether an update had
//! begun, and who carries it on. An unreadable journal is never "nothing pending": as long as a way back
//! is armed, something had begun, and the host goes back by it.

use refit_durable::Batch;

use super::{Place, PlaceError, Rescued, RunError, Units, WayBack, run};
use crate::{
    drive::{Observer, Transition},
    host::files::Files,
    journal::{Journal, JournalError},
    update::{Cause, Event, Failure, Outcome, Phase, SetAside, UnexpectedEvent, Update},
};

/// What to do first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// No update had begun to change the host; there may be one under way.
    Resume,
    /// Nothing had begun, and the journal's record is unreadable: keep it for a person, go on without.
    SetAside,
    /// Go back by the way back: the journal cannot tell.
    GoBack(Box<WayBack>),
    /// Something had begun, and neither journal nor way back can be read.
    Stuck,
}

/// What journal and way back say together. The way back is armed at the beginning of Quiescing, before
/// the first change, and removed only when the end of the update is durable.
pub fn decide(
    journal: &Result<Option<Update>, JournalError>,
    armed: &Result<Option<WayBack>, PlaceError>,
) -> Decision {
    match (journal, armed) {
        // The journal knows the update that armed it, or none was armed: the journal has the word.
        (Ok(Some(update)), Ok(Some(way_back))) if update.attempt().install == way_back.install => {
            Decision::Resume
        }
        (Ok(_), Ok(None)) => Decision::Resume,
        // The journal has lost the update that armed it.
        (Ok(Some(_) | None) | Err(_), Ok(Some(way_back))) => {
            Decision::GoBack(Box::new(way_back.clone()))
        }
        // The backup itself is still known.
        (Ok(Some(update)), Err(_)) if has_begun(update) => Decision::Resume,
        (Ok(Some(_) | None) | Err(_), Err(_)) => Decision::Stuck,
        (Err(_), Ok(None)) => Decision::SetAside,
    }
}

/// Whether the update may have armed a way back.
fn has_begun(update: &Update) -> bool {
    match update.phase() {
        Phase::Offered
        | Phase::Preflight
        | Phase::Fetching
        | Phase::Waiting
        | Phase::BackingUp
        | Phase::Refused
        | Phase::Dropped => false,
        Phase::Quiescing
        | Phase::Sealing
        | Phase::Switching
        | Phase::Rebooting
        | Phase::Probation
        | Phase::Committed
        | Phase::RollingBack
        | Phase::RolledBack
        | Phase::Stuck => true,
    }
}

/// What was done first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    /// Nothing was to be done: [`crate::drive::resume`] carries on what the journal holds, if anything.
    Nothing,
    /// The journal's record was unreadable and is set aside; nothing had begun.
    SetAside,
    /// The rescuer went back while no agent did. The journal knows, and what is carried on leads to what
    /// ran before.
    Rescued(Failure),
    /// The host went back by the way back. The outcome is in the journal, if the way back said what the
    /// update was about.
    WentBack(Option<Outcome>),
}

/// Why an agent cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Something had begun, and there is no telling what.
    #[error(
        "an update had begun, and neither the journal nor the way back can be read\n\
         journal: {journal}\nway back: {way_back}\n\
         help: docs/RUNBOOK.md, \"Stuck host\""
    )]
    Lost {
        /// What is wrong with the journal.
        journal: String,
        /// What is wrong with the way back.
        way_back: String,
    },
    /// The way back did not lead back.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The way back could not be removed.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// What was done could not be saved.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A defect of ours.
    #[error(transparent)]
    Unexpected(#[from] UnexpectedEvent),
}

/// Does what has to be done before anything else. Safe to repeat. `keep` brings away what the steps of
/// a way back have set aside, and says where it is.
///
/// # Errors
/// If a person is needed, or what was done is not certain to be saved.
pub fn recover(
    place: &Place,
    journal: &mut dyn Journal,
    observer: &mut dyn Observer,
    files: &dyn Files,
    units: &mut dyn Units,
    keep: &dyn Fn(&WayBack) -> Vec<SetAside>,
) -> Result<Recovered, RecoverError> {
    let (pending, armed, rescued) = (journal.load(), place.load(), place.rescued());
    match decide(&pending, &armed) {
        Decision::Resume => match (pending, rescued) {
            (Ok(Some(update)), Some(rescued)) if *update.install() == rescued.install => {
                let failure = rescued.failure();
                // Its steps are done once more: safe to repeat, and nobody else knows how they ended.
                let update = update.on(Event::Rescued { failure: failure.clone() })?;
                journal.save(&update, Batch::new())?;
                Ok(Recovered::Rescued(failure))
            }
            (_, Some(_) | None) => Ok(Recovered::Nothing),
        },
        Decision::SetAside => {
            journal.set_aside()?;
            Ok(Recovered::SetAside)
        }
        Decision::GoBack(way_back) => {
            run(&way_back, files, units)?;
            // Before the outcome is recorded, so that it can name what was kept. Safe to repeat.
            let kept = keep(&way_back);
            if pending.is_err() {
                journal.set_aside()?;
            }
            let outcome = record(&way_back, rescued.as_ref(), &kept, journal, observer)?;
            // Last: until the journal knows how it ended, only the way back does.
            place.disarm()?;
            Ok(Recovered::WentBack(outcome))
        }
        Decision::Stuck => {
            let text = |error: Option<String>| error.unwrap_or_else(|| "nothing is in it".into());
            Err(RecoverError::Lost {
                journal: text(pending.err().map(|error| error.to_string())),
                way_back: text(armed.err().map(|error| error.to_string())),
            })
        }
    }
}

/// Saves how the update ended, so that it is reported. A journal that holds another update keeps it.
fn record(
    way_back: &WayBack,
    rescued: Option<&Rescued>,
    kept: &[SetAside],
    journal: &mut dyn Journal,
    observer: &mut dyn Observer,
) -> Result<Option<Outcome>, JournalError> {
    let Some(attempt) = way_back.attempt.clone() else { return Ok(None) };
    let other = journal.load()?;
    let rescued = rescued.filter(|rescued| rescued.install == way_back.install);
    let failure = match (&way_back.restores, rescued) {
        (Some(backup), _) => Failure::restored(backup),
        (None, Some(rescued)) => rescued.failure(),
        (None, None) => {
            let text = "the journal lost this update, so the host went back by the way back";
            Failure::new(Cause::JournalUnreadable, text)
        }
    };
    let failure = failure.and_kept(kept);
    let outcome = Outcome::RolledBack { failure, health: None };
    let ended = Update::Finished {
        attempt,
        lease: way_back.lease.clone(),
        outcome: outcome.clone(),
        settled: true,
    };
    let mut extras = Batch::new();
    observer.on_transition(Transition { from: None, update: &ended }, &mut extras);
    journal.save(&ended, extras)?;
    if let Some(other) = other {
        journal.save(&other, Batch::new())?;
    }
    Ok(Some(outcome))
}
