//! What is shipped ends when it panics: it is smaller so. sled may panic on a damaged store; so a process of its own
//! opens it first, and what ends that one is damage, which is set aside and named as ever.

use std::{
    io,
    path::Path,
    process::{Command, ExitStatus, Stdio},
};

use refit_durable::Probe;

/// The command of [`refit-agent`](crate) that opens a store and closes it again.
pub const COMMAND: &str = "probe-store";

/// What opens a store first; nothing where a panic is caught.
pub(super) fn probe() -> Option<Probe> {
    cfg!(panic = "abort").then_some(in_a_process)
}

fn in_a_process(store: &Path) -> io::Result<ExitStatus> {
    // Also where another version lies in this program's place by now.
    let mut command = Command::new("/proc/self/exe");
    command.arg(COMMAND).arg(store).stdin(Stdio::null()).stdout(Stdio::null()).status()
}
