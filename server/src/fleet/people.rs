//! Persons and CI jobs with their roles, and the tokens by which hosts and they come in.

use jiff::Timestamp;
use refit_proto::names::{Digest, Labels, PersonName};
use serde::{Deserialize, Serialize};

use super::{Record, host::Certificate};
use crate::identity::{PersonKind, Role};

/// A person or a CI job that may call the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// As the audit log names it.
    pub name: PersonName,
    /// A human being or a machine.
    pub kind: PersonKind,
    /// What it may do.
    pub roles: Vec<Role>,
    /// The newest certificate that it was given.
    pub certificate: Certificate,
    /// By which token it came in.
    pub token_id: String,
    /// When it came in.
    pub added_at: Timestamp,
    /// Refused from then on.
    pub revoked_at: Option<Timestamp>,
}

impl Record for Person {
    const NAME: &'static str = "person";
}

/// A token by which a host, person or CI job comes in. The secret itself is never here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Random, made by whoever made the token.
    pub id: String,
    /// SHA-256 of the secret.
    pub secret_sha256: Digest,
    /// Who may come in by it.
    pub subject: TokenSubject,
    /// How often it may still be used.
    pub uses_left: u32,
    /// SHA-256 of the public keys that came in by it: the same key may ask again after a lost answer.
    pub used_by: Vec<Digest>,
    /// Refused from then on.
    pub expires: Timestamp,
    /// Audit name of who made it.
    pub created_by: String,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Record for TokenRecord {
    const NAME: &'static str = "token";
}

/// Who may come in by a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "subject")]
pub enum TokenSubject {
    /// Hosts with these labels.
    Host {
        /// What the hosts will be selected by.
        labels: Labels,
        /// The first root that the host will accept, by the administrator's own copy.
        root_sha256: Digest,
    },
    /// One person or CI job.
    Person {
        /// As the audit log will name it.
        name: PersonName,
        /// A human being or a machine.
        kind: PersonKind,
        /// What it will be allowed to do.
        roles: Vec<Role>,
    },
}
