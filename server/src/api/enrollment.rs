//! How hosts, people and CI jobs get and renew their certificates. Who may is decided in
//! `crate::enrollment`; certificates are made by the authority.

use std::collections::{BTreeMap, BTreeSet};

use refit_proto::{
    names::{HostId, HostName, Labels, Platform},
    wire::{self, enrollment_server::Enrollment},
};
use tonic::{Request, Response, Status};

use super::{
    Api, ApiError, Shared,
    admin::read_labels,
    call::{Call, retry},
};
use crate::{
    access::{self, Refusal},
    audit::Deed,
    ca::RequestedKey,
    enrollment::{self, EnrollmentError, HostRequest},
    fleet::{Actor, Person, Readmission, ReportKey, RingRecord, TokenRecord},
    identity::{Caller, Certified},
    placing,
    store::{Commit, Note, Reads as _, Rev, Store},
};

#[tonic::async_trait]
impl Enrollment for Api {
    async fn enroll(
        &self,
        request: Request<wire::EnrollRequest>,
    ) -> Result<Response<wire::EnrollReply>, Status> {
        let mut call = Call::begin(&self.0, &request, "host enroll")?;
        let message = request.into_inner();
        call.who = holder(message.token.as_ref());
        let call = call.about(&message.name);
        self.act(call, move |shared, store, call| enroll(shared, store, call, &message)).await
    }

    async fn login(
        &self,
        request: Request<wire::LoginRequest>,
    ) -> Result<Response<wire::LoginReply>, Status> {
        let mut call = Call::begin(&self.0, &request, "person login")?;
        let message = request.into_inner();
        call.who = holder(message.token.as_ref());
        self.act(call, move |shared, store, call| log_in(shared, store, call, &message)).await
    }

    async fn renew(
        &self,
        request: Request<wire::RenewRequest>,
    ) -> Result<Response<wire::RenewReply>, Status> {
        let call = Call::begin(&self.0, &request, "certificate renew")?;
        let message = request.into_inner();
        self.act(call, move |shared, store, call| renew(shared, store, call, &message)).await
    }
}

/// Whoever shows a token has no other name yet.
fn holder(proof: Option<&wire::TokenProof>) -> Actor {
    match proof {
        Some(proof) => Actor::Token(shown(&proof.token_id)),
        None => Actor::Unknown,
    }
}

/// A token's id as logs repeat it: it may be anything that a stranger sends.
fn shown(id: &str) -> String {
    id.chars().filter(char::is_ascii_alphanumeric).take(64).collect()
}

/// The token that a proof names, with the use of this key; and whether that has to be stored.
fn admit(
    store: &dyn Store,
    call: &Call,
    proof: Option<&wire::TokenProof>,
    key: &RequestedKey,
) -> Result<(Rev<TokenRecord>, bool), ApiError> {
    let proof = proof.ok_or(EnrollmentError::UnknownToken)?;
    let known = shown(&proof.token_id) == proof.token_id;
    let held = match known {
        true => store.read::<TokenRecord>(proof.token_id.clone())?,
        false => None,
    };
    let (rev, record) = held.map_or((0, None), |held| (held.rev, Some(held.value)));
    let admission = enrollment::admit(record, &proof.secret, key.digest(), call.now)?;
    Ok((Rev { rev, value: admission.token }, admission.changed))
}

fn enroll(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    message: &wire::EnrollRequest,
) -> Result<wire::EnrollReply, ApiError> {
    let key = RequestedKey::parse(&message.certificate_request)?;
    let id = key.host_id();
    let name = HostName::parse(&message.name)?;
    let platform = Platform::parse(&message.platform)?;
    let report_key = ReportKey::from_bytes(&message.report_key)?;
    let request = HostRequest { id: id.clone(), name, platform, report_key };
    retry(shared, store, call.now, || {
        let (token, changed) = admit(store, call, message.token.as_ref(), &key)?;
        let terms = enrollment::host_terms(&token.value)?;
        let before = store.host(&id)?;
        let holder = store.host_named(&request.name)?;
        let caller = Caller::Host(id.clone());
        let (authority, life) = (shared.keys.authorities.shown(), shared.settings.host_life);
        let issued = authority.issue(&key, &caller, &BTreeSet::new(), call.now, life)?;
        let host = enrollment::enroll_host(
            request.clone(),
            &token.value.id,
            terms.labels.clone(),
            before.as_ref().map(|held| &held.value),
            holder.as_ref().map(|held| &held.value),
            issued.record,
            call.now,
        )?;
        let reply = wire::EnrollReply {
            host_id: id.to_string(),
            certificates: issued.chain,
            labels: words(&terms.labels),
            root_sha256: terms.root_sha256.to_string(),
        };
        let mut commit = Commit::new();
        if changed {
            commit.doc(token.rev, token.value);
        }
        let fresh_chain =
            before.as_ref().is_some_and(|held| held.value.report_key != host.report_key);
        let rings = store.all::<RingRecord>()?;
        let labels = shared.labels.read(store, &shared.content)?;
        placing::place_host(store, &rings, &labels, &host, fresh_chain, call.now, &mut commit)?;
        commit.note(Note::Host(id.clone()));
        commit.host(before.map_or(0, |held| held.rev), host);
        Ok((reply, commit, call.done()))
    })
}

