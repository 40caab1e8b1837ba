//! From drafts to a change, from a change to signatures, and from signatures to what is published. Who
//! signs here is told in words first what the change does; whoever is missing is named.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, bail, ensure};
use refit_proto::{
    names::Digest,
    trust::{
        KeyId, PublicKey, Role, Signer, TrustedSet,
        change::{Base, ChangeError, ChangeFile, Judged, SignatureLine},
        edit::{Draft, missing_signatures},
    },
};

use super::{OwnCopy, open, own::Unsent, paper, push, refresh};
use crate::{
    Context,
    connect::Connection,
    key::{self, HeldKey},
    output,
};

/// The first root as it is known here; `None` where none is.
pub(super) fn own_root(context: &Context) -> anyhow::Result<Option<Digest>> {
    Ok(OwnCopy::of(context).first_root_if_there()?.map(|bytes| Digest::of(&bytes)))
}

/// A change of these drafts on what is published, unsigned.
pub(crate) async fn of_drafts(
    context: &Context,
    connection: &Connection,
    set: &TrustedSet,
    drafts: &[Draft],
) -> anyhow::Result<ChangeFile> {
    let roles: Vec<Role> = drafts.iter().map(|draft| draft.role().clone()).collect();
    let base = Base::of(refresh::roots(connection).await?, set, &roles);
    from(context, base, drafts)
}

