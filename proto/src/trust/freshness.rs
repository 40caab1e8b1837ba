//! Snapshot and timestamp: made and renewed by the server's `freshness` key alone. What they list was
//! verified before.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::{
    error::TrustError,
    key::{SignError, Signer},
    metadata::{self, Content, DATE, Snapshot, TimestampFile},
    role::Role,
    set::Stored,
    signing,
    verify::Opened,
};
use crate::names::Digest;

/// How long a snapshot lasts: longer than the longest outage of a server that hosts should survive.
pub const SNAPSHOT_LASTS: SignedDuration = SignedDuration::from_hours(7 * 24);
/// How long a timestamp lasts: how long someone who withholds news goes unnoticed.
pub const TIMESTAMP_LASTS: SignedDuration = SignedDuration::from_hours(3 * 24);

/// The longest that a host takes from a server or a mirror. Whoever got hold of a bundle's timestamp can't
/// hold back news with it from a host that is online.
pub const ONLINE_LONGEST: SignedDuration = SNAPSHOT_LASTS;
/// The longest that anyone signs, or takes, for a bundle.
pub const BUNDLE_LONGEST: SignedDuration = SignedDuration::from_hours(30 * 24);

/// For how long a snapshot and the timestamp that pins it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lasts {
    pub(super) snapshot: SignedDuration,
    pub(super) timestamp: SignedDuration,
}

impl Lasts {
    /// What the server publishes.
    pub(super) const ONLINE: Lasts = Lasts { snapshot: SNAPSHOT_LASTS, timestamp: TIMESTAMP_LASTS };

    /// What goes into a bundle: nothing renews it there.
    pub(super) fn bundle(valid: SignedDuration) -> Lasts {
        Lasts { snapshot: valid, timestamp: valid }
    }
}

/// What a snapshot lists of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) version: u64,
    pub(super) length: u64,
    pub(super) digest: Digest,
}

impl Listed {
    pub(super) fn of(version: u64, bytes: &[u8]) -> Listed {
        Listed { version, length: bytes.len() as u64, digest: Digest::of(bytes) }
    }

    fn to_value(&self) -> Value {
        json!({
            "version": self.version,
            "length": self.length,
            "hashes": { "sha256": self.digest.to_string() },
        })
    }
}

/// A freshly signed snapshot and timestamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fresh {
    pub(super) snapshot: (u64, Vec<u8>),
    pub(super) timestamp: (u64, Vec<u8>),
}

/// Versions of the snapshot and timestamp that are held; 0 where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Last {
    pub(super) snapshot: u64,
    pub(super) timestamp: u64,
}

/// Signs a snapshot of these files, and the timestamp that pins it.
pub(super) fn sign(
    files: &BTreeMap<Role, Listed>,
    last: Last,
    lasts: Lasts,
    signer: &dyn Signer,
    now: Timestamp,
) -> Result<Fresh, SignError> {
    let meta: Map<String, Value> =
        files.iter().map(|(role, listed)| (format!("{role}.json"), listed.to_value())).collect();
    let version = next_version(last.snapshot, now);
    let signed = content("snapshot", version, lasts.snapshot, now, meta);
    let snapshot = signing::sign(&signed, &[signer])?;

    let listed = Listed::of(version, &snapshot).to_value();
    let meta: Map<String, Value> = [("snapshot.json".to_owned(), listed)].into_iter().collect();
    let timestamp_version = next_version(last.timestamp, now);
    let signed = content("timestamp", timestamp_version, lasts.timestamp, now, meta);
    let timestamp = signing::sign(&signed, &[signer])?;
    Ok(Fresh { snapshot: (version, snapshot), timestamp: (timestamp_version, timestamp) })
}

/// The snapshot and timestamp held, read without asking who signed them: the server's own store.
pub(super) fn held(stored: &Stored) -> Result<Option<(Snapshot, TimestampFile)>, TrustError> {
    let (Some(snapshot), Some(timestamp)) =
        (stored.get(&Role::Snapshot), stored.get(&Role::Timestamp))
    else {
        return Ok(None);
    };
    let snapshot = Opened::open(snapshot, &Role::Snapshot, None)?;
    let timestamp = Opened::open(timestamp, &Role::Timestamp, None)?;
    Ok(Some((
        metadata::read(snapshot.signed(), &Role::Snapshot)?,
        metadata::read(timestamp.signed(), &Role::Timestamp)?,
    )))
}

/// Whether half of either's time has passed.
pub(super) fn is_due(snapshot: &Snapshot, timestamp: &TimestampFile, now: Timestamp) -> bool {
    later(now, SNAPSHOT_LASTS / 2) >= snapshot.expires()
        || later(now, TIMESTAMP_LASTS / 2) >= timestamp.expires()
}

/// At least the seconds since 1970: a server restored from a backup, which has forgotten the versions
/// that hosts have seen, must not freeze them.
fn next_version(last: u64, now: Timestamp) -> u64 {
    u64::try_from(now.as_second()).unwrap_or(0).max(last + 1)
}

fn later(now: Timestamp, span: SignedDuration) -> Timestamp {
    now.saturating_add(span).unwrap_or(Timestamp::MAX)
}

fn content(
    kind: &str,
    version: u64,
    lasts: SignedDuration,
    now: Timestamp,
    meta: Map<String, Value>,
) -> Value {
    json!({
        "_type": kind,
        "spec_version": "1.0.34",
        "version": version,
        "expires": later(now, lasts).strftime(DATE).to_string(),
        "meta": meta,
    })
}
