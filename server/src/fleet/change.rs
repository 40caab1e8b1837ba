//! A change of signed files that waits for signatures, as the server keeps it.

use jiff::Timestamp;
use refit_proto::{names::Digest, trust::Role};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Record;

/// The newest change of a role: open, or how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenChange {
    /// The role of its first file.
    #[serde(serialize_with = "write_role", deserialize_with = "read_role")]
    pub role: Role,
    /// Audit name of whoever proposed it.
    pub owner: String,
    /// When it was proposed.
    pub opened_at: Timestamp,
    /// From then on it is as if it had been withdrawn.
    pub lapses_at: Timestamp,
    /// Names exactly what is to be signed.
    pub id: Digest,
    /// Where it stands.
    pub state: ChangeState,
    /// The change with the signatures that it has; empty once it has ended.
    pub file: String,
}

impl Record for OpenChange {
    const NAME: &'static str = "change";
}

impl OpenChange {
    /// Whether signatures are still taken.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.state == ChangeState::Open && now < self.lapses_at
    }

    /// The record once the change has ended so.
    pub fn ended(&self, state: ChangeState) -> OpenChange {
        OpenChange { state, file: String::new(), ..self.clone() }
    }
}

/// Where a change stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeState {
    /// Signatures are missing, or it waits to be published.
    Open,
    /// Its files were published.
    Published,
    /// Another file of one of its roles was published first.
    Overtaken,
    /// Taken back.
    Withdrawn,
    /// Nobody completed it in time.
    Lapsed,
}

fn write_role<S: Serializer>(role: &Role, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(role)
}

fn read_role<'a, D: Deserializer<'a>>(from: D) -> Result<Role, D::Error> {
    Role::parse(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}
