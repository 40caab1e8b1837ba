//! One booted Debian host of a lab, and what can happen to it.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    Lab,
    disk::{self, Disk},
    network::{Cable, Network},
    pictures::{self, Camera},
};
use crate::{
    process::{Process, Ran},
    sandbox::Sandbox,
    wait::until,
};

/// The file in a host's folder that says which one it is.
pub(super) const NUMBER: &str = "number";

/// The disk of a host, megabytes: Debian lies below it. Room for a database and its backups.
const SYSTEM_DISK: u64 = 3000;

/// What systemd-nspawn ends with where the host goes down to boot.
const BOOTS: i32 = 133;

/// What fills a disk, at its top.
const FILLING: &str = ".refit-lab-filling";

/// A disk of a host's own for one folder.
#[derive(Debug, Clone, Copy)]
pub struct SmallDisk {
    /// The folder.
    pub at: &'static str,
    /// Its size.
    pub megabytes: u64,
}

/// A Debian host; off and gone with the lab.
#[derive(Debug)]
pub struct DebianHost {
    nspawn: Option<Process>,
    name: String,
    number: u16,
    folder: PathBuf,
    lab: Lab,
}

/// Where a host's system disk comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum System<'a> {
    /// Empty.
    New,
    /// Empty, and its file can be shared with pictures of it.
    Pictured,
    /// As another host's was at a moment.
    Picture(&'a Path),
}

impl System<'_> {
    fn mounted(self, lab: &Lab, folder: &Path) -> Result<Disk> {
        match self {
            System::New => Disk::new(folder, "system", SYSTEM_DISK),
            System::Pictured => {
                let image = pictures::album(lab.folder())?.join("system.img");
                Disk::in_file(folder, "system", &image, SYSTEM_DISK)
            }
            System::Picture(image) => Disk::found(folder, "system", image),
        }
    }
}

impl DebianHost {
    pub(super) fn new(
        lab: Lab,
        name: &str,
        number: u16,
        from: System<'_>,
        disks: &[SmallDisk],
    ) -> Result<DebianHost> {
        let folder = lab.folder().join(name);
        fs::create_dir(&folder).with_context(|| format!("{name} is there already"))?;
        lab.0.network.join(number)?;
        let system = from.mounted(&lab, &folder)?;
        let mut host = DebianHost { nspawn: None, name: name.to_owned(), number, folder, lab };
        disk::overlay(&host.lab.0.layers, &system.path().join("upper"), &host.root())?;
        let mut binds = String::new();
        for (number, small) in disks.iter().enumerate() {
            let made = Disk::new(&host.folder, &format!("disk-{number}"), small.megabytes)?;
            // As an administrator moves a folder to a disk of its own: with what is in it.
            let at = host.root().join(small.at.trim_start_matches('/'));
            fs::create_dir_all(&at)?;
            Ran::of(Command::new("cp").arg("-a").arg(at.join(".")).arg(made.path()))?.good()?;
            binds.push_str(&format!("{}:{}\n", made.path().display(), small.at));
        }
        fs::write(host.folder.join("binds"), binds)?;
        fs::write(host.root().join("etc/hostname"), format!("{name}\n"))?;
        // Of its own, as on a machine that was set up and not copied; one that lost its power keeps it.
        if !matches!(from, System::Picture(_)) {
            let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?.replace('-', "");
            fs::write(host.root().join("etc/machine-id"), id)?;
        }
        fs::write(host.folder.join(NUMBER), number.to_string())?;
        host.power_on()?;
        Ok(host)
    }

    pub(super) fn reopened(lab: Lab, folder: &Path) -> Result<DebianHost> {
        let number = fs::read_to_string(folder.join(NUMBER))?.parse()?;
        let name = folder.file_name().context("no name")?.to_string_lossy().into_owned();
        Ok(DebianHost { nspawn: None, name, number, folder: folder.to_owned(), lab })
    }

    /// Takes pictures of its disk from now on, if it was made for it.
    ///
    /// # Errors
    /// If it was not.
    pub fn take_pictures(&self) -> Result<Camera> {
        let image = pictures::album(self.lab.folder())?.join("system.img");
        anyhow::ensure!(image.exists(), "{} is no host for pictures", self.name);
        Ok(Camera::new(image))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn number(&self) -> u16 {
        self.number
    }

    /// Its address on the lab's network.
    pub fn address(&self) -> IpAddr {
        Network::address(self.number)
    }

    /// Where this port of it is reached.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(), port)
    }

    /// The host's root folder, as seen from this machine. Links in it lead to this machine: write through
    /// [`DebianHost::write`].
    pub fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// The small disks: where they are mounted on this machine, and on the host.
    fn disks(&self) -> Result<Vec<(PathBuf, String)>> {
        let binds = fs::read_to_string(self.folder.join("binds"))?;
        let pair = |line: &str| {
            let (here, there) = line.split_once(':')?;
            Some((PathBuf::from(here), there.to_owned()))
        };
        Ok(binds.lines().filter_map(pair).collect())
    }

