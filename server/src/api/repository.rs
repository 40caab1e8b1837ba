//! Signed metadata and content. Reading is for everybody that is let in; each kind of file takes its own
//! role to push. Signatures decide in `refit_proto::trust`, documents in `crate::push`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use refit_proto::{
    names::{Digest, Product},
    package::{self, PlanRules},
    servers::SERVERS,
    trust::{
        Role as TrustRole,
        client::Write,
        promotion::release_path,
        repository::{self, Refused},
        set::{Stored, TrustedSet},
    },
    wire::{self, repository_server::Repository},
};
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

use super::{
    Api, ApiError, Shared,
    call::{Call, retry},
    content::Chunks,
};
use crate::{
    access::ANY_ROLE,
    audit::Deed,
    changes,
    fleet::{Actor, ChangeState, OpenChange, ReleaseRecord, RingRecord, RolloutPolicy},
    identity::Role,
    placing,
    push::{self, Before, Pusher, Records},
    store::{Commit, FileWrite, Note, Reads as _, SignedFile, Store},
};

/// Digests in one question.
const MOST_ASKED: usize = 10_000;
/// Policies are content too, so administrators upload as publishers do.
const UPLOADERS: &[Role] = &[Role::Publisher, Role::Administrator];
/// What a push is called in the audit log: by it, a conflict finds out who was faster.
const PUSH: &str = "metadata push";
/// What giving back is called there.
const OFFER: &str = "metadata take-back";
/// How far back a conflict looks for who was faster.
const LOOK_BACK: u64 = 5_000;

#[tonic::async_trait]
impl Repository for Api {
    type GetContentStream = Chunks;

    async fn get_metadata(
        &self,
        request: Request<wire::GetMetadataRequest>,
    ) -> Result<Response<wire::GetMetadataReply>, Status> {
        let call = Call::begin(&self.0, &request, "metadata read")?;
        let message = request.into_inner();
        self.read(call, move |_, store, call| get_metadata(store, call, &message)).await
    }

    async fn get_content(
        &self,
        request: Request<wire::GetContentRequest>,
    ) -> Result<Response<Chunks>, Status> {
        let call = Call::begin(&self.0, &request, "content read")?;
        let message = request.into_inner();
        let result = self.get_content_of(&call, &message).await;
        self.finish(&call, result).await
    }

    async fn missing_content(
        &self,
        request: Request<wire::MissingContentRequest>,
    ) -> Result<Response<wire::MissingContentReply>, Status> {
        let call = Call::begin(&self.0, &request, "content list")?;
        let message = request.into_inner();
        self.read(call, move |shared, store, call| missing(shared, store, call, message)).await
    }

    async fn put_content(
        &self,
        request: Request<Streaming<wire::PutContentRequest>>,
    ) -> Result<Response<wire::PutContentReply>, Status> {
        let call = Call::begin(&self.0, &request, "content upload")?;
        let result = self.put_content_of(&call, request.into_inner()).await;
        self.finish(&call, result).await
    }

    async fn offer_metadata(
        &self,
        request: Request<wire::OfferMetadataRequest>,
    ) -> Result<Response<wire::OfferMetadataReply>, Status> {
        let call = Call::begin(&self.0, &request, OFFER)?;
        let message = request.into_inner();
        let roles: Vec<&str> = message.files.iter().map(|file| file.role.as_str()).collect();
        let call = call.about(roles.join(" "));
        self.act(call, move |shared, store, call| offer_metadata(shared, store, call, message))
            .await
    }

    async fn push_metadata(
        &self,
        request: Request<wire::PushMetadataRequest>,
    ) -> Result<Response<wire::PushMetadataReply>, Status> {
        let call = Call::begin(&self.0, &request, PUSH)?;
        let message = request.into_inner();
        let roles: Vec<&str> = message.files.iter().map(|file| file.role.as_str()).collect();
        let call = call.about(roles.join(" "));
        self.act(call, move |shared, store, call| push_metadata(shared, store, call, message)).await
    }
}

