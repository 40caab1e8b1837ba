//! Why a host runs what it runs: which ring has it and by which label, what that ring wants of it, the one rule that
//! decides now, until when, who can change it, and when it would be updated. Reads only.

use jiff::Timestamp;
use refit_proto::{
    names::Labels,
    policy::{Selector, words::any_of},
    wire,
};

use crate::{
    api::{ApiError, Shared, find_host},
    fleet::{Host, Placement},
    impact::{self, Question},
    product_view::ProductNow,
    rollout::{HoldReason, RingPlan},
    status::{self, PlacementView},
    store::{Rev, Store},
};

/// Everything that decides for one host, by its name or id.
///
/// # Errors
/// If there is no such host, or store or content can't be read.
pub fn host(
    shared: &Shared,
    store: &dyn Store,
    named: &str,
) -> Result<wire::HostExplanation, ApiError> {
    let host = find_host(store, named)?.value;
    let central = shared.labels.read(store, &shared.content)?;
    let labels = central.labels_of(&host.id, &host.labels);
    let look = Look { shared, store, host: &host, labels: &labels, now: shared.clock.now() };
    let views = ProductNow::read_all(store)?;
    let products = views.iter().map(|view| look.product(view));
    Ok(wire::HostExplanation {
        host_id: host.id.to_string(),
        name: host.name.to_string(),
        state: host.state.word().to_owned(),
        last_seen: shared.presence.last_seen(&host.id, host.last_seen).to_string(),
        platform: host.platform.to_string(),
        time_zone: host.time_zone.clone(),
        products: products.collect::<Result<_, _>>()?,
        labels: labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
    })
}

struct Look<'a> {
    shared: &'a Shared,
    store: &'a dyn Store,
    host: &'a Host,
    labels: &'a Labels,
    now: Timestamp,
}

impl Look<'_> {
    fn product(&self, view: &ProductNow) -> Result<wire::ProductExplanation, ApiError> {
        let plan = view.plan(self.shared.listening_since, self.now, |_| Vec::new());
        let held = self.store.placement(&view.product, &self.host.id)?;
        let nothing = || Placement::new(view.product.clone(), self.host.id.clone(), self.now);
        let placement = held.map_or_else(nothing, |Rev { value, .. }| value);
        let ring = placement.ring.as_ref().and_then(|ring| plan.ring(ring));
        let seen = PlacementView { placement: &placement, ring };
        let shown = status::placement(self.host, self.labels, &seen, self.now);
        let mut explained = wire::ProductExplanation {
            product: view.product.to_string(),
            considered: self.considered(view),
            ..Default::default()
        };
        if let Some(ring) = ring.filter(|_| shown.installed != shown.wanted) {
            explained.earliest = self.earliest(shown.hold.as_ref());
            (explained.ring_through, explained.no_time) = self.through(view, ring)?;
        }
        explained.placement = Some(shown);
        Ok(explained)
    }

    /// The rings up to the one that has it, and which label decides in each.
    fn considered(&self, view: &ProductNow) -> Vec<wire::ConsideredRing> {
        let mut considered = Vec::new();
        for ring in &view.rings {
            let (has_it, why) = selects(&ring.ring.value.select, self.labels);
            let ring = ring.ring.value.ring.to_string();
            considered.push(wire::ConsideredRing { ring, has_it, why });
            if has_it {
                break;
            }
        }
        considered
    }

    /// Nothing begins before a hold ends, and one that does not end by itself takes somebody's act.
    fn earliest(&self, hold: Option<&wire::Hold>) -> String {
        match hold {
            None => self.now.to_string(),
            // Nobody but the host itself, which may ask at any moment.
            Some(hold) if hold.reason == HoldReason::HostsNotReady(1).word() => {
                self.now.to_string()
            }
            Some(hold) => hold.until.clone(),
        }
    }

    fn through(&self, view: &ProductNow, ring: &RingPlan) -> Result<(String, String), ApiError> {
        let Some(current) = &ring.ring.current else { return Ok(Default::default()) };
        let version = current.version.clone();
        let question = Question { product: view.product.clone(), version, update: None };
        let impact = impact::of(self.shared, self.store, Some(view), &question)?;
        let name = ring.ring.ring.as_str();
        let told = impact.rings.into_iter().find(|told| told.ring == name);
        Ok(told.map(|told| (told.through, told.no_times)).unwrap_or_default())
    }
}

/// Whether a ring's rule is about these labels, and what of it decides.
fn selects(rule: &Selector, labels: &Labels) -> (bool, String) {
    let Selector::Labels(wanted) = rule else { return (true, "it takes every host".to_owned()) };
    let lacking = wanted.iter().find(|(name, values)| match labels.get(*name) {
        Some(value) => !values.contains(value),
        None => true,
    });
    match lacking {
        None if wanted.is_empty() => (false, "it takes no host".to_owned()),
        None => {
            let all = wanted.iter().map(|(name, values)| any_of(name, values));
            let all: Vec<String> = all.collect();
            (true, format!("the host has {}", all.join(" and ")))
        }
        Some((name, values)) => {
            let has = match labels.get(name) {
                Some(value) => format!("the host has {name}={value}"),
                None => format!("the host has no label {name}"),
            };
            (false, format!("it takes {}; {has}", any_of(name, values)))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use refit_proto::names::{LabelName, LabelValue};

    use super::*;

    fn labels(text: &str) -> Labels {
        let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap());
        let parsed = |(name, value): (&str, &str)| {
            (LabelName::parse(name).unwrap(), LabelValue::parse(value).unwrap())
        };
        pairs.map(parsed).collect()
    }

    #[test]
    fn the_label_that_decides_is_named_and_the_verdict_is_the_selectors() {
        let value = |text: &str| LabelValue::parse(text).unwrap();
        let rule = Selector::Labels(BTreeMap::from([
            (LabelName::parse("region").unwrap(), vec![value("eu"), value("us")]),
            (LabelName::parse("role").unwrap(), vec![value("db")]),
        ]));
        let none = Selector::Labels(BTreeMap::new());
        for (rule, host, has_it, why) in [
            (&rule, "region=us role=db", true, "the host has region=eu|us and role=db"),
            (&rule, "region=us", false, "it takes role=db; the host has no label role"),
            (
                &rule,
                "region=asia role=db",
                false,
                "it takes region=eu|us; the host has region=asia",
            ),
            (&Selector::EveryHost, "", true, "it takes every host"),
            (&none, "region=us", false, "it takes no host"),
        ] {
            let labels = labels(host);
            assert_eq!(selects(rule, &labels), (has_it, why.to_owned()), "{host}");
            assert_eq!(rule.matches(&labels), has_it, "{host}");
        }
    }
}
