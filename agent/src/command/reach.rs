//! How a command reaches what it asks for: the agent that runs, or else its folder.

use anyhow::{Context as _, Result};
use refit_agent::{
    clock::Clock,
    offline::Offline,
    run,
    settings::Settings,
    status::{self, Question},
};
use serde_json::Value;

/// What was reached.
pub(super) enum Reached {
    /// An agent runs, and answered.
    Agent(Value),
    /// None runs; its folder is held.
    Folder(Offline),
}

/// Asks the agent, or takes its folder where none runs. An agent that only just starts has its folder
/// already and no ear yet: it is asked again.
pub(super) fn reach(settings: &Settings, question: &Question) -> Result<Reached> {
    let clock = Clock::system()?;
    let reached = run::once_free(|| match status::ask(&settings.socket(), question) {
        Ok(Some(answer)) => Ok(Ok(Reached::Agent(answer))),
        Ok(None) => Ok(Ok(Reached::Folder(folder(settings, question, clock.clone())?))),
        Err(error) => Ok(Err(error)),
    })?;
    reached.context("the running agent does not answer\nhelp: only its own user may ask it")
}

fn folder(
    settings: &Settings,
    question: &Question,
    clock: Clock,
) -> Result<Offline, run::RunError> {
    match question {
        Question::Status | Question::Holds => Offline::look(settings, clock),
        Question::MayInstall { .. }
        | Question::Install { .. }
        | Question::Restore { .. }
        | Question::Forgive { .. }
        | Question::Hold { .. }
        | Question::ReleaseHold { .. }
        | Question::LiftQuarantine { .. } => Offline::open(settings, clock),
    }
}
