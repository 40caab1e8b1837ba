//! A host's disk: ext4 in a file of bounded size, so that what fills it fills nothing of this machine. The
//! file has holes: it takes what was written.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::process::Ran;

/// A disk of a host, mounted on this machine.
#[derive(Debug)]
pub(super) struct Disk {
    mounted: PathBuf,
}

impl Disk {
    /// Makes and mounts a disk in this folder: `<name>.img` and `<name>`.
    pub(super) fn new(folder: &Path, name: &str, megabytes: u64) -> Result<Disk> {
        let image = folder.join(format!("{name}.img"));
        Disk::in_file(folder, name, &image, megabytes)
    }

    /// The same with its file elsewhere.
    pub(super) fn in_file(folder: &Path, name: &str, image: &Path, megabytes: u64) -> Result<Disk> {
        File::create(image)?.set_len(megabytes << 20)?;
        // Nothing is kept back for root: who fills it, fills it.
        Ran::of(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(image))?
            .good()
            .context("mkfs.ext4")?;
        let disk = Disk::found(folder, name, image)?;
        // Made by mkfs; a release that backs up its folder would find it.
        let _ = fs::remove_dir(disk.mounted.join("lost+found"));
        Ok(disk)
    }

    /// Mounts a disk that was written before; its journal is carried out then, as after a power cut.
    pub(super) fn found(folder: &Path, name: &str, image: &Path) -> Result<Disk> {
        let mounted = folder.join(name);
        fs::create_dir(&mounted)?;
        mount(Command::new("mount").args(["-o", "loop"]).arg(image).arg(&mounted))?;
        Ok(Disk { mounted })
    }

    pub(super) fn path(&self) -> &Path {
        &self.mounted
    }
}

/// Lays `upper` over the layers below, the uppermost first; what changes goes to `upper`. `xino`: all files
/// are of one device, as on the root of a real machine, though the layers lie on several.
pub(super) fn overlay(lower: &[PathBuf], upper: &Path, at: &Path) -> Result<()> {
    let work = upper.with_file_name("work");
    for folder in [upper, &work, at] {
        fs::create_dir_all(folder)?;
    }
    let lower: Vec<String> = lower.iter().map(|layer| layer.display().to_string()).collect();
    let layers = format!(
        "lowerdir={},upperdir={},workdir={},xino=on",
        lower.join(":"),
        upper.display(),
        work.display()
    );
    mount(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &layers]).arg(at))
}

pub(super) fn mount(command: &mut Command) -> Result<()> {
    Ran::of(command)?.good().with_context(|| format!("{command:?}"))?;
    Ok(())
}

/// Unmounts whatever is mounted at or below this folder, the newest first.
pub(super) fn unmount_all(folder: &Path) -> Result<()> {
    for at in mounted_below(folder)?.iter().rev() {
        Ran::of(Command::new("umount").arg(at))?.good().context("umount")?;
    }
    Ok(())
}

fn mounted_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mounts")?;
    let places = table.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    Ok(places.filter(|place| place.starts_with(folder)).collect())
}
