//! A package's own commands, run at fixed times of an update. Each has its time, its place, and no way
//! to outlive its turn: under systemd it is a transient unit in a box, elsewhere a process group whose
//! every child is found again by its mark. Decides what a hook may write and whom it may reach; how it
//! went is kept with what it wrote, whether it failed or not.

mod kept;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use refit_proto::{
    gathered::Gathered as _,
    names::PackageName,
    package::{Hook, HookNeeds, HookTime, Variables, expand},
    printable::printable_lines,
};
use serde::{Deserialize, Serialize};

use super::{
    boxed::{Boxed, End, Limits, OUTPUT_KEPT, Systemd, Walls},
    process::{Ended, Program, end_of_text, kill_marked},
    service::resolve_command,
};
use crate::update::InstallId;

pub use kept::{HookRuns, KeptRuns, folder};

/// How much of what a hook wrote stands in the failure that it leads to: a failure is kept and sent often.
const IN_FAILURE: usize = 600;

/// What runs hooks on this host.
#[derive(Debug, Clone)]
pub enum Hooks {
    /// As transient units, each in its box.
    Systemd(Systemd),
    /// As processes of the agent: without a box.
    Own,
}

/// For which update and package a hook runs.
#[derive(Debug, Clone)]
pub struct HookContext<'a> {
    /// The update.
    pub install: &'a InstallId,
    /// The package.
    pub package: &'a PackageName,
    /// The package's tree.
    pub folder: &'a Path,
    /// The host's variables.
    pub variables: &'a Variables,
    /// What every hook of the package may write.
    pub writes: Vec<PathBuf>,
    /// What none may write, though it lies in the former.
    pub read_only: Vec<PathBuf>,
    /// What none sees.
    pub hidden: Vec<PathBuf>,
}

/// How a hook went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRun {
    /// Of which package.
    pub package: PackageName,
    /// When it ran.
    pub when: HookTime,
    /// Its place among the package's hooks, from 0.
    pub number: usize,
    /// How it ended.
    pub end: End,
    /// What it may take.
    pub seconds: u32,
    /// The same of memory, MiB.
    pub memory_mb: u32,
    /// What it says that it writes, and is not there: then it can't.
    #[serde(default)]
    pub missing: Vec<PathBuf>,
    /// The end of what it wrote.
    pub output: String,
}

/// A hook that did not do what it is for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HookError(String);

impl HookRun {
    /// Whether it ended well.
    ///
    /// # Errors
    /// If it did not, with the end of what it wrote.
    pub fn ended(&self) -> Result<(), HookError> {
        if self.end == End::Good {
            return Ok(());
        }
        let mut text = format!("hook {} of {} {}", word(self.when), self.package, self.how());
        if !self.missing.is_empty() {
            let missing: Vec<_> = self.missing.iter().map(|path| path.display()).collect();
            let missing: Vec<_> = missing.iter().map(ToString::to_string).collect();
            text.push_str(&format!(
                "; {} is not there, so that it can't be written: `writes` has to name its folder",
                missing.join(", ")
            ));
        }
        let output = end_of_text(&self.output, IN_FAILURE);
        if !output.is_empty() && !matches!(self.end, End::NotStarted { .. }) {
            text.push_str(": ");
            text.push_str(&printable_lines(output));
        }
        Err(HookError(text))
    }

    /// How it ended, in words.
    pub fn how(&self) -> String {
        match &self.end {
            End::Good => "ended well".into(),
            End::Failed { code } => format!("ended with {code}"),
            // Older kernels' groups don't tell whether it was for the memory.
            End::Killed { signal: Some(9) } => {
                format!("was killed, as one is that takes more than {} MiB", self.memory_mb)
            }
            End::Killed { signal: Some(signal) } => format!("was ended by signal {signal}"),
            End::Killed { signal: None } => "was ended by a signal".into(),
            End::TimedOut => format!("took longer than {} s", self.seconds),
            End::OutOfMemory => format!("took more than {} MiB of memory", self.memory_mb),
            End::NotStarted { why } => {
                format!("was not started: {}", printable_lines(end_of_text(why, IN_FAILURE)))
            }
        }
    }
}

