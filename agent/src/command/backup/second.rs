//! `refit-agent backup list|verify|restore --second`: what lies at the second place. Needs neither the
//! agent nor an enrolled host, so that what a lost host saved can be had again.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use refit_agent::{
    host::{
        backup::Backups,
        files::{RealFiles, create_dirs, remove_tree},
        second::{Helper, Second},
    },
    identity::Identity,
    settings::Settings,
    update::BackupId,
};
use refit_copy::Listed;

use refit_proto::sorted;

use super::{Output, bytes};

/// Most names of hosts that are shown.
const MOST_NAMES: usize = 20;

fn with<T>(
    settings: &Settings,
    of: Option<&str>,
    act: impl FnOnce(&Second<'_>, &str) -> Result<T>,
) -> Result<T> {
    let second = settings.backup.second.as_ref().with_context(|| {
        "no second place is set up here\nhelp: set [backup.second] in agent.toml, or name another file with --config"
    })?;
    let own = Identity::load_if_enrolled(&settings.identity())?;
    let host = match (of, &own) {
        (Some(of), _) => of.to_owned(),
        (None, Some(identity)) => identity.host.to_string(),
        (None, None) => {
            let names = place(second, settings, "any").hosts()?;
            bail!(
                "this host is not enrolled, so it is not known whose backups are meant\n\
                 help: name the host with --of; {}",
                there(&names)
            );
        }
    };
    let place = place(second, settings, &host);
    act(&place, &host)
}

fn place<'a>(
    second: &'a refit_agent::settings::SecondSettings,
    settings: &Settings,
    host: &str,
) -> Second<'a> {
    static HELPER: std::sync::OnceLock<Helper> = std::sync::OnceLock::new();
    let helper = HELPER.get_or_init(Helper::beside_this_program);
    Second::new(second, host.to_owned(), helper, Backups::new(&RealFiles, settings.data.clone()))
}

fn there(names: &[String]) -> String {
    if names.is_empty() {
        return "no host has backups there".to_owned();
    }
    let shown = names.iter().take(MOST_NAMES).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MOST_NAMES) {
        0 => format!("there are {shown}"),
        more => format!("there are {shown} and {more} more"),
    }
}

pub(super) fn list(settings: &Settings, of: Option<&str>, output: Output) -> Result<ExitCode> {
    with(settings, of, |second, host| {
        let mut found = second.list()?;
        let order = |listed: &Listed| match listed {
            Listed::Recorded { record } => (record.order(), record.id.clone()),
            Listed::Damaged { id, .. } => (i64::MAX, id.clone()),
        };
        sorted::sort_by(&mut found, |a, b| order(b).cmp(&order(a)));
        match output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&found)?),
            Output::Text if found.is_empty() => {
                println!("no backup of {host} is there; {}", there(&second.hosts()?));
            }
            Output::Text => found.iter().for_each(|listed| println!("{}", line(listed))),
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn line(listed: &Listed) -> String {
    let record = match listed {
        Listed::Recorded { record } => record,
        Listed::Damaged { id, text } => return format!("{id}  damaged: {text}"),
    };
    let made = Timestamp::from_second(record.made).map(|made| made.to_string());
    let stored: u64 = record.packs.iter().map(|pack| pack.length).sum();
    format!(
        "{}  {} {} -> {}, {}: {} bytes, in {} packs of {stored} bytes{}; seal {}",
        record.id,
        record.product,
        record.from.as_deref().unwrap_or("nothing"),
        record.to.as_deref().unwrap_or("?"),
        made.unwrap_or_else(|_| "no date".into()),
        record.bytes,
        record.packs.len(),
        if record.encrypted_to.is_empty() { "" } else { ", encrypted" },
        record.seal,
    )
}

pub(super) fn verify(
    settings: &Settings,
    of: Option<&str>,
    ids: &[BackupId],
    output: Output,
) -> Result<ExitCode> {
    with(settings, of, |second, _| {
        let found = second.verify(ids)?;
        match output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&found)?),
            Output::Text => {
                for it in &found {
                    match it.damages.as_slice() {
                        [] => println!(
                            "{}  whole: {} bytes there are what was stored",
                            it.id, it.bytes
                        ),
                        damages => damages.iter().for_each(|why| eprintln!("{}  {why}", it.id)),
                    }
                }
            }
        }
        match found.iter().filter(|it| !it.damages.is_empty()).count() {
            0 => Ok(ExitCode::SUCCESS),
            n => bail!(
                "{n} of {} backups at the second place can't be relied on\n\
                 help: the next update stores what is damaged anew",
                found.len()
            ),
        }
    })
}

pub(super) fn restore(
    settings: &Settings,
    of: Option<&str>,
    id: &BackupId,
    folder: &Path,
    identity: Option<&Path>,
) -> Result<ExitCode> {
    let folder = std::path::absolute(folder)
        .with_context(|| format!("{} names no folder", folder.display()))?;
    with(settings, of, |second, host| {
        if folder.symlink_metadata().is_ok()
            && folder.read_dir().map_or(true, |mut names| names.next().is_some())
        {
            bail!(
                "{} is there and is no empty folder\nhelp: name one that is not there yet",
                folder.display()
            );
        }
        let scratch = Scratch::beside(&folder)?;
        let backups = Backups::new(&RealFiles, scratch.0.clone());
        let to = backups.folder(id);
        create_dirs(&RealFiles, &to, 0o700)?;
        let record = second.fetch(id, &to, identity)?;
        // By the hash tree, as on the host that made it.
        let index = backups.verify(&backups.own_seal(id)?)?;
        let nothing = backups.restore_to(&index, &folder)?;
        println!(
            "backup {id} of {host}, {} {} -> {}, is in {}: {} paths, {} bytes, as they were saved",
            record.product,
            record.from.as_deref().unwrap_or("nothing"),
            record.to.as_deref().unwrap_or("?"),
            folder.display(),
            index.covered.len() - nothing.len(),
            bytes(&index),
        );
        for path in nothing {
            println!("  nothing stood at {}", path.display());
        }
        println!("its seal is {}; nothing else on this host was changed", record.seal);
        Ok(ExitCode::SUCCESS)
    })
}

/// A folder for what is fetched; it goes with its end, however that comes about.
struct Scratch(PathBuf);

impl Scratch {
    fn beside(folder: &Path) -> Result<Scratch> {
        let parent = folder.parent().unwrap_or(folder);
        let parent =
            parent.canonicalize().with_context(|| format!("{} is no folder", parent.display()))?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let scratch = parent.join(format!(".{name}.refit-fetched"));
        // What an earlier try that was killed has left.
        remove_tree(&RealFiles, &scratch)?;
        create_dirs(&RealFiles, &scratch, 0o700)?;
        Ok(Scratch(scratch))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&RealFiles, &self.0) {
            eprintln!("{error}");
        }
    }
}