impl Api {
    async fn get_content_of(
        &self,
        call: &Call,
        message: &wire::GetContentRequest,
    ) -> Result<Chunks, ApiError> {
        let digest = message.sha256.clone();
        self.work(call, move |_, store, call| may_read(store, call, &digest)).await?;
        self.send_frame(Digest::from_bytes(&message.sha256)?, message.offset).await
    }

    async fn put_content_of(
        &self,
        call: &Call,
        mut messages: Streaming<wire::PutContentRequest>,
    ) -> Result<wire::PutContentReply, ApiError> {
        self.work(call, |_, store, call| call.member(store, UPLOADERS).map(drop)).await?;
        self.take_frame(&mut messages).await?;
        Ok(wire::PutContentReply {})
    }
}

fn get_metadata(
    store: &dyn Store,
    call: &Call,
    message: &wire::GetMetadataRequest,
) -> Result<wire::GetMetadataReply, ApiError> {
    let role =
        TrustRole::parse(&message.role).map_err(|error| ApiError::Invalid(error.to_string()));
    let open = matches!(&role, Ok(role) if is_open(role));
    if call.peer.certified.is_some() || !open {
        call.anyone(store)?;
    }
    let role = role?;
    let version = match message.version {
        0 if matches!(role, TrustRole::Timestamp | TrustRole::Root) => None,
        0 => {
            let text = format!("{role} is asked for by its version; the timestamp leads to it");
            return Err(ApiError::Invalid(text));
        }
        version => Some(version),
    };
    let file = store.file(&role, version)?;
    let file =
        file.ok_or_else(|| ApiError::NotFound(format!("there is no such version of {role}")))?;
    Ok(wire::GetMetadataReply { file: file.bytes })
}

/// What a host may read that can't tell whom to trust any more: the way to the signed list of servers,
/// which proves itself. Products' releases and rings are for the fleet alone.
fn is_open(role: &TrustRole) -> bool {
    match role {
        TrustRole::Root
        | TrustRole::Timestamp
        | TrustRole::Snapshot
        | TrustRole::Targets
        | TrustRole::Policy => true,
        TrustRole::Release(_) | TrustRole::Ring(..) | TrustRole::Other(_) => false,
    }
}

/// Whoever is let in reads every content; who shows no certificate, the signed list of servers alone.
fn may_read(store: &dyn Store, call: &Call, digest: &[u8]) -> Result<(), ApiError> {
    if call.peer.certified.is_none() {
        let policy = store.file(&TrustRole::Policy, None)?;
        let servers = policy.and_then(|file| placing::policy_target(&file.bytes, SERVERS));
        if servers.is_some_and(|servers| servers.sha256.as_bytes() == digest) {
            return Ok(());
        }
    }
    call.anyone(store)
}

fn missing(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    message: wire::MissingContentRequest,
) -> Result<wire::MissingContentReply, ApiError> {
    call.member(store, ANY_ROLE)?;
    if message.sha256.len() > MOST_ASKED {
        return Err(ApiError::Invalid(format!("one call asks for at most {MOST_ASKED} digests")));
    }
    let mut sha256 = Vec::new();
    for bytes in message.sha256 {
        if !shared.content.contains(Digest::from_bytes(&bytes)?)? {
            sha256.push(bytes);
        }
    }
    Ok(wire::MissingContentReply { sha256 })
}

/// The role that it takes to push a file.
pub(super) fn needed(role: &TrustRole) -> &'static [Role] {
    match role {
        TrustRole::Release(_) => &[Role::Publisher],
        TrustRole::Ring(..) => &[Role::Operator],
        TrustRole::Root
        | TrustRole::Targets
        | TrustRole::Policy
        | TrustRole::Snapshot
        | TrustRole::Timestamp
        | TrustRole::Other(_) => &[Role::Administrator],
    }
}

