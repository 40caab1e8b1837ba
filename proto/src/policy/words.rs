//! What signed documents of the policy role change, in words, for whoever applies them and whoever signs
//! for them. Two documents in, lines out.

use std::collections::{BTreeMap, BTreeSet};

use super::{LabelPolicy, Person, ProductPolicy, RingDefinition, Selector};
use crate::{
    gathered::Gathered as _,
    names::{HostId, Labels},
    servers::{Authority, ServersPolicy},
};

/// What the signed part of a product would change from `before`; nothing if it stays as it is.
pub fn of_policy(before: Option<&ProductPolicy>, after: &ProductPolicy) -> Vec<String> {
    let product = &after.product;
    let Some(before) = before else {
        let rings = after
            .rings
            .iter()
            .map(|ring| format!("{product}/{}: new ring, {}", ring.ring, definition(ring)));
        let people = signatories(None, after);
        return [format!("{product}: new product")]
            .into_iter()
            .chain(people)
            .chain(rings)
            .collect();
    };
    let mut lines = signatories(Some(before), after);
    for ring in &after.rings {
        match before.ring(&ring.ring) {
            None => lines.push(format!("{product}/{}: new ring, {}", ring.ring, definition(ring))),
            Some(old) if old != ring => lines.push(format!(
                "{product}/{}: {}, was: {}",
                ring.ring,
                definition(ring),
                definition(old)
            )),
            Some(_) => {}
        }
    }
    for ring in &before.rings {
        if after.ring(&ring.ring).is_none() {
            lines.push(format!("{product}/{}: removed; its hosts move to the ring that selects them next, or to none", ring.ring));
        }
    }
    let order = |policy: &ProductPolicy| {
        policy.rings.iter().map(|ring| ring.ring.to_string()).collect::<Vec<_>>().join(", ")
    };
    if lines.is_empty() && order(before) != order(after) {
        lines.push(format!(
            "{product}: rings in the order {}, was: {}",
            order(after),
            order(before)
        ));
    }
    if lines.is_empty() && before != after {
        lines.push(format!("{product}: written anew, with the same rings"));
    }
    lines
}

fn definition(ring: &RingDefinition) -> String {
    let select = match &ring.select {
        Selector::EveryHost => "selects every host".to_owned(),
        Selector::Labels(labels) => {
            format!("selects {}", listed(labels.iter().map(|(name, values)| any_of(name, values))))
        }
    };
    let mut words = vec![select];
    if ring.gate {
        words.push("with the server's gate key".to_owned());
    }
    let rules = &ring.rules;
    if !rules.kinds.is_empty() {
        words.push(format!("needs approvals: {}", listed(&rules.kinds)));
    }
    if !rules.after.is_empty() {
        words.push(format!("after {}", listed(&rules.after)));
    }
    if !rules.demands.is_empty() {
        words.push(format!("demands {}", listed(&rules.demands)));
    }
    if !rules.overridable.is_empty() {
        words.push(format!("lets pass over {}", listed(&rules.overridable)));
    }
    words.join(", ")
}

/// A label with the values of which it may have any: `region=eu|us`.
pub fn any_of<T: ToString>(label: &impl ToString, values: &[T]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    format!("{}={}", label.to_string(), values.join("|"))
}

fn listed<T: ToString>(words: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| word.to_string()).collect();
    words.join(" and ")
}

/// Who signs promotions, as far as it changes.
fn signatories(before: Option<&ProductPolicy>, after: &ProductPolicy) -> Vec<String> {
    let product = &after.product;
    let mut lines = Vec::new();
    for (name, held) in &after.persons {
        if before.and_then(|before| before.persons.get(name)) != Some(held) {
            lines.push(format!("{product}: person {name} signs with {}", person(held)));
        }
    }
    for name in before.into_iter().flat_map(|before| before.persons.keys()) {
        if !after.persons.contains_key(name) {
            lines.push(format!("{product}: person {name} counts no more"));
        }
    }
    match (before.and_then(|before| before.gate_key), after.gate_key) {
        (old, Some(new)) if old != Some(new) => {
            lines.push(format!("{product}: the server's gate key is {}", new.short()));
        }
        (Some(old), None) => {
            lines.push(format!("{product}: the server's gate key {} counts no more", old.short()));
        }
        (Some(_) | None, _) => {}
    }
    lines
}

fn person(person: &Person) -> String {
    let keys = person.keys.iter().map(|(key, kinds)| match kinds.is_empty() {
        true => format!("key {} (no kind of approval)", key.short()),
        false => format!("key {} ({})", key.short(), listed(kinds)),
    });
    listed(keys)
}

/// What the labels set from the centre would change.
pub fn of_labels(before: Option<&LabelPolicy>, after: &LabelPolicy) -> Vec<String> {
    let none = BTreeMap::new();
    let before = before.map_or(&none, |before| &before.hosts);
    let words = |host: &HostId, hosts: &BTreeMap<HostId, Labels>| {
        let labels = hosts.get(host).into_iter().flatten();
        let words: Vec<_> = labels.map(|(name, value)| format!("{name}={value}")).collect();
        if words.is_empty() { "none".to_owned() } else { words.join(" ") }
    };
    let hosts: BTreeSet<&HostId> = before.keys().chain(after.hosts.keys()).gathered();
    hosts
        .into_iter()
        .filter(|host| before.get(*host) != after.hosts.get(*host))
        .map(|host| {
            format!(
                "host {host}: labels {}, was: {}",
                words(host, &after.hosts),
                words(host, before)
            )
        })
        .collect()
}

/// What another list of servers would change.
pub fn of_servers(before: Option<&ServersPolicy>, after: &ServersPolicy) -> Vec<String> {
    let named = |servers: &ServersPolicy| {
        let short = |authority: &Authority| authority.sha256().short();
        [
            ("addresses", words(servers.servers.iter().map(ToString::to_string))),
            ("mirrors", words(servers.mirrors.iter().map(ToString::to_string))),
            ("authorities", words(servers.authorities.iter().map(short))),
        ]
    };
    let old = before.map(named);
    let lines = named(after).into_iter().enumerate().filter_map(|(at, (name, now))| {
        let then = old.as_ref().map(|old| old[at].1.as_str());
        (then != Some(&now)).then(|| match then {
            Some(then) => format!("servers: {name} {now}, was: {then}"),
            None => format!("servers: {name} {now}"),
        })
    });
    lines.collect()
}

fn words(items: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = items.collect();
    if words.is_empty() { "none".to_owned() } else { words.join(" ") }
}
