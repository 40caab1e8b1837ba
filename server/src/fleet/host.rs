//! A host's identity, labels and certificate. What moves with updates is in [`super::placement`].

use jiff::{Timestamp, tz::TimeZone};
use refit_proto::names::{Digest, HostId, HostName, Labels, NameError, Platform};
use serde::{Deserialize, Serialize};

use super::{BackupCheck, Record, ReportedBackup, ReportedFailure, ReportedHold};
use crate::audit::AuditHead;

/// One machine with an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Made from its certificate's public key.
    pub id: HostId,
    /// What people call it; unique in the fleet.
    pub name: HostName,
    /// As its enrollment token gave them.
    pub labels: Labels,
    /// Whether it may call, and whether it counts.
    pub state: HostState,
    /// What its packages have to be made for.
    pub platform: Platform,
    /// As its last report named it; empty before the first.
    pub agent_version: String,
    /// The newest certificate that it was given.
    pub certificate: Certificate,
    /// What its reports are signed with.
    pub report_key: ReportKey,
    /// Counter of the newest report that is stored; 0 before the first.
    pub report_counter: u64,
    /// SHA-256 of that report's payload.
    pub report_hash: Option<Digest>,
    /// By which token it came in, for the audit trail.
    pub token_id: String,
    /// When it came in.
    pub enrolled_at: Timestamp,
    /// Coarse: written at most every few minutes, so that a mere poll costs no write.
    pub last_seen: Timestamp,
    /// Version of the timestamp metadata that the host holds.
    pub timestamp_version: u64,
    /// The host's metadata has expired: it begins nothing new.
    pub metadata_expired: bool,
    /// Its own time zone, as it says itself: `Europe/Berlin`; empty where it does not know.
    #[serde(default)]
    pub time_zone: String,
    /// Free bytes where the agent keeps its data, as it says itself; 0 where it does not know.
    #[serde(default)]
    pub free_bytes: u64,
    /// The address by which it reaches its server, as it says itself.
    #[serde(default)]
    pub server: String,
    /// Why it refuses the newest metadata that it was given, if it does.
    pub metadata_failure: Option<ReportedFailure>,
    /// The newest end of the audit log that it has seen, as it reports itself.
    #[serde(default)]
    pub audit_held: Option<AuditHead>,
    /// Set where this server's log does not continue that, or the host has seen another.
    #[serde(default)]
    pub audit_failure: Option<ReportedFailure>,
    /// What people on it hold, as it reports itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<ReportedHold>,
    /// The newest backups that it keeps, as it says itself.
    #[serde(default)]
    pub backups: Vec<ReportedBackup>,
    /// Backups that it is asked to read again; at most one request for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verify: Vec<BackupCheck>,
}

impl Record for Host {
    const NAME: &'static str = "host";
}

impl Host {
    /// Its own time zone, if it says one that is known here.
    pub fn zone(&self) -> Option<TimeZone> {
        TimeZone::get(&self.time_zone).ok()
    }
}

/// Whether a host may call, and whether it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostState {
    /// May call and counts.
    Active,
    /// Two machines report with its keys, or it was put back to an older image and wrote other reports: may
    /// call and counts, but never as healthy, and begins nothing until it is enrolled again.
    Shared,
    /// Is refused at once, and still counts: it may be a thief's, and its ring should know.
    Revoked,
    /// Is refused and counts nowhere.
    Retired,
}

impl HostState {
    /// Whether its calls are answered.
    pub fn may_call(self) -> bool {
        match self {
            HostState::Active | HostState::Shared => true,
            HostState::Revoked | HostState::Retired => false,
        }
    }

    /// The word of the wire and of tables.
    pub fn word(self) -> &'static str {
        match self {
            HostState::Active => "active",
            HostState::Shared => "shared-identity",
            HostState::Revoked => "revoked",
            HostState::Retired => "retired",
        }
    }
}

/// What has to be known of a certificate once it is given away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Hex, as tools print it.
    pub serial: String,
    /// After this it is only good for a renewal.
    pub not_after: Timestamp,
    /// SHA-256 of the SubjectPublicKeyInfo: a renewal has to be for the same key.
    pub public_key: Digest,
    /// SHA-256 of the certificate of the authority that issued it; not known of old records.
    #[serde(default)]
    pub authority: Option<Digest>,
}

/// An ed25519 public key that a host signs its reports with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
// A digest happens to be kept as what a key is, too: 32 bytes, written in hex.
pub struct ReportKey(Digest);

impl ReportKey {
    /// From the 32 bytes of the wire.
    ///
    /// # Errors
    /// If there are not 32 of them.
    pub fn from_bytes(bytes: &[u8]) -> Result<ReportKey, NameError> {
        Digest::from_bytes(bytes).map(ReportKey)
    }

    /// The key itself.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}
