//! Builds what the demo needs and hands over to it (`tests/src/bin/refit-demo.rs`).

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::cargo;

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Leave everything running at the end, and print the addresses and the commands to try.
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    eprintln!("building (the first time takes a few minutes) ...");
    cargo::run(&mut cargo::cargo(&["build", "--quiet", "--workspace", "--bins"]))?;
    let mut demo = Command::new(cargo::binaries().join("refit-demo"));
    if arguments.keep {
        demo.arg("--keep");
    }
    let status = demo.status().context("cannot start the demo that was just built")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
