//! A package's own commands, run at fixed times of an update. Each has its time, its place, and no way
//! to outlive its turn: under systemd it is a transient unit with a cgroup of its own, elsewhere a
//! process group whose every child is found again by its mark.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use refit_proto::package::{Hook, HookTime, Variables};

use super::{
    process::{Ended, Program, kill_marked, system_program},
    service::{ResolveError, resolve_command},
};
use crate::update::InstallId;

/// What runs hooks on this host.
#[derive(Debug, Clone)]
pub enum Hooks {
    /// As transient units.
    Systemd {
        /// Where `systemd-run` stands.
        systemd_run: PathBuf,
        /// Where `systemctl` stands.
        systemctl: PathBuf,
    },
    /// As processes of the agent.
    Own,
}

/// For which update and package a hook runs.
#[derive(Debug, Clone, Copy)]
pub struct HookContext<'a> {
    /// The update.
    pub install: &'a InstallId,
    /// The package's tree.
    pub folder: &'a Path,
    /// The host's variables.
    pub variables: &'a Variables,
}

/// Why a hook did not do what it is for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// Its command cannot be run here.
    #[error("hook {when}: {why}")]
    Resolve {
        /// When it was to run.
        when: &'static str,
        /// What is wrong.
        why: ResolveError,
    },
    /// It could not be started, or what it left could not be ended.
    #[error("hook {when}: {why}")]
    Start {
        /// When it was to run.
        when: &'static str,
        /// What the system said.
        why: String,
    },
    /// It failed.
    #[error("hook {when} ended with {code:?}: {output}")]
    Failed {
        /// When it ran.
        when: &'static str,
        /// Its exit code; `None`: by a signal.
        code: Option<i32>,
        /// The end of what it wrote.
        output: String,
    },
    /// It took too long.
    #[error("hook {when} took longer than {seconds} s: {output}")]
    TimedOut {
        /// When it ran.
        when: &'static str,
        /// How long it may take.
        seconds: u32,
        /// The end of what it wrote.
        output: String,
    },
}

/// More than a hook's own time: systemd ends it first, and this is for systemd itself.
const SYSTEMD_GRACE: Duration = Duration::from_secs(30);

/// What `systemd-run --wait` exits with where the unit was ended by a signal or a limit.
const TIMED_OUT_RESULT: &str = "timeout";

impl Hooks {
    /// Under systemd where it runs and the agent may ask it, else as processes of the agent.
    pub fn find(systemd: bool) -> Hooks {
        let programs = system_program("systemd-run").zip(system_program("systemctl"));
        match programs.filter(|_| systemd) {
            Some((systemd_run, systemctl)) => Hooks::Systemd { systemd_run, systemctl },
            None => Hooks::Own,
        }
    }

    /// Runs a hook to its end. One that an agent killed in the middle had left running is ended first.
    ///
    /// # Errors
    /// If it did not end well.
    pub fn run(
        &self,
        hook: &Hook,
        number: usize,
        context: HookContext<'_>,
    ) -> Result<(), HookError> {
        let when = word(hook.when);
        let (program, arguments) =
            resolve_command(&hook.command, context.folder, context.variables)
                .map_err(|why| HookError::Resolve { when, why })?;
        let name = format!("refit-hook-{}-{when}-{number}", context.install);
        let timeout = Duration::from_secs(hook.timeout_seconds.into());
        let own = Program {
            program: program.into(),
            arguments,
            folder: context.folder.to_owned(),
            environment: [("REFIT_INSTALL".to_owned(), context.install.to_string())].into(),
            mark: name.clone(),
        };
        let start = |why: String| HookError::Start { when, why };
        let ended = match self {
            Hooks::Own => {
                kill_marked(&own.mark).map_err(|error| start(error.to_string()))?;
                own.run(timeout)
            }
            Hooks::Systemd { systemd_run, systemctl } => {
                end_unit(systemctl, &name).map_err(|error| start(error.to_string()))?;
                transient(systemd_run, &name, &own, hook.timeout_seconds)
                    .run(timeout.saturating_add(SYSTEMD_GRACE))
            }
        };
        match ended.map_err(|error| start(error.to_string()))? {
            Ended::Exited { code: Some(0), .. } => Ok(()),
            Ended::Exited { output, .. } | Ended::TimedOut { output }
                if output.contains(&format!("Finished with result: {TIMED_OUT_RESULT}")) =>
            {
                Err(HookError::TimedOut { when, seconds: hook.timeout_seconds, output })
            }
            Ended::Exited { code, output } => Err(HookError::Failed { when, code, output }),
            Ended::TimedOut { output } => {
                if let Hooks::Systemd { systemctl, .. } = self {
                    end_unit(systemctl, &name).map_err(|error| start(error.to_string()))?;
                }
                Err(HookError::TimedOut { when, seconds: hook.timeout_seconds, output })
            }
        }
    }
}

fn word(when: HookTime) -> &'static str {
    match when {
        HookTime::BeforeSwitch => "before-switch",
        HookTime::AfterSwitch => "after-switch",
        HookTime::AfterCommit => "after-commit",
    }
}

/// Ends a transient unit of an earlier try. One that does not exist is ended already.
fn end_unit(systemctl: &Path, name: &str) -> std::io::Result<()> {
    let unit = format!("{name}.service");
    for action in ["stop", "reset-failed"] {
        let program = Program {
            program: systemctl.into(),
            arguments: vec![action.into(), "--no-pager".into(), "--".into(), unit.clone()],
            folder: "/".into(),
            environment: Default::default(),
            mark: format!("{action} {unit}"),
        };
        program.run(SYSTEMD_GRACE)?;
    }
    Ok(())
}