fn push_metadata(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    message: wire::PushMetadataRequest,
) -> Result<wire::PushMetadataReply, ApiError> {
    let pushed = take(shared, store, call, message, Purpose::Publish)?;
    settle_keys(shared, store)?;
    Ok(pushed.reply)
}

/// What a push is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It is stored.
    Publish,
    /// It is checked in the same way, and nothing is stored.
    Rehearse,
}

/// What became of a push.
#[derive(Clone)]
pub(crate) struct Taken {
    pub(crate) reply: wire::PushMetadataReply,
    /// What the server itself signs with it.
    pub(crate) fresh: Vec<wire::MetadataFile>,
}

pub(super) fn take(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    message: wire::PushMetadataRequest,
    purpose: Purpose,
) -> Result<Taken, ApiError> {
    let pushed = parse(message)?;
    let member = call.member(store, ANY_ROLE)?;
    for (role, _) in &pushed {
        member.needs(needed(role))?;
    }
    let name = member.to_string();
    let by = Publishing { who: call.who.clone(), name: &name, now: call.now };
    retry(shared, store, call.now, || {
        let (taken, commit, deeds) = publication(shared, store, &pushed, &by)?;
        Ok(match purpose {
            Purpose::Publish => (taken, commit, deeds),
            Purpose::Rehearse => (taken, Commit::new(), Vec::new()),
        })
    })
}

/// Whose publication it is.
pub(crate) struct Publishing<'a> {
    /// For the audit log.
    pub(crate) who: Actor,
    /// Audit name.
    pub(crate) name: &'a str,
    /// When.
    pub(crate) now: Timestamp,
}

/// Everything that publishing these files changes, checked as hosts would and against their documents.
pub(crate) fn publication(
    shared: &Shared,
    store: &dyn Store,
    pushed: &[(TrustRole, Vec<u8>)],
    by: &Publishing<'_>,
) -> Result<(Taken, Commit, Vec<Deed>), ApiError> {
    let held = store.newest_files()?;
    let before = Before {
        releases: store.all::<ReleaseRecord>()?,
        rings: store.all::<RingRecord>()?,
        plans: plan_rules(store)?,
    };
    let files: Stored =
        held.iter().map(|(role, file)| (role.clone(), file.bytes.clone())).collect();
    let published = published(&before);
    let remembered = |path: &str| published.get(path).copied();
    let named = repository::named_keys(&files, pushed);
    let freshness = shared.keys.freshness.for_ids(&named);
    let accepted = repository::accept(&files, pushed, &remembered, freshness, by.now)
        .map_err(|refused| who_was_faster(store, refused))?;
    let reply =
        wire::PushMetadataReply { snapshot: accepted.snapshot, timestamp: accepted.timestamp };
    if accepted.writes.is_empty() {
        return Ok((Taken { reply, fresh: Vec::new() }, Commit::new(), Vec::new()));
    }
    let fresh = fresh(&accepted.writes);
    // Roots of a fleet whose server was lost come before anything that rests on them.
    let roots_alone = accepted.timestamp == 0;
    if roots_alone {
        let deeds = deeds(by, &accepted.writes, &Records::default(), &before);
        return Ok((
            Taken { reply, fresh },
            commit(&held, accepted.writes, Records::default()),
            deeds,
        ));
    }
    let set = after(files, &accepted.writes)?;
    let roles: BTreeSet<TrustRole> = pushed.iter().map(|(role, _)| role.clone()).collect();
    let pusher = Pusher { who: by.name, now: by.now };
    let records = push::records(&shared.content, &set, &roles, &before, pusher)?;
    let mut deeds = deeds(by, &accepted.writes, &records, &before);
    let mut commit = commit(&held, accepted.writes, records);
    end_changes(store, by, pushed, &mut commit, &mut deeds)?;
    Ok((Taken { reply, fresh }, commit, deeds))
}

