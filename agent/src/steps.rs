//! What each step of an update waits for, on a real host: where trust and the server are asked, and
//! where the machine is. Does the first itself and hands the rest to the [`Machine`], which knows neither
//! the server nor trust and could run in another process. What follows is decided in [`crate::update`].

mod brake;
mod bundled;
mod drifting;
mod memory;
mod own;
mod permit;

pub use brake::Brake;
pub use memory::Memory;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use refit_proto::{
    names::{Digest, Product},
    package::{Reboot, is_agent},
    wire::BackupState,
};
use tokio::runtime::Handle;

use crate::{
    bundle::{Bundle, BundleFrames, Spool},
    clock::Clock,
    drive::{Host, HostError},
    host::{
        content::Fetch,
        drift::{Drift, Stopped},
        hook::HookRuns,
    },
    journal::StoreJournal,
    link::{
        Bucket, Capped, Link, MirroredFrames, ServerFrames, ToVerify, Wanted, ask_leave,
        ask_reboot, chance,
    },
    report::{HeldBackups, Inventory},
    settings::DriftSettings,
    trusted::Trust,
    update::{Attempt, BackupId, Cause, Event, Failure, InstallId, OrderedBy, Phase, Step, Update},
};

/// What changes this machine. Every step is safe to repeat.
pub trait Machine: Send {
    /// Does a step and says what came of it. Waits only by `wait`, which says whether to give up.
    ///
    /// # Errors
    /// If nobody can say what came of it, or it was to give up.
    fn perform(
        &mut self,
        step: &Step,
        fetch: &mut dyn Fetch,
        wait: &dyn Fn(Duration) -> Waited,
    ) -> Result<Event, HostError>;

    /// Who on this host holds a boot off; `None`: nobody.
    fn boot_held(&self) -> Option<Failure>;

    /// Whether the release document of this digest is here.
    fn knows(&self, release: &Digest) -> bool;

    /// Keeps a release document, whose digest is signed, for the steps that follow.
    ///
    /// # Errors
    /// If it can't be kept.
    fn learn(&mut self, release: &[u8]) -> Result<(), Failure>;

    /// What is installed, as the file system tells.
    fn inventory(&self) -> Inventory;

    /// What another hand has changed of that, by product; of one alone, if one is named. Reads all of it, as
    /// slowly as `pace` says; `None` if it was stopped.
    fn drifts(
        &self,
        only: Option<&Product>,
        pace: &mut dyn FnMut(usize) -> Result<(), Stopped>,
    ) -> Option<BTreeMap<Product, Drift>>;

    /// Puts back what differs of a product's installed release, one path at a time, and says which paths.
    ///
    /// # Errors
    /// If that could not be begun; then nothing was changed.
    fn repair(&self, product: &Product, fetch: &mut dyn Fetch) -> Result<Vec<PathBuf>, Failure>;

    /// Removes what a repair that was cut off has left.
    ///
    /// # Errors
    /// If the system refuses.
    fn finish_repairs(&self) -> Result<(), Failure>;

    /// How the hooks of the last updates went.
    fn hook_runs(&self) -> HookRuns;

    /// The backups that are here, the newest first.
    fn held_backups(&self) -> Vec<BackupState>;

    /// Reads a backup again for the server and keeps what was found for the next report, as slowly as `pace`
    /// says. Says whether it was answered; not if it was stopped.
    fn verify_backup(
        &self,
        backup: &ToVerify,
        pace: &mut dyn FnMut(u64) -> Result<(), Stopped>,
    ) -> bool;

    /// Makes ready to bring a backup back that leads away from what is committed: from here on it is brought
    /// back, also after a power cut. Says what it is about. Nothing is changed if it can't be.
    ///
    /// # Errors
    /// Why it is not brought back.
    fn arm_restore(
        &mut self,
        backup: &BackupId,
        install: &InstallId,
        last: &dyn Fn(&Product) -> Option<Attempt>,
    ) -> Result<Attempt, Failure>;