/// A change of these drafts, unsigned.
pub(super) fn from(context: &Context, base: Base, drafts: &[Draft]) -> anyhow::Result<ChangeFile> {
    let owner = owner(context);
    let steps = drafts
        .iter()
        .map(|draft| Ok((draft.role().clone(), draft.unsigned()?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(ChangeFile::new(owner, context.now, base, steps))
}

/// Judges a change by what is known here.
pub(super) fn judge(context: &Context, change: &ChangeFile) -> anyhow::Result<Judged> {
    Ok(change.judge(own_root(context)?, context.now)?)
}

/// Says in words what a change does, who has signed it, and what it is called.
pub(super) fn show(context: &Context, change: &ChangeFile, judged: &Judged) -> anyhow::Result<()> {
    let mut lines = vec![format!("proposed by {}, {}", change.owner, change.opened)];
    lines.extend(judged.in_words());
    lines.push(String::new());
    lines.extend(judged.standing());
    lines.push(format!("SHA-256 of this change: {}", judged.id));
    if let (None, Some(first)) = (own_root(context)?, judged.first_root) {
        lines.push(format!(
            "CAUTION: no root is known on this machine; the change is for the fleet whose first root is \
             {first}. Compare it with what you were told, or run `refit trust adopt` first"
        ));
    }
    output::line(&lines.join("\n"))
}

/// The keys to sign with: those that were named, or those kept here that the change waits for.
pub(super) fn keys(
    context: &Context,
    change: &ChangeFile,
    judged: &Judged,
    named: &[String],
) -> anyhow::Result<Vec<HeldKey>> {
    if named.is_empty() {
        let waits = judged.waiting();
        return key::at_hand(context, |public: &PublicKey| waits.contains(&public.id()));
    }
    named.iter().map(|word| named_key(context, change, judged, word)).collect()
}

/// A word means a file, or a holder's key for one of the roles of the change.
fn named_key(
    context: &Context,
    change: &ChangeFile,
    judged: &Judged,
    word: &str,
) -> anyhow::Result<HeldKey> {
    let mut missing = None;
    for role in change.roles() {
        match key::private(context, role, word) {
            Ok(key) if judged.names(key.public().id()) => return Ok(key),
            Ok(key) => {
                missing = Some(ChangeError::NotNamed { key: key.public().id() }.into());
            }
            Err(error) => missing = missing.or(Some(error)),
        }
    }
    Err(missing.unwrap_or_else(|| anyhow::anyhow!("the change is of no role")))
}

/// Signs with each key as long as its signature is missing; the lines that were made, by key.
pub(super) fn sign(
    context: &Context,
    change: &mut ChangeFile,
    keys: &[HeldKey],
) -> anyhow::Result<Vec<(KeyId, Vec<SignatureLine>)>> {
    let mut made = Vec::new();
    for key in keys {
        let judged = judge(context, change)?;
        let id = key.public().id();
        if !judged.waiting().contains(&id) && judged.names(id) && keys.len() > 1 {
            continue;
        }
        let lines = judged.sign(key)?;
        for line in &lines {
            change.add(line, context.now)?;
        }
        made.push((id, lines));
    }
    Ok(made)
}

/// Shows a change that is made here, and signs it with what is at hand. Whoever has not one key of it may
/// still propose it.
pub(super) fn show_and_sign(
    context: &Context,
    change: &mut ChangeFile,
    named: &[String],
) -> anyhow::Result<Judged> {
    let judged = judge(context, change)?;
    output::line(&judged.in_words().join("\n"))?;
    let keys = keys(context, change, &judged, named)?;
    sign(context, change, &keys)?;
    judge(context, change)
}

/// Publishes a change that is complete; else puts it up on the server, or writes it where it was asked for.
pub(super) async fn conclude(
    context: &Context,
    connection: Option<&Connection>,
    change: &ChangeFile,
    out: Option<&Path>,
) -> anyhow::Result<()> {
    let judged = judge(context, change)?;
    if judged.is_complete() {
        keep(context, change)?;
        return match connection {
            Some(connection) => push::all(context, connection).await,
            None => output::line("signed by everybody\nnext: refit trust push"),
        };
    }
    match (connection, out) {
        (Some(connection), None) => {
            let open = open::propose(connection, change).await?;
            let role = open.role().cloned().context("the change is of no role")?;
            let standing = judge(context, &open)?.standing();
            output::line(&Proposed { role, standing }.in_words())
        }
        (_, out) => {
            let version = judged.steps.first().map_or(0, |step| step.version);
            let path = out.map_or_else(|| paper::name(change, version), Path::to_owned);
            paper::write(&path, change)?;
            output::line(&format!(
                "{}\nwrote {path}\nnext: each of them gives `refit trust sign {path}`, and you merge what comes \
                 back: `refit trust merge {path} FILE...`",
                judged.standing().join("\n"),
                path = path.display()
            ))
        }
    }
}

/// Whether a file that was signed here still lacks signatures.
pub(crate) fn is_missing_signatures(
    set: &TrustedSet,
    role: &Role,
    file: &[u8],
) -> anyhow::Result<bool> {
    let (authority, _) = refresh::authority(set, role)?;
    Ok(missing_signatures(file, role, authority)?.0 > 0)
}

/// A change that waits for others.
pub(crate) struct Proposed {
    role: Role,
    standing: Vec<String>,
}

impl Proposed {
    /// For whom it waits, and how they sign.
    pub(crate) fn in_words(&self) -> String {
        let Proposed { role, standing } = self;
        format!(
            "{}\nput up for signing\nnext: each of them gives `refit trust sign {role}`; \
             `refit trust change fetch {role}` writes it for a machine without network",
            standing.join("\n")
        )
    }
}

/// Puts a file up for signing that was signed here by some of those who have to.
pub(crate) async fn propose(
    context: &Context,
    connection: &Connection,
    set: &TrustedSet,
    (role, file): (Role, Vec<u8>),
    documents: Vec<Vec<u8>>,
) -> anyhow::Result<Proposed> {
    let base = Base::of(refresh::roots(connection).await?, set, std::slice::from_ref(&role));
    let owner = owner(context);
    let change = ChangeFile::new(owner, context.now, base, vec![(role.clone(), file)]);
    let change = documents.into_iter().fold(change, ChangeFile::with_document);
    judge(context, &change)?;
    let open = open::propose(connection, &change).await?;
    Ok(Proposed { role, standing: judge(context, &open)?.standing() })
}

fn owner(context: &Context) -> String {
    context.home.server().map_or_else(|_| "somebody".to_owned(), |server| server.name)
}

/// Keeps the files of a complete change until the server has them. The first root becomes the own one.
pub(super) fn keep(context: &Context, change: &ChangeFile) -> anyhow::Result<()> {
    let own = OwnCopy::of(context);
    let judged = judge(context, change)?;
    ensure!(judged.is_complete(), "the change is not signed by everybody yet");
    let versions = judged.steps.iter().map(|step| step.version);
    // Last first: with the root in its place, the ceremony is over.
    for ((role, bytes), version) in change.steps().iter().zip(versions).rev() {
        own.keep_unsent(&Unsent { role: role.clone(), version, bytes: bytes.clone() })?;
        if *role == Role::Root && version == 1 {
            own.take_first_root(bytes)?;
        }
    }
    Ok(())
}

/// Who holds keys, by the words that named them: `bob.pub.json` and `root.bob` are bob's.
pub(super) fn holders<'a>(
    keys: impl IntoIterator<Item = (&'a String, KeyId)>,
) -> BTreeMap<KeyId, String> {
    keys.into_iter().map(|(word, id)| (id, holder(word))).collect()
}

fn holder(word: &str) -> String {
    let file = Path::new(word).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = [".pub.json", ".pem", ".signer.json"]
        .iter()
        .find_map(|ending| file.strip_suffix(ending))
        .unwrap_or(&file);
    match name {
        "gate" => "the server (gate)".to_owned(),
        name => name.rsplit('.').next().unwrap_or(name).to_owned(),
    }
}

/// What a word on the command line means: a change that was handed over, or the open one of a role.
pub(super) enum Meant {
    File(std::path::PathBuf),
    Open(Role),
}

impl Meant {
    pub(super) fn of(word: &str) -> anyhow::Result<Meant> {
        let path = Path::new(word);
        if path.is_file() {
            return Ok(Meant::File(path.to_owned()));
        }
        match Role::parse(word) {
            Ok(role) => Ok(Meant::Open(role)),
            Err(_) => bail!(
                "{word:?} is neither a file nor a role\nhelp: give a change that was handed over, or the role whose open change is meant"
            ),
        }
    }
}

/// Connects, where a change is open on the server.
pub(super) async fn connect(context: &Context) -> anyhow::Result<Connection> {
    Connection::open(context)
        .await
        .context("a change without a file is on the server, which can't be reached")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_holder_is_told_by_the_word_that_named_the_key() {
        for (word, holder) in [
            ("alice", "alice"),
            ("root.bob", "bob"),
            ("/media/usb/root.bob.pub.json", "bob"),
            ("bob.pub.json", "bob"),
            ("gate", "the server (gate)"),
        ] {
            assert_eq!(super::holder(word), holder, "{word}");
        }
    }
}
