//! What others install: built for release, one package at a time, so that no feature of one reaches another.

mod agent_release;
mod deb;
mod elf;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Subcommand;

use crate::cargo;

/// Options of `cargo xtask dist`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    form: Form,
}

#[derive(Subcommand)]
enum Form {
    /// The agent and the rescuer as a Debian package.
    Deb(Deb),
    /// The same programs as the folder of a release, for hosts whose agent updates itself.
    Release(Release),
}

#[derive(clap::Args)]
struct Release {
    /// Where the folder goes.
    #[arg(long, default_value_os_t = cargo::target().join("dist"))]
    out: PathBuf,
    /// Takes programs that were built already from this folder: for tests.
    #[arg(long)]
    programs: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Deb {
    /// The folder for the package.
    #[arg(long, default_value_os_t = cargo::target().join("dist"))]
    out: PathBuf,
    /// Takes programs that were built already from this folder: for tests.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// The package's version, instead of the workspace's.
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    package_version: String,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.form {
        Form::Deb(arguments) => {
            let programs = match arguments.programs {
                Some(folder) => deb::Programs { folder, compressed: false },
                None => deb::Programs { folder: built()?, compressed: true },
            };
            let made = deb::make(&programs, &arguments.package_version, &arguments.out)?;
            println!("{}", made.display());
        }
        Form::Release(arguments) => {
            let programs = arguments.programs.map_or_else(built, Ok)?;
            println!("{}", agent_release::make(&programs, &arguments.out)?.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn built() -> Result<PathBuf> {
    eprintln!("building for release (takes a few minutes) ...");
    // Each by itself: what the helper for second places links must not reach the agent.
    for (package, program) in [
        ("refit-agent", "refit-agent"),
        ("refit-agent", "refit-rescue"),
        ("refit-copy", "refit-copy"),
    ] {
        cargo::ship(&["--package", package, "--bin", program])?;
    }
    Ok(cargo::shipped())
}
