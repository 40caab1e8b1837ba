//! Gives a server that was put back to an older copy what it once published and has lost, from the own
//! copy. The files prove themselves; the server judges each of them.

use refit_proto::{
    trust::{Request, Role, Stored, TrustError, metadata::limits},
    wire::{MetadataFile, OfferMetadataRequest},
};

use super::{OwnCopy, own::rank, refresh::fetch};
use crate::{Context, connect::Connection};

/// Whether a refresh failed because the server has less than what was seen of it before.
pub(super) fn is_behind(error: &anyhow::Error) -> bool {
    let cause = error.chain().find_map(|cause| cause.downcast_ref::<TrustError>());
    cause.is_some_and(|cause| {
        matches!(cause, TrustError::Rollback { .. } | TrustError::Unlisted { .. })
    })
}

/// Offers the own copy, one file after the other: what can't be taken yet, for want of its content, keeps
/// nothing else back. Says whether anything was taken.
pub(super) async fn give_back(context: &Context, connection: &Connection) -> anyhow::Result<bool> {
    let own = OwnCopy::of(context);
    let stored = own.stored()?;
    let Some(snapshot) = stored.get(&Role::Snapshot) else { return Ok(false) };
    eprintln!("the server was put back to an older copy; it is offered what it has lost");
    let mut taken = false;
    for file in in_order(own.roots()?, &stored) {
        if is_there(connection, &file).await? {
            continue;
        }
        let role = file.role.clone();
        let offer = OfferMetadataRequest {
            files: vec![file],
            snapshot: snapshot.clone(),
            documents: Vec::new(),
        };
        match connection.repository().offer_metadata(offer).await {
            Ok(_) => taken = true,
            Err(status) => eprintln!("{role} is not taken back: {}", status.message()),
        }
    }
    Ok(taken)
}

/// Whether the server has this version already.
async fn is_there(connection: &Connection, file: &MetadataFile) -> anyhow::Result<bool> {
    let role = Role::parse(&file.role)?;
    let version = version_of(&file.file);
    let request = Request { max_length: limits::max_length(&role), role, version, pin: None };
    Ok(fetch(connection, &request).await?.is_some())
}

/// The version that a file claims. Nothing rests on it: the server judges what it is offered.
fn version_of(file: &[u8]) -> Option<u64> {
    let file: serde_json::Value = serde_json::from_slice(file).ok()?;
    file["signed"]["version"].as_u64()
}

/// What others are verified by goes first; roots one after the other.
fn in_order(roots: Vec<Vec<u8>>, stored: &Stored) -> Vec<MetadataFile> {
    let delegated = stored.iter().filter(|(role, _)| {
        !matches!(role, Role::Root | Role::Snapshot | Role::Timestamp | Role::Other(_))
    });
    let roots = roots.into_iter().map(|root| (Role::Root, root));
    let others = delegated.map(|(role, file)| (role.clone(), file.clone()));
    let mut files: Vec<(Role, Vec<u8>)> = roots.chain(others).collect();
    files.sort_by_key(|(role, _)| rank(role));
    let to_wire = |(role, file): (Role, Vec<u8>)| MetadataFile { role: role.to_string(), file };
    files.into_iter().map(to_wire).collect()
}
