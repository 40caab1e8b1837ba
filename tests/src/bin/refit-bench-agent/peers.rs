//! Updaters from Debian, from their packages and those of their libraries, unpacked and not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use refit_tests::{
    process::{Process, Ran},
    wait::until,
};

use super::Running;

/// What is measured beside it.
pub(super) struct Peer {
    pub(super) package: &'static str,
    program: &'static str,
    what: &'static str,
}

pub(super) const PEERS: [Peer; 3] = [
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

/// Starts one, idle and with its server away.
pub(super) fn started(peer: &Peer, folder: &Path) -> Result<Running> {
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
    // The bus that it is asked on is no part of it, and only has to stay.
    let needs = std::mem::replace(&mut processes, vec![process]);
    let version = version(peer.package)?;
    Ok(Running {
        name: format!("{} {version}", peer.package),
        what: peer.what.into(),
        bytes,
        parts: vec!["daemon"],
        processes,
        _needs: needs,
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
