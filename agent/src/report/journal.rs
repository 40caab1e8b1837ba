//! The journal with the outbox at its side: each move of an update and the report about it are one
//! commit, so that neither is ever there without the other.

use std::sync::Arc;

use refit_durable::Batch;
use refit_proto::wire::Event;

use super::{Reporter, product::failure};
use crate::{
    journal::{Journal, JournalError, StoreJournal},
    outbox::{OutboxError, Weight},
    update::{InstallId, Phase, Update},
};

/// A journal that reports what it saves.
pub struct ReportingJournal<J> {
    inner: J,
    reporter: Arc<Reporter>,
    /// Where the update stood that was saved last.
    last: Option<(InstallId, Phase)>,
}

impl<J: Journal> ReportingJournal<J> {
    /// Reports what is saved in this journal from now on.
    pub fn new(inner: J, reporter: Arc<Reporter>) -> ReportingJournal<J> {
        // What can't be read now is read again, and dealt with, by who recovers.
        let update = inner.load().ok().flatten();
        let last = update.map(|update| (update.attempt().install.clone(), update.phase()));
        ReportingJournal { inner, reporter, last }
    }
}

impl<J: Journal> Journal for ReportingJournal<J> {
    fn save(&mut self, update: &Update, mut extras: Batch) -> Result<(), JournalError> {
        let now = (update.attempt().install.clone(), update.phase());
        if self.last.as_ref() == Some(&now) {
            return self.inner.save(update, extras);
        }
        let from = self.last.as_ref().filter(|(install, _)| *install == now.0).map(|(_, p)| *p);
        let state = self.reporter.state_with(Some(update));
        let event = Event {
            product: update.attempt().product.to_string(),
            from_phase: from.map(|phase| phase.to_string()).unwrap_or_default(),
            to_phase: now.1.to_string(),
            failure: update.failure().map(failure),
        };
        let at = self.reporter.clock.moment();
        // What can't be counted must not keep a change that is under way from going on or back.
        if let Err(error) = self.reporter.journal.note_begun(update, &at, &mut extras) {
            tracing::error!("this update is not counted: {error}");
        }
        let weight = if from.is_none() || now.1.is_end() { Weight::Outcome } else { Weight::Step };
        let news = self.reporter.news(state.clone(), Some(event), weight);
        StoreJournal::note_since(&update.attempt().product, &news.at, &mut extras);
        // Held until the commit is done: reports are numbered without gaps.
        let writing = self.reporter.outbox.writing();
        writing.add(news, &mut extras).map_err(|error| match error {
            OutboxError::Store(error) => JournalError::Store(error),
            OutboxError::Sign(error) => {
                JournalError::Unreadable { record: "outbox".into(), why: error.to_string() }
            }
        })?;
        self.inner.save(update, extras)?;
        drop(writing);
        let attempt = update.attempt();
        tracing::info!(
            product = %attempt.product, version = %attempt.release.version, install = %attempt.install,
            phase = %now.1, cause = update.failure().map(|failure| failure.cause.as_str()),
            "the update moves on"
        );
        self.reporter.note(state);
        self.last = Some(now);
        Ok(())
    }

    fn load(&self) -> Result<Option<Update>, JournalError> {
        self.inner.load()
    }

    fn set_aside(&mut self) -> Result<(), JournalError> {
        self.inner.set_aside()
    }
}
