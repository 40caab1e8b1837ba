//! One call of a module: two arguments, in its file tree, with its time and nothing left of it afterwards. Under
//! systemd a transient unit with a cgroup of its own and limits on it, elsewhere a process group found again by its
//! mark. Nothing else is taken from it: modules are other people's, and what they touch is what they are for.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

use super::{
    super::{
        boxed::{Limits, bounds, memory_is_limited},
        files::Files,
        process::{Ended, Program, kill_marked, system_program},
    },
    State,
    stream::Stream,
    tree::Part,
};

/// Between the signal that asks a module to end and the one that ends it; the client's own figure.
const TERMINATION: Duration = Duration::from_secs(10);
/// More than a module's own time, for systemd itself.
const SYSTEMD_GRACE: Duration = Duration::from_secs(60);
/// How much of what a module writes is kept, of each of its outputs: the beginning, since an answer stands
/// there; an answer is one line.
const KEPT: u64 = 16 * 1024;
/// How often a module is looked at.
const LOOK: Duration = Duration::from_millis(1);

/// Who is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The module.
    pub module: PathBuf,
    /// Its file tree.
    pub tree: PathBuf,
    /// By which name what runs is found again.
    pub name: String,
    /// Longest time.
    pub timeout: Duration,
    /// Memory of all that it starts, bytes. Under systemd only, as the next.
    pub memory: u64,
    /// Processes and threads at a time.
    pub tasks: u32,
}

/// What a module answers to a query. Nothing is `No`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// `Yes`.
    Yes,
    /// `No`, or nothing.
    No,
    /// `Automatic`.
    Automatic,
}

impl Said {
    /// An answer is one line.
    ///
    /// # Errors
    /// Any other.
    pub(super) fn read(output: &str) -> Result<Said, String> {
        match output.strip_suffix('\n').unwrap_or(output) {
            "Yes" => Ok(Said::Yes),
            "No" | "" => Ok(Said::No),
            "Automatic" => Ok(Said::Automatic),
            other => Err(super::no(other)),
        }
    }
}

/// What calls modules.
#[expect(clippy::missing_errors_doc, reason = "each says how the module ended, where not well")]
pub trait Calls: Send + Sync {
    /// Has it do something.
    fn act(&self, caller: &Caller, state: State) -> Result<(), String>;
    /// Asks it something, and says what it wrote.
    fn query(&self, caller: &Caller, state: State) -> Result<String, String>;
    /// Offers it the payload as streams; `false`: it wants none, and the files are to be stored for it.
    fn download(
        &self,
        files: &dyn Files,
        caller: &Caller,
        state: State,
        payload: &[Part],
    ) -> Result<bool, String>;
    /// What boots the host, with the word `reboot`, on a way back.
    fn boots(&self) -> PathBuf;
    /// What a way back makes a unit for each of its calls by; `None`: it can have none here.
    fn unit_back(&self, caller: &Caller) -> Option<UnitBack>;
    /// Ends what an earlier call has left running.
    fn end(&self, name: &str) -> Result<(), String>;
}

/// How a way back, which has no agent, has systemd make the unit for a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitBack {
    /// Where `systemd-run` stands.
    pub systemd_run: PathBuf,
    /// Its options, beside those that differ from call to call. None holds white space.
    pub options: Vec<String>,
}

/// Calls as processes of this host.
#[derive(Debug, Clone)]
pub enum HostCalls {
    /// As transient units.
    Systemd {
        /// Where `systemd-run` stands.
        systemd_run: PathBuf,
        /// Where `systemctl` stands.
        systemctl: PathBuf,
    },
    /// As processes of the agent.
    Own,
}

impl HostCalls {
    /// Under systemd where it runs and the agent may ask it.
    pub fn find(systemd: bool) -> HostCalls {
        let programs = system_program("systemd-run").zip(system_program("systemctl"));
        match programs.filter(|_| systemd) {
            Some((systemd_run, systemctl)) => HostCalls::Systemd { systemd_run, systemctl },
            None => HostCalls::Own,
        }
    }

    fn program(&self, caller: &Caller, state: State) -> Program {
        let arguments = vec![state.to_string(), caller.tree.display().to_string()];
        let own = Program {
            program: caller.module.clone().into(),
            arguments,
            folder: caller.tree.clone(),
            environment: Default::default(),
            mark: caller.name.clone(),
        };
        match self {
            HostCalls::Own => own,
            HostCalls::Systemd { systemd_run, .. } => transient(systemd_run, caller, &own),
        }
    }

