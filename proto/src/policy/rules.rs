//! What a ring asks of a promotion beyond the threshold of its keys: whose approvals, which digests,
//! and which rings first. Signed with the rest of the policy. Whether a promotion meets it is
//! `trust::approval`'s to say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use super::{ProductPolicy, RingDefinition};
use crate::{
    gathered::Gathered as _,
    names::{PersonName, RingName},
    trust::KeyId,
};

/// The feature that a policy with rules requires of its reader: who can't obey them must not read on.
pub(super) const FEATURE: &str = "approvals";

/// As what somebody approves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApprovalKind {
    /// That it works.
    Technical,
    /// That it is wanted.
    Business,
    /// That it can be run.
    Operations,
}

/// What a test result is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceKind {
    /// That it does what it should.
    Functional,
    /// That it is fast enough.
    Performance,
    /// That it lets nobody in.
    Security,
}

/// What a promotion has to pass besides approvals. A ring may allow that one is passed over by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// Evidence that it does what it should.
    Functional,
    /// Evidence that it is fast enough.
    Performance,
    /// Evidence that it lets nobody in.
    Security,
    /// The digest of the release's change plan.
    ChangePlan,
    /// The rings that must name the same release before.
    After,
    /// The windows in which updates may begin.
    Window,
    /// The times in which nothing begins.
    Freeze,
    /// How long the ring before must have run the release.
    Soak,
    /// How many hosts of the ring may begin before the others.
    Share,
}

/// Somebody who approves: each key with the kinds that it may give.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The kinds that each key may give. A key without any counts toward the threshold alone.
    pub keys: BTreeMap<KeyId, BTreeSet<ApprovalKind>>,
}

/// What a ring asks of a promotion.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// The kinds of approval that are needed, each from another person.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<ApprovalKind>,
    /// Rings that must name the same release before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<RingName>,
    /// Which digests a promotion has to bind.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub demands: BTreeSet<Gate>,
    /// What may be passed over, by name and with a reason. Approvals never are.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub overridable: BTreeSet<Gate>,
}

impl Rules {
    /// Nothing beyond the threshold of the ring's keys.
    pub fn is_empty(&self) -> bool {
        *self == Rules::default()
    }
}

impl ApprovalKind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            ApprovalKind::Technical => "technical",
            ApprovalKind::Business => "business",
            ApprovalKind::Operations => "operations",
        }
    }
}

impl fmt::Display for ApprovalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl EvidenceKind {
    /// The gate that it opens.
    pub fn gate(self) -> Gate {
        match self {
            EvidenceKind::Functional => Gate::Functional,
            EvidenceKind::Performance => Gate::Performance,
            EvidenceKind::Security => Gate::Security,
        }
    }
}

impl fmt::Display for EvidenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.gate().as_str())
    }
}

impl Gate {
    /// Whether the server alone keeps it, and nothing that a promotion brings opens it.
    pub fn is_the_servers(self) -> bool {
        match self {
            Gate::Window | Gate::Freeze | Gate::Soak | Gate::Share => true,
            Gate::Functional
            | Gate::Performance
            | Gate::Security
            | Gate::ChangePlan
            | Gate::After => false,
        }
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Gate::Functional => "functional",
            Gate::Performance => "performance",
            Gate::Security => "security",
            Gate::ChangePlan => "change-plan",
            Gate::After => "after",
            Gate::Window => "window",
            Gate::Freeze => "freeze",
            Gate::Soak => "soak",
            Gate::Share => "share",
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that is none of a kind of words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is none of {known}")]
pub struct UnknownWord {
    word: String,
    known: &'static str,
}

macro_rules! reads {
    ($name:ident, $known:literal, $($word:literal => $value:ident),+) => {
        impl std::str::FromStr for $name {
            type Err = UnknownWord;
            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                match word {
                    $($word => Ok($name::$value),)+
                    _ => Err(UnknownWord { word: word.chars().take(80).collect(), known: $known }),
                }
            }
        }
    };
}

reads!(ApprovalKind, "technical, business and operations",
    "technical" => Technical, "business" => Business, "operations" => Operations);
reads!(EvidenceKind, "functional, performance and security",
    "functional" => Functional, "performance" => Performance, "security" => Security);
reads!(Gate, "functional, performance, security, change-plan, after, window, freeze, soak and share",
    "functional" => Functional, "performance" => Performance, "security" => Security,
    "change-plan" => ChangePlan, "after" => After, "window" => Window, "freeze" => Freeze,
    "soak" => Soak, "share" => Share);

/// The first rule of a policy that contradicts another one, or that nobody could ever meet.
pub(super) fn contradiction(policy: &ProductPolicy) -> Option<String> {
    persons(policy).or_else(|| policy.rings.iter().find_map(|ring| of_ring(policy, ring)))
}

fn persons(policy: &ProductPolicy) -> Option<String> {
    let mut owners: BTreeMap<&KeyId, &PersonName> = BTreeMap::new();
    for (name, person) in &policy.persons {
        if person.keys.is_empty() {
            return Some(format!("person {name} has no key"));
        }
        for key in person.keys.keys() {
            if let Some(other) = owners.insert(key, name) {
                return Some(format!("key {} is of {other} and of {name}", key.short()));
            }
        }
    }
    let gate = policy.gate_key.as_ref();
    let owner = gate.and_then(|gate| owners.get(gate));
    owner.map(|owner| format!("the server's gate key is also of person {owner}"))
}

fn of_ring(policy: &ProductPolicy, definition: &RingDefinition) -> Option<String> {
    let RingDefinition { ring, rules, .. } = definition;
    if rules.demands.contains(&Gate::After) {
        return Some(format!("ring {ring} demands `after`: name the rings under `after`"));
    }
    if let Some(gate) = rules.demands.iter().find(|gate| gate.is_the_servers()) {
        return Some(format!(
            "ring {ring} demands `{gate}`: a promotion brings nothing for it, and can only pass over it"
        ));
    }
    if let Some(unknown) = rules.after.iter().find(|before| policy.ring(before).is_none()) {
        return Some(format!("ring {ring} comes after {unknown}, which is no ring"));
    }
    if comes_after(policy, ring, ring, &mut BTreeSet::new()) {
        return Some(format!("ring {ring} comes after itself"));
    }
    let possible = policy
        .persons
        .values()
        .map(|person| person.keys.values().flatten().copied().gathered::<BTreeSet<ApprovalKind>>());
    let possible: Vec<_> = possible.collect();
    let missing = unmatched(&rules.kinds, &possible);
    missing
        .first()
        .map(|kind| format!("ring {ring} needs a {kind} approval that no person is left to give"))
}

/// Whether `ring` comes, by way of others or not, after `target`.
fn comes_after<'a>(
    policy: &'a ProductPolicy,
    ring: &'a RingName,
    target: &RingName,
    seen: &mut BTreeSet<&'a RingName>,
) -> bool {
    let before = policy.ring(ring).map(|it| it.rules.after.as_slice()).unwrap_or_default();
    before.iter().any(|before| {
        before == target || (seen.insert(before) && comes_after(policy, before, target, seen))
    })
}

