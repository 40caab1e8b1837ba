//! The signed part of a product's rings, `policy/<product>.json`: what widens or assigns. A host
//! evaluates it itself, on its own labels. What only narrows (waves, caps, soak, limits) is the server's
//! and unsigned.

pub(crate) mod rules;
pub mod words;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::rules::{ApprovalKind, EvidenceKind, Gate, Person, Rules, UnknownWord};
use crate::{
    names::{HostId, LabelName, LabelValue, Labels, PersonName, Product, RingName},
    package::{DocumentError, FORMAT, parse_document, parse_document_knowing},
    trust::KeyId,
};

/// Bounds of the unsigned part: the server refuses what is beyond them, and `refit` says so before
/// anything is changed.
pub mod limits {
    /// Most rings of a product: far above any use, and far below any harm.
    pub const RINGS: usize = 64;
    /// Most waves of a ring.
    pub const WAVES: usize = 64;
    /// Longest time that a policy may name, in seconds: a year. Above it is a mistake in the unit.
    pub const SPAN: u64 = 366 * 24 * 3600;
    /// Longest lease, in seconds: how long after a pause a host may still begin. And the longest time
    /// from one call of a host to the next.
    pub const LEASE: u64 = 3600;
}

/// The rings of one product, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProductPolicy {
    /// Always `policy`.
    #[serde(rename = "_type")]
    kind: String,
    format: u32,
    /// Features that a reader must know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// The product.
    pub product: Product,
    /// Its rings; a host is in the first whose selector matches.
    pub rings: Vec<RingDefinition>,
    /// Who approves, by name. Where nobody is named, each key of a ring stands for itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub persons: BTreeMap<PersonName, Person>,
    /// The server's gate key: it counts for rings that say `gate`, and for no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_key: Option<KeyId>,
}

/// What a ring is, as far as it is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingDefinition {
    /// Unique within the product.
    pub ring: RingName,
    /// Which hosts are in it.
    pub select: Selector,
    /// The server's gate key may sign its own part for this ring.
    #[serde(default)]
    pub gate: bool,
    /// What it asks of a promotion beyond the threshold of its keys.
    #[serde(default, skip_serializing_if = "Rules::is_empty")]
    pub rules: Rules,
}

/// Who signs promotions of a product, as far as its policy says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signatories {
    /// Who approves, by name.
    pub persons: BTreeMap<PersonName, Person>,
    /// The server's gate key.
    pub gate_key: Option<KeyId>,
}

/// Which hosts a ring selects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selector {
    /// Hosts that have every one of these labels, with one of the values given. Never empty.
    Labels(BTreeMap<LabelName, Vec<LabelValue>>),
    /// Every host, by name: an empty rule must not mean this by accident.
    EveryHost,
}

impl Selector {
    /// Whether a host with these labels is selected. A label that the host lacks does not match.
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Selector::Labels(wanted) => {
                !wanted.is_empty()
                    && wanted.iter().all(|(name, values)| {
                        labels.get(name).is_some_and(|value| values.contains(value))
                    })
            }
            Selector::EveryHost => true,
        }
    }
}

impl ProductPolicy {
    /// Largest policy that anyone reads, bytes.
    pub const MAX_LENGTH: u64 = 1_000_000;

    /// A policy of these rings, checked.
    ///
    /// # Errors
    /// A ring that stands twice, or a selector without labels.
    pub fn new(product: Product, rings: Vec<RingDefinition>) -> Result<Self, DocumentError> {
        ProductPolicy::with_signatories(product, rings, Signatories::default())
    }

    /// The same, with who signs promotions. A reader that knows nothing of approvals refuses it.
    ///
    /// # Errors
    /// As [`ProductPolicy::new`], and rules that contradict each other or that nobody could ever meet.
    pub fn with_signatories(
        product: Product,
        rings: Vec<RingDefinition>,
        signatories: Signatories,
    ) -> Result<Self, DocumentError> {
        let ruled = rings.iter().any(|ring| !ring.rules.is_empty());
        let required = match ruled || signatories != Signatories::default() {
            true => vec![rules::FEATURE.to_owned()],
            false => Vec::new(),
        };
        let Signatories { persons, gate_key } = signatories;
        let kind = "policy".into();
        let policy =
            ProductPolicy { kind, format: FORMAT, required, product, rings, persons, gate_key };
        policy.check()?;
        Ok(policy)
    }

