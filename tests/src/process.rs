//! The processes of a sandbox: started with a log of their own, killed as a power cut would, and never
//! left behind.

use std::{
    env,
    fs::{self, File},
    io::Write as _,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// One of Refit's programs as it was built beside this one.
///
/// # Errors
/// If it was not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = env::current_exe()?;
    // A test lies in `deps`, one folder below the programs.
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    found.into_iter().find(|path| path.is_file()).with_context(|| {
        format!("{name} is not built beside {}; run `cargo xtask test`", own.display())
    })
}

/// A command for one of Refit's programs, with nothing of the caller's own settings.
///
/// # Errors
/// If it was not built.
pub fn command(name: &str) -> Result<Command> {
    let mut command = Command::new(program(name)?);
    for (variable, _) in env::vars_os() {
        if variable.to_string_lossy().starts_with("REFIT_") {
            command.env_remove(variable);
        }
    }
    command.stdin(Stdio::null());
    Ok(command)
}

/// A running process; ended when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    left_running: bool,
}

impl Process {
    /// Starts a command; what it prints is added to `log`.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start(command: &mut Command, log: &Path) -> Result<Process> {
        let file = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdout(file.try_clone()?)
            .stderr(file)
            // A key pressed at the terminal is for whoever started this, not for it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Process { child, log: log.to_owned(), left_running: false })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// If the system won't say how it ended.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        // Already gone is as good.
        let _ = self.child.kill();
        Ok(self.child.wait()?)
    }

    /// SIGTERM, and waits until it is gone.
    ///
    /// # Errors
    /// If it can't be told, or the system won't say how it ended.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        Ok(self.child.wait()?)
    }

    /// Stops it without ending it, or lets it go on: a host that is frozen.
    ///
    /// # Errors
    /// If it is gone.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Lets it run on when this value is dropped.
    pub fn leave_running(&mut self) {
        self.left_running = true;
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// If it doesn't.
    pub fn ended(&mut self) -> Result<ExitStatus> {
        crate::wait::until("the process ends", || Ok(self.child.try_wait()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.left_running {
            // Nothing is left to report it to.
            let _ = self.kill();
        }
    }
}

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Exit code 0.
    pub success: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// Runs a command to its end.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn of(command: &mut Command) -> Result<Ran> {
        let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Ran::from(output))
    }

    /// Runs a command to its end with this text on its standard input.
    ///
    /// # Errors
    /// If it can't be started, or does not take the text.
    pub fn fed(command: &mut Command, text: &str) -> Result<Ran> {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let taken = child.stdin.take().context("no standard input")?.write_all(text.as_bytes());
        let ran = Ran::from(child.wait_with_output()?);
        // Who hangs up first says why.
        if ran.success {
            taken?;
        }
        Ok(ran)
    }

    /// The output of a command that must succeed.
    ///
    /// # Errors
    /// If it didn't, with what it printed.
    pub fn good(self) -> Result<String> {
        if !self.success {
            bail!("it failed:\n{}{}", self.out, self.err);
        }
        Ok(self.out)
    }

    /// The complaint of a command that must fail.
    ///
    /// # Errors
    /// If it succeeded.
    pub fn refused(self) -> Result<String> {
        if self.success {
            bail!("it succeeded and should not have:\n{}{}", self.out, self.err);
        }
        Ok(self.err)
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ran { success: output.status.success(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// Ends whatever still runs from below `folder`: services outlive the agent that started them.
pub fn end_all_from(folder: &Path) {
    let Ok(folder) = folder.canonicalize() else { return };
    let Ok(processes) = fs::read_dir("/proc") else { return };
    for process in processes.flatten() {
        let id = process.file_name().to_string_lossy().parse::<i32>().ok();
        let program = fs::read_link(process.path().join("exe"));
        if let (Some(id), Ok(program)) = (id, program)
            && program.starts_with(&folder)
            && let Some(id) = Pid::from_raw(id)
        {
            // It may have ended meanwhile.
            let _ = kill_process(id, Signal::KILL);
        }
    }
}
