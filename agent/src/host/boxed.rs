//! A program in a unit of its own: what it may take, where it may write, whom it may reach. Decides which
//! of systemd's settings that comes to, and reads from systemd how the program ended. What a program is
//! given is decided by who runs it; why each setting is there stands in docs/decisions/0033-box.md.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::process::{Ended, Program, system_program};

/// How much of a boxed program's output is kept: its end, since that is where the error stands.
pub const OUTPUT_KEPT: usize = 64 << 10;

/// More than a program's own time: systemd ends it first, and this is for systemd itself.
const GRACE: Duration = Duration::from_secs(30);

/// How long what is told to end may take before it is killed, seconds.
const STOPPING: u64 = 5;

/// What all of a program may take together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Time, seconds.
    pub seconds: u32,
    /// Memory, bytes; none of it swapped.
    pub memory: u64,
    /// Processes and threads at a time.
    pub tasks: u32,
}

/// What keeps a program from the rest of the host. The whole system is read-only but for what is named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walls {
    /// What it may write; what is not there is left out.
    pub writes: Vec<PathBuf>,
    /// What it may not write, also inside of the former.
    pub read_only: Vec<PathBuf>,
    /// What it can't even see.
    pub hidden: Vec<PathBuf>,
    /// It has the host's network; else it is alone, with a loopback of its own.
    pub network: bool,
    /// It may ask the host's service manager.
    pub systemd: bool,
}

/// A program and its box.
#[derive(Debug, Clone)]
pub struct Boxed {
    /// The program.
    pub program: Program,
    /// What it may take.
    pub limits: Limits,
    /// What it is kept from; `None`: nothing.
    pub walls: Option<Walls>,
}

/// How a boxed program ended.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", tag = "how")]
pub enum End {
    /// Well.
    Good,
    /// By itself, with this exit code.
    Failed {
        /// The code.
        code: i32,
    },
    /// By a signal.
    Killed {
        /// Its number, where it is known.
        signal: Option<i32>,
    },
    /// It took too long.
    TimedOut,
    /// It took too much memory.
    OutOfMemory,
    /// It was not started.
    NotStarted {
        /// Why.
        why: String,
    },
}

/// The systemd that boxes are made by.
#[derive(Debug, Clone)]
pub struct Systemd {
    /// Where `systemd-run` stands.
    pub run: PathBuf,
    /// Where `systemctl` stands.
    pub control: PathBuf,
}

impl Systemd {
    /// The one of this host.
    pub fn find() -> Option<Systemd> {
        let (run, control) = system_program("systemd-run").zip(system_program("systemctl"))?;
        Some(Systemd { run, control })
    }

    /// Runs a program as the unit `name`.service, to its end and that of all that it started. One of an
    /// earlier try is ended first. Says how it ended, and the end of what it wrote.
    ///
    /// # Errors
    /// If systemd can't be asked.
    pub fn run(&self, name: &str, boxed: &Boxed) -> io::Result<(End, String)> {
        self.end(name)?;
        let longest = Duration::from_secs(boxed.limits.seconds.into()).saturating_add(GRACE);
        let ran = Program {
            program: self.run.clone().into(),
            arguments: arguments(name, boxed, memory_is_limited()),
            folder: "/".into(),
            environment: Default::default(),
            mark: format!("run {name}"),
        };
        let (end, output) = match ran.run_keeping(longest, OUTPUT_KEPT)? {
            Ended::Exited { code: Some(0), output } => return Ok((End::Good, output)),
            Ended::Exited { output, .. } => (self.how_it_ended(name, &output)?, output),
            Ended::TimedOut { output } => (End::TimedOut, output),
        };
        self.end(name)?;
        Ok((end, output))
    }

    /// Ends the unit, if there is one, and makes systemd forget it.
    ///
    /// # Errors
    /// If systemd can't be asked.
    pub fn end(&self, name: &str) -> io::Result<()> {
        for action in ["stop", "reset-failed"] {
            self.ask(&[action, "--no-pager", "--", &format!("{name}.service")])?;
        }
        Ok(())
    }

    fn how_it_ended(&self, name: &str, output: &str) -> io::Result<End> {
        let shown = "--property=Result,ExecMainStatus";
        let unit = format!("{name}.service");
        Ok(end_of(&self.ask(&["show", "--no-pager", shown, "--", &unit])?, output))
    }

    fn ask(&self, words: &[&str]) -> io::Result<String> {
        let program = Program {
            program: self.control.clone().into(),
            arguments: words.iter().map(|word| (*word).to_owned()).collect(),
            folder: "/".into(),
            environment: Default::default(),
            mark: words.join(" "),
        };
        Ok(match program.run(GRACE)? {
            Ended::Exited { output, .. } | Ended::TimedOut { output } => output,
        })
    }
}

/// How a unit ended, by what `systemctl show` says of it. A unit that was never made is a success to it.
fn end_of(shown: &str, output: &str) -> End {
    let value = |name: &str| {
        shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or("")
    };
    let status = value("ExecMainStatus").parse().ok();
    match value("Result") {
        "exit-code" => End::Failed { code: status.unwrap_or(-1) },
        "timeout" => End::TimedOut,
        "oom-kill" => End::OutOfMemory,
        "signal" | "core-dump" | "watchdog" => End::Killed { signal: status },
        _ => End::NotStarted { why: output.to_owned() },
    }
}

