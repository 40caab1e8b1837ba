//! Save, then act: the only place that does both. Carries an update from where its journal has it to
//! its end, on a thread of its own, since saving waits for the disk and acting for everything else.
//! Decides nothing: what follows from what is decided in [`crate::update`].

use refit_durable::Batch;

use crate::{
    journal::{Journal, JournalError},
    update::{Event, Moment, Outcome, Phase, Step, UnexpectedEvent, Update},
};

/// What changes the host, asks the server, waits. Every answer must be safe to ask for again.
pub trait Host {
    /// Does the step and says what came of it. That a step failed is an event too.
    ///
    /// # Errors
    /// If nobody can say what came of it; then the update stays where it stands.
    fn perform(&mut self, step: &Step) -> Result<Event, HostError>;
}

/// Why nobody can say what came of a step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The agent was told to end. The update goes on when it starts again.
    #[error("the agent is ending")]
    Ending,
    /// The host failed under the step.
    #[error("the host failed: {0}")]
    Failed(String),
}

/// A step of an update on its way, as an observer sees it.
#[derive(Debug, Clone, Copy)]
pub struct Transition<'a> {
    /// Where it stood; `None` for an update that begins.
    pub from: Option<Phase>,
    /// Where it stands.
    pub update: &'a Update,
}

impl Transition<'_> {
    /// Whether the update is in another phase than before. Tries, checks and starts of the agent are
    /// saved too, and do not move it.
    pub fn moved(&self) -> bool {
        self.from != Some(self.update.phase())
    }
}

/// Is told of every transition before it is saved, and says what to write in the same commit: the
/// outbox writes its report here.
pub trait Observer {
    /// Adds what belongs to this transition.
    fn on_transition(&mut self, transition: Transition<'_>, extras: &mut Batch);
}

/// Nobody looks.
impl Observer for () {
    fn on_transition(&mut self, _: Transition<'_>, _: &mut Batch) {}
}

/// Why an update could not be carried on.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// It is not certain that what happened is saved, so nothing may be done about it.
    #[error("the update cannot be saved: {0}")]
    Journal(#[from] JournalError),
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A defect of ours.
    #[error(transparent)]
    Unexpected(#[from] UnexpectedEvent),
}

/// Carries a new update to its end.
///
/// # Errors
/// If it stands still; it goes on from the journal, by [`resume`].
pub fn drive(
    update: Update,
    host: &mut dyn Host,
    journal: &mut dyn Journal,
    observer: &mut dyn Observer,
) -> Result<Outcome, DriveError> {
    let outcome = Drive { host, journal, observer }.carry(None, update)?;
    Ok(outcome)
}

/// Carries the update in the journal to its end; `None` if there is none. Called at every start of the
/// agent, before anything else is begun.
///
/// # Errors
/// If it stands still, or the journal cannot be read: then [`crate::way_back`] has the word.
pub fn resume(
    at: Moment,
    host: &mut dyn Host,
    journal: &mut dyn Journal,
    observer: &mut dyn Observer,
) -> Result<Option<Outcome>, DriveError> {
    let Some(update) = journal.load()? else { return Ok(None) };
    let from = update.phase();
    let update = update.on(Event::Resumed { at })?;
    Drive { host, journal, observer }.carry(Some(from), update).map(Some)
}

struct Drive<'a> {
    host: &'a mut dyn Host,
    journal: &'a mut dyn Journal,
    observer: &'a mut dyn Observer,
}

impl Drive<'_> {
    fn carry(
        &mut self,
        mut from: Option<Phase>,
        mut update: Update,
    ) -> Result<Outcome, DriveError> {
        loop {
            // Saved before it is acted on, so that a crash costs at most one repeated action.
            self.save(from, &update)?;
            from = Some(update.phase());
            update = match (update.next(), update) {
                (Some(step), update) => {
                    let event = self.host.perform(&step)?;
                    update.on(event)?
                }
                (None, Update::Finished { outcome, .. }) => return Ok(outcome),
                // Only what is finished waits for nothing.
                (None, update) => {
                    let product = update.attempt().product.clone();
                    let phase = update.phase();
                    return Err(UnexpectedEvent { product, phase, event: "nothing" }.into());
                }
            };
        }
    }

    fn save(&mut self, from: Option<Phase>, update: &Update) -> Result<(), JournalError> {
        let phase = update.phase();
        let mut extras = Batch::new();
        self.observer.on_transition(Transition { from, update }, &mut extras);
        crash_point(phase, "before");
        self.journal.save(update, extras)?;
        crash_point(phase, "after");
        Ok(())
    }
}

/// Where tests of the whole agent kill it: `REFIT_CRASH_AT=switching:after` ends the process as
/// `kill -9` does, when Switching is saved and not yet acted on. Not in shipped builds.
#[cfg(feature = "crash-points")]
fn crash_point(phase: Phase, when: &str) {
    let here = format!("{phase}:{when}");
    if std::env::var("REFIT_CRASH_AT").is_ok_and(|at| at == here) {
        let own = rustix::process::getpid();
        // The process is gone before this returns; if it is not, the test must not go on as if it were.
        let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
        std::process::abort();
    }
}

#[cfg(not(feature = "crash-points"))]
fn crash_point(_: Phase, _: &str) {}
