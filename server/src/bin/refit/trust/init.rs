//! `refit trust init`: root 1 and targets 1, from keys that were made on this side and the public halves
//! of the server's.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context as _, ensure};
use refit_durable::file;
use refit_proto::trust::{
    KeyId, PublicKey, Role,
    change::Base,
    edit::{Draft, KeyList, RootKeys},
};

use super::{OwnCopy, Thresholds, ceremony, threshold};
use crate::{
    Context,
    connect::Connection,
    key, output, server_keys,
    server_keys::{ServerKeys, named},
};

/// Options of `refit trust init`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A key that signs root; several are given one by one. A public half is enough, if others sign.
    #[arg(long = "root-key", required = true, value_name = "KEY")]
    root: Vec<String>,
    /// A key that signs targets.
    #[arg(long = "targets-key", required = true, value_name = "KEY")]
    targets: Vec<String>,
    /// The public halves of the server's keys, as `refit-server init` wrote them.
    #[arg(long, value_name = "FILE", required_unless_present = "from_server")]
    server_keys: Option<PathBuf>,
    /// Ask the server for its public halves.
    #[arg(long, conflicts_with = "server_keys")]
    from_server: bool,
    /// How many keys must sign, where more than one: root=2.
    #[arg(long, value_name = "ROLE=N", value_parser = threshold)]
    threshold: Vec<(Role, u64)>,
    /// Where others have to sign as well: what the change that they sign is called.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let own = OwnCopy::of(context);
    ensure!(
        own.first_root().is_err() && own.unsent()?.is_empty(),
        "there is a root already in {}\nhelp: `refit trust status` shows it; for another fleet, use another folder: `refit --home DIR`",
        context.home.trust().display()
    );
    let server = server(context, &args).await?;
    let keys = root_keys(context, &args, &server)?;
    let mut root = Draft::first_root(&keys, context.now)?;
    root.name_holders(&holders(context, &args)?);
    let targets = Draft::first(Role::Targets, context.now)?;
    let mut change = ceremony::from(context, Base::default(), &[root, targets])?;
    let judged = ceremony::show_and_sign(context, &mut change, &[])?;
    server_keys::take(context, &server)?;
    if !judged.is_complete() {
        return ceremony::conclude(context, None, &change, args.out.as_deref()).await;
    }
    ceremony::keep(context, &change)?;
    output::line(&format!(
        "root 1 has the SHA-256 {}\nnext: refit trust delegate, then refit trust push",
        super::own_root_digest(context)?
    ))
}

async fn server(context: &Context, args: &Args) -> anyhow::Result<ServerKeys> {
    match &args.server_keys {
        Some(path) => server_keys::read(&file::read(path, 1_000_000)?)
            .with_context(|| path.display().to_string()),
        None => server_keys::ask(&Connection::open(context).await?).await,
    }
}

fn root_keys(context: &Context, args: &Args, server: &ServerKeys) -> anyhow::Result<RootKeys> {
    let mut thresholds = Thresholds::new(&args.threshold)?;
    let mut list = |role: Role, words: &[String]| -> anyhow::Result<KeyList> {
        let keys: Vec<PublicKey> = words
            .iter()
            .map(|word| key::public(context, Some(&role), word))
            .collect::<anyhow::Result<_>>()?;
        Ok(KeyList::new(keys, thresholds.take(&role)))
    };
    let (root, targets) = (list(Role::Root, &args.root)?, list(Role::Targets, &args.targets)?);
    thresholds.finish()?;
    let freshness = KeyList::new([named(server, "freshness")?.clone()], 1);
    Ok(RootKeys { root, targets, snapshot: freshness.clone(), timestamp: freshness })
}

/// Who holds the keys that are named.
fn holders(context: &Context, args: &Args) -> anyhow::Result<BTreeMap<KeyId, String>> {
    let root = args.root.iter().map(|word| (Role::Root, word));
    let all = root.chain(args.targets.iter().map(|word| (Role::Targets, word)));
    let ids = all.map(|(role, word)| Ok((word, key::public(context, Some(&role), word)?.id())));
    Ok(ceremony::holders(ids.collect::<anyhow::Result<Vec<_>>>()?))
}
