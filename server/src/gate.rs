//! What the server signs with its gate key, and when: its own part of a ring's next file, where the
//! signed policy lets it, and only after its gates hold. Four occasions: a change that waits for the
//! server alone, the promotion to an automatic ring, the renewal of such a ring's file, and the exchange of
//! the gate key itself. Whether the file may be published is asked of it afterwards like of any other.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use refit_proto::{
    names::Digest,
    policy::{Gate, ProductPolicy, RingDefinition},
    trust::{
        Authority, Content as _, KeyId, LocalKey, Promotion, RingFile, Role, Signer as _, Standing,
        Terms, TrustedSet,
        change::ChangeFile,
        edit::{Draft, EditError, GATE_RING_DAYS, append},
        promotion::release_path,
        verify::signers,
    },
};

use crate::{
    changes,
    fleet::{Direction, OpenChange, Rollout, RolloutState},
    keys::OnlineKey,
    product_view::ProductNow,
    store::Rev,
};

/// Everything that is looked at.
pub struct Sight<'a> {
    /// What is published, verified.
    pub set: &'a TrustedSet,
    /// Changes that wait for signatures, and those that did.
    pub changes: &'a [Rev<OpenChange>],
    /// The gate key among those that metadata names.
    pub key: &'a LocalKey,
    /// When.
    pub now: Timestamp,
}

/// Files with the server's signature, to be published together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Each role's next file, with all the signatures that it needs.
    pub files: Vec<(Role, Vec<u8>)>,
    /// What it was signed for.
    pub occasion: Occasion,
}

/// Why the server signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Occasion {
    /// People proposed it, and nobody else is missing.
    Completed,
    /// The rings before are through with the release.
    Promoted,
    /// Half of its life is over.
    Renewed,
    /// People named the server's next key; what the old one signed is signed anew as it is.
    Exchanged,
}

impl Occasion {
    /// As the audit log calls it.
    pub fn act(&self) -> &'static str {
        match self {
            Occasion::Completed => "gate sign",
            Occasion::Promoted => "gate promote",
            Occasion::Renewed => "gate renew",
            Occasion::Exchanged => "gate exchange",
        }
    }
}

/// What the server would publish now for one product, at most one file for each ring.
///
/// # Errors
/// If what is held can't be read.
pub fn due(
    sight: &Sight<'_>,
    policy: &ProductPolicy,
    product: &ProductNow,
) -> Result<Vec<Signed>, EditError> {
    let mut due = Vec::new();
    for definition in &policy.rings {
        let role = Role::Ring(policy.product.clone(), definition.ring.clone());
        let Some(authority) = authority(sight, policy, definition, &role) else { continue };
        let ring = Ring { sight, policy, definition, product, role, authority };
        due.extend(ring.due()?);
    }
    Ok(due)
}

/// The files of an open change that names the server's next key in its own rings, with that key's signature
/// on each ring that lacks nothing else. It signs no more than what it has signed before: rings as they are
/// published, word for word.
pub fn exchanged(
    set: &TrustedSet,
    change: &ChangeFile,
    next: &OnlineKey,
    now: Timestamp,
) -> Option<Signed> {
    if !change.roles().any(|role| *role == Role::Targets) {
        return None;
    }
    let judged = change.judge(None, now).ok()?;
    let mut files = Vec::new();
    for (step, (role, file)) in judged.steps.iter().zip(change.steps()) {
        let signed = match step.is_complete() {
            true => file.clone(),
            false => {
                let key = next.for_ids(&step.waiting());
                let alone = step.lacks_only(key.public().id());
                if !alone || !is_as_published(set, role, file) {
                    return None;
                }
                append(file, role, key).ok()?
            }
        };
        files.push((role.clone(), signed));
    }
    let changed =
        files.iter().map(|(_, file)| file).ne(change.steps().iter().map(|(_, file)| file));
    changed.then_some(Signed { files, occasion: Occasion::Exchanged })
}

