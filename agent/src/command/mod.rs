//! The commands of `refit-agent`, one file each.

mod backup;
mod brake;
mod enroll;
mod hold;
mod install;
mod link;
mod qualify;
mod quarantine;
mod reach;
mod recover;
mod run;
mod status;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};
use refit_agent::{journald::Journald, settings, unit};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    prelude::*,
    registry,
};

/// Keeps this host on the release that its ring permits: verifies, backs up, installs, watches health,
/// and goes back by itself.
#[derive(Parser)]
#[command(name = "refit-agent", version = refit_agent::version::version())]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(clap::Args)]
struct Common {
    /// The agent's data folder
    #[arg(long, global = true, default_value = settings::DEFAULT_DATA, env = "REFIT_AGENT_DATA")]
    data: PathBuf,
    /// Settings, instead of agent.toml in the data folder
    #[arg(long, global = true)]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Make this machine a host of the fleet, with a token of `refit token create`
    Enroll(enroll::Args),
    /// Run the agent
    Run(run::Args),
    /// Run the half of the agent that talks to the server, for one that runs with `--link`
    Link(link::Args),
    /// Install a release from a bundle of `refit bundle export`, on a host without a network
    Install(install::Args),
    /// Show what the agent on this host is doing
    Status(status::Args),
    /// Go back by the way back, where an update was cut and its journal cannot be read
    Recover,
    /// List, verify or bring back what this host saved before its updates
    Backup(backup::Args),
    /// Let no update begin on this host for a while, and say why
    Hold(hold::Args),
    /// Let a release that failed here be tried again
    Quarantine(quarantine::Args),
    /// Let a product be tried again that failed on this host too often
    Brake(brake::Args),
    /// Try what taking over from the running agent takes, in a scratch folder, and say what came of it: the
    /// running agent asks this of a new release of itself
    #[command(hide = true)]
    Qualify(qualify::Args),
    /// Open a store and close it again, before a process that must live does
    #[command(hide = true, name = refit_agent::run::PROBE_STORE)]
    ProbeStore {
        /// The store's folder
        store: PathBuf,
    },
    /// Print a systemd unit: the agent's, or the one of what brings the host back without it
    PrintUnit {
        /// Which
        #[arg(value_enum, default_value_t = unit::Unit::Agent)]
        unit: unit::Unit,
        /// Where refit-agent will lie, if not where this one does: for whoever makes a package of it
        #[arg(long)]
        program: Option<PathBuf>,
    },
}

/// Does what the command line says.
pub(crate) fn run() -> Result<ExitCode> {
    let Arguments { common, command } = Arguments::parse();
    log_to_stderr();
    match command {
        Command::Enroll(args) => enroll::run(&common, args),
        Command::Run(args) => run::run(&common, args),
        Command::Link(args) => link::run(&args),
        Command::Install(args) => install::run(&common, &args),
        Command::Status(args) => status::run(&common, &args),
        Command::Recover => recover::run(&common),
        Command::Backup(args) => backup::run(&common, args),
        Command::Hold(args) => hold::run(&common, args),
        Command::Qualify(args) => qualify::run(&common, &args),
        Command::Quarantine(args) => quarantine::run(&common, args),
        Command::Brake(args) => brake::run(&common, args),
        Command::ProbeStore { store } => {
            refit_durable::SledStore::probe(&store);
            Ok(ExitCode::SUCCESS)
        }
        Command::PrintUnit { unit, program } => {
            let program = program.map_or_else(std::env::current_exe, std::path::absolute)?;
            let data = std::path::absolute(&common.data)?;
            print!("{}", unit::text(unit, &program, &data));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Everything worth a line goes to the journal with its fields, or to stderr; REFIT_LOG chooses what:
/// `debug`, or `info,refit_agent::link=debug`.
fn log_to_stderr() {
    let chosen = std::env::var("REFIT_LOG").ok().and_then(|chosen| chosen.parse::<Targets>().ok());
    let filter = chosen.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    match Journald::if_stderr_is_its() {
        Some(journald) => registry().with(filter).with(journald).init(),
        None => registry().with(filter).with(fmt::layer().with_writer(std::io::stderr)).init(),
    }
}
