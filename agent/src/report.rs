//! What this host says of itself: its whole state, put together from the journal, its trust, its orders
//! and what is installed. Decides the words of reports and holds; how reports travel is decided in
//! [`crate::outbox`].

mod backups;
mod journal;
mod product;

pub use backups::{HeldBackups, held_backups};
pub use journal::ReportingJournal;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use refit_proto::{
    gathered::Gathered as _,
    names::{Platform, Product},
    wire::{Failure, Hold, HostState},
};

use crate::{
    clock::Clock,
    holds::Holds,
    host::{drift::Drift, files::Files, hook::HookRuns},
    journal::{Ended, Journal as _, JournalError, StoreJournal},
    link::{Link, Wanted},
    outbox::{News, Outbox, Weight},
    trusted::{Refusal, Trust},
    update::{LocalHold, ReleaseId, Update},
    witness::Witness,
};

/// A release that is installed here, as the file system tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledRelease {
    /// Version and digest.
    pub id: ReleaseId,
    /// Tells the order of releases.
    pub counter: u64,
    /// What of it another hand has changed, when all of it was read last.
    pub drift: Drift,
}

/// What is installed, by product.
pub type Inventory = BTreeMap<Product, InstalledRelease>;

/// Puts reports together.
pub struct Reporter {
    /// Where reports wait.
    pub outbox: Arc<Outbox>,
    /// What the host remembers of its updates.
    pub journal: StoreJournal,
    /// What it trusts.
    pub trust: Arc<Trust>,
    /// What the server wants.
    pub wanted: Arc<Wanted>,
    /// Its clock.
    pub clock: Clock,
    /// What it runs.
    pub platform: Platform,
    /// What is installed, as it was last looked at.
    pub inventory: Arc<RwLock<Inventory>>,
    /// What people on it hold.
    pub holds: Arc<Holds>,
    /// How the hooks of its last updates went.
    pub hook_runs: Arc<RwLock<HookRuns>>,
    /// The backups that are here, as they were last looked at.
    pub backups: HeldBackups,
    /// The way to the server, for the address in use; none where no agent runs.
    pub server: Option<Arc<Link>>,
    /// What was seen of the server's audit log.
    pub witness: Arc<Witness>,
    /// Through which its disk is looked at.
    pub files: Arc<dyn Files>,
    /// The agent's data folder.
    pub data: PathBuf,
    /// The state that was reported last in this run.
    pub reported: Mutex<Option<HostState>>,
}

impl Reporter {
    /// The host's state now.
    pub fn state(&self) -> HostState {
        self.state_with(or_nothing(self.journal.load()).as_ref())
    }

