//! `refit-agent install`: a release from a file, on a host without a network. The command hands the file to
//! the running agent, which verifies it as it would verify a server, and tells how it goes.

use std::{process::ExitCode, thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use refit_agent::{
    bundle::{Spool, new_install},
    settings::Settings,
    status::{self, Progress, Question},
};
use serde_json::Value;

use super::{
    Common,
    line::{Arg, Command, Does, Given},
};

/// How often to look.
const LOOK: Duration = Duration::from_millis(300);

const FILE: Arg = Arg::word("FILE", "What `refit bundle export` wrote");

pub(super) const COMMAND: Command = Command {
    name: "install",
    about: "Install a release from a bundle of `refit bundle export`, on a host without a network",
    args: &[FILE],
    does: Does::This(run),
    ..Command::NONE
};

fn run(given: &Given) -> Result<ExitCode> {
    let file = given.must(&FILE, given.path(&FILE))?;
    let settings = Common::of(given)?.settings()?;
    let spool = Spool::at(settings.spool());
    if !spool.waiting().is_empty() {
        bail!(
            "another bundle waits to be installed here\nhelp: `refit-agent status` shows how it goes"
        );
    }
    let head = spool.read(&file)?;
    let may = ask(&settings, &Question::MayInstall { product: head.product.clone() })?;
    if let Some(stop) = may["stopped"].as_str() {
        bail!(
            "the server has stopped {}: {stop}\n\
             help: whoever stopped it lets it go on; this host obeys until it hears so",
            head.product
        );
    }
    let install = new_install();
    let head = spool.put(&install, &file)?;
    println!("{} {}: the agent verifies it and installs it", head.product, head.version);
    let mut said = String::new();
    loop {
        let answer = ask(&settings, &Question::Install { install: install.clone() })?;
        let progress =
            serde_json::from_value(answer).context("the agent answers something else")?;
        match progress {
            Progress::Waiting => say(&mut said, "waits for its turn"),
            Progress::UnderWay { phase, text } if text.is_empty() => say(&mut said, &phase),
            Progress::UnderWay { phase, text } => say(&mut said, &format!("{phase}: {text}")),
            Progress::RunsAlready => {
                println!(
                    "{} {} runs here already; nothing was changed",
                    head.product, head.version
                );
                return Ok(ExitCode::SUCCESS);
            }
            Progress::Refused { text } => bail!("it is not installed: {text}"),
            Progress::Unknown => bail!(
                "the agent lost the bundle\nhelp: look at the agent's log, then install it again"
            ),
            Progress::Ended { phase, failure: None } if phase == "committed" => {
                println!("{} {} is installed", head.product, head.version);
                return Ok(ExitCode::SUCCESS);
            }
            Progress::Ended { phase, failure: None } => {
                bail!("the update ended {phase}: the server stopped it")
            }
            Progress::Ended { phase, failure: Some(failure) } => bail!(
                "the update ended {phase}: {} ({})\nhelp: {}",
                failure.text,
                failure.cause,
                failure.help
            ),
        }
        thread::sleep(LOOK);
    }
}

fn say(said: &mut String, text: &str) {
    if said != text {
        println!("  {text}");
        text.clone_into(said);
    }
}

fn ask(settings: &Settings, question: &Question) -> Result<Value> {
    let answer = status::ask(&settings.socket(), question)
        .context("the running agent does not answer\nhelp: only its own user may ask it")?
        .context(
            "no agent runs here\nhelp: start it, `systemctl start refit-agent`; it needs no network",
        )?;
    match answer["error"].as_str() {
        Some(error) => bail!("{error}"),
        None => Ok(answer),
    }
}
