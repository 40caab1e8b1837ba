//! The systemd units of the agent and of what brings the host back without it, as `refit-agent print-unit`
//! prints them. Texts and no installer: how they get onto a host is the administrator's.

use std::path::Path;

/// A unit of Refit's on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Unit {
    /// `refit-agent.service`
    Agent,
    /// `refit-rescue@.service`, of which `refit-rescue@boot` is enabled
    Rescue,
}

/// The agent's unit file. `KillMode=process`: what the agent started for others (services that it supervises
/// itself) ends by the agent's word, never with the agent. The hardening leaves out what an installer needs:
/// writing anywhere in the system, setting owners and modes, starting units.
const UNIT: &str = "\
[Unit]
Description=Refit agent: keeps this host on the release that its ring permits
Wants=network-online.target
After=network-online.target
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
ExecStart=@PROGRAM@ run --data @DATA@
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
ProtectClock=yes
ProtectHostname=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
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
        Unit::Rescue => RESCUE,
    };
    text.replace("@PROGRAM@", &quoted(program))
        .replace("@RESCUE@", &quoted(&program.with_file_name("refit-rescue")))
        .replace("@IDENTITY@", &rest_of_line(&data.join("identity")))
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
mod tests {
    use super::*;

    #[test]
    fn the_unit_starts_the_program_and_the_folder_that_it_was_printed_for() {
        let (program, data) = (Path::new("/usr/local/bin/refit-agent"), Path::new("/data/a b%"));
        let unit = text(Unit::Agent, program, data);
        assert!(
            unit.contains("\nExecStart=/usr/local/bin/refit-agent run --data \"/data/a b%%\"\n"),
            "{unit}"
        );
        assert!(unit.contains("\nConditionPathExists=/data/a b%%/identity\n"), "{unit}");
        let rescue = text(Unit::Rescue, program, data);
        assert!(
            rescue.contains("\nExecStart=/usr/local/bin/refit-rescue %i --data \"/data/a b%%\"\n"),
            "{rescue}"
        );
        for left in ["@PROGRAM@", "@RESCUE@", "@IDENTITY@", "@DATA@"] {
            assert!(!unit.contains(left) && !rescue.contains(left), "{left}");
        }
    }
}
