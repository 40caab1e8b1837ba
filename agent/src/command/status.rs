//! `refit-agent status`: what the agent on this host is doing.

use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use refit_agent::{
    host::{backup::Backups, files::RealFiles},
    settings::Settings,
    status,
};
use serde_json::{Value, json};

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

/// What going back has kept on this host, which the folder tells.
fn with_set_aside(mut state: Value, settings: &Settings) -> Value {
    let asides = Backups::new(&RealFiles, settings.data.clone()).asides();
    let asides = asides.unwrap_or_else(|error| {
        eprintln!("what is set aside can't be told: {error}");
        Vec::new()
    });
    let rows = asides.iter().flat_map(|aside| {
        aside.items.iter().map(|item| {
            json!({
                "id": aside.id.as_str(),
                "product": aside.product.as_str(),
                "place": item.kept.place,
                "text": item.kept.to_string(),
            })
        })
    });
    state["set_aside"] = rows.collect();
    state
}

pub(super) fn run(common: &Common, args: &Args) -> Result<ExitCode> {
    let settings = Settings::load(&common.data, common.config.as_deref())?;
    let (state, runs) = match reach(&settings, &status::Question::Status)? {
        Reached::Agent(state) => (state, true),
        Reached::Folder(offline) => (status::explain(&offline.reporter(&settings)?)?, false),
    };
    let state = with_set_aside(state, &settings);
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
