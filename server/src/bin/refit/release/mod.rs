//! `refit release`: from a folder to a signed release, to the server, and from ring to ring.

mod build;
mod check;
mod description;
mod document;
mod folder;
mod impact;
mod list;
mod promote;
mod publish;
mod show;
mod sign;
#[cfg(test)]
mod tests;
mod withdraw;

pub(crate) use self::{publish::upload_folder, withdraw::Args as WithdrawArgs};
use crate::{Context, connect::Connection};

/// Options of `refit release`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Make a release of a folder with a refit.toml.
    #[command(after_help = "Example:\n  refit release build . --product payments --version 2.4.1")]
    Build(build::Args),
    /// Whether a built release is whole, and says of itself what its product's policy asks for.
    #[command(after_help = "Examples:\n  refit release check payments-2.4.1\n  \
        refit release check payments-2.4.1 --fleet fleet.toml")]
    Check(check::Args),
    /// Sign a built release with a release key of its product.
    #[command(after_help = "Example:\n  refit release sign payments-2.4.1 --key build")]
    Sign(sign::Args),
    /// Upload a signed release.
    #[command(after_help = "Example:\n  refit release publish payments-2.4.1")]
    Publish(publish::Args),
    /// The releases of a product, or of all, as their release keys signed them.
    #[command(after_help = "Examples:\n  refit release list\n  refit release list payments")]
    List(list::List),
    /// One release: notes, plan, packages; what was signed about it, by whom.
    #[command(after_help = "Example:\n  refit release show payments 2.4.1")]
    Show(show::Args),
    /// What a release would do to the fleet before anything starts: hosts, what is in their way, and when.
    #[command(after_help = "Examples:\n  refit release impact payments 2.4.1\n  \
        refit release impact payments 2.4.1 --update 20m --output json")]
    Impact(impact::Args),
    /// Permit a release on a ring. The one that ran there becomes the one to go back to.
    #[command(after_help = "Examples:\n  refit release promote payments 2.4.1 --to pilot\n  \
        refit release promote payments 2.4.1 --to broad --evidence security=scan.txt")]
    Promote(promote::Args),
    /// Offer a release to nobody any more. Where it runs, it goes on running.
    #[command(after_help = "Example:\n  refit release withdraw payments 2.4.0")]
    Withdraw(withdraw::Args),
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    match args.verb {
        Verb::Build(args) => build::run(context, args),
        Verb::Sign(args) if args.offline => sign::offline(context, args),
        Verb::Check(args) if args.fleet.is_some() => check::offline(&args),
        verb => on(context, &Connection::open(context).await?, verb).await,
    }
}

/// Withdraws a release: `refit trust withdraw` is the same.
pub(crate) async fn withdraw(context: &Context, args: WithdrawArgs) -> anyhow::Result<()> {
    withdraw::run(context, &Connection::open(context).await?, args).await
}

async fn on(context: &Context, connection: &Connection, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Build(args) => build::run(context, args),
        Verb::Check(args) => check::run(connection, args).await,
        Verb::Sign(args) => sign::run(context, connection, args).await,
        Verb::Publish(args) => publish::run(context, connection, args).await,
        Verb::List(args) => list::list(context, connection, args).await,
        Verb::Show(args) => show::run(context, connection, args).await,
        Verb::Impact(args) => impact::run(connection, args).await,
        Verb::Promote(args) => promote::run(context, connection, args).await,
        Verb::Withdraw(args) => withdraw::run(context, connection, args).await,
    }
}
