//! Programs that are run to their end in a bounded time: in a process group of their own, with a
//! bounded output, and with nothing left of them when their turn is over. Also finds processes by the
//! mark that they were started with, so that what a killed agent left behind is not lost.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    io::Read as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

/// How much of a program's output is kept: its end, since that is where the error stands.
pub(super) const OUTPUT_KEPT: usize = 4 * 1024;

/// How long the output may take to end after everything that could write it was killed.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// How often a process is looked at while it is waited for.
const LOOK: Duration = Duration::from_millis(10);

/// The variable by which a process is found again. Its children inherit it.
const MARK: &str = "REFIT_MARK";

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The program: a path, or a name that the system looks up.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// The folder in which it runs.
    pub folder: PathBuf,
    /// Its environment, beside what every program gets.
    pub environment: BTreeMap<String, String>,
    /// By which mark it is found again.
    pub mark: String,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this exit code; `None`: by a signal.
    Exited {
        /// The code.
        code: Option<i32>,
        /// The end of what it wrote.
        output: String,
    },
    /// It took too long and was killed, with everything it had started.
    TimedOut {
        /// The end of what it wrote.
        output: String,
    },
}

impl Program {
    /// The command, not yet started: a process group of its own, and an environment in which nothing of
    /// the agent's is left.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .current_dir(&self.folder)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()))
            .env("LANG", "C.UTF-8")
            .envs(&self.environment)
            .env(MARK, &self.mark)
            .stdin(Stdio::null())
            .process_group(0);
        if let Some(home) =
            std::env::var_os("HOME").filter(|_| !self.environment.contains_key("HOME"))
        {
            command.env("HOME", home);
        }
        command
    }

    /// Runs the program to its end. Whatever it started ends with it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn run(&self, timeout: Duration) -> io::Result<Ended> {
        self.run_keeping(timeout, OUTPUT_KEPT)
    }

    /// The same, with so many bytes of its output kept.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn run_keeping(&self, timeout: Duration, most: usize) -> io::Result<Ended> {
        let (mut reader, writer) = io::pipe()?;
        let mut command = self.command();
        command.stdout(writer.try_clone()?).stderr(writer);
        let mut child = command.spawn()?;
        // It holds the writing ends; the output would never end.
        drop(command);
        let (sender, output) = mpsc::channel();
        thread::spawn(move || sender.send(read_end(&mut reader, most)));
        let status = wait(&mut child, timeout)?;
        kill_group(&child);
        kill_marked(&self.mark)?;
        let output = output.recv_timeout(OUTPUT_GRACE).unwrap_or_default();
        match status {
            Some(status) => Ok(Ended::Exited { code: status.code(), output }),
            None => {
                // Killed just now; this takes its remains away.
                child.wait()?;
                Ok(Ended::TimedOut { output })
            }
        }
    }
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn wait(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(LOOK);
    }
}

/// Reads to the end and keeps the last part.
pub(super) fn read_end(reader: &mut impl io::Read, most: usize) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = reader.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..length]);
        // Not at each piece: what is kept moves then.
        if kept.len() > most * 2 {
            kept.drain(..kept.len() - most);
        }
    }
    // What is no text gets longer as one.
    let text = String::from_utf8_lossy(&kept);
    let text = text.trim();
    text[text.ceil_char_boundary(text.len().saturating_sub(most))..].to_owned()
}

/// The last bytes of a text, from the beginning of a line on where there is one.
pub(crate) fn end_of_text(text: &str, most: usize) -> &str {
    let from = text.ceil_char_boundary(text.len().saturating_sub(most));
    let rest = &text[from..];
    match rest.find('\n') {
        Some(line) if from > 0 && line + 1 < rest.len() => &rest[line + 1..],
        _ => rest,
    }
}

pub(crate) fn kill_group(child: &Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // A group that is gone already is what was wanted.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
}

/// Kills every process with this mark, whatever group or session it has moved to.
///
/// # Errors
/// If one could not be killed.
pub fn kill_marked(mark: &str) -> io::Result<()> {
    // A process may start another while it is looked for; what is killed starts nothing more.
    for _ in 0..100 {
        let found = marked(mark)?;
        if found.is_empty() {
            return Ok(());
        }
        for process in found {
            match rustix::process::kill_process(process.pid(), Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        thread::sleep(LOOK);
    }
    Err(io::Error::other(format!("processes marked {mark} do not end")))
}

/// Every living process with this mark.
///
/// # Errors
/// If processes cannot be listed.
pub fn marked(mark: &str) -> io::Result<Vec<Process>> {
    let line = format!("{MARK}={mark}");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // Gone meanwhile, or another user's: not ours.
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { continue };
        if environment.split(|byte| *byte == 0).any(|entry| entry == line.as_bytes()) {
            found.extend(Process::find(pid));
        }
    }
    Ok(found)
}

/// A living process, told from every other that gets the same number later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pid: i32,
    started: u64,
}

impl Process {
    /// The living process of this number, if there is one. A zombie does not live.
    pub fn find(pid: i32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in brackets and may hold anything, so count from its end.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        // The state is the third field of the line, the start time the 22nd.
        let started = fields.nth(18)?.parse().ok()?;
        Some(Process { pid, started })
    }

