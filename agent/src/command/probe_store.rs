//! `refit-agent probe-store`: opens a store and closes it again, before a process that must live does.

use std::process::ExitCode;

use anyhow::Result;

use super::line::{Arg, Command, Does, Given};

const STORE: Arg = Arg::word("STORE", "The store's folder");

pub(super) const COMMAND: Command = Command {
    name: refit_agent::run::PROBE_STORE,
    about: "Open a store and close it again, before a process that must live does",
    args: &[STORE],
    does: Does::This(run),
    hidden: true,
    ..Command::NONE
};

fn run(given: &Given) -> Result<ExitCode> {
    refit_durable::SledStore::probe(&given.must(&STORE, given.path(&STORE))?);
    Ok(ExitCode::SUCCESS)
}