/// What a program in walls is left of root's rights: those that change files and processes of its own.
/// Without the others it can't undo its walls: mount, load modules, write devices, look into processes
/// outside, open files by handle.
const CAPABILITIES: &str = "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID \
     CAP_SETUID CAP_SETPCAP CAP_SETFCAP CAP_LEASE CAP_IPC_OWNER CAP_IPC_LOCK CAP_SYS_CHROOT CAP_SYS_NICE \
     CAP_AUDIT_WRITE CAP_NET_BIND_SERVICE";
/// And with a network.
const CAPABILITIES_OF_NETWORK: &str = "CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BROADCAST";

/// Where the service manager listens. Root that may ask it may do everything.
const MANAGER: [&str; 2] = ["/run/systemd/private", "/run/dbus/system_bus_socket"];

/// What has the same effect for every program in walls.
const ALWAYS: [&str; 16] = [
    "ProtectSystem=strict",
    "ProtectHome=read-only",
    "PrivateDevices=yes",
    "NoNewPrivileges=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "RestrictSUIDSGID=yes",
    "RestrictRealtime=yes",
    "RestrictNamespaces=yes",
    "LockPersonality=yes",
    "KeyringMode=private",
    "UMask=0022",
];

/// What every unit of a stranger's program has, however it is started: so much memory and so many processes
/// in all, and a clean end of all that it started, `stopping` seconds after it was told to. Its time is not among
/// it: which setting that is goes by the kind of the unit.
pub(super) fn bounds(limits: Limits, stopping: u64, memory_is_limited: bool) -> Vec<String> {
    let Limits { seconds: _, memory, tasks } = limits;
    let mut set = vec![
        format!("TimeoutStopSec={stopping}"),
        "KillMode=control-group".into(),
        "SendSIGKILL=yes".into(),
        format!("MemoryMax={memory}"),
        "MemorySwapMax=0".into(),
        "OOMPolicy=kill".into(),
        format!("TasksMax={tasks}"),
        "LimitCORE=0".into(),
    ];
    if !memory_is_limited {
        // Each process by itself then: less than is meant, and more than nothing.
        set.push(format!("LimitDATA={memory}"));
    }
    set
}

/// The command line of `systemd-run`.
fn arguments(name: &str, boxed: &Boxed, memory_is_limited: bool) -> Vec<String> {
    let Boxed { program, limits, walls } = boxed;
    let mut words: Vec<String> =
        ["--quiet", "--wait", "--pipe", "--service-type=exec"].map(str::to_owned).into();
    words.push(format!("--unit={name}"));
    words.push(format!("--working-directory={}", program.folder.display()));
    let mut set = |property: String| words.push(format!("--property={property}"));
    set(format!("RuntimeMaxSec={}", limits.seconds));
    for property in bounds(*limits, STOPPING, memory_is_limited) {
        set(property);
    }
    for property in walls.iter().flat_map(Walls::properties) {
        set(property);
    }
    let environment = program.environment.iter();
    words.extend(environment.map(|(key, value)| format!("--setenv={key}={value}")));
    words.push("--".into());
    words.push(program.program.to_string_lossy().into_owned());
    // systemd puts its variables in place of `$NAME`, and a `$` in place of two.
    words.extend(program.arguments.iter().map(|word| word.replace('$', "$$")));
    words
}

impl Walls {
    fn properties(&self) -> Vec<String> {
        let mut set: Vec<String> = ALWAYS.map(str::to_owned).into();
        let of_network = if self.network { CAPABILITIES_OF_NETWORK } else { "" };
        set.push(format!("CapabilityBoundingSet={CAPABILITIES} {of_network}"));
        if !self.network {
            set.push("PrivateNetwork=yes".into());
        }
        let shared = [Path::new("/tmp"), Path::new("/var/tmp")];
        if !self.writes.iter().any(|path| shared.iter().any(|tmp| path.starts_with(tmp))) {
            set.push("PrivateTmp=yes".into());
        }
        // Of its own file system, so that it has to be named. Of two settings of one path the stricter holds.
        let run = PathBuf::from("/run");
        if !self.writes.contains(&run) {
            set.push(paths("ReadOnlyPaths", &[run]));
        }
        for path in &self.read_only {
            set.push(paths("ReadOnlyPaths", std::slice::from_ref(path)));
        }
        for path in &self.writes {
            set.push(paths("ReadWritePaths", std::slice::from_ref(path)));
        }
        let manager = MANAGER.map(PathBuf::from);
        let closed = if self.systemd { &[][..] } else { &manager[..] };
        for path in self.hidden.iter().chain(closed) {
            set.push(paths("InaccessiblePaths", std::slice::from_ref(path)));
        }
        set
    }
}

/// A setting of paths, quoted as systemd reads it; what is not there is left out.
fn paths(setting: &str, paths: &[PathBuf]) -> String {
    let quoted = |path: &PathBuf| {
        let text = path.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
        format!("\"-{text}\"")
    };
    format!("{setting}={}", paths.iter().map(quoted).collect::<Vec<_>>().join(" "))
}

/// Whether systemd can limit a unit's memory here: not in a container that was given none of the kernel's
/// controllers.
pub(super) fn memory_is_limited() -> bool {
    let root = Path::new("/sys/fs/cgroup");
    if let Ok(controllers) = fs::read_to_string(root.join("cgroup.controllers")) {
        return controllers.split_whitespace().any(|controller| controller == "memory");
    }
    let mounted = rustix::fs::statvfs(root.join("memory"));
    mounted.is_ok_and(|mounted| !mounted.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

#[cfg(test)]
mod tests;
