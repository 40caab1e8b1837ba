//! `refit-agent status`: what the agent on this host is doing.

use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use refit_agent::{settings::Settings, status};

use super::{
    Common,
    reach::{Reached, reach},
};

/// What the agent on this host is doing
#[derive(clap::Args)]
pub(super) struct Args {
    /// As lines for people, or as JSON for programs
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Output {
    Text,
    Json,
}

pub(super) fn run(common: &Common, args: &Args) -> Result<ExitCode> {
    let settings = Settings::load(&common.data, common.config.as_deref())?;
    let (state, runs) = match reach(&settings, &status::Question::Status)? {
        Reached::Agent(state) => (state, true),
        Reached::Folder(offline) => (status::explain(&offline.reporter(&settings)?)?, false),
    };
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&state)?),
        Output::Text => {
            if !runs {
                println!("the agent does not run; this is what it left");
            }
            print!("{}", status::show(&state));
        }
    }
    Ok(ExitCode::SUCCESS)
}