/// Whether a ring's next file says what the published one says.
fn is_as_published(set: &TrustedSet, role: &Role, file: &[u8]) -> bool {
    let (Role::Ring(..), Some(held)) = (role, set.delegated(role)) else { return false };
    says(file).is_some_and(|next| says(held.bytes()) == Some(next))
}

/// What is signed, but for its version and how long it lasts.
fn says(file: &[u8]) -> Option<serde_json::Value> {
    let mut file: serde_json::Value = serde_json::from_slice(file).ok()?;
    let signed = file.get_mut("signed")?.as_object_mut()?;
    signed.remove("version");
    signed.remove("expires");
    Some(serde_json::Value::Object(std::mem::take(signed)))
}

/// The ring's keys, if the server's is one of them and the policy names it. It never signs for another.
fn authority<'a>(
    sight: &'a Sight<'_>,
    policy: &ProductPolicy,
    definition: &RingDefinition,
    role: &Role,
) -> Option<&'a Authority> {
    let own = sight.key.public().id();
    let named = definition.gate && policy.gate_key == Some(own);
    let authority = &sight.set.targets().delegation(role)?.authority;
    (named && authority.ids.contains(&own)).then_some(authority)
}

/// A ring in whose file the server has a part.
struct Ring<'a> {
    sight: &'a Sight<'a>,
    policy: &'a ProductPolicy,
    definition: &'a RingDefinition,
    product: &'a ProductNow,
    role: Role,
    authority: &'a Authority,
}

impl Ring<'_> {
    fn due(&self) -> Result<Option<Signed>, EditError> {
        if let Some(file) = self.completed() {
            return Ok(Some(self.signed(file, Occasion::Completed)));
        }
        // Where a person has to sign as well, the server begins nothing by itself.
        if self.authority.threshold > 1 {
            return Ok(None);
        }
        if let Some(file) = self.promoted()? {
            return Ok(Some(self.signed(file, Occasion::Promoted)));
        }
        let renewed = self.renewed()?;
        Ok(renewed.map(|file| self.signed(file, Occasion::Renewed)))
    }

    fn signed(&self, file: Vec<u8>, occasion: Occasion) -> Signed {
        Signed { files: vec![(self.role.clone(), file)], occasion }
    }

    /// The open change of this ring, if the server's signature is the last one and its gates hold.
    fn completed(&self) -> Option<Vec<u8>> {
        let (_, change) = changes::of(self.sight.changes, &self.role, self.sight.now).ok()?;
        let [(role, file)] = change.steps() else { return None };
        let signed = signers(file, role, self.authority).ok()?;
        let own = self.sight.key.public().id();
        if signed.contains(&own) || signed.len() as u64 + 1 != self.authority.threshold {
            return None;
        }
        let complete = append(file, role, self.sight.key).ok()?;
        let proposed = proposed(&complete, role, self.authority)?;
        let current = proposed.current.as_ref();
        let holds = current.is_none_or(|current| {
            let passed = current.terms.overrides.iter().any(|passed| passed.gate == Gate::After);
            passed || self.before_is_through(&current.digest)
        });
        holds.then_some(complete)
    }

    /// The promotion of what the rings before are through with. It binds what they bound: the people
    /// who signed there were shown it.
    fn promoted(&self) -> Result<Option<Vec<u8>>, EditError> {
        let Some((release, counter)) = self.release_before() else { return Ok(None) };
        let held = self.sight.set.ring(&self.policy.product, &self.definition.ring);
        let current = held.and_then(|file| file.current.as_ref());
        if current.is_some_and(|current| current.digest == release.digest) {
            return Ok(None);
        }
        // Withdrawn since, it goes no further.
        let releases = self.sight.set.delegated(&Role::Release(self.policy.product.clone()));
        let Some(releases) = releases.filter(|releases| {
            let file = releases.targets.get(&release_path(&self.policy.product, &release.version));
            file.is_some_and(|file| file.same_bytes(release.target()))
        }) else {
            return Ok(None);
        };
        let Terms { evidence, change_plan, approvals, min_release_counter, .. } =
            release.terms.clone();
        let shown = Terms {
            evidence,
            change_plan,
            approvals,
            min_release_counter,
            ..Terms::new(Standing::Current)
        };
        let mut draft = self.draft()?;
        let proven = current.is_none_or(|current| {
            let own = self.product.ring(&self.definition.ring);
            own.is_some_and(|own| through(own.rollout.as_ref(), &current.digest))
        });
        if proven {
            draft.promote(releases, &release.version, counter, shown)?;
        } else {
            draft.promote_over_unproven(releases, &release.version, counter, shown)?;
        }
        self.sign(draft).map(Some)
    }

    /// The release that all rings before run, healthy and soaked, and its counter.
    fn release_before(&self) -> Option<(&Promotion, u64)> {
        let nearest = self.definition.rules.after.last()?;
        let file = self.sight.set.ring(&self.policy.product, nearest)?;
        let release = file.current.as_ref()?;
        let record = self.product.ring(nearest)?.ring.value.current.as_ref()?;
        let same = record.digest == release.digest && self.before_is_through(&release.digest);
        same.then_some((release, record.counter))
    }

    fn before_is_through(&self, release: &Digest) -> bool {
        self.definition.rules.after.iter().all(|before| {
            let ring = self.product.ring(before);
            ring.is_some_and(|ring| through(ring.rollout.as_ref(), release))
        })
    }

    /// The same file once more, if the server alone signed it and half of its life is over.
    fn renewed(&self) -> Result<Option<Vec<u8>>, EditError> {
        let Some(held) = self.sight.set.delegated(&self.role) else { return Ok(None) };
        let alone = held.signers().iter().eq([&self.sight.key.public().id()]);
        let left = held.expires().duration_since(self.sight.now);
        if !alone || left > SignedDuration::from_hours(24 * GATE_RING_DAYS / 2) {
            return Ok(None);
        }
        self.sign(self.draft()?).map(Some)
    }

    fn draft(&self) -> Result<Draft, EditError> {
        match self.sight.set.delegated(&self.role) {
            Some(held) => Draft::next(self.role.clone(), held.bytes(), self.sight.now),
            None => Draft::first(self.role.clone(), self.sight.now),
        }
    }

    fn sign(&self, mut draft: Draft) -> Result<Vec<u8>, EditError> {
        draft.expire_in_days(GATE_RING_DAYS);
        draft.sign(&[self.sight.key])
    }
}

