//! `refit trust delegate`: the next targets, which say whose keys sign what of a product; and the first,
//! empty files of roles whose keys are at hand.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use refit_proto::{
    names::{Product, RingName},
    trust::{
        Authority, Content as _, KeyId, PublicKey, Role, Targets,
        edit::{Draft, KeyList},
        verify::{self, Expected},
    },
};

use super::{OwnCopy, Thresholds, ceremony, own::Unsent, refresh, threshold};
use crate::{
    Context,
    connect::Connection,
    key::{self, HeldKey},
    output, server_keys,
    server_keys::named,
    signing,
};

/// Options of `refit trust delegate`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Which product.
    #[arg(long)]
    product: Product,
    /// A key that signs its releases.
    #[arg(long = "release-key", value_name = "KEY")]
    release: Vec<String>,
    /// A ring and the keys that sign for it; `gate` is the server's gate key.
    #[arg(long = "ring", value_name = "RING=KEY[,KEY]", value_parser = ring)]
    rings: Vec<(RingName, Vec<String>)>,
    /// A key that signs the policy of the whole fleet.
    #[arg(long = "policy-key", value_name = "KEY")]
    policy: Vec<String>,
    /// How many keys must sign, where more than one: ring.payments.broad=2.
    #[arg(long, value_name = "ROLE=N", value_parser = threshold)]
    threshold: Vec<(Role, u64)>,
    /// Where others have to sign as well: write the change to a file, and not to the server.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let lists = lists(context, &args)?;
    ensure!(
        !lists.is_empty(),
        "nothing to delegate\nhelp: give --release-key, --ring or --policy-key"
    );
    let base = base(context).await?;
    for (role, list) in &lists {
        base.stays_trusted(role, list)?;
    }
    let mut draft = Draft::next(Role::Targets, &base.bytes, context.now)?;
    for (role, list) in &lists {
        draft.delegate(role, list)?;
    }
    draft.name_holders(&holders(context, &args)?);
    let keys = signing::keys(context, &Role::Targets, &base.authority, &[])?;
    if (keys.len() as u64) < base.authority.threshold {
        return propose(context, &draft, &keys, args.out.as_deref()).await;
    }
    signing::show(&draft)?;
    let targets = Unsent {
        role: Role::Targets,
        version: draft.version(),
        bytes: signing::sign(&draft, &keys)?,
    };
    let mut unsent = vec![targets];
    for (role, list) in &lists {
        if !base.published.contains(role) {
            unsent.extend(first_file(context, role, list)?);
        }
    }
    let own = OwnCopy::of(context);
    for file in &unsent {
        own.keep_unsent(file)?;
    }
    output::line(&format!("made {} files\nnext: refit trust push", unsent.len()))
}

/// Others have to sign targets too. The new roles' first files are made when it is published.
async fn propose(
    context: &Context,
    draft: &Draft,
    keys: &[HeldKey],
    out: Option<&Path>,
) -> anyhow::Result<()> {
    let connection = Connection::open(context).await?;
    let set = refresh::newest(context, &connection, &[]).await.context(
        "others have to sign targets as well\n\
         help: send what is made here first (`refit trust push`), then delegate",
    )?;
    let mut change =
        ceremony::of_drafts(context, &connection, &set, std::slice::from_ref(draft)).await?;
    output::line(&ceremony::judge(context, &change)?.in_words().join("\n"))?;
    ceremony::sign(context, &mut change, keys)?;
    ceremony::conclude(context, Some(&connection), &change, out).await
}

/// Who holds the keys that are named.
fn holders(context: &Context, args: &Args) -> anyhow::Result<BTreeMap<KeyId, String>> {
    let release = Role::Release(args.product.clone());
    let rings = args.rings.iter().flat_map(|(ring, words)| {
        words.iter().map(|word| (Role::Ring(args.product.clone(), ring.clone()), word))
    });
    let all = args.release.iter().map(|word| (release.clone(), word)).chain(rings);
    let all = all.chain(args.policy.iter().map(|word| (Role::Policy, word)));
    let ids = all.map(|(role, word)| Ok((word, public(context, &role, word)?.id())));
    Ok(ceremony::holders(ids.collect::<anyhow::Result<Vec<_>>>()?))
}

/// The keys of each role that is named.
fn lists(context: &Context, args: &Args) -> anyhow::Result<Vec<(Role, KeyList)>> {
    let mut thresholds = Thresholds::new(&args.threshold)?;
    let mut lists = Vec::new();
    let mut add = |role: Role, words: &[String]| -> anyhow::Result<()> {
        let keys: Vec<PublicKey> =
            words.iter().map(|word| public(context, &role, word)).collect::<anyhow::Result<_>>()?;
        let list = KeyList::new(keys, thresholds.take(&role));
        lists.push((role, list));
        Ok(())
    };
    if !args.release.is_empty() {
        add(Role::Release(args.product.clone()), &args.release)?;
    }
    for (ring, words) in &args.rings {
        add(Role::Ring(args.product.clone(), ring.clone()), words)?;
    }
    if !args.policy.is_empty() {
        add(Role::Policy, &args.policy)?;
    }
    thresholds.finish()?;
    Ok(lists)
}

