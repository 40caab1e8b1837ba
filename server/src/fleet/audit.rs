//! One line of the audit log: who did what, when, and how it ended. The chain over the lines is made
//! where they are stored.

use std::fmt;

use jiff::Timestamp;
use refit_proto::names::{Digest, HostId, PersonName};
use serde::{Deserialize, Serialize};

use super::Record;

/// One entry. Its stored bytes are what the hash chain covers; they are written once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// 1, 2, 3, ... without gaps.
    pub sequence: u64,
    /// By the server's clock.
    pub at: Timestamp,
    /// Who did it.
    pub who: Actor,
    /// What was done: a verb with its noun, for example `rollout pause`.
    pub act: String,
    /// To what: `payments pilot`, a host's name, a role with its version.
    pub what: String,
    /// Whether it was done.
    pub outcome: AuditOutcome,
    /// Hash of the entry before; `None` in the first.
    pub previous: Option<Digest>,
}

impl Record for AuditEntry {
    const NAME: &'static str = "audit entry";
}

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Actor {
    /// A human being.
    Person(PersonName),
    /// A CI job.
    Ci(PersonName),
    /// A host.
    Host(HostId),
    /// The server by its own rules: the brake, a renewal.
    Server,
    /// A caller without a certificate: the holder of a token, by the token's id.
    Token(String),
    /// A caller that showed nothing to be named by.
    Unknown,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actor::Person(name) => write!(f, "person {name}"),
            Actor::Ci(name) => write!(f, "ci {name}"),
            Actor::Host(id) => write!(f, "host {id}"),
            Actor::Server => f.write_str("server"),
            Actor::Token(id) => write!(f, "token {id}"),
            Actor::Unknown => f.write_str("unknown"),
        }
    }
}

/// How an act ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuditOutcome {
    /// It was done.
    Done,
    /// It was refused, and why.
    Refused(String),
}
