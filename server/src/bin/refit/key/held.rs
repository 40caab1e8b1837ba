//! One key that can sign, wherever its private half is. All signing goes through it: it is opened when it
//! is first used, after what is to be signed was shown.

use std::{path::PathBuf, rc::Rc};

use anyhow::{Context as _, ensure};
use refit_proto::trust::{LocalKey, PublicKey, SignError, Signer};
use serde::Serialize;

use super::{command::SignerCommand, secrets::Secrets};

/// Where a private half is, and how it is guarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A file that a passphrase opens.
    EncryptedFile,
    /// A file that anybody can use who reads it.
    PlainFile,
    /// The environment of this process.
    Environment,
    /// A program of its own: a token, a key service.
    Command,
    /// Somewhere else; only the public half is here.
    Elsewhere,
}

impl Kind {
    /// For people.
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Kind::EncryptedFile => "file, encrypted",
            Kind::PlainFile => "file, NOT encrypted",
            Kind::Environment => "environment",
            Kind::Command => "command",
            Kind::Elsewhere => "",
        }
    }

    /// Whether it can sign here.
    pub(crate) fn is_here(self) -> bool {
        self != Kind::Elsewhere
    }
}

/// A key that can sign here.
pub(crate) struct HeldKey {
    public: PublicKey,
    place: Place,
}

enum Place {
    File { path: PathBuf, secrets: Rc<Secrets> },
    Environment(Box<LocalKey>),
    Command(SignerCommand),
}

impl HeldKey {
    /// A key in a file, which is opened when it signs.
    pub(super) fn file(public: PublicKey, path: PathBuf, secrets: Rc<Secrets>) -> HeldKey {
        HeldKey { public, place: Place::File { path, secrets } }
    }

    /// The key of this process's environment.
    pub(super) fn environment(key: LocalKey) -> HeldKey {
        HeldKey { public: key.public().clone(), place: Place::Environment(Box::new(key)) }
    }

    /// A key behind a program.
    pub(super) fn command(public: PublicKey, command: SignerCommand) -> HeldKey {
        HeldKey { public, place: Place::Command(command) }
    }

    fn signature(&self, message: &[u8]) -> anyhow::Result<[u8; 64]> {
        match &self.place {
            Place::File { path, secrets } => {
                let key = secrets.open(path)?;
                ensure!(
                    *key.public() == self.public,
                    "the public half beside {} is that of another key\n\
                     help: move it away; `refit key show` prints the right one",
                    path.display()
                );
                Ok(key.sign(message)?)
            }
            Place::Environment(key) => Ok(key.sign(message)?),
            Place::Command(command) => {
                command.sign(&self.public, message).context("no signature was taken")
            }
        }
    }
}

impl Signer for HeldKey {
    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        self.signature(message)
            .map_err(|error| SignError { key: self.public.id(), cause: format!("{error:#}") })
    }
}