    /// Brings the backup back that was made ready, if one was, and says how that ended. Safe to repeat.
    ///
    /// # Errors
    /// What stands in the way; it is tried again.
    fn restore(&mut self, wait: &dyn Fn(Duration) -> Waited) -> Result<Option<Update>, Failure>;

    /// After that end is saved.
    ///
    /// # Errors
    /// If the system refuses; then [`Self::restore`] comes again.
    fn restored(&mut self, attempt: &Attempt) -> Result<(), Failure>;

    /// Whether this program is of a release of the agent that is not the current one any more: then another
    /// program has to go on.
    fn is_undone(&self) -> bool;

    /// An empty folder for a release of the agent to qualify in, with a copy of what is trusted and a way
    /// back to read.
    ///
    /// # Errors
    /// If it can't be made.
    fn prepare_to_qualify(&mut self, attempt: &Attempt) -> Result<PathBuf, Failure>;

    /// Runs the release's agent beside this one in that folder, and judges what it says.
    ///
    /// # Errors
    /// Why it does not qualify, or could not be asked.
    fn qualify(&mut self, attempt: &Attempt, server: bool) -> Result<(), Failure>;

    /// Removes that folder.
    ///
    /// # Errors
    /// If the system refuses.
    fn qualified(&mut self) -> Result<(), Failure>;

    /// Starts what runs here, at a start of the agent; but nothing of `except`, whose services an update
    /// that is under way has stopped.
    fn start_services(&mut self, except: Option<&Product>);
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// The time is over.
    Over,
    /// The agent ends.
    Ending,
    /// The server orders a host in probation to go back.
    BackOut,
}

/// The steps of updates on this host.
pub struct Steps<M> {
    /// What changes the machine.
    pub machine: M,
    /// The way to the server.
    pub server: Arc<Link>,
    /// What the host trusts.
    pub trust: Arc<Trust>,
    /// What the server wants.
    pub wanted: Arc<Wanted>,
    /// The host's clock.
    pub clock: Clock,
    /// Which releases failed here.
    pub journal: StoreJournal,
    /// Floors, and which quarantines were lifted by a promotion.
    pub memory: Memory,
    /// What runs the network.
    pub runtime: Handle,
    /// What is installed, for reports.
    pub inventory: Arc<std::sync::RwLock<Inventory>>,
    /// How hooks went, for reports.
    pub hook_runs: Arc<std::sync::RwLock<HookRuns>>,
    /// What of that another hand had changed when all of it was read last.
    pub drifts: BTreeMap<Product, Drift>,
    /// Requests to read a backup again that were answered in this run.
    pub answered: BTreeSet<String>,
    /// What is done about it, and how gently it is looked for.
    pub drift: DriftSettings,
    /// The backups that are here, for reports.
    pub backups: HeldBackups,
    /// Where bundles wait.
    pub spool: Arc<Spool>,
    /// The bundle that was read last, so that a large one is not read again for each step.
    pub opened: Option<(InstallId, Arc<Bundle>)>,
    /// The failure that the log was told last, and of which update: one that passes is tried again and
    /// again, and is one line.
    pub said: Option<(InstallId, String)>,
    /// How fast content may come, where that is limited.
    pub cap: Option<Arc<Mutex<Bucket>>>,
    /// The host's own rules.
    pub brake: Brake,
    /// The release of the agent on probation that has reached the server.
    pub reached: Option<InstallId>,
}

impl<M: Machine> Host for Steps<M> {
    fn perform(&mut self, step: &Step) -> Result<Event, HostError> {
        let event = self.performed(step)?;
        if let Event::Failed { failure } = &event {
            self.say(&step.attempt().install.clone(), failure);
        }
        Ok(event)
    }
}

impl<M: Machine> Steps<M> {
    fn say(&mut self, install: &InstallId, failure: &Failure) {
        // Counts and times differ at each try.
        let words = failure.text.replace(|c: char| c.is_ascii_digit(), "");
        let said = Some((install.clone(), words));
        if self.said != said {
            tracing::warn!(cause = %failure.cause, "{}", failure.text);
            self.said = said;
        }
    }

