//! The keys folder: which keys are kept here, and which one a word on the command line means.
//!
//! `NAME.pem` is a private half, `NAME.signer.json` says which program has it, and `NAME.pub.json` is the
//! public half, which can be handed to anybody.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use refit_proto::trust::{PublicKey, Role, Signer as _};

use super::{
    command::SignerCommand,
    held::{HeldKey, Kind},
    pem::KeyFile,
    secrets,
};
use crate::{Context, home};

const PRIVATE: &str = ".pem";
const SIGNER: &str = ".signer.json";
const PUBLIC: &str = ".pub.json";

/// What the key of the environment is called on the command line.
pub(super) const ENVIRONMENT: &str = "environment";

/// A key of the folder, or the one of the environment.
pub(super) struct Kept {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Not known of an encrypted key without its public half.
    pub(super) public: Option<PublicKey>,
}

/// All keys that are kept here.
pub(super) fn all(context: &Context) -> anyhow::Result<Vec<Kept>> {
    let folder = context.home.keys();
    let mut all = Vec::new();
    for name in names(&folder)? {
        all.push(in_folder(&folder, name)?);
    }
    if let Some(key) = context.home.secrets().environment()? {
        let public = Some(key.public().clone());
        all.push(Kept { name: ENVIRONMENT.to_owned(), kind: Kind::Environment, public });
    }
    Ok(all)
}

fn in_folder(folder: &Path, name: String) -> anyhow::Result<Kept> {
    let beside = public_half(folder, &name)?;
    let pem = folder.join(format!("{name}{PRIVATE}"));
    let (kind, public) = if pem.is_file() {
        match secrets::read(&pem)? {
            // What the private half says counts.
            KeyFile::Plain(key) => (Kind::PlainFile, Some(key.public().clone())),
            KeyFile::Encrypted(_) => (Kind::EncryptedFile, beside),
        }
    } else if folder.join(format!("{name}{SIGNER}")).is_file() {
        (Kind::Command, beside)
    } else {
        (Kind::Elsewhere, beside)
    };
    Ok(Kept { name, kind, public })
}

/// The names of all keys in a folder, whichever half of them is there.
fn names(folder: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    if folder.is_dir() {
        let entries =
            fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let file = entry?.file_name().to_string_lossy().into_owned();
            let name = [PUBLIC, SIGNER, PRIVATE].iter().find_map(|end| file.strip_suffix(end));
            names.extend(name.filter(|name| !name.starts_with('.')).map(str::to_owned));
        }
    }
    Ok(names)
}

fn public_half(folder: &Path, name: &str) -> anyhow::Result<Option<PublicKey>> {
    let path = folder.join(format!("{name}{PUBLIC}"));
    if path.is_file() { read_public(&path).map(Some) } else { Ok(None) }
}

/// `root.alice.pem` → `root.alice.pub.json`.
pub(super) fn public_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = [SIGNER, PRIVATE].iter().find_map(|end| name.strip_suffix(end));
    match stem {
        Some(stem) => path.with_file_name(format!("{stem}{PUBLIC}")),
        None => path.with_extension(PUBLIC.trim_start_matches('.')),
    }
}

/// Where the private half of a new key of this name goes.
pub(super) fn private_path(context: &Context, name: &str) -> PathBuf {
    context.home.keys().join(format!("{name}{PRIVATE}"))
}

/// Where it is noted which program has a key.
pub(super) fn signer_path(context: &Context, name: &str) -> PathBuf {
    context.home.keys().join(format!("{name}{SIGNER}"))
}

/// The file that a word on the command line means: a path, a holder's key for the role, or a key kept
/// here by its full name.
fn find(context: &Context, role: Option<&Role>, word: &str) -> anyhow::Result<PathBuf> {
    let named = PathBuf::from(word);
    if named.is_file() {
        return Ok(named);
    }
    let keys = context.home.keys();
    let full = role.map(|role| format!("{role}.{word}"));
    full.into_iter()
        .chain([word.to_owned()])
        .flat_map(|name| [PRIVATE, SIGNER, PUBLIC].map(|end| format!("{name}{end}")))
        .map(|name| keys.join(name))
        .find(|path| !word.contains('/') && path.is_file())
        .with_context(|| {
            let purpose = role.map(|role| format!(" for {role}")).unwrap_or_default();
            format!(
                "there is no key {word:?}{purpose}, neither as a file nor in {}\n\
                 help: `refit key list` shows those kept here; `refit key generate` makes one",
                keys.display()
            )
        })
}

