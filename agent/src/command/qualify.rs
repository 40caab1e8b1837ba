//! `refit-agent qualify`: what a new release of the agent is asked by the one that runs, before anything is
//! changed. A person may ask the same, in an empty folder, and will be told what is missing there.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use refit_agent::{clock::Clock, qualify};
use refit_proto::{
    names::{Digest, Product},
    package::AGENT,
};

use super::Common;

/// What there is to try, and where
#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder that the running agent has made for it; nothing outside it is written
    #[arg(long)]
    scratch: PathBuf,
    /// This agent's own release
    #[arg(long)]
    release: String,
    /// There is no server to reach: the release comes from a bundle
    #[arg(long)]
    without_server: bool,
}

pub(super) fn run(common: &Common, args: &Args) -> Result<ExitCode> {
    let question = qualify::Question {
        scratch: args.scratch.canonicalize().context("the scratch folder")?,
        release: Digest::parse(&args.release).context("the release")?,
        product: Product::parse(AGENT)?,
        server: !args.without_server,
    };
    let answer = qualify::answer(&question, &common.data, &Clock::system()?);
    let line = serde_json::to_string(&answer)?;
    let path = question.scratch.join(qualify::ANSWER);
    // Made anew: what stands there already is not this one's answer.
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .open(&path)
        .with_context(|| path.display().to_string())?;
    writeln!(file, "{line}").with_context(|| path.display().to_string())?;
    println!("{line}");
    Ok(ExitCode::SUCCESS)
}