    fn performed(&mut self, step: &Step) -> Result<Event, HostError> {
        if let Some(event) = self.before(step)? {
            return Ok(event);
        }
        if let Step::Preflight { attempt, .. } = step
            && let Some(failure) = self.refuses_drift(attempt)?
        {
            return Ok(failed(failure));
        }
        match step {
            Step::Permit { attempt, .. } => {
                Ok(self.permit(attempt).map_or_else(failed, |()| Event::Permitted))
            }
            Step::AskLeave { attempt, reboot, .. } => Ok(self.ask_leave(attempt, *reboot)),
            Step::AskReboot { change, .. } => Ok(self.ask_reboot(&change.attempt)),
            Step::Settle { attempt, ended } => {
                let event = self.by_machine(step)?;
                if *ended == Phase::Committed {
                    self.memory
                        .committed(&attempt.product, &attempt.release.digest)
                        .map_err(|error| HostError::Failed(error.to_string()))?;
                }
                Ok(event)
            }
            Step::Preflight { attempt, .. } if !self.machine.knows(&attempt.release.digest) => {
                // Lost between two steps: asked for again.
                match self.permit(attempt) {
                    Ok(()) => self.by_machine(step),
                    Err(failure) => Ok(failed(failure)),
                }
            }
            // The point of no return: what closed while the backup was made holds too.
            Step::BackUp { attempt, terms } => match self.by_machine(step)? {
                event @ Event::BackedUp { .. } => {
                    Ok(self.stopped_short(attempt, terms.reboot).unwrap_or(event))
                }
                event => Ok(event),
            },
            Step::Fetch { attempt, .. } if is_agent(&attempt.product) => self.fetch_own(step),
            Step::Watch { change, .. } if is_agent(&change.attempt.product) => {
                self.watch_own(step, change)
            }
            Step::Preflight { .. }
            | Step::Fetch { .. }
            | Step::Quiesce { .. }
            | Step::Seal { .. }
            | Step::Switch { .. }
            | Step::Reboot { .. }
            | Step::Watch { .. }
            | Step::Commit { .. }
            | Step::GoBack { .. } => self.by_machine(step),
        }
    }
}

impl<M: Machine> Steps<M> {
    /// What comes before a step: the pause after a failure, the end of the agent, an order to stop.
    fn before(&self, step: &Step) -> Result<Option<Event>, HostError> {
        match step {
            Step::Permit { attempt, pause }
            | Step::Preflight { attempt, pause }
            | Step::Fetch { attempt, pause } => {
                self.pause_for_server(attempt, *pause, || self.not_wanted(attempt))
            }
            Step::AskLeave { attempt, pause, .. } => {
                let news = || self.not_wanted(attempt);
                match self.pause_for_server(attempt, *pause, news)? {
                    None => self.wait_while_held(attempt, news),
                    news => Ok(news),
                }
            }
            Step::GoBack { pause, .. } => self.pause(*pause, || None),
            Step::AskReboot { change, pause } => self.pause(*pause, || {
                self.wanted.backs_out(&change.attempt.product).then_some(Event::BackOut)
            }),
            Step::BackUp { attempt, .. } => {
                self.go_on()?;
                let backed_out = self.wanted.backs_out(&attempt.product);
                Ok(backed_out.then_some(Event::BackOut))
            }
            Step::Watch { change, .. } => {
                self.go_on()?;
                let backed_out = self.wanted.backs_out(&change.attempt.product);
                Ok(backed_out.then_some(Event::BackOut))
            }
            // From Quiescing on a host finishes to a whole release. Each of these is short, and safe to
            // repeat if it is cut.
            Step::Quiesce { .. }
            | Step::Seal { .. }
            | Step::Switch { .. }
            | Step::Reboot { .. }
            | Step::Commit { .. }
            | Step::Settle { .. } => self.go_on().map(|()| None),
        }
    }

