//! `refit trust rotate`: other keys for a role, in one change that leaves nothing behind that nobody would
//! trust. What was signed with a key that goes is signed anew in the same change. For the server's own keys
//! the server makes the new one, and people name it.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr};

use anyhow::{Context as _, bail, ensure};
use refit_proto::{
    trust::{
        Authority, KeyId, PublicKey, Role, TrustedSet,
        edit::{Draft, KeyList, RootKeys},
    },
    wire::PrepareServerKeyRequest,
};

use super::{ceremony, delegate, refresh};
use crate::{Context, apply, connect::Connection, failure::refused, key, server_keys};

/// Options of `refit trust rotate`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// root, targets, policy, release.PRODUCT or ring.PRODUCT.RING; or `freshness` or `gate`, the
    /// server's own keys.
    #[arg(value_name = "ROLE")]
    whose: Whose,
    /// A key that signs from now on.
    #[arg(long = "add", value_name = "KEY")]
    add: Vec<String>,
    /// A key that counts no more: as `refit key list` names it, its holder, or its key id.
    #[arg(long = "remove", value_name = "KEY")]
    remove: Vec<String>,
    /// How many must sign from now on. [default: as many as now]
    #[arg(long, value_name = "N")]
    threshold: Option<u64>,
    /// The key that goes is in wrong hands: what the role has signed is signed anew as well.
    #[arg(long)]
    compromised: bool,
    /// A key to sign this change with; else those kept here.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Write the change to a file, for machines without network, and not to the server.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Whose keys are exchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Whose {
    /// People's.
    Role(Role),
    /// The server's, for snapshot and timestamp.
    Freshness,
    /// The server's, for its part in rings.
    Gate,
}

impl FromStr for Whose {
    type Err = String;

    fn from_str(text: &str) -> Result<Whose, String> {
        match text {
            "freshness" | "snapshot" | "timestamp" => Ok(Whose::Freshness),
            "gate" => Ok(Whose::Gate),
            role => match Role::parse(role).map_err(|error| error.to_string())? {
                Role::Snapshot | Role::Timestamp => Ok(Whose::Freshness),
                role => Ok(Whose::Role(role)),
            },
        }
    }
}

pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let connection = Connection::open(context).await?;
    let set = match refresh::everything(context, &connection).await {
        Ok(set) => set.context("the server holds no metadata yet\nhelp: `refit trust init`")?,
        // What has expired can't be refreshed, and may be what needs this most.
        Err(error) => refresh::load_everything(context).map_err(|_| error)?,
    };
    let drafts = match &args.whose {
        Whose::Role(role) => people(context, &set, role, &args)?,
        Whose::Freshness => freshness(context, &connection, &set, &args).await?,
        Whose::Gate => gate(context, &connection, &set, &args).await?,
    };
    let mut change = ceremony::of_drafts(context, &connection, &set, &drafts).await?;
    ceremony::show_and_sign(context, &mut change, &args.keys)?;
    ceremony::conclude(context, Some(&connection), &change, args.out.as_deref()).await
}

/// Other keys for a role of people.
fn people(
    context: &Context,
    set: &TrustedSet,
    role: &Role,
    args: &Args,
) -> anyhow::Result<Vec<Draft>> {
    let authority = match role {
        Role::Root | Role::Targets => set.root().authority(role).context("root names no keys")?,
        _ => refresh::authority(set, role)?.0,
    };
    let (list, holders) = changed(context, role, authority, args, set)?;
    let mut drafts = Vec::new();
    match role {
        Role::Root | Role::Targets => {
            let mut keys = root_keys(set);
            match role {
                Role::Root => keys.root = list.clone(),
                _ => keys.targets = list.clone(),
            }
            drafts.push(root(context, set, &keys, &holders)?);
            let renew = args.compromised || signed_by_too_few(set, &Role::Targets, &keys.targets);
            if renew {
                drafts.push(again(context, set, &Role::Targets)?);
            }
        }
        role => {
            let mut targets = again(context, set, &Role::Targets)?;
            targets.delegate(role, &list)?;
            targets.name_holders(&holders);
            drafts.push(targets);
            let held = set.delegated(role).is_some();
            if held && (args.compromised || signed_by_too_few(set, role, &list)) {
                drafts.push(again(context, set, role)?);
            }
        }
    }
    Ok(drafts)
}

/// The role's keys as they are to be.
fn changed(
    context: &Context,
    role: &Role,
    authority: &Authority,
    args: &Args,
    set: &TrustedSet,
) -> anyhow::Result<(KeyList, BTreeMap<KeyId, String>)> {
    ensure!(
        !(args.add.is_empty() && args.remove.is_empty() && args.threshold.is_none()),
        "nothing to exchange\nhelp: name the key that goes with --remove and the one that comes with --add"
    );
    ensure!(
        !args.compromised || !args.remove.is_empty(),
        "--compromised needs the key that is in wrong hands\nhelp: name it with --remove"
    );
    let known = names(set);
    let mut keys: BTreeMap<KeyId, PublicKey> = authority.keys.clone();
    for word in &args.remove {
        let id = meant(context, role, authority, &known, word)?;
        keys.remove(&id);
    }
    let mut added = Vec::new();
    for word in &args.add {
        let key = delegate::public(context, role, word)?;
        added.push((word, key.id()));
        keys.insert(key.id(), key);
    }
    let threshold = args.threshold.unwrap_or(authority.threshold);
    let list = KeyList::new(keys.into_values(), threshold);
    Ok((list, ceremony::holders(added)))
}

pub(super) fn names(set: &TrustedSet) -> BTreeMap<KeyId, String> {
    let mut names = refit_proto::trust::edit::holders(set.root().signed());
    names.extend(refit_proto::trust::edit::holders(set.targets().signed()));
    names
}

