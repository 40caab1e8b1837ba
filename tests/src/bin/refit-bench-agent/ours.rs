//! A host of a fleet: both halves of the agent as its units start them, a release installed, nothing to do.

use std::{
    fs,
    os::{
        fd::OwnedFd,
        unix::{
            fs::PermissionsExt as _,
            net::{UnixDatagram, UnixListener},
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result};
use refit_tests::{
    process::{Process, Ran},
    release::Behaviour,
    sandbox::{Ring, Sandbox, free_port},
    wait::until,
};

use super::Running;

/// As a ring has it where nobody says otherwise.
const RING: [Ring; 1] = [Ring { name: "pilot", limits: "soak = \"1s\"\npoll = \"30s\"\n" }];

/// Nobody's user and group: the network half has no rights, and owns nothing.
const NOBODY: u32 = 65534;

/// Starts it; the program is copied to this folder, which everybody can look into.
pub(super) fn started(agent: &Path, folder: &Path) -> Result<Running> {
    let shipped = folder.join("refit-agent");
    fs::copy(agent, &shipped).with_context(|| agent.display().to_string())?;
    let agent = shipped.as_path();
    let fleet = Sandbox::new(&RING)?;
    let host = fleet.path().join("bench-1");
    let data = host.join("data");
    fs::create_dir_all(&data)?;
    // The agent is the manager of the one service: under systemd it has less to do.
    let settings = format!(
        "install_root = {:?}\nservices = \"own\"\n\n[variables]\nPORT = \"{}\"\nHOST_FOLDER = {host:?}\n",
        host.join("install"),
        free_port()?,
    );
    fs::write(data.join("agent.toml"), settings)?;
    let token = fleet.token(&["ring=pilot"])?;
    let mut enroll = Command::new(agent);
    enroll.args(["enroll", "--token", &token, "--name", "bench-1", "--data"]).arg(&data);
    Ran::of(&mut enroll)?.good()?;

    let manager = Manager::at(folder)?;
    let (link, whose) = network_half(agent, &host, &manager)?;
    let mut run = Command::new(agent);
    run.args(["run", "--data"]).arg(&data).arg("--link").arg(host.join("link.sock"));
    manager.starts(&mut run, agent, "agent")?;
    let run = Process::start(&mut run, &host.join("agent.log"))?;
    until("the server hears the host", || {
        Ok((!fleet.host_status("bench-1")?["last_seen"].is_null()).then_some(()))
    })?;
    fleet.publish("1.0", Behaviour::Good)?;
    fleet.promote("1.0", "pilot")?;
    fleet.until_rollout("pilot", "1.0", "done")?;
    Ok(Running {
        name: "refit-agent".into(),
        what: format!("connected, one service, nothing to do; network half as {whose}"),
        bytes: fs::metadata(agent)?.len(),
        parts: vec!["root half", "network half"],
        processes: vec![run, link],
        _needs: Vec::new(),
        _fleet: Some(fleet),
    })
}

/// Started as `refit-link.socket` starts it: root's socket as standard input, and a user with no rights. Where
/// this program is not root, the user is its own.
fn network_half(agent: &Path, host: &Path, manager: &Manager) -> Result<(Process, &'static str)> {
    let socket = host.join("link.sock");
    let listener = UnixListener::bind(&socket)?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
    let mut link = Command::new(agent);
    link.arg("link").stdin(OwnedFd::from(listener)).current_dir("/");
    manager.starts(&mut link, agent, "link")?;
    let whose = if rustix::process::geteuid().is_root() {
        link.uid(NOBODY).gid(NOBODY);
        "nobody"
    } else {
        "the same user"
    };
    Ok((Process::start(&mut link, &host.join("link.log"))?, whose))
}

/// What stands in systemd's place: takes the halves' signs of life as often as their units ask for them.
struct Manager {
    address: PathBuf,
}

impl Manager {
    fn at(folder: &Path) -> Result<Manager> {
        let address = folder.join("notify");
        let takes = UnixDatagram::bind(&address)?;
        fs::set_permissions(&address, fs::Permissions::from_mode(0o666))?;
        thread::spawn(move || while takes.recv(&mut [0; 256]).is_ok() {});
        Ok(Manager { address })
    }

    /// Watched, and with the environment, as the unit of this half says.
    fn starts(&self, command: &mut Command, agent: &Path, unit: &str) -> Result<()> {
        let mut print = Command::new(agent);
        let text = Ran::of(print.args(["print-unit", unit]))?.good()?;
        let values = |name: &'static str| text.lines().filter_map(move |it| it.strip_prefix(name));
        let seconds: u64 = values("WatchdogSec=").next().context("it has no watchdog")?.parse()?;
        command.env("NOTIFY_SOCKET", &self.address);
        command.env("WATCHDOG_USEC", (seconds * 1_000_000).to_string());
        let environment = values("Environment=").flat_map(str::split_whitespace);
        command.envs(environment.filter_map(|one| one.split_once('=')));
        Ok(())
    }
}
