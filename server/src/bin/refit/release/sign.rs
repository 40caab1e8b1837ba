//! `refit release sign`: puts a release into the next file of its product's release role.

use std::path::PathBuf;

use anyhow::bail;
use refit_durable::file::{self, Access};
use refit_proto::{
    package::Release,
    trust::{Role, Targets, Trusted, TrustedSet, promotion},
};

use super::folder::{Checked, ReleaseFolder};
use crate::{
    Context,
    connect::Connection,
    output, signing,
    trust::{self, authority},
};

/// Options of `refit release sign`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// What `refit release build` made.
    #[arg(value_name = "RELEASE_DIR")]
    folder: PathBuf,
    /// A release key of the product; else those kept here.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Build on the own copy of the metadata, and ask no server.
    #[arg(long)]
    pub(super) offline: bool,
}

/// Signs on the newest metadata.
pub(super) async fn run(
    context: &Context,
    connection: &Connection,
    args: Args,
) -> anyhow::Result<()> {
    let checked = ReleaseFolder::at(&args.folder).check()?;
    let role = Role::Release(checked.release.product.clone());
    let set = trust::newest(context, connection, &[role]).await?;
    sign(context, &args, &checked, &set)
}

/// Signs on the own copy of the metadata.
pub(super) fn offline(context: &Context, args: Args) -> anyhow::Result<()> {
    let checked = ReleaseFolder::at(&args.folder).check()?;
    let role = Role::Release(checked.release.product.clone());
    sign(context, &args, &checked, &trust::load(context, &[role])?)
}

fn sign(context: &Context, args: &Args, checked: &Checked, set: &TrustedSet) -> anyhow::Result<()> {
    sign_on(context, &ReleaseFolder::at(&args.folder), checked, set, &args.keys)?;
    output::line(&format!(
        "signed {} {}\nnext: refit release publish {}",
        checked.release.product,
        checked.release.version,
        args.folder.display()
    ))
}

/// Signs a release into the version after the newest one, and stores that file beside it.
pub(super) fn sign_on(
    context: &Context,
    folder: &ReleaseFolder,
    checked: &Checked,
    set: &TrustedSet,
    keys: &[String],
) -> anyhow::Result<()> {
    let release = &checked.release;
    let role = Role::Release(release.product.clone());
    refuse_published(release, authority(set, &role)?.1)?;
    let mut draft = signing::draft(context, set, role)?;
    draft.add_release(&release.version, &checked.document)?;
    let bytes = signing::signed(context, set, &draft, keys)?;
    Ok(file::write(&folder.signed(&release.product), &bytes, Access::Shared)?)
}

/// A version that is published already is done; signing it again would publish nothing.
fn refuse_published(release: &Release, held: Option<&Trusted<Targets>>) -> anyhow::Result<()> {
    let path = promotion::release_path(&release.product, &release.version);
    match held.and_then(|held| held.targets.get(&path)) {
        Some(file) if file.fits(&release.to_bytes()) => bail!(
            "{} {} is published already, with the same bytes\n\
             help: promote it: `refit release promote {} {} --to RING`",
            release.product,
            release.version,
            release.product,
            release.version
        ),
        Some(_) | None => Ok(()),
    }
}
