//! Keys and thresholds, as they are written into root and into delegations.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::EditError;
use crate::trust::{key::PublicKey, role::Role};

type Members = Map<String, Value>;

/// Keys, and how many of them must sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyList {
    /// Each once.
    pub keys: Vec<PublicKey>,
    /// From 1 to the number of keys.
    pub threshold: u64,
}

impl KeyList {
    /// These keys, of which so many must sign.
    pub fn new(keys: impl IntoIterator<Item = PublicKey>, threshold: u64) -> KeyList {
        KeyList { keys: keys.into_iter().collect(), threshold }
    }

    fn check(&self, role: &Role) -> Result<(), EditError> {
        let mut seen = BTreeSet::new();
        for key in &self.keys {
            let material = key
                .material()
                .ok_or_else(|| EditError::UnusableKey { role: role.clone(), key: key.id() })?;
            if !seen.insert(material) {
                return Err(EditError::SameKeyTwice { role: role.clone(), key: key.id() });
            }
        }
        if self.threshold == 0 || self.threshold > self.keys.len() as u64 {
            let (threshold, keys) = (self.threshold, self.keys.len());
            return Err(EditError::Threshold { role: role.clone(), threshold, keys });
        }
        Ok(())
    }

    fn authority(&self) -> Map<String, Value> {
        let ids: Vec<String> = self.keys.iter().map(|key| key.id().to_string()).collect();
        let mut members = Map::new();
        members.insert("keyids".into(), json!(ids));
        members.insert("threshold".into(), self.threshold.into());
        members
    }

    fn put_into(&self, keys: &mut Map<String, Value>) {
        for key in &self.keys {
            keys.insert(key.id().to_string(), key.to_value().clone());
        }
    }

    /// The keys, and the delegation's members that name them.
    pub(super) fn to_delegation(&self, role: &Role) -> Result<(Members, Members), EditError> {
        self.check(role)?;
        let mut keys = Map::new();
        self.put_into(&mut keys);
        Ok((keys, self.authority()))
    }
}

/// Keys and thresholds of the top-level roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootKeys {
    /// Offline.
    pub root: KeyList,
    /// Offline.
    pub targets: KeyList,
    /// The server's freshness key.
    pub snapshot: KeyList,
    /// The server's freshness key.
    pub timestamp: KeyList,
}

impl RootKeys {
    /// `keys` and `roles` of root.
    pub(super) fn to_values(&self) -> Result<(Value, Value), EditError> {
        let (mut keys, mut roles) = (Map::new(), Map::new());
        for (role, list) in [
            (Role::Root, &self.root),
            (Role::Targets, &self.targets),
            (Role::Snapshot, &self.snapshot),
            (Role::Timestamp, &self.timestamp),
        ] {
            list.check(&role)?;
            list.put_into(&mut keys);
            roles.insert(role.to_string(), Value::Object(list.authority()));
        }
        Ok((Value::Object(keys), Value::Object(roles)))
    }
}

/// Adds a delegation, or replaces the role's in its place; its unknown members stay.
pub(super) fn put_delegation(
    signed: &mut Map<String, Value>,
    role: &Role,
    known: Map<String, Value>,
    delegation: Map<String, Value>,
) {
    let empty = || json!({ "keys": {}, "roles": [] });
    let delegations = signed.entry("delegations").or_insert_with(empty);
    if let Some(Value::Object(keys)) = delegations.get_mut("keys") {
        keys.extend(known);
    }
    if let Some(Value::Array(roles)) = delegations.get_mut("roles") {
        match roles.iter_mut().find(|value| is_of(value, role)) {
            Some(Value::Object(before)) => before.extend(delegation),
            Some(_) | None => roles.push(Value::Object(delegation)),
        }
    }
    drop_unused_keys(delegations);
}

/// Removes the role's delegation; says whether there was one.
pub(super) fn remove_delegation(signed: &mut Map<String, Value>, role: &Role) -> bool {
    let Some(delegations) = signed.get_mut("delegations") else { return false };
    let Some(Value::Array(roles)) = delegations.get_mut("roles") else { return false };
    let count = roles.len();
    roles.retain(|value| !is_of(value, role));
    let removed = roles.len() < count;
    drop_unused_keys(delegations);
    removed
}

fn is_of(delegation: &Value, role: &Role) -> bool {
    delegation.get("name").and_then(Value::as_str) == Some(role.to_string().as_str())
}

/// A key that no delegation names is a trap for readers: it looks trusted.
fn drop_unused_keys(delegations: &mut Value) {
    let roles = delegations.get("roles").and_then(Value::as_array).cloned().unwrap_or_default();
    let used: BTreeSet<String> = roles
        .iter()
        .filter_map(|role| role.get("keyids")?.as_array())
        .flatten()
        .filter_map(|id| id.as_str().map(str::to_owned))
        .collect();
    if let Some(Value::Object(keys)) = delegations.get_mut("keys") {
        keys.retain(|id, _| used.contains(id));
    }
}
