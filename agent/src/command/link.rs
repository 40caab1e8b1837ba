//! `refit-agent link`: the network half of the agent, as its own unit starts it.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use refit_agent::run;

/// The half of the agent that talks to the server
#[derive(clap::Args)]
pub(super) struct Args {
    /// The socket to make and to be asked on, instead of the one that systemd gives as standard input
    #[arg(long)]
    socket: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    run::run_network_half(args.socket.as_deref()).context(
        "there is no socket to be asked on\n\
         help: refit-link.socket starts this half of the agent; by hand, name a socket with `--socket`",
    )?;
    Ok(ExitCode::SUCCESS)
}
