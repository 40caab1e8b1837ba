//! `refit trust renew`: the next version of a role's file with the same content and a later expiry.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use refit_proto::trust::{Authority, Role, TrustedSet, edit::Draft};

use super::{ceremony, refresh};
use crate::{Context, connect::Connection, output, signing};

/// Options of `refit trust renew`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// root, targets, policy, release.PRODUCT or ring.PRODUCT.RING.
    #[arg(value_parser = Role::parse)]
    role: Role,
    /// A key to sign with; else those kept here.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// How long it lasts, in days. [default: that of the role]
    #[arg(long)]
    days: Option<u16>,
    /// Where others have to sign as well: write the change to a file, and not to the server.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let connection = Connection::open(context).await?;
    let wanted: Vec<Role> =
        if args.role.is_top_level() { Vec::new() } else { vec![args.role.clone()] };
    // What has expired can't be refreshed, and is what needs this most: then the own copy has to do.
    let set = match refresh::newest(context, &connection, &wanted).await {
        Ok(set) if set.refused(&args.role).is_none() => set,
        Ok(set) => refresh::load(context, &wanted).unwrap_or(set),
        Err(error) => refresh::load(context, &wanted).map_err(|_| error)?,
    };
    let (authority, held) = held(&set, &args.role)?;
    let mut draft = Draft::next(args.role.clone(), &held, context.now)?;
    if let Some(days) = args.days {
        draft.expire_in_days(days.into());
    }
    let keys = signing::keys(context, &args.role, authority, &args.keys)?;
    let mut change = ceremony::of_drafts(context, &connection, &set, &[draft]).await?;
    output::line(&ceremony::judge(context, &change)?.in_words().join("\n"))?;
    ceremony::sign(context, &mut change, &keys)?;
    ceremony::conclude(context, Some(&connection), &change, args.out.as_deref()).await
}

fn held<'a>(set: &'a TrustedSet, role: &Role) -> anyhow::Result<(&'a Authority, Vec<u8>)> {
    Ok(match role {
        Role::Root => (set.root().root(), set.root().bytes().to_vec()),
        Role::Targets => (set.root().targets(), set.targets().bytes().to_vec()),
        Role::Policy | Role::Release(_) | Role::Ring(..) => {
            let (authority, file) = refresh::authority(set, role)?;
            let file = file.with_context(|| format!("{role} has no file yet"))?;
            (authority, file.bytes().to_vec())
        }
        Role::Snapshot | Role::Timestamp | Role::Other(_) => {
            bail!("{role} is not signed by people\nhelp: the server renews snapshot and timestamp")
        }
    })
}