    /// The host's state once this update stands where it does. What can't be read of the past is left
    /// out, with a line in the log: it must not keep the present from being reported.
    pub fn state_with(&self, update: Option<&Update>) -> HostState {
        let view = self.trust.view();
        let now = self.clock.now();
        let inventory = self.inventory.read().unwrap_or_else(PoisonError::into_inner).clone();
        let orders = self.wanted.orders().unwrap_or_default();
        let lasts: BTreeMap<Product, Ended> = or_nothing(self.journal.lasts())
            .into_iter()
            .map(|ended| (ended.attempt.product.clone(), ended))
            .gathered();
        let quarantine = or_nothing(self.journal.quarantine());

        let mut products: BTreeSet<Product> = inventory.keys().cloned().gathered();
        products.extend(orders.products.keys().cloned());
        products.extend(lasts.keys().cloned());
        products.extend(update.map(|update| update.attempt().product.clone()));
        if let Some(view) = &view {
            let rings = view.rings().filter(|(_, ring)| ring.is_some());
            products.extend(rings.map(|(product, _)| product.clone()));
        }
        let hook_runs = self.hook_runs.read().unwrap_or_else(PoisonError::into_inner).clone();
        let look = product::Look {
            view: view.as_deref(),
            now,
            update,
            quarantine: &quarantine,
            hook_runs: &hook_runs,
        };
        let states = products.iter().map(|product| {
            let (installed, order) = (inventory.get(product), orders.products.get(product));
            look.product(product, installed, order, lasts.get(product))
        });
        HostState {
            agent_version: crate::version::version().to_owned(),
            platform: self.platform.to_string(),
            boot_id: self.clock.boot().to_string(),
            products: states.collect(),
            timestamp_version: view.as_ref().map_or(0, |view| view.timestamp_version()),
            metadata_expired: view.as_ref().is_some_and(|view| view.expired(now)),
            time_zone: crate::clock::zone_name(),
            free_bytes: self.files.space(&self.data).map_or(0, |space| space.bytes),
            server: self.server.as_ref().map(|server| server.address()).unwrap_or_default(),
            metadata_failure: self.trust.refusal().map(refused),
            audit_held: self.witness.held(),
            audit_failure: self.witness.failure(),
            holds: self.holds.now().iter().map(local_hold).collect(),
            backups: self.backups.read().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Writes a report if the state is not the one that was last reported in this run.
    pub fn report_changes(&self) {
        let state = self.state();
        let reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if reported.is_some_and(|reported| is_same(&reported, &state)) {
            return;
        }
        match self.outbox.report(self.news(state.clone(), None, Weight::Step)) {
            Ok(()) => self.note(state),
            Err(error) => tracing::error!("the host's state can't be reported: {error}"),
        }
    }

    fn news(
        &self,
        state: HostState,
        event: Option<refit_proto::wire::Event>,
        weight: Weight,
    ) -> News {
        News { at: self.clock.now().to_string(), state, event, weight }
    }

    fn note(&self, state: HostState) {
        *self.reported.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
    }
}

/// A person's hold, as the wire says it. Its end is told as it was meant when it was made: what a clock does
/// meanwhile is no news.
fn local_hold(hold: &LocalHold) -> Hold {
    let what = match &hold.product {
        Some(product) => format!("updates of {product} are held"),
        None => "every update is held".to_owned(),
    };
    let until = hold.made.saturating_add(hold.lasts).unwrap_or(hold.made);
    Hold {
        reason: "local".to_owned(),
        text: format!("{what}: {}", hold.why),
        since: hold.made.to_string(),
        until: until.to_string(),
        who: format!("{}, or root: `refit-agent hold release {}`", hold.who, hold.id),
    }
}

/// Whether there is nothing to tell. That the audit log has grown is told with the next report, and so is what
/// little the disk has filled or emptied.
fn is_same(reported: &HostState, state: &HostState) -> bool {
    let audit_held = match state.audit_held {
        Some(_) if reported.audit_held.is_some() => reported.audit_held.clone(),
        _ => state.audit_held.clone(),
    };
    let (then, now) = (reported.free_bytes, state.free_bytes);
    // What is not known is no more and no less than anything.
    let alike = then == now || (now > then / 2 && now / 2 < then && now > 0);
    let free_bytes = if alike { then } else { now };
    *reported == HostState { audit_held, free_bytes, ..state.clone() }
}

/// As the wire says it: what a person has to look into, since a server that is whole gives no such files.
fn refused(refusal: Refusal) -> Failure {
    Failure {
        cause: refusal.attack.to_owned(),
        text: refusal.text,
        help: "what is installed stays; find out who changed or withholds the server's files"
            .to_owned(),
        ..Default::default()
    }
}

fn or_nothing<T: Default>(read: Result<T, JournalError>) -> T {
    read.unwrap_or_else(|error| {
        tracing::error!("this can't be reported: {error}");
        T::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fills_a_little_is_no_news_and_one_that_has_halved_is() {
        let with = |free_bytes| HostState { free_bytes, ..HostState::default() };
        for (then, now, same) in [
            (1000, 1000, true),
            (1000, 501, true),
            (1000, 1999, true),
            (1000, 500, false),
            (1000, 2000, false),
            (1000, 0, false),
            (0, 1000, false),
            (0, 0, true),
            (u64::MAX, u64::MAX / 2 + 1, true),
        ] {
            assert_eq!(is_same(&with(then), &with(now)), same, "{then} {now}");
        }
        assert!(!is_same(&with(1000), &HostState { time_zone: "UTC".into(), ..with(1000) }));
    }
}
