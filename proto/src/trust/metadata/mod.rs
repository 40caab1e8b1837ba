//! What signed files say, typed: root, targets, snapshot and timestamp, as TUF 1.0.34 section 4 writes
//! them. A typed view is made from the very value whose canonical form was verified; members that we
//! don't know stay in that value. Who signed is `verify.rs`.

mod bins;
mod fields;
mod root;
mod snapshot;
mod targets;

use jiff::Timestamp;
use serde_json::{Map, Value};

pub use self::{
    bins::Bins,
    root::{Authority, Root},
    snapshot::{Pin, Snapshot, TimestampFile},
    targets::{Delegation, Hashes, TargetFile, Targets},
};
pub(crate) use self::{
    fields::{DATE, Object},
    targets::lower_hex,
};
use super::{error::TrustError, role::Role};

/// Limits that hold before any work is done on a file. Sizes are python-tuf's, which leave room for a
/// hundred times our largest measured files.
pub mod limits {
    use super::Role;

    /// Bytes of a root file.
    pub const ROOT: u64 = 512_000;
    /// Bytes of a timestamp file.
    pub const TIMESTAMP: u64 = 16_384;
    /// Bytes of a snapshot file.
    pub const SNAPSHOT: u64 = 2_000_000;
    /// Bytes of a targets file, delegated or not.
    pub const TARGETS: u64 = 5_000_000;
    /// Signatures in one file.
    pub const SIGNATURES: usize = 64;
    /// Keys of one role.
    pub const KEYS_PER_ROLE: usize = 64;
    /// Delegations of one role: a thousand products with three rings each.
    pub const DELEGATIONS: usize = 4_096;
    /// Keys that one file lists: some of its own for each delegation.
    pub const KEYS_PER_FILE: usize = 8_192;
    /// Targets of one release role; older releases retire.
    pub const RELEASES: usize = 100;
    /// Roots that one refresh walks: a host may come back after years.
    pub const ROTATIONS: usize = 1_024;
    /// Delegated roles that one search visits.
    pub const VISITS: usize = 32;

    /// Bytes of this role's file, where nothing tighter is pinned.
    pub fn max_length(role: &Role) -> u64 {
        match role {
            Role::Root => ROOT,
            Role::Timestamp => TIMESTAMP,
            Role::Snapshot => SNAPSHOT,
            Role::Targets | Role::Policy | Role::Release(_) | Role::Ring(..) | Role::Other(_) => {
                TARGETS
            }
        }
    }
}

/// A kind of signed content.
pub trait Content: Sized {
    /// Its `_type`.
    const TYPE: &'static str;

    /// Reads the members; `_type`, `spec_version`, `version` and `expires` are in `header`.
    ///
    /// # Errors
    /// What is not as it must be.
    fn read(members: &Map<String, Value>, role: &Role, header: Header) -> Result<Self, TrustError>;

    /// Version and expiry.
    fn header(&self) -> &Header;

    /// The version, at least 1.
    fn version(&self) -> u64 {
        self.header().version
    }

    /// When it expires.
    fn expires(&self) -> Timestamp {
        self.header().expires
    }
}

/// What every signed content begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// At least 1.
    pub version: u64,
    /// To the second.
    pub expires: Timestamp,
}

/// Reads signed content of one kind.
///
/// # Errors
/// What is not as it must be.
pub fn read<T: Content>(signed: &Value, role: &Role) -> Result<T, TrustError> {
    let object = Object::of(signed, role, "`signed`")?;
    let found = object.text("_type")?;
    if found != T::TYPE {
        return Err(object.flaw(format_args!("`_type` is {found:?}, not {:?}", T::TYPE)));
    }
    let spec = object.text("spec_version")?;
    if !is_known_spec(spec) {
        let found = spec.chars().take(80).collect();
        return Err(TrustError::UnknownSpec { role: role.clone(), found });
    }
    let header = Header { version: object.positive("version")?, expires: object.date("expires")? };
    T::read(object.members(), role, header)
}

/// `1.x` or `1.x.y`, each a plain number.
fn is_known_spec(spec: &str) -> bool {
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    let words: Vec<&str> = spec.split('.').collect();
    matches!(words.len(), 2 | 3) && words.iter().all(|word| is_number(word)) && words[0] == "1"
}
