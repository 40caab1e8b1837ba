//! `cargo xtask powercuts`: every cut point of whole updates, where `cargo xtask test` tries a share. At each
//! operation on files the power goes, with each way to lose what was not synced, or the operation fails; and
//! from each picture of a real disk a host is booted.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::{cargo, test::FEATURES};

/// Tests whose names hold one of these try cut points.
const TESTS: [&str; 5] = ["power_cut", "whatever_fails", "cut_anywhere", "any_write", "at_every"];

/// Whole-system tests that boot hosts from pictures of a disk.
const PICTURED: &str = "pictured_host";

pub(crate) fn run() -> Result<ExitCode> {
    let mut tests =
        cargo::cargo(&["test", "--quiet", "--package", "refit-agent", "--no-fail-fast"]);
    tests.args(["--features", FEATURES, "--lib", "--", "--nocapture"]).args(TESTS);
    let (mut good, mut points) = told_by(tests)?;
    if points.is_empty() {
        bail!("no test told of cut points\nhelp: run `cargo xtask test power_cut` to see why");
    }
    // Whole-system tests start the programs that are built beside them.
    let programs = ["build", "--quiet", "--workspace", "--bins", "--features", FEATURES];
    if !cargo::cargo(&programs).status().context("cannot start cargo build")?.success() {
        bail!("the programs were not built");
    }
    let mut tests = cargo::cargo(&["test", "--quiet", "--package", "refit-tests"]);
    let system = ["--features", "refit-durable/testing", "--test", "system", "--", "--nocapture"];
    tests.args(system).arg(PICTURED);
    let (booted, pictured) = told_by(tests)?;
    good &= booted;
    points.extend(pictured);
    for CutPoints { tried, survived, test } in &points {
        println!("{survived:>8} of {tried:>6}  {test}");
    }
    let tried: u64 = points.iter().map(|points| points.tried).sum();
    let survived: u64 = points.iter().map(|points| points.survived).sum();
    println!("{tried} cut points tried, {survived} survived");
    let all = good && survived == tried;
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether the tests passed, and what they told of cut points.
fn told_by(mut tests: Command) -> Result<(bool, Vec<CutPoints>)> {
    tests.env("REFIT_POWERCUTS", "all").stderr(Stdio::inherit());
    let output = tests.output().context("cannot start cargo test")?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok((output.status.success(), said.lines().filter_map(CutPoints::parse).collect()))
}

/// What one run of a test tells.
struct CutPoints {
    tried: u64,
    survived: u64,
    test: String,
}

impl CutPoints {
    /// A line `cut-points TRIED SURVIVED TEST`, whatever the test program printed before it.
    fn parse(line: &str) -> Option<CutPoints> {
        let (_, told) = line.split_once("cut-points ")?;
        let mut words = told.split_whitespace();
        let tried = words.next()?.parse().ok()?;
        let survived = words.next()?.parse().ok()?;
        Some(CutPoints { tried, survived, test: words.next()?.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_test_tells_is_read_and_nothing_else() {
        let told = CutPoints::parse(".cut-points 12 11 machine::tests::after").unwrap();
        assert_eq!((told.tried, told.survived, &*told.test), (12, 11, "machine::tests::after"));
        assert!(CutPoints::parse("cut-points many few x").is_none());
        assert!(CutPoints::parse("running 3 tests").is_none());
    }
}
