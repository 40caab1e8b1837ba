//! Trust: TUF metadata with a key set per ring. All that stands between the network and a host.
//!
//! - `verify` is the one way from bytes to [`Trusted`] content; [`Trusted`] can't be made elsewhere.
//! - `client` is the refresh of a host: bytes and time in, requests and writes out.
//! - `set` holds what a refresh ended with, and answers in the fleet's words.
//! - `change` is what several holders sign, each where their key is.
//! - `approval` says whether the right people signed a ring's file;
//! - `permission` says what a host may install; `repository` what a server takes; `edit` makes the next
//!   version of a file on the publisher's side.
//!
//! Nothing here does IO or reads a clock. What a file of a package looks like is `package`'s.

pub mod approval;
pub mod change;
pub mod client;
pub mod edit;
pub mod error;
#[cfg(feature = "conformance")]
mod foreign;
mod freshness;
pub mod key;
pub mod metadata;
pub mod permission;
pub mod promotion;
pub mod repository;
pub mod role;
pub mod set;
mod signing;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod verify;

pub use self::{
    approval::{Approved, Party, Unapproved},
    client::{Found, Next, Refresh, Request, Write},
    error::TrustError,
    key::{KeyId, LocalKey, PublicKey, SignError, Signer},
    metadata::{
        Authority, Content, Delegation, Root, Snapshot, TargetFile, Targets, TimestampFile,
    },
    permission::{
        Closed, Denied, Misfit, Permission, Unreliable, fits_document, permit, trusted_labels,
        trusted_policy, trusted_servers, unmet,
    },
    promotion::{Approval, Evidence, Override, Promotion, RingFile, Standing, Terms},
    role::Role,
    set::{Stored, TrustedSet},
    verify::Trusted,
};
