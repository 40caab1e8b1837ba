//! `refit-agent backup`: what this host could go back to, whether it still is what was saved, and going back.

mod aside;
mod beside;
mod bring_back;
mod list;
mod second;
mod verify;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use refit_agent::{
    host::{
        backup::{Backups, Index, What},
        files::RealFiles,
    },
    settings::Settings,
    update::{BackupId, ReleaseId},
};

use super::{
    Common,
    line::{Arg, Command, Does, Given, Wrong},
    status::Output,
};

const SECOND: Arg = Arg::switch(
    "second",
    "At the second place ([backup.second] in agent.toml), and not on this host",
);
const OF: Arg = Arg::option("of", "HOST", "Of this host: its id there. Without it, of this one");
const ID: Arg = Arg::word("ID", "Which, of `refit-agent backup list`");
const IDS: Arg = Arg::word("IDS", "Which; all of them if none is named").any_number();
const ASIDE: Arg = Arg::word("ID", "Which, of `refit-agent backup set-aside`");
const TO: Arg = Arg::option(
    "to",
    "FOLDER",
    "Make it anew in this folder instead, to look at it; nothing else on the host is changed",
);
const IDENTITY: Arg = Arg::option(
    "identity",
    "FILE",
    "The file of the private key, where the copy at the second place is encrypted",
);

pub(super) const COMMAND: Command = Command {
    name: "backup",
    about: "List, verify or bring back what this host saved before its updates",
    does: Does::OneOf(&[
        Command {
            name: "list",
            about: "The backups that are here, the newest first",
            args: &[SECOND, OF, Output::ARG],
            does: Does::This(list),
            ..Command::NONE
        },
        Command {
            name: "verify",
            about: "Read backups again, byte by byte, and compare them with their seals. Names every damaged \
                    file; the exit code is 0 only if there is none",
            args: &[IDS, SECOND, OF, Output::ARG],
            does: Does::This(verify),
            ..Command::NONE
        },
        Command {
            name: "set-aside",
            about: "What going back has set aside, and keeps until it is released",
            args: &[Output::ARG],
            does: Does::This(set_aside),
            ..Command::NONE
        },
        Command {
            name: "release",
            about: "Remove for good what one way back has set aside, databases too",
            args: &[ASIDE],
            does: Does::This(release),
            ..Command::NONE
        },
        Command {
            name: "restore",
            about: "Bring a backup back: programs, units and configuration as they were before that update, and \
                    data that was converted since. What stands there now is set aside and named",
            args: &[ID, TO, SECOND, OF, IDENTITY],
            does: Does::This(restore),
            ..Command::NONE
        },
    ]),
    ..Command::NONE
};

/// Whose backups at the second place are meant; `None`: those on this host.
fn second(given: &Given) -> Result<Option<Second>, Wrong> {
    given.needs(&OF, &SECOND)?;
    Ok(if given.has(&SECOND) { Some(Second { of: given.text(&OF)? }) } else { None })
}

struct Second {
    /// Of the host with this id; else of this one.
    of: Option<String>,
}

fn backups(settings: &Settings) -> Backups<'static> {
    Backups::new(&RealFiles, settings.data.clone())
}

fn list(given: &Given) -> Result<ExitCode> {
    let (second, output) = (second(given)?, Output::of(given)?);
    let settings = Common::of(given)?.settings()?;
    match second {
        Some(Second { of }) => second::list(&settings, of.as_deref(), output),
        None => list::run(&backups(&settings), output),
    }
}

fn verify(given: &Given) -> Result<ExitCode> {
    let (second, output) = (second(given)?, Output::of(given)?);
    let ids = given.texts(&IDS)?;
    let settings = Common::of(given)?.settings()?;
    match second {
        Some(Second { of }) => {
            let ids: Vec<BackupId> = ids.iter().map(|id| parse(id)).collect::<Result<_>>()?;
            second::verify(&settings, of.as_deref(), &ids, output)
        }
        None => verify::run(&backups(&settings), &ids, output),
    }
}

fn set_aside(given: &Given) -> Result<ExitCode> {
    let output = Output::of(given)?;
    aside::list(&backups(&Common::of(given)?.settings()?), output)
}

fn release(given: &Given) -> Result<ExitCode> {
    let id = given.must(&ASIDE, given.text(&ASIDE)?)?;
    let settings = Common::of(given)?.settings()?;
    aside::release(&settings, &backups(&settings), &id)
}

fn restore(given: &Given) -> Result<ExitCode> {
    let (second, to, identity) = (second(given)?, given.path(&TO), given.path(&IDENTITY));
    given.needs(&IDENTITY, &SECOND)?;
    let id = given.must(&ID, given.text(&ID)?)?;
    let settings = Common::of(given)?.settings()?;
    match (second, to) {
        (Some(Second { of }), to) => {
            let to = to.context(
                "what is at the second place is brought back into a folder\n\
                 help: name one that is not there yet, with --to",
            )?;
            second::restore(&settings, of.as_deref(), &parse(&id)?, &to, identity.as_deref())
        }
        (None, Some(folder)) => beside::run(&backups(&settings), &parse(&id)?, &folder),
        (None, None) => bring_back::run(&settings, &parse(&id)?),
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