    fn longest(&self, caller: &Caller) -> Duration {
        match self {
            HostCalls::Own => caller.timeout,
            HostCalls::Systemd { .. } => caller.timeout.saturating_add(SYSTEMD_GRACE),
        }
    }

    /// Runs it to its end; `beside` is done meanwhile, again and again, and says whether it got on.
    fn run(
        &self,
        caller: &Caller,
        state: State,
        mut beside: impl FnMut() -> Result<bool, String>,
    ) -> Result<Output, String> {
        self.end(&caller.name)?;
        let program = self.program(caller, state);
        let mut command = program.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("it does not start: {error}"))?;
        let (out, err) = (read(child.stdout.take()), read(child.stderr.take()));
        let waited = wait(&mut child, self.longest(caller), &mut beside);
        // Whatever it left running ends with it.
        kill_group(&child, Signal::KILL);
        self.end(&caller.name)?;
        let text = |reader: JoinHandle<Vec<u8>>| {
            String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
        };
        let output = Output { out: text(out), err: text(err) };
        let said = output.said();
        tracing::info!(module = %caller.name, %state, "{said}");
        match waited? {
            Some(0) => Ok(output),
            Some(code) => Err(format!("it ended with {code}: {said}")),
            None => Err(format!("it was ended by a signal: {said}")),
        }
    }
}

struct Output {
    out: String,
    err: String,
}

impl Output {
    fn said(&self) -> String {
        [self.out.trim(), self.err.trim()].join("\n").trim().to_owned()
    }
}

/// Waits for its end; `None`: by a signal.
fn wait(
    child: &mut Child,
    longest: Duration,
    beside: &mut dyn FnMut() -> Result<bool, String>,
) -> Result<Option<i32>, String> {
    let until = Instant::now() + longest;
    loop {
        let looked = child.try_wait().map_err(|error| error.to_string())?;
        if let Some(status) = looked {
            return Ok(status.code());
        }
        let failed = match beside() {
            Ok(true) => continue,
            Ok(false) if Instant::now() < until => {
                thread::sleep(LOOK);
                continue;
            }
            Ok(false) => format!("it took longer than {} s", longest.as_secs()),
            Err(why) => why,
        };
        terminate(child)?;
        return Err(failed);
    }
}

fn terminate(child: &mut Child) -> Result<(), String> {
    kill_group(child, Signal::TERM);
    let until = Instant::now() + TERMINATION;
    while Instant::now() < until {
        if child.try_wait().map_err(|error| error.to_string())?.is_some() {
            return Ok(());
        }
        thread::sleep(LOOK);
    }
    kill_group(child, Signal::KILL);
    child.wait().map(drop).map_err(|error| error.to_string())
}

fn kill_group(child: &Child, signal: Signal) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // A group that is gone already is what was wanted.
        let _ = rustix::process::kill_process_group(group, signal);
    }
}

fn read(from: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut kept = Vec::new();
        if let Some(mut from) = from {
            // What was read until then counts.
            let _ = from.by_ref().take(KEPT).read_to_end(&mut kept);
            // To the end all the same, so that nobody waits for a reader.
            let _ = io::copy(&mut from, &mut io::sink());
        }
        kept
    })
}

impl Calls for HostCalls {
    fn act(&self, caller: &Caller, state: State) -> Result<(), String> {
        self.run(caller, state, || Ok(false)).map(drop)
    }

    fn query(&self, caller: &Caller, state: State) -> Result<String, String> {
        self.run(caller, state, || Ok(false)).map(|output| output.out)
    }

    fn download(
        &self,
        files: &dyn Files,
        caller: &Caller,
        state: State,
        payload: &[Part],
    ) -> Result<bool, String> {
        let with_sizes = state == State::DownloadWithFileSizes;
        let mut stream = Stream::offer(files, &caller.tree, payload, with_sizes)?;
        let ran = self.run(caller, state, || stream.go_on());
        let streamed = stream.end();
        ran.and(streamed)
    }

    fn boots(&self) -> PathBuf {
        match self {
            HostCalls::Systemd { systemctl, .. } => systemctl.clone(),
            // Nobody can be asked.
            HostCalls::Own => "/bin/false".into(),
        }
    }

    fn unit_back(&self, caller: &Caller) -> Option<UnitBack> {
        match self {
            HostCalls::Systemd { systemd_run, .. } => {
                Some(UnitBack { systemd_run: systemd_run.clone(), options: back(caller) })
            }
            HostCalls::Own => None,
        }
    }

    fn end(&self, name: &str) -> Result<(), String> {
        let ended = match self {
            HostCalls::Own => kill_marked(name),
            HostCalls::Systemd { systemctl, .. } => end_unit(systemctl, name),
        };
        ended.map_err(|error| format!("what it left running can't be ended: {error}"))
    }
}

