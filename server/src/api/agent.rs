//! What hosts say and hear: reports in, orders out, and the leave to begin. What a report changes and
//! what a host is told is decided in `crate::rollout`.

use std::sync::atomic::{AtomicU64, Ordering};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use refit_proto::{
    envelope,
    hours::HostPlace,
    names::{Digest, Labels, Product},
    trust::{Role as TrustRole, Signer as _},
    wire::{self, agent_server::Agent, lease_reply::Answer, product_order::Order},
};
use tonic::{Request, Response, Status};
use tracing::warn;

use super::{
    Api, ApiError, Shared,
    call::{Call, retry},
};
use crate::{
    audit::{self, Deed},
    fleet::{
        Actor, BackupCheck, Health, Host, HostState, Placement, ReportedBackup, RingRecord,
        Rollout, RolloutId,
    },
    placing, planning,
    product_view::{ProductNow, RingNow},
    reports::{self, NewReport, ReportError},
    rollout::{self, Admission, Ask, Decision, Hold, HoldReason, ProductReport},
    store::{Commit, Note, Rev, Store},
    twins,
};

/// How often a host asks that is in no ring with limits.
const POLL_SECONDS: u32 = 60;
/// When a host was last seen is stored this coarsely, so that a mere poll costs no write; the exact
/// time is in memory.
const SEEN: SignedDuration = SignedDuration::from_mins(5);
/// Plans that a host waits for before it is told to ask again. One is enough, unless somebody acts
/// at the same moment.
const PLANS: usize = 3;
/// Roles that one host tells of.
const MOST_ROLES: usize = 256;

#[tonic::async_trait]
impl Agent for Api {
    async fn sync(
        &self,
        request: Request<wire::SyncRequest>,
    ) -> Result<Response<wire::SyncReply>, Status> {
        let call = Call::begin(&self.0, &request, "host sync")?;
        let message = request.into_inner();
        let reported = !message.reports.is_empty();
        let reply =
            self.read(call, move |shared, store, call| sync(shared, store, call, &message)).await;
        if reported {
            self.0.wake.notify_one();
        }
        reply
    }

    async fn request_lease(
        &self,
        request: Request<wire::LeaseRequest>,
    ) -> Result<Response<wire::LeaseReply>, Status> {
        let call = Call::begin(&self.0, &request, "host lease")?;
        let message = request.into_inner();
        let reply =
            self.read(call, move |shared, store, call| lease(shared, store, call, &message)).await;
        self.0.wake.notify_one();
        reply
    }

    async fn request_reboot(
        &self,
        request: Request<wire::RebootRequest>,
    ) -> Result<Response<wire::RebootReply>, Status> {
        let call = Call::begin(&self.0, &request, "host reboot")?;
        let message = request.into_inner();
        self.read(call, move |shared, store, call| reboot(shared, store, call, &message)).await
    }
}

/// One product of one host, with what a call makes of it.
struct Standing {
    view: ProductNow,
    before: Option<Rev<Placement>>,
    after: Placement,
}

impl Standing {
    fn ring_now(&self) -> Option<&RingNow> {
        self.view.ring(self.after.ring.as_ref()?)
    }

    fn ring(&self) -> Option<&RingRecord> {
        self.ring_now().map(|ring| &ring.ring.value)
    }

    fn rollout(&self) -> Option<&Rollout> {
        self.ring_now()?.rollout.as_ref().map(|held| &held.value)
    }

    fn fold(&mut self, counter: u64, said: &ProductReport, now: Timestamp) {
        let step = rollout::fold(&self.after, counter, said, self.rollout(), self.ring(), now);
        self.after = step.placement;
    }

    /// What every call of a host tells, with or without a report.
    fn meet(&mut self, now: Timestamp) {
        self.after = rollout::meet(&self.after, self.rollout(), self.ring(), now).placement;
        self.after = rollout::give_back(&self.after, now).placement;
    }
}

/// What rules about hours ask of a host.
struct OwnPlace {
    labels: Labels,
    zone: Option<TimeZone>,
}

impl OwnPlace {
    fn of(shared: &Shared, store: &dyn Store, host: &Host) -> Result<OwnPlace, ApiError> {
        let labels = shared.labels.read(store, &shared.content)?.labels_of(&host.id, &host.labels);
        Ok(OwnPlace { labels, zone: host.zone() })
    }

    fn as_seen(&self) -> HostPlace<'_> {
        HostPlace { labels: &self.labels, zone: self.zone.as_ref() }
    }
}

