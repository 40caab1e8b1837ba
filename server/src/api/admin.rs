//! What people and CI jobs may do, each with the role that it takes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use refit_proto::{
    envelope,
    names::{Digest, HostId, HostName, Labels, PersonName, Product, RingName},
    trust::repository::named_keys,
    wire::{self, admin_server::Admin, create_token_request::Subject},
};
use tonic::{Request, Response, Status};

use super::{
    Api, ApiError, Shared, bundle,
    call::{Call, retry},
    readmission,
};
use crate::{
    access::ANY_ROLE,
    authorities::Standing,
    fleet::{
        BackupCheck, Host, HostState, PolicyError, Rollout, RolloutPolicy, TokenRecord,
        TokenSubject, changes,
    },
    identity::Role,
    planning,
    product_view::{ProductNow, RingNow},
    rollout,
    store::{Commit, HostQuery, Note, Reads as _, Rev, Store},
};

pub(super) const ADMINISTRATOR: &[Role] = &[Role::Administrator];
const OPERATOR: &[Role] = &[Role::Operator];

/// Uses of one token: each is remembered, so that its key may come again after a lost answer.
const MOST_USES: u32 = 1_000;
/// Entries of the audit log in one answer.
const MOST_ENTRIES: u32 = 1000;
/// Longest reason that a person gives.
const LONGEST_REASON: usize = 500;
/// Labels of one host: far above any use.
const MOST_LABELS: usize = 64;

#[tonic::async_trait]
impl Admin for Api {
    async fn create_token(
        &self,
        request: Request<wire::CreateTokenRequest>,
    ) -> Result<Response<wire::CreateTokenReply>, Status> {
        let call = Call::begin(&self.0, &request, "token create")?;
        let message = request.into_inner();
        let call = call.about(token_title(&message));
        self.act(call, move |shared, store, call| create_token(shared, store, call, &message)).await
    }

    async fn revoke_host(
        &self,
        request: Request<wire::HostRequest>,
    ) -> Result<Response<wire::HostReply>, Status> {
        let call = Call::begin(&self.0, &request, "host revoke")?;
        let message = request.into_inner();
        let call = call.about(format!("{} {}", message.host, message.reason));
        self.act(call, move |shared, store, call| {
            bar(shared, store, call, &message, HostState::Revoked)
        })
        .await
    }

    async fn retire_host(
        &self,
        request: Request<wire::HostRequest>,
    ) -> Result<Response<wire::HostReply>, Status> {
        let call = Call::begin(&self.0, &request, "host retire")?;
        let message = request.into_inner();
        let call = call.about(format!("{} {}", message.host, message.reason));
        self.act(call, move |shared, store, call| {
            bar(shared, store, call, &message, HostState::Retired)
        })
        .await
    }

    async fn verify_backup(
        &self,
        request: Request<wire::VerifyBackupRequest>,
    ) -> Result<Response<wire::VerifyBackupReply>, Status> {
        let call = Call::begin(&self.0, &request, "backup verify")?;
        let message = request.into_inner();
        let call = call.about(format!("{} {}", message.host, message.backup));
        self.act(call, move |shared, store, call| verify_backup(shared, store, call, &message))
            .await
    }

    async fn get_server_keys(
        &self,
        request: Request<wire::GetServerKeysRequest>,
    ) -> Result<Response<wire::GetServerKeysReply>, Status> {
        let call = Call::begin(&self.0, &request, "server keys")?;
        self.read(call, |shared, store, call| {
            call.member(store, ANY_ROLE)?;
            let text = |json: Vec<u8>| String::from_utf8_lossy(&json).into_owned();
            let files = store.newest_files()?.into_iter();
            let held = files.map(|(role, file)| (role, file.bytes)).collect();
            let keys = shared.keys.public(&named_keys(&held, &[])).into_iter();
            let keys = keys.map(|(name, key)| (name.to_owned(), text(key.to_json()))).collect();
            let authorities = authorities(shared, store)?;
            let readmission = readmission::status(store, call.now)?;
            Ok(wire::GetServerKeysReply { keys, authorities, readmission })
        })
        .await
    }

    async fn get_rollout_policy(
        &self,
        request: Request<wire::GetRolloutPolicyRequest>,
    ) -> Result<Response<wire::GetRolloutPolicyReply>, Status> {
        let call = Call::begin(&self.0, &request, "policy read")?;
        let product = request.into_inner().product;
        self.read(call, move |_, store, call| {
            call.member(store, ANY_ROLE)?;
            let policy = store.read::<RolloutPolicy>(Product::parse(&product)?)?;
            Ok(wire::GetRolloutPolicyReply { policy: policy.map(|held| held.value.into()) })
        })
        .await
    }

