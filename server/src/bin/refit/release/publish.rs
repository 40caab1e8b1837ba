//! `refit release publish`: content first, then the signed file that names it. Where somebody else was
//! faster, the same change is made on theirs, unless it touches ours.

use std::path::{Path, PathBuf};

use refit_proto::{
    package::{FileRef, Release},
    trust::{Role, TrustedSet, promotion},
};

use super::{
    folder::{Checked, ReleaseFolder},
    sign::sign_on,
};
use crate::{
    Context,
    conflict::Situation,
    connect::Connection,
    content, output,
    publish::{Carried, Change, base, carry_out},
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

pub(super) async fn run(
    context: &Context,
    connection: &Connection,
    args: Args,
) -> anyhow::Result<()> {
    let folder = ReleaseFolder::at(&args.folder);
    let checked = folder.check()?;
    folder.read_signed(&checked.release.product)?;
    upload(connection, &folder, &checked).await?;
    let publication = Publication { folder: &folder, checked: &checked, keys: &args.keys };
    let set = base(context, connection, &publication).await?;
    let mut carried = Carried::Out;
    if !publication.situation(&set, &set).there {
        carried = carry_out(context, connection, &publication, set).await?;
    }
    let (product, version) = (&checked.release.product, &checked.release.version);
    carried.tell(&format!(
        "published {product} {version}\nnext: refit release promote {product} {version} --to RING"
    ))
}

/// Uploads the content of a release that was published before, and nothing that is signed.
pub(crate) async fn upload_folder(connection: &Connection, folder: &Path) -> anyhow::Result<()> {
    let folder = ReleaseFolder::at(folder);
    upload(connection, &folder, &folder.check()?).await
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

/// The release in its product's release role.
struct Publication<'a> {
    folder: &'a ReleaseFolder,
    checked: &'a Checked,
    keys: &'a [String],
}

impl Publication<'_> {
    fn own(&self) -> (String, FileRef) {
        let Release { product, version, .. } = &self.checked.release;
        (promotion::release_path(product, version), FileRef::to(&self.checked.document))
    }
}

impl Change for Publication<'_> {
    fn role(&self) -> Role {
        Role::Release(self.checked.release.product.clone())
    }

    fn act(&self) -> String {
        format!("publish {} {}", self.checked.release.product, self.checked.release.version)
    }

    /// At first the file that was signed, whatever was published since.
    fn file(&self, context: &Context, set: &TrustedSet, round: u32) -> anyhow::Result<Vec<u8>> {
        if round > 0 {
            sign_on(context, self.folder, self.checked, set, self.keys)?;
        }
        self.folder.read_signed(&self.checked.release.product)
    }

    fn documents(&self) -> Vec<Vec<u8>> {
        vec![self.checked.document.clone()]
    }

    /// What it was signed on had no such release, or it could not have been added.
    fn situation(&self, _: &TrustedSet, newest: &TrustedSet) -> Situation {
        let newest = newest.delegated(&self.role()).map(|file| &**file);
        Situation::of_targets(None, newest, &[self.own()])
    }
}
