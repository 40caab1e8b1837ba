//! `refit-agent run`: the agent itself.

use std::{process::ExitCode, sync::Arc};

use anyhow::Result;
use refit_agent::{
    clock::Clock,
    host::files::RealFiles,
    machine::{self, HostMachine},
    run::{self, Parts},
    settings::Settings,
};

use super::Common;

pub(super) fn run(common: &Common) -> Result<ExitCode> {
    let settings = Settings::load(&common.data, common.config.as_deref())?;
    let clock = Clock::system()?;
    let files = Arc::new(RealFiles);
    let services = machine::services(&settings)?;
    let machine = {
        let (files, settings, clock) = (files.clone(), settings.clone(), clock.clone());
        Box::new(move |services| HostMachine::new(files, &settings, clock, services))
    };
    run::run(&settings, clock, Parts { files, machine, services })?;
    Ok(ExitCode::SUCCESS)
}