/// Where a host stands in every product, in the ring that selects it now.
fn standings(
    shared: &Shared,
    store: &dyn Store,
    host: &Host,
    now: Timestamp,
) -> Result<Vec<Standing>, ApiError> {
    let labels = shared.labels.read(store, &shared.content)?.labels_of(&host.id, &host.labels);
    let mut standings = Vec::new();
    for view in ProductNow::read_all(store)? {
        let rings = view.rings.iter().map(|ring| &ring.ring.value);
        let ring = placing::ring_of(rings, &view.product, &labels);
        let before = store.placement(&view.product, &host.id)?;
        let after = placing::placed(before.as_ref(), &view.product, &host.id, ring, now);
        standings.push(Standing { view, before, after });
    }
    Ok(standings)
}

fn sync(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    message: &wire::SyncRequest,
) -> Result<wire::SyncReply, ApiError> {
    let now = call.now;
    let reply = retry(shared, store, now, || {
        let held = call.host(store)?;
        shared.presence.saw(&held.value.id, now);
        let fresh = match reports::accept(&held.value, &message.reports) {
            Ok(fresh) => fresh,
            Err(error @ ReportError::Fork { .. }) => {
                let commit = twins::mark(store, &held, now)?;
                let found = held.value.state == HostState::Active;
                let deed =
                    Deed::done(Actor::Server, "host identity shared", held.value.name.as_str());
                let deeds = found.then_some(deed).into_iter().collect();
                return Ok((Err(error.into()), commit, deeds));
            }
            Err(error) => return Err(error.into()),
        };
        let Rev { rev, value: before } = held;
        let mut host = before.clone();
        let mut standings = standings(shared, store, &host, now)?;
        for new in &fresh {
            take(&mut host, &mut standings, new, now);
        }
        if let Some(seen) = host.audit_held {
            let found = audit::contradiction(store, seen)?;
            host.audit_failure = found.or(host.audit_failure);
        }
        let mut deeds = Vec::new();
        if let Some(failure) =
            host.audit_failure.as_ref().filter(|_| before.audit_failure.is_none())
        {
            let what = format!("{} by host {}: {}", failure.cause, host.name, failure.text);
            deeds.push(Deed::done(Actor::Server, "audit contradicted", what));
        }
        let mut commit = Commit::new();
        for standing in &mut standings {
            standing.meet(now);
            store_standing(standing, &mut commit);
        }
        if host != before || now.duration_since(before.last_seen) >= SEEN {
            host.last_seen = now;
            commit.host(rev, host.clone());
        }
        let mut reply = answer(shared, &host, &standings, now);
        reply.wanted_metadata = wanted(shared, store, message, now)?;
        reply.audit_checkpoint = Some(checkpoint(shared, store, message, now)?);
        let key = shared.keys.audit.public().to_json();
        reply.audit_key = String::from_utf8_lossy(&key).into_owned();
        Ok((Ok(reply), commit, deeds))
    })?;
    if matches!(&reply, Err(ApiError::Reports(ReportError::Fork { .. }))) {
        shared.troubles.changed();
    }
    reply
}

/// The end of the audit log, and what stands where the host has seen its end.
fn checkpoint(
    shared: &Shared,
    store: &dyn Store,
    message: &wire::SyncRequest,
    now: Timestamp,
) -> Result<wire::Envelope, ApiError> {
    let head = store.audit_head()?;
    let bytes = |hash: Option<Digest>| hash.map_or(Vec::new(), |hash| hash.as_bytes().to_vec());
    let held_length = message.audit_held.as_ref().map_or(0, |held| held.length);
    let end = wire::AuditCheckpoint {
        length: head.length,
        hash: bytes(head.hash),
        at: now.to_string(),
        held_length,
        held_hash: bytes(audit::hash_at(store, held_length)?),
    };
    envelope::seal(&end, &shared.keys.audit).map_err(|error| ApiError::Internal(error.to_string()))
}

/// Roles of which the host holds a later file than the server: it was put back to an older copy.
fn wanted(
    shared: &Shared,
    store: &dyn Store,
    message: &wire::SyncRequest,
    now: Timestamp,
) -> Result<Vec<String>, ApiError> {
    let mut wanted = Vec::new();
    for held in message.metadata.iter().take(MOST_ROLES) {
        let Ok(role) = TrustRole::parse(&held.role) else { continue };
        if matches!(role, TrustRole::Snapshot | TrustRole::Timestamp | TrustRole::Other(_)) {
            continue;
        }
        let own = store.file(&role, None)?.map_or(0, |file| file.version);
        if held.version > own {
            wanted.push(held.role.clone());
        }
    }
    let ask = !wanted.is_empty() && shared.healing.may_ask(now);
    Ok(if ask { wanted } else { Vec::new() })
}

fn store_standing(standing: &Standing, commit: &mut Commit) {
    let (before, after) = (standing.before.as_ref(), &standing.after);
    if before.is_some_and(|held| held.value == *after) {
        return;
    }
    // Only what somebody sees is worth a note: that a report came in is not.
    if before.is_none_or(|held| held.value.changed_at != after.changed_at) {
        commit.note(Note::Placements(after.product.clone(), vec![after.host_id.clone()]));
    }
    commit.placement(before, after.clone());
}

