//! Signs drafts: shows in words what changes, picks the keys, and refuses to sign with too few of them.

use anyhow::{bail, ensure};
use refit_proto::trust::{Authority, PublicKey, Role, Signer, TrustedSet, edit::Draft};

use crate::{
    Context,
    key::{self, HeldKey},
    output, trust,
};

/// Prints in words what signing would change.
pub(crate) fn show(draft: &Draft) -> anyhow::Result<()> {
    output::line(&draft.describe()?.join("\n"))
}

/// The keys for a role: those that were named, or those of its keys that are kept here; at most as many as
/// the threshold needs. Others may have to sign as well.
pub(crate) fn keys(
    context: &Context,
    role: &Role,
    authority: &Authority,
    named: &[String],
) -> anyhow::Result<Vec<HeldKey>> {
    let may_sign = |key: &PublicKey| authority.ids.contains(&key.id());
    if named.is_empty() {
        return some(role, key::at_hand(context, may_sign)?, authority.threshold);
    }
    let mut keys = Vec::new();
    for word in named {
        let key = key::private(context, role, word)?;
        ensure!(
            may_sign(key.public()),
            "key {word} ({}) does not sign for {role}\n\
             help: `refit trust status` shows whose keys do",
            key.public().id().short()
        );
        keys.push(key);
    }
    some(role, keys, authority.threshold)
}

/// At least one key, and at most as many as the threshold needs.
fn some(role: &Role, keys: Vec<HeldKey>, threshold: u64) -> anyhow::Result<Vec<HeldKey>> {
    let at_hand = keys.len() as u64;
    enough(role, keys, threshold.min(at_hand).max(1))
}

/// As many keys as the threshold needs.
pub(crate) fn enough<K: Signer>(
    role: &Role,
    mut keys: Vec<K>,
    threshold: u64,
) -> anyhow::Result<Vec<K>> {
    keys.sort_by_key(|key| key.public().id());
    keys.dedup_by_key(|key| key.public().id());
    if (keys.len() as u64) < threshold {
        bail!(
            "{role} needs {threshold} signatures, and {} of its keys are at hand\n\
             help: name keys with --key; where a ring is signed by the server's gate key alone, \
             the server signs",
            keys.len()
        );
    }
    keys.truncate(usize::try_from(threshold).unwrap_or(usize::MAX));
    Ok(keys)
}

/// The next version of a delegated role's file, or its first.
pub(crate) fn draft(context: &Context, set: &TrustedSet, role: Role) -> anyhow::Result<Draft> {
    let (_, held) = trust::authority(set, &role)?;
    Ok(match held {
        Some(held) => Draft::next(role, held.bytes(), context.now)?,
        // Of a server that was lost with its disk, hosts have seen what is kept here.
        None => match trust::kept(context, set, &role)? {
            Some(kept) => Draft::next(role, &kept, context.now)?,
            None => Draft::first(role, context.now)?,
        },
    })
}

/// Shows a delegated role's draft in words, and signs it. Who can't sign is told so first.
pub(crate) fn signed(
    context: &Context,
    set: &TrustedSet,
    draft: &Draft,
    named: &[String],
) -> anyhow::Result<Vec<u8>> {
    let (authority, _) = trust::authority(set, draft.role())?;
    let keys = keys(context, draft.role(), authority, named)?;
    show(draft)?;
    sign(draft, &keys)
}

/// Signs with each key. Only now is it opened, and its holder asked.
pub(crate) fn sign(draft: &Draft, keys: &[impl Signer]) -> anyhow::Result<Vec<u8>> {
    let signers: Vec<&dyn Signer> = keys.iter().map(|key| key as &dyn Signer).collect();
    Ok(draft.sign(&signers)?)
}

#[cfg(test)]
mod tests {
    use refit_proto::trust::LocalKey;

    use super::*;

    #[test]
    fn a_key_counts_once_however_often_it_is_named() {
        let key = |seed| LocalKey::from_seed(&[seed; 32]);
        assert!(enough(&Role::Policy, vec![key(1), key(1)], 2).is_err());
        assert!(enough::<LocalKey>(&Role::Policy, vec![], 1).is_err());
        assert_eq!(enough(&Role::Policy, vec![key(1), key(2), key(1)], 2).unwrap().len(), 2);
        assert_eq!(enough(&Role::Policy, vec![key(1), key(2)], 1).unwrap().len(), 1);
    }
}
