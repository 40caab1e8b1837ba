//! `refit`, the administrator's command: one file per noun, each an `Args` and a `run`. What is signed is
//! made and checked here, on the caller's side, from the caller's own copy of the root; the server's
//! word is never enough. Of the server it knows the protocol alone.

mod apply;
mod audit;
mod bundle;
mod confirm;
mod conflict;
mod connect;
mod content;
mod duration;
mod failure;
mod home;
mod host;
mod identity;
mod key;
mod login;
mod output;
mod publish;
mod release;
mod rollout;
mod server_keys;
mod servers;
mod signing;
mod status;
#[cfg(test)]
mod testing;
mod token;
mod toml_text;
mod trust;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use jiff::Timestamp;

use crate::home::Home;

/// Refit's command for administrators and publishers.
///
/// Keys and certificates are made here and stay here; only public halves and signatures leave.
#[derive(Parser)]
#[command(
    name = "refit",
    version,
    after_help = "Example:\n  refit login refit1-... && refit status"
)]
struct Arguments {
    /// Where identity, keys and the own copy of the trust metadata are kept.
    /// [default: $XDG_CONFIG_HOME/refit or ~/.config/refit]
    #[arg(long, global = true, env = "REFIT_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
    /// A file with the passphrase of the keys that this command uses; else the terminal is asked.
    #[arg(long, global = true, env = key::PASSPHRASE_FILE, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Subcommand)]
enum Noun {
    /// Get a certificate from the server with a one-time token.
    Login(login::Args),
    /// Keys that sign: made and kept on this side.
    Key(key::Args),
    /// Who may sign what: root, targets, and the own copy of the metadata.
    Trust(trust::Args),
    /// Tokens with which hosts, people and CI jobs get their certificates.
    Token(token::Args),
    /// Releases: build, sign, publish, promote.
    Release(release::Args),
    /// Bundles: a release in one file, for hosts without a network.
    Bundle(bundle::Args),
    /// Make the products and rings what a TOML file says.
    Apply(apply::Args),
    /// Rollouts: where they stand; pause, resume, roll back.
    Rollout(rollout::Args),
    /// Hosts: list, show, revoke, retire.
    Host(host::Args),
    /// The server's certificate authorities.
    Server(servers::Args),
    /// The whole fleet on one screen.
    Status(status::Args),
    /// The audit log: list and verify.
    Audit(audit::Args),
}

/// What every command gets: where its files are, and the one moment at which all of it happens.
struct Context {
    home: Home,
    now: Timestamp,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", failure::in_words(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let secrets = key::Secrets::of_process(arguments.passphrase_file);
    let home = Home::open(arguments.home)?.with_secrets(secrets);
    let context = Context { home, now: now() };
    match arguments.noun {
        Noun::Login(args) => login::run(&context, args).await,
        Noun::Key(args) => key::run(&context, args),
        Noun::Trust(args) => trust::run(&context, args).await,
        Noun::Token(args) => token::run(&context, args).await,
        Noun::Release(args) => release::run(&context, args).await,
        Noun::Bundle(args) => bundle::run(&context, args).await,
        Noun::Apply(args) => apply::run(&context, args).await,
        Noun::Rollout(args) => rollout::run(&context, args).await,
        Noun::Host(args) => host::run(&context, args).await,
        Noun::Server(args) => servers::run(&context, args).await,
        Noun::Status(args) => status::run(&context, args).await,
        Noun::Audit(args) => audit::run(&context, args).await,
    }
}

#[expect(clippy::disallowed_methods, reason = "main.rs owns the clock")]
fn now() -> Timestamp {
    Timestamp::now()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_fits_together_and_every_command_shows_an_example() {
        let mut command = super::Arguments::command();
        command.build();
        command.clone().debug_assert();
        check(&command);
    }

    fn check(command: &clap::Command) {
        let commands: Vec<_> =
            command.get_subcommands().filter(|inner| inner.get_name() != "help").collect();
        if commands.is_empty() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Example"), "{} shows no example", command.get_name());
        }
        for inner in commands {
            check(inner);
        }
    }
}
