//! Changes that wait on the server: fetched, signed, proposed and published through it. What it says of
//! them is shown; what is signed is judged here.

use anyhow::Context as _;
use refit_proto::{
    trust::{
        Role,
        change::{ChangeFile, SignatureLine},
    },
    wire::{
        ChangeReply, GetChangeRequest, MetadataFile, ProposeChangeRequest, SignChangeRequest,
        WithdrawChangeRequest,
    },
};

use crate::{
    connect::Connection,
    failure::refused,
    output,
    publish::{Pushed, push},
};

/// The open change of a role, as the server holds it.
pub(super) async fn fetch(connection: &Connection, role: &Role) -> anyhow::Result<ChangeFile> {
    let request = GetChangeRequest { role: role.to_string() };
    let reply = connection.changes().get_change(request).await;
    read(reply.map_err(refused(format!("fetch the open change of {role}")))?.into_inner())
}

/// Puts a change up for signing.
pub(crate) async fn propose(
    connection: &Connection,
    change: &ChangeFile,
) -> anyhow::Result<ChangeFile> {
    let request = ProposeChangeRequest { change: change.to_bytes() };
    let reply = connection.changes().propose_change(request).await;
    read(reply.map_err(refused("put the change up for signing"))?.into_inner())
}

/// Adds signatures to a role's open change.
pub(super) async fn sign(
    connection: &Connection,
    role: &Role,
    lines: &[SignatureLine],
) -> anyhow::Result<ChangeFile> {
    let signatures = lines.iter().map(ToString::to_string).collect();
    let request = SignChangeRequest { role: role.to_string(), signatures };
    let reply = connection.changes().sign_change(request).await;
    read(reply.map_err(refused(format!("sign the open change of {role}")))?.into_inner())
}

/// Takes a role's open change back.
pub(super) async fn withdraw(
    connection: &Connection,
    role: &Role,
    reason: &str,
) -> anyhow::Result<ChangeFile> {
    let request = WithdrawChangeRequest { role: role.to_string(), reason: reason.to_owned() };
    let reply = connection.changes().withdraw_change(request).await;
    read(reply.map_err(refused(format!("withdraw the open change of {role}")))?.into_inner())
}

/// Publishes a change that everybody has signed. Whoever may sign need not be allowed to publish; then it
/// waits for somebody who is.
pub(super) async fn publish(connection: &Connection, change: &ChangeFile) -> anyhow::Result<()> {
    let role = change.role().map(ToString::to_string).unwrap_or_default();
    let files = change
        .steps()
        .iter()
        .map(|(role, file)| MetadataFile { role: role.to_string(), file: file.clone() });
    match push(connection, "publish the change", files.collect()).await {
        Ok(Pushed::Done(_)) => output::line(&format!("signed by everybody, and published: {role}")),
        Ok(Pushed::Conflict(told)) => anyhow::bail!("{}", told.in_words()),
        Err(error) => {
            let next = format!(
                "signed by as many as its role needs, and not published yet\n\
                 next: somebody who may publish it gives `refit trust change publish {role}`"
            );
            output::line(&next)?;
            Err(error)
        }
    }
}

fn read(reply: ChangeReply) -> anyhow::Result<ChangeFile> {
    ChangeFile::from_bytes(&reply.change).context("the server's change can't be read")
}
