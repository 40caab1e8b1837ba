//! `refit-agent backup restore ID --to FOLDER`: what a backup holds, to look at. No agent has to run for it.

use std::{path::Path, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use refit_agent::{host::backup::Backups, update::BackupId};

use super::bytes;

pub(super) fn run(backups: &Backups<'_>, id: &BackupId, folder: &Path) -> Result<ExitCode> {
    if !backups.is_begun(id)? {
        bail!("there is no backup {id} here\nhelp: `refit-agent backup list` shows those that are");
    }
    // What it holds is compared where it is brought back.
    let index = backups.index(id)?;
    let folder = std::path::absolute(folder)
        .with_context(|| format!("{} names no folder", folder.display()))?;
    let nothing = backups.restore_to(&index, &folder)?;
    let of = index.covered.len() - nothing.len();
    println!(
        "backup {id} is in {}: {of} paths, {} bytes, as they were saved",
        folder.display(),
        bytes(&index)
    );
    for path in nothing {
        println!("  nothing stood at {}", path.display());
    }
    println!("nothing else on this host was changed");
    Ok(ExitCode::SUCCESS)
}
