//! `refit-agent status`: what the agent on this host is doing.

use std::{process::ExitCode, sync::Arc};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use refit_agent::{clock::Clock, offline::Offline, settings::Settings, status};
use serde_json::Value;

use super::Common;

/// What the agent on this host is doing
#[derive(clap::Args)]
pub(super) struct Args {
    /// As lines for people, or as JSON for programs
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

pub(super) fn run(common: &Common, args: &Args) -> Result<ExitCode> {
    let settings = Settings::load(&common.data, common.config.as_deref())?;
    let (state, runs) = match status::ask(&settings.socket(), &status::Question::Status)
        .context("the running agent does not answer\nhelp: only its own user may ask it")?
    {
        Some(state) => (state, true),
        None => (offline(&settings)?, false),
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

fn offline(settings: &Settings) -> Result<Value> {
    let offline = Offline::open(settings, Clock::system()?)?;
    let reporter = Arc::new(offline.reporter(settings)?);
    Ok(status::to_json(&reporter.state())?)
}
