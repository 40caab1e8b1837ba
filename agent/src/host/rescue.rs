//! The rescuer: a program of its own that brings the host back if this agent can't. Held by systemd, so
//! there is none where the agent runs the services itself.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::process::{Ended, Program};

/// Arming takes a few commands of systemd's; longer means that it does not answer.
const LONGEST: Duration = Duration::from_secs(180);

/// Why nobody stands ready to bring the host back. Nothing may be changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} does not stand ready to bring this host back: {why}\n\
     help: install refit-rescue beside refit-agent and run `refit-rescue arm` by hand to see why",
    program.display()
)]
pub struct RescueError {
    /// The program.
    program: PathBuf,
    /// What it said.
    why: String,
}

/// The rescuer's program.
#[derive(Debug, Clone)]
pub struct Rescue {
    program: PathBuf,
}

impl Rescue {
    /// The one that is installed with this agent.
    pub fn beside_this_program() -> Rescue {
        let own = std::env::current_exe().unwrap_or_default();
        Rescue { program: own.with_file_name("refit-rescue") }
    }

    /// Makes it look after the way back in this folder. It reads the way back first, so that one that it
    /// can't follow is found before anything is changed. Safe to repeat.
    ///
    /// # Errors
    /// If it does not stand ready.
    pub fn arm(&self, data: &Path) -> Result<(), RescueError> {
        self.call("arm", data)
    }

    /// Whether it reads the way back in this folder. Changes nothing.
    ///
    /// # Errors
    /// What it says where it does not.
    pub fn reads(&self, folder: &Path) -> Result<(), RescueError> {
        self.call("show", folder)
    }

    /// Lets it see that no update is under way any more, so that it ends its timer.
    ///
    /// # Errors
    /// If it could not be called; then it sees it at its next look.
    pub fn stand_down(&self, data: &Path) -> Result<(), RescueError> {
        self.call("tick", data)
    }

    fn call(&self, command: &str, data: &Path) -> Result<(), RescueError> {
        let program = Program {
            program: self.program.clone().into(),
            arguments: vec![command.into(), "--data".into(), data.to_string_lossy().into_owned()],
            folder: "/".into(),
            environment: Default::default(),
            mark: format!("refit-rescue {command}"),
        };
        let why = match program.run(LONGEST) {
            Ok(Ended::Exited { code: Some(0), .. }) => return Ok(()),
            Ok(Ended::Exited { output, .. }) => output,
            Ok(Ended::TimedOut { output }) => {
                format!("it took longer than {} s: {output}", LONGEST.as_secs())
            }
            Err(error) => format!("it does not start: {error}"),
        };
        Err(RescueError { program: self.program.clone(), why: why.trim().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rescuer_that_is_missing_or_refuses_is_an_error_that_names_it() {
        let rescue = |program: &str| Rescue { program: program.into() };
        let missing = rescue("/no/such/refit-rescue").arm(Path::new("/")).unwrap_err();
        assert!(missing.to_string().contains("/no/such/refit-rescue"), "{missing}");
        assert!(rescue("/bin/false").arm(Path::new("/")).is_err());
        assert!(rescue("/bin/true").arm(Path::new("/")).is_ok());
    }
}
