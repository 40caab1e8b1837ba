//! What applying a fleet file would change of the part that nobody signs, in words. The signed part is
//! told by `refit_proto::policy::words`, as its signers are told.

use std::collections::BTreeMap;

use refit_proto::{
    hours::SETTLE,
    package::Urgency,
    wire::{Hours, RingPolicy, RolloutPolicy},
};

use super::hours;
use crate::duration::in_words;

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
    lines.extend(of_plan(before, after));
    lines.extend(of_hours(before, after));
    let order =
        |rings: &[RingPolicy]| rings.iter().map(|ring| ring.ring.clone()).collect::<Vec<_>>();
    if lines.is_empty() && before.is_none_or(|before| order(&before.rings) != order(&after.rings)) {
        lines.push(format!("{product}: limits in the order of its rings"));
    }
    lines
}

/// What is asked of the change plans of each urgency.
fn of_plan(before: Option<&RolloutPolicy>, after: &RolloutPolicy) -> Vec<String> {
    let product = &after.product;
    let asked = |policy: Option<&RolloutPolicy>, urgency: &str| {
        let rules = policy.into_iter().flat_map(|policy| &policy.plan_rules);
        let fields = rules.filter(|rule| rule.urgency == urgency).flat_map(|rule| &rule.fields);
        let fields: Vec<&str> = fields.map(String::as_str).collect();
        if fields.is_empty() { "nothing".to_owned() } else { fields.join(", ") }
    };
    let changed = Urgency::ALL.map(Urgency::as_str).into_iter().filter_map(|urgency| {
        let (then, now) = (asked(before, urgency), asked(Some(after), urgency));
        let words = format!("{product}: {urgency} releases have to say {now}");
        (then != now).then(|| format!("{words}, was {then}"))
    });
    changed.collect()
}

/// When updates may begin.
fn of_hours(before: Option<&RolloutPolicy>, after: &RolloutPolicy) -> Vec<String> {
    let product = &after.product;
    let before = before.and_then(|before| before.hours.as_ref());
    let (then, now) = (hours::in_words(before), hours::in_words(after.hours.as_ref()));
    let new = now.difference(&then).map(|rule| format!("{product}: {rule}"));
    let gone = then.difference(&now).map(|rule| format!("{product}: no more: {rule}"));
    let mut lines: Vec<String> = new.chain(gone).collect();
    let settle = |hours: Option<&Hours>| hours.map_or(SETTLE, |hours| hours.settle_seconds);
    let (then, now) = (settle(before), settle(after.hours.as_ref()));
    if then != now {
        let (now, then) = (in_words(now), in_words(then));
        lines.push(format!("{product}: begins nothing for {now} after a change, was {then}"));
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

#[cfg(test)]
mod tests {
    use refit_proto::policy::{
        ProductPolicy, Signatories,
        words::{of_labels, of_policy},
    };

    use super::{
        super::file::tests::{EXAMPLE, HOURS, parse},
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
    fn windows_and_freezes_that_come_and_go_are_named() {
        let before = parse(HOURS).unwrap();
        let text = HOURS
            .replacen("22:00-04:00", "23:00-04:00", 1)
            .replacen("\"5m\"", "\"10m\"", 1)
            .replacen("year-end closing", "audit", 1);
        let after = parse(&text).unwrap();
        let window = |from: &str| {
            format!(
                "begins only mon,tue,wed,thu {from}:00-04:00 never thu 23:00-00:00, by Europe/Berlin, \
                 in pilot, where region=eu|us, where role=db"
            )
        };
        let freeze = |why: &str| {
            format!("begins nothing from 2026-12-19T23:00:00Z until 2027-01-01T23:00:00Z ({why})")
        };
        assert_eq!(
            of_rollout(Some(&before.products[0].rollout), &after.products[0].rollout),
            [
                format!("payments: {}", freeze("audit")),
                format!("payments: {}", window("23")),
                format!("payments: no more: {}", freeze("year-end closing")),
                format!("payments: no more: {}", window("22")),
                "payments: begins nothing for 10m after a change, was 5m".to_owned(),
            ]
        );
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
                "name = \"payments\"\nplan = { high = [\"owner\", \"goal\"] }\n",
                "payments: high releases have to say goal, owner, was nothing",
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