/// Ends a transient unit of an earlier call. One that does not exist is ended already.
fn end_unit(systemctl: &Path, name: &str) -> io::Result<()> {
    for action in ["stop", "reset-failed"] {
        let program = Program {
            program: systemctl.into(),
            arguments: vec![action.into(), "--no-pager".into(), "--".into(), unit(name)],
            folder: "/".into(),
            environment: Default::default(),
            mark: format!("{action} {name}"),
        };
        if let Ended::TimedOut { output } = program.run(SYSTEMD_GRACE)? {
            return Err(io::Error::other(output));
        }
    }
    Ok(())
}

/// The unit in which a module runs.
pub(super) fn unit(name: &str) -> String {
    format!("{name}.service")
}

/// A word of a command as systemd takes it for what it is: else it puts its variables in place of `$NAME`.
pub(super) fn word(text: &str) -> String {
    text.replace('$', "$$")
}

/// What each call's unit has, on the way forward and on the way back.
fn limits(caller: &Caller) -> impl Iterator<Item = String> {
    let seconds = u32::try_from(caller.timeout.as_secs()).unwrap_or(u32::MAX);
    let limits = Limits { seconds, memory: caller.memory, tasks: caller.tasks };
    let bounds = bounds(limits, TERMINATION.as_secs(), memory_is_limited());
    bounds.into_iter().map(|bound| format!("--property={bound}"))
}

fn transient(systemd_run: &Path, caller: &Caller, own: &Program) -> Program {
    let mut arguments: Vec<String> = vec![
        "--wait".into(),
        "--pipe".into(),
        "--collect".into(),
        "--quiet".into(),
        "--service-type=exec".into(),
        format!("--unit={}", caller.name),
        format!("--property=RuntimeMaxSec={}", caller.timeout.as_secs()),
        format!("--working-directory={}", own.folder.display()),
    ];
    arguments.extend(limits(caller));
    arguments.extend(["--".into(), own.program.to_string_lossy().into_owned()]);
    arguments.extend(own.arguments.iter().map(|argument| word(argument)));
    Program {
        program: systemd_run.into(),
        arguments,
        folder: "/".into(),
        environment: Default::default(),
        mark: format!("run {}", caller.name),
    }
}

/// Without `--wait` and `--pipe`, which need a D-Bus: a way back is to go without. Who starts a unit of this
/// type waits for its end all the same. It may start before the host has booted, as the rescuer does; and a host
/// that goes down does not end it before its caller, which would take that for the module's answer.
fn back(caller: &Caller) -> Vec<String> {
    let own = [
        "--quiet".to_owned(),
        "--no-ask-password".into(),
        "--service-type=oneshot".into(),
        "--remain-after-exit".into(),
        format!("--unit={}", unit(&caller.name)),
        format!("--property=TimeoutStartSec={}", caller.timeout.as_secs()),
        "--property=DefaultDependencies=no".into(),
    ];
    own.into_iter().chain(limits(caller)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Caller {
        Caller {
            module: "/usr/share/mender/modules/v3/a $b".into(),
            tree: "/var/lib/refit $agent/tree".into(),
            name: "refit-module-i1-payments".into(),
            timeout: Duration::from_secs(120),
            memory: 64 << 20,
            tasks: 7,
        }
    }

    fn systemd() -> HostCalls {
        HostCalls::Systemd { systemd_run: "/run".into(), systemctl: "/control".into() }
    }

    #[test]
    fn a_call_on_the_way_back_has_the_limits_of_one_on_the_way_forward() {
        let forward = systemd().program(&caller(), State::ArtifactInstall).arguments;
        let back = systemd().unit_back(&caller()).unwrap().options;
        let both: Vec<_> = limits(&caller()).collect();
        assert!(both.contains(&"--property=MemoryMax=67108864".into()), "{both:?}");
        for limit in &both {
            assert!(forward.contains(limit) && back.contains(limit), "{limit}");
        }
        assert!(forward.contains(&"--property=RuntimeMaxSec=120".into()), "{forward:?}");
        assert!(back.contains(&"--property=TimeoutStartSec=120".into()), "{back:?}");
        // The way back hands them on in one word.
        assert!(!back.concat().contains(char::is_whitespace), "{back:?}");
        assert_eq!(HostCalls::Own.unit_back(&caller()), None);
    }

    #[test]
    fn systemd_puts_no_variable_in_place_of_a_word() {
        let forward = systemd().program(&caller(), State::Cleanup).arguments;
        assert_eq!(forward.last().unwrap(), "/var/lib/refit $$agent/tree");
    }
}
