//! How light the agent is: its size on the disk, its memory when it is idle and connected, and how often it
//! wakes up; beside the same of updaters from Debian, measured in the same run. `cargo xtask bench agent`
//! builds what this needs and calls it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use refit_tests::{
    process::{Process, Ran},
    sandbox::{Ring, Sandbox},
    wait::until,
};

/// How light the agent is.
#[derive(Parser)]
struct Arguments {
    /// The agent as it is shipped.
    #[arg(long)]
    agent: PathBuf,
    /// For how long to count wake-ups, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// For how long to let everything come to rest before, in seconds.
    #[arg(long, default_value_t = 75)]
    rest: u32,
}

/// As a ring has it where nobody says otherwise.
const RING: [Ring; 1] = [Ring { name: "pilot", limits: "soak = \"1s\"\npoll = \"30s\"\n" }];

/// What is measured beside it.
struct Peer {
    package: &'static str,
    program: &'static str,
    what: &'static str,
}

const PEERS: [Peer; 3] = [
    Peer {
        package: "mender-client",
        program: "usr/bin/mender",
        what: "daemon, its server away, polls every 30 minutes",
    },
    Peer {
        package: "swupdate",
        program: "usr/bin/swupdate",
        what: "suricatta for hawkBit, its server away, polls every 45 s",
    },
    Peer { package: "rauc", program: "usr/bin/rauc", what: "D-Bus service, no network client" },
];

/// One line of the table.
struct Measured {
    name: String,
    what: String,
    bytes: u64,
    processes: Vec<(u32, Usage)>,
}

/// What the processes of a program use.
#[derive(Clone, Copy)]
struct Usage {
    pss_kb: u64,
    threads: u64,
    wakes: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut running = vec![ours(&arguments.agent)?];
    let folder = tempfile::Builder::new().prefix("refit-bench-").tempdir()?;
    for peer in PEERS {
        match started(&peer, folder.path()) {
            Ok(peer) => running.push(peer),
            Err(error) => println!("not measured: {} ({error:#})", peer.package),
        }
    }
    eprintln!("at rest for {} s, then counting for {} s ...", arguments.rest, arguments.seconds);
    thread::sleep(Duration::from_secs(arguments.rest.into()));
    let before: Vec<BTreeMap<u32, u64>> = running.iter().map(Running::wakes).collect();
    thread::sleep(Duration::from_secs(arguments.seconds.into()));
    let mut lines = Vec::new();
    for (running, before) in running.iter_mut().zip(&before) {
        lines.push(running.measured(before, arguments.seconds)?);
    }
    print(&lines);
    Ok(())
}

/// What runs, and what must stay for it.
struct Running {
    name: String,
    what: String,
    bytes: u64,
    processes: Vec<Process>,
    _fleet: Option<Sandbox>,
}

/// A host of a fleet, connected, with a release installed and nothing to do.
fn ours(agent: &Path) -> Result<Running> {
    let fleet = Sandbox::new(&RING)?;
    let host = fleet.path().join("bench-1");
    let data = host.join("data");
    fs::create_dir_all(&data)?;
    // Under systemd the agent watches no service of its own; here it has none.
    let settings = format!("install_root = {:?}\nservices = \"own\"\n", host.join("install"));
    fs::write(data.join("agent.toml"), settings)?;
    let token = fleet.token(&["ring=pilot"])?;
    let mut enroll = Command::new(agent);
    enroll.args(["enroll", "--token", &token, "--name", "bench-1", "--data"]).arg(&data);
    Ran::of(&mut enroll)?.good()?;
    let socket = host.join("link.sock");
    let mut link = Command::new(agent);
    let link =
        Process::start(link.args(["link", "--socket"]).arg(&socket), &host.join("link.log"))?;
    let mut run = Command::new(agent);
    run.args(["run", "--data"]).arg(&data).arg("--link").arg(&socket);
    let run = Process::start(&mut run, &host.join("agent.log"))?;
    until("the server hears the host", || {
        Ok((!fleet.host_status("bench-1")?["last_seen"].is_null()).then_some(()))
    })?;
    Ok(Running {
        name: "refit-agent".into(),
        what: "both halves, connected, nothing to do, polls every 30 s".into(),
        bytes: fs::metadata(agent)?.len(),
        processes: vec![run, link],
        _fleet: Some(fleet),
    })
}

