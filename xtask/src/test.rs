//! Every test and check, in one command. What this machine can't run is listed at the end with the line
//! that installs or enables it; where `CI` is set, that list is a failure.

use std::{
    collections::BTreeSet,
    env, fs,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result};

use crate::{
    cargo, reference,
    tidy::{self, Tree, holes},
};

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only tests whose name holds this text.
    filter: Option<String>,
}

/// Features that only tests switch on: places where the agent and the server can be made to die.
pub(crate) const FEATURES: &str =
    "refit-agent/crash-points,refit-proto/testing,refit-durable/testing";

/// The same, without the packages' names.
pub(crate) fn features() -> Vec<&'static str> {
    FEATURES.split(',').filter_map(|feature| Some(feature.split_once('/')?.1)).collect()
}

/// Named in the environment of all tests: what could not run is appended to this file, a line each.
const NOT_RUN_FILE: &str = "REFIT_NOT_RUN_FILE";

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let not_run_file = cargo::binaries().join("refit-not-run.txt");
    if let Err(error) = fs::remove_file(&not_run_file)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("cannot remove {}", not_run_file.display()));
    }
    let mut not_run = BTreeSet::new();
    let mut failed = Vec::new();
    let mut check = |name: &'static str, done: bool| {
        if !done {
            failed.push(name);
        }
    };
    if arguments.filter.is_none() {
        check("tidy", tidy::run()? == ExitCode::SUCCESS);
        check("rustfmt", component("fmt", &["--all", "--check"], &mut not_run)?);
        let features = format!("{FEATURES},refit-tests/conformance");
        let clippy =
            ["--workspace", "--all-targets", "--features", &features, "--", "-D", "warnings"];
        check("clippy", component("clippy", &clippy, &mut not_run)?);
    }
    check("conformance client", reference::build_client(FEATURES)?);
    check("tests", tests(arguments, &not_run_file)?);
    if arguments.filter.is_none() {
        check("tests of the security model", security_model()?);
    }
    not_run
        .extend(fs::read_to_string(&not_run_file).unwrap_or_default().lines().map(str::to_owned));
    report(&failed, &not_run)
}

/// Cargo builds the programs that whole-system tests start along with the tests of their packages.
/// Without the shell's own settings of the program under test, or the caller's would change the result.
fn tests(arguments: &Arguments, not_run_file: &PathBuf) -> Result<bool> {
    let mut tests =
        cargo::cargo(&["test", "--workspace", "--no-fail-fast", "--features", FEATURES]);
    tests.args(arguments.filter.as_ref()).env(NOT_RUN_FILE, not_run_file);
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("REFIT_") && name != NOT_RUN_FILE {
            tests.env_remove(name);
        }
    }
    for needed in &reference::NEEDED {
        if let Some(python) = reference::python(needed)? {
            tests.env(needed.variable, python);
        }
    }
    Ok(tests.status().context("cannot start cargo test")?.success())
}

/// Whether every test that docs/SECURITY-MODEL.md names is one that the test programs list.
fn security_model() -> Result<bool> {
    let mut list = cargo::cargo(&["test", "--quiet", "--workspace", "--features", FEATURES]);
    list.args(["--lib", "--bins", "--tests", "--", "--list"]);
    let output = list.stderr(Stdio::inherit()).output().context("cannot start cargo test")?;
    let listed = String::from_utf8_lossy(&output.stdout);
    let lacking = holes::not_listed(&Tree::read(&cargo::workspace())?, &features(), &listed);
    for test in &lacking {
        println!("{} names {test}, which no test program has", holes::DOCUMENT);
    }
    Ok(output.status.success() && lacking.is_empty())
}

/// Runs a part of the toolchain that may not be installed.
fn component(name: &str, arguments: &[&str], not_run: &mut BTreeSet<String>) -> Result<bool> {
    let mut version = cargo::cargo(&[name, "--version"]);
    let there = version.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success();
    if !there {
        let package = if name == "fmt" { "rustfmt" } else { name };
        not_run.insert(format!("cargo {name} | rustup component add {package}"));
        return Ok(true);
    }
    let mut command: Command = cargo::cargo(&[name]);
    Ok(command.args(arguments).status()?.success())
}

fn report(failed: &[&str], not_run: &BTreeSet<String>) -> Result<ExitCode> {
    println!();
    if !not_run.is_empty() {
        println!("not run on this machine:");
        for line in not_run {
            let line = line.strip_prefix("REFIT-NOT-RUN: ").unwrap_or(line);
            let (what, remedy) = line.split_once(" | ").unwrap_or((line, "see docs/RUNBOOK.md"));
            println!("  {what}\n      to run it: {remedy}");
        }
    }
    let lacking = env::var_os("CI").is_some() && !not_run.is_empty();
    if lacking {
        println!("CI is set, so what did not run counts as failed");
    }
    if failed.is_empty() && !lacking {
        let rest = if not_run.is_empty() { "" } else { " that this machine can run" };
        println!("all checks and tests{rest} passed");
        return Ok(ExitCode::SUCCESS);
    }
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
    }
    Ok(ExitCode::FAILURE)
}
