//! systemd, through its own commands: as root they talk to PID 1 itself, so that a broken D-Bus stands in
//! nobody's way. Each has a bound.

use std::{
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// The timer that starts the rescuer while an update is under way. Transient: nothing on the disk starts
/// it, and it is gone with the boot.
const TIMER: &str = "refit-rescue-tick";

/// The agent's own unit.
const AGENT: &str = "refit-agent.service";

/// Longer than any service takes to stop, with systemd's default of 90 s and its kill.
const LONGEST: Duration = Duration::from_secs(120);

/// How services are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// And waited for.
    Now,
    /// In their turn: while the host boots they wait for what comes before them, and the rescuer does.
    InTurn,
}

/// The host's systemd.
pub(crate) struct Systemd;

impl Systemd {
    fn tell(words: &[&str]) -> Result<()> {
        let mut command = Command::new("systemctl");
        // Options first: what follows `--` is a unit.
        command.arg("--no-ask-password").args(words).stdin(Stdio::null()).stdout(Stdio::null());
        done(command, &format!("systemctl {}", words.join(" ")))
    }

    /// Starts the timer, to look every so often, unless it runs.
    ///
    /// # Errors
    /// If systemd refuses.
    pub(crate) fn arm(&self, data: &Path, period: Duration) -> Result<()> {
        let running = Systemd::tell(&["is-active", "--quiet", &format!("{TIMER}.timer")]);
        if running.is_ok() {
            return Ok(());
        }
        self.disarm();
        let span = format!("{}ms", period.as_millis());
        let mut command = Command::new("systemd-run");
        command
            .args(["--quiet", "--no-block", "--no-ask-password", "--unit", TIMER])
            .arg(format!("--on-active={span}"))
            .arg(format!("--timer-property=OnUnitInactiveSec={span}"))
            .arg("--timer-property=AccuracySec=1s")
            // At boot systemd-run waits for its timer, and the timer would wait for the host to have booted.
            .arg("--timer-property=DefaultDependencies=no")
            .args(["--description", "Refit: brings this host back if its agent does not"])
            .arg(std::env::current_exe()?)
            .args(["tick", "--data"])
            .arg(data)
            .stdin(Stdio::null());
        done(command, "systemd-run")
    }

    /// Ends the timer, if there is one.
    pub(crate) fn disarm(&self) {
        let timer = format!("{TIMER}.timer");
        let _not_there = Systemd::tell(&["stop", "--quiet", &timer]);
        let _not_failed = Systemd::tell(&["reset-failed", "--quiet", &timer]);
    }

    /// Stops a service; one that does not run or is not known is stopped already.
    ///
    /// # Errors
    /// If it may still run.
    pub(crate) fn stop(&self, unit: &str) -> Result<()> {
        self.end(unit)?;
        // One that has failed would be shown as such for as long as the host is up, also where its unit goes.
        let _not_failed = Systemd::tell(&["reset-failed", "--quiet", "--", unit]);
        Ok(())
    }

    fn end(&self, unit: &str) -> Result<()> {
        let Err(error) = Systemd::tell(&["stop", "--quiet", "--", unit]) else { return Ok(()) };
        // What does not end when asked is ended.
        let _gone_already = Systemd::tell(&["kill", "--signal=KILL", "--", unit]);
        let active = Systemd::tell(&["is-active", "--quiet", "--", unit]);
        if active.is_ok() { Err(error) } else { Ok(()) }
    }

    /// Starts a service, however often it failed before.
    ///
    /// # Errors
    /// If it does not run.
    pub(crate) fn start(&self, unit: &str, start: Start) -> Result<()> {
        let _not_failed = Systemd::tell(&["reset-failed", "--quiet", "--", unit]);
        match start {
            Start::Now => Systemd::tell(&["start", "--", unit]),
            Start::InTurn => Systemd::tell(&["start", "--no-block", "--", unit]),
        }
    }

    /// Makes systemd read its units again.
    ///
    /// # Errors
    /// If it did not.
    pub(crate) fn reload(&self) -> Result<()> {
        Systemd::tell(&["daemon-reload"])
    }

    /// Ends the agent, that nobody else changes the host meanwhile.
    pub(crate) fn stop_agent(&self) {
        if let Err(error) = self.stop(AGENT) {
            eprintln!("the agent could not be stopped: {error:#}");
        }
    }

    /// Starts the agent, which reports what was done. One that a release has masked is unmasked: nobody
    /// else would tell.
    pub(crate) fn start_agent(&self) {
        for folder in ["/run/systemd/system", "/etc/systemd/system"] {
            let unit = Path::new(folder).join(AGENT);
            if std::fs::read_link(&unit).is_ok_and(|target| target == Path::new("/dev/null")) {
                eprintln!("{} was masked in the middle of an update; it is unmasked", AGENT);
                if let Err(error) = std::fs::remove_file(&unit) {
                    eprintln!("{}: {error}", unit.display());
                }
                let _said_when_it_starts = self.reload();
            }
        }
        if let Err(error) = self.start(AGENT, Start::InTurn) {
            eprintln!("the agent could not be started: {error:#}");
        }
    }
}

fn done(command: Command, name: &str) -> Result<()> {
    match ended(command, LONGEST).with_context(|| name.to_owned())? {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("{name} ended with {status}"),
        None => bail!("{name} took longer than {} s", LONGEST.as_secs()),
    }
}

/// Runs a command to its end, or ends it and all that it started; then `None`.
///
/// # Errors
/// If it does not start.
pub(crate) fn ended(mut command: Command, longest: Duration) -> io::Result<Option<ExitStatus>> {
    let mut child = command.process_group(0).spawn()?;
    let until = crate::running() + longest;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if crate::running() >= until {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _gone_already = kill_process_group(group, Signal::KILL);
    }
    child.wait()?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_takes_too_long_is_ended_with_all_that_it_started() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & wait"]);
        assert_eq!(ended(command, Duration::from_millis(50)).unwrap(), None);
        let mut command = Command::new("sh");
        command.args(["-c", "exit 3"]);
        let status = ended(command, Duration::from_secs(60)).unwrap().unwrap();
        assert_eq!(status.code(), Some(3));
    }
}
