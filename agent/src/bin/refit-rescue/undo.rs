//! Runs the steps of a way back in their order. Everything saved is checked before anything is touched.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    disk,
    owners::Numbers,
    systemd::{Start, Systemd},
    way_back::{Step, Undoing, WayBack},
};

/// Runs a way back from its first step to its last. A service that does not start keeps no other from
/// starting.
///
/// # Errors
/// If anything saved is damaged: then nothing was touched. Or the first step that failed.
pub(crate) fn run(way_back: &WayBack, systemd: &Systemd, start: Start) -> Result<()> {
    for step in &way_back.steps {
        check(step).with_context(|| {
            format!("the backup is damaged, nothing was touched: {}", step.line)
        })?;
    }
    let numbers = Numbers::now(&way_back.users, &way_back.groups);
    let mut not_started = Ok(());
    for step in &way_back.steps {
        let taken = take(step, &numbers, systemd, start).with_context(|| step.line.clone());
        match (&step.undoing, taken) {
            (_, Ok(())) => {}
            (Undoing::StartUnit { .. }, Err(error)) => not_started = not_started.and(Err(error)),
            (_, Err(error)) => return Err(error),
        }
    }
    not_started
}

fn is_left_out(step: &Step) -> Result<bool> {
    step.unless.as_deref().map_or(Ok(false), disk::exists)
}

fn check(step: &Step) -> Result<()> {
    match &step.undoing {
        Undoing::File { from, sha256, .. } if !is_left_out(step)? => {
            ensure!(disk::sha256(from)? == *sha256, "{} is not what was sealed", from.display());
            Ok(())
        }
        _ => Ok(()),
    }
}

fn take(step: &Step, numbers: &Numbers, systemd: &Systemd, start: Start) -> Result<()> {
    if is_left_out(step)? {
        return Ok(());
    }
    match &step.undoing {
        Undoing::Link { path, target } => disk::link(path, target),
        Undoing::RemoveLink { path } => disk::remove_link(path),
        Undoing::Folder { path, owned } => disk::folder(path, numbers.owned(*owned)),
        Undoing::File { path, from, sha256, owned } => {
            disk::file(path, from, sha256, numbers.owned(*owned))
        }
        Undoing::Remove { path } => disk::remove(path),
        Undoing::Swap { path, from, aside } => disk::swap(path, from, aside),
        Undoing::Attribute { path, name, value } => disk::attribute(path, name, value),
        Undoing::Owner { path, uid, gid } => {
            let (uid, gid) = numbers.owner(*uid, *gid);
            disk::owner(path, uid, gid)
        }
        Undoing::Mode { path, mode } => disk::mode(path, *mode),
        Undoing::Modified { path, seconds, nanos } => disk::modified(path, *seconds, *nanos),
        Undoing::HardLink { path, from } => disk::hard_link(path, from),
        Undoing::StopUnit { unit } => systemd.stop(unit),
        Undoing::ReloadUnits => systemd.reload(),
        Undoing::StartUnit { unit } => systemd.start(unit, start),
        Undoing::Run { command, timeout } => {
            let (program, arguments) = command.split_first().context("no command")?;
            let mut saved = Command::new(program);
            saved.args(arguments).current_dir("/").stdin(Stdio::null());
            match crate::systemd::ended(saved, *timeout)? {
                Some(status) if status.success() => Ok(()),
                Some(status) => bail!("it ended with {status}"),
                None => bail!("it took longer than {} s", timeout.as_secs()),
            }
        }
    }
}
