//! `refit-agent backup`: what this host could go back to, whether it still is what was saved, and going back.

mod aside;
mod beside;
mod bring_back;
mod list;
mod second;
mod verify;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use refit_agent::{
    host::{
        backup::{Backups, Index, What},
        files::RealFiles,
    },
    settings::Settings,
    update::{BackupId, ReleaseId},
};

use super::{Common, status::Output};

/// What this host saved before its updates
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    act: Act,
}

#[derive(Subcommand)]
enum Act {
    /// The backups that are here, the newest first
    List {
        #[command(flatten)]
        place: Second,
        /// As lines for people, or as JSON for programs
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Read backups again, byte by byte, and compare them with their seals. Names every damaged file; the exit
    /// code is 0 only if there is none
    Verify {
        /// Which; all of them if none is named
        ids: Vec<String>,
        #[command(flatten)]
        place: Second,
        /// As lines for people, or as JSON for programs
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// What going back has set aside, and keeps until it is released
    SetAside {
        /// As lines for people, or as JSON for programs
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Remove for good what one way back has set aside, databases too
    Release {
        /// Which, of `refit-agent backup set-aside`
        id: String,
    },
    /// Bring a backup back: programs, units and configuration as they were before that update, and data that
    /// was converted since. What stands there now is set aside and named
    Restore {
        /// Which, of `refit-agent backup list`
        id: String,
        /// Make it anew in this folder instead, to look at it; nothing else on the host is changed
        #[arg(long, value_name = "FOLDER")]
        to: Option<PathBuf>,
        #[command(flatten)]
        place: Second,
        /// The file of the private key, where the copy at the second place is encrypted
        #[arg(long, value_name = "FILE", requires = "second")]
        identity: Option<PathBuf>,
    },
}

#[derive(clap::Args)]
struct Second {
    /// At the second place ([backup.second] in agent.toml), and not on this host
    #[arg(long)]
    second: bool,
    /// Of this host: its id there. Without it, of this one
    #[arg(long, value_name = "HOST", requires = "second")]
    of: Option<String>,
}

pub(super) fn run(common: &Common, args: Args) -> Result<ExitCode> {
    let settings = Settings::load(&common.data, common.config.as_deref())?;
    let backups = Backups::new(&RealFiles, settings.data.clone());
    match args.act {
        Act::SetAside { output } => aside::list(&backups, output),
        Act::Release { id } => aside::release(&settings, &backups, &id),
        Act::List { place: Second { second: true, of }, output } => {
            second::list(&settings, of.as_deref(), output)
        }
        Act::List { output, .. } => list::run(&backups, output),
        Act::Verify { ids, place: Second { second: true, of }, output } => {
            let ids: Vec<BackupId> = ids.iter().map(|id| parse(id)).collect::<Result<_>>()?;
            second::verify(&settings, of.as_deref(), &ids, output)
        }
        Act::Verify { ids, output, .. } => verify::run(&backups, &ids, output),
        Act::Restore { id, to, place: Second { second: true, of }, identity } => {
            let to = to.context(
                "what is at the second place is brought back into a folder\n\
                 help: name one that is not there yet, with --to",
            )?;
            second::restore(&settings, of.as_deref(), &parse(&id)?, &to, identity.as_deref())
        }
        Act::Restore { id, to: Some(folder), .. } => beside::run(&backups, &parse(&id)?, &folder),
        Act::Restore { id, to: None, .. } => bring_back::run(&settings, &parse(&id)?),
    }
}

/// Of a backup without a seal.
const UNFINISHED: &str = "unfinished: nothing was changed after it";

fn parse(id: &str) -> Result<BackupId> {
    BackupId::parse(id).ok().with_context(|| {
        format!("`{id}` is no id of a backup\nhelp: `refit-agent backup list` shows them")
    })
}

fn version(release: Option<&ReleaseId>) -> Option<&str> {
    release.map(|release| release.version.as_str())
}

fn bytes(index: &Index) -> u64 {
    let entries = index.covered.iter().flat_map(|covered| &covered.entries);
    let lengths = entries.map(|entry| match &entry.what {
        What::File { content } => content.length,
        What::HardLink { .. } | What::Directory | What::Link { .. } => 0,
    });
    let dumps = index.dumps.iter().filter_map(|dump| Some(dump.content?.length));
    lengths.chain(dumps).sum()
}
