//! What all hosts of a lab have in common, as read-only layers made once: a Debian base system, and over it
//! Refit's own Debian package, installed by its own dpkg.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use super::disk;
use crate::process::{self, Ran, program};

/// The folder for what is made once, and for labs.
pub(super) fn folder() -> Result<PathBuf> {
    let own = env::current_exe()?;
    // `target/debug/deps` for tests, `target/debug` for programs.
    let debug = own.ancestors().find(|folder| folder.ends_with("debug"));
    let target = debug.and_then(Path::parent).context("not below a target folder")?;
    let lab = target.join("lab");
    fs::create_dir_all(&lab)?;
    Ok(lab)
}

/// The layers of a host, the uppermost first, made where they are missing.
pub(super) fn layers() -> Result<Vec<PathBuf>> {
    let lab = folder()?;
    // Several tests may want them at once; the first makes them.
    let lock = fs::File::create(lab.join("lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    let base = base_system(&lab)?;
    Ok(vec![with_agent(&lab, &base)?, base])
}

/// The Debian base system alone, made where it is missing.
pub(super) fn debian() -> Result<PathBuf> {
    let lab = folder()?;
    let lock = fs::File::create(lab.join("lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    base_system(&lab)
}

/// Half a minute, and 250 MB beside the built programs.
fn base_system(lab: &Path) -> Result<PathBuf> {
    let base = lab.join("debian-bookworm");
    if base.is_dir() {
        return Ok(base);
    }
    let making = empty(&lab.join("making"))?;
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

/// The base system with our package, of the programs as they are built now: two seconds, for each build.
fn with_agent(lab: &Path, base: &Path) -> Result<PathBuf> {
    let name = format!("agent-{:016x}", state_of_programs()?);
    let layer = lab.join(&name);
    if layer.is_dir() {
        return Ok(layer);
    }
    remove_unused(lab)?;
    let making = empty(&lab.join("making"))?;
    fs::create_dir(&making)?;
    let (upper, root) = (making.join("upper"), making.join("root"));
    disk::overlay(&[base.to_owned()], &upper, &root)?;
    let installed = install(&making, &root);
    disk::unmount_all(&making)?;
    installed?;
    fs::rename(&upper, &layer)?;
    fs::remove_dir_all(&making)?;
    Ok(layer)
}

fn install(making: &Path, root: &Path) -> Result<()> {
    let package = debian_package(making, None)?;
    fs::copy(package, root.join("tmp/refit-agent.deb"))?;
    Ran::of(
        Command::new("chroot")
            .arg(root)
            .args(["dpkg", "--force-unsafe-io", "--install", "/tmp/refit-agent.deb"])
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )?
    .good()
    .context("dpkg --install in the base system")?;
    Ok(fs::remove_file(root.join("tmp/refit-agent.deb"))?)
}

/// Our Debian package of the programs that were built beside this one, put into `out`; of another version
/// where one is given.
///
/// # Errors
/// If it can't be made.
pub fn debian_package(out: &Path, version: Option<&str>) -> Result<PathBuf> {
    let agent = program("refit-agent")?;
    let programs = agent.parent().context("no folder")?;
    let mut dist = process::command("xtask")?;
    dist.args(["dist", "deb", "--programs"]).arg(programs).arg("--out").arg(out);
    if let Some(version) = version {
        dist.args(["--package-version", version]);
    }
    let made = Ran::of(&mut dist)?.good().context("cargo xtask dist deb")?;
    Ok(PathBuf::from(made.trim()))
}

/// Tells one build from another without reading a hundred megabytes.
fn state_of_programs() -> Result<u64> {
    let mut state = DefaultHasher::new();
    for name in ["refit-agent", "refit-rescue", "xtask"] {
        let data = fs::metadata(program(name)?)?;
        (data.len(), data.modified()?).hash(&mut state);
    }
    Ok(state.finish())
}

/// Removes the layers of builds before that no host stands on.
fn remove_unused(lab: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    for entry in fs::read_dir(lab)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("agent-") && !mounts.contains(&name) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Nothing there, also where making was cut.
fn empty(folder: &Path) -> Result<PathBuf> {
    if folder.exists() {
        disk::unmount_all(folder)?;
        fs::remove_dir_all(folder)?;
    }
    Ok(folder.to_owned())
}
