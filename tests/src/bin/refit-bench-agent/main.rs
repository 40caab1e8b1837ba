//! How light the agent is: its size on the disk, its memory when it is idle and connected, and how often it
//! wakes up; beside the same of updaters from Debian, measured in the same run. `cargo xtask bench agent`
//! builds what this needs and calls it.

mod awake;
mod ours;
mod peers;
mod table;

use std::{
    fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::ExitCode, thread, time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use refit_tests::{process::Process, sandbox::Sandbox};

use awake::{Seen, field};

/// How light the agent is.
#[derive(Parser)]
struct Arguments {
    /// The agent as it is shipped.
    #[arg(long)]
    agent: PathBuf,
    /// For how long to count wake-ups, in seconds.
    #[arg(long, default_value_t = 180)]
    seconds: u32,
    /// For how long to let everything come to rest before, in seconds.
    #[arg(long, default_value_t = 75)]
    rest: u32,
}

/// One line of the table.
struct Measured {
    name: String,
    what: String,
    bytes: u64,
    parts: Vec<Part>,
    moments_a_minute: f64,
    /// From one moment to the next, on average and at least.
    every: Option<(Duration, Duration)>,
}

/// What one process of a program uses.
struct Part {
    name: String,
    /// PSS, in bytes, and how much of it nobody else could share.
    memory: u64,
    anonymous: u64,
    threads: u64,
    switches_a_minute: f64,
}

impl Measured {
    fn memory(&self) -> u64 {
        self.parts.iter().map(|part| part.memory).sum()
    }
}

/// What runs, and what must stay for it.
struct Running {
    name: String,
    what: String,
    bytes: u64,
    /// What each of its processes is.
    parts: Vec<&'static str>,
    processes: Vec<Process>,
    _needs: Vec<Process>,
    _fleet: Option<Sandbox>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let folder = tempfile::Builder::new().prefix("refit-bench-").tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let mut running = vec![ours::started(&arguments.agent, folder.path())?];
    for peer in peers::PEERS {
        match peers::started(&peer, folder.path()) {
            Ok(peer) => running.push(peer),
            Err(error) => println!("not measured: {} ({error:#})", peer.package),
        }
    }
    eprintln!("at rest for {} s, then counting for {} s ...", arguments.rest, arguments.seconds);
    thread::sleep(Duration::from_secs(arguments.rest.into()));
    let groups: Vec<Vec<u32>> = running.iter().map(Running::ids).collect();
    let seen = awake::watch(&groups, Duration::from_secs(arguments.seconds.into()));
    let mut lines = Vec::new();
    for (running, seen) in running.iter_mut().zip(&seen) {
        lines.push(running.measured(seen, f64::from(arguments.seconds) / 60.0)?);
    }
    table::print(&lines);
    let (ours, others) = lines.split_first().context("nothing was measured")?;
    Ok(if table::judge(ours, others) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Running {
    /// Its processes, with what they have started of themselves.
    fn ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.processes.iter().map(Process::id).collect();
        let mut at = 0;
        while let Some(id) = ids.get(at).copied() {
            let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
            let children = children.unwrap_or_default();
            let same = |child: &u32| program(*child) == program(id);
            let children = children.split_whitespace().filter_map(|child| child.parse().ok());
            ids.extend(children.filter(same));
            at += 1;
        }
        ids
    }

    fn measured(&mut self, seen: &Seen, minutes: f64) -> Result<Measured> {
        for process in &mut self.processes {
            ensure!(process.runs(), "{} ended: {}", self.name, process.log());
        }
        let mut parts = Vec::new();
        for (number, id) in self.ids().into_iter().enumerate() {
            let rollup = format!("/proc/{id}/smaps_rollup");
            let name = self.parts.get(number).map_or("what it started", |name| name);
            parts.push(Part {
                name: name.to_owned(),
                memory: field(&rollup, "Pss:")? * 1024,
                anonymous: field(&rollup, "Pss_Anon:")? * 1024,
                threads: field(&format!("/proc/{id}/status"), "Threads:")?,
                switches_a_minute: seen.switches.get(&id).map_or(0, |count| *count) as f64
                    / minutes,
            });
        }
        Ok(Measured {
            name: self.name.clone(),
            what: self.what.clone(),
            bytes: self.bytes,
            parts,
            moments_a_minute: seen.moments() as f64 / minutes,
            every: seen.every(),
        })
    }
}

fn program(id: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{id}/exe")).ok()
}
