//! Real hosts: Debian with its own systemd as PID 1, booted by `systemd-nspawn` over an overlay of one
//! base system. A host shares this machine's loopback, so that its agent reaches the sandbox's server.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use refit_durable::testing::not_run;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    process::{Process, Ran, program},
    wait::until,
};

/// What a Debian host of the lab needs, as packages of this machine.
const NEEDS: &str = "sudo apt-get install debootstrap systemd-container";

/// What systemd-nspawn ends with where the host goes down to boot.
const BOOTS: i32 = 133;

/// A booted Debian host; powered off and gone when dropped.
#[derive(Debug)]
pub struct DebianHost {
    nspawn: Option<Process>,
    root: PathBuf,
    folder: TempDir,
}

/// Says that `claim` was not tried, and what it would take.
fn lacking(claim: &str, why: &str, remedy: &str) -> Result<Option<DebianHost>> {
    not_run(&format!("{claim} ({why})"), remedy);
    Ok(None)
}

impl DebianHost {
    /// Boots a fresh host for a test of this claim. `None` where this machine can't, which was said then.
    ///
    /// # Errors
    /// If this machine can and it failed all the same.
    pub fn boot(claim: &str) -> Result<Option<DebianHost>> {
        if !rustix::process::getuid().is_root() {
            return lacking(claim, "needs root", "sudo -E cargo xtask test");
        }
        for tool in ["debootstrap", "systemd-nspawn", "nsenter"] {
            if Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_err() {
                return lacking(claim, &format!("{tool} is not installed"), NEEDS);
            }
        }
        let base = match base_system() {
            Ok(base) => base,
            Err(error) => return lacking(claim, &format!("{error:#}"), NEEDS),
        };
        let folder = tempfile::Builder::new().prefix("refit-lab-").tempdir()?;
        let root = folder.path().join("root");
        for inner in ["root", "upper", "work"] {
            fs::create_dir(folder.path().join(inner))?;
        }
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            base.display(),
            folder.path().join("upper").display(),
            folder.path().join("work").display()
        );
        let mount = ["-t", "overlay", "overlay", "-o", &layers];
        let mounted = Ran::of(Command::new("mount").args(mount).arg(&root))?;
        if !mounted.success {
            return lacking(claim, mounted.err.trim(), "sudo modprobe overlay");
        }
        let mut host = DebianHost { nspawn: None, root, folder };
        host.put_program("refit-agent")?;
        host.put_program("refit-rescue")?;
        host.power_on()?;
        Ok(Some(host))
    }

    /// The host's root folder, as seen from this machine.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Copies one of Refit's programs to the host.
    ///
    /// # Errors
    /// If it can't be copied.
    pub fn put_program(&self, name: &str) -> Result<()> {
        fs::copy(program(name)?, self.root.join("usr/local/bin").join(name))?;
        Ok(())
    }

    /// Makes the agent of an enrolled host a service of its systemd, with what brings the host back without
    /// it, as a package would: from now on both begin with each boot.
    ///
    /// # Errors
    /// If systemd refuses.
    pub fn install_units(&self) -> Result<()> {
        for (unit, file) in [("agent", "refit-agent.service"), ("rescue", "refit-rescue@.service")]
        {
            let text = self.good(["refit-agent", "print-unit", unit])?;
            self.write(&format!("/usr/lib/systemd/system/{file}"), &text)?;
        }
        self.good(["systemctl", "daemon-reload"])?;
        self.good(["systemctl", "enable", "refit-rescue@boot"])?;
        self.good(["systemctl", "enable", "--now", "refit-agent"])?;
        Ok(())
    }

    /// Boots it, and waits until systemd says that it runs.
    ///
    /// # Errors
    /// If it doesn't.
    pub fn power_on(&mut self) -> Result<()> {
        self.start()?;
        self.until_up()
    }

    fn start(&mut self) -> Result<()> {
        let mut nspawn = Command::new("systemd-nspawn");
        nspawn
            .args(["--boot", "--register=no", "--keep-unit", "--quiet", "--console=pipe", "-D"])
            .arg(&self.root)
            .stdin(Stdio::null());
        self.nspawn = Some(Process::start(&mut nspawn, &self.folder.path().join("boot.log"))?);
        Ok(())
    }

    fn until_up(&self) -> Result<()> {
        until("the Debian host has booted", || {
            let state = self.run(["systemctl", "is-system-running"])?.out;
            // Degraded: some unit that a container can't have; ours are asked about one by one.
            let booted = matches!(state.trim(), "running" | "degraded");
            if booted { Ok(Some(())) } else { bail!("it is {}", state.trim()) }
        })
    }

    /// Ends every process of the host at once, as a power cut does; what was written stays.
    ///
    /// # Errors
    /// If it was not on.
    pub fn cut_power(&mut self) -> Result<()> {
        // With its PID 1 the kernel ends everything in the host at once; nspawn alone would leave it running.
        let leader = self.leader()?.parse().ok().and_then(Pid::from_raw);
        kill_process(leader.context("the host has no PID 1")?, Signal::KILL)?;
        self.nspawn.take().context("the host is off")?.ended()?;
        Ok(())
    }

    /// Waits until the host goes down to boot, and boots it: what the firmware of a real one does.
    ///
    /// # Errors
    /// If it does not go down, or not for a boot.
    pub fn comes_back(&mut self) -> Result<()> {
        let nspawn = self.nspawn.as_mut().context("the host is off")?;
        let ended = nspawn.ended()?;
        self.nspawn = None;
        if ended.code() != Some(BOOTS) {
            bail!("the host did not go down to boot, but ended with {ended}");
        }
        self.power_on()
    }

    /// Boots the host each time that it goes down for it, until `done`; says how often.
    ///
    /// # Errors
    /// If it is never done, or goes down for another reason.
    pub fn keep_booting(&mut self, done: impl Fn() -> bool) -> Result<u32> {
        let mut boots = 0;
        until("the host has booted often enough", || {
            let nspawn = self.nspawn.as_mut().context("the host is off")?;
            if !nspawn.runs() {
                let ended = nspawn.ended()?;
                if ended.code() != Some(BOOTS) {
                    bail!("the host did not go down to boot, but ended with {ended}");
                }
                self.start()?;
                boots += 1;
            }
            Ok(done().then_some(()))
        })?;
        self.until_up()?;
        Ok(boots)
    }

    /// The id of the boot that runs.
    ///
    /// # Errors
    /// If the host is off.
    pub fn boot_id(&self) -> Result<String> {
        Ok(self.good(["cat", "/proc/sys/kernel/random/boot_id"])?.trim().to_owned())
    }

    fn leader(&self) -> Result<String> {
        let id = self.nspawn.as_ref().context("the host is off")?.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        let leader = children.split_whitespace().next().context("the host has no PID 1 yet")?;
        Ok(leader.to_owned())
    }

    /// Runs a command on the host.
    ///
    /// # Errors
    /// If the host is off.
    pub fn run<'a>(&self, command: impl IntoIterator<Item = &'a str>) -> Result<Ran> {
        let leader = self.leader()?;
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--all", "--target", &leader, "--"]).args(command).stdin(Stdio::null());
        Ran::of(&mut nsenter)
    }

    /// Runs a command on the host and wants it to succeed.
    ///
    /// # Errors
    /// If it fails, with what it printed.
    pub fn good<'a>(&self, command: impl IntoIterator<Item = &'a str>) -> Result<String> {
        let command: Vec<&str> = command.into_iter().collect();
        self.run(command.iter().copied())?.good().with_context(|| command.join(" "))
    }

    /// Writes a file on the host.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.root.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().context("no folder")?)?;
        Ok(fs::write(path, text)?)
    }

    /// The journal of a unit, for the message of a failed test.
    pub fn journal(&self, unit: &str) -> String {
        let said = self.run(["journalctl", "--no-pager", "-u", unit]);
        said.map(|ran| ran.out).unwrap_or_default()
    }
}