    async fn set_rollout_policy(
        &self,
        request: Request<wire::SetRolloutPolicyRequest>,
    ) -> Result<Response<wire::SetRolloutPolicyReply>, Status> {
        let call = Call::begin(&self.0, &request, "policy set")?;
        let message = request.into_inner();
        let product = message.policy.as_ref().map(|policy| policy.product.as_str());
        let call = call.about(product.unwrap_or_default());
        self.act(call, move |shared, store, call| set_policy(shared, store, call, message)).await
    }

    async fn sign_for_bundle(
        &self,
        request: Request<wire::SignForBundleRequest>,
    ) -> Result<Response<wire::SignForBundleReply>, Status> {
        let call = Call::begin(&self.0, &request, bundle::SIGN)?;
        let message = request.into_inner();
        let call = call.about(&message.what);
        self.act(call, move |shared, store, call| bundle::sign(shared, store, call, &message)).await
    }

    async fn open_readmission(
        &self,
        request: Request<wire::OpenReadmissionRequest>,
    ) -> Result<Response<wire::OpenReadmissionReply>, Status> {
        let call = Call::begin(&self.0, &request, readmission::OPEN)?;
        let message = request.into_inner();
        let call = call.about(readmission::title(&message));
        self.act(call, move |shared, store, call| readmission::open(shared, store, call, &message))
            .await
    }

    async fn close_readmission(
        &self,
        request: Request<wire::CloseReadmissionRequest>,
    ) -> Result<Response<wire::CloseReadmissionReply>, Status> {
        let call = Call::begin(&self.0, &request, readmission::CLOSE)?;
        self.act(call, readmission::close).await
    }

    async fn pause_rollout(
        &self,
        request: Request<wire::RolloutRequest>,
    ) -> Result<Response<wire::RolloutReply>, Status> {
        let call = Call::begin(&self.0, &request, "rollout pause")?;
        self.steer(call, request.into_inner(), Wheel::Pause).await
    }

    async fn resume_rollout(
        &self,
        request: Request<wire::RolloutRequest>,
    ) -> Result<Response<wire::RolloutReply>, Status> {
        let call = Call::begin(&self.0, &request, "rollout resume")?;
        self.steer(call, request.into_inner(), Wheel::Resume).await
    }

    async fn rollback_rollout(
        &self,
        request: Request<wire::RolloutRequest>,
    ) -> Result<Response<wire::RolloutReply>, Status> {
        let call = Call::begin(&self.0, &request, "rollout rollback")?;
        self.steer(call, request.into_inner(), Wheel::Rollback).await
    }

    async fn list_audit(
        &self,
        request: Request<wire::ListAuditRequest>,
    ) -> Result<Response<wire::ListAuditReply>, Status> {
        let call = Call::begin(&self.0, &request, "audit list")?;
        let message = request.into_inner();
        self.read(call, move |shared, store, call| list_audit(shared, store, call, &message)).await
    }
}

/// What a person does to a rollout.
#[derive(Debug, Clone, Copy)]
enum Wheel {
    Pause,
    Resume,
    Rollback,
}

impl Api {
    async fn steer(
        &self,
        call: Call,
        message: wire::RolloutRequest,
        wheel: Wheel,
    ) -> Result<Response<wire::RolloutReply>, Status> {
        let call = call.about(format!("{} {} {}", message.product, message.ring, message.reason));
        self.act(call, move |shared, store, call| steer(shared, store, call, &message, wheel)).await
    }
}

