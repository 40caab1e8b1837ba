//! Why metadata is refused. Errors name the attack that they stop where there is one, so that a host's
//! report tells its people what was tried.

use jiff::Timestamp;

use super::{key::KeyId, role::Role};
use crate::{canonical::JsonError, printable::printable};

/// Why a signed file, or a step of a refresh, is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Endless data: longer than the role's limit, or than what is pinned for it.
    #[error(
        "{role} is longer than {limit} bytes (endless data)\n\
         help: if this comes from your own server, publish the file again; else find out who answers in its place"
    )]
    TooLong {
        /// Whose file.
        role: Role,
        /// Bytes allowed.
        limit: u64,
    },
    /// Endless work: more entries of a kind than anyone needs.
    #[error(
        "{role} has more than {limit} {what} (endless work)\nhelp: publish it with fewer {what}"
    )]
    TooMany {
        /// Whose file.
        role: Role,
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
    },
    /// Not strict JSON.
    #[error("{role} cannot be read: {cause}\nhelp: publish it again with `refit`")]
    NotJson {
        /// Whose file.
        role: Role,
        /// What is wrong with it.
        cause: JsonError,
    },
    /// JSON, but not of the shape that the role demands.
    #[error("{role} is not valid metadata: {}\nhelp: publish it again with `refit`", printable(.flaw))]
    Malformed {
        /// Whose file.
        role: Role,
        /// What is wrong with it.
        flaw: String,
    },
    /// A key under an id that is not its hash.
    #[error(
        "{role} lists key {computed} under the id {}, which is not its hash (one key under two ids)\n\
         help: publish it again with `refit`, which computes the ids", printable(.listed)
    )]
    KeyIdMismatch {
        /// Whose file.
        role: Role,
        /// The id in the file.
        listed: String,
        /// The id that belongs to the key.
        computed: KeyId,
    },
    /// Written by a later major version of the specification.
    #[error("{role} follows TUF {}, this program knows 1.x\nhelp: update this program", printable(.found))]
    UnknownSpec {
        /// Whose file.
        role: Role,
        /// The version in the file.
        found: String,
    },
    /// Arbitrary software: too few trusted keys signed.
    #[error(
        "{role} is signed by {valid} trusted keys of {threshold} needed (arbitrary software)\n\
         help: if it is unfinished, have the missing holders sign it; if keys were rotated, publish the new root or targets first"
    )]
    Unsigned {
        /// Whose file.
        role: Role,
        /// Distinct trusted keys with a valid signature.
        valid: usize,
        /// How many are needed.
        threshold: u64,
    },
    /// Mix-and-match: not the bytes that the file above it pins.
    #[error(
        "{role} is not the file that {by} pins (mix-and-match)\n\
         help: try again; if it stays, the server or a mirror serves files that do not belong together"
    )]
    NotPinned {
        /// Whose file.
        role: Role,
        /// The role that pins it.
        by: Role,
    },
    /// Mix-and-match or a skipped root: not the version that was asked for.
    #[error(
        "{role} has version {found}, wanted is {wanted} (mix-and-match)\n\
         help: try again; if it stays, the server or a mirror serves files that do not belong together"
    )]
    WrongVersion {
        /// Whose file.
        role: Role,
        /// The version asked for.
        wanted: u64,
        /// The version in the file.
        found: u64,
    },
    /// Rollback: older than what was seen before.
    #[error(
        "{role} has version {offered}, but {held} was seen before (rollback)\n\
         help: to go back to an older release, promote it; if a server was put back to an older copy, see docs/RUNBOOK.md, \"Lost server\""
    )]
    Rollback {
        /// Whose file or listed version.
        role: Role,
        /// The newest version seen.
        held: u64,
        /// The version offered.
        offered: u64,
    },
    /// Rollback: a role that was listed is not any more.
    #[error(
        "snapshot no longer lists {role}, which it listed at version {held} (rollback)\n\
         help: a role, once published, stays listed; restore it on the server"
    )]
    Unlisted {
        /// The role left out.
        role: Role,
        /// The newest version seen.
        held: u64,
    },
    /// Freeze: too old to be trusted.
    #[error(
        "{role} expired at {expired}, it is now {now} (freeze)\n\
         help: check this machine's clock; then have {role} signed anew, or find out who holds back the new one"
    )]
    Expired {
        /// Whose file.
        role: Role,
        /// When.
        expired: Timestamp,
        /// The time that it was measured by.
        now: Timestamp,
    },
    /// Freeze: signed for longer than is taken from this source.
    #[error(
        "{role} is signed until {expires}, longer than is taken from here (freeze)\n\
         help: long-lived metadata belongs into a bundle alone; find out who serves it"
    )]
    LongLived {
        /// Whose file.
        role: Role,
        /// When it would expire.
        expires: Timestamp,
    },
    /// There is no file where there must be one.
    #[error(
        "{role} is missing\n\
         help: publish it; if it was published, the server or a mirror withholds it"
    )]
    Missing {
        /// Whose file.
        role: Role,
    },
    /// A step that nobody asked for: an answer without a question.
    #[error(
        "no file was asked for, yet one was supplied\nhelp: this is a bug of the caller: ask `next` first"
    )]
    Unasked,
    /// The refresh was cut short.
    #[error(
        "the refresh is not finished\nhelp: this is a bug of the caller: go on until `next` says done"
    )]
    Unfinished,
}

impl TrustError {
    /// The attack, as one word for metrics and reports.
    pub fn attack(&self) -> &'static str {
        match self {
            TrustError::TooLong { .. } | TrustError::TooMany { .. } => "endless-data",
            TrustError::NotJson { .. }
            | TrustError::Malformed { .. }
            | TrustError::UnknownSpec { .. } => "malformed",
            TrustError::KeyIdMismatch { .. } | TrustError::Unsigned { .. } => "arbitrary-software",
            TrustError::NotPinned { .. } | TrustError::WrongVersion { .. } => "mix-and-match",
            TrustError::Rollback { .. } | TrustError::Unlisted { .. } => "rollback",
            TrustError::Expired { .. } | TrustError::LongLived { .. } => "freeze",
            TrustError::Missing { .. } => "withheld",
            TrustError::Unasked | TrustError::Unfinished => "none",
        }
    }
}
