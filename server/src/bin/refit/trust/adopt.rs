//! `refit trust adopt`: the first root, as somebody handed it over. From the network alone nothing is
//! ever trusted first: the file, or its hash, comes another way.

use std::path::Path;

use anyhow::{Context as _, ensure};
use refit_durable::file;
use refit_proto::{names::Digest, trust::metadata::limits};

use super::{OwnCopy, refresh};
use crate::{Context, connect::Connection, output, server_keys};

/// Options of `refit trust adopt`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The file 1.root.json, or its SHA-256.
    root: String,
}

pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let bytes = match Digest::parse(&args.root) {
        Ok(digest) => {
            let connection = Connection::open(context).await?;
            let bytes = refresh::first_root(&connection).await?;
            ensure!(
                Digest::of(&bytes) == digest,
                "the server's first root has the SHA-256 {}, not the one given\n\
                 help: ask whoever gave it; if it is right, somebody else answers in the server's place",
                Digest::of(&bytes)
            );
            bytes
        }
        Err(_) => file::read(Path::new(&args.root), limits::ROOT)
            .context("give the file 1.root.json or its SHA-256, 64 lower-case hex digits")?,
    };
    OwnCopy::of(context).take_first_root(&bytes)?;
    note_server_keys(context).await;
    output::line(&format!("the first root is {}", Digest::of(&bytes)))
}

/// The server's public halves help later and are not needed now.
async fn note_server_keys(context: &Context) {
    if let Ok(connection) = Connection::open(context).await
        && let Ok(keys) = server_keys::ask(&connection).await
        && let Err(error) = server_keys::take(context, &keys)
    {
        eprintln!("warning: {error}");
    }
}
