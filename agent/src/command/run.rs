//! `refit-agent run`: the agent itself.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Result;
use refit_agent::{
    clock::Clock,
    host::files::RealFiles,
    machine::{self, HostMachine},
    run::{self, Parts},
    settings::Settings,
};

use super::Common;

/// The agent itself
#[derive(clap::Args)]
pub(super) struct Args {
    /// Leave the network to `refit-agent link` on this socket, and open none but for health checks
    #[arg(long)]
    link: Option<PathBuf>,
}

pub(super) fn run(common: &Common, args: Args) -> Result<ExitCode> {
    let settings = Settings::load(&common.data, common.config.as_deref())?;
    let clock = Clock::system()?;
    let files = Arc::new(RealFiles);
    let services = machine::services(&settings)?;
    let machine = {
        let (files, settings, clock) = (files.clone(), settings.clone(), clock.clone());
        Box::new(move |services| HostMachine::new(files, &settings, clock, services))
    };
    run::run(&settings, clock, Parts { files, machine, services, link: args.link })?;
    Ok(ExitCode::SUCCESS)
}