/// The wanted kinds that are left when each person gives at most one, and as many as can be are given.
pub(crate) fn unmatched(
    wanted: &[ApprovalKind],
    persons: &[BTreeSet<ApprovalKind>],
) -> Vec<ApprovalKind> {
    // Who gives what, by person; a person is asked to give another kind where that helps somebody else.
    let mut gives: Vec<Option<usize>> = vec![None; persons.len()];
    let mut left = Vec::new();
    for at in 0..wanted.len() {
        if !placed(at, wanted, persons, &mut gives, &mut BTreeSet::new()) {
            left.push(wanted[at]);
        }
    }
    left
}

fn placed(
    at: usize,
    wanted: &[ApprovalKind],
    persons: &[BTreeSet<ApprovalKind>],
    gives: &mut Vec<Option<usize>>,
    asked: &mut BTreeSet<usize>,
) -> bool {
    for (who, kinds) in persons.iter().enumerate() {
        if !kinds.contains(&wanted[at]) || !asked.insert(who) {
            continue;
        }
        let free = match gives[who] {
            None => true,
            Some(other) => placed(other, wanted, persons, gives, asked),
        };
        if free {
            gives[who] = Some(at);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{ApprovalKind::*, *};

    fn kinds(kinds: &[ApprovalKind]) -> BTreeSet<ApprovalKind> {
        kinds.iter().copied().collect()
    }

    #[test]
    fn each_person_gives_one_kind_and_the_best_use_is_made_of_all() {
        let alice = kinds(&[Technical, Business]);
        let bob = kinds(&[Technical]);
        // Alice could give both, but is one person.
        assert_eq!(unmatched(&[Technical, Business], std::slice::from_ref(&alice)), [Business]);
        // Whichever is looked at first: bob gives the technical one, so that alice can give the other.
        assert_eq!(unmatched(&[Technical, Business], &[alice.clone(), bob.clone()]), []);
        assert_eq!(unmatched(&[Business, Technical], &[bob.clone(), alice.clone()]), []);
        assert_eq!(unmatched(&[Technical, Technical], &[alice.clone(), bob.clone()]), []);
        assert_eq!(unmatched(&[Operations], &[alice, bob]), [Operations]);
        assert_eq!(unmatched(&[], &[]), []);
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for kind in [Technical, Business, Operations] {
            assert_eq!(kind.as_str().parse::<ApprovalKind>().unwrap(), kind);
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        for gate in [
            Gate::Functional,
            Gate::Performance,
            Gate::Security,
            Gate::ChangePlan,
            Gate::After,
            Gate::Window,
            Gate::Freeze,
            Gate::Soak,
            Gate::Share,
        ] {
            assert_eq!(gate.as_str().parse::<Gate>().unwrap(), gate);
            assert_eq!(serde_json::to_value(gate).unwrap(), gate.as_str());
        }
        assert!("legal".parse::<ApprovalKind>().is_err());
        assert_eq!("security".parse::<EvidenceKind>().unwrap().gate(), Gate::Security);
    }
}