/// What each product's policy asks of change plans.
pub(super) fn plan_rules(store: &dyn Store) -> Result<BTreeMap<Product, PlanRules>, ApiError> {
    let policies = store.all::<RolloutPolicy>()?.into_iter();
    Ok(policies.map(|held| (held.value.product, held.value.plan)).collect())
}

/// Takes back what this server once published. Whoever is let in may give it: it proves itself.
fn offer_metadata(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    message: wire::OfferMetadataRequest,
) -> Result<wire::OfferMetadataReply, ApiError> {
    call.anyone(store)?;
    let wire::OfferMetadataRequest { files, snapshot, documents } = message;
    let offered = parse(wire::PushMetadataRequest { files })?;
    let who = call.who.to_string();
    retry(shared, store, call.now, || {
        let held = store.newest_files()?;
        let files: Stored =
            held.iter().map(|(role, file)| (role.clone(), file.bytes.clone())).collect();
        note_lacking(shared, &files, &snapshot);
        let version = |role: &TrustRole| held.get(role).map_or(0, |file| file.version);
        // What came back meanwhile, from another host, is no mistake of this one.
        let later: Vec<(TrustRole, Vec<u8>)> = offered
            .iter()
            .filter(|(role, bytes)| files.get(role) != Some(bytes))
            .cloned()
            .collect();
        let before = Before {
            releases: store.all::<ReleaseRecord>()?,
            rings: store.all::<RingRecord>()?,
            plans: BTreeMap::new(),
        };
        let published = published(&before);
        let remembered = |path: &str| published.get(path).copied();
        let named = repository::named_keys(&files, &later);
        let freshness = shared.keys.freshness.for_ids(&named);
        let back =
            repository::take_back(&files, &later, &snapshot, &remembered, freshness, call.now)?;
        if back.writes.is_empty() {
            let lacking = shared.healing.lacking(version);
            return Ok((
                wire::OfferMetadataReply { lacking: lines(lacking) },
                Commit::new(),
                vec![],
            ));
        }
        let set = after(files, &back.writes)?;
        keep_documents(shared, &set, &documents)?;
        let roles: BTreeSet<TrustRole> = later.iter().map(|(role, _)| role.clone()).collect();
        let by = Pusher { who: &who, now: call.now };
        let records = push::records(&shared.content, &set, &roles, &before, by)?;
        let by = Publishing { who: call.who.clone(), name: &who, now: call.now };
        let deeds = deeds(&by, &back.writes, &records, &before);
        let taken: BTreeMap<TrustRole, u64> = back
            .writes
            .iter()
            .filter_map(|write| match write {
                Write::Put { role, version, .. } => Some((role.clone(), *version)),
                Write::Delete { .. } => None,
            })
            .collect();
        let lacking = shared
            .healing
            .lacking(|role| taken.get(role).copied().unwrap_or_else(|| version(role)));
        let commit = commit(&held, back.writes, records);
        Ok((wire::OfferMetadataReply { lacking: lines(lacking) }, commit, deeds))
    })
}

/// Says what the server lacks, once for each file.
fn note_lacking(shared: &Shared, held: &Stored, snapshot: &[u8]) {
    // A snapshot that the server's own key did not sign says nothing.
    let lacking = repository::lacking(held, snapshot).unwrap_or_default();
    for (role, version) in shared.healing.note(&lacking) {
        warn!(
            %role, version,
            "hosts hold a later file than this server, which was put back to an older copy; it is asked for"
        );
    }
}

fn lines(lacking: BTreeMap<TrustRole, u64>) -> Vec<wire::HeldMetadata> {
    let line =
        |(role, version): (TrustRole, u64)| wire::HeldMetadata { role: role.to_string(), version };
    lacking.into_iter().map(line).collect()
}

