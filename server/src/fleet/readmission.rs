//! The time in which hosts come back to a server that has no record of them: its own was lost with its
//! disk. An administrator opens it; what it lets in is decided in `crate::enrollment`.

use jiff::{SignedDuration, Timestamp};
use refit_proto::names::Digest;
use serde::{Deserialize, Serialize};

use super::Record;

/// The longest time that one opening lasts.
pub const READMISSION_LONGEST: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The newest opening, whether it still lasts or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readmission {
    /// SHA-256 of the certificate of the authority whose hosts come back.
    pub authority: Digest,
    /// The name of that authority, as its certificates write it.
    pub authority_name: Digest,
    /// Audit name of whoever opened it.
    pub opened_by: String,
    /// When.
    pub opened_at: Timestamp,
    /// Nobody comes in by it from then on.
    pub until: Timestamp,
    /// Hosts that came in by it.
    pub hosts: u64,
}

impl Record for Readmission {
    const NAME: &'static str = "readmission";
}

impl Readmission {
    /// Whether hosts come in by it.
    pub fn is_open(&self, now: Timestamp) -> bool {
        now < self.until
    }
}
