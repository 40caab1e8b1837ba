//! The host's two keys: one for its certificate, one that signs its reports. Each is made once, on the
//! host, and stored before anybody is told its public half: after a lost answer the same key asks again.

use refit_durable::{
    FileError,
    file::{self, Access},
};
use refit_proto::{
    names::{Digest, HostId},
    trust::{LocalKey, Signer as _},
};
use rustls::pki_types::PrivateKeyDer;

use super::{IdentityFolder, host_key::HostKey};

/// Longest key file that is read; ours have about 250 bytes.
const LONGEST: u64 = 16 * 1024;

/// The host's keys.
pub struct Keys {
    host: HostKey,
    report: LocalKey,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A key file can't be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It holds no key of ours.
    #[error(
        "{path} holds no private key of this host: {why}\n\
         help: restore it from a backup, or remove the folder and enroll this machine as a new host"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The system gives no random bytes.
    #[error("no key can be made: {0}")]
    NotMade(String),
}

impl Keys {
    /// The keys that are there, or new ones, durable when this returns.
    ///
    /// # Errors
    /// If they can't be stored, or what is stored is damaged: a key is never replaced silently.
    pub fn load_or_make(folder: &IdentityFolder) -> Result<Keys, KeysError> {
        folder.create()?;
        if file::read_if_there(&folder.host_key(), LONGEST)?.is_none() {
            let key = HostKey::generate().map_err(KeysError::NotMade)?;
            // If another was first, that key is the host's.
            file::write_new(&folder.host_key(), key.as_bytes(), Access::Private)?;
        }
        if file::read_if_there(&folder.report_key(), LONGEST)?.is_none() {
            let made =
                |error: refit_proto::trust::key::KeyError| KeysError::NotMade(error.to_string());
            let pem = LocalKey::generate().and_then(|key| key.to_pem()).map_err(made)?;
            file::write_new(&folder.report_key(), pem.as_bytes(), Access::Private)?;
        }
        Keys::load(folder)
    }

    /// The keys that are there.
    ///
    /// # Errors
    /// If they are missing or damaged.
    pub fn load(folder: &IdentityFolder) -> Result<Keys, KeysError> {
        let host = read(folder.host_key(), HostKey::from_pem)?;
        let report = read(folder.report_key(), |pem| {
            LocalKey::from_pem(pem).map_err(|error| error.to_string())
        })?;
        Ok(Keys { host, report })
    }

    /// The host's id, which its key decides.
    pub fn host_id(&self) -> HostId {
        HostId::of_public_key(&self.host.public())
    }

    /// SHA-256 of the certificate key's SubjectPublicKeyInfo.
    pub fn public_key_digest(&self) -> Digest {
        Digest::of(&self.host.public())
    }

    /// A PKCS#10 request, DER. It says nothing but the key: names are the server's to give.
    ///
    /// # Errors
    /// If it can't be signed.
    pub fn certificate_request(&self) -> Result<Vec<u8>, KeysError> {
        self.host.request().map_err(KeysError::NotMade)
    }

    /// The certificate's private key, for TLS.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.host.private())
    }

    /// What signs reports.
    pub fn report(&self) -> &LocalKey {
        &self.report
    }

    /// Takes the key that signs reports.
    pub fn into_report(self) -> LocalKey {
        self.report
    }

    /// The public half of what signs reports: 32 bytes.
    ///
    /// # Errors
    /// Never for a key of ours; a key as TUF writes it can't tell.
    pub fn report_public(&self) -> Result<[u8; 32], KeysError> {
        let public = self.report.public();
        let hex = public.to_value()["keyval"]["public"].as_str().unwrap_or_default();
        let bytes = Digest::parse(hex).map_err(|error| KeysError::NotMade(error.to_string()))?;
        Ok(*bytes.as_bytes())
    }
}

fn read<T>(
    path: std::path::PathBuf,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, KeysError> {
    let bytes = zeroizing(file::read(&path, LONGEST)?);
    let text = std::str::from_utf8(&bytes).map_err(|error| error.to_string());
    text.and_then(parse).map_err(|why| KeysError::Damaged { path: path.display().to_string(), why })
}

/// Wiped from memory when dropped.
fn zeroizing(bytes: Vec<u8>) -> zeroize::Zeroizing<Vec<u8>> {
    zeroize::Zeroizing::new(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// hawkBit-shared-token.
    #[test]
    fn keys_are_made_once_and_only_their_owner_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let folder = IdentityFolder::at(dir.path().join("identity"));
        let first = Keys::load_or_make(&folder).unwrap();
        let again = Keys::load_or_make(&folder).unwrap();
        assert_eq!(first.host_id(), again.host_id());
        assert_eq!(first.report_public().unwrap(), again.report_public().unwrap());
        for path in [folder.host_key(), folder.report_key()] {
            let mode = std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_damaged_key_is_an_error_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let folder = IdentityFolder::at(dir.path());
        Keys::load_or_make(&folder).unwrap();
        for path in [folder.host_key(), folder.report_key()] {
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
            let error = Keys::load_or_make(&folder).err().unwrap();
            assert!(matches!(error, KeysError::Damaged { .. }), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), whole[..whole.len() / 2]);
            std::fs::write(&path, &whole).unwrap();
        }
    }
}