/// Keeps the documents that the policy file names; others are nobody's.
fn keep_documents(
    shared: &Shared,
    set: &TrustedSet,
    documents: &[Vec<u8>],
) -> Result<(), ApiError> {
    let Some(policy) = set.delegated(&TrustRole::Policy) else { return Ok(()) };
    for target in policy.targets.values() {
        let Some(document) = documents.iter().find(|document| target.fits(document)) else {
            continue;
        };
        let digest = Digest::of(document);
        if !shared.content.contains(digest)? {
            let mut frame = Vec::new();
            package::compress(&mut document.as_slice(), &mut frame)
                .map_err(|error| ApiError::Invalid(error.to_string()))?;
            let mut upload = shared.content.begin(digest, document.len() as u64)?;
            upload.write(&frame)?;
            upload.finish()?;
        }
    }
    Ok(())
}

/// Where the push names the server's next key, that one is in use now.
pub(crate) fn settle_keys(shared: &Shared, store: &dyn Store) -> Result<(), ApiError> {
    let files = store.newest_files()?.into_iter().map(|(role, file)| (role, file.bytes)).collect();
    shared.keys.settle(&repository::named_keys(&files, &[]));
    Ok(())
}

/// What the server itself would sign.
fn fresh(writes: &[Write]) -> Vec<wire::MetadataFile> {
    let file = |write: &Write| match write {
        Write::Put { role: role @ (TrustRole::Snapshot | TrustRole::Timestamp), bytes, .. } => {
            Some(wire::MetadataFile { role: role.to_string(), file: bytes.clone() })
        }
        Write::Put { .. } | Write::Delete { .. } => None,
    };
    writes.iter().filter_map(file).collect()
}

/// Open changes of the roles that are published now have come to their end.
fn end_changes(
    store: &dyn Store,
    by: &Publishing<'_>,
    pushed: &[(TrustRole, Vec<u8>)],
    commit: &mut Commit,
    deeds: &mut Vec<Deed>,
) -> Result<(), ApiError> {
    let known = store.all::<OpenChange>()?;
    for (rev, ended) in changes::ended_by_push(&known, pushed, by.now) {
        let act = match ended.state {
            ChangeState::Published => "change publish",
            ChangeState::Open
            | ChangeState::Overtaken
            | ChangeState::Withdrawn
            | ChangeState::Lapsed => "change overtake",
        };
        let what = format!("{} {}", ended.role, ended.id.short());
        deeds.push(Deed::done(by.who.clone(), act, what));
        commit.doc(rev, ended);
    }
    Ok(())
}

fn parse(message: wire::PushMetadataRequest) -> Result<Vec<(TrustRole, Vec<u8>)>, ApiError> {
    if message.files.is_empty() || message.files.len() > repository::MAX_PUSHED {
        let text = format!("one push brings 1 to {} files", repository::MAX_PUSHED);
        return Err(ApiError::Invalid(text));
    }
    let mut files = Vec::with_capacity(message.files.len());
    for file in message.files {
        let role =
            TrustRole::parse(&file.role).map_err(|error| ApiError::Invalid(error.to_string()))?;
        files.push((role, file.file));
    }
    // Hosts walk every root, so each is stored. Of other roles they see the newest alone.
    if files.iter().filter(|(role, _)| *role == TrustRole::Root).count() > 1 {
        return Err(ApiError::Invalid("one push brings one root\nhelp: push them in turn".into()));
    }
    Ok(files)
}

/// Every release ever published, by the path that is signed.
fn published(before: &Before) -> BTreeMap<String, Digest> {
    let releases = before.releases.iter().map(|held| &held.value);
    releases
        .map(|release| (release_path(&release.product, &release.version), release.digest))
        .collect()
}

/// What the repository holds after the push, verified as a host would.
pub(crate) fn after(mut files: Stored, writes: &[Write]) -> Result<TrustedSet, ApiError> {
    for write in writes {
        write.clone().apply(&mut files);
    }
    let wanted: Vec<TrustRole> =
        files.keys().filter(|role| !role.is_top_level()).cloned().collect();
    let set = TrustedSet::load(&files, &wanted).map_err(Refused::from)?;
    Ok(set)
}