    /// Reads a policy whose digest and length have been checked against the policy role.
    ///
    /// # Errors
    /// Anything that this program cannot follow to the letter: a rule that can't be evaluated is closed.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let policy: ProductPolicy = parse_document_knowing("policy", bytes, &[rules::FEATURE])?;
        policy.check()?;
        Ok(policy)
    }

    /// The policy's bytes, which the policy role pins.
    pub fn to_bytes(&self) -> Vec<u8> {
        // No map with other than string keys and no fallible value: this cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The ring that a host with these labels is in: the first whose selector matches. `None`: the host
    /// is left alone.
    pub fn ring_of(&self, labels: &Labels) -> Option<&RingDefinition> {
        self.rings.iter().find(|ring| ring.select.matches(labels))
    }

    /// Whose key it is.
    pub fn person_of(&self, key: &KeyId) -> Option<&PersonName> {
        self.persons.iter().find(|(_, person)| person.keys.contains_key(key)).map(|(name, _)| name)
    }

    /// A ring by its name.
    pub fn ring(&self, name: &RingName) -> Option<&RingDefinition> {
        self.rings.iter().find(|ring| ring.ring == *name)
    }

    fn check(&self) -> Result<(), DocumentError> {
        let invalid = |problem| Err(DocumentError::Invalid { document: "policy", problem });
        for (at, ring) in self.rings.iter().enumerate() {
            let name = &ring.ring;
            if self.rings[..at].iter().any(|before| before.ring == *name) {
                return invalid(format!("ring {name} stands twice"));
            }
            match &ring.select {
                Selector::Labels(labels) if labels.is_empty() => {
                    return invalid(format!("ring {name} selects by no label"));
                }
                Selector::Labels(labels) if labels.values().any(Vec::is_empty) => {
                    return invalid(format!("ring {name} names a label without a value"));
                }
                Selector::Labels(_) | Selector::EveryHost => {}
            }
        }
        if let Some(problem) = rules::contradiction(self) {
            return invalid(problem);
        }
        Ok(())
    }
}

/// Labels set from the centre, `policy/labels.json`. They override what the enrollment token gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelPolicy {
    /// Always `labels`.
    #[serde(rename = "_type")]
    kind: String,
    format: u32,
    /// Features that a reader must know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// Labels by host.
    pub hosts: BTreeMap<HostId, Labels>,
}

impl LabelPolicy {
    /// Largest label policy that anyone reads, bytes.
    pub const MAX_LENGTH: u64 = 16_000_000;

    /// Labels by host.
    pub fn new(hosts: BTreeMap<HostId, Labels>) -> Self {
        LabelPolicy { kind: "labels".into(), format: FORMAT, required: Vec::new(), hosts }
    }

