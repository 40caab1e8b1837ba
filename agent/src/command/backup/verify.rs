//! `refit-agent backup verify`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use refit_agent::{
    host::backup::{BackupError, Backups, Checked},
    update::BackupId,
};
use serde_json::json;

use super::{Output, UNFINISHED, bytes, parse};

/// What came of reading one backup.
enum Verified {
    /// All of it is what was sealed: so many bytes.
    Whole(u64),
    /// It never had a seal, so nothing was changed after it.
    Unfinished,
    /// There is none of this id.
    Missing,
    /// What is wrong, file by file.
    Damaged(Vec<BackupError>),
}

pub(super) fn run(backups: &Backups<'_>, ids: &[String], output: Output) -> Result<ExitCode> {
    let named = !ids.is_empty();
    let ids = match ids {
        [] => backups.list()?,
        ids => ids.iter().map(|id| parse(id)).collect::<Result<_>>()?,
    };
    let (mut bad, mut rows) = (0, Vec::new());
    for id in &ids {
        let verified = verify(backups, id)?;
        // Its update ended just now and took it away.
        if matches!(verified, Verified::Missing) && !named {
            continue;
        }
        bad += usize::from(matches!(verified, Verified::Damaged(_) | Verified::Missing));
        match output {
            Output::Text => say(id, &verified),
            Output::Json => rows.push(row(id, &verified)),
        }
    }
    if let Output::Json = output {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    }
    match bad {
        0 => Ok(ExitCode::SUCCESS),
        n => bail!(
            "{n} of {} backups can't be relied on\n\
             help: they are never gone back to; the next update makes a new one",
            ids.len()
        ),
    }
}

fn verify(backups: &Backups<'_>, id: &BackupId) -> Result<Verified> {
    if !backups.is_begun(id)? {
        return Ok(Verified::Missing);
    }
    if !backups.is_sealed(id)? {
        return Ok(Verified::Unfinished);
    }
    let Checked { index, damages } = backups.check(id);
    Ok(match index {
        Some(index) if damages.is_empty() => Verified::Whole(bytes(&index)),
        // Taken away while it was read.
        Some(_) | None if !backups.is_begun(id)? => Verified::Missing,
        Some(_) | None => Verified::Damaged(damages),
    })
}

/// An error in one line, without its help.
fn why(error: &BackupError) -> String {
    error.to_string().split("\nhelp:").next().unwrap_or_default().to_owned()
}

fn say(id: &BackupId, verified: &Verified) {
    match verified {
        Verified::Whole(bytes) => println!("{id}  whole: {bytes} bytes are what was sealed"),
        Verified::Unfinished => println!("{id}  {UNFINISHED}"),
        Verified::Missing => eprintln!("{id}  there is no such backup here"),
        Verified::Damaged(damages) => {
            for error in damages {
                eprintln!("{id}  {}", why(error));
            }
        }
    }
}

fn row(id: &BackupId, verified: &Verified) -> serde_json::Value {
    let id = id.as_str();
    match verified {
        Verified::Whole(bytes) => json!({ "id": id, "state": "whole", "bytes": bytes }),
        Verified::Unfinished => json!({ "id": id, "state": "unfinished" }),
        Verified::Missing => json!({ "id": id, "state": "missing" }),
        Verified::Damaged(damages) => json!({
            "id": id,
            "state": "damaged",
            "damages": damages.iter().map(why).collect::<Vec<_>>(),
        }),
    }
}
