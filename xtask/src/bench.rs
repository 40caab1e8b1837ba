//! Measures what the project promises to be small or fast, beside others of the field, and prints it.

mod backup;

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::cargo;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The agent's size, idle memory and wake-ups, beside those of updaters from Debian.
    Agent,
    /// Backup and restore of many small files, beside restic and `tar | zstd`.
    Backup(backup::Arguments),
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.what {
        What::Agent => agent(),
        What::Backup(arguments) => backup::run(arguments),
    }
}

fn agent() -> Result<ExitCode> {
    eprintln!("building for release (takes a few minutes) ...");
    cargo::ship(&["--package", "refit-agent", "--bin", "refit-agent"])?;
    cargo::run(&mut cargo::cargo(&["build", "--quiet", "--workspace", "--bins"]))?;
    let mut bench = Command::new(cargo::binaries().join("refit-bench-agent"));
    bench.arg("--agent").arg(cargo::shipped().join("refit-agent"));
    let status = bench.status().context("cannot start the measurement that was just built")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
