//! Brings the own copy up to date, file by file, each verified from the own root before it is kept. The
//! server carries the bytes; it vouches for nothing.

use anyhow::{Context as _, bail};
use refit_proto::{
    trust::{
        Authority, Next, Refresh, Request, Role, Targets, Trusted, TrustedSet,
        metadata::limits,
        verify::{self, Expected},
    },
    wire::GetMetadataRequest,
};
use tonic::Code;

use super::{
    OwnCopy,
    give_back::{give_back, is_behind},
};
use crate::{Context, connect::Connection, failure::refused};

/// The newest metadata with these delegated roles; `None` where the server holds none at all. A server
/// that has less than it once had is given it back first.
pub(crate) async fn refresh(
    context: &Context,
    connection: &Connection,
    wanted: &[Role],
) -> anyhow::Result<Option<TrustedSet>> {
    match walk(context, connection, wanted).await {
        Err(error) if is_behind(&error) => match give_back(context, connection).await? {
            true => walk(context, connection, wanted).await,
            false => Err(error),
        },
        walked => walked,
    }
}

async fn walk(
    context: &Context,
    connection: &Connection,
    wanted: &[Role],
) -> anyhow::Result<Option<TrustedSet>> {
    let own = OwnCopy::of(context);
    let stored = own.stored()?;
    let never_seen = !stored.contains_key(&Role::Timestamp);
    let mut refresh = Refresh::start(stored, wanted, context.now)?;
    while let Next::Fetch(request) = refresh.next()? {
        match fetch(connection, &request).await? {
            Some(bytes) => {
                for write in refresh.supply(&bytes)? {
                    own.apply(&write)?;
                }
            }
            None if request.role == Role::Timestamp && never_seen => return Ok(None),
            None => refresh.absent()?,
        }
    }
    Ok(Some(refresh.into_set()?))
}

/// The newest metadata, which has to be there.
pub(crate) async fn newest(
    context: &Context,
    connection: &Connection,
    wanted: &[Role],
) -> anyhow::Result<TrustedSet> {
    refresh(context, connection, wanted)
        .await?
        .context("the server holds no metadata yet\nhelp: send the first: `refit trust push`")
}

/// The newest metadata with every role that targets delegates to.
pub(super) async fn everything(
    context: &Context,
    connection: &Connection,
) -> anyhow::Result<Option<TrustedSet>> {
    let Some(set) = refresh(context, connection, &[]).await? else { return Ok(None) };
    refresh(context, connection, &delegated(&set)).await
}

/// The newest file that is kept here, without asking anyone.
pub(crate) fn load(context: &Context, wanted: &[Role]) -> anyhow::Result<TrustedSet> {
    TrustedSet::load(&OwnCopy::of(context).stored()?, wanted).context(
        "the own copy of the metadata is not whole\nhelp: run it once with the server in reach",
    )
}

/// The newest files that are kept here, of every role that targets delegates to.
pub(crate) fn load_everything(context: &Context) -> anyhow::Result<TrustedSet> {
    load(context, &delegated(&load(context, &[])?))
}

fn delegated(set: &TrustedSet) -> Vec<Role> {
    set.targets().delegations.iter().map(|one| one.role.clone()).collect()
}

pub(super) async fn fetch(
    connection: &Connection,
    request: &Request,
) -> anyhow::Result<Option<Vec<u8>>> {
    let wire = GetMetadataRequest {
        role: request.role.to_string(),
        version: request.version.unwrap_or(0),
    };
    match connection.repository().get_metadata(wire).await {
        Ok(reply) => Ok(Some(reply.into_inner().file)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(refused(format!("fetch the metadata of {}", request.role))(status)),
    }
}

/// Who may sign for a delegated role, and its newest file, if one was published.
///
/// # Errors
/// If nobody may, or the file that the snapshot lists can't be trusted.
pub(crate) fn authority<'a>(
    set: &'a TrustedSet,
    role: &Role,
) -> anyhow::Result<(&'a Authority, Option<&'a Trusted<Targets>>)> {
    if let Some(error) = set.refused(role) {
        bail!("the newest {role} can't be trusted: {error}");
    }
    let delegation = set.targets().delegation(role).with_context(|| {
        format!("nobody may sign for {role}\nhelp: name its keys: `refit trust delegate`")
    })?;
    Ok((&delegation.authority, set.delegated(role)))
}

/// The newest file of a delegated role that was ever verified here, where the server has none of it: who
/// signs next has to stay above what hosts have seen.
pub(crate) fn kept(
    context: &Context,
    set: &TrustedSet,
    role: &Role,
) -> anyhow::Result<Option<Vec<u8>>> {
    let stored = OwnCopy::of(context).stored()?;
    let Some(delegation) = set.targets().delegation(role) else { return Ok(None) };
    let expected = Expected { role, authority: &delegation.authority, pin: None };
    let trusted = |bytes: &&Vec<u8>| verify::verify::<Targets>(bytes, expected).is_ok();
    Ok(stored.get(role).filter(trusted).cloned())
}

/// Every root from the first on, as the server holds them; whoever uses them verifies them.
pub(super) async fn roots(connection: &Connection) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut roots = Vec::new();
    for version in 1..=limits::ROTATIONS as u64 {
        let (role, version) = (Role::Root, Some(version));
        let request = Request { role, version, max_length: limits::ROOT, pin: None };
        match fetch(connection, &request).await? {
            Some(bytes) => roots.push(bytes),
            None => break,
        }
    }
    Ok(roots)
}

/// Fetches the server's first root, of which nothing is known yet.
pub(super) async fn first_root(connection: &Connection) -> anyhow::Result<Vec<u8>> {
    let request = Request { role: Role::Root, version: Some(1), max_length: u64::MAX, pin: None };
    fetch(connection, &request).await?.context("the server holds no root yet")
}