fn commit(held: &BTreeMap<TrustRole, SignedFile>, writes: Vec<Write>, records: Records) -> Commit {
    let mut commit = Commit::new();
    let newest: BTreeMap<TrustRole, (u64, Vec<u8>)> = writes
        .into_iter()
        .filter_map(|write| match write {
            Write::Put { role, version, bytes } => Some((role, (version, bytes))),
            // The server forgets no file; a push never asks for it.
            Write::Delete { .. } => None,
        })
        .collect();
    for (role, (version, bytes)) in newest {
        let replaces = held.get(&role).map_or(0, |file| file.version);
        commit.file(FileWrite { role, replaces, version, bytes });
    }
    commit.note(Note::Metadata);
    let products: BTreeSet<_> = records
        .releases
        .iter()
        .map(|(_, release)| &release.product)
        .chain(records.rings.iter().map(|(_, ring)| &ring.product))
        .cloned()
        .collect();
    for product in products {
        commit.note(Note::Product(product));
    }
    for (rev, release) in records.releases {
        commit.doc(rev, release);
    }
    for (rev, ring) in records.rings {
        commit.doc(rev, ring);
    }
    commit
}

fn deeds(by: &Publishing<'_>, writes: &[Write], records: &Records, before: &Before) -> Vec<Deed> {
    let deed = |act: &str, what: String| Deed::done(by.who.clone(), act, what);
    let pushes = writes.iter().filter_map(|write| match write {
        Write::Put { role: TrustRole::Snapshot | TrustRole::Timestamp, .. }
        | Write::Delete { .. } => None,
        Write::Put { role, version, .. } => Some(deed(PUSH, format!("{role} {version}"))),
    });
    let releases = records.releases.iter().map(|(rev, release)| {
        let act = match (*rev, release.withdrawn) {
            (0, _) => "release publish",
            (_, true) => "release withdraw",
            (_, false) => "release restore",
        };
        deed(act, format!("{} {}", release.product, release.version))
    });
    let promotions = records.rings.iter().filter_map(|(_, ring)| {
        let held = before.rings.iter().map(|held| &held.value);
        let same = |old: &RingRecord| {
            old.product == ring.product && old.ring == ring.ring && old.promotion == ring.promotion
        };
        let current = ring.current.as_ref().filter(|_| !held.into_iter().any(same))?;
        let what = format!("{} {} to {}", ring.product, current.version, ring.ring);
        Some(deed("release promote", what))
    });
    pushes.chain(releases).chain(promotions).collect()
}

/// Tells a second pusher who published what meanwhile. The audit log knows.
fn who_was_faster(store: &dyn Store, refused: Refused) -> ApiError {
    let Refused::Conflict { role, held, .. } = &refused else { return refused.into() };
    let (mut published_by, mut published_at) = (String::new(), String::new());
    let what = format!("{role} {held}");
    // Without the log the conflict is told all the same.
    let lines = store.audit_head().and_then(|head| {
        store.audit_after(head.length.saturating_sub(LOOK_BACK), LOOK_BACK as usize)
    });
    let found = lines
        .unwrap_or_default()
        .into_iter()
        .rev()
        .find(|line| line.entry().act == PUSH && line.entry().what == what);
    if let Some(line) = found {
        published_by = line.entry().who.to_string();
        published_at = line.entry().at.to_string();
    }
    let message = match published_by.is_empty() {
        true => refused.to_string(),
        false => format!("{refused}\n{role} {held} is by {published_by}, {published_at}"),
    };
    let conflict =
        wire::Conflict { role: role.to_string(), held_version: *held, published_by, published_at };
    ApiError::Stale { message, conflict: Some(conflict) }
}
