//! Hands signed files to the server, which takes all or none, and makes a change again on what somebody
//! else published meanwhile, where `conflict` says so.

use anyhow::bail;
use prost::Message as _;
use refit_proto::{
    trust::{Role, TrustedSet},
    wire::{Conflict, MetadataFile, PushMetadataReply, PushMetadataRequest},
};
use tonic::{Code, Status};

use crate::{
    Context,
    conflict::{After, Situation, after_conflict},
    connect::Connection,
    failure::refused,
    output, trust,
};

/// What became of a push.
pub(crate) enum Pushed {
    Done(PushMetadataReply),
    /// Somebody else changed a role meanwhile.
    Conflict(Told),
}

/// Who changed what meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    conflict: Option<Conflict>,
    message: String,
}

/// Sends files; `act` says in errors what for.
pub(crate) async fn push(
    connection: &Connection,
    act: &str,
    files: Vec<MetadataFile>,
) -> anyhow::Result<Pushed> {
    match connection.repository().push_metadata(PushMetadataRequest { files }).await {
        Ok(reply) => Ok(Pushed::Done(reply.into_inner())),
        Err(status) => match told(&status) {
            Some(told) => Ok(Pushed::Conflict(told)),
            None => Err(refused(act)(status)),
        },
    }
}

fn told(status: &Status) -> Option<Told> {
    if status.code() != Code::Aborted {
        return None;
    }
    let conflict =
        Conflict::decode(status.details()).ok().filter(|conflict| !conflict.role.is_empty());
    Some(Told { conflict, message: status.message().to_owned() })
}

impl Told {
    /// One sentence.
    pub(crate) fn in_words(&self) -> String {
        match &self.conflict {
            Some(Conflict { role, held_version, published_by, published_at }) => {
                let by = if published_by.is_empty() { "somebody else" } else { published_by };
                format!("{by} published version {held_version} of {role} at {published_at}")
            }
            None => self.message.clone(),
        }
    }
}

/// A change to one role's file.
pub(crate) trait Change {
    /// Whose file.
    fn role(&self) -> Role;

    /// Other roles that have to be looked at to make it.
    fn also(&self) -> Vec<Role> {
        Vec::new()
    }

    /// What is being done, for errors: "promote payments 2.4.1 to pilot".
    fn act(&self) -> String;

    /// The signed file after the one in this set. `round` counts from 0.
    fn file(&self, context: &Context, set: &TrustedSet, round: u32) -> anyhow::Result<Vec<u8>>;

    /// Documents that the file names, for those who have to be told what they would sign.
    fn documents(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }

    /// Whether others have to sign the file before it may be published.
    fn waits_for_others(&self, set: &TrustedSet, file: &[u8]) -> anyhow::Result<bool> {
        trust::is_missing_signatures(set, &self.role(), file)
    }

    /// Whether the change is in the newest set, and whether others touched what it changes since `base`.
    fn situation(&self, base: &TrustedSet, newest: &TrustedSet) -> Situation;
}

/// How far a change has come.
pub(crate) enum Carried {
    /// It is published.
    Out,
    /// Others have to sign it as well; it waits on the server.
    Proposed(trust::Proposed),
}

impl Carried {
    /// Says that it is done, or for whom it waits.
    pub(crate) fn tell(self, done: &str) -> anyhow::Result<()> {
        match self {
            Carried::Out => output::line(done),
            Carried::Proposed(proposed) => output::line(&proposed.in_words()),
        }
    }
}

/// The newest metadata that a change is made on.
pub(crate) async fn base(
    context: &Context,
    connection: &Connection,
    change: &impl Change,
) -> anyhow::Result<TrustedSet> {
    let mut roles = change.also();
    roles.push(change.role());
    let set = trust::newest(context, connection, &roles).await?;
    trust::authority(&set, &change.role())?;
    Ok(set)
}

/// Makes a change, on what others published meanwhile if need be. Done is what a host would see: it is
/// verified from the own root, not what the server says.
pub(crate) async fn carry_out(
    context: &Context,
    connection: &Connection,
    change: &impl Change,
    mut set: TrustedSet,
) -> anyhow::Result<Carried> {
    for round in 0.. {
        let file = change.file(context, &set, round)?;
        if change.waits_for_others(&set, &file)? {
            return Ok(Carried::Proposed(
                trust::propose(
                    context,
                    connection,
                    &set,
                    (change.role(), file),
                    change.documents(),
                )
                .await?,
            ));
        }
        let files = vec![MetadataFile { role: change.role().to_string(), file }];
        let Pushed::Conflict(told) = push(connection, &change.act(), files).await? else { break };
        let newest = base(context, connection, change).await?;
        let threshold = trust::authority(&newest, &change.role())?.0.threshold;
        match after_conflict(change.situation(&set, &newest), threshold, round) {
            After::Nothing => break,
            After::SignAgain => output::line(&format!("{}; signing again on it", told.in_words()))?,
            After::Stop(why) => bail!("{}: {}", told.in_words(), why.in_words()),
        }
        set = newest;
    }
    let newest = base(context, connection, change).await?;
    if change.situation(&set, &newest).there {
        return Ok(Carried::Out);
    }
    bail!(
        "the server took the change and does not show it: {}\n\
         help: give the command again; if it stays, the server is not what it should be",
        change.act()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_says_who_published_what() {
        let conflict = Conflict {
            role: "release.payments".into(),
            held_version: 7,
            published_by: "person bob".into(),
            published_at: "2026-01-01T00:00:00Z".into(),
        };
        let details = conflict.encode_to_vec().into();
        let status = Status::with_details(Code::Aborted, "conflict", details);
        assert_eq!(
            told(&status).unwrap().in_words(),
            "person bob published version 7 of release.payments at 2026-01-01T00:00:00Z"
        );
        assert_eq!(told(&Status::aborted("held is 7")).unwrap().in_words(), "held is 7");
        assert_eq!(told(&Status::internal("x")), None);
    }
}
