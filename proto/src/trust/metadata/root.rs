//! Root: the keys and threshold of each top-level role.

use std::collections::{BTreeMap, BTreeSet};

use crate::gathered::Gathered as _;

use serde_json::{Map, Value};

use super::{Content, Header, Object, limits};
use crate::trust::{
    error::TrustError,
    key::{KeyId, PublicKey},
    role::Role,
};

/// Who may sign for a role: keys, and how many of them are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Every key id named, also of keys that the file does not hold.
    pub ids: BTreeSet<KeyId>,
    /// The named keys that the file holds.
    pub keys: BTreeMap<KeyId, PublicKey>,
    /// At least 1.
    pub threshold: u64,
}

impl Authority {
    /// Whether the same keys have to sign, and as many of them.
    pub fn same_as(&self, other: &Authority) -> bool {
        self.ids == other.ids && self.threshold == other.threshold
    }

    /// Reads `keyids` and `threshold` of an object.
    pub(super) fn read(
        object: Object<'_>,
        known: &BTreeMap<KeyId, PublicKey>,
    ) -> Result<Authority, TrustError> {
        let mut ids = BTreeSet::new();
        for word in object.words("keyids", "keys of one role", limits::KEYS_PER_ROLE)? {
            ids.insert(KeyId::parse(word).map_err(|e| object.flaw(e))?);
        }
        let keys =
            ids.iter().filter_map(|id| known.get(id).map(|key| (*id, key.clone()))).gathered();
        Ok(Authority { ids, keys, threshold: object.positive("threshold")? })
    }
}

/// Reads `keys` of an object; every id must be the hash of its key.
pub(super) fn read_keys(object: Object<'_>) -> Result<BTreeMap<KeyId, PublicKey>, TrustError> {
    let listed = object.object("keys")?;
    listed.at_most(listed.members().len(), "keys", limits::KEYS_PER_FILE)?;
    let mut keys = BTreeMap::new();
    for (id, value) in listed.members() {
        let Some(key) = PublicKey::listed(value, id) else {
            let (role, listed) = (object.role().clone(), id.chars().take(80).collect());
            let computed = PublicKey::from_value(value).id();
            return Err(TrustError::KeyIdMismatch { role, listed, computed });
        };
        keys.insert(key.id(), key);
    }
    Ok(keys)
}

/// The content of root metadata.
#[derive(Debug, Clone)]
pub struct Root {
    header: Header,
    /// Whether files are kept and asked for by version.
    pub consistent_snapshot: bool,
    root: Authority,
    targets: Authority,
    snapshot: Authority,
    timestamp: Authority,
}

impl Root {
    /// Who may sign for a top-level role; `None` for any other role.
    pub fn authority(&self, role: &Role) -> Option<&Authority> {
        match role {
            Role::Root => Some(&self.root),
            Role::Targets => Some(&self.targets),
            Role::Snapshot => Some(&self.snapshot),
            Role::Timestamp => Some(&self.timestamp),
            Role::Policy | Role::Release(_) | Role::Ring(..) | Role::Other(_) => None,
        }
    }

    /// Who may sign root.
    pub fn root(&self) -> &Authority {
        &self.root
    }

    /// Who may sign targets.
    pub fn targets(&self) -> &Authority {
        &self.targets
    }

    /// Who may sign snapshot.
    pub fn snapshot(&self) -> &Authority {
        &self.snapshot
    }

    /// Who may sign timestamp.
    pub fn timestamp(&self) -> &Authority {
        &self.timestamp
    }
}

impl Content for Root {
    const TYPE: &'static str = "root";

    fn read(members: &Map<String, Value>, role: &Role, header: Header) -> Result<Root, TrustError> {
        let object = Object::over(members, role, "`signed`");
        let keys = read_keys(object)?;
        let roles = object.object("roles")?;
        let authority = |name| Authority::read(roles.object(name)?, &keys);
        Ok(Root {
            header,
            consistent_snapshot: object.truth("consistent_snapshot")?,
            root: authority("root")?,
            targets: authority("targets")?,
            snapshot: authority("snapshot")?,
            timestamp: authority("timestamp")?,
        })
    }

    fn header(&self) -> &Header {
        &self.header
    }
}