impl Drop for DebianHost {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the agent's journal\n{}", self.journal("refit-agent"));
        }
        if self.nspawn.is_some()
            && let Err(error) = self.cut_power()
        {
            eprintln!("the host may still run: {error:#}");
        }
        let unmounted = || -> Result<Option<()>> {
            Ok(Ran::of(Command::new("umount").arg(&self.root))?.success.then_some(()))
        };
        if until("the host's files are free", unmounted).is_err() {
            eprintln!("{} is still mounted", self.root.display());
        }
    }
}

/// The base system of all hosts, made once: half a minute, and 250 MB beside the built programs.
fn base_system() -> Result<PathBuf> {
    let built = env::current_exe()?;
    let target = built.ancestors().nth(3).context("not below a target folder")?;
    let lab = target.join("lab");
    fs::create_dir_all(&lab)?;
    let base = lab.join("debian-bookworm");
    // Several tests may want it at once; the first makes it.
    let lock = fs::File::create(lab.join("lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    if base.is_dir() {
        return Ok(base);
    }
    let making = lab.join("making");
    if making.exists() {
        fs::remove_dir_all(&making)?;
    }
    let packages = "--include=systemd,systemd-sysv,dbus";
    Ran::of(
        Command::new("debootstrap")
            .args(["--variant=minbase", packages, "bookworm"])
            .arg(&making)
            .stdin(Stdio::null()),
    )?
    .good()
    .context("debootstrap")?;
    fs::rename(&making, &base)?;
    Ok(base)
}
