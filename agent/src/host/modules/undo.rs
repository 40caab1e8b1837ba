//! The way back from what modules did, as saved commands of the way back: a shell and what Debian's `coreutils`
//! bring, so that the rescuer can take it without the agent.

use std::path::Path;

use super::{
    super::files::{self, FileError, Files},
    Calls, Job, call, caller,
};
use crate::way_back::{UndoStep, Undoing};

const SCRIPT: &str = include_str!("undo.sh");
const INCONSISTENT: &str = "inconsistent";
const LONGEST_WORD: u64 = 64 * 1024;

/// How many calls the longest half of a way back makes: two of them, and a few boots.
const CALLS: u32 = 8;
/// For everything that is no call: the boots, and systemd, which has a minute for each thing that it is asked.
const MORE: u32 = 3600;

/// What a module could not take back itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inconsistent {
    /// The module.
    pub kind: String,
    /// In which state, and what it said.
    pub said: String,
    /// Whether the backup has brought back what its package names, so that the host is whole.
    pub saved: bool,
}

/// Ends what an agent that is gone has left running.
pub(super) fn end(job: &Job<'_>) -> UndoStep {
    Undoing::StopUnit { unit: call::unit(&job.name) }.into()
}

/// One half of the way back: `before` the saved files are brought back, or `after`.
pub(super) fn step(half: &str, job: &Job<'_>, calls: &dyn Calls) -> UndoStep {
    let limit = job.payload.timeout_seconds;
    let path = |path: &Path| path.display().to_string();
    let script = ["/bin/sh", "-c", SCRIPT, "refit-module", half].map(str::to_owned);
    let about = [path(&job.work), path(&job.module), limit.to_string(), path(&calls.boots())];
    let in_unit = calls.unit_back(&caller(job)).map(|by| {
        let tree = call::word(&path(&job.tree()));
        [path(&by.systemd_run), call::unit(&job.name), tree, by.options.join(" ")]
    });
    let words = script.into_iter().chain(about).chain(in_unit.into_iter().flatten());
    let timeout_seconds = limit.saturating_mul(CALLS).saturating_add(MORE);
    Undoing::Run { command: words.collect(), timeout_seconds }.into()
}

pub(super) fn inconsistent(
    files: &dyn Files,
    job: &Job<'_>,
) -> Result<Option<Inconsistent>, FileError> {
    let path = job.work.join(INCONSISTENT);
    if !files::exists(files, &path)? {
        return Ok(None);
    }
    let bytes = files::read_file(files, &path, LONGEST_WORD)?;
    let said = String::from_utf8_lossy(&bytes).trim().to_owned();
    Ok(Some(Inconsistent { kind: job.payload.kind.clone(), said, saved: job.saved }))
}
