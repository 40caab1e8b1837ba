//! `refit-agent`: what an administrator can ask of the agent on its host. Each command is a module of
//! `command`; this is the table of contents.

mod command;

use std::process::ExitCode;

fn main() -> ExitCode {
    match command::run() {
        Ok(code) => code,
        Err(error) => {
            // The whole chain; a cause is not repeated in the message above it.
            eprintln!("refit-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
