//! The systemd units of the agent and of what brings the host back without it, as `refit-agent print-unit`
//! prints them. Texts and no installer: how they get onto a host is the administrator's.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

/// A unit of Refit's on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// `refit-agent.service`: the root half
    Agent,
    /// `refit-link.service`: the network half
    Link,
    /// `refit-link.socket`, on which the root half asks it
    LinkSocket,
    /// `refit-rescue@.service`, of which `refit-rescue@boot` is enabled
    Rescue,
}

/// It is none of the words for units.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is none of {}", Unit::WORDS.join(", "))]
pub struct NoUnit;

impl FromStr for Unit {
    type Err = NoUnit;

    fn from_str(word: &str) -> Result<Unit, NoUnit> {
        match word {
            "agent" => Ok(Unit::Agent),
            "link" => Ok(Unit::Link),
            "link-socket" => Ok(Unit::LinkSocket),
            "rescue" => Ok(Unit::Rescue),
            _ => Err(NoUnit),
        }
    }
}

impl Unit {
    /// What they are called on the command line.
    pub const WORDS: [&str; 4] = ["agent", "link", "link-socket", "rescue"];
    /// The units that run the agent itself. A release of the agent is started in each of them, in this order;
    /// the one of the process that changes the host comes last.
    pub const RUNNING: [Unit; 2] = [Unit::Link, Unit::Agent];
    /// Every unit that starts a program of the agent's release.
    pub const OWN: [Unit; 3] = [Unit::Link, Unit::Agent, Unit::Rescue];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Agent => "refit-agent.service",
            Unit::Link => "refit-link.service",
            Unit::LinkSocket => "refit-link.socket",
            Unit::Rescue => "refit-rescue@.service",
        }
    }

    /// Below the folder of units: where it is said that the unit starts a release of the agent's instead of
    /// the program that it names itself.
    pub fn drop_in(self) -> PathBuf {
        Path::new(&format!("{}.d", self.name())).join("50-refit-release.conf")
    }

    /// What stands there: the same command line, with the programs beside this one. `arguments` are those
    /// that the agent was started with, which are its administrator's.
    pub fn starts(self, program: &Path, data: &Path, arguments: &[String]) -> String {
        let start = match self {
            Unit::Agent => {
                let words = arguments.iter().map(|word| quoted(Path::new(word)));
                let words: Vec<_> = std::iter::once(quoted(program)).chain(words).collect();
                format!("ExecStart={}", words.join(" "))
            }
            Unit::Link | Unit::LinkSocket | Unit::Rescue => {
                let unit = text(self, program, data);
                let start = unit.lines().find(|line| line.starts_with("ExecStart="));
                start.unwrap_or_default().to_owned()
            }
        };
        format!(
            "# Made by refit-agent: the release of the agent that its ring permits. It goes when this host\n\
             # goes back to what its package brought.\n\
             [Service]\n\
             ExecStart=\n\
             {start}\n"
        )
    }
}

/// Where the root half asks the network half. Root's folder, root's socket: PID 1 makes both.
const SOCKET: &str = "/run/refit-link/socket";

/// The root half's unit file. `KillMode=process`: what the agent started for others (services that it
/// supervises itself) ends by the agent's word, never with the agent. The settings are those that stand in
/// no release's way; which it does without, and what each would break, stands in docs/HARDENING.md.
const UNIT: &str = "\
[Unit]
Description=Refit agent: keeps this host on the release that its ring permits
Wants=network-online.target refit-link.socket
After=network-online.target refit-link.socket
# Installed and not enrolled yet: nothing to run, and nothing that failed.
ConditionPathExists=@IDENTITY@
# One that fails again and again in the middle of an update does not bring the host back; what does also
# starts it again, so that however often it fails it is tried again.
StartLimitIntervalSec=300
StartLimitBurst=20
OnFailure=refit-rescue@failed.service

[Service]
Type=notify
NotifyAccess=main
ExecStart=@PROGRAM@ run --data @DATA@ --link @SOCKET@
# What the C library keeps for later would be half of its memory; it mostly sleeps.
Environment=MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=16384 MALLOC_TRIM_THRESHOLD_=16384 MALLOC_TOP_PAD_=4096
Restart=always
RestartSec=5
WatchdogSec=120
TimeoutStopSec=30
KillMode=process
UMask=0022
OOMScoreAdjust=-500