/// Most holds of people on a host that are kept.
const MOST_HOLDS: usize = 16;

fn take(host: &mut Host, standings: &mut [Standing], new: &NewReport, now: Timestamp) {
    let report = &new.report;
    (host.report_counter, host.report_hash) = (report.counter, Some(new.hash));
    let Some(state) = &report.state else { return };
    host.agent_version = state.agent_version.chars().take(64).collect();
    host.timestamp_version = state.timestamp_version;
    host.metadata_expired = state.metadata_expired;
    host.server = state.server.chars().take(262).collect();
    host.free_bytes = state.free_bytes;
    host.time_zone = state.time_zone.chars().take(64).collect();
    host.metadata_failure = state.metadata_failure.clone().map(rollout::reported);
    host.audit_failure = state.audit_failure.clone().map(rollout::reported);
    let holds = state.holds.iter().take(MOST_HOLDS).cloned();
    host.holds = holds.map(rollout::reported_hold).collect();
    host.backups = ReportedBackup::all(&state.backups);
    let backups = &host.backups;
    host.verify.retain(|check| check.waits(backups));
    let held = state.audit_held.as_ref();
    host.audit_held = held.and_then(|it| audit::head_from_wire(it.length, &it.hash).ok());
    for product in &state.products {
        // A host that says one wrong thing must not be unable to say anything else ever after.
        let mut said = match ProductReport::try_from(product.clone()) {
            Ok(said) => said,
            Err(error) => {
                let (host, counter) = (&host.id, report.counter);
                warn!(%host, counter, %error, "a part of a report is passed over");
                continue;
            }
        };
        if host.state == HostState::Shared {
            // Of which of the two machines?
            said.health = Health::Unknown;
        }
        let standing = standings.iter_mut().find(|it| it.view.product == said.product);
        if let Some(standing) = standing {
            standing.fold(report.counter, &said, now);
        }
    }
}

fn answer(shared: &Shared, host: &Host, standings: &[Standing], now: Timestamp) -> wire::SyncReply {
    let mut poll = None;
    let mut products = Vec::new();
    for standing in standings {
        // Without a look at deadlines: those are the leader's.
        let plan = standing.view.plan(shared.listening_since, now, |_| Vec::new());
        let ring = standing.after.ring.as_ref().and_then(|ring| plan.ring(ring));
        let mine = ring.and_then(|ring| ring.policy.as_ref()).map(|policy| policy.poll_seconds);
        poll = poll.into_iter().chain(mine).min();
        let decision = rollout::decide(ring, &standing.after);
        let order = order(held_back(host, standing, decision));
        let product = standing.view.product.to_string();
        products.extend(order.map(|order| wire::ProductOrder { product, order: Some(order) }));
    }
    let verify = host
        .verify
        .iter()
        .cloned()
        .map(|BackupCheck { backup, asked }| wire::BackupToVerify { backup, asked });
    let orders = wire::Orders { issued: issue(now), products, verify: verify.collect() };
    wire::SyncReply {
        acknowledged: host.report_counter,
        acknowledged_sha256: host.report_hash.map_or(Vec::new(), |it| it.as_bytes().to_vec()),
        orders: Some(envelope::wrap(&orders)),
        poll_after_seconds: poll.unwrap_or(POLL_SECONDS),
        wanted_metadata: Vec::new(),
        audit_checkpoint: None,
        audit_key: String::new(),
    }
}

/// Nothing new for two machines with one identity; going back is never held back.
fn held_back(host: &Host, standing: &Standing, decision: Decision) -> Decision {
    match (host.state, decision) {
        (HostState::Shared, Decision::Offer(_) | Decision::Hold(_) | Decision::UpToDate) => {
            Decision::Hold(Hold::new(HoldReason::SharedIdentity, standing.after.changed_at))
        }
        (_, decision) => decision,
    }
}

fn order(decision: Decision) -> Option<Order> {
    match decision {
        Decision::Offer(offer) => Some(Order::Offer(offer.into())),
        Decision::Hold(hold) => Some(Order::Hold(hold.into())),
        Decision::BackOut(hold) => Some(Order::BackOut(hold.into())),
        Decision::UpToDate => None,
    }
}

/// Larger with each answer, also after a restart: milliseconds since 1970, or one more than the last.
fn issue(now: Timestamp) -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = u64::try_from(now.as_millisecond()).unwrap_or(0);
    let next = |last: u64| now.max(last + 1);
    let before = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
    before.map_or_else(next, next)
}