fn log_in(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    message: &wire::LoginRequest,
) -> Result<wire::LoginReply, ApiError> {
    let key = RequestedKey::parse(&message.certificate_request)?;
    retry(shared, store, call.now, || {
        let (token, changed) = admit(store, call, message.token.as_ref(), &key)?;
        let terms = enrollment::person_terms(&token.value)?;
        let before = store.read::<Person>(terms.name.clone())?;
        let caller = Caller::Person { name: terms.name.clone(), kind: terms.kind };
        let roles: BTreeSet<_> = terms.roles.iter().copied().collect();
        let (authority, life) = (shared.keys.authorities.shown(), shared.settings.person_life);
        let issued = authority.issue(&key, &caller, &roles, call.now, life)?;
        let record = before.as_ref().map(|held| &held.value);
        let person = enrollment::log_in(terms, &token.value, record, issued.record, call.now)?;
        let reply = wire::LoginReply {
            name: person.name.to_string(),
            roles: roles.iter().map(ToString::to_string).collect(),
            certificates: issued.chain,
        };
        let mut commit = Commit::new();
        if changed {
            commit.doc(token.rev, token.value);
        }
        commit.doc(before.map_or(0, |held| held.rev), person);
        Ok((reply, commit, call.clone().about(caller.to_string()).done()))
    })
}

/// The one call that an expired certificate may make.
fn renew(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    message: &wire::RenewRequest,
) -> Result<wire::RenewReply, ApiError> {
    let certified = call.peer.certified.as_ref().ok_or(Refusal::NoCertificate)?;
    let key = RequestedKey::parse(&message.certificate_request)?;
    if key.digest() != certified.key {
        return Err(EnrollmentError::OtherKey.into());
    }
    let unknown = || ApiError::from(Refusal::Unknown(certified.caller.to_string()));
    let issue = |roles: &BTreeSet<_>, life| {
        shared.keys.authorities.issuing().issue(&key, &certified.caller, roles, call.now, life)
    };
    retry(shared, store, call.now, || {
        let mut commit = Commit::new();
        let chain = match &certified.caller {
            Caller::Host(id) => {
                let held = store.host(id)?;
                if held.is_none() {
                    let renewing = Renewing { key: &key, certified, about: message.about.as_ref() };
                    return readmit(shared, store, call, id, &renewing);
                }
                access::let_host_in(certified, held.as_ref().map(|held| &held.value))?;
                let Rev { rev, value: mut host } = held.ok_or_else(unknown)?;
                let issued = issue(&BTreeSet::new(), shared.settings.host_life)?;
                host.certificate = issued.record;
                commit.host(rev, host);
                issued.chain
            }
            Caller::Person { name, .. } => {
                let held = store.read::<Person>(name.clone())?;
                access::let_person_in(certified, held.as_ref().map(|held| &held.value))?;
                let Rev { rev, value: mut person } = held.ok_or_else(unknown)?;
                let roles = person.roles.iter().copied().collect();
                let issued = issue(&roles, shared.settings.person_life)?;
                person.certificate = issued.record;
                commit.doc(rev, person);
                issued.chain
            }
            Caller::Nobody => return Err(Refusal::NoCertificate.into()),
        };
        Ok((wire::RenewReply { certificates: chain }, commit, call.done()))
    })
}

/// A renewal by a host that this server has no record of.
struct Renewing<'a> {
    key: &'a RequestedKey,
    certified: &'a Certified,
    about: Option<&'a wire::HostAbout>,
}

/// Takes a host back whose record was lost, if an administrator has opened the way for it.
fn readmit(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    id: &HostId,
    renewing: &Renewing<'_>,
) -> Result<(wire::RenewReply, Commit, Vec<Deed>), ApiError> {
    let Renewing { key, certified, about } = *renewing;
    let held = store.read::<Readmission>(())?;
    let opened = held.as_ref().map(|held| &held.value);
    let open = enrollment::may_return(certified, id, &key.host_id(), opened, call.now)?;
    let (Some(open), Some(held)) = (open, &held) else {
        return Err(Refusal::Unknown(certified.caller.to_string()).into());
    };
    let about = about.ok_or(EnrollmentError::SaysNothing)?;
    let request = HostRequest {
        id: id.clone(),
        name: HostName::parse(&about.name)?,
        platform: Platform::parse(&about.platform)?,
        report_key: ReportKey::from_bytes(&about.report_key)?,
    };
    let labels = read_labels(&about.labels)?;
    let holder = store.host_named(&request.name)?;
    let life = shared.settings.host_life;
    let authority = shared.keys.authorities.issuing();
    let issued = authority.issue(key, &certified.caller, &BTreeSet::new(), call.now, life)?;
    let deed = Deed::done(call.who.clone(), "host readmit", format!("{} {id}", request.name));
    let host = enrollment::enroll_host(
        request,
        &format!("readmission by {}", open.opened_by),
        labels,
        None,
        holder.as_ref().map(|held| &held.value),
        issued.record,
        call.now,
    )?;
    let mut commit = Commit::new();
    let rings = store.all::<RingRecord>()?;
    let central = shared.labels.read(store, &shared.content)?;
    placing::place_host(store, &rings, &central, &host, false, call.now, &mut commit)?;
    commit.note(Note::Host(id.clone()));
    commit.host(0, host);
    commit.doc(held.rev, Readmission { hosts: open.hosts + 1, ..open.clone() });
    Ok((wire::RenewReply { certificates: issued.chain }, commit, vec![deed]))
}

fn words(labels: &Labels) -> BTreeMap<String, String> {
    labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}
