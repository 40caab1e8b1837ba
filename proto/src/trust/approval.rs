//! Whether the right people signed a ring's file. TUF counts keys; a ring counts persons, and may need
//! approvals of several kinds, each from another one. Host, server and `refit` ask the same question here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{key::KeyId, metadata::Targets, role::Role, set::TrustedSet};
use crate::{
    names::{PersonName, RingName},
    policy::{ApprovalKind, ProductPolicy, RingDefinition, rules::unmatched},
};

/// Who signed, as a ring counts them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// A person of the policy, whatever number of keys.
    Person(PersonName),
    /// The server, for a ring that lets it.
    Gate,
    /// A key of a ring whose policy names nobody.
    Key(KeyId),
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Party::Person(name) => name.fmt(f),
            Party::Gate => f.write_str("the server's gate key"),
            Party::Key(key) => write!(f, "key {}", key.short()),
        }
    }
}

/// Those who signed, each once, with the kinds of approval that their keys may give.
pub type Approved = BTreeMap<Party, BTreeSet<ApprovalKind>>;

/// Why a ring's file does not count although enough keys signed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unapproved {
    /// Several keys of one person, keys of nobody, or the server's where it may not sign.
    #[error(
        "{persons} of the {needed} that it takes signed it (two keys of one person count once)\n\
         help: let another person sign it"
    )]
    TooFew {
        /// Who count.
        persons: u64,
        /// How many must.
        needed: u64,
    },
    /// Not every kind of approval is there, each from another person.
    #[error(
        "no {} approval from a person of its own\n\
         help: let a person sign it whose key gives that kind and who gives no other here",
        in_words(.0)
    )]
    Kinds(Vec<ApprovalKind>),
}

fn in_words(kinds: &[ApprovalKind]) -> String {
    kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(" and no ")
}

/// Those of the signers who count for a ring.
pub fn parties(
    policy: &ProductPolicy,
    definition: &RingDefinition,
    signers: &BTreeSet<KeyId>,
) -> Approved {
    let mut parties = Approved::new();
    for key in signers {
        if let Some((party, kinds)) = party(policy, definition, key) {
            parties.entry(party).or_default().extend(kinds);
        }
    }
    parties
}

fn party(
    policy: &ProductPolicy,
    definition: &RingDefinition,
    key: &KeyId,
) -> Option<(Party, BTreeSet<ApprovalKind>)> {
    if policy.gate_key.as_ref() == Some(key) {
        return definition.gate.then(|| (Party::Gate, BTreeSet::new()));
    }
    match policy.person_of(key) {
        Some(name) => {
            let kinds = policy.persons.get(name).and_then(|person| person.keys.get(key));
            Some((Party::Person(name.clone()), kinds.cloned().unwrap_or_default()))
        }
        // Where persons are named, a key of none of them counts for nobody.
        None => policy.persons.is_empty().then(|| (Party::Key(*key), BTreeSet::new())),
    }
}

/// Whether those signers suffice for a ring of that threshold.
///
/// # Errors
/// What is missing.
pub fn suffice(
    policy: &ProductPolicy,
    definition: &RingDefinition,
    signers: &BTreeSet<KeyId>,
    threshold: u64,
) -> Result<Approved, Unapproved> {
    let approved = parties(policy, definition, signers);
    let persons = approved.len() as u64;
    if persons < threshold {
        return Err(Unapproved::TooFew { persons, needed: threshold });
    }
    let kinds: Vec<_> = approved.values().cloned().collect();
    let missing = unmatched(&definition.rules.kinds, &kinds);
    if missing.is_empty() { Ok(approved) } else { Err(Unapproved::Kinds(missing)) }
}

/// Why a ring could never be promoted to, or not as its definition says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The keys that may sign for it can't meet its rules.
    #[error("ring {ring} could never be promoted to, even if all its keys signed: {cause}")]
    Impossible {
        /// Which ring.
        ring: RingName,
        /// What would be missing.
        cause: Unapproved,
    },
    /// The server's key may sign, and the definition does not say so.
    #[error(
        "the keys of ring {ring} include the server's gate key, and its definition does not say so\n\
         help: say `gate = true`, or delegate the ring to people alone"
    )]
    GateNotNamed {
        /// Which ring.
        ring: RingName,
    },
    /// Nobody but the server signs, and it is not told what.
    #[error(
        "ring {ring} is signed by the server's gate key alone, and comes after no ring\n\
         help: name the rings before it with `after`, or add the key of a person"
    )]
    NothingBefore {
        /// Which ring.
        ring: RingName,
    },
}

/// What the delegations of these targets make of a policy's rings. A ring that is not delegated yet is
/// not looked at.
pub fn arrangement(policy: &ProductPolicy, targets: &Targets) -> Vec<Flaw> {
    let flaw = |definition: &RingDefinition| {
        let role = Role::Ring(policy.product.clone(), definition.ring.clone());
        let authority = &targets.delegation(&role)?.authority;
        let ring = definition.ring.clone();
        let gate = policy.gate_key.filter(|gate| authority.ids.contains(gate));
        if gate.is_some() && !definition.gate {
            return Some(Flaw::GateNotNamed { ring });
        }
        if gate.is_some() && authority.ids.len() == 1 && definition.rules.after.is_empty() {
            return Some(Flaw::NothingBefore { ring });
        }
        let all = suffice(policy, definition, &authority.ids, authority.threshold);
        all.err().map(|cause| Flaw::Impossible { ring, cause })
    };
    policy.rings.iter().filter_map(flaw).collect()
}

/// Whether a ring could be promoted to by these persons alone, with the server where the ring lets it; `None` where it
/// is not delegated. Who the policy does not name has no key.
pub fn within_reach(
    policy: &ProductPolicy,
    definition: &RingDefinition,
    targets: &Targets,
    persons: &BTreeSet<PersonName>,
) -> Option<Result<Approved, Unapproved>> {
    let role = Role::Ring(policy.product.clone(), definition.ring.clone());
    let authority = &targets.delegation(&role)?.authority;
    let is_at_hand = |key: &KeyId| match party(policy, definition, key) {
        Some((Party::Person(name), _)) => persons.contains(&name),
        Some((Party::Gate, _)) => true,
        Some((Party::Key(_), _)) | None => false,
    };
    let keys = authority.ids.iter().filter(|key| is_at_hand(key)).copied().collect();
    Some(suffice(policy, definition, &keys, authority.threshold))
}

/// Whether the right people signed the ring's file in this set; `None` where the set holds none.
pub fn of_ring(
    set: &TrustedSet,
    policy: &ProductPolicy,
    definition: &RingDefinition,
) -> Option<Result<Approved, Unapproved>> {
    let role = Role::Ring(policy.product.clone(), definition.ring.clone());
    let threshold = set.targets().delegation(&role)?.authority.threshold;
    Some(suffice(policy, definition, set.delegated(&role)?.signers(), threshold))
}
