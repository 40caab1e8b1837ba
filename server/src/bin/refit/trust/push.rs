//! `refit trust push`: sends what was made here and the server lacks, all of it or nothing.

use std::collections::BTreeMap;

use anyhow::{bail, ensure};
use refit_proto::{
    trust::{Role, Stored},
    wire::MetadataFile,
};

use super::{
    OwnCopy,
    own::Unsent,
    refresh::{self, newest, refresh},
};
use crate::{
    Context,
    connect::Connection,
    output,
    publish::{Pushed, push},
    server_keys,
};

/// Options of `refit trust push`.
#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(context: &Context, _: Args) -> anyhow::Result<()> {
    all(context, &Connection::open(context).await?).await
}

/// Sends everything that is unsent.
pub(crate) async fn all(context: &Context, connection: &Connection) -> anyhow::Result<()> {
    let own = OwnCopy::of(context);
    let unsent = own.unsent()?;
    own.check_unsent(&unsent)?;
    let roles: Vec<Role> = unsent.iter().map(|file| file.role.clone()).collect();
    let wanted: Vec<Role> = roles.into_iter().filter(|role| !role.is_top_level()).collect();
    // Where something has expired, no refresh succeeds before the push; the server decides then.
    let held = match refresh(context, connection, &wanted).await {
        Ok(set) => set.map(|set| set.files()).unwrap_or_default(),
        Err(error) => {
            eprintln!("warning: the metadata on the server is not usable now: {error:#}");
            own.stored()?
        }
    };
    let (there, missing) = split(unsent, &held);
    own.sent(&there)?;
    if missing.is_empty() {
        return output::line("the server has everything that was made here");
    }
    let mut reply = None;
    for files in in_turn(&missing) {
        match push(connection, "send the metadata", files.iter().map(to_wire).collect()).await? {
            Pushed::Done(done) => reply = Some(done),
            Pushed::Conflict(conflict) => bail!(
                "{}\nhelp: `refit trust status` shows what is there; move {} away, and make the change again on it",
                conflict.in_words(),
                context.home.trust().join("unsent").display()
            ),
        }
    }
    check(context, connection, &wanted, &missing).await?;
    own.sent(&missing)?;
    follow_server_keys(context, connection).await;
    let reply = reply.unwrap_or_default();
    output::line(&format!(
        "sent {}; snapshot {}, timestamp {}",
        in_words(&missing),
        reply.snapshot,
        reply.timestamp
    ))
}

/// Where signed metadata names other keys of the server than those noted here, the note follows.
async fn follow_server_keys(context: &Context, connection: &Connection) {
    let follow = async {
        let Some(set) = refresh::everything(context, connection).await? else { return Ok(()) };
        server_keys::follow(context, &server_keys::ask(connection).await?, &set)
    };
    let followed: anyhow::Result<()> = follow.await;
    if let Err(error) = followed {
        eprintln!("warning: the server's keys could not be noted: {error:#}");
    }
}

/// One push brings one version of a role: a later version goes in a push of its own, with what is
/// ordered behind it.
fn in_turn(files: &[Unsent]) -> Vec<Vec<&Unsent>> {
    let mut turns: Vec<Vec<&Unsent>> = vec![Vec::new()];
    for file in files {
        let full = turns.last().is_some_and(|turn| turn.iter().any(|one| one.role == file.role));
        if full {
            turns.push(Vec::new());
        }
        if let Some(turn) = turns.last_mut() {
            turn.push(file);
        }
    }
    turns
}

/// Which of the unsent files the server has, and which it lacks. What it holds of a role tells of the
/// older ones too: they went before it.
fn split(unsent: Vec<Unsent>, held: &Stored) -> (Vec<Unsent>, Vec<Unsent>) {
    let reached: BTreeMap<Role, u64> = unsent
        .iter()
        .filter(|file| held.get(&file.role) == Some(&file.bytes))
        .map(|file| (file.role.clone(), file.version))
        .collect();
    unsent
        .into_iter()
        .partition(|file| reached.get(&file.role).is_some_and(|version| file.version <= *version))
}

/// Sees to it that the server shows what it took.
async fn check(
    context: &Context,
    connection: &Connection,
    wanted: &[Role],
    sent: &[Unsent],
) -> anyhow::Result<()> {
    let set = newest(context, connection, wanted).await?;
    let held = set.files();
    for file in sent {
        let newer = set.version(&file.role).is_some_and(|version| version > file.version);
        ensure!(
            newer || held.get(&file.role) == Some(&file.bytes),
            "the server took {} {} and does not show it\nhelp: send it again: `refit trust push`",
            file.role,
            file.version
        );
    }
    Ok(())
}

fn to_wire(file: &&Unsent) -> MetadataFile {
    MetadataFile { role: file.role.to_string(), file: file.bytes.clone() }
}

fn in_words(files: &[Unsent]) -> String {
    let words: Vec<_> =
        files.iter().map(|file| format!("{} {}", file.role, file.version)).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(role: &str, version: u64) -> Unsent {
        let bytes = format!("{role} {version}").into_bytes();
        Unsent { role: Role::parse(role).unwrap(), version, bytes }
    }

    #[test]
    fn a_role_that_changed_twice_is_sent_in_two_turns() {
        let files = [
            file("root", 1),
            file("targets", 1),
            file("targets", 2),
            file("policy", 1),
            file("ring.payments.pilot", 1),
        ];
        let turns: Vec<Vec<Unsent>> =
            in_turn(&files).into_iter().map(|turn| turn.into_iter().cloned().collect()).collect();
        assert_eq!(turns, [files[..2].to_vec(), files[2..].to_vec()]);
    }

    #[test]
    fn a_push_whose_answer_was_lost_is_not_sent_again() {
        let unsent =
            vec![file("targets", 1), file("targets", 2), file("targets", 3), file("policy", 1)];
        let held = |of: &Unsent| Stored::from([(of.role.clone(), of.bytes.clone())]);
        let (there, missing) = split(unsent.clone(), &held(&unsent[1]));
        assert_eq!((there, missing), (unsent[..2].to_vec(), unsent[2..].to_vec()));
        // What somebody else published says nothing about ours.
        let other = Unsent { bytes: b"other".to_vec(), ..file("targets", 2) };
        assert_eq!(split(unsent.clone(), &held(&other)), (vec![], unsent));
    }
}
