//! The systemd unit of the agent, as `refit-agent print-unit` prints it. A text and no installer: how it
//! gets onto a host is the administrator's.

use std::path::Path;

/// The unit file. `KillMode=process`: what the agent started for others (services that it supervises
/// itself) ends by the agent's word, never with the agent. The hardening leaves out what an installer needs:
/// writing anywhere in the system, setting owners and modes, starting units.
const UNIT: &str = "\
[Unit]
Description=Refit agent: keeps this host on the release that its ring permits
Wants=network-online.target
After=network-online.target
# However often it fails, it is tried again: there is nobody else to bring the host back.
StartLimitIntervalSec=0

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

/// The unit of the agent that this program is, for the data folder that it was asked with: what is
/// printed fits the host that it is printed on.
pub fn text(program: &Path, data: &Path) -> String {
    UNIT.replace("@PROGRAM@", &quoted(program)).replace("@DATA@", &quoted(data))
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
        let unit = text(Path::new("/usr/local/bin/refit-agent"), Path::new("/data/a b%"));
        assert!(
            unit.contains("\nExecStart=/usr/local/bin/refit-agent run --data \"/data/a b%%\"\n"),
            "{unit}"
        );
        assert!(!unit.contains('@'), "{unit}");
    }
}
