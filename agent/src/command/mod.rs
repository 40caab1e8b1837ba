//! The commands of `refit-agent`, one file each.

mod backup;
mod brake;
mod enroll;
mod hold;
mod install;
mod line;
mod link;
mod print_unit;
mod probe_store;
mod qualify;
mod quarantine;
mod reach;
mod recover;
mod run;
mod status;

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Result;
use refit_agent::{
    journald::Journald,
    settings::{self, Settings},
    version,
};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    prelude::*,
    registry,
};

use line::{Arg, Command, Does, Given, Read, Wrong};

/// The agent's data folder.
const DATA: Arg = Arg::option("data", "DATA", "The agent's data folder")
    .or(settings::DEFAULT_DATA)
    .or_variable("REFIT_AGENT_DATA");
const CONFIG: Arg =
    Arg::option("config", "CONFIG", "Settings, instead of agent.toml in the data folder");

/// All of it.
static AGENT: Command = Command {
    name: "refit-agent",
    about: "Keeps this host on the release that its ring permits: verifies, backs up, installs, watches health, \
            and goes back by itself",
    args: &[DATA, CONFIG],
    does: Does::OneOf(&[
        enroll::COMMAND,
        run::COMMAND,
        link::COMMAND,
        install::COMMAND,
        status::COMMAND,
        recover::COMMAND,
        backup::COMMAND,
        hold::COMMAND,
        quarantine::COMMAND,
        brake::COMMAND,
        qualify::COMMAND,
        probe_store::COMMAND,
        print_unit::COMMAND,
    ]),
    ..Command::NONE
};

/// What every command takes.
struct Common {
    data: PathBuf,
    config: Option<PathBuf>,
}

impl Common {
    fn of(given: &Given) -> Result<Common, Wrong> {
        let data = given.must(&DATA, given.path(&DATA))?;
        Ok(Common { data, config: given.path(&CONFIG) })
    }

    /// The settings that it names.
    fn settings(&self) -> Result<Settings> {
        Ok(Settings::load(&self.data, self.config.as_deref())?)
    }
}

/// Ends so where the command line is wrong, as is usual.
const USAGE: u8 = 2;

/// Does what the command line says.
pub(crate) fn run() -> Result<ExitCode> {
    let typed = std::env::args_os().skip(1);
    let read = line::read(&AGENT, version::version(), typed, &|name| std::env::var_os(name));
    let done = match read {
        Ok(Read::Act(act, given)) => {
            log_to_stderr();
            act(&given)
        }
        Ok(Read::Text(text)) => {
            // Whoever reads only its head has what they want.
            let _nobody_reads_on = std::io::stdout().write_all(text.as_bytes());
            return Ok(ExitCode::SUCCESS);
        }
        Ok(Read::Nothing(help)) => {
            eprint!("{help}");
            return Ok(ExitCode::from(USAGE));
        }
        Err(wrong) => Err(wrong.into()),
    };
    match done {
        Err(error) if error.is::<Wrong>() => {
            eprintln!("error: {error}");
            Ok(ExitCode::from(USAGE))
        }
        done => done,
    }
}

/// Everything worth a line goes to the journal with its fields, or to stderr; REFIT_LOG chooses what:
/// `debug`, or `info,refit_agent::link=debug`.
fn log_to_stderr() {
    let chosen = std::env::var("REFIT_LOG").ok().and_then(|chosen| chosen.parse::<Targets>().ok());
    let filter = chosen.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    match Journald::if_stderr_is_its() {
        Some(journald) => registry().with(filter).with(journald).init(),
        None => registry().with(filter).with(fmt::layer().with_writer(std::io::stderr)).init(),
    }
}
