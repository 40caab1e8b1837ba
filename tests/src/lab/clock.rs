//! A host's wrong clock. The kernel has one clock of the day for this machine and all hosts, so it is told
//! to the agent and the rescuer by `libfaketime`, which goes between them and the C library. Not changed
//! by it: file times, the journal's stamps, other programs, and the running time since boot.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};

use super::DebianHost;

const LIBRARY: &str = "libfaketime.so.1";
const FOLDER: &str = "/usr/lib/refit-lab";
const CLOCK: &str = "/etc/refit-lab/clock";
const UNITS: [&str; 3] = ["refit-agent.service", "refit-link.service", "refit-rescue@.service"];

impl DebianHost {
    /// Moves the clock that agent and rescuer see: `+365d`, `-2h`, `+0`. The first time the agent is started
    /// again for it; from then on the clock jumps while it runs.
    ///
    /// # Errors
    /// If `libfaketime` is missing, or the host is off.
    pub fn move_clock(&self, by: &str) -> Result<()> {
        let known = |c: char| c.is_ascii_digit() || "smhdy.".contains(c);
        if !by
            .strip_prefix(['+', '-'])
            .is_some_and(|rest| !rest.is_empty() && rest.chars().all(known))
        {
            bail!("{by:?} moves no clock\nhelp: for example +365d, -2h, +90s or +0");
        }
        self.write(CLOCK, by)?;
        if self.root().join(FOLDER.trim_start_matches('/')).join(LIBRARY).exists() {
            return Ok(());
        }
        self.put(&library()?, FOLDER)?;
        let drop_in = format!(
            "[Service]\nEnvironment=LD_PRELOAD={FOLDER}/{LIBRARY} FAKETIME_TIMESTAMP_FILE={CLOCK} \
             FAKETIME_NO_CACHE=1 DONT_FAKE_MONOTONIC=1 FAKETIME_DONT_FAKE_MONOTONIC=1\n"
        );
        for unit in UNITS {
            self.write(&format!("/etc/systemd/system/{unit}.d/refit-lab-clock.conf"), &drop_in)?;
        }
        self.good(["systemctl", "daemon-reload"])?;
        self.good(["systemctl", "try-restart", "refit-agent", "refit-link"])?;
        Ok(())
    }
}

/// Whether clocks of hosts can be moved from this machine.
pub fn clocks_can_move() -> bool {
    library().is_ok()
}

/// Where Debian's `libfaketime` has its library.
fn library() -> Result<PathBuf> {
    let folders = fs::read_dir("/usr/lib")?.flatten().map(|entry| entry.path());
    let mut places = folders.map(|folder| folder.join("faketime").join(LIBRARY));
    places
        .find(|path| path.is_file())
        .context("libfaketime is not installed\nhelp: sudo apt-get install libfaketime")
}