pub(super) fn public(context: &Context, role: &Role, word: &str) -> anyhow::Result<PublicKey> {
    if word == "gate" && matches!(role, Role::Ring(..)) {
        let keys = server_keys::known(context)?.context(
            "the server's gate key is not known here\nhelp: `refit trust init` notes it",
        )?;
        return Ok(named(&keys, "gate")?.clone());
    }
    key::public(context, Some(role), word)
}

/// The targets that the next ones are built on.
struct Base {
    bytes: Vec<u8>,
    authority: Authority,
    /// Roles whose first file is made already.
    published: Vec<Role>,
    /// Who signed the newest file of each role.
    signers: BTreeMap<Role, BTreeSet<KeyId>>,
}

impl Base {
    /// A role's file counts by the keys that the newest targets name. If they were exchanged at once,
    /// no host would trust the file any more, and the server would refuse this push and all after it.
    fn stays_trusted(&self, role: &Role, list: &KeyList) -> anyhow::Result<()> {
        let Some(signers) = self.signers.get(role) else { return Ok(()) };
        let still = list.keys.iter().filter(|key| signers.contains(&key.id())).count() as u64;
        ensure!(
            still >= list.threshold,
            "the file of {role} is signed by keys that would no longer count, so no host would trust it\n\
             help: name the key that it has now beside the new one and push; sign it with the new one \
             (`refit trust renew {role}`) and push; then delegate to the new one alone"
        );
        Ok(())
    }
}

/// What is unsent is newer than anything on the server; before the first push it is all there is.
async fn base(context: &Context) -> anyhow::Result<Base> {
    let own = OwnCopy::of(context);
    let unsent = own.unsent()?;
    let mut published: Vec<Role> = unsent.iter().map(|file| file.role.clone()).collect();
    let made = unsent.iter().rfind(|file| file.role == Role::Targets);
    if unsent.iter().any(|file| file.role == Role::Root && file.version == 1)
        && let Some(file) = made
    {
        let root = verify::verify_root(&own.first_root()?, None)?;
        let (role, authority) = (&Role::Targets, root.targets());
        let expected = Expected { role, authority, pin: None };
        verify::verify::<Targets>(&file.bytes, expected)?;
        let (bytes, authority) = (file.bytes.clone(), authority.clone());
        return Ok(Base { bytes, authority, published, signers: BTreeMap::new() });
    }
    let connection = Connection::open(context).await?;
    let set = refresh::everything(context, &connection)
        .await?
        .context("the server holds no metadata yet\nhelp: make the first: `refit trust init`")?;
    let held: Vec<Role> = set.roles().into_iter().map(|(role, ..)| role).collect();
    let signers = held
        .iter()
        .filter_map(|role| Some((role.clone(), set.delegated(role)?.signers().clone())))
        .collect();
    published.extend(held);
    let authority = set.root().targets().clone();
    let newest = set.targets();
    let bytes = match made.filter(|file| file.version > newest.version()) {
        Some(file) => file.bytes.clone(),
        None => newest.bytes().to_vec(),
    };
    Ok(Base { bytes, authority, published, signers })
}

/// The first, empty file of a role, if enough of its keys are at hand; else whoever holds them makes it.
fn first_file(context: &Context, role: &Role, list: &KeyList) -> anyhow::Result<Option<Unsent>> {
    let keys = key::at_hand(context, |public| list.keys.contains(public))?;
    let Ok(keys) = signing::enough(role, keys, list.threshold) else { return Ok(None) };
    let bytes = signing::sign(&Draft::first(role.clone(), context.now)?, &keys)?;
    Ok(Some(Unsent { role: role.clone(), version: 1, bytes }))
}

/// `pilot=alice,gate`.
fn ring(text: &str) -> Result<(RingName, Vec<String>), String> {
    let (ring, keys) =
        text.split_once('=').ok_or("write it as RING=KEY, for example pilot=alice")?;
    let ring = RingName::parse(ring).map_err(|e| e.to_string())?;
    let keys: Vec<String> = keys.split(',').map(str::to_owned).collect();
    if keys.iter().any(String::is_empty) {
        return Err(format!("{text:?} names an empty key"));
    }
    Ok((ring, keys))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_ring_is_given_with_its_keys() {
        let (name, keys) = super::ring("pilot=alice.pub.json,gate").unwrap();
        assert_eq!(
            (name.as_str(), keys.as_slice()),
            ("pilot", &["alice.pub.json".to_owned(), "gate".to_owned()][..])
        );
        for bad in ["pilot", "pilot=", "pilot=a,,b", "Pilot=a"] {
            assert!(super::ring(bad).is_err(), "{bad}");
        }
    }
}