/// What a change would make of the ring.
fn proposed(file: &[u8], role: &Role, authority: &Authority) -> Option<RingFile> {
    use refit_proto::trust::{
        Targets, Trusted,
        verify::{Expected, verify},
    };
    let Role::Ring(product, ring) = role else { return None };
    let expected = Expected { role, authority, pin: None };
    let targets: Trusted<Targets> = verify(file, expected).ok()?;
    RingFile::read(product, ring, &targets).ok()
}

/// Whether a ring runs that release on all its hosts, healthy and soaked.
fn through(rollout: Option<&Rev<Rollout>>, release: &Digest) -> bool {
    rollout.is_some_and(|held| {
        let rollout = &held.value;
        rollout.release.digest == *release
            && rollout.direction == Direction::Forward
            && matches!(rollout.state, RolloutState::Done { .. })
    })
}

/// Whether any ring gives the server something to sign.
pub fn concerns(products: &[ProductNow]) -> bool {
    products.iter().flat_map(|product| &product.rings).any(|ring| ring.ring.value.gate)
}

/// The ids of the keys of all rings.
pub fn ring_keys(set: &TrustedSet) -> BTreeSet<KeyId> {
    let delegations = set.targets().delegations.iter();
    let rings = delegations.filter(|delegation| matches!(delegation.role, Role::Ring(..)));
    rings.flat_map(|delegation| delegation.authority.ids.iter().copied()).collect()
}

#[cfg(test)]
mod tests;