    /// The process that was known by these numbers, if it still lives.
    pub fn known(pid: i32, started: u64) -> Option<Process> {
        Process::find(pid).filter(|found| found.started == started)
    }

    /// Its number.
    pub fn number(&self) -> i32 {
        self.pid
    }

    /// When it started, in ticks since the host booted.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// Whether it still lives.
    pub fn lives(&self) -> bool {
        Process::known(self.pid, self.started).is_some()
    }

    /// Sends a signal to it and its process group.
    pub(crate) fn signal(&self, signal: Signal) {
        // Whoever asked looks afterwards whether it lives.
        let _ = rustix::process::kill_process_group(self.pid(), signal);
    }

    pub(crate) fn pid(&self) -> Pid {
        // Numbers of processes are larger than 0: they were read from /proc.
        Pid::from_raw(self.pid).unwrap_or(Pid::INIT)
    }
}

/// The number that this boot of the host has, or nothing where the kernel does not say.
pub(crate) fn boot_id() -> String {
    let read = fs::File::open("/proc/sys/kernel/random/boot_id").and_then(|file| {
        let mut text = String::new();
        file.take(64).read_to_string(&mut text).map(|_| text)
    });
    read.map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Where one of the system's programs stands; looked up once in fixed folders, never in `PATH`.
pub(crate) fn system_program(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, mark: &str) -> Program {
        Program {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            folder: "/".into(),
            environment: BTreeMap::from([("GREETING".into(), "hello".into())]),
            mark: format!("test {} {mark}", std::process::id()),
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_program_is_told_by_its_exit_code_and_the_end_of_its_output() {
        let ended = shell("echo $GREETING; echo no >&2; exit 3", "exit").run(LONG).unwrap();
        assert_eq!(ended, Ended::Exited { code: Some(3), output: "hello\nno".into() });
        let much = shell("seq 100000", "much").run(LONG).unwrap();
        let Ended::Exited { code: Some(0), output } = much else { panic!("{much:?}") };
        assert!(output.len() <= OUTPUT_KEPT && output.ends_with("\n100000"), "the end is kept");
    }

    #[test]
    fn nothing_of_the_agents_environment_is_handed_on() {
        let ended =
            shell("env | cut -d= -f1 | sort | tr '\\n' ' '", "environment").run(LONG).unwrap();
        let Ended::Exited { output, .. } = ended else { panic!("{ended:?}") };
        let known =
            ["GREETING", "HOME", "LANG", "PATH", "PWD", "REFIT_MARK", "SHLVL", "_", "OLDPWD"];
        for name in output.split_whitespace() {
            assert!(known.contains(&name), "{name}");
        }
    }

    /// CVE-2024-39698: no shell comes between the agent and what it starts.
    #[test]
    fn odd_names_reach_a_program_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let odd = [
            "$(touch made)",
            "`touch made`",
            "a b;touch made",
            "-rf",
            "*",
            "'\"\\",
            "%s%n",
            "é\n\tü",
        ];
        for name in odd {
            // As the folder, as the program and as an argument.
            let inside = folder.path().join(format!("in {name}"));
            fs::create_dir(&inside).unwrap();
            let script = inside.join(name);
            fs::write(&script, "#!/bin/sh\nprintf '%s|' \"$@\" \"$REFIT_ODD\"\npwd\n").unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&script, mode).unwrap();
            let program = Program {
                program: script.into(),
                arguments: vec![name.into(), "--".into(), name.into()],
                folder: inside.clone(),
                environment: BTreeMap::from([("REFIT_ODD".into(), name.into())]),
                mark: format!("test {} odd", std::process::id()),
            };
            let ended = program.run(LONG).unwrap();
            let output = format!("{name}|--|{name}|{name}|{}", inside.display());
            assert_eq!(ended, Ended::Exited { code: Some(0), output });
            assert_eq!(fs::read_dir(&inside).unwrap().count(), 1, "{name} was run");
        }
    }

    #[test]
    fn a_program_that_takes_too_long_ends_with_everything_it_started() {
        // One child in its group, one that left the group and the session.
        let program = shell("sleep 600 & setsid sleep 600 & sleep 600", "long");
        let ended = program.run(Duration::from_millis(300)).unwrap();
        assert!(matches!(ended, Ended::TimedOut { .. }), "{ended:?}");
        assert_eq!(marked(&program.mark).unwrap(), []);
    }

    #[test]
    fn a_program_cannot_leave_anything_behind_when_it_ends() {
        let program = shell("setsid sleep 600 & echo started", "daemon");
        let ended = program.run(LONG).unwrap();
        assert_eq!(ended, Ended::Exited { code: Some(0), output: "started".into() });
        assert_eq!(marked(&program.mark).unwrap(), []);
    }

    #[test]
    fn a_process_is_not_taken_for_another_with_the_same_number() {
        let own = Process::find(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.lives());
        assert_eq!(Process::known(own.number(), own.started()), Some(own));
        assert_eq!(Process::known(own.number(), own.started() + 1), None);
    }
}
