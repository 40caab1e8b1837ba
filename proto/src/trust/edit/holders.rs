//! Who holds which key, written into root and targets beside the keys, so that a person can be named who
//! still has to sign. It is signed like the rest; no rule of trust depends on it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Draft;
use crate::{gathered::Gathered as _, printable::printable, trust::key::KeyId};

/// A member that TUF does not know: other readers carry it on and look past it.
const MEMBER: &str = "x-refit-holders";

/// The holders that signed content names.
pub fn holders(signed: &Value) -> BTreeMap<KeyId, String> {
    let named = signed.get(MEMBER).and_then(Value::as_object).into_iter().flatten();
    named
        .filter_map(|(id, name)| {
            let name = printable(&name.as_str()?.chars().take(60).collect::<String>());
            Some((KeyId::parse(id).ok()?, name))
        })
        .gathered()
}

impl Draft {
    /// Names who holds keys. Who holds a key that the file no longer lists is forgotten.
    pub fn name_holders(&mut self, named: &BTreeMap<KeyId, String>) {
        let mut all = holders(&self.value());
        all.extend(named.clone());
        let listed = self.listed_keys();
        let members: Map<String, Value> = all
            .into_iter()
            .map(|(id, name)| (id.to_string(), name.into()))
            .filter(|(id, _)| listed.contains(id))
            .collect();
        if members.is_empty() {
            self.signed.remove(MEMBER);
        } else {
            self.signed.insert(MEMBER.into(), Value::Object(members));
        }
    }

    fn listed_keys(&self) -> Vec<String> {
        let own = self.signed.get("keys");
        let delegated = self.signed.get("delegations").and_then(|it| it.get("keys"));
        let lists = own.into_iter().chain(delegated).filter_map(Value::as_object);
        lists.flat_map(|keys| keys.keys().cloned()).collect()
    }
}
