//! What applying a fleet file would change, in words. Pure: two descriptions in, lines out.

use std::collections::BTreeMap;

use refit_proto::{
    names::HostId,
    policy::{LabelPolicy, Person, ProductPolicy, RingDefinition, Selector},
    servers::{Authority, ServersPolicy},
    wire::{RingPolicy, RolloutPolicy},
};

use crate::duration::in_words;

/// What the signed part of a product would change from `before`; nothing if it stays as it is.
pub(super) fn of_policy(before: Option<&ProductPolicy>, after: &ProductPolicy) -> Vec<String> {
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
            let labels = labels.iter().map(|(name, values)| {
                let values: Vec<_> = values.iter().map(|value| value.as_str()).collect();
                format!("{name}={}", values.join("|"))
            });
            format!("selects {}", labels.collect::<Vec<_>>().join(" and "))
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

/// What the part that only narrows would change; the revision is the server's and does not count.
pub(super) fn of_rollout(before: Option<&RolloutPolicy>, after: &RolloutPolicy) -> Vec<String> {
    let product = &after.product;
    let old = |ring: &RingPolicy| {
        before.and_then(|before| before.rings.iter().find(|old| old.ring == ring.ring))
    };
    let mut lines: Vec<String> = Vec::new();
    for ring in &after.rings {
        let now = limits(ring);
        let changed: Vec<String> = match old(ring).map(limits) {
            None => now.iter().map(|(name, value)| format!("{name} {value}")).collect(),
            Some(then) => now
                .iter()
                .filter(|(name, value)| then.get(*name) != Some(value))
                .map(|(name, value)| format!("{name} {value}, was {}", then[name]))
                .collect(),
        };
        if !changed.is_empty() {
            lines.push(format!("{product}/{}: {}", ring.ring, changed.join("; ")));
        }
    }
    let removed = before.into_iter().flat_map(|before| &before.rings);
    let removed = removed.filter(|old| after.rings.iter().all(|ring| ring.ring != old.ring));
    lines.extend(removed.map(|old| format!("{product}/{}: limits removed", old.ring)));
    let order =
        |rings: &[RingPolicy]| rings.iter().map(|ring| ring.ring.clone()).collect::<Vec<_>>();
    if lines.is_empty() && before.is_none_or(|before| order(&before.rings) != order(&after.rings)) {
        lines.push(format!("{product}: limits in the order of its rings"));
    }
    lines
}

/// Each limit by name, in words.
fn limits(ring: &RingPolicy) -> BTreeMap<&'static str, String> {
    let waves: Vec<String> = ring.waves.iter().map(ToString::to_string).collect();
    let halt = match (ring.failures_count, ring.failures_percent) {
        (0, percent) => format!("at {percent} % failed"),
        (count, 0) => format!("at {count} failed"),
        (count, percent) => format!("at {count} or {percent} % failed"),
    };
    BTreeMap::from([
        (
            "waves",
            if waves.is_empty() {
                "all at once".to_owned()
            } else {
                format!("{}, rest", waves.join(", "))
            },
        ),
        ("max_in_flight", ring.max_in_flight.to_string()),
        ("soak", in_words(ring.soak_seconds)),
        ("halt", halt),
        ("silence", in_words(ring.silence_seconds)),
        ("update_limit", in_words(ring.update_limit_seconds)),
        ("lease", in_words(ring.lease_seconds)),
        ("poll", in_words(ring.poll_seconds.into())),
    ])
}

