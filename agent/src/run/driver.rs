//! The thread that carries updates: the one in the journal first, then what the server offers, one at a
//! time. Whatever fails, it tries again from the journal; only the end of the agent ends it.

use std::{sync::Arc, time::Duration};

use refit_proto::{
    gathered::Gathered as _,
    names::{Product, RingName},
};

use crate::{
    bundle::Answer,
    drive::{self, DriveError, HostError},
    journal::{Journal, JournalError, StoreJournal},
    link::{Offer, Order},
    report::ReportingJournal,
    restore::{self, Progress, RestoreError},
    steps::{Machine, Steps},
    trusted::Source,
    update::{Attempt, InstallId, OrderedBy, Outcome, Queued, ReleaseId, Update},
};

/// How long to wait after a failure of this host's own, and how long without news: then everything is
/// looked at again, since nothing may depend on one message.
const AGAIN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_secs(60);
/// How often every byte of what is installed is compared with what was signed; also after each update,
/// and at the start of the agent.
const INSPECT: Duration = Duration::from_secs(24 * 3600);

/// What carries updates.
pub(super) struct Driver<M> {
    pub(super) steps: Steps<M>,
    pub(super) journal: ReportingJournal<StoreJournal>,
    /// What waits, and how the last updates ended.
    pub(super) queue: StoreJournal,
    /// Backups that people ask for.
    pub(super) restores: Arc<restore::Requests>,
}

impl<M: Machine> Driver<M> {
    /// Runs until the agent ends.
    pub(super) fn run(mut self) {
        // A journal that cannot be read was dealt with before this.
        if let Ok(under_way) = self.journal.load() {
            let stopped = {
                let at = self.steps.clock.moment();
                under_way.as_ref().filter(|update| update.has_stopped_services(&at))
            };
            let except = stopped.map(|update| &update.attempt().product);
            self.steps.machine.start_services(except);
        }
        let wanted = self.steps.wanted.clone();
        let mut inspected = None;
        while !wanted.is_ending() {
            let seen = wanted.changes();
            match self.turn() {
                Ok(true) => inspected = None,
                Ok(false) => {
                    let now = self.steps.clock.running();
                    self.steps.verify_backups();
                    if inspected.is_none_or(|at| now.since(at) >= INSPECT) {
                        let (restores, spool) = (self.restores.clone(), self.steps.spool.clone());
                        let busy = || restores.waiting().is_some() || !spool.waiting().is_empty();
                        // One that was stopped begins anew when there is nothing to do again.
                        inspected = self.steps.inspect(&busy).then_some(now);
                    }
                    wanted.wait(seen, LOOK);
                }
                Err(DriveError::Host(HostError::Ending)) => return,
                Err(error) => {
                    tracing::error!("{error}");
                    wanted.wait(wanted.changes(), AGAIN);
                }
            }
        }
    }

    /// Carries one update, or brings one backup back; says whether there was one.
    fn turn(&mut self) -> Result<bool, DriveError> {
        let at = self.steps.clock.moment();
        let resumed = drive::resume(at, &mut self.steps, &mut self.journal, &mut ())?;
        if let Some(outcome) = &resumed {
            self.ended(outcome);
            return Ok(true);
        }
        if self.restored()? {
            return Ok(true);
        }
        let bundled = self.bundled()?;
        let next = if bundled.is_some() { bundled } else { self.next()? };
        let Some(attempt) = next else { return Ok(false) };
        tracing::info!(
            product = %attempt.product, version = %attempt.release.version, ring = %attempt.ring,
            "an update begins"
        );
        let update = Update::offered(attempt);
        let outcome = drive::drive(update, &mut self.steps, &mut self.journal, &mut ())?;
        self.ended(&outcome);
        Ok(true)
    }

    /// Brings a backup back that a person asks for, or goes on with one.
    fn restored(&mut self) -> Result<bool, DriveError> {
        if let Some((install, backup)) = self.restores.waiting() {
            let queue = &self.queue;
            let last = |product: &Product| Some(queue.last(product).ok()??.attempt);
            let machine = &mut self.steps.machine;
            let begun = restore::begin(machine, &self.journal, &backup, &install, &last);
            self.restores.stands(
                &install,
                match begun {
                    Ok(()) => Progress::UnderWay { text: String::new() },
                    Err(error) => Progress::Refused { text: error.to_string() },
                },
            );
        }
        let wait = self.steps.waiting();
        match restore::go_on(&mut self.steps.machine, &mut self.journal, &wait) {
            Ok(None) => Ok(false),
            Ok(Some(ended)) => {
                let text = ended.failure().map(|failure| failure.text.clone()).unwrap_or_default();
                self.restores.stands(ended.install(), Progress::Done { text });
                if let Update::Finished { outcome, .. } = &ended {
                    self.ended(outcome);
                }
                Ok(true)
            }
            Err(RestoreError::Journal(error)) => Err(error.into()),
            Err(error) => {
                self.restores.hindered(&error.to_string());
                Err(HostError::Failed(error.to_string()).into())
            }
        }
    }

