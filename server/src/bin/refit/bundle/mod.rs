//! `refit bundle`: a release with its metadata and content in one file, for hosts without a network.

mod export;
mod gather;

use crate::{Context, connect::Connection};

/// Options of `refit bundle`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Write a promoted release into one file. On the host: `refit-agent install FILE`.
    ///
    /// The file carries a timestamp of its own. Whoever holds the file can keep a host on what it says
    /// until that timestamp expires, so make it no longer valid than the way takes.
    #[command(
        after_help = "Example:\n  refit bundle export payments 2.4.1 --ring pilot --valid-for 7d --out payments.bundle"
    )]
    Export(export::Args),
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let Verb::Export(args) = args.verb;
    let request = args.check()?;
    export::run(context, &Connection::open(context).await?, request).await
}
