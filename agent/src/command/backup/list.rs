//! `refit-agent backup list`.

use std::process::ExitCode;

use anyhow::Result;
use jiff::Timestamp;
use refit_agent::{
    host::{
        backup::{Backups, Index},
        second::Standing,
    },
    update::BackupId,
};
use serde_json::json;

use refit_proto::sorted;

use super::{Output, UNFINISHED, bytes, version};

/// A backup as far as its list tells; its bytes are not read.
enum State {
    /// It was finished.
    Sealed(Box<Index>),
    /// It was not, so nothing was changed after it.
    Unfinished,
    /// Its list can't be read: why.
    Damaged(String),
}

impl State {
    fn word(&self) -> &'static str {
        match self {
            State::Sealed(_) => "sealed",
            State::Unfinished => "unfinished",
            State::Damaged(_) => "damaged",
        }
    }

    /// Which is newer; what can't be told counts as new.
    fn order(&self) -> i64 {
        match self {
            State::Sealed(index) => index.order(),
            State::Unfinished | State::Damaged(_) => i64::MAX,
        }
    }
}

struct Found {
    id: BackupId,
    state: State,
    pinned: bool,
    second: Option<Standing>,
}

pub(super) fn run(backups: &Backups<'_>, output: Output) -> Result<ExitCode> {
    let mut found = Vec::new();
    for id in backups.list()? {
        let state = match backups.is_sealed(&id)? {
            false => State::Unfinished,
            true => match backups.index(&id) {
                Ok(index) => State::Sealed(Box::new(index)),
                Err(error) => State::Damaged(error.to_string()),
            },
        };
        let pinned = backups.is_pinned(&id)?;
        let second = backups.copied(&id)?.map(|copied| copied.standing);
        found.push(Found { id, state, pinned, second });
    }
    sorted::sort_by(&mut found, |a, b| (b.state.order(), &b.id).cmp(&(a.state.order(), &a.id)));
    match output {
        Output::Json => {
            let rows: Result<Vec<_>> = found.iter().map(|it| row(backups, it)).collect();
            println!("{}", serde_json::to_string_pretty(&rows?)?);
        }
        Output::Text if found.is_empty() => {
            println!("no backup is here: no release was installed yet");
        }
        Output::Text => {
            for it in &found {
                println!("{}", line(backups, it)?);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(backups: &Backups<'_>, found: &Found) -> Result<serde_json::Value> {
    let (id, state) = (found.id.as_str(), found.state.word());
    Ok(match &found.state {
        State::Sealed(index) => json!({
            "id": id,
            "state": state,
            "product": index.product.as_str(),
            "from": version(index.from.as_ref()),
            "to": version(index.to.as_ref()),
            "made": made(index),
            "paths": index.covered.iter().map(|it| it.path.display().to_string()).collect::<Vec<_>>(),
            "databases": index.dumps.iter().map(|it| it.database.name().as_str()).collect::<Vec<_>>(),
            "bytes": bytes(index),
            "own_bytes": backups.own_bytes(index)?,
            "kept_for_a_person": found.pinned,
            "tested": index.tested.words(),
            "outside": index.outside,
            "second_place": found.second,
        }),
        State::Unfinished => json!({ "id": id, "state": state, "unusable": UNFINISHED }),
        State::Damaged(why) => json!({ "id": id, "state": state, "unusable": why }),
    })
}

fn line(backups: &Backups<'_>, found: &Found) -> Result<String> {
    let id = &found.id;
    let pinned = if found.pinned { ", kept for a person" } else { "" };
    let index = match &found.state {
        State::Sealed(index) => index,
        State::Unfinished => return Ok(format!("{id}  {UNFINISHED}{pinned}")),
        State::Damaged(why) => {
            return Ok(format!("{id}  {}{pinned}", why.lines().next().unwrap_or_default()));
        }
    };
    Ok(format!(
        "{id}  {} {} -> {}, {}: {}, {} paths, {}{} bytes ({} of them its own), {}{}{pinned}",
        index.product,
        version(index.from.as_ref()).unwrap_or("nothing"),
        version(index.to.as_ref()).unwrap_or("?"),
        made(index).unwrap_or_else(|| "no date".into()),
        found.state.word(),
        index.covered.len(),
        databases(index),
        bytes(index),
        backups.own_bytes(index)?,
        index.words(),
        match &found.second {
            None => "",
            Some(Standing::Whole { .. }) => ", at the second place too",
            Some(Standing::Begun | Standing::Saved | Standing::Failed { .. }) =>
                ", not at the second place",
        },
    ))
}

fn databases(index: &Index) -> String {
    match index.dumps.len() {
        0 => String::new(),
        1 => "1 database, ".into(),
        many => format!("{many} databases, "),
    }
}

fn made(index: &Index) -> Option<String> {
    let made = Timestamp::from_second(index.made).ok()?;
    (index.made > 0).then(|| made.to_string())
}
