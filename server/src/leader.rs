//! The server's own work, again and again: rollouts go on, deadlines are kept, hosts stand in the rings
//! that select them, snapshot and timestamp stay fresh. It works from what is stored alone; a tick that
//! is lost or doubled changes nothing, and so does a second leader.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use refit_proto::{
    names::{HostId, Product, RingName},
    trust::{Role, client::Write, repository, set::Stored},
};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::{
    api::{
        ApiError, Shared,
        repository::{Publishing, after, publication, settle_keys},
    },
    audit, changes,
    fleet::{Actor, HostState, OpenChange, Placement, RingRecord},
    gate, placing, planning,
    product_view::{ProductNow, RingNow},
    promotion,
    rollout::Watched,
    store::{
        Commit, CommitError, FileWrite, HostQuery, Note, Reads as _, Rev, RingCursor, Store,
        StoreFault,
    },
    tls::OwnCertificate,
};

/// The longest that anything due by the clock alone waits.
const TICK: Duration = Duration::from_secs(1);
/// The shortest time between two ticks, however many commits there are.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a leader that has died keeps others waiting.
const LEASE: Duration = Duration::from_secs(10);
/// Hosts of a ring whose deadlines are looked at in one tick, beside those in flight.
const PAGE: usize = 200;
/// Hosts that are put into their rings by one commit.
const PLACED: usize = 200;
/// Freshness and certificates are looked at this often; both last for days.
const UPKEEP: SignedDuration = SignedDuration::from_mins(1);
/// Notes that whoever follows the fleet can still read.
const NOTES: u64 = 10_000;

/// What a leader remembers between ticks. All of it may be lost.
#[derive(Debug, Default)]
pub struct Memory {
    placed: Option<u64>,
    cursors: BTreeMap<(Product, RingName), RingCursor>,
    upkeep: Option<Timestamp>,
}

/// The leader of one server.
pub struct Leader {
    /// What it shares with the services.
    pub shared: Arc<Shared>,
    /// Its name among servers on one store.
    pub name: String,
    /// The certificate that it keeps young.
    pub own: Arc<OwnCertificate>,
}