impl Hooks {
    /// Under systemd where it runs and the agent may ask it, else as processes of the agent.
    pub fn find(systemd: bool) -> Hooks {
        match Systemd::find().filter(|_| systemd) {
            Some(systemd) => Hooks::Systemd(systemd),
            None => Hooks::Own,
        }
    }

    /// Runs a hook to its end. One that an agent killed in the middle had left running is ended first.
    pub fn run(&self, hook: &Hook, number: usize, context: &HookContext<'_>) -> HookRun {
        let memory_mb = hook.needs.memory_mb.unwrap_or(HookNeeds::MEMORY_MB);
        let mut run = HookRun {
            package: context.package.clone(),
            when: hook.when,
            number,
            end: End::Good,
            seconds: hook.timeout_seconds,
            memory_mb,
            missing: Vec::new(),
            output: String::new(),
        };
        let ended = self.boxed(hook, number, memory_mb, context).and_then(|(boxed, missing)| {
            run.missing = missing;
            self.run_boxed(&boxed).map_err(|error| error.to_string())
        });
        match ended {
            Ok((end, output)) => (run.end, run.output) = (end, output),
            Err(why) => run.end = End::NotStarted { why },
        }
        run
    }

    /// The hook in its box, and what it says that it writes and is not there.
    fn boxed(
        &self,
        hook: &Hook,
        number: usize,
        memory_mb: u32,
        context: &HookContext<'_>,
    ) -> Result<(Boxed, Vec<PathBuf>), String> {
        let HookContext { install, folder, variables, .. } = context;
        let resolved = resolve_command(&hook.command, folder, variables);
        let (program, arguments) = resolved.map_err(|error| error.to_string())?;
        let mut writes = context.writes.clone();
        let mut missing = Vec::new();
        for path in &hook.needs.writes {
            let path = PathBuf::from(expand(path, variables).map_err(|error| error.to_string())?);
            if !path.exists() {
                missing.push(path.clone());
            }
            writes.push(path);
        }
        let program = Program {
            program: program.into(),
            arguments,
            folder: context.folder.to_owned(),
            environment: [("REFIT_INSTALL".to_owned(), install.to_string())].into_iter().gathered(),
            mark: name(install, hook.when, number),
        };
        let limits = Limits {
            seconds: hook.timeout_seconds,
            memory: u64::from(memory_mb) << 20,
            tasks: hook.needs.tasks.unwrap_or(HookNeeds::TASKS),
        };
        let walls = Walls {
            writes,
            read_only: context.read_only.clone(),
            hidden: context.hidden.clone(),
            network: hook.needs.network,
            systemd: hook.needs.systemd,
        };
        Ok((Boxed { program, limits, walls: Some(walls) }, missing))
    }

    /// Runs a program in its box, where there are boxes, to its end and that of all that it started.
    pub(crate) fn run_boxed(&self, boxed: &Boxed) -> std::io::Result<(End, String)> {
        let Boxed { program, limits, .. } = boxed;
        match self {
            Hooks::Systemd(systemd) => systemd.run(&program.mark, boxed),
            Hooks::Own => {
                kill_marked(&program.mark)?;
                let longest = Duration::from_secs(limits.seconds.into());
                Ok(match program.run_keeping(longest, OUTPUT_KEPT)? {
                    Ended::Exited { code: Some(0), output } => (End::Good, output),
                    Ended::Exited { code: Some(code), output } => (End::Failed { code }, output),
                    Ended::Exited { code: None, output } => (End::Killed { signal: None }, output),
                    Ended::TimedOut { output } => (End::TimedOut, output),
                })
            }
        }
    }
}

/// The name of a hook's unit, and of its processes where there are no units.
pub fn name(install: &InstallId, when: HookTime, number: usize) -> String {
    format!("refit-hook-{install}-{}-{number}", word(when))
}

/// As manifests and reports say it.
pub fn word(when: HookTime) -> &'static str {
    match when {
        HookTime::BeforeSwitch => "before-switch",
        HookTime::AfterSwitch => "after-switch",
        HookTime::AfterCommit => "after-commit",
    }
}

#[cfg(test)]
mod tests;