    /// What has come to hold the update since it had its lease, while nothing is changed yet: it waits again,
    /// and the server takes the lease back when it hears so.
    fn stopped_short(&mut self, attempt: &Attempt, reboot: Reboot) -> Option<Event> {
        let boot_held = match reboot {
            Reboot::Never => None,
            Reboot::WhenRequired | Reboot::Always => self.machine.boot_held(),
        };
        boot_held.map(failed).or_else(|| self.held(attempt))
    }

    /// Before the update has begun: it is not to begin any more.
    fn not_wanted(&self, attempt: &Attempt) -> Option<Event> {
        let over = self.wanted.took_back(attempt) || self.gives_way(attempt);
        over.then_some(Event::TakenBack)
    }

    fn go_on(&self) -> Result<(), HostError> {
        if self.wanted.is_ending() { Err(HostError::Ending) } else { Ok(()) }
    }

    /// Waits, and ends early where there is news or the agent ends.
    fn pause(
        &self,
        pause: Duration,
        news: impl Fn() -> Option<Event>,
    ) -> Result<Option<Event>, HostError> {
        self.pause_for(pause.mul_f64(1.0 + 0.5 * chance()), news)
    }

    /// The same before a step that needs the server: if it was away, or has asked to be left alone, those
    /// that failed together come back one by one.
    fn pause_for_server(
        &self,
        attempt: &Attempt,
        pause: Duration,
        news: impl Fn() -> Option<Event>,
    ) -> Result<Option<Event>, HostError> {
        if attempt.ordered_by == OrderedBy::LocalRoot {
            return self.pause(pause, news);
        }
        self.pause_for(self.server.again(pause, chance()), news)
    }

    fn pause_for(
        &self,
        pause: Duration,
        news: impl Fn() -> Option<Event>,
    ) -> Result<Option<Event>, HostError> {
        let until = self.clock.running().plus(pause);
        loop {
            let seen = self.wanted.changes();
            self.go_on()?;
            if let Some(news) = news() {
                return Ok(Some(news));
            }
            let now = self.clock.running();
            if pause.is_zero() || now >= until {
                return Ok(None);
            }
            self.wanted.wait(seen, until.since(now));
        }
    }