/// Each authority with the active hosts whose newest certificate is from it. Reads every host: people
/// ask this while they replace an authority, and not otherwise.
fn authorities(shared: &Shared, store: &dyn Store) -> Result<Vec<wire::AuthorityStatus>, ApiError> {
    let mut hosts = BTreeMap::<Option<Digest>, u64>::new();
    let mut after = None;
    loop {
        let listed = store.find(&HostQuery::default(), after.as_ref(), HOSTS)?;
        let active = listed.rows.iter().map(|row| &row.host.value);
        for host in active.filter(|host| host.state == HostState::Active) {
            *hosts.entry(host.certificate.authority).or_default() += 1;
        }
        match listed.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let mut statuses = Vec::new();
    for (sha256, standing) in shared.keys.authorities.standings() {
        let known = hosts.remove(&Some(sha256)).unwrap_or(0);
        // Records from before authorities were noted are of the oldest one.
        let unknown =
            if standing == Standing::Issues { 0 } else { hosts.remove(&None).unwrap_or(0) };
        statuses.push(wire::AuthorityStatus {
            sha256: sha256.as_bytes().to_vec(),
            standing: standing.word().to_owned(),
            hosts: known + unknown,
        });
    }
    Ok(statuses)
}

/// Hosts that are read at a time.
const HOSTS: usize = 1000;

fn create_token(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    message: &wire::CreateTokenRequest,
) -> Result<wire::CreateTokenReply, ApiError> {
    let member = call.member(store, ADMINISTRATOR)?;
    let record = token_record(message, member.to_string(), call.now)?;
    let ca_certificate = shared.keys.authorities.shown().certificate().to_vec();
    let reply = wire::CreateTokenReply { ca_certificate };
    retry(shared, store, call.now, || {
        let mut commit = Commit::new();
        match store.read::<TokenRecord>(record.id.clone())? {
            None => commit.doc(0, record.clone()),
            // The answer was lost, and the call came again.
            Some(held) if same_token(&held.value, &record) => {
                return Ok((reply.clone(), Commit::new(), Vec::new()));
            }
            Some(_) => {
                let text = format!("there is a token {} already\nhelp: make a new one", record.id);
                return Err(ApiError::Invalid(text));
            }
        };
        Ok((reply.clone(), commit, call.done()))
    })
}

fn bar(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    message: &wire::HostRequest,
    state: HostState,
) -> Result<wire::HostReply, ApiError> {
    call.member(store, ADMINISTRATOR)?;
    one_line(&message.reason)?;
    let reply = retry(shared, store, call.now, || {
        let Rev { rev, value: mut host } = find_host(store, &message.host)?;
        let reply = wire::HostReply { host_id: host.id.to_string(), name: host.name.to_string() };
        match host.state {
            held if held == state => return Ok((reply, Commit::new(), Vec::new())),
            HostState::Retired => {
                return Err(ApiError::Invalid(format!("host {} is retired already", host.name)));
            }
            HostState::Active | HostState::Shared | HostState::Revoked => host.state = state,
        }
        let mut commit = Commit::new();
        for held in store.placements(&host.id)? {
            let left = rollout::leave(&held.value, call.now).placement;
            match state {
                HostState::Retired => {
                    // In no ring, and in no cell: gone from every count.
                    let gone = rollout::place(&left, None, call.now).placement;
                    commit.tally.extend(changes(Some(&held.value), None));
                    commit.placements.push((held.rev, gone));
                }
                HostState::Revoked | HostState::Active | HostState::Shared => {
                    commit.placement(Some(&held), left);
                }
            }
        }
        commit.note(Note::Host(host.id.clone()));
        commit.host(rev, host);
        Ok((reply, commit, call.done()))
    })?;
    shared.troubles.changed();
    Ok(reply)
}

/// Asks a host to read a backup again, in place of what was asked of that backup before.
fn verify_backup(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    message: &wire::VerifyBackupRequest,
) -> Result<wire::VerifyBackupReply, ApiError> {
    call.member(store, OPERATOR)?;
    retry(shared, store, call.now, || {
        let Rev { rev, value: mut host } = find_host(store, &message.host)?;
        if !host.backups.iter().any(|backup| backup.id() == message.backup) {
            let name = &host.name;
            return Err(ApiError::NotFound(format!(
                "{name} has reported no such backup\nhelp: `refit host backup list {name}` shows those that it has"
            )));
        }
        let asked = call.now.to_string();
        host.verify.retain(|check| check.backup != message.backup);
        host.verify.push(BackupCheck { backup: message.backup.clone(), asked: asked.clone() });
        let (host_id, name) = (host.id.to_string(), host.name.to_string());
        let reply = wire::VerifyBackupReply { host_id, name, asked };
        let mut commit = Commit::new();
        commit.host(rev, host);
        Ok((reply, commit, call.done()))
    })
}

/// A host by its id or name.
///
/// # Errors
/// If there is none.
pub(crate) fn find_host(store: &dyn Store, text: &str) -> Result<Rev<Host>, ApiError> {
    let by_id = match HostId::parse(text) {
        Ok(id) => store.host(&id)?,
        Err(_) => None,
    };
    let found = match by_id {
        Some(host) => Some(host),
        None => store.host_named(&HostName::parse(text)?)?,
    };
    found.ok_or_else(|| {
        ApiError::NotFound(format!("there is no host {text}\nhelp: `refit host list` shows them"))
    })
}

fn set_policy(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    message: wire::SetRolloutPolicyRequest,
) -> Result<wire::SetRolloutPolicyReply, ApiError> {
    call.member(store, ADMINISTRATOR)?;
    let policy =
        message.policy.ok_or_else(|| ApiError::Invalid("the call brings no policy".into()))?;
    let mut policy = RolloutPolicy::try_from(policy)?;
    if let Some(name) = policy.hours.zone_names().find(|name| TimeZone::get(name).is_err()) {
        return Err(PolicyError::Zone(name.to_owned()).into());
    }
    let replaces = message.replaces_revision;
    policy.revision = replaces.saturating_add(1);
    let reply = wire::SetRolloutPolicyReply { revision: policy.revision };
    retry(shared, store, call.now, || {
        let held = store.read::<RolloutPolicy>(policy.product.clone())?;
        let revision = held.as_ref().map_or(0, |held| held.value.revision);
        policy.hours_changed_at = match &held {
            Some(held) if held.value.hours == policy.hours => held.value.hours_changed_at,
            None if policy.hours.is_empty() => None,
            Some(_) | None => Some(call.now),
        };
        // The answer was lost, and the call came again.
        if held.as_ref().is_some_and(|held| held.value == policy) {
            return Ok((reply, Commit::new(), Vec::new()));
        }
        if revision != replaces {
            let message = format!(
                "the policy of {} has revision {revision}, not {replaces}: somebody changed it meanwhile\n\
                 help: run `refit apply` again to see what it would change now",
                policy.product
            );
            return Err(ApiError::Stale { message, conflict: None });
        }
        let mut commit = Commit::new();
        commit.note(Note::Product(policy.product.clone()));
        commit.doc(held.map_or(0, |held| held.rev), policy.clone());
        Ok((reply, commit, call.done()))
    })
}

fn steer(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    message: &wire::RolloutRequest,
    wheel: Wheel,
) -> Result<wire::RolloutReply, ApiError> {
    let member = call.member(store, OPERATOR)?;
    let (product, ring) = (Product::parse(&message.product)?, RingName::parse(&message.ring)?);
    let reason = one_line(&message.reason)?;
    let deed = |held: &Rev<Rollout>, ring: &RingNow, withdrawn: &[Digest]| match wheel {
        Wheel::Pause => rollout::pause(&held.value, &member.to_string(), reason, call.now),
        Wheel::Resume => rollout::resume(&held.value, call.now),
        Wheel::Rollback => rollout::roll_back(&held.value, &ring.ring.value, withdrawn, call.now),
    };
    loop {
        let reply = retry(shared, store, call.now, || {
            let views = ProductNow::read_all(store)?;
            let view = views.iter().find(|view| view.product == product);
            let Some((view, ring)) = view.and_then(|view| Some((view, view.ring(&ring)?))) else {
                let text =
                    format!("{product} has no ring {ring}\nhelp: `refit status` shows the rings");
                return Err(ApiError::NotFound(text));
            };
            // What everybody is shown is the plan; a person acts on just that, so it is stored first.
            let plan = view.plan(shared.listening_since, call.now, |_| Vec::new());
            if !plan.is_empty() {
                let (commit, deeds) = planning::commit(view, &plan, &[]);
                return Ok((None, commit, deeds));
            }
            let Some(held) = &ring.rollout else {
                let ring = &ring.ring.value.ring;
                let text = format!(
                    "nothing was ever promoted to {product} {ring}\n\
                     help: `refit release promote` permits a release there"
                );
                return Err(ApiError::NotFound(text));
            };
            let after = deed(held, ring, &view.withdrawn)?;
            let reply = wire::RolloutReply {
                rollout_id: after.id.to_string(),
                state: after.word().to_owned(),
            };
            let mut commit = Commit::new();
            if after != held.value {
                commit.note(Note::Rollout(after.id.clone()));
                commit.doc(held.rev, after);
            }
            Ok((Some(reply), commit, call.done()))
        })?;
        // After a plan was stored, planning again at the same time gives none.
        if let Some(reply) = reply {
            return Ok(reply);
        }
    }
}

fn list_audit(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    message: &wire::ListAuditRequest,
) -> Result<wire::ListAuditReply, ApiError> {
    call.member(store, ANY_ROLE)?;
    let limit = match message.limit {
        0 => MOST_ENTRIES,
        limit => limit.min(MOST_ENTRIES),
    };
    // The entries first: what is written meanwhile then makes the checkpoint longer, never shorter.
    let lines = store.audit_after(message.after, limit as usize)?;
    let head = store.audit_head()?;
    let hash = head.hash.map_or(Vec::new(), |hash| hash.as_bytes().to_vec());
    let at = call.now.to_string();
    let checkpoint = wire::AuditCheckpoint { length: head.length, hash, at, ..Default::default() };
    let checkpoint = envelope::seal(&checkpoint, &shared.keys.audit)
        .map_err(|error| ApiError::Internal(error.to_string()))?;
    let entries = lines.iter().map(|line| wire::AuditEntry {
        sequence: line.entry().sequence,
        body: line.body().to_vec(),
        hash: line.hash().as_bytes().to_vec(),
    });
    Ok(wire::ListAuditReply { entries: entries.collect(), checkpoint: Some(checkpoint) })
}

pub(super) fn one_line(text: &str) -> Result<&str, ApiError> {
    if text.len() > LONGEST_REASON || text.chars().any(char::is_control) {
        let rule = format!("the reason must be one line of at most {LONGEST_REASON} bytes");
        return Err(ApiError::Invalid(rule));
    }
    Ok(text.trim())
}

fn same_token(held: &TokenRecord, asked: &TokenRecord) -> bool {
    held.secret_sha256 == asked.secret_sha256
        && held.subject == asked.subject
        && held.expires == asked.expires
        && held.created_by == asked.created_by
}

fn token_title(token: &wire::CreateTokenRequest) -> String {
    let id = &token.token_id;
    match &token.subject {
        Some(Subject::Host(host)) => {
            let labels: Vec<_> =
                host.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("{id} for {} hosts {}", token.uses, labels.join(" "))
        }
        Some(Subject::Person(person)) => {
            format!("{id} for {} {}: {}", person.kind, person.name, person.roles.join(" "))
        }
        None => id.clone(),
    }
}

fn token_record(
    message: &wire::CreateTokenRequest,
    created_by: String,
    now: jiff::Timestamp,
) -> Result<TokenRecord, ApiError> {
    let invalid = |text: &str| ApiError::Invalid(text.to_owned());
    let id = &message.token_id;
    if !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) || !(16..=64).contains(&id.len()) {
        return Err(invalid("a token's id must be 16 to 64 letters and digits"));
    }
    let expires = message
        .expires
        .parse()
        .map_err(|_| invalid("the token's end must be a time such as 2030-01-31T12:00:00Z"))?;
    if expires <= now {
        return Err(invalid("the token would have expired already"));
    }
    let (subject, most) = match &message.subject {
        Some(Subject::Host(host)) => (host_subject(host)?, MOST_USES),
        // A person has one key.
        Some(Subject::Person(person)) => (person_subject(person)?, 1),
        None => return Err(invalid("the token is for nobody")),
    };
    if !(1..=most).contains(&message.uses) {
        return Err(ApiError::Invalid(format!("such a token has 1 to {most} uses")));
    }
    Ok(TokenRecord {
        id: id.clone(),
        secret_sha256: Digest::from_bytes(&message.secret_sha256)?,
        subject,
        uses_left: message.uses,
        used_by: Vec::new(),
        expires,
        created_by,
        created_at: now,
    })
}