/// A program of Debian's, from its package and those of its libraries, unpacked and not installed.
fn started(peer: &Peer, folder: &Path) -> Result<Running> {
    let root = unpacked(peer.package, folder)?;
    let program = root.join(peer.program);
    let bytes = fs::metadata(&program).with_context(|| program.display().to_string())?.len();
    let libraries = ["usr/lib", "lib"].map(|lib| root.join(lib).join(triplet()));
    let libraries: Vec<_> = libraries.iter().map(|path| path.display().to_string()).collect();
    let data = folder.join(format!("{}-data", peer.package));
    fs::create_dir_all(&data)?;
    let mut command = Command::new(&program);
    let mut processes = Vec::new();
    match peer.package {
        "mender-client" => {
            let settings = data.join("mender.conf");
            fs::write(
                &settings,
                r#"{"ServerURL":"https://127.0.0.1:9","UpdatePollIntervalSeconds":1800,
                "InventoryPollIntervalSeconds":28800,"DBus":{"Enabled":false}}"#,
            )?;
            command.arg("--config").arg(settings).arg("--data").arg(&data).arg("daemon");
        }
        "swupdate" => {
            let key = data.join("key.pem");
            let mut make = Command::new("openssl");
            // Debian's takes signed messages: it wants a certificate.
            make.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=bench"]);
            make.args(["-addext", "extendedKeyUsage=emailProtection", "-out"]).arg(&key);
            Ran::of(make.arg("-keyout").arg(data.join("private.pem")))?.good()?;
            command.arg("-k").arg(key).args(["-u", "-t DEFAULT -u http://127.0.0.1:9 -i bench"]);
            command.env("TMPDIR", &data);
        }
        _ => {
            let bus = private_bus(&data)?;
            processes.push(bus);
            let settings = data.join("system.conf");
            fs::write(
                &settings,
                "[system]\ncompatible=bench\nbootloader=noop\n[keyring]\n\
                 path=/etc/ssl/certs/ca-certificates.crt\n[slot.rootfs.0]\ndevice=/dev/null\n\
                 bootname=A\n",
            )?;
            command.arg(format!("--conf={}", settings.display()));
            command.args(["--override-boot-slot=A", "service"]);
            let address = format!("unix:path={}", data.join("bus").display());
            command.env("DBUS_SYSTEM_BUS_ADDRESS", address);
        }
    }
    command.env("LD_LIBRARY_PATH", libraries.join(":")).current_dir(&data).stdin(Stdio::null());
    let log = data.join("log");
    let mut process = Process::start(&mut command, &log)?;
    thread::sleep(Duration::from_secs(5));
    ensure!(process.runs(), "it ended: {}", process.log().lines().last().unwrap_or_default());
    // The bus that it is asked on is not part of it, and is measured last: it is left out by order.
    processes.insert(0, process);
    let version = version(peer.package)?;
    Ok(Running {
        name: format!("{} {version}", peer.package),
        what: peer.what.into(),
        bytes,
        processes,
        _fleet: None,
    })
}

fn private_bus(data: &Path) -> Result<Process> {
    let settings = data.join("bus.conf");
    let text = format!(
        "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
         \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n<busconfig><type>system\
         </type><listen>unix:path={}</listen><policy context=\"default\"><allow \
         send_destination=\"*\"/><allow own=\"*\"/><allow receive_sender=\"*\"/></policy></busconfig>",
        data.join("bus").display()
    );
    fs::write(&settings, text)?;
    let mut bus = Command::new("dbus-daemon");
    bus.arg(format!("--config-file={}", settings.display())).arg("--nofork");
    let bus = Process::start(&mut bus, &data.join("bus.log"))?;
    until("the private bus is there", || Ok(data.join("bus").exists().then_some(())))?;
    Ok(bus)
}

/// The package and the libraries that it needs, in one folder.
fn unpacked(package: &str, folder: &Path) -> Result<PathBuf> {
    let (packages, root) = (folder.join(format!("{package}-debs")), folder.join(package));
    fs::create_dir_all(&packages)?;
    let mut needs = Command::new("apt-cache");
    needs.args(["depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts"]);
    needs.args(["--no-breaks", "--no-replaces", "--no-enhances", package]);
    let needs = Ran::of(&mut needs)?.good()?;
    let mut names: Vec<&str> = needs.lines().filter(|line| line.starts_with("lib")).collect();
    names.push(package);
    names.sort_unstable();
    names.dedup();
    let mut download = Command::new("apt-get");
    Ran::of(download.current_dir(&packages).args(["-qq", "download"]).args(names))?.good()?;
    for deb in fs::read_dir(&packages)? {
        let mut unpack = Command::new("dpkg-deb");
        Ran::of(unpack.arg("-x").arg(deb?.path()).arg(&root))?.good()?;
    }
    Ok(root)
}

