//! Real hosts: Debian with its own systemd as PID 1, booted by `systemd-nspawn` over layers that all hosts
//! share. Each has a network namespace, an address and disks of bounded size of its own, and the agent
//! from our own Debian package. A test that ends leaves nothing behind; what a killed one left, the next
//! lab removes.

mod base;
mod clock;
mod disk;
mod host;
mod network;
mod pictures;
pub mod software;
mod traffic;

use std::{
    fs::{self, File},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use refit_durable::testing::not_run;
use rustix::fs::{FlockOperation, flock};

pub use base::debian_package;
pub use clock::clocks_can_move;
pub use host::{DebianHost, SmallDisk};
pub use network::Cable;
pub use pictures::{Camera, pictures_can_be_taken};
pub use traffic::{Client, Traffic};

use crate::{
    sandbox::{Ring, Sandbox, Setup},
    wait::until,
};
use host::System;
use network::{Entered, Network};

/// What a lab needs of this machine, as Debian's packages.
const NEEDS: &str = "sudo apt-get install debootstrap systemd-container iproute2 e2fsprogs";

const TOOLS: [&str; 5] = ["debootstrap", "systemd-nspawn", "nsenter", "ip", "mkfs.ext4"];

/// Says that a lab was left for a person: no test removes it.
const KEPT: &str = "kept";

/// A lab: a network of its own, and folders for the hosts in it. Gone with the last clone.
#[derive(Debug, Clone)]
pub struct Lab(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    network: Network,
    entered: Entered,
    layers: Vec<PathBuf>,
    hosts: AtomicU16,
    /// Held for as long as whoever made the lab lives.
    _lock: File,
}

/// Why this machine can have no lab, and what would change that.
struct Lacking {
    why: String,
    remedy: &'static str,
}

fn lacking() -> Option<Lacking> {
    if !rustix::process::getuid().is_root() {
        return Some(Lacking {
            why: "needs root".into(),
            remedy: "run the same command with `sudo -E`",
        });
    }
    let missing = |tool: &&&str| {
        let mut version = Command::new(*tool);
        version.arg("-V").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        version.status().is_err()
    };
    let tool = TOOLS.iter().find(missing)?;
    Some(Lacking { why: format!("{tool} is not installed"), remedy: NEEDS })
}

impl Lab {
    /// A lab for a test of this claim; the calling thread is in the middle of its network until it is gone.
    /// `None` where this machine can't have one, which was said then.
    ///
    /// # Errors
    /// If this machine can and it failed all the same.
    pub fn new(claim: &str) -> Result<Option<Lab>> {
        if let Some(Lacking { why, remedy }) = lacking() {
            not_run(&format!("{claim} ({why})"), remedy);
            return Ok(None);
        }
        let layers = match base::layers() {
            Ok(layers) => layers,
            Err(error) => {
                not_run(&format!("{claim} ({error:#})"), NEEDS);
                return Ok(None);
            }
        };
        let _alone = remove_left_over()?;
        static NUMBER: AtomicU16 = AtomicU16::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Lab::make(&format!("refit-{}-{number}", std::process::id()), layers).map(Some)
    }

    /// The one lab for a person: gone with this value like any other, unless it is told to stay.
    ///
    /// # Errors
    /// If there is one already, or this machine can't have one.
    pub fn to_keep() -> Result<Lab> {
        if let Some(Lacking { why, remedy }) = lacking() {
            bail!("a lab can't be made: {why}\nhelp: {remedy}");
        }
        let _alone = remove_left_over()?;
        if kept_folder()?.exists() {
            bail!(
                "a lab is up already\n\
                 help: `cargo xtask lab status` shows it, `cargo xtask lab down` ends it"
            );
        }
        Lab::make(KEPT_NAME, base::layers()?)
    }

    /// Lets it stay when this program ends.
    ///
    /// # Errors
    /// If its folder can't be written.
    pub fn stay(&self) -> Result<()> {
        Ok(fs::write(self.folder().join(KEPT), "")?)
    }

    /// Leaves a host on for as long as the lab.
    pub fn keep(&self, mut host: DebianHost) {
        host.leave_on();
    }

    /// The network namespace with the server, as `ip netns` names it.
    pub fn network(&self) -> &str {
        self.0.network.name()
    }

    fn make(name: &str, layers: Vec<PathBuf>) -> Result<Lab> {
        let folder = labs()?.join(name);
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let lock = File::create(folder.join("lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        let network = Network::new(name)?;
        let entered = network.enter()?;
        let hosts = AtomicU16::new(0);
        Ok(Lab(Arc::new(Inner { folder, network, entered, layers, hosts, _lock: lock })))
    }

    /// The lab that was left for a person.
    ///
    /// # Errors
    /// If none is up.
    pub fn up() -> Result<Lab> {
        if let Some(Lacking { why, remedy }) = lacking() {
            bail!("a lab can't be used: {why}\nhelp: {remedy}");
        }
        let folder = kept_folder()?;
        if !folder.exists() {
            bail!("no lab is up\nhelp: cargo xtask lab up --hosts 2");
        }
        let network = Network::named(KEPT_NAME);
        let entered = network.enter()?;
        let _lock = File::create(folder.join("lock"))?;
        let hosts = AtomicU16::new(0);
        Ok(Lab(Arc::new(Inner { folder, network, entered, layers: Vec::new(), hosts, _lock })))
    }

    /// Ends the lab that was left for a person, whole or not.
    ///
    /// # Errors
    /// If something of it may still be there.
    pub fn down() -> Result<()> {
        let folder = kept_folder()?;
        if !folder.exists() {
            bail!("no lab is up");
        }
        take_down(&folder)
    }

    /// Whether it stays when this program ends.
    fn is_kept(&self) -> bool {
        self.folder().join(KEPT).exists()
    }

    /// The lab's folder.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// The address of the middle of the network, where the calling thread is.
    pub fn address(&self) -> IpAddr {
        Network::middle()
    }

    /// A fleet whose server the lab's hosts reach.
    ///
    /// # Errors
    /// Whatever does not work.
    pub fn fleet(&self, rings: &[Ring]) -> Result<Sandbox> {
        Sandbox::set_up(Setup { address: self.address(), ..Setup::default() }, rings)
    }

    /// Boots a fresh host with these small disks beside its own.
    ///
    /// # Errors
    /// If it does not boot.
    pub fn host(&self, name: &str, disks: &[SmallDisk]) -> Result<DebianHost> {
        DebianHost::new(self.clone(), name, self.next(), System::New, disks)
    }

    /// Boots a fresh host whose disk pictures can be taken of; one in a lab.
    ///
    /// # Errors
    /// If it does not boot.
    pub fn pictured_host(&self, name: &str) -> Result<DebianHost> {
        DebianHost::new(self.clone(), name, self.next(), System::Pictured, &[])
    }

    /// Boots a host from a picture. It has another address than the one that was pictured.
    ///
    /// # Errors
    /// If its disk can't be mounted or it does not boot.
    pub fn host_from(&self, picture: &Path, name: &str) -> Result<DebianHost> {
        DebianHost::new(self.clone(), name, self.next(), System::Picture(picture), &[])
    }

    fn next(&self) -> u16 {
        self.0.hosts.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The hosts of a lab that is up, by name.
    ///
    /// # Errors
    /// If its records can't be read.
    pub fn hosts(&self) -> Result<Vec<DebianHost>> {
        let mut hosts = Vec::new();
        for entry in fs::read_dir(self.folder())? {
            let folder = entry?.path();
            if folder.join(host::NUMBER).is_file() {
                hosts.push(DebianHost::reopened(self.clone(), &folder)?);
            }
        }
        hosts.sort_by_key(DebianHost::number);
        Ok(hosts)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let gone = if self.folder.join(KEPT).exists() { Ok(()) } else { take_down(&self.folder) };
        if let Err(error) = gone.and_then(|()| self.entered.leave()) {
            eprintln!("the lab in {} is not gone: {error:#}", self.folder.display());
        }
    }
}

/// The name of the lab for a person.
const KEPT_NAME: &str = "refit-lab";

fn kept_folder() -> Result<PathBuf> {
    Ok(labs()?.join(KEPT_NAME))
}

/// The folder of the labs that are up.
fn labs() -> Result<PathBuf> {
    let labs = base::folder()?.join("up");
    fs::create_dir_all(&labs)?;
    Ok(labs)
}

/// Removes the labs of tests that were killed. Until what it gives is dropped nobody else does: a lab that is
/// being made is not locked from its first moment on.
fn remove_left_over() -> Result<File> {
    let alone = File::create(base::folder()?.join("lock-labs"))?;
    flock(&alone, FlockOperation::LockExclusive)?;
    for entry in fs::read_dir(labs()?)? {
        let folder = entry?.path();
        if folder.join(KEPT).exists() {
            continue;
        }
        // Without a lock: it is being made just now, or going.
        let Ok(lock) = File::open(folder.join("lock")) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            take_down(&folder)?;
        }
    }
    Ok(alone)
}

/// Ends all of a lab, from its folder alone: processes, mounts, namespaces, files.
fn take_down(folder: &Path) -> Result<()> {
    let name = folder.file_name().context("a lab's folder has no name")?.to_string_lossy();
    let network = Network::named(&name);
    until("nothing of the lab is in use", || {
        network.end_processes()?;
        disk::unmount_all(folder)?;
        Ok(Some(()))
    })?;
    network.remove()?;
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}
