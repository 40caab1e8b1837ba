//! Runs a way back: first looks whether all of it can be done, then does it. What was damaged is found
//! before the first file is touched.

use super::{Hands, Kind, UndoStep, Undoing, WayBack, hands::Copied};

/// What starts and stops services, and runs saved commands, on the way back.
pub trait Units {
    /// Stops a service; one that does not run or is not known is stopped already.
    ///
    /// # Errors
    /// If it may still run.
    fn stop(&mut self, unit: &str) -> Result<(), UnitsError>;
    /// Starts a service; one that runs is started already.
    ///
    /// # Errors
    /// If it does not run.
    fn start(&mut self, unit: &str) -> Result<(), UnitsError>;
    /// Makes the service manager read its units again.
    ///
    /// # Errors
    /// If it did not.
    fn reload(&mut self) -> Result<(), UnitsError>;
    /// Runs a saved command to its end.
    ///
    /// # Errors
    /// If its exit code is not 0 or it takes too long.
    fn run(&mut self, command: &[String], timeout_seconds: u32) -> Result<(), UnitsError>;
}

/// What a service manager or a command could not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitsError(pub String);

/// Why a way back did not lead back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// What was saved is not what was sealed. Nothing was touched.
    #[error(
        "the backup is damaged, nothing was touched: step {number} ({kind} {subject}): {why}\n\
         help: docs/RUNBOOK.md, \"Stuck host\""
    )]
    Damaged {
        /// Which step, from 1.
        number: usize,
        /// Its kind.
        kind: &'static str,
        /// What it is about.
        subject: String,
        /// What was found.
        why: String,
    },
    /// A step failed. Those before it are done, those after it are not, and all can be run again.
    #[error(
        "step {number} of the way back ({kind} {subject}) failed: {why}\n\
         help: repair the cause and run `refit-agent recover` again; docs/RUNBOOK.md, \"Stuck host\""
    )]
    Step {
        /// Which step, from 1.
        number: usize,
        /// Its kind.
        kind: &'static str,
        /// What it is about.
        subject: String,
        /// Why.
        why: String,
    },
}

/// Runs a way back from its first step to its last.
///
/// # Errors
/// If anything saved is damaged: then nothing was touched. Or the first step that failed; a service
/// that does not start does not keep the others from starting.
pub fn run(
    way_back: &WayBack,
    hands: &mut dyn Hands,
    units: &mut dyn Units,
) -> Result<(), RunError> {
    for (step, number) in way_back.steps.iter().zip(1..) {
        check(step, hands).map_err(|why| RunError::Damaged {
            number,
            kind: step.undoing.kind(),
            subject: step.undoing.subject(),
            why,
        })?;
    }
    let mut not_started = None;
    for (step, number) in way_back.steps.iter().zip(1..) {
        let Err(why) = take(step, hands, units) else { continue };
        let kind = step.undoing.kind();
        let error = RunError::Step { number, kind, subject: step.undoing.subject(), why };
        match step.undoing {
            Undoing::StartUnit { .. } => not_started = not_started.or(Some(error)),
            _ => return Err(error),
        }
    }
    not_started.map_or(Ok(()), Err)
}

fn left_out(step: &UndoStep, hands: &dyn Hands) -> Result<bool, String> {
    match &step.unless {
        Some(path) => Ok(hands.kind(path).map_err(why)?.is_some()),
        None => Ok(false),
    }
}

/// Whether what a step needs is there.
fn check(step: &UndoStep, hands: &dyn Hands) -> Result<(), String> {
    match &step.undoing {
        Undoing::File { from, digest, .. } if !left_out(step, hands)? => {
            match hands.digest(from).map_err(|error| format!("{}: {error}", from.display()))? {
                found if found == *digest => Ok(()),
                _ => Err(format!("{} is not what was sealed", from.display())),
            }
        }
        Undoing::File { .. }
        | Undoing::Link { .. }
        | Undoing::RemoveLink { .. }
        | Undoing::Folder { .. }
        | Undoing::Remove { .. }
        | Undoing::Swap { .. }
        | Undoing::StopUnit { .. }
        | Undoing::ReloadUnits
        | Undoing::StartUnit { .. }
        | Undoing::Run { .. } => Ok(()),
    }
}

fn take(step: &UndoStep, hands: &mut dyn Hands, units: &mut dyn Units) -> Result<(), String> {
    if left_out(step, hands)? {
        return Ok(());
    }
    match &step.undoing {
        Undoing::Link { path, target } => hands.link(path, target).map_err(why),
        Undoing::RemoveLink { path } => match hands.kind(path).map_err(why)? {
            None => Ok(()),
            Some(Kind::Link) => hands.remove_file(path).map_err(why),
            Some(Kind::Folder | Kind::File) => Err("there is something else than a link".into()),
        },
        Undoing::Folder { path, mode, uid, gid } => {
            hands.folder(path, *mode, *uid, *gid).map_err(why)
        }
        Undoing::File { path, from, digest, mode, uid, gid } => {
            let is = Copied { digest: *digest, mode: *mode, uid: *uid, gid: *gid };
            hands.copy(from, path, &is).map_err(why)
        }
        Undoing::Remove { path } => match hands.kind(path).map_err(why)? {
            None => Ok(()),
            Some(Kind::Folder) => hands.remove_folder(path).map_err(why),
            Some(Kind::Link | Kind::File) => hands.remove_file(path).map_err(why),
        },
        Undoing::Swap { path, from, aside } => swap(path, from, aside, hands),
        Undoing::StopUnit { unit } => units.stop(unit).map_err(why),
        Undoing::ReloadUnits => units.reload().map_err(why),
        Undoing::StartUnit { unit } => units.start(unit).map_err(why),
        Undoing::Run { command, timeout_seconds } => {
            units.run(command, *timeout_seconds).map_err(why)
        }
    }
}

/// `aside` is the mark that the swap has begun: until it is there, `path` holds what is to be set
/// aside; from then on what stands at `path` is what was brought back.
fn swap(
    path: &std::path::Path,
    from: &std::path::Path,
    aside: &std::path::Path,
    hands: &mut dyn Hands,
) -> Result<(), String> {
    let there = |hands: &dyn Hands, path| hands.kind(path).map(|kind| kind.is_some()).map_err(why);
    if !there(hands, aside)? {
        if !there(hands, from)? {
            return Err(format!("{} is not there", from.display()));
        }
        if there(hands, path)? {
            hands.rename(path, aside).map_err(why)?;
        } else {
            let (own, group) = (rustix::process::geteuid(), rustix::process::getegid());
            hands.folder(aside, 0o700, own.as_raw(), group.as_raw()).map_err(why)?;
        }
    }
    if there(hands, path)? { Ok(()) } else { hands.rename(from, path).map_err(why) }
}

fn why(error: impl ToString) -> String {
    error.to_string()
}
