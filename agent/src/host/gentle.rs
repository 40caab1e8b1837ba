//! Work that nobody on the host is to feel: on a thread of its own that yields the processors and the disks to everybody
//! else. On its own, since a thread that has no rights can't take its place back.

use std::{process::Command, thread};

use super::process::system_program;

/// The least that a process may be given.
const NICEST: i32 = 19;

/// Does it, and waits for its end.
pub fn gently<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            step_back();
            work()
        });
        match worker.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// What can't be had is no reason to leave the work undone: it is slow by its own pace too.
fn step_back() {
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICEST) {
        tracing::debug!("this work is not as nice as it could be: {error}");
    }
    // The kernel has no other way to it that is safe to call from here; Debian always has this program.
    let Some(program) = system_program("ionice") else { return };
    let thread = thread.as_raw_nonzero().to_string();
    let asked = Command::new(program).args(["--class", "idle", "--pid", &thread]).output();
    if !asked.as_ref().is_ok_and(|ran| ran.status.success()) {
        tracing::debug!("this work takes its turn at the disks like any other: {asked:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn niceness() -> i32 {
        let thread = rustix::thread::gettid();
        rustix::process::getpriority_process(Some(thread)).unwrap()
    }

    fn disks() -> String {
        let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
        let said = Command::new("ionice").args(["--pid", &thread]).output().unwrap();
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    }

    #[test]
    fn gentle_work_comes_last_at_processors_and_disks_and_nobody_else_does() {
        let before = (niceness(), disks());
        let during = gently(|| (niceness(), disks()));
        assert_eq!(during, (NICEST, "idle".to_owned()));
        assert_eq!((niceness(), disks()), before);
    }
}