    /// Boots it, and waits until systemd says that it runs.
    ///
    /// # Errors
    /// If it is on, or does not boot.
    pub fn power_on(&mut self) -> Result<()> {
        self.start()?;
        self.until_up()
    }

    fn start(&mut self) -> Result<()> {
        if self.is_on() {
            bail!("{} is on already", self.name);
        }
        let mut nspawn = Command::new("systemd-nspawn");
        nspawn
            .args(["--boot", "--register=no", "--keep-unit", "--quiet", "--console=pipe"])
            .arg(format!("--hostname={}", self.name))
            .arg(format!("--network-namespace-path=/run/netns/{}", self.namespace()))
            .arg("-D")
            .arg(self.root())
            .stdin(Stdio::null());
        for (here, there) in self.disks()? {
            nspawn.arg(format!("--bind={}:{there}", here.display()));
        }
        let mut nspawn = Process::start(&mut nspawn, &self.folder.join("boot.log"))?;
        fs::write(self.folder.join("nspawn"), nspawn.id().to_string())?;
        // The lab ends it, also where it outlives this program.
        nspawn.leave_running();
        self.nspawn = Some(nspawn);
        Ok(())
    }

    fn until_up(&self) -> Result<()> {
        until(&format!("{} has booted", self.name), || {
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
        let nspawn = self.nspawn_id()?;
        // With its PID 1 the kernel ends everything in the host at once; nspawn alone would leave it running.
        let leader = self.leader()?.parse().ok().and_then(Pid::from_raw);
        kill_process(leader.context("the host has no PID 1")?, Signal::KILL)?;
        match &mut self.nspawn {
            Some(nspawn) => drop(nspawn.ended()?),
            None => until("the host is off", || Ok((!is_nspawn(nspawn)).then_some(())))?,
        }
        self.nspawn = None;
        Ok(fs::remove_file(self.folder.join("nspawn"))?)
    }

    /// Waits until the host goes down to boot, and boots it: what the firmware of a real one does.
    ///
    /// # Errors
    /// If it does not go down, or not for a boot.
    pub fn comes_back(&mut self) -> Result<()> {
        let ended = self.nspawn.as_mut().context("the host is off")?.ended()?;
        self.boots_again(ended)?;
        self.until_up()
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
                self.boots_again(ended)?;
                boots += 1;
            }
            Ok(done().then_some(()))
        })?;
        self.until_up()?;
        Ok(boots)
    }

    fn boots_again(&mut self, ended: ExitStatus) -> Result<()> {
        self.nspawn = None;
        if ended.code() != Some(BOOTS) {
            bail!("the host did not go down to boot, but ended with {ended}");
        }
        self.start()
    }

    /// The id of the boot that runs.
    ///
    /// # Errors
    /// If the host is off.
    pub fn boot_id(&self) -> Result<String> {
        Ok(self.good(["cat", "/proc/sys/kernel/random/boot_id"])?.trim().to_owned())
    }

    /// Switches it off and lets go of its disks, before the lab does.
    ///
    /// # Errors
    /// If something still holds them.
    pub fn remove(mut self) -> Result<()> {
        self.cut_power()?;
        until("nothing holds the host's disks", || {
            disk::unmount_all(&self.folder)?;
            Ok(Some(()))
        })
    }

    /// Leaves it on when this value is dropped.
    pub(super) fn leave_on(&mut self) {
        self.nspawn = None;
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.leader().is_ok()
    }

    fn nspawn_id(&self) -> Result<u32> {
        let id = fs::read_to_string(self.folder.join("nspawn")).ok();
        match id.and_then(|id| id.parse().ok()) {
            Some(id) if is_nspawn(id) => Ok(id),
            Some(_) | None => bail!("{} is off", self.name),
        }
    }

    fn leader(&self) -> Result<String> {
        let id = self.nspawn_id()?;
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        let leader = children.split_whitespace().next().context("the host has no PID 1 yet")?;
        Ok(leader.to_owned())
    }

    /// Its network namespace, as `ip netns` names it.
    pub fn namespace(&self) -> String {
        self.lab.0.network.of_host(self.number)
    }

    fn command<'a>(&self, command: impl IntoIterator<Item = &'a str>) -> Result<Command> {
        let leader = self.leader()?;
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--all", "--target", &leader, "--"]).args(command).stdin(Stdio::null());
        Ok(nsenter)
    }

    /// Runs a command on the host.
    ///
    /// # Errors
    /// If the host is off.
    pub fn run<'a>(&self, command: impl IntoIterator<Item = &'a str>) -> Result<Ran> {
        Ran::of(&mut self.command(command)?)
    }

    /// Runs a command on the host and wants it to succeed.
    ///
    /// # Errors
    /// If it fails, with what it printed.
    pub fn good<'a>(&self, command: impl IntoIterator<Item = &'a str>) -> Result<String> {
        let command: Vec<&str> = command.into_iter().collect();
        self.run(command.iter().copied())?.good().with_context(|| command.join(" "))
    }

    /// What the host's agent says of itself, asked on the host.
    ///
    /// # Errors
    /// If it doesn't answer.
    pub fn agent_status(&self) -> Result<serde_json::Value> {
        let said = self.good(["refit-agent", "status", "--output", "json"])?;
        Ok(serde_json::from_str(&said)?)
    }

    /// Becomes a command on the host, with the terminal of this program; returns only if it can't.
    ///
    /// # Errors
    /// If the host is off, or the command can't be started.
    pub fn become_command<'a>(&self, command: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let mut nsenter = self.command(command)?;
        Err(nsenter.stdin(Stdio::inherit()).exec()).context("nsenter")
    }

    /// Writes a file on the host, with the folders to it.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let words = ["sh", "-c", "mkdir -p \"$(dirname \"$1\")\" && cat > \"$1\"", "write", path];
        Ran::fed(&mut self.command(words)?, text)?.good().with_context(|| path.to_owned())?;
        Ok(())
    }

    /// Copies a file of this machine to a folder of the host that is no mount of its own.
    ///
    /// # Errors
    /// If it can't be copied.
    pub fn put(&self, file: &Path, folder: &str) -> Result<()> {
        let name = file.file_name().context("no file")?;
        let folder = self.root().join(folder.trim_start_matches('/'));
        fs::create_dir_all(&folder)?;
        fs::copy(file, folder.join(name)).with_context(|| file.display().to_string())?;
        Ok(())
    }

    /// Makes it a host of the fleet with these labels and settings, and starts the agent: what its package
    /// tells an administrator to do.
    ///
    /// # Errors
    /// If it is refused.
    pub fn enroll(&self, fleet: &Sandbox, labels: &[&str], settings: &str) -> Result<()> {
        // The conffile: the package has put a link to it where the agent looks.
        self.write("/etc/refit/agent.toml", settings)?;
        let token = fleet.token(labels)?;
        self.good(["refit-agent", "enroll", "--token", &token, "--name", &self.name])?;
        self.good(["systemctl", "start", "refit-agent"])?;
        Ok(())
    }

    /// `kill -9` of the agent; systemd starts it again.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill_agent(&self) -> Result<()> {
        self.good(["systemctl", "kill", "--kill-whom=main", "--signal=KILL", "refit-agent"])?;
        Ok(())
    }

    /// Plugs its cable in, pulls it, or lets nothing through it.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn set_cable(&self, cable: Cable) -> Result<()> {
        self.lab.0.network.set_cable(self.number, cable)
    }

    /// Fills the disk that has this folder to its last byte; bounded by the disk's size.
    ///
    /// # Errors
    /// If the host is off or there is still room.
    pub fn fill_disk(&self, folder: &str) -> Result<()> {
        let script = "cd \"$1\" && rm -f $2 && \
             fallocate -l $(( $(stat -f -c '%a * %S' .) )) $2 2>/dev/null; \
             dd if=/dev/zero of=$2 bs=1M oflag=append conv=notrunc 2>/dev/null; \
             dd if=/dev/zero of=$2 bs=1 oflag=append conv=notrunc 2>/dev/null; \
             test $(stat -f -c %a .) -eq 0";
        self.good(["sh", "-c", script, "fill", folder, FILLING])?;
        Ok(())
    }

    /// Gives back what [`DebianHost::fill_disk`] took.
    ///
    /// # Errors
    /// If the host is off.
    pub fn free_disk(&self, folder: &str) -> Result<()> {
        self.good(["rm", "-f", &format!("{folder}/{FILLING}")])?;
        Ok(())
    }

    /// Where the small disks are on the host; without any, its own disk.
    ///
    /// # Errors
    /// If the host's records can't be read.
    pub fn disk_folders(&self) -> Result<Vec<String>> {
        let disks = self.disks()?;
        let folders: Vec<String> = disks.into_iter().map(|(_, there)| there).collect();
        Ok(if folders.is_empty() { vec!["/var".to_owned()] } else { folders })
    }

    /// The journal of a unit, for the message of a failed test.
    pub fn journal(&self, unit: &str) -> String {
        let said = self.run(["journalctl", "--no-pager", "-u", unit]);
        said.map(|ran| ran.out).unwrap_or_default()
    }
}

fn is_nspawn(id: u32) -> bool {
    let program = fs::read_link(format!("/proc/{id}/exe")).unwrap_or_default();
    program.file_name().is_some_and(|name| name == "systemd-nspawn")
}

impl Drop for DebianHost {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = self.run(["journalctl", "--no-pager", "--lines=80"]);
            let journal = journal.map(|ran| ran.out).unwrap_or_default();
            eprintln!("--- the end of the journal of {}\n{journal}", self.name);
        }
        if self.nspawn.is_some()
            && !self.lab.is_kept()
            && let Err(error) = self.cut_power()
        {
            eprintln!("{} may still run: {error:#}", self.name);
        }
    }
}
