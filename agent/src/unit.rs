//! The systemd unit of the agent, as `refit-agent print-unit` prints it. A text and no installer: how it
//! gets onto a host is the administrator's.

/// The unit file. `KillMode=process`: what the agent started for others (services that it supervises
/// itself) ends by the agent's word, never with the agent. The hardening leaves out what an installer needs:
/// writing anywhere in the system, setting owners and modes, starting units.
pub const UNIT: &str = "\
[Unit]
Description=Refit agent: keeps this host on the release that its ring permits
Documentation=man:refit-agent(8)
Wants=network-online.target
After=network-online.target
# However often it fails, it is tried again: there is nobody else to bring the host back.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart=/usr/bin/refit-agent run
Restart=always
RestartSec=5
WatchdogSec=120
TimeoutStopSec=30
KillMode=process
StateDirectory=refit-agent
StateDirectoryMode=0700
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