/// The key of the role that a word means.
fn meant(
    context: &Context,
    role: &Role,
    authority: &Authority,
    known: &BTreeMap<KeyId, String>,
    word: &str,
) -> anyhow::Result<KeyId> {
    let by_name = authority.ids.iter().filter(|id| known.get(id).is_some_and(|name| name == word));
    let by_id =
        authority.ids.iter().filter(|id| word.len() >= 8 && id.to_string().starts_with(word));
    let found: Vec<KeyId> = by_name.chain(by_id).copied().collect();
    match found.as_slice() {
        [one] => return Ok(*one),
        [] => {}
        _ => bail!("{word:?} means several keys of {role}\nhelp: give the key id"),
    }
    let id = key::public(context, Some(role), word)?.id();
    ensure!(
        authority.ids.contains(&id),
        "key {word} ({}) does not sign for {role}\nhelp: `refit trust status` shows whose keys do",
        id.short()
    );
    Ok(id)
}

fn list_of(authority: &Authority) -> KeyList {
    KeyList::new(authority.keys.values().cloned(), authority.threshold)
}

pub(super) fn root_keys(set: &TrustedSet) -> RootKeys {
    let root = set.root();
    RootKeys {
        root: list_of(root.root()),
        targets: list_of(root.targets()),
        snapshot: list_of(root.snapshot()),
        timestamp: list_of(root.timestamp()),
    }
}

pub(super) fn root(
    context: &Context,
    set: &TrustedSet,
    keys: &RootKeys,
    holders: &BTreeMap<KeyId, String>,
) -> anyhow::Result<Draft> {
    let mut draft = Draft::next(Role::Root, set.root().bytes(), context.now)?;
    draft.set_root_keys(keys)?;
    draft.name_holders(holders);
    Ok(draft)
}

/// The role's file as it is, to be signed anew.
pub(super) fn again(context: &Context, set: &TrustedSet, role: &Role) -> anyhow::Result<Draft> {
    let held = match role {
        Role::Targets => set.targets().bytes(),
        role => set.delegated(role).with_context(|| format!("{role} has no file yet"))?.bytes(),
    };
    Ok(Draft::next(role.clone(), held, context.now)?)
}

/// Whether too few of those who signed the newest file would still count.
pub(super) fn signed_by_too_few(set: &TrustedSet, role: &Role, list: &KeyList) -> bool {
    let signers = match role {
        Role::Targets => set.targets().signers(),
        role => match set.delegated(role) {
            Some(file) => file.signers(),
            None => return false,
        },
    };
    let still = list.keys.iter().filter(|key| signers.contains(&key.id())).count() as u64;
    still < list.threshold
}

/// Asks the server for its next key: made there, kept there, used once it is named.
async fn prepared(connection: &Connection, name: &str, args: &Args) -> anyhow::Result<PublicKey> {
    ensure!(
        args.add.is_empty() && args.remove.is_empty() && args.threshold.is_none(),
        "the server makes its own keys\nhelp: leave --add, --remove and --threshold out"
    );
    let request = PrepareServerKeyRequest { name: name.to_owned() };
    let reply = connection.changes().prepare_server_key(request).await;
    let reply = reply.map_err(refused(format!("have the server make its next {name} key")))?;
    Ok(PublicKey::from_json(reply.into_inner().key.as_bytes())?)
}

async fn freshness(
    context: &Context,
    connection: &Connection,
    set: &TrustedSet,
    args: &Args,
) -> anyhow::Result<Vec<Draft>> {
    let fresh = KeyList::new([prepared(connection, "freshness", args).await?], 1);
    let keys = RootKeys { snapshot: fresh.clone(), timestamp: fresh, ..root_keys(set) };
    Ok(vec![root(context, set, &keys, &BTreeMap::new())?])
}

/// The new gate key takes the place of the old one in every ring, and in the policy that says which key is
/// the server's. What the old one signed is signed anew in the same change, by people where they sign too;
/// the server adds its part as soon as nothing else is missing.
async fn gate(
    context: &Context,
    connection: &Connection,
    set: &TrustedSet,
    args: &Args,
) -> anyhow::Result<Vec<Draft>> {
    let keys = server_keys::ask(connection).await?;
    let old = server_keys::named(&keys, "gate")?.id();
    let new = prepared(connection, "gate", args).await?;
    let mut targets = again(context, set, &Role::Targets)?;
    let mut drafts = Vec::new();
    for delegation in set.targets().delegations.iter().filter(|d| d.authority.ids.contains(&old)) {
        let kept = delegation.authority.keys.iter().filter(|(id, _)| **id != old);
        let kept = kept.map(|(_, key)| key.clone()).chain([new.clone()]);
        let list = KeyList::new(kept, delegation.authority.threshold);
        targets.delegate(&delegation.role, &list)?;
        if args.compromised || signed_by_too_few(set, &delegation.role, &list) {
            let signed = set.delegated(&delegation.role).is_some();
            drafts.extend(signed.then(|| again(context, set, &delegation.role)).transpose()?);
        }
    }
    ensure!(
        targets.describe()?.len() > 1,
        "no ring names the server's gate key\nhelp: there is nothing to exchange"
    );
    drafts.splice(0..0, apply::with_gate_key(context, connection, set, (old, new.id())).await?);
    drafts.insert(0, targets);
    Ok(drafts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_people_and_of_the_server_are_told_apart() {
        for name in ["freshness", "timestamp", "snapshot"] {
            assert_eq!(name.parse(), Ok(Whose::Freshness));
        }
        assert_eq!("gate".parse(), Ok(Whose::Gate));
        assert_eq!("root".parse(), Ok(Whose::Role(Role::Root)));
        assert!("audit".parse::<Whose>().is_err());
    }
}