/// The hook as a transient unit that is waited for.
fn transient(systemd_run: &Path, name: &str, hook: &Program, seconds: u32) -> Program {
    let mut arguments: Vec<String> = vec![
        "--wait".into(),
        "--pipe".into(),
        "--collect".into(),
        "--service-type=exec".into(),
        format!("--unit={name}"),
        format!("--property=RuntimeMaxSec={seconds}"),
        "--property=TimeoutStopSec=5".into(),
        "--property=KillMode=control-group".into(),
        format!("--working-directory={}", hook.folder.display()),
    ];
    arguments.extend(hook.environment.iter().map(|(key, value)| format!("--setenv={key}={value}")));
    arguments.push("--".into());
    arguments.push(hook.program.to_string_lossy().into_owned());
    // systemd puts its variables in place of `$NAME`, and a `$` in place of two.
    arguments.extend(hook.arguments.iter().map(|word| word.replace('$', "$$")));
    Program {
        program: systemd_run.into(),
        arguments,
        folder: "/".into(),
        environment: Default::default(),
        mark: format!("run {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::process::marked;

    fn hook(script: &str, timeout_seconds: u32) -> Hook {
        let command = vec!["/bin/sh".into(), "-c".into(), script.into()];
        Hook { when: HookTime::BeforeSwitch, command, timeout_seconds }
    }

    fn run(install: &str, hook: &Hook, folder: &Path) -> Result<(), HookError> {
        let install = InstallId::parse(install).unwrap();
        let variables = Variables::new();
        let context = HookContext { install: &install, folder, variables: &variables };
        Hooks::Own.run(hook, 0, context)
    }

    #[test]
    fn a_hook_runs_in_its_package_and_knows_its_update() {
        let folder = tempfile::tempdir().unwrap();
        run("i-1", &hook("echo $REFIT_INSTALL > here", 60), folder.path()).unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("here")).unwrap(), "i-1\n");
    }

    #[test]
    fn a_hook_that_fails_says_with_what() {
        let failed = run("i-2", &hook("echo no such table; exit 4", 60), Path::new("/"));
        let output = "no such table".into();
        assert_eq!(failed, Err(HookError::Failed { when: "before-switch", code: Some(4), output }));
    }

    #[test]
    fn a_hook_does_not_outlive_its_turn() {
        let late = run("i-3", &hook("setsid sleep 600 & sleep 600", 1), Path::new("/"));
        assert!(matches!(late, Err(HookError::TimedOut { seconds: 1, .. })), "{late:?}");
        assert_eq!(marked("refit-hook-i-3-before-switch-0").unwrap(), []);
    }

    #[test]
    fn what_a_killed_agent_left_of_a_hook_is_ended_before_it_runs_again() {
        let left = Program {
            program: "sleep".into(),
            arguments: vec!["600".into()],
            folder: "/".into(),
            environment: Default::default(),
            mark: "refit-hook-i-4-before-switch-0".into(),
        };
        let mut child = left.command().spawn().unwrap();
        run("i-4", &hook("true", 60), Path::new("/")).unwrap();
        let ended = child.wait().unwrap();
        assert!(!ended.success());
    }

    /// CVE-2024-39698: a program in systemd-run's place sees each word of the hook as it is.
    #[test]
    fn under_systemd_odd_words_of_a_hook_stay_whole() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("systemd-run");
        let said = folder.path().join("said");
        let script = format!("#!/bin/sh\nprintf '%s\\n' \"$@\" > '{}'\n", said.display());
        std::fs::write(&run, script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&run, mode).unwrap();
        let hooks = Hooks::Systemd { systemd_run: run, systemctl: "/bin/true".into() };
        let package = folder.path().join("a $(b) %h");
        std::fs::create_dir(&package).unwrap();
        let command = ["./hook 1", "--unit=evil", "$(id)", "`id`", "a;b", "-- x"];
        let hook = Hook {
            when: HookTime::BeforeSwitch,
            command: command.map(str::to_owned).to_vec(),
            timeout_seconds: 60,
        };
        let install = InstallId::parse("i-odd").unwrap();
        let variables = Variables::new();
        let context = HookContext { install: &install, folder: &package, variables: &variables };
        hooks.run(&hook, 0, context).unwrap();
        let said = std::fs::read_to_string(said).unwrap();
        let (options, words) = said.split_once("\n--\n").unwrap();
        let program = format!("{}/./hook 1", package.display());
        let wanted = [program.as_str(), "--unit=evil", "$$(id)", "`id`", "a;b", "-- x"];
        assert_eq!(words.lines().collect::<Vec<_>>(), wanted);
        assert!(options.contains(&format!("--working-directory={}\n", package.display())));
        assert!(!options.contains("evil"));
    }

    #[test]
    fn under_systemd_a_hook_is_a_unit_with_its_own_time_and_nothing_is_expanded() {
        let hook = Program {
            program: "/opt/p/hook".into(),
            arguments: vec!["a b".into(), "--x".into(), "$Y".into()],
            folder: "/opt/p".into(),
            environment: Default::default(),
            mark: "m".into(),
        };
        let run = transient(Path::new("/usr/bin/systemd-run"), "refit-hook-1", &hook, 30);
        let split = run.arguments.iter().position(|word| word == "--").unwrap();
        assert_eq!(run.arguments[split + 1..], ["/opt/p/hook", "a b", "--x", "$$Y"]);
        assert!(run.arguments.contains(&"--property=RuntimeMaxSec=30".to_owned()));
    }
}