fn version(package: &str) -> Result<String> {
    let mut show = Command::new("apt-cache");
    let shown = Ran::of(show.args(["show", "--no-all-versions", package]))?.good()?;
    let version = shown.lines().find_map(|line| line.strip_prefix("Version: "));
    Ok(version.unwrap_or("?").to_owned())
}

fn triplet() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}

impl Running {
    /// Its own processes, with what they have started of themselves; a bus that it needs is not one.
    fn ids(&self) -> Vec<u32> {
        let own = self.processes.iter().filter(|process| !is(process.id(), "dbus-daemon"));
        let mut ids: Vec<u32> = own.map(Process::id).collect();
        let mut at = 0;
        while let Some(id) = ids.get(at).copied() {
            let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
            let children = children.unwrap_or_default();
            let same = |child: &u32| program(*child) == program(id);
            ids.extend(
                children.split_whitespace().filter_map(|child| child.parse().ok()).filter(same),
            );
            at += 1;
        }
        ids
    }

    fn wakes(&self) -> BTreeMap<u32, u64> {
        self.ids().into_iter().map(|id| (id, wakes(id))).collect()
    }

    fn measured(&mut self, before: &BTreeMap<u32, u64>, seconds: u32) -> Result<Measured> {
        for process in &mut self.processes {
            ensure!(process.runs(), "{} ended: {}", self.name, process.log());
        }
        let mut processes = Vec::new();
        for id in self.ids() {
            let woken = wakes(id).saturating_sub(before.get(&id).copied().unwrap_or(0));
            let wakes = woken * 60 / u64::from(seconds);
            let pss_kb = field(&format!("/proc/{id}/smaps_rollup"), "Pss:")?;
            let threads = field(&format!("/proc/{id}/status"), "Threads:")?;
            processes.push((id, Usage { pss_kb, threads, wakes }));
        }
        let (name, what) = (self.name.clone(), self.what.clone());
        Ok(Measured { name, what, bytes: self.bytes, processes })
    }
}

fn program(id: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{id}/exe")).ok()
}

fn is(id: u32, name: &str) -> bool {
    program(id).is_some_and(|path| path.file_name().is_some_and(|file| file == name))
}

/// How often the threads of a process went to sleep by themselves so far: each time something woke them.
fn wakes(id: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let of = |task: PathBuf| {
        let status = task.join("status").display().to_string();
        field(&status, "voluntary_ctxt_switches:").unwrap_or(0)
    };
    tasks.map(|task| of(task.path())).sum()
}

fn field(file: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(file).with_context(|| file.to_owned())?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let line = line.with_context(|| format!("{file} has no {name}"))?;
    Ok(line.split_whitespace().next().context("nothing")?.parse()?)
}

fn print(lines: &[Measured]) {
    println!(
        "{:<34} {:>10} {:>10} {:>9} {:>8} {:>11}",
        "program", "file MB", "PSS MB", "processes", "threads", "wakes/min"
    );
    let mb = |bytes: u64| bytes as f64 / 1e6;
    for line in lines {
        let sum = |of: fn(&Usage) -> u64| line.processes.iter().map(|(_, it)| of(it)).sum::<u64>();
        println!(
            "{:<34} {:>10.2} {:>10.2} {:>9} {:>8} {:>11}   {}",
            line.name,
            mb(line.bytes),
            mb(sum(|it| it.pss_kb) * 1024),
            line.processes.len(),
            sum(|it| it.threads),
            sum(|it| it.wakes),
            line.what
        );
        if line.processes.len() > 1 {
            for (number, (_, it)) in line.processes.iter().enumerate() {
                let half = match (line.name.as_str(), number) {
                    ("refit-agent", 0) => "  root half".to_owned(),
                    ("refit-agent", 1) => "  network half".to_owned(),
                    _ => format!("  process {}", number + 1),
                };
                println!(
                    "{half:<34} {:>10} {:>10.2} {:>9} {:>8} {:>11}",
                    "",
                    mb(it.pss_kb * 1024),
                    "",
                    it.threads,
                    it.wakes
                );
            }
        }
    }
    println!(
        "\nfile: the program alone, stripped as it is shipped, without its libraries; refit-agent needs the C \
         library only.\nPSS: what it would give back if it ended; idle, its own processes.\nwakes: how often \
         a thread went to sleep again, by /proc/PID/status."
    );
}
