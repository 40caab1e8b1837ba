//! Services of a release: what runs, and who runs it. Behind one trait stand systemd, and, where there
//! is none, the agent's own supervisor. Both know a service by a file that says what it is, so that
//! bringing the file back brings the service back.

mod container;
mod journal;
mod own;
mod sleep;
mod systemd;
mod unit;

pub use container::Container;
pub use journal::{ErrorsSince, LoggedErrors};
pub use own::OwnSupervisor;
pub use systemd::Systemd;
pub(crate) use unit::resolve_command;
pub use unit::{ResolveError, Service, UnitFile, UnitName, UnitNameError};

use std::{path::PathBuf, time::Duration};

use super::process::{Ended, Program};
use crate::way_back::{Units, UnitsError};

/// What runs services.
pub trait Services: Send {
    /// The files that make the manager know a service. Whoever installs puts them in place and saves
    /// what stood there; then [`Self::reload`].
    ///
    /// # Errors
    /// If the service cannot be told to this manager.
    fn unit_files(&self, service: &Service) -> Result<Vec<UnitFile>, ServiceError>;
    /// Where others may add to a unit, or change it: a folder of drop-ins. `None` where there are none.
    fn drop_ins(&self, unit: &UnitName) -> Option<PathBuf> {
        let _ = unit;
        None
    }
    /// Makes the manager read its files again.
    ///
    /// # Errors
    /// If it did not.
    fn reload(&mut self) -> Result<(), ServiceError>;
    /// Starts a service; one that runs is started already. What kept it from starting before, such as
    /// too many failures, does not count any more.
    ///
    /// # Errors
    /// If it does not run.
    fn start(&mut self, unit: &UnitName) -> Result<(), ServiceError>;
    /// Stops a service; one that does not run or is not known is stopped already.
    ///
    /// # Errors
    /// If it may still run.
    fn stop(&mut self, unit: &UnitName) -> Result<(), ServiceError>;
    /// How a service is doing.
    ///
    /// # Errors
    /// If that cannot be told.
    fn state(&mut self, unit: &UnitName) -> Result<ServiceState, ServiceError>;
    /// The end of what a service wrote, as far as its manager keeps that; empty where it doesn't.
    fn log(&mut self, unit: &UnitName) -> String;

    /// The cgroup in which a service runs; `None` if it does not run.
    ///
    /// # Errors
    /// If that can't be told: only systemd gives each service one.
    fn cgroup(&mut self, unit: &UnitName) -> Result<Option<String>, ServiceError> {
        Err(ServiceError::new("measure", unit, "systemd does not run it"))
    }

    /// Errors that a service has written to its manager's journal.
    ///
    /// # Errors
    /// If they can't be counted: only systemd keeps a journal.
    fn errors(
        &mut self,
        unit: &UnitName,
        _since: &ErrorsSince,
    ) -> Result<LoggedErrors, ServiceError> {
        Err(ServiceError::new("count the errors of", unit, "systemd does not run it"))
    }
}

/// As much of a service's log as is read, bytes.
const LONGEST_LOG: u64 = 1 << 20;

/// How a service is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceState {
    /// It runs.
    Active {
        /// How often it ended and was started again since it was last started on purpose.
        restarts: u32,
    },
    /// It is on its way up or down, or waits to be started again.
    Changing {
        /// How often it ended and was started again.
        restarts: u32,
    },
    /// It does not run, as it should.
    Stopped,
    /// It does not run, though it should.
    Failed {
        /// Why, as its manager says it.
        text: String,
    },
    /// Its manager does not know it.
    Unknown,
}

/// What could not be done with a service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {action} {unit}: {why}")]
pub struct ServiceError {
    /// What was tried.
    pub action: &'static str,
    /// On what.
    pub unit: String,
    /// What went wrong.
    pub why: String,
}

impl ServiceError {
    fn new(action: &'static str, unit: impl ToString, why: impl ToString) -> ServiceError {
        ServiceError { action, unit: unit.to_string(), why: why.to_string() }
    }
}

/// A service manager as the way back uses it.
pub struct UnitsOf<'a>(pub &'a mut dyn Services);

impl Units for UnitsOf<'_> {
    fn stop(&mut self, unit: &str) -> Result<(), UnitsError> {
        self.0.stop(&named(unit)?).map_err(failed)
    }

    fn start(&mut self, unit: &str) -> Result<(), UnitsError> {
        self.0.start(&named(unit)?).map_err(failed)
    }

    fn reload(&mut self) -> Result<(), UnitsError> {
        self.0.reload().map_err(failed)
    }

    fn run(&mut self, command: &[String], timeout_seconds: u32) -> Result<(), UnitsError> {
        let (program, arguments) =
            command.split_first().ok_or_else(|| UnitsError("the command is empty".into()))?;
        let saved = Program {
            program: program.into(),
            arguments: arguments.to_vec(),
            folder: "/".into(),
            environment: Default::default(),
            mark: format!("way-back {}", command.join(" ")),
        };
        match saved.run(Duration::from_secs(timeout_seconds.into())) {
            Ok(Ended::Exited { code: Some(0), .. }) => Ok(()),
            Ok(Ended::Exited { code, output }) => {
                Err(UnitsError(format!("it ended with {code:?}: {output}")))
            }
            Ok(Ended::TimedOut { output }) => {
                Err(UnitsError(format!("it took longer than {timeout_seconds} s: {output}")))
            }
            Err(error) => Err(UnitsError(error.to_string())),
        }
    }
}

fn named(unit: &str) -> Result<UnitName, UnitsError> {
    UnitName::parse(unit).map_err(|error| UnitsError(error.to_string()))
}

fn failed(error: ServiceError) -> UnitsError {
    UnitsError(error.to_string())
}