    fn by_machine(&mut self, step: &Step) -> Result<Event, HostError> {
        let (clock, orders) = (self.clock.clone(), self.wanted.clone());
        let now = || clock.running();
        let rest = |span: Duration| {
            let until = clock.running().plus(span);
            loop {
                let seen = orders.changes();
                let now = clock.running();
                if orders.is_ending() || now >= until {
                    return;
                }
                orders.wait(seen, until.since(now));
            }
        };
        let mut frames: Box<dyn Fetch + '_> = match step {
            Step::Preflight { attempt, .. } | Step::Fetch { attempt, .. }
                if attempt.ordered_by == OrderedBy::LocalRoot =>
            {
                match self.bundle(&attempt.install) {
                    Ok(bundle) => Box::new(BundleFrames(bundle)),
                    Err(failure) => return Ok(failed(failure)),
                }
            }
            _ => self.server_frames(step.attempt()),
        };
        let probation = matches!(step, Step::Watch { .. });
        let wait = self.wait_in(probation.then(|| step.attempt().product.clone()));
        if let Some(cap) = &self.cap {
            frames = Box::new(Capped::new(frames, cap.clone(), &now, &rest));
        }
        let event = self.machine.perform(step, &mut *frames, &wait)?;
        self.look();
        Ok(event)
    }

    /// Waits unless the agent ends.
    pub fn waiting(&self) -> impl Fn(Duration) -> Waited + use<M> {
        self.wait_in(None)
    }

    /// Waits unless the agent ends, or the server orders the product on probation to go back.
    fn wait_in(&self, probation: Option<Product>) -> impl Fn(Duration) -> Waited + use<M> {
        let (wanted, clock) = (self.wanted.clone(), self.clock.clone());
        move |longest: Duration| {
            let until = clock.running().plus(longest);
            loop {
                let seen = wanted.changes();
                let now = clock.running();
                if wanted.is_ending() {
                    return Waited::Ending;
                }
                if probation.as_ref().is_some_and(|product| wanted.backs_out(product)) {
                    return Waited::BackOut;
                }
                if now >= until {
                    return Waited::Over;
                }
                wanted.wait(seen, until.since(now));
            }
        }
    }

    /// Content from the server and its mirrors, for no update.
    fn frames_until_ending(&self) -> Box<dyn Fetch> {
        let orders = self.wanted.clone();
        let stopped = move || orders.is_ending();
        let server = ServerFrames::new(self.server.clone(), self.runtime.clone(), stopped);
        Box::new(MirroredFrames::new(self.server.mirrors(), server, self.runtime.clone()))
    }

    fn server_frames(&self, attempt: &Attempt) -> Box<dyn Fetch> {
        let (of, orders, spool) = (attempt.clone(), self.wanted.clone(), self.spool.clone());
        let stopped =
            move || orders.is_ending() || orders.took_back(&of) || bundled::gives_way(&spool, &of);
        let server = ServerFrames::new(self.server.clone(), self.runtime.clone(), stopped);
        Box::new(MirroredFrames::new(self.server.mirrors(), server, self.runtime.clone()))
    }

    /// Looks again at what is installed.
    pub fn look(&self) {
        let mut inventory =
            self.inventory.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        *inventory = self.machine.inventory();
        for (product, installed) in inventory.iter_mut() {
            installed.drift = self.drifts.get(product).cloned().unwrap_or_default();
        }
        *self.hook_runs.write().unwrap_or_else(std::sync::PoisonError::into_inner) =
            self.machine.hook_runs();
    }

    /// Looks at the backups that are here, for reports. Reads each one's whole index: not for every step.
    pub fn look_at_backups(&self) {
        *self.backups.write().unwrap_or_else(std::sync::PoisonError::into_inner) =
            self.machine.held_backups();
    }

    /// The host's own rules are asked first, so that no lease is taken that can't be used (the server keeps
    /// windows of its own and gives none outside them); then permission, once more; then the leave.
    fn ask_leave(&mut self, attempt: &Attempt, reboot: Reboot) -> Event {
        if let Some(held) = self.held(attempt) {
            return held;
        }
        // Found now, nothing has to wait with its services down.
        if reboot != Reboot::Never
            && let Some(held) = self.machine.boot_held()
        {
            return failed(held);
        }
        if let Err(failure) = self.permit(attempt) {
            return failed(failure);
        }
        if attempt.ordered_by == OrderedBy::LocalRoot {
            return match self.own_leave(attempt) {
                Ok(lease) => Event::LeaseGiven { lease, at: self.clock.moment() },
                Err(failure) => failed(failure),
            };
        }
        match self.runtime.block_on(ask_leave(&self.server, attempt, &self.clock)) {
            Ok(lease) => Event::LeaseGiven { lease, at: self.clock.moment() },
            Err(failure) => failed(failure),
        }
    }
}

impl<M: Machine> Steps<M> {
    /// In the middle of an update: may the host boot now?
    fn ask_reboot(&self, attempt: &Attempt) -> Event {
        let held = self.machine.boot_held().or_else(|| match attempt.ordered_by {
            OrderedBy::LocalRoot => self.own_leave(attempt).err(),
            OrderedBy::Server => self.runtime.block_on(ask_reboot(&self.server, attempt)).err(),
        });
        match held {
            None => Event::MayReboot,
            Some(failure) => Event::RebootHeld { failure, at: self.clock.moment() },
        }
    }
}

fn failed(failure: Failure) -> Event {
    Event::Failed { failure }
}

/// What an update that can't be carried on is told.
impl From<crate::journal::JournalError> for Failure {
    fn from(error: crate::journal::JournalError) -> Failure {
        Failure::new(Cause::HostFault, error.to_string())
    }
}