# Nothing here may stand in the way of installing a release.
NoNewPrivileges=no
LockPersonality=yes
RestrictRealtime=yes
ProtectHostname=yes
MemoryDenyWriteExecute=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=~@clock @cpu-emulation @debug @module @obsolete @raw-io @reboot @swap
CapabilityBoundingSet=~CAP_SYS_TIME CAP_WAKE_ALARM CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_BOOT CAP_SYSLOG
CapabilityBoundingSet=~CAP_SYS_PACCT CAP_SYS_TTY_CONFIG CAP_NET_ADMIN CAP_NET_BROADCAST CAP_BLOCK_SUSPEND
CapabilityBoundingSet=~CAP_LEASE CAP_IPC_LOCK CAP_AUDIT_CONTROL CAP_AUDIT_READ CAP_BPF CAP_PERFMON
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK

[Install]
WantedBy=multi-user.target
";

/// The network half's. A user that exists while it runs, no right, no file but the programs of the system:
/// it gets what it calls with from the root half, and keeps it in memory.
const LINK: &str = "\
[Unit]
Description=Refit: the half of the agent that talks to the server, without rights on this host
# It is asked again and again, and comes back each time.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart=@PROGRAM@ link
# What the C library keeps for later would be half of its memory; it mostly sleeps.
Environment=MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=16384 MALLOC_TRIM_THRESHOLD_=16384 MALLOC_TOP_PAD_=4096
StandardInput=socket
StandardOutput=journal
StandardError=journal
Restart=on-failure
RestartSec=1
WatchdogSec=300
TimeoutStopSec=10
OOMScoreAdjust=-100
TasksMax=32
MemoryMax=256M
LimitCORE=0

DynamicUser=yes
User=refit-link
UMask=0077
CapabilityBoundingSet=
AmbientCapabilities=
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
InaccessiblePaths=-@DATA@ -/etc/refit
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
PrivateIPC=yes
PrivateMounts=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
ProcSubset=pid
RestrictNamespaces=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
KeyringMode=private
DevicePolicy=closed
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
";

const LINK_SOCKET: &str = "\
[Unit]
Description=Refit: where root asks the half of the agent that talks to the server

[Socket]
ListenStream=@SOCKET@
SocketMode=0600
DirectoryMode=0700
RemoveOnStop=yes
# However often it is asked, it is started again.
TriggerLimitIntervalSec=0

[Install]
WantedBy=sockets.target
";

/// The rescuer's. It runs before everything that has not said otherwise, products among it, and needs no
/// more than the local file systems.
const RESCUE: &str = "\
[Unit]
Description=Refit: brings this host back from an update if its agent does not (%i)
DefaultDependencies=no
RequiresMountsFor=@DATA@
After=local-fs.target
Before=sysinit.target

[Service]
Type=oneshot
ExecStart=@RESCUE@ %i --data @DATA@
TimeoutStartSec=3600
OOMScoreAdjust=-900

[Install]
DefaultInstance=boot
WantedBy=sysinit.target
";

/// A unit for this agent's program and the data folder that it was asked with: what is printed fits the
/// host that it is printed on.
pub fn text(unit: Unit, program: &Path, data: &Path) -> String {
    let text = match unit {
        Unit::Agent => UNIT,
        Unit::Link => LINK,
        Unit::LinkSocket => LINK_SOCKET,
        Unit::Rescue => RESCUE,
    };
    text.replace("@PROGRAM@", &quoted(program))
        .replace("@RESCUE@", &quoted(&program.with_file_name("refit-rescue")))
        .replace("@IDENTITY@", &rest_of_line(&data.join("identity")))
        .replace("@SOCKET@", SOCKET)
        .replace("@DATA@", &quoted(data))
}

/// A value that takes no quotes: everything up to the end of the line is the path.
fn rest_of_line(path: &Path) -> String {
    path.to_string_lossy().replace('%', "%%")
}

/// A word of a command line, as systemd.service(5) reads it: `%` and `$` would be expanded.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.chars().all(plain) {
        return text.into_owned();
    }
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", escaped.replace('%', "%%").replace('$', "$$"))
}

#[cfg(test)]
mod tests;