/// What the labels set from the centre would change.
pub(super) fn of_labels(before: Option<&LabelPolicy>, after: &LabelPolicy) -> Vec<String> {
    let none = BTreeMap::new();
    let before = before.map_or(&none, |before| &before.hosts);
    let words = |host: &HostId, hosts: &BTreeMap<HostId, refit_proto::names::Labels>| {
        let labels = hosts.get(host).into_iter().flatten();
        let words: Vec<_> = labels.map(|(name, value)| format!("{name}={value}")).collect();
        if words.is_empty() { "none".to_owned() } else { words.join(" ") }
    };
    let hosts: std::collections::BTreeSet<&HostId> =
        before.keys().chain(after.hosts.keys()).collect();
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
pub(super) fn of_servers(before: Option<&ServersPolicy>, after: &ServersPolicy) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use refit_proto::policy::Signatories;

    use super::{
        super::file::tests::{EXAMPLE, parse},
        *,
    };

    /// What changes between the example and the example with one text replaced.
    fn changes(from: &str, to: &str) -> Vec<String> {
        let before = parse(EXAMPLE).unwrap();
        let after = parse(&EXAMPLE.replacen(from, to, 1)).unwrap();
        let (old, new) = (&before.products[0], &after.products[0]);
        let mut lines = of_policy(Some(&old.policy), &new.policy);
        lines.extend(of_rollout(Some(&old.rollout), &new.rollout));
        if let (Some(old), Some(new)) = (&before.labels, &after.labels) {
            lines.extend(of_labels(Some(old), new));
        }
        lines
    }

    #[test]
    fn what_stays_as_it_is_is_not_mentioned() {
        assert_eq!(changes("", ""), Vec::<String>::new());
    }

    #[test]
    fn each_change_is_told_with_what_was_before() {
        for (from, to, expected) in [
            ("soak = \"36h\"", "soak = \"1h\"", "payments/pilot: soak 1h, was 36h"),
            ("[1, 10]", "[]", "payments/early: waves all at once, was 1, 10, rest"),
            (
                "failures = 5, percent = 10",
                "percent = 10",
                "payments/early: halt at 10 % failed, was at 5 or 10 % failed",
            ),
            (
                "pilot = \"yes\"",
                "pilot = \"no\"",
                "payments/pilot: selects pilot=no, with the server's gate key, was: selects pilot=yes, with the server's gate key",
            ),
            (
                "gate = true",
                "",
                "payments/pilot: selects pilot=yes, was: selects pilot=yes, with the server's gate key",
            ),
            (
                "every_host = true",
                "every_host = true\nafter = [\"pilot\"]\ndemands = [\"security\"]",
                "payments/broad: selects every host, after pilot, demands security, was: selects every host",
            ),
            (
                "name = \"payments\"\n",
                "name = \"payments\"\npersons = { eve = { k = [\"business\"] } }\n",
                "payments: person eve signs with key 8254c329a928 (business)",
            ),
            (
                "role = \"db\"\n",
                "role = \"web\"\n",
                "host 00112233445566778899aabbccddeeff: labels role=web, was: role=db",
            ),
        ] {
            let mut told = changes(from, to);
            if from == "gate = true" {
                let gate = super::super::file::tests::key("gate");
                let gone =
                    format!("payments: the server's gate key {} counts no more", gate.short());
                assert_eq!(told.remove(0), gone);
            }
            assert_eq!(told, [expected], "{from}");
        }
    }

    #[test]
    fn a_new_product_a_removed_ring_and_another_order_are_told() {
        let fleet = parse(EXAMPLE).unwrap();
        let new = &fleet.products[0];
        assert_eq!(of_policy(None, &new.policy)[0], "payments: new product");
        assert_eq!(of_policy(None, &new.policy).len(), 5);
        assert_eq!(of_rollout(None, &new.rollout).len(), 3);

        let mut fewer = new.policy.rings.clone();
        fewer.remove(1);
        let gate = || Signatories { gate_key: new.policy.gate_key, ..Signatories::default() };
        let product = || new.policy.product.clone();
        let fewer = ProductPolicy::with_signatories(product(), fewer, gate()).unwrap();
        assert!(of_policy(Some(&new.policy), &fewer)[0].starts_with("payments/early: removed"));

        let mut turned = new.policy.rings.clone();
        turned.reverse();
        let turned = ProductPolicy::with_signatories(product(), turned, gate()).unwrap();
        assert_eq!(
            of_policy(Some(&new.policy), &turned),
            ["payments: rings in the order broad, early, pilot, was: pilot, early, broad"]
        );
    }
}
