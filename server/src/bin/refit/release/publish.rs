//! `refit release publish`: content first, then the signed file that names it. Where somebody else was
//! faster, the same change is made on theirs, unless it touches ours.

use std::path::PathBuf;

use anyhow::bail;
use refit_proto::{
    package::FileRef,
    trust::{Role, promotion},
    wire::MetadataFile,
};

use super::{
    folder::{Checked, ReleaseFolder},
    sign::sign_on,
};
use crate::{
    Context,
    connect::Connection,
    content, output,
    publish::{After, Pushed, Situation, after_conflict, push},
    trust::{self, authority},
};

/// Options of `refit release publish`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// What `refit release sign` signed.
    #[arg(value_name = "RELEASE_DIR")]
    folder: PathBuf,
    /// A release key, if it has to be signed again on what others published meanwhile; else those kept
    /// here.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
}

pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let folder = ReleaseFolder::at(&args.folder);
    let checked = folder.check()?;
    folder.read_signed(&checked.release.product)?;
    let connection = Connection::open(context).await?;
    upload(&connection, &folder, &checked).await?;
    publish(context, &connection, &folder, &checked, &args.keys).await?;
    let (product, version) = (&checked.release.product, &checked.release.version);
    output::line(&format!(
        "published {product} {version}\nnext: refit release promote {product} {version} --to RING"
    ))
}

async fn upload(
    connection: &Connection,
    folder: &ReleaseFolder,
    checked: &Checked,
) -> anyhow::Result<()> {
    let missing = content::missing(connection, &checked.content).await?;
    let bytes: u64 = missing.iter().map(|file| file.length).sum();
    output::line(&format!(
        "{} of {} files are new to the server ({bytes} bytes)",
        missing.len(),
        checked.content.len()
    ))?;
    for file in missing {
        content::upload_file(connection, folder.open(file)?, file).await?;
    }
    content::upload_bytes(connection, checked.document.clone()).await
}

async fn publish(
    context: &Context,
    connection: &Connection,
    folder: &ReleaseFolder,
    checked: &Checked,
    keys: &[String],
) -> anyhow::Result<()> {
    let release = &checked.release;
    let role = Role::Release(release.product.clone());
    let path = promotion::release_path(&release.product, &release.version);
    let own = [(path, FileRef::to(&checked.document))];
    let act = format!("publish {} {}", release.product, release.version);
    for round in 0.. {
        let file = folder.read_signed(&release.product)?;
        let files = vec![MetadataFile { role: role.to_string(), file }];
        let Pushed::Conflict(told) = push(connection, &act, files).await? else { break };
        let set = trust::newest(context, connection, std::slice::from_ref(&role)).await?;
        let (authority, newest) = authority(&set, &role)?;
        // What it was signed on had no such release, or it could not have been added.
        let newest = newest.map(|file| &**file);
        let threshold = authority.threshold;
        match after_conflict(Situation::of_targets(None, newest, &own, threshold, round)) {
            After::Nothing => break,
            After::SignAgain => {
                output::line(&format!("{}; signing again on it", told.in_words()))?;
                sign_on(context, folder, checked, &set, keys)?;
            }
            After::Stop(why) => bail!("{}: {}", told.in_words(), why.in_words()),
        }
    }
    confirm(context, connection, &role, &own[0]).await
}

/// Published is what a host would see: verified from the own root, not what the server says.
async fn confirm(
    context: &Context,
    connection: &Connection,
    role: &Role,
    (path, expected): &(String, FileRef),
) -> anyhow::Result<()> {
    let set = trust::newest(context, connection, std::slice::from_ref(role)).await?;
    match set.target(role, path) {
        Some(file) if file.digest() == Some(expected.sha256) => Ok(()),
        Some(_) | None => bail!(
            "the server took the release and does not show it\n\
             help: give the command again; if it stays, the server is not what it should be"
        ),
    }
}
