//! `refit-copy`: does the one thing that it is asked for on its standard input, and says on its standard
//! output what came of it. The agent starts it; people have no reason to.

#![expect(unreachable_pub, reason = "a program: nothing of it is reached from outside")]

mod job;
mod pack;
mod place;

use std::{
    io::{self, Read as _, Write as _},
    process::ExitCode,
};

use refit_copy::{Answer, Request, Why};

use place::Failed;

/// Largest request: 500,000 files of a backup, each with its hash and path.
const REQUEST_MAX: u64 = 256 << 20;

const HELP: &str = "refit-copy carries a host's backups to a second place. refit-agent starts it, as [backup.second]
in agent.toml says; it takes one request on its standard input, and no options.
Look at what is there with `refit-agent backup list --second`.";

fn main() -> ExitCode {
    if let Some(argument) = std::env::args().nth(1) {
        return match argument.as_str() {
            "--help" | "-h" => {
                println!("{HELP}");
                ExitCode::SUCCESS
            }
            "--version" | "-V" => {
                println!("refit-copy {}", env!("CARGO_PKG_VERSION"));
                ExitCode::SUCCESS
            }
            _ => {
                eprintln!("refit-copy: it takes no options\nhelp: {HELP}");
                ExitCode::from(2)
            }
        };
    }
    let done = read().and_then(|request| job::run(request, &mut say));
    if let Err(Failed { why, text }) = done {
        let told = say(Answer::Failed { why, text });
        return if told.is_ok() { ExitCode::from(1) } else { ExitCode::from(3) };
    }
    ExitCode::SUCCESS
}

fn read() -> Result<Request, Failed> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().take(REQUEST_MAX).read_to_end(&mut bytes);
    read.map_err(|error| Failed::new(Why::Host, format!("the request can't be read: {error}")))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Failed::new(Why::Host, format!("the request can't be understood: {error}"))
    })
}

/// One line for whoever asked. Who does not listen any more has ended, and so does this.
fn say(answer: Answer) -> Result<(), Failed> {
    let mut line = serde_json::to_vec(&answer).unwrap_or_default();
    line.push(b'\n');
    let mut out = io::stdout().lock();
    let said = out.write_all(&line).and_then(|()| out.flush());
    said.map_err(|error| Failed::new(Why::Host, format!("nobody listens any more: {error}")))
}
