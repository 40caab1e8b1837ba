//! The agent as its own host runs it: which program this process is, how its unit is doing, and asking PID 1
//! to start it anew. What runs the agent is systemd; an agent that something else started can't replace
//! itself.

use std::{path::PathBuf, time::Duration};

use super::process::{Ended, Program, system_program};

/// PID 1 answers at once; longer means that it does not.
const LONGEST: Duration = Duration::from_secs(60);

/// How one of the agent's units is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnUnit {
    /// `active`, or what systemd says instead.
    pub active: String,
    /// `enabled`, or what systemd says instead.
    pub enabled: String,
    /// Its main process; 0: none.
    pub main: u32,
}

/// What runs the agent.
pub trait Own: Send {
    /// The program that this process runs, resolved.
    fn program(&self) -> PathBuf;

    /// This process.
    fn process(&self) -> u32;

    /// What this process was started with.
    fn arguments(&self) -> Vec<String>;

    /// How a unit of the agent's is doing.
    ///
    /// # Errors
    /// What was said where that can't be told.
    fn unit(&self, unit: &str) -> Result<OwnUnit, String>;

    /// Asks for a stop and a new start of a unit of the agent's that runs. Outlives this process.
    ///
    /// # Errors
    /// What was said where it was refused.
    fn start_anew(&mut self, unit: &str) -> Result<(), String>;
}

/// systemd.
#[derive(Debug, Clone)]
pub struct SystemdOwn;

fn systemctl(arguments: &[&str]) -> Result<String, String> {
    let program = system_program("systemctl").ok_or("there is no systemctl")?;
    let program = Program {
        program: program.into(),
        arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
        folder: "/".into(),
        environment: Default::default(),
        mark: format!("systemctl {} {}", arguments.join(" "), std::process::id()),
    };
    match program.run(LONGEST) {
        Ok(Ended::Exited { code: Some(0), output }) => Ok(output),
        Ok(Ended::Exited { output, .. }) => Err(output),
        Ok(Ended::TimedOut { .. }) => {
            Err(format!("systemctl did not answer within {} s", LONGEST.as_secs()))
        }
        Err(error) => Err(format!("systemctl does not start: {error}")),
    }
}

impl Own for SystemdOwn {
    fn program(&self) -> PathBuf {
        // The kernel's word: a link that was moved since leads elsewhere.
        std::fs::read_link("/proc/self/exe").unwrap_or_default()
    }

    fn process(&self) -> u32 {
        std::process::id()
    }

    fn arguments(&self) -> Vec<String> {
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect()
    }

    fn unit(&self, unit: &str) -> Result<OwnUnit, String> {
        let wanted = "--property=ActiveState,UnitFileState,MainPID";
        read_unit(&systemctl(&["show", "--no-pager", wanted, "--", unit])?)
            .ok_or_else(|| format!("what systemd says of {unit} can't be read"))
    }

    fn start_anew(&mut self, unit: &str) -> Result<(), String> {
        systemctl(&["--no-block", "try-restart", "--", unit]).map(drop)
    }
}

fn read_unit(said: &str) -> Option<OwnUnit> {
    let value =
        |name: &str| said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    Some(OwnUnit {
        active: value("ActiveState")?.to_owned(),
        enabled: value("UnitFileState")?.to_owned(),
        main: value("MainPID")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_says_of_a_unit_is_read_whole_or_not_at_all() {
        let said = "MainPID=41\nActiveState=active\nUnitFileState=enabled\n";
        let unit = OwnUnit { active: "active".into(), enabled: "enabled".into(), main: 41 };
        assert_eq!(read_unit(said), Some(unit));
        assert_eq!(read_unit("MainPID=41\nActiveState=active\n"), None);
        assert_eq!(read_unit("MainPID=x\nActiveState=active\nUnitFileState=\n"), None);
    }
}
