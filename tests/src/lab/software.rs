//! Real software that no one here wrote: packages of Debian's archive, unpacked or for a host's own dpkg. Fetched
//! once, by this machine's own apt.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use super::base;
use crate::process::Ran;

/// The oldest and the newest version of a package that the archive has for this machine's Debian.
///
/// # Errors
/// If this is no Debian 12, or its archive can't be asked or has only one.
pub fn oldest_and_newest(package: &str) -> Result<(String, String)> {
    is_bookworm()?;
    let listed = Ran::of(Command::new("apt-cache").args(["madison", package]))?.good()?;
    let versions: Vec<&str> =
        listed.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim).collect();
    match versions[..] {
        [newest, .., oldest] if newest != oldest => Ok((oldest.to_owned(), newest.to_owned())),
        _ => bail!("the archive has no two versions of {package}: {versions:?}"),
    }
}

fn is_bookworm() -> Result<()> {
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !system.lines().any(|line| line == "VERSION_CODENAME=bookworm") {
        bail!("this machine is no Debian 12, as the lab's hosts are");
    }
    Ok(())
}

/// What is in a package of this version, or the one that apt would take: a folder, unpacked.
///
/// # Errors
/// If the archive can't be reached.
pub fn unpacked(package: &str, version: Option<&str>) -> Result<PathBuf> {
    let folder = base::folder()?.join("software");
    fs::create_dir_all(&folder)?;
    // Several tests may want it at once; the first fetches it.
    let lock = File::create(folder.join("lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let name = version.map_or(package.to_owned(), |version| format!("{package}={version}"));
    let there = folder.join(&name);
    if there.is_dir() {
        return Ok(there);
    }
    let making = tempfile::Builder::new().prefix("making-").tempdir_in(&folder)?;
    let mut download = Command::new("apt-get");
    download.args(["download", &name]).current_dir(making.path());
    Ran::of(&mut download)?.good().with_context(|| format!("apt-get download {name}"))?;
    let packed = fs::read_dir(making.path())?.next().context("apt-get brought nothing")??;
    let tree = making.path().join("tree");
    Ran::of(Command::new("dpkg-deb").arg("-x").arg(packed.path()).arg(&tree))?.good()?;
    fs::rename(tree, &there)?;
    Ok(there)
}

/// Packages as the archive has them now, with all that they need and a host of the lab lacks: files for its dpkg.
///
/// # Errors
/// If this is no Debian 12, the archive can't be reached, or there is no base system to look at.
pub fn packages(names: &[&str]) -> Result<Vec<PathBuf>> {
    is_bookworm()?;
    let base = base::debian()?;
    let folder = base::folder()?.join("software");
    fs::create_dir_all(&folder)?;
    let lock = File::create(folder.join("lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let there = folder.join(format!("packages-{}", names.join("-")));
    if !there.is_dir() {
        let making = tempfile::Builder::new().prefix("making-").tempdir_in(&folder)?;
        let debs = making.path().join("debs");
        fs::create_dir_all(debs.join("partial"))?;
        let option = |key: &str, value: &Path| format!("{key}={}", value.display());
        let mut download = Command::new("apt-get");
        download
            .args(["-y", "-qq", "--no-install-recommends", "--download-only"])
            .args(["-o", &option("Dir::State::status", &base.join("var/lib/dpkg/status"))])
            .args(["-o", &option("Dir::Cache::archives", &debs)])
            // Its locks are of this machine's own packages, which it does not touch.
            .args(["-o", "Debug::NoLocking=1", "-o", "APT::Keep-Downloaded-Packages=true"])
            .arg("install")
            .args(names);
        Ran::of(&mut download)?.good().with_context(|| format!("apt-get download {names:?}"))?;
        fs::remove_dir(debs.join("partial"))?;
        fs::rename(debs, &there)?;
    }
    let listed = fs::read_dir(&there)?.map(|entry| Ok(entry?.path()));
    listed.collect()
}

/// Copies one file, or what is in a folder, into another folder.
///
/// # Errors
/// If it can't be copied.
pub fn copy_into(from: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let from = if from.is_dir() { from.join(".") } else { from.to_owned() };
    Ran::of(Command::new("cp").arg("-a").arg(&from).arg(folder))?.good()?;
    Ok(())
}
