//! `refit-agent backup`: what this host could go back to, whether it still is what was saved, and going back.

use std::{path::Path, process::ExitCode, thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use jiff::Timestamp;
use refit_agent::{
    bundle::new_install,
    host::{
        backup::{Backups, Index, What},
        files::RealFiles,
    },
    restore::Progress,
    settings::Settings,
    status::{self, Question},
    update::{BackupId, ReleaseId},
};
use serde_json::json;

use super::{Common, status::Output};

/// How often to look.
const LOOK: Duration = Duration::from_millis(300);

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
        /// As lines for people, or as JSON for programs
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Read backups again, byte by byte, and compare them with their seals
    Verify {
        /// Which; all of them if none is named
        ids: Vec<String>,
    },
    /// Bring a backup back: programs, units and configuration as they were before that update. What stands
    /// there now is set aside and named
    Restore {
        /// Which, of `refit-agent backup list`
        id: String,
    },
}

pub(super) fn run(common: &Common, args: Args) -> Result<ExitCode> {
    let settings = Settings::load(&common.data, common.config.as_deref())?;
    let backups = Backups::new(&RealFiles, settings.data.clone());
    match args.act {
        Act::List { output } => list(&backups, output),
        Act::Verify { ids } => verify(&backups, &ids),
        Act::Restore { id } => restore(&settings, &parse(&id)?),
    }
}

/// Of a backup without a seal.
const UNFINISHED: &str = "unfinished: nothing was changed after it";

fn parse(id: &str) -> Result<BackupId> {
    BackupId::parse(id).ok().with_context(|| {
        format!("`{id}` is no id of a backup\nhelp: `refit-agent backup list` shows them")
    })
}

fn list(backups: &Backups<'_>, output: Output) -> Result<ExitCode> {
    let mut found = Vec::new();
    for id in backups.list()? {
        let index = match backups.is_sealed(&id)? {
            true => backups.index(&id).map_err(|error| error.to_string()),
            false => Err(UNFINISHED.to_owned()),
        };
        let pinned = backups.is_pinned(&id)?;
        found.push((id, index, pinned));
    }
    found.sort_by_key(|(id, index, _)| {
        std::cmp::Reverse((index.as_ref().map_or(i64::MAX, |index| index.made), id.clone()))
    });
    match output {
        Output::Json => {
            let mut rows = Vec::new();
            for (id, index, pinned) in &found {
                rows.push(match index {
                    Ok(index) => json!({
                        "id": id.as_str(),
                        "product": index.product.as_str(),
                        "from": version(index.from.as_ref()),
                        "to": version(index.to.as_ref()),
                        "made": made(index),
                        "paths": index.covered.iter().map(|it| it.path.display().to_string()).collect::<Vec<_>>(),
                        "bytes": bytes(index),
                        "own_bytes": backups.own_bytes(index)?,
                        "kept_for_a_person": pinned,
                    }),
                    Err(error) => json!({ "id": id.as_str(), "unusable": error }),
                });
            }
            println!("{}", serde_json::to_string_pretty(&rows)?);
        }
        Output::Text if found.is_empty() => {
            println!("no backup is here: no release was installed yet")
        }
        Output::Text => {
            for (id, index, pinned) in &found {
                match index {
                    Ok(index) => println!("{}", line(backups, id, index, *pinned)?),
                    Err(error) => println!("{id}  {}", error.lines().next().unwrap_or_default()),
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn line(backups: &Backups<'_>, id: &BackupId, index: &Index, pinned: bool) -> Result<String> {
    let from = version(index.from.as_ref()).unwrap_or("nothing");
    let to = version(index.to.as_ref()).unwrap_or("?");
    let pinned = if pinned { ", kept for a person" } else { "" };
    Ok(format!(
        "{id}  {} {from} -> {to}, {}: {} paths, {} bytes ({} of them its own){pinned}",
        index.product,
        made(index).unwrap_or_else(|| "no date".into()),
        index.covered.len(),
        bytes(index),
        backups.own_bytes(index)?,
    ))
}

fn version(release: Option<&ReleaseId>) -> Option<&str> {
    release.map(|release| release.version.as_str())
}

fn made(index: &Index) -> Option<String> {
    let made = Timestamp::from_second(index.made).ok()?;
    (index.made > 0).then(|| made.to_string())
}

fn bytes(index: &Index) -> u64 {
    let entries = index.covered.iter().flat_map(|covered| &covered.entries);
    let lengths = entries.map(|entry| match &entry.what {
        What::File { content } => content.length,
        What::HardLink { .. } | What::Directory | What::Link { .. } => 0,
    });
    lengths.sum()
}

fn verify(backups: &Backups<'_>, ids: &[String]) -> Result<ExitCode> {
    let named = !ids.is_empty();
    let ids = match ids {
        [] => backups.list()?,
        ids => ids.iter().map(|id| parse(id)).collect::<Result<_>>()?,
    };
    let mut damaged = 0;
    for id in &ids {
        match backups.own_seal(id).and_then(|seal| backups.verify(&seal)) {
            Ok(index) => println!("{id}  whole: {} bytes are what was sealed", bytes(&index)),
            // It never had a seal, or its update ended just now and took it away.
            Err(_) if backups.is_begun(id)? && !backups.is_sealed(id)? => {
                println!("{id}  {UNFINISHED}");
            }
            Err(_) if !named && !backups.is_begun(id)? => {}
            Err(error) => {
                damaged += 1;
                eprintln!("{id}  {error}");
            }
        }
    }
    match damaged {
        0 => Ok(ExitCode::SUCCESS),
        n => bail!(
            "{n} of {} backups can't be relied on\n\
             help: they are never gone back to; the next update makes a new one",
            ids.len()
        ),
    }
}

fn restore(settings: &Settings, backup: &BackupId) -> Result<ExitCode> {
    let question = Question::Restore { backup: backup.clone(), install: new_install() };
    let mut said = String::new();
    loop {
        let answer = status::ask(&settings.socket(), &question)
            .context("the running agent does not answer\nhelp: only its own user may ask it")?
            .with_context(|| no_agent(&settings.data))?;
        if let Some(error) = answer["error"].as_str() {
            bail!("{error}");
        }
        let now =
            match serde_json::from_value(answer).context("the agent answers something else")? {
                Progress::Waiting => "waits for its turn".to_owned(),
                Progress::UnderWay { text } if text.is_empty() => "is brought back".to_owned(),
                Progress::UnderWay { text } => format!("is brought back: {text}"),
                Progress::Refused { text } => bail!("it is not brought back: {text}"),
                Progress::Done { text } => {
                    println!("backup {backup} is brought back: {text}");
                    return Ok(ExitCode::SUCCESS);
                }
            };
        if said != now {
            println!("  {now}");
            said = now;
        }
        thread::sleep(LOOK);
    }
}

fn no_agent(data: &Path) -> String {
    format!(
        "no agent runs on {}\nhelp: start it, `systemctl start refit-agent`; it needs no network",
        data.display()
    )
}
