//! `refit-agent status`: what the agent on this host is doing.

use std::process::ExitCode;

use anyhow::Result;
use refit_agent::{
    host::{backup::Backups, files::RealFiles},
    settings::Settings,
    status,
};
use serde_json::{Value, json};

use super::{
    Common,
    line::{Arg, Command, Does, Given, Wrong},
    reach::{Reached, reach},
};

pub(super) const COMMAND: Command = Command {
    name: "status",
    about: "Show what the agent on this host is doing",
    args: &[Output::ARG],
    does: Does::This(run),
    ..Command::NONE
};

/// How a command says what it has to say.
#[derive(Clone, Copy)]
pub(super) enum Output {
    Text,
    Json,
}

impl Output {
    /// What chooses it.
    pub(super) const ARG: Arg =
        Arg::option("output", "OUTPUT", "As lines for people, or as JSON for programs")
            .one_of(&["text", "json"]);

    pub(super) fn of(given: &Given) -> Result<Output, Wrong> {
        Ok(match given.text(&Output::ARG)?.as_deref() {
            Some("json") => Output::Json,
            _ => Output::Text,
        })
    }
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

fn run(given: &Given) -> Result<ExitCode> {
    let (settings, output) = (Common::of(given)?.settings()?, Output::of(given)?);
    let (state, runs) = match reach(&settings, &status::Question::Status)? {
        Reached::Agent(state) => (state, true),
        Reached::Folder(offline) => (status::explain(&offline.reporter(&settings)?)?, false),
    };
    let state = with_set_aside(state, &settings);
    match output {
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