/// The kind of the key that a word means, and its public half.
pub(super) fn shown(context: &Context, word: &str) -> anyhow::Result<(Kind, PublicKey)> {
    if word == ENVIRONMENT {
        return Ok((Kind::Environment, environment(context)?.public().clone()));
    }
    let path = find(context, None, word)?;
    let kind = match Half::of(&path) {
        Half::Public => Kind::Elsewhere,
        Half::Signer => Kind::Command,
        Half::Private => match secrets::read(&path)? {
            KeyFile::Plain(_) => Kind::PlainFile,
            KeyFile::Encrypted(_) => Kind::EncryptedFile,
        },
    };
    Ok((kind, public(context, None, word)?))
}

/// The public half of the key that a word means; a private key file has it too.
pub(crate) fn public(
    context: &Context,
    role: Option<&Role>,
    word: &str,
) -> anyhow::Result<PublicKey> {
    if word == ENVIRONMENT {
        return Ok(environment(context)?.public().clone());
    }
    let path = find(context, role, word)?;
    match Half::of(&path) {
        Half::Public => read_public(&path),
        Half::Private | Half::Signer => Ok(held(context, path)?.public().clone()),
    }
}

/// The key that a word means, to sign with.
pub(crate) fn private(context: &Context, role: &Role, word: &str) -> anyhow::Result<HeldKey> {
    if word == ENVIRONMENT {
        return environment(context);
    }
    held(context, find(context, Some(role), word)?)
}

/// The keys kept here that can sign and whose public half is among these. None is opened yet.
pub(crate) fn at_hand(
    context: &Context,
    wanted: impl Fn(&PublicKey) -> bool,
) -> anyhow::Result<Vec<HeldKey>> {
    let mut keys = Vec::new();
    for Kept { name, kind, public } in all(context)? {
        let fits = public.as_ref().is_some_and(&wanted);
        match kind {
            Kind::EncryptedFile | Kind::Command if public.is_none() => eprintln!(
                "warning: {name}{PUBLIC} is missing, so nobody can tell what key {name} signs; it is \
                 left out\nhelp: name it with --key, or write what `refit key show {name}` prints there"
            ),
            Kind::EncryptedFile | Kind::PlainFile if fits => {
                keys.push(held(context, private_path(context, &name))?);
            }
            Kind::Command if fits => keys.push(held(context, signer_path(context, &name))?),
            Kind::Environment if fits => keys.push(environment(context)?),
            Kind::EncryptedFile
            | Kind::PlainFile
            | Kind::Command
            | Kind::Environment
            | Kind::Elsewhere => {}
        }
    }
    Ok(keys)
}

fn environment(context: &Context) -> anyhow::Result<HeldKey> {
    let key = context.home.secrets().environment()?.with_context(|| {
        format!("{} is not set\nhelp: it has to hold a private key", secrets::SIGNING_KEY)
    })?;
    Ok(HeldKey::environment(key))
}

/// What a key's file is, by its name.
enum Half {
    Private,
    Signer,
    Public,
}

impl Half {
    fn of(path: &Path) -> Half {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match name {
            name if name.ends_with(SIGNER) => Half::Signer,
            name if name.ends_with(PRIVATE) => Half::Private,
            _ => Half::Public,
        }
    }
}

fn held(context: &Context, path: PathBuf) -> anyhow::Result<HeldKey> {
    let beside = || {
        let path = public_path(&path);
        if path.is_file() { read_public(&path).map(Some) } else { Ok(None) }
    };
    match Half::of(&path) {
        Half::Public => bail!(
            "{} is the public half of a key, and signs nothing\n\
             help: name the key's private half, or let whoever has it sign",
            path.display()
        ),
        Half::Signer => {
            let command = read_signer(&path)?;
            let public = match beside()? {
                Some(public) => public,
                None => command.public()?,
            };
            Ok(HeldKey::command(public, command))
        }
        Half::Private => {
            let secrets = context.home.secrets().clone();
            let public = match (secrets::read(&path)?, beside()?) {
                (KeyFile::Plain(key), _) => key.public().clone(),
                (KeyFile::Encrypted(_), Some(public)) => public,
                (KeyFile::Encrypted(_), None) => secrets.open(&path)?.public().clone(),
            };
            Ok(HeldKey::file(public, path, secrets))
        }
    }
}

fn read_public(path: &Path) -> anyhow::Result<PublicKey> {
    let bytes = home::read(path)?.with_context(|| format!("{} is missing", path.display()))?;
    PublicKey::from_json(&bytes).with_context(|| path.display().to_string())
}

fn read_signer(path: &Path) -> anyhow::Result<SignerCommand> {
    let bytes = home::read(path)?.with_context(|| format!("{} is missing", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| {
        format!(
            "{} is damaged\nhelp: move it away, and add the key again: `refit key add`",
            path.display()
        )
    })
}
