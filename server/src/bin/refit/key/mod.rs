//! `refit key`: the keys that sign. They are made and kept on this side; only public halves leave. Whatever
//! holds a private half (a file, the environment, a program), a [`HeldKey`] signs with it.

mod command;
mod generate;
mod held;
mod kept;
mod pem;
mod secrets;
mod shown;

pub(crate) use self::{
    held::HeldKey,
    kept::{at_hand, private, public},
    secrets::{PASSPHRASE_FILE, Secrets},
};
use crate::{Context, output::Output};

/// Options of `refit key`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Make a key, in a file that a passphrase opens.
    #[command(after_help = "Examples:
  refit key generate --role root --name alice
  refit key generate --role ring --product payments --ring pilot --name alice
  refit key generate --role release --product payments --name build --unencrypted

The file is PKCS#8 PEM, encrypted with AES-256 under a key that scrypt makes of the passphrase. \
`openssl pkey -in FILE` reads it too.")]
    Generate(generate::Generate),
    /// Add a key that another program signs with: an HSM, a key service, a smart card.
    #[command(after_help = "Example:
  refit key add --role root --name alice -- /usr/local/bin/my-signer --slot 3

docs/SIGNERS.md has the few lines that such a program has to speak.")]
    Add(generate::Add),
    /// The keys that are kept here, and what they may sign.
    #[command(after_help = "Example:\n  refit key list --output json")]
    List(Output),
    /// The public half of one key, as TUF writes it, and what it may sign.
    #[command(after_help = "Example:\n  refit key show root.alice")]
    Show {
        /// A key as `refit key list` names it, or a file.
        key: String,
        #[command(flatten)]
        output: Output,
    },
}

pub(crate) fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    match args.verb {
        Verb::Generate(args) => generate::generate(context, args),
        Verb::Add(args) => generate::add(context, args),
        Verb::List(output) => shown::list(context, output),
        Verb::Show { key, output } => shown::show(context, &key, output),
    }
}

#[cfg(test)]
mod tests;
