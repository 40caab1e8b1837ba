//! `refit-agent recover`: goes back by the way back where the journal cannot tell what was under way.
//! The same that `run` does first; offline, without the server.

use std::{process::ExitCode, sync::Arc};

use anyhow::Result;
use refit_agent::{
    clock::Clock, host::files::RealFiles, machine, offline::Offline, run, way_back::Recovered,
};

use super::{
    Common,
    line::{Command, Does, Given},
};

pub(super) const COMMAND: Command = Command {
    name: "recover",
    about: "Go back by the way back, where an update was cut and its journal cannot be read",
    does: Does::This(run),
    ..Command::NONE
};

fn run(given: &Given) -> Result<ExitCode> {
    let settings = Common::of(given)?.settings()?;
    let clock = Clock::system()?;
    let offline = Offline::open(&settings, clock)?;
    let files = Arc::new(RealFiles);
    let mut services = machine::services(&settings)?;
    let mut journal = offline.reporting_journal(&settings)?;
    let recovered = run::recover(&settings, &mut journal, &(files as _), services.services())?;
    match recovered {
        Recovered::Nothing => {
            println!(
                "there was nothing to recover; the agent carries on what is under way when it runs"
            );
        }
        Recovered::SetAside => {
            println!("the journal's record could not be read and is set aside; nothing had begun");
        }
        Recovered::Rescued(failure) => {
            println!("{}; the agent finishes and reports it when it runs", failure.text);
        }
        Recovered::WentBack(_) => println!("the host is back on what ran before the update"),
    }
    Ok(ExitCode::SUCCESS)
}
