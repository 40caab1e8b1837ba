//! `cargo xtask fuzz`: every parser against inputs that nobody thought of, for a bounded time. What it finds
//! stays as a file and goes into the corpus, which the tests replay without a fuzzer.

use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::cargo::workspace;

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only this target. [default: each]
    target: Option<String>,
    /// For how long, each.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
}

/// No input is longer: the parsers' own limits are tested by the corpus, and short inputs are tried faster.
const LONGEST: u32 = 65_536;
/// More memory than any input may need, in MB. The address sanitizer takes most of it.
const MEMORY: u32 = 2048;
/// One input that takes longer has found something, in seconds.
const TIMEOUT: u32 = 20;

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(remedy) = lacking() {
        println!("fuzzing was not run; to run it: {remedy}");
        return Ok(ExitCode::FAILURE);
    }
    let all = targets()?;
    let chosen: Vec<&String> = match &arguments.target {
        Some(target) => all.iter().filter(|one| *one == target).collect(),
        None => all.iter().collect(),
    };
    if chosen.is_empty() {
        bail!("no such target; there are: {}", all.join(", "));
    }
    let mut found = Vec::new();
    for target in chosen {
        println!("fuzzing {target} for {} s", arguments.seconds);
        if !fuzz(target, arguments.seconds)? {
            found.push(target.as_str());
        }
    }
    if found.is_empty() {
        println!("nothing found");
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "found something in: {}\nhelp: mend it, and copy the input, whose file is named above, into \
         proto/fuzz/corpus, where every run of the tests replays it",
        found.join(", ")
    );
    Ok(ExitCode::FAILURE)
}

/// The line that installs what is missing.
fn lacking() -> Option<&'static str> {
    let there = |arguments: &[&str]| {
        let mut cargo = Command::new("cargo");
        cargo.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        unbound(&mut cargo).status().is_ok_and(|status| status.success())
    };
    if !there(&["+nightly", "--version"]) {
        Some("rustup toolchain install nightly --profile minimal")
    } else if !there(&["fuzz", "--version"]) {
        Some("cargo install cargo-fuzz --locked")
    } else {
        None
    }
}

fn folder() -> PathBuf {
    workspace().join("proto/fuzz")
}

fn targets() -> Result<Vec<String>> {
    let programs = folder().join("fuzz_targets");
    let mut targets = Vec::new();
    for entry in
        fs::read_dir(&programs).with_context(|| format!("cannot read {}", programs.display()))?
    {
        let name = entry?.file_name().to_string_lossy().into_owned();
        targets.extend(name.strip_suffix(".rs").map(str::to_owned));
    }
    targets.sort();
    Ok(targets)
}

/// What is new goes below `target`, so that a run changes nothing that is checked in.
fn fuzz(target: &str, seconds: u32) -> Result<bool> {
    let built = workspace().join("target/fuzz");
    let new = built.join("corpus").join(target);
    fs::create_dir_all(&new).with_context(|| format!("cannot make {}", new.display()))?;
    let mut cargo = Command::new("cargo");
    cargo.args(["+nightly", "fuzz", "run", target, "--target-dir"]).arg(&built);
    cargo.arg(&new).arg(folder().join("corpus").join(target)).arg("--");
    cargo.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={LONGEST}"));
    cargo.arg(format!("-rss_limit_mb={MEMORY}")).arg(format!("-timeout={TIMEOUT}"));
    cargo.arg("-print_final_stats=1").current_dir(folder());
    let status = unbound(&mut cargo).status().context("cannot start cargo fuzz")?;
    Ok(status.success())
}

/// Without what the cargo that started this program has set, which would bind it to the stable toolchain.
fn unbound(cargo: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG")
            || text == "CARGO_MANIFEST_DIR"
            || text == "RUSTUP_TOOLCHAIN"
            || text == "CARGO"
        {
            cargo.env_remove(&name);
        }
    }
    cargo
}
