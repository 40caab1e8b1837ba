//! An update of the agent itself, as far as trust, journal and server have a part in it: the release
//! qualifies once it is here, and on probation it has to reach the server.

use refit_durable::{Options, SledStore};

use super::{Machine, Steps, failed};
use crate::{
    drive::HostError,
    journal::{Journal as _, StoreJournal},
    link::reach,
    qualify,
    update::{Attempt, Cause, Change, Event, Failure, OrderedBy, Phase, Step, Verdict},
};

/// How often a new agent may fail to reach a server that answers this one.
const TRIES: u32 = 3;

impl<M: Machine> Steps<M> {
    /// Fetches as ever; then the new agent has to qualify.
    pub(super) fn fetch_own(&mut self, step: &Step) -> Result<Event, HostError> {
        let event = self.by_machine(step)?;
        if event != Event::Fetched {
            return Ok(event);
        }
        let attempt = step.attempt();
        tracing::info!(version = %attempt.release.version, "the new agent is tried beside this one");
        Ok(match self.qualify(attempt) {
            Ok(()) => Event::Fetched,
            Err(failure) => failed(failure),
        })
    }

    fn qualify(&mut self, attempt: &Attempt) -> Result<(), Failure> {
        let server = attempt.ordered_by == OrderedBy::Server;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.qualify_once(attempt, server) {
                Err(failure) if failure.cause == Cause::ServerAway => {
                    self.hold_against(tries, failure)?;
                }
                qualified => return qualified,
            }
        }
    }

    /// A server that answers nobody is weather. One that answers this agent each time, and the new one never,
    /// is not.
    fn hold_against(&self, tries: u32, failure: Failure) -> Result<(), Failure> {
        if self.runtime.block_on(reach(&*self.server)).is_err() {
            return Err(failure);
        }
        if tries < TRIES {
            return Ok(());
        }
        let text = format!("{}; it answers this one", failure.text);
        Err(Failure::new(Cause::NotQualified, text))
    }

    fn qualify_once(&mut self, attempt: &Attempt, server: bool) -> Result<(), Failure> {
        let scratch = {
            // Half of a refresh would be found damaged.
            let _still = self.runtime.block_on(self.trust.still());
            // What this agent itself does not find permitted now, the new one can't either.
            self.still_permitted(attempt)?;
            self.machine.prepare_to_qualify(attempt)?
        };
        let state = scratch.join(qualify::STATE);
        self.journal.copy_into(Options::new(&state, self.clock.now()))?;
        self.machine.qualify(attempt, server)?;
        let opened = SledStore::open(Options::new(&state, self.clock.now()));
        let opened = opened.map_err(|error| Failure::new(Cause::HostFault, error.to_string()))?;
        finishes(attempt, &StoreJournal::new(std::sync::Arc::new(opened.store)))?;
        self.machine.qualified()
    }

    /// On probation it counts only with the server reached, where there is one. That it is not is never held
    /// against the release.
    pub(super) fn watch_own(&mut self, step: &Step, change: &Change) -> Result<Event, HostError> {
        let event = self.by_machine(step)?;
        let attempt = &change.attempt;
        let asked = matches!(&event, Event::Checked { verdict: Verdict::Good, .. })
            && attempt.ordered_by == OrderedBy::Server
            && self.reached.as_ref() != Some(&attempt.install);
        if !asked {
            return Ok(event);
        }
        match self.runtime.block_on(reach(&*self.server)) {
            Ok(()) => {
                self.reached = Some(attempt.install.clone());
                Ok(event)
            }
            Err(error) => {
                let text = format!("the server was not reached yet: {error}");
                let verdict = Verdict::Unknown { text };
                Ok(Event::Checked { verdict, at: self.clock.moment() })
            }
        }
    }
}

/// Whether this agent could finish what the new one has in its journal.
fn finishes(attempt: &Attempt, journal: &StoreJournal) -> Result<(), Failure> {
    let refused = |text: String| Err(Failure::new(Cause::NotQualified, text));
    match journal.load() {
        Err(error) => refused(format!("this agent can't read the new one's journal: {error}")),
        Ok(Some(update))
            if update.install() == &attempt.install && update.phase() == Phase::Probation =>
        {
            Ok(())
        }
        Ok(found) => {
            let found = found.map(|update| (update.install().clone(), update.phase()));
            refused(format!("this agent reads the new one's journal as {found:?}"))
        }
    }
}