fn host_subject(host: &wire::HostSubject) -> Result<TokenSubject, ApiError> {
    let labels = read_labels(&host.labels)?;
    Ok(TokenSubject::Host { labels, root_sha256: Digest::parse(&host.root_sha256)? })
}

/// Labels as the wire carries them.
pub(super) fn read_labels(words: &BTreeMap<String, String>) -> Result<Labels, ApiError> {
    if words.len() > MOST_LABELS {
        return Err(ApiError::Invalid(format!("a host has at most {MOST_LABELS} labels")));
    }
    let mut labels = Labels::new();
    for (name, value) in words {
        labels.insert(name.parse()?, value.parse()?);
    }
    Ok(labels)
}

fn person_subject(person: &wire::PersonSubject) -> Result<TokenSubject, ApiError> {
    let invalid = |error: crate::identity::IdentityError| ApiError::Invalid(error.to_string());
    let roles: Result<BTreeSet<Role>, _> =
        person.roles.iter().map(|role| role.parse().map_err(invalid)).collect();
    let roles: Vec<Role> = roles?.into_iter().collect();
    if roles.is_empty() {
        return Err(ApiError::Invalid("a person without a role may do nothing".into()));
    }
    let kind = person.kind.parse().map_err(invalid)?;
    Ok(TokenSubject::Person { name: PersonName::parse(&person.name)?, kind, roles })
}
