//! `refit-agent qualify`: what a new release of the agent is asked by the one that runs, before anything is
//! changed. A person may ask the same, in an empty folder, and will be told what is missing there.

use std::{io::Write as _, process::ExitCode};

use anyhow::{Context as _, Result};
use refit_agent::{clock::Clock, qualify};
use refit_proto::{
    names::{Digest, Product},
    package::AGENT,
};

use super::{
    Common,
    line::{Arg, Command, Does, Given},
};

const SCRATCH: Arg = Arg::option(
    "scratch",
    "SCRATCH",
    "The folder that the running agent has made for it; nothing outside it is written",
)
.needed();
const RELEASE: Arg = Arg::option("release", "RELEASE", "This agent's own release").needed();
const WITHOUT_SERVER: Arg =
    Arg::switch("without-server", "There is no server to reach: the release comes from a bundle");

pub(super) const COMMAND: Command = Command {
    name: "qualify",
    about: "Try what taking over from the running agent takes, in a scratch folder, and say what came of it: the \
            running agent asks this of a new release of itself",
    args: &[SCRATCH, RELEASE, WITHOUT_SERVER],
    does: Does::This(run),
    hidden: true,
    ..Command::NONE
};

fn run(given: &Given) -> Result<ExitCode> {
    let scratch = given.must(&SCRATCH, given.path(&SCRATCH))?;
    let release = given.must(&RELEASE, given.text(&RELEASE)?)?;
    let question = qualify::Question {
        scratch: scratch.canonicalize().context("the scratch folder")?,
        release: Digest::parse(&release).context("the release")?,
        product: Product::parse(AGENT)?,
        server: !given.has(&WITHOUT_SERVER),
    };
    let answer = qualify::answer(&question, &Common::of(given)?.data, &Clock::system()?);
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
