//! Hands over to the lab (`tests/src/bin/refit-lab.rs`), and builds what it needs when one is set up.

use std::{
    ffi::OsString,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};

use crate::cargo;

/// Options of `cargo xtask lab`: the lab's own.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let lab = cargo::binaries().join("refit-lab");
    let sets_up = arguments.arguments.first().is_some_and(|word| word == "up");
    if sets_up || !lab.exists() {
        eprintln!("building (the first time takes a few minutes) ...");
        cargo::run(&mut cargo::cargo(&["build", "--quiet", "--workspace", "--bins"]))?;
    }
    let mut lab = Command::new(lab);
    let status = lab.args(&arguments.arguments).status().context("cannot start the lab")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
