//! `refit-agent print-unit`: the systemd units, for whoever puts them onto a host.

use std::process::ExitCode;

use anyhow::Result;
use refit_agent::unit::{self, Unit};

use super::{
    Common,
    line::{Arg, Command, Does, Given},
};

const UNIT: Arg = Arg::word("UNIT", "Which").one_of(&Unit::WORDS);
const PROGRAM: Arg = Arg::option(
    "program",
    "PROGRAM",
    "Where refit-agent will lie, if not where this one does: for whoever makes a package of it",
);

pub(super) const COMMAND: Command = Command {
    name: "print-unit",
    about: "Print a systemd unit: the agent's, or the one of what brings the host back without it",
    args: &[UNIT, PROGRAM],
    does: Does::This(run),
    more: "Units:
  agent        `refit-agent.service`: the root half
  link         `refit-link.service`: the network half
  link-socket  `refit-link.socket`, on which the root half asks it
  rescue       `refit-rescue@.service`, of which `refit-rescue@boot` is enabled",
    ..Command::NONE
};

fn run(given: &Given) -> Result<ExitCode> {
    let unit: Unit = given.must(&UNIT, given.parsed(&UNIT)?)?;
    let program = given.path(&PROGRAM).map_or_else(std::env::current_exe, std::path::absolute)?;
    let data = std::path::absolute(Common::of(given)?.data)?;
    print!("{}", unit::text(unit, &program, &data));
    Ok(ExitCode::SUCCESS)
}
