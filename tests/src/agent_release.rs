//! Releases of the agent itself, good and bad: the programs that were built beside the test, told to be of
//! another version.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{
    process::{Ran, program},
    release::Probation,
};

/// What stands before the version in the agent's program (`agent/src/version.rs`), and how long a version
/// may be there.
const MARK: &[u8] = b"refit-agent is version ";
const LONGEST: usize = 64;

/// How a release of the agent behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentIs {
    /// It works.
    Good,
    /// Its program says that it is of this version.
    Called(&'static str),
    /// Its program is cut to this many bytes.
    CutTo(usize),
    /// These commands of a shell come before the program, which is `$agent`. What they do with it is
    /// theirs.
    Script(&'static str),
}

/// Writes the folder that `refit release build` takes.
///
/// # Errors
/// If the folder can't be written.
pub fn write_agent(folder: &Path, version: &str, is: AgentIs, probation: Probation) -> Result<()> {
    let bin = folder.join("tree/bin");
    fs::create_dir_all(&bin)?;
    let (agent, rescue) = (bin.join("refit-agent"), bin.join("refit-rescue"));
    for place in [&agent, &rescue] {
        fs::copy(program(&place.file_name().context("a name")?.to_string_lossy())?, place)?;
        // What tells a debugger more is no part of what is shipped.
        let mut strip = Command::new("strip");
        Ran::of(strip.arg("--strip-debug").arg(place).stdin(Stdio::null()))?.good()?;
    }
    call_it(&agent, if let AgentIs::Called(other) = is { other } else { version })?;
    match is {
        AgentIs::Good | AgentIs::Called(_) => {}
        AgentIs::CutTo(bytes) => {
            fs::File::options().write(true).open(&agent)?.set_len(bytes as u64)?
        }
        AgentIs::Script(commands) => {
            fs::rename(&agent, bin.join("agent"))?;
            fs::write(&agent, format!("#!/bin/sh\nagent=\"${{0%/*}}/agent\"\n{commands}\n"))?;
            fs::set_permissions(&agent, fs::Permissions::from_mode(0o755))?;
        }
    }
    let Probation { start, good } = probation;
    let description = format!(
        "installer = \"agent\"\n\n[health.checked]\nstart_seconds = {start}\ninterval_seconds = 1\n\
         failures = 2\ngood_seconds = {good}\nmax_seconds = 600\n\n\
         [plan]\ngoal = \"the agent {version}\"\nowner = \"the fleet's team\"\n"
    );
    fs::write(folder.join("refit.toml"), description)?;
    Ok(())
}

/// Puts another version into the one field where the program has its own.
fn call_it(agent: &Path, version: &str) -> Result<()> {
    ensure!(version.len() <= LONGEST, "a version has at most {LONGEST} letters");
    let mut bytes = fs::read(agent)?;
    let places: Vec<usize> = bytes
        .windows(MARK.len())
        .enumerate()
        .filter(|(_, window)| *window == MARK)
        .map(|(at, _)| at + MARK.len())
        .collect();
    let [at] = places[..] else {
        anyhow::bail!(
            "the mark of the version stands {} times in {}",
            places.len(),
            agent.display()
        );
    };
    bytes[at..at + LONGEST].fill(0);
    bytes[at..at + version.len()].copy_from_slice(version.as_bytes());
    fs::write(agent, bytes)?;
    Ok(())
}
