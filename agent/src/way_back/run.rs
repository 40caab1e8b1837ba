//! Runs a way back: first looks whether all of it can be done, then does it. What was damaged is found
//! before the first file is touched.

use std::path::Path;

use refit_proto::names::Digest;

use super::{UndoStep, Undoing, WayBack};
use crate::host::{
    files::{FileError, Files, Kind, beside, copy, exists, remove_tree, replace_link, sync_parent},
    owners::Numbers,
};

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

/// The services of what has none; saved commands are run by this.
pub struct NoServices<R>(pub R);

impl<R: FnMut(&[String]) -> Result<(), UnitsError>> Units for NoServices<R> {
    fn stop(&mut self, _: &str) -> Result<(), UnitsError> {
        Ok(())
    }

    fn start(&mut self, _: &str) -> Result<(), UnitsError> {
        Ok(())
    }

    fn reload(&mut self) -> Result<(), UnitsError> {
        Ok(())
    }

    fn run(&mut self, command: &[String], _: u32) -> Result<(), UnitsError> {
        (self.0)(command)
    }
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
pub fn run(way_back: &WayBack, files: &dyn Files, units: &mut dyn Units) -> Result<(), RunError> {
    for (step, number) in way_back.steps.iter().zip(1..) {
        check(step, files).map_err(|why| RunError::Damaged {
            number,
            kind: step.undoing.kind(),
            subject: step.undoing.subject(),
            why,
        })?;
    }
    // Numbers as they were are better than no way back.
    let numbers = way_back.owners.now(files).unwrap_or_default();
    let mut not_started = None;
    for (step, number) in way_back.steps.iter().zip(1..) {
        let Err(why) = take(step, &numbers, files, units) else { continue };
        let kind = step.undoing.kind();
        let error = RunError::Step { number, kind, subject: step.undoing.subject(), why };
        match step.undoing {
            Undoing::StartUnit { .. } => not_started = not_started.or(Some(error)),
            _ => return Err(error),
        }
    }
    not_started.map_or(Ok(()), Err)
}

fn left_out(step: &UndoStep, files: &dyn Files) -> Result<bool, FileError> {
    match &step.unless {
        Some(path) => exists(files, path),
        None => Ok(false),
    }
}

/// Whether what a step needs is there.
fn check(step: &UndoStep, files: &dyn Files) -> Result<(), String> {
    match &step.undoing {
        Undoing::File { from, digest, .. } if !left_out(step, files).map_err(why)? => {
            let (found, _) = copy(files, from, None, u64::MAX).map_err(why)?;
            is_sealed(from, found, *digest)
        }
        Undoing::File { .. }
        | Undoing::Link { .. }
        | Undoing::RemoveLink { .. }
        | Undoing::Folder { .. }
        | Undoing::Remove { .. }
        | Undoing::Swap { .. }
        | Undoing::Attribute { .. }
        | Undoing::Owner { .. }
        | Undoing::Mode { .. }
        | Undoing::Modified { .. }
        | Undoing::HardLink { .. }
        | Undoing::StopUnit { .. }
        | Undoing::ReloadUnits
        | Undoing::StartUnit { .. }
        | Undoing::Run { .. } => Ok(()),
    }
}

fn is_sealed(from: &Path, found: Digest, sealed: Digest) -> Result<(), String> {
    if found == sealed {
        return Ok(());
    }
    Err(format!("{} is not what was sealed", from.display()))
}

fn take(
    step: &UndoStep,
    numbers: &Numbers,
    files: &dyn Files,
    units: &mut dyn Units,
) -> Result<(), String> {
    if left_out(step, files).map_err(why)? {
        return Ok(());
    }
    match &step.undoing {
        Undoing::Link { path, target } => replace_link(files, target, path).map_err(why),
        Undoing::RemoveLink { path } => remove_link(files, path),
        Undoing::Folder { path, mode, uid, gid } => {
            let (uid, gid) = (numbers.user(*uid), numbers.group(*gid));
            folder(files, path, *mode, uid, gid).map_err(why)
        }
        Undoing::File { path, from, digest, mode, uid, gid } => {
            let new = beside(path);
            let found = copy_beside(files, from, &new).map_err(why)?;
            is_sealed(from, found, *digest)?;
            let (uid, gid) = (numbers.user(*uid), numbers.group(*gid));
            put(files, &new, path, *mode, uid, gid).map_err(why)
        }
        Undoing::Remove { path } => remove_tree(files, path).map(drop).map_err(why),
        Undoing::Swap { path, from, aside } => swap(files, path, from, aside),
        Undoing::Attribute { path, name, value } => {
            files.set_attribute(path, name, value).map_err(why)
        }
        Undoing::Owner { path, uid, gid } => {
            files.set_owner(path, numbers.user(*uid), numbers.group(*gid)).map_err(why)
        }
        Undoing::Mode { path, mode } => files.set_mode(path, *mode).map_err(why),
        Undoing::Modified { path, time } => files.set_modified(path, *time).map_err(why),
        Undoing::HardLink { path, from } => hard_link(files, path, from).map_err(why),
        Undoing::StopUnit { unit } => units.stop(unit).map_err(why),
        Undoing::ReloadUnits => units.reload().map_err(why),
        Undoing::StartUnit { unit } => units.start(unit).map_err(why),
        Undoing::Run { command, timeout_seconds } => {
            units.run(command, *timeout_seconds).map_err(why)
        }
    }
}

fn remove_link(files: &dyn Files, path: &Path) -> Result<(), String> {
    match files.stat(path).map_err(why)?.map(|stat| stat.kind) {
        None => Ok(()),
        Some(Kind::Link) => {
            files.remove_file(path).and_then(|()| sync_parent(files, path)).map_err(why)
        }
        Some(Kind::File | Kind::Directory | Kind::Socket | Kind::Special) => {
            Err("there is something else than a link".into())
        }
    }
}

fn hard_link(files: &dyn Files, path: &Path, from: &Path) -> Result<(), FileError> {
    let new = beside(path);
    remove_tree(files, &new)?;
    files.hard_link(from, &new)?;
    files.rename(&new, path)?;
    // Where both are one file already, the move did nothing.
    remove_tree(files, &new)?;
    sync_parent(files, path)
}

fn folder(files: &dyn Files, path: &Path, mode: u32, uid: u32, gid: u32) -> Result<(), FileError> {
    if !exists(files, path)? {
        files.create_dir(path, 0o700)?;
    }
    // The owner first: a change of owner takes set-id bits away.
    files.set_owner(path, uid, gid)?;
    files.set_mode(path, mode)?;
    files.sync_dir(path)?;
    sync_parent(files, path)
}

/// Copies a saved file beside its place, where nobody but its owner reads it yet.
fn copy_beside(files: &dyn Files, from: &Path, new: &Path) -> Result<Digest, FileError> {
    remove_tree(files, new)?;
    let mut writing = files.create(new, 0o600)?;
    let (digest, _) = copy(files, from, Some((new, writing.as_mut())), u64::MAX)?;
    Ok(digest)
}

/// Gives a file its owner and mode, then moves it to its place.
fn put(
    files: &dyn Files,
    new: &Path,
    path: &Path,
    mode: u32,
    uid: u32,
    gid: u32,
) -> Result<(), FileError> {
    files.set_owner(new, uid, gid)?;
    files.set_mode(new, mode)?;
    files.sync_file(new)?;
    files.rename(new, path)?;
    sync_parent(files, path)
}

/// `aside` is the mark that the swap has begun: until it is there, `path` holds what is to be set
/// aside; from then on what stands at `path` is what was brought back.
fn swap(files: &dyn Files, path: &Path, from: &Path, aside: &Path) -> Result<(), String> {
    let there = |place: &Path| exists(files, place).map_err(why);
    if !there(aside)? {
        if !there(from)? {
            return Err(format!("{} is not there", from.display()));
        }
        let marked = match there(path)? {
            true => move_to(files, path, aside),
            false => files.create_dir(aside, 0o700).and_then(|()| sync_parent(files, aside)),
        };
        marked.map_err(why)?;
    }
    if there(path)? { Ok(()) } else { move_to(files, from, path).map_err(why) }
}

fn move_to(files: &dyn Files, from: &Path, to: &Path) -> Result<(), FileError> {
    files.rename(from, to)?;
    sync_parent(files, to)?;
    sync_parent(files, from)
}

fn why(error: impl ToString) -> String {
    error.to_string()
}
