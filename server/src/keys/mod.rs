//! The server's own keys, one file each, readable by the owner alone: `freshness` signs snapshot and
//! timestamp, `gate` its part in rings, `audit` the log's checkpoints, `ca` certificates. Stealing one
//! gives none of the others' rights, and they never sign in each other's place: each has its own field.

mod online;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use refit_durable::file::{self, Access};
use refit_proto::trust::{KeyId, LocalKey, PublicKey, Signer as _, key::KeyError};

use tracing::warn;

pub use self::online::OnlineKey;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use crate::{
    authorities::Authorities,
    ca::{Authority, AuthorityFiles, CaError},
};

/// A PEM file of ours has a few hundred bytes; whatever is longer is something else.
const LONGEST: u64 = 64 * 1024;

const FRESHNESS: &str = "freshness.pem";
const GATE: &str = "gate.pem";
pub(crate) const AUDIT: &str = "audit.pem";
pub(crate) const CA_KEY: &str = "ca.pem";
pub(crate) const CA_CERTIFICATE: &str = "ca.crt";

/// All four.
pub struct ServerKeys {
    /// Signs snapshot and timestamp.
    pub freshness: OnlineKey,
    /// Signs the server's part in rings that name it.
    pub gate: OnlineKey,
    /// Signs checkpoints of the audit log.
    pub audit: LocalKey,
    /// Signs certificates; with those before it.
    pub authorities: Authorities,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file can't be read or written.
    #[error(transparent)]
    File(#[from] file::FileError),
    /// A file's access rights can't be looked at.
    #[error("{} can't be read: {cause}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Others than the owner can read it.
    #[error("{} can be read by others than its owner (mode {mode:o})\nhelp: if nobody has, run `chmod 600 {}`; else make new keys", .file.display(), .file.display())]
    Exposed {
        /// The file.
        file: PathBuf,
        /// Its access rights.
        mode: u32,
    },
    /// Not what it should be.
    #[error("{} is not a key of this server: {cause}\nhelp: restore it from a backup; another key will not fit what it has signed", .file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Why.
        cause: String,
    },
    /// No new key could be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No new authority could be made.
    #[error(transparent)]
    Ca(#[from] CaError),
}

impl ServerKeys {
    /// Makes new ones in an empty folder.
    ///
    /// # Errors
    /// If the system gives no randomness, or the folder takes no files.
    pub fn generate(folder: &Path, now: Timestamp) -> Result<(), KeysError> {
        for name in [FRESHNESS, GATE, AUDIT] {
            let pem = LocalKey::generate()?.to_pem()?;
            file::write(&folder.join(name), pem.as_bytes(), Access::Private)?;
        }
        let authority = Authority::generate(now)?;
        file::write(&folder.join(CA_KEY), authority.key.as_bytes(), Access::Private)?;
        let certificate = authority.certificate.as_bytes();
        Ok(file::write(&folder.join(CA_CERTIFICATE), certificate, Access::Private)?)
    }

    /// Reads them.
    ///
    /// # Errors
    /// If one is missing, damaged, or not secret any more.
    pub fn load(folder: &Path) -> Result<ServerKeys, KeysError> {
        let authorities = Authorities::load(folder)?;
        let (freshness, gate) =
            (OnlineKey::load(folder, "freshness")?, OnlineKey::load(folder, "gate")?);
        Ok(ServerKeys { freshness, gate, audit: load_key(&folder.join(AUDIT))?, authorities })
    }

    /// Puts next keys that metadata names in the place of those that they follow. What can't be done now
    /// is done with the next upkeep.
    pub fn settle(&self, named: &BTreeSet<KeyId>) {
        for key in [&self.freshness, &self.gate] {
            if let Err(error) = key.settle(named) {
                warn!(%error, "a new key could not be put in its place");
            }
        }
    }

    /// The public halves by name, as `refit trust init` takes them. `named` are the keys that signed
    /// metadata names: they tell which of two is in use.
    pub fn public(&self, named: &BTreeSet<KeyId>) -> BTreeMap<&'static str, &PublicKey> {
        [
            ("freshness", self.freshness.for_ids(named)),
            ("gate", self.gate.for_ids(named)),
            ("audit", &self.audit),
        ]
        .map(|(name, key)| (name, key.public()))
        .into()
    }
}

/// A key of ours in its file.
pub(crate) fn load_key(path: &Path) -> Result<LocalKey, KeysError> {
    LocalKey::from_pem(&read_secret(path)?).map_err(|error| damaged(path.to_owned(), error))
}

/// An authority's two files.
pub(crate) fn load_authority(certificate: &Path, key: &Path) -> Result<Authority, KeysError> {
    let text = file::read(certificate, LONGEST)?;
    let files = AuthorityFiles {
        certificate: String::from_utf8(text)
            .map_err(|error| damaged(certificate.to_owned(), error))?,
        key: read_secret(key)?,
    };
    Authority::load(&files).map_err(|error| damaged(key.to_owned(), error))
}

/// An authority's certificate alone.
pub(crate) fn load_certificate(path: &Path) -> Result<CertificateDer<'static>, KeysError> {
    let text = file::read(path, LONGEST)?;
    CertificateDer::from_pem_slice(&text).map_err(|error| damaged(path.to_owned(), error))
}

fn damaged(file: PathBuf, cause: impl ToString) -> KeysError {
    let cause = cause.to_string().lines().next().unwrap_or_default().to_owned();
    KeysError::Damaged { file, cause }
}

fn read_secret(path: &Path) -> Result<String, KeysError> {
    let unreadable = |cause| KeysError::Unreadable { file: path.to_owned(), cause };
    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeysError::Exposed { file: path.to_owned(), mode });
    }
    let bytes = file::read(path, LONGEST)?;
    String::from_utf8(bytes).map_err(|error| damaged(path.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        ServerKeys::generate(folder.path(), "2026-11-22T12:00:00Z".parse().unwrap()).unwrap();
        folder
    }

    #[test]
    fn the_four_keys_differ_and_read_back() {
        let folder = folder();
        let keys = ServerKeys::load(folder.path()).unwrap();
        let ids: std::collections::BTreeSet<_> =
            keys.public(&BTreeSet::new()).values().map(|key| key.id()).collect();
        assert_eq!(ids.len(), 3);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        for name in [FRESHNESS, GATE, AUDIT, CA_KEY] {
            let folder = folder();
            let path = folder.path().join(name);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            assert!(matches!(ServerKeys::load(folder.path()), Err(KeysError::Exposed { .. })));
        }
    }

    #[test]
    fn a_missing_or_damaged_key_is_named() {
        for name in [FRESHNESS, GATE, AUDIT, CA_KEY, CA_CERTIFICATE] {
            let folder = folder();
            let path = folder.path().join(name);
            file::write(&path, b"-----BEGIN NOTHING-----", Access::Private).unwrap();
            let error = ServerKeys::load(folder.path()).err().unwrap().to_string();
            assert!(error.contains(folder.path().to_str().unwrap()), "{error}");
            fs::remove_file(&path).unwrap();
            let error = ServerKeys::load(folder.path()).err().unwrap().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