    /// Reads labels whose digest and length have been checked against the policy role.
    ///
    /// # Errors
    /// Anything that this program cannot follow to the letter.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        parse_document("labels", bytes)
    }

    /// The bytes, which the policy role pins.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Map keys are strings: this cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// A host's labels: its token's, overridden by those set here.
    pub fn labels_of(&self, host: &HostId, own: &Labels) -> Labels {
        let mut labels = own.clone();
        labels.extend(self.hosts.get(host).cloned().unwrap_or_default());
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        text.split_whitespace()
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap();
                (name.parse().unwrap(), value.parse().unwrap())
            })
            .collect()
    }

    fn ring(name: &str, select: &str) -> RingDefinition {
        let select = match select {
            "*" => Selector::EveryHost,
            labels_text => Selector::Labels(
                labels(labels_text).into_iter().map(|(name, value)| (name, vec![value])).collect(),
            ),
        };
        RingDefinition { ring: name.parse().unwrap(), select, gate: false, rules: Rules::default() }
    }

    fn policy(rings: Vec<RingDefinition>) -> Result<ProductPolicy, DocumentError> {
        ProductPolicy::new("payments".parse().unwrap(), rings)
    }

    #[test]
    fn a_host_is_in_the_first_ring_whose_labels_it_all_has() {
        let policy =
            policy(vec![ring("pilot", "pilot=yes"), ring("eu", "region=eu role=db")]).unwrap();
        let of = |text: &str| policy.ring_of(&labels(text)).map(|ring| ring.ring.to_string());
        assert_eq!(of("pilot=yes region=eu role=db").as_deref(), Some("pilot"));
        assert_eq!(of("region=eu role=db").as_deref(), Some("eu"));
        // A missing label does not match, and no ring means no update.
        assert_eq!(of("region=eu"), None);
        assert_eq!(of(""), None);
    }

    #[test]
    fn a_ring_of_every_host_must_say_so() {
        assert!(policy(vec![ring("all", "*")]).unwrap().ring_of(&Labels::new()).is_some());
        assert!(policy(vec![ring("all", "")]).is_err());
        assert!(policy(vec![ring("a", "*"), ring("a", "*")]).is_err());
        assert!(!Selector::Labels(BTreeMap::new()).matches(&labels("a=b")));
    }

    fn key(name: &str) -> KeyId {
        KeyId::parse(&crate::names::Digest::of(name.as_bytes()).to_string()).unwrap()
    }

    fn person(keys: &[(&str, &[ApprovalKind])]) -> Person {
        let keys = keys.iter().map(|(name, kinds)| (key(name), kinds.iter().copied().collect()));
        Person { keys: keys.collect() }
    }

    fn signatories(persons: &[(&str, Person)]) -> Signatories {
        let persons = persons.iter().map(|(name, person)| (name.parse().unwrap(), person.clone()));
        Signatories { persons: persons.collect(), gate_key: Some(key("gate")) }
    }

    /// Rings a, b and c, changed, with alice and bob.
    fn ruled(
        change: impl FnOnce(&mut Vec<RingDefinition>),
    ) -> Result<ProductPolicy, DocumentError> {
        let mut rings = vec![ring("a", "r=a"), ring("b", "r=b"), ring("c", "*")];
        change(&mut rings);
        let alice = person(&[("a1", &[ApprovalKind::Technical, ApprovalKind::Business])]);
        let bob = person(&[("b1", &[ApprovalKind::Technical])]);
        let signatories = signatories(&[("alice", alice), ("bob", bob)]);
        ProductPolicy::with_signatories("payments".parse().unwrap(), rings, signatories)
    }

    #[test]
    fn rules_that_contradict_or_that_nobody_can_meet_are_refused_by_name() {
        use ApprovalKind::{Business, Operations, Technical};
        let after = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        assert!(ruled(|_| {}).is_ok());
        assert!(ruled(|rings| rings[0].rules.kinds = vec![Technical, Business]).is_ok());
        assert!(ruled(|rings| rings[2].rules.after = after(&["a", "b"])).is_ok());
        let refused = |change: fn(&mut Vec<RingDefinition>)| ruled(change).unwrap_err().to_string();
        for (problem, error) in [
            ("no person is left", refused(|rings| rings[0].rules.kinds = vec![Operations])),
            ("no person is left", refused(|rings| rings[0].rules.kinds = vec![Business; 2])),
            ("which is no ring", refused(|r| r[0].rules.after = vec!["x".parse().unwrap()])),
            ("after itself", refused(|rings| rings[1].rules.after = vec!["b".parse().unwrap()])),
            (
                "after itself",
                refused(|rings| {
                    rings[0].rules.after = vec!["b".parse().unwrap()];
                    rings[1].rules.after = vec!["a".parse().unwrap()];
                }),
            ),
            ("under `after`", refused(|rings| rings[0].rules.demands = [Gate::After].into())),
        ] {
            assert!(error.contains(problem), "{problem}: {error}");
        }
        for (problem, persons) in [
            (
                "is of alice and of bob",
                [("alice", person(&[("k", &[])])), ("bob", person(&[("k", &[])]))],
            ),
            (
                "also of person bob",
                [("alice", person(&[("k", &[])])), ("bob", person(&[("gate", &[])]))],
            ),
            ("bob has no key", [("alice", person(&[("k", &[])])), ("bob", person(&[]))]),
        ] {
            let product = "payments".parse().unwrap();
            let made = ProductPolicy::with_signatories(product, vec![], signatories(&persons));
            let error = made.unwrap_err().to_string();
            assert!(error.contains(problem), "{problem}: {error}");
        }
    }

    #[test]
    fn a_policy_with_rules_requires_a_reader_that_knows_them_and_one_without_does_not() {
        let with = ruled(|rings| rings[2].rules.after = vec!["a".parse().unwrap()]).unwrap();
        assert_eq!(with.required, ["approvals"]);
        assert_eq!(ProductPolicy::parse(&with.to_bytes()).unwrap(), with);
        assert_eq!(with.person_of(&key("b1")).unwrap().as_str(), "bob");
        // A reader of the version before knows no feature at all.
        let error = parse_document::<ProductPolicy>("policy", &with.to_bytes()).unwrap_err();
        assert!(matches!(error, DocumentError::Required { feature, .. } if feature == "approvals"));
        let mut after = vec![ring("a", "r=a"), ring("b", "*")];
        after[1].rules.after = vec!["a".parse().unwrap()];
        assert_eq!(policy(after).unwrap().required, ["approvals"]);
        let without = policy(vec![ring("a", "*")]).unwrap();
        assert!(parse_document::<ProductPolicy>("policy", &without.to_bytes()).is_ok());
    }

    #[test]
    fn a_policy_reads_back_as_it_was_written() {
        let written = policy(vec![ring("pilot", "pilot=yes"), ring("all", "*")]).unwrap();
        assert_eq!(ProductPolicy::parse(&written.to_bytes()).unwrap(), written);
    }
}