impl Leader {
    /// Works until `stop` says so.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let leader = Arc::new(self);
        let mut memory = Memory::default();
        loop {
            let (this, mut kept) = (leader.clone(), std::mem::take(&mut memory));
            let done = leader.shared.store.run(move |store| {
                if let Err(error) = this.tick(store, &mut kept) {
                    error!(error = %error.chain(), "the leader could not do its work, and tries again");
                }
                Ok::<_, StoreFault>(kept)
            });
            memory = done.await.unwrap_or_default();
            let due = async {
                tokio::time::sleep(PAUSE).await;
                let rest = tokio::time::sleep(TICK - PAUSE);
                tokio::select! {
                    () = rest => {}
                    () = leader.shared.wake.notified() => {}
                }
            };
            tokio::select! {
                () = due => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// One round.
    ///
    /// # Errors
    /// What stopped it; the next round begins anew.
    pub fn tick(&self, store: &dyn Store, memory: &mut Memory) -> Result<(), ApiError> {
        let now = self.shared.clock.now();
        if store.lease("leader", &self.name, now, LEASE)?.is_none() {
            return Ok(());
        }
        self.place(store, memory, now)?;
        let products = ProductNow::read_all(store)?;
        for view in &products {
            self.advance(store, view, memory, now)?;
        }
        // What can't be signed must not keep the rest from being done.
        if gate::concerns(&products)
            && let Err(error) = self.sign_own_part(store, &products, now)
        {
            error!(error = %error.chain(), "the server's part in rings is not signed, and tried again");
        }
        if memory.upkeep.is_none_or(|done| now.duration_since(done).abs() >= UPKEEP) {
            self.upkeep(store, now)?;
            memory.upkeep = Some(now);
        }
        Ok(())
    }

    /// Signs what the gate key may sign and its gates let through. A file that would be refused is left
    /// alone, and looked at again with the next tick.
    fn sign_own_part(
        &self,
        store: &dyn Store,
        products: &[ProductNow],
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let (shared, content) = (&self.shared, &self.shared.content);
        let held = store.newest_files()?;
        let files: Stored = held.into_iter().map(|(role, file)| (role, file.bytes)).collect();
        let set = after(files, &[])?;
        let changes = store.all::<OpenChange>()?;
        let key = shared.keys.gate.for_ids(&gate::ring_keys(&set));
        for open in changes.iter().filter(|open| open.value.is_open(now)) {
            let change = changes::read(&open.value).map_err(changes::Refused::from)?;
            if let Some(signed) = gate::exchanged(&set, &change, &shared.keys.gate, now) {
                return self.publish_own(store, signed, now);
            }
        }
        let sight = gate::Sight { set: &set, changes: &changes, key, now };
        for product in products {
            let Some(policy) = promotion::policy(content, &set, &product.product)? else {
                continue;
            };
            let due = gate::due(&sight, &policy, product).map_err(|error| {
                ApiError::Invalid(format!("the rings of {}: {error}", product.product))
            })?;
            for signed in due {
                self.publish_own(store, signed, now)?;
            }
        }
        Ok(())
    }

    fn publish_own(
        &self,
        store: &dyn Store,
        signed: gate::Signed,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let by = Publishing { who: Actor::Server, name: "server", now };
        let roles: Vec<String> = signed.files.iter().map(|(role, _)| role.to_string()).collect();
        let (act, what) = (signed.occasion.act(), roles.join(" "));
        let (commit, mut deeds) = match publication(&self.shared, store, &signed.files, &by) {
            Ok((_, commit, deeds)) => (commit, deeds),
            Err(error) => {
                debug!(role = %what, error = %error.chain(), "the server does not sign this yet");
                return Ok(());
            }
        };
        info!(act, role = %what, "signed with the gate key");
        deeds.insert(0, audit::Deed::done(Actor::Server, act, what));
        match audit::commit(store, &commit, now, &deeds) {
            Ok(_) => settle_keys(&self.shared, store),
            Err(CommitError::Conflict(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Plans a product and stores what changes. Where somebody else changed it meanwhile, the next tick
    /// plans anew.
    fn advance(
        &self,
        store: &dyn Store,
        view: &ProductNow,
        memory: &mut Memory,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let mut seen = BTreeMap::new();
        let mut rows = BTreeMap::new();
        for ring in &view.rings {
            let watched = self.watched(store, view, ring, memory, &mut seen)?;
            rows.insert(ring.ring.value.ring.clone(), watched);
        }
        let plan = view.plan(self.shared.listening_since, now, |ring| {
            let rows = rows.get(&ring.ring.value.ring).into_iter().flatten();
            let last_seen = |host: &HostId| seen.get(host).copied().unwrap_or(now);
            rows.map(|held| Watched {
                placement: &held.value,
                last_seen: last_seen(&held.value.host_id),
            })
            .collect()
        });
        if plan.is_empty() {
            return Ok(());
        }
        let looked_at: Vec<_> = rows.values().flatten().cloned().collect();
        let (commit, deeds) = planning::commit(view, &plan, &looked_at);
        for deed in &deeds {
            info!(act = %deed.act, what = %deed.what, "decided");
        }
        match audit::commit(store, &commit, now, &deeds) {
            Ok(_) => {
                self.shared.wake.notify_one();
                Ok(())
            }
            Err(CommitError::Conflict(_)) => {
                self.shared.wake.notify_one();
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The hosts of a ring whose deadlines are looked at now: those in flight, and the next page of all.
    fn watched(
        &self,
        store: &dyn Store,
        view: &ProductNow,
        ring: &RingNow,
        memory: &mut Memory,
        seen: &mut BTreeMap<HostId, Timestamp>,
    ) -> Result<Vec<Rev<Placement>>, StoreFault> {
        let Some(rollout) = &ring.rollout else { return Ok(Vec::new()) };
        let name = &ring.ring.value.ring;
        let mut rows = store.in_flight(&rollout.value.id, None, usize::MAX)?;
        let key = (view.product.clone(), name.clone());
        let page = store.ring_after(&view.product, Some(name), memory.cursors.get(&key), PAGE)?;
        match page.last().filter(|_| page.len() == PAGE) {
            Some(last) => memory.cursors.insert(key, RingCursor::of(&last.value)),
            None => memory.cursors.remove(&key),
        };
        for held in page {
            if !rows.iter().any(|row| row.value.host_id == held.value.host_id) {
                rows.push(held);
            }
        }
        let mut watched = Vec::with_capacity(rows.len());
        for row in rows {
            let host = store.host(&row.value.host_id)?;
            let Some(host) = host.filter(|host| host.value.state.may_call()) else {
                continue;
            };
            let last_seen = self.shared.presence.last_seen(&host.value.id, host.value.last_seen);
            seen.insert(host.value.id, last_seen);
            watched.push(row);
        }
        Ok(watched)
    }

    /// Puts hosts into their rings after the signed policy has changed, and once after each start.
    fn place(
        &self,
        store: &dyn Store,
        memory: &mut Memory,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let version = store.file(&Role::Policy, None)?.map_or(0, |file| file.version);
        if memory.placed == Some(version) {
            return Ok(());
        }
        let rings = store.all::<RingRecord>()?;
        let labels = self.shared.labels.read(store, &self.shared.content)?;
        let mut after = None;
        loop {
            let listed = store.find(&HostQuery::default(), after.as_ref(), PLACED)?;
            let mut commit = Commit::new();
            for row in &listed.rows {
                let host = &row.host.value;
                if host.state != HostState::Retired {
                    placing::place_host(store, &rings, &labels, host, false, now, &mut commit)?;
                }
            }
            if !commit.placements.is_empty() {
                for product in placing::products(&rings) {
                    commit.note(Note::Product(product));
                }
                match store.commit(commit) {
                    Ok(_) => {}
                    // Those hosts reported meanwhile: begin again with the next tick.
                    Err(CommitError::Conflict(_)) => {
                        self.shared.wake.notify_one();
                        return Ok(());
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            match listed.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        memory.placed = Some(version);
        Ok(())
    }

    fn upkeep(&self, store: &dyn Store, now: Timestamp) -> Result<(), ApiError> {
        match self.own.renew(self.shared.keys.authorities.shown(), now) {
            Ok(true) => info!("the server has a new certificate"),
            Ok(false) => {}
            Err(error) => warn!(%error, "the server's certificate could not be renewed"),
        }
        self.freshen(store, now)?;
        self.lapse(store, now)?;
        let newest = *store.wake().borrow();
        store.forget_changes(newest.saturating_sub(NOTES))?;
        Ok(())
    }

    /// Ends the changes that nobody completed in time.
    fn lapse(&self, store: &dyn Store, now: Timestamp) -> Result<(), ApiError> {
        let late = changes::lapsed(&store.all::<OpenChange>()?, now);
        if late.is_empty() {
            return Ok(());
        }
        let (mut commit, mut deeds) = (Commit::new(), Vec::new());
        for (rev, ended) in late {
            let what = format!("{} {}", ended.role, ended.id.short());
            deeds.push(audit::Deed::done(Actor::Server, "change lapse", what));
            commit.doc(rev, ended);
        }
        commit.note(Note::Metadata);
        match audit::commit(store, &commit, now, &deeds) {
            Ok(_) | Err(CommitError::Conflict(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Signs snapshot and timestamp anew at half of their life.
    fn freshen(&self, store: &dyn Store, now: Timestamp) -> Result<(), ApiError> {
        let held = store.newest_files()?;
        let files: Stored =
            held.iter().map(|(role, file)| (role.clone(), file.bytes.clone())).collect();
        let named = repository::named_keys(&files, &[]);
        let keys = &self.shared.keys;
        keys.settle(&named);
        let Some(writes) = repository::renew(&files, keys.freshness.for_ids(&named), now)? else {
            return Ok(());
        };
        let mut commit = Commit::new();
        for write in writes {
            if let Write::Put { role, version, bytes } = write {
                let replaces = held.get(&role).map_or(0, |file| file.version);
                commit.file(FileWrite { role, replaces, version, bytes });
            }
        }
        commit.note(Note::Metadata);
        let deed = audit::Deed::done(Actor::Server, "metadata freshen", "snapshot timestamp");
        match audit::commit(store, &commit, now, &[deed]) {
            Ok(_) | Err(CommitError::Conflict(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
