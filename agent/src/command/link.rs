//! `refit-agent link`: the network half of the agent, as its own unit starts it.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use refit_agent::run;

use super::line::{Arg, Command, Does, Given};

const SOCKET: Arg = Arg::option(
    "socket",
    "SOCKET",
    "The socket to make and to be asked on, instead of the one that systemd gives as standard input",
);

pub(super) const COMMAND: Command = Command {
    name: "link",
    about: "Run the half of the agent that talks to the server, for one that runs with `--link`",
    args: &[SOCKET],
    does: Does::This(run),
    ..Command::NONE
};

fn run(given: &Given) -> Result<ExitCode> {
    run::run_network_half(given.path(&SOCKET).as_deref()).context(
        "there is no socket to be asked on\n\
         help: refit-link.socket starts this half of the agent; by hand, name a socket with `--socket`",
    )?;
    Ok(ExitCode::SUCCESS)
}
