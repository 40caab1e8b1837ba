//! How the agent's own supervisor sleeps: until a process ends, somebody rings, or a pause is over, and not a
//! moment less. It looks at nothing again and again.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
    process::{PidfdFlags, pidfd_open},
};

use crate::host::process::Process;

/// How often what runs is looked at where the kernel (before 5.3) does not tell of its end.
const LOOK: Duration = Duration::from_millis(200);

/// Wakes the supervisor.
pub(super) struct Bell(OwnedFd);

impl Bell {
    pub(super) fn new() -> io::Result<Bell> {
        Ok(Bell(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Something was changed that the supervisor should look at. Rung before it sleeps, it does not sleep.
    pub(super) fn ring(&self) {
        // It fails where nobody has listened for 2^64 rings.
        let _rung_enough = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Sleeps until one of these has ended, this moment has come, or the bell is rung.
    pub(super) fn sleep(&self, running: &[Process], until: Option<Instant>) {
        let mut longest = until.map(|moment| moment.saturating_duration_since(Instant::now()));
        let mut ends = Vec::new();
        for process in running {
            match process.end() {
                Ok(end) => ends.push(end),
                // It has ended already.
                Err(Errno::SRCH) => return,
                Err(_) => longest = Some(longest.map_or(LOOK, |longest| longest.min(LOOK))),
            }
        }
        let wait_for = |fd| PollFd::new(fd, PollFlags::IN);
        let mut any: Vec<_> = ends.iter().chain([&self.0]).map(wait_for).collect();
        // One that is too long for the kernel is as good as none.
        let longest = longest.and_then(|longest| Timespec::try_from(longest).ok());
        // Interrupted, or out of memory: whoever sleeps looks, and sleeps again.
        let _woken = poll(&mut any, longest.as_ref());
        let _all_of_them = rustix::io::read(&self.0, &mut [0_u8; 8]);
    }
}

impl Process {
    /// What becomes readable when this process ends.
    ///
    /// # Errors
    /// `SRCH` if it has ended; others where the kernel knows no such thing.
    fn end(&self) -> Result<OwnedFd, Errno> {
        let end = pidfd_open(self.pid(), PidfdFlags::empty())?;
        // Looked at afterwards: the number may be another's since.
        if self.lives() { Ok(end) } else { Err(Errno::SRCH) }
    }
}