fn lease(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    message: &wire::LeaseRequest,
) -> Result<wire::LeaseReply, ApiError> {
    // Before anything else: whoever may not call does not even hear what is wrong with the call.
    call.host(store)?;
    let product = Product::parse(&message.product)?;
    let ask = asked(&message.rollout_id, message.attempt, &message.digest)?;
    for _ in 0..PLANS {
        let answer = retry(shared, store, call.now, || {
            let host = call.host(store)?.value;
            shared.presence.saw(&host.id, call.now);
            if host.state == HostState::Shared {
                let hold = Hold::new(HoldReason::SharedIdentity, call.now);
                return Ok((Some(Answer::Hold(hold.into())), Commit::new(), Vec::new()));
            }
            let views = ProductNow::read_all(store)?;
            let view = views.iter().find(|view| view.product == product);
            let held = store.placement(&product, &host.id)?;
            Ok(match (view, held) {
                (Some(view), Some(held)) => {
                    let place = OwnPlace::of(shared, store, &host)?;
                    admit(shared, view, &held, &place, &ask, call.now)
                }
                (None, _) | (_, None) => {
                    let hold = Hold::new(HoldReason::NotOffered, call.now);
                    (Some(Answer::Hold(hold.into())), Commit::new(), Vec::new())
                }
            })
        })?;
        if answer.is_some() {
            return Ok(wire::LeaseReply { answer });
        }
    }
    let hold = Hold::new(HoldReason::NotOffered, call.now);
    Ok(wire::LeaseReply { answer: Some(Answer::Hold(hold.into())) })
}

fn asked(rollout: &str, attempt: u32, digest: &[u8]) -> Result<Ask, ApiError> {
    let rollout =
        RolloutId::parse(rollout).map_err(|error| ApiError::Invalid(error.to_string()))?;
    Ok(Ask { rollout, attempt, digest: Digest::from_bytes(digest)? })
}

/// Whether a host may boot in the middle of its update. Reads only.
fn reboot(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    message: &wire::RebootRequest,
) -> Result<wire::RebootReply, ApiError> {
    let host = call.host(store)?.value;
    let product = Product::parse(&message.product)?;
    let ask = asked(&message.rollout_id, message.attempt, &message.digest)?;
    shared.presence.saw(&host.id, call.now);
    let no = |hold: Hold| wire::RebootReply { may: false, hold: Some(hold.into()) };
    if host.state == HostState::Shared {
        return Ok(no(Hold::new(HoldReason::SharedIdentity, call.now)));
    }
    let views = ProductNow::read_all(store)?;
    let view = views.iter().find(|view| view.product == product);
    let Some((view, held)) = view.zip(store.placement(&product, &host.id)?) else {
        return Ok(no(Hold::new(HoldReason::NotOffered, call.now)));
    };
    let plan = view.plan(shared.listening_since, call.now, |_| Vec::new());
    let ring = held.value.ring.as_ref().and_then(|ring| plan.ring(ring));
    let place = OwnPlace::of(shared, store, &host)?;
    Ok(match rollout::boot_hold(ring, &held.value, place.as_seen(), &ask, call.now) {
        None => wire::RebootReply { may: true, hold: None },
        Some(hold) => no(hold),
    })
}

/// What is to be told; nothing yet where the plan has to be stored first.
fn admit(
    shared: &Shared,
    view: &ProductNow,
    held: &Rev<Placement>,
    place: &OwnPlace,
    ask: &Ask,
    now: Timestamp,
) -> (Option<Answer>, Commit, Vec<Deed>) {
    let plan = view.plan(shared.listening_since, now, |_| Vec::new());
    let name = held.value.ring.as_ref();
    let planned = name.and_then(|ring| plan.ring(ring));
    let rollout = name.and_then(|ring| view.ring(ring)).and_then(|ring| ring.rollout.as_ref());
    let mut commit = Commit::new();
    let answer = match rollout::admit(planned, &held.value, place.as_seen(), ask, now) {
        Admission::Granted(grant) => {
            if let Some(rollout) = rollout.filter(|_| !grant.step.is_empty) {
                // For its revision: whoever is admitted next has seen this one in the counts, or collides.
                commit.doc(rollout.rev, grant.rollout);
                commit.placement(Some(held), grant.step.placement);
            }
            let (id, seconds) = (grant.lease.id.to_string(), grant.seconds);
            Answer::Lease(wire::Lease { id, seconds })
        }
        Admission::Held(hold, step) => {
            if let Some(step) = step.filter(|step| !step.is_empty) {
                commit.placement(Some(held), step.placement);
            }
            Answer::Hold(hold.into())
        }
        Admission::PlanFirst => {
            let (commit, deeds) = planning::commit(view, &plan, &[]);
            return (None, commit, deeds);
        }
    };
    (Some(answer), commit, Vec::new())
}