    fn ended(&mut self, outcome: &Outcome) {
        // A bundle that was carried out is found in history, and removed, before the next turn.
        self.steps.opened = None;
        self.steps.look();
        self.steps.look_at_backups();
        match outcome.failure() {
            Some(failure) => tracing::warn!("the update ended {}: {failure}", outcome.phase()),
            None => tracing::info!("the update ended {}", outcome.phase()),
        }
    }

    /// What to do next: the first in the queue, after the queue is what the server offers now.
    fn next(&self) -> Result<Option<Attempt>, JournalError> {
        let Some(orders) = self.steps.wanted.orders() else { return Ok(None) };
        let before = self.queue.queue()?;
        let mut queue = before.clone();
        for waiting in before.iter() {
            let product = &waiting.attempt.product;
            if !matches!(orders.products.get(product), Some(Order::Offer(_))) {
                queue.take_back(product);
            }
        }
        for (product, order) in &orders.products {
            let Order::Offer(offer) = order else { continue };
            match self.attempt(product, offer)? {
                Some(attempt) => {
                    queue.offer(Queued { attempt, priority: 0 });
                }
                None => {
                    queue.take_back(product);
                }
            }
        }
        let first = queue.first().map(|queued| queued.attempt.clone());
        if let Some(attempt) = &first {
            queue.take_back(&attempt.product);
        }
        if queue != before {
            self.queue.save_queue(&queue)?;
        }
        Ok(first)
    }

    /// The attempt that answers an offer; `None` if nothing is to be done about it.
    fn attempt(&self, product: &Product, offer: &Offer) -> Result<Option<Attempt>, JournalError> {
        let inventory =
            self.steps.inventory.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let installed = inventory.get(product).map(|release| release.id.clone());
        if installed.as_ref() == Some(&offer.release) {
            return Ok(None);
        }
        let last = self.queue.last(product)?;
        let answered = last.is_some_and(|last| {
            // What was installed and is not there any more was taken away on this host: it comes again.
            let over = !matches!(last.outcome, Outcome::Dropped | Outcome::Committed { .. });
            offer.is_for(&last.attempt) && over
        });
        if answered {
            return Ok(None);
        }
        let own = self.steps.trust.view().and_then(|view| view.ring(product));
        // Where the own ring is not known yet, the offer's word is put to the test by permission.
        let Some(ring) = own.or_else(|| RingName::parse(&offer.ring).ok()) else {
            return Ok(None);
        };
        Ok(Some(Attempt {
            install: crate::bundle::new_install(),
            product: product.clone(),
            release: offer.release.clone(),
            ring,
            rollout: offer.rollout.clone(),
            number: offer.attempt,
            rollback: offer.rollback,
            previous: installed,
            ordered_by: OrderedBy::Server,
        }))
    }

    /// The first bundle that waits, as an attempt. Those for which nothing is to be done are answered.
    fn bundled(&mut self) -> Result<Option<Attempt>, JournalError> {
        let spool = self.steps.spool.clone();
        for install in spool.waiting() {
            if self.queue.history()?.iter().any(|ended| ended.attempt.install == install) {
                spool.done(&install);
                continue;
            }
            match self.attempt_of_bundle(install.clone()) {
                Ok(attempt) => return Ok(Some(attempt)),
                Err(answer) => {
                    if let Answer::Refused(why) = &answer {
                        tracing::warn!("a bundle is not installed: {why}");
                    }
                    self.steps.opened = None;
                    spool.answer(&install, answer);
                }
            }
        }
        Ok(None)
    }

    fn attempt_of_bundle(&mut self, install: InstallId) -> Result<Attempt, Answer> {
        let bundle = self.steps.bundle(&install).map_err(|f| Answer::Refused(f.to_string()))?;
        let head = bundle.head().clone();
        if let Some(stop) = self.steps.wanted.stop(&head.product) {
            return Err(Answer::Refused(format!(
                "the server has stopped {}: {stop}",
                head.product
            )));
        }
        let ring = self.ring_by(&*bundle, &head.product).or_else(|| head.rings.first().cloned());
        let ring = ring.ok_or_else(|| {
            Answer::Refused(format!("no ring of {} selects this host", head.product))
        })?;
        let inventory =
            self.steps.inventory.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let previous = inventory.get(&head.product).map(|release| release.id.clone());
        let release = ReleaseId { version: head.version, digest: head.digest };
        if previous.as_ref() == Some(&release) {
            return Err(Answer::RunsAlready);
        }
        Ok(Attempt {
            install,
            product: head.product,
            release,
            ring,
            rollout: String::new(),
            number: 0,
            rollback: false,
            previous,
            ordered_by: OrderedBy::LocalRoot,
        })
    }

    /// The ring that this host is in by what the bundle brings: it may be news here. What is wrong with it
    /// is found again, and told, where permission is asked.
    fn ring_by(&self, source: &impl Source, product: &Product) -> Option<RingName> {
        let products = [product.clone()].into_iter().gathered();
        let refreshed = self.steps.runtime.block_on(self.steps.trust.refresh(source, &products));
        let view = refreshed.ok().or_else(|| self.steps.trust.view())?;
        view.ring(product)
    }
}
