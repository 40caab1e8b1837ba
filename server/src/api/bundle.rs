//! A snapshot and timestamp for a bundle, on the record with the person and with how long they last. Which
//! versions they have, and what is published in their place, is decided in `refit_proto::trust`.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use refit_proto::{
    trust::{Role as TrustRole, Stored, Write, repository},
    wire,
};

use super::{
    ApiError, Shared,
    call::{Call, retry},
};
use crate::{
    audit::Deed,
    identity::Role,
    store::{Commit, FileWrite, Note, SignedFile, Store},
};

/// What it is called in log and audit log.
pub(super) const SIGN: &str = "bundle sign";
/// Whoever may bring a release to hosts at all.
const BUNDLERS: &[Role] = &[Role::Publisher, Role::Operator];

pub(super) fn sign(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    message: &wire::SignForBundleRequest,
) -> Result<wire::SignForBundleReply, ApiError> {
    call.member(store, BUNDLERS)?;
    let seconds = i64::try_from(message.valid_seconds).unwrap_or(i64::MAX);
    retry(shared, store, call.now, || {
        let held = store.newest_files()?;
        let files: Stored =
            held.iter().map(|(role, file)| (role.clone(), file.bytes.clone())).collect();
        let valid = SignedDuration::from_secs(seconds);
        let named = repository::named_keys(&files, &[]);
        let key = shared.keys.freshness.for_ids(&named);
        let bundled = repository::for_bundle(&files, valid, key, call.now)?;
        let what =
            format!("{}: timestamp {} until {}", call.what, bundled.version, bundled.expires);
        let deed = Deed::done(call.who.clone(), SIGN, what);
        let reply = wire::SignForBundleReply {
            snapshot: bundled.snapshot,
            timestamp: bundled.timestamp,
            version: bundled.version,
            expires: bundled.expires.to_string(),
        };
        Ok((reply, published(&held, bundled.writes), vec![deed]))
    })
}

/// What takes the place of the bundle's own for everybody who is online.
fn published(held: &BTreeMap<TrustRole, SignedFile>, writes: Vec<Write>) -> Commit {
    let mut commit = Commit::new();
    for write in writes {
        if let Write::Put { role, version, bytes } = write {
            let replaces = held.get(&role).map_or(0, |file| file.version);
            commit.file(FileWrite { role, replaces, version, bytes });
        }
    }
    commit.note(Note::Metadata);
    commit
}
