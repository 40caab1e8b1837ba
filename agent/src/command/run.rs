//! `refit-agent run`: the agent itself.

use std::{process::ExitCode, sync::Arc};

use anyhow::Result;
use refit_agent::{
    clock::Clock,
    host::files::RealFiles,
    machine::{self, HostMachine},
    run::{self, Parts},
};

use super::{
    Common,
    line::{Arg, Command, Does, Given},
};

const LINK: Arg = Arg::option(
    "link",
    "LINK",
    "Leave the network to `refit-agent link` on this socket, and open none but for health checks",
);

pub(super) const COMMAND: Command = Command {
    name: "run",
    about: "Run the agent",
    args: &[LINK],
    does: Does::This(run),
    ..Command::NONE
};

fn run(given: &Given) -> Result<ExitCode> {
    let settings = Common::of(given)?.settings()?;
    let clock = Clock::system()?;
    let files = Arc::new(RealFiles);
    let services = machine::services(&settings)?;
    let machine = {
        let (files, settings, clock) = (files.clone(), settings.clone(), clock.clone());
        Box::new(move |services| HostMachine::new(files, &settings, clock, services))
    };
    run::run(&settings, clock, Parts { files, machine, services, link: given.path(&LINK) })?;
    Ok(ExitCode::SUCCESS)
}
