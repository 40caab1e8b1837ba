//! Changes that wait for signatures, and the server's next keys: each call by a person, and on record.

use refit_proto::{
    trust::{
        Role as TrustRole,
        change::{ChangeFile, SignatureLine},
        repository,
        set::Stored,
    },
    wire::{self, changes_server::Changes},
};
use tonic::{Request, Response, Status};

use super::{
    Api, ApiError, Shared,
    call::{Call, retry},
    repository::{Purpose, needed, plan_rules, take},
};
use crate::{
    access::ANY_ROLE,
    audit::Deed,
    changes::{self, Held, Refused},
    fleet::{ChangeState, OpenChange, RingRecord},
    identity::Role,
    promotion,
    store::{Commit, Note, Reads as _, Rev, Store},
};

/// Whoever may act in some way may sign: the signature proves itself.
const SIGNERS: &[Role] = &[Role::Administrator, Role::Publisher, Role::Operator, Role::Approver];
const ADMINISTRATOR: &[Role] = &[Role::Administrator];
/// Signatures in one call.
const MOST_LINES: usize = 64;

#[tonic::async_trait]
impl Changes for Api {
    async fn propose_change(
        &self,
        request: Request<wire::ProposeChangeRequest>,
    ) -> Result<Response<wire::ChangeReply>, Status> {
        let call = Call::begin(&self.0, &request, "change propose")?;
        let bytes = request.into_inner().change;
        let roles = ChangeFile::from_bytes(&bytes)
            .map(|change| change.roles().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        let call = call.about(roles.unwrap_or_default());
        self.act(call, move |shared, store, call| propose(shared, store, call, &bytes)).await
    }

    async fn sign_change(
        &self,
        request: Request<wire::SignChangeRequest>,
    ) -> Result<Response<wire::ChangeReply>, Status> {
        let call = Call::begin(&self.0, &request, "change sign")?;
        let message = request.into_inner();
        let call = call.about(&message.role);
        self.act(call, move |shared, store, call| sign(shared, store, call, &message)).await
    }

    async fn withdraw_change(
        &self,
        request: Request<wire::WithdrawChangeRequest>,
    ) -> Result<Response<wire::ChangeReply>, Status> {
        let call = Call::begin(&self.0, &request, "change withdraw")?;
        let message = request.into_inner();
        let call = call.about(format!("{} {}", message.role, message.reason));
        self.act(call, move |shared, store, call| withdraw(shared, store, call, &message)).await
    }

    async fn get_change(
        &self,
        request: Request<wire::GetChangeRequest>,
    ) -> Result<Response<wire::ChangeReply>, Status> {
        let call = Call::begin(&self.0, &request, "change read")?;
        let role = request.into_inner().role;
        self.read(call, move |_, store, call| {
            call.member(store, ANY_ROLE)?;
            let known = store.all::<OpenChange>()?;
            let (open, _) = changes::of(&known, &parse(&role)?, call.now)?;
            reply(&open.value, call)
        })
        .await
    }

    async fn rehearse_push(
        &self,
        request: Request<wire::PushMetadataRequest>,
    ) -> Result<Response<wire::RehearsePushReply>, Status> {
        let call = Call::begin(&self.0, &request, "metadata rehearse")?;
        let message = request.into_inner();
        self.read(call, move |shared, store, call| {
            let taken = take(shared, store, call, message, Purpose::Rehearse)?;
            Ok(wire::RehearsePushReply { snapshot: taken.reply.snapshot, files: taken.fresh })
        })
        .await
    }

    async fn prepare_server_key(
        &self,
        request: Request<wire::PrepareServerKeyRequest>,
    ) -> Result<Response<wire::PrepareServerKeyReply>, Status> {
        let call = Call::begin(&self.0, &request, "server key prepare")?;
        let name = request.into_inner().name;
        let call = call.about(&name);
        self.act(call, move |shared, store, call| prepare(shared, store, call, &name)).await
    }
}

fn parse(role: &str) -> Result<TrustRole, ApiError> {
    TrustRole::parse(role).map_err(|error| ApiError::Invalid(error.to_string()))
}

fn newest(store: &dyn Store) -> Result<Stored, ApiError> {
    let held = store.newest_files()?;
    Ok(held.into_iter().map(|(role, file)| (role, file.bytes)).collect())
}

/// Everything that a change is judged by, read anew for each try.
fn with_held<T>(
    store: &dyn Store,
    call: &Call,
    decide: impl FnOnce(&Held<'_>, &[Rev<OpenChange>]) -> Result<T, Refused>,
) -> Result<T, ApiError> {
    let newest = newest(store)?;
    let first = store.file(&TrustRole::Root, Some(1))?;
    let first_root = first.as_ref().map(|file| file.bytes.as_slice());
    let held = Held { newest: &newest, first_root, now: call.now };
    Ok(decide(&held, &store.all::<OpenChange>()?)?)
}

fn propose(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    bytes: &[u8],
) -> Result<wire::ChangeReply, ApiError> {
    let member = call.member(store, SIGNERS)?;
    let change = ChangeFile::from_bytes(bytes).map_err(Refused::from)?;
    for role in change.roles() {
        member.needs(needed(role))?;
    }
    let owner = member.to_string();
    retry(shared, store, call.now, || {
        let plans = plan_rules(store)?;
        let rings = store.all::<RingRecord>()?;
        promotion::check_proposed(&shared.content, &change, &plans, &rings)?;
        let (rev, record) = with_held(store, call, |held, known| {
            changes::propose(held, known, change.clone(), &owner)
        })?;
        Ok((reply(&record, call)?, commit(rev, &record), done(call, "change propose", &record)))
    })
}

fn sign(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    message: &wire::SignChangeRequest,
) -> Result<wire::ChangeReply, ApiError> {
    call.member(store, SIGNERS)?;
    let role = parse(&message.role)?;
    if message.signatures.is_empty() || message.signatures.len() > MOST_LINES {
        return Err(ApiError::Invalid(format!("one call brings 1 to {MOST_LINES} signatures")));
    }
    let lines: Vec<SignatureLine> = message
        .signatures
        .iter()
        .map(|line| line.parse())
        .collect::<Result<_, _>>()
        .map_err(Refused::from)?;
    retry(shared, store, call.now, || {
        let (rev, record) =
            with_held(store, call, |held, known| changes::sign(held, known, &role, &lines))?;
        let keys: Vec<String> = lines.iter().map(|line| line.key.short()).collect();
        let what = format!("{} key {}", title(&record), keys.join(" "));
        let deed = Deed::done(call.who.clone(), "change sign", what);
        Ok((reply(&record, call)?, commit(rev, &record), vec![deed]))
    })
}

fn withdraw(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    message: &wire::WithdrawChangeRequest,
) -> Result<wire::ChangeReply, ApiError> {
    let member = call.member(store, SIGNERS)?;
    let role = parse(&message.role)?;
    retry(shared, store, call.now, || {
        let known = store.all::<OpenChange>()?;
        let (open, _) = changes::of(&known, &role, call.now)?;
        if open.value.owner != member.to_string() {
            member.needs(ADMINISTRATOR)?;
        }
        let ended = open.value.ended(ChangeState::Withdrawn);
        let reply = reply(&open.value, call)?;
        let deeds = done(call, "change withdraw", &open.value);
        Ok((reply, commit(open.rev, &ended), deeds))
    })
}

fn commit(rev: u64, record: &OpenChange) -> Commit {
    let mut commit = Commit::new();
    commit.doc(rev, record.clone());
    commit.note(Note::Metadata);
    commit
}

fn title(record: &OpenChange) -> String {
    format!("{} {}", record.role, record.id.short())
}

fn done(call: &Call, act: &str, record: &OpenChange) -> Vec<Deed> {
    vec![Deed::done(call.who.clone(), act, title(record))]
}

fn reply(record: &OpenChange, call: &Call) -> Result<wire::ChangeReply, ApiError> {
    let status = changes::status(record, call.now)?;
    Ok(wire::ChangeReply { change: record.file.clone().into_bytes(), status: Some(status) })
}

fn prepare(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    name: &str,
) -> Result<wire::PrepareServerKeyReply, ApiError> {
    call.member(store, ADMINISTRATOR)?;
    let keys = match name {
        "freshness" => &shared.keys.freshness,
        "gate" => &shared.keys.gate,
        _ => {
            let text = format!(
                "{name:?} is no key of the server that metadata names\nhelp: `freshness` and `gate` are"
            );
            return Err(ApiError::Invalid(text));
        }
    };
    let in_use = repository::named_keys(&newest(store)?, &[]);
    let key = keys.prepare(&in_use).map_err(|error| ApiError::Internal(error.to_string()))?;
    let reply =
        wire::PrepareServerKeyReply { key: String::from_utf8_lossy(&key.to_json()).into_owned() };
    let deed =
        Deed::done(call.who.clone(), "server key prepare", format!("{name} {}", key.id().short()));
    retry(shared, store, call.now, || Ok((reply.clone(), Commit::new(), vec![deed.clone()])))
}
