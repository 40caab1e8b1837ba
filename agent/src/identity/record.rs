//! What a host keeps of its enrollment, in one file that is there whole or not at all: with it the host
//! is enrolled, without it it is not.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use refit_durable::{
    FileError,
    file::{self, Access},
};
use refit_proto::names::{Digest, HostId, HostName, Labels};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::{Certificate, IdentityFolder, Keys, KeysError};

/// The format of the file. A reader refuses a newer one.
const FORMAT: u32 = 1;

/// Longest file that is read: a chain of a few certificates and some labels.
const LONGEST: u64 = 256 * 1024;

/// An enrolled host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its id, which its key decides.
    pub host: HostId,
    /// What people call it.
    pub name: HostName,
    /// Where its server is: `host:port`.
    pub server: String,
    /// The labels of its token.
    pub labels: Labels,
    /// SHA-256 of `1.root.json`, from its token.
    pub root: Digest,
    /// The fleet's certificate authority, from its token.
    pub authority: CertificateDer<'static>,
    /// Its certificate, leaf first.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file can't be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The host was never enrolled.
    #[error(
        "this host is not enrolled: there is no {path}\n\
         help: run `refit-agent enroll --token TOKEN`; `refit token create` makes the token"
    )]
    NotEnrolled {
        /// The file that is missing.
        path: String,
    },
    /// It makes no sense.
    #[error(
        "{path} cannot be used: {why}\n\
         help: restore it from a backup; or remove it and enroll again, the key stays the same"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    host_id: HostId,
    name: HostName,
    server: String,
    labels: Labels,
    root_sha256: Digest,
    /// DER in base64, like the certificates.
    authority: String,
    certificates: Vec<String>,
}

impl Identity {
    /// Whether the host is enrolled.
    ///
    /// # Errors
    /// If that can't be told.
    pub fn load_if_enrolled(folder: &IdentityFolder) -> Result<Option<Identity>, IdentityError> {
        match file::read_if_there(&folder.record(), LONGEST)? {
            Some(bytes) => Self::parse(&bytes)
                .map(Some)
                .map_err(|why| IdentityError::Damaged { path: shown(folder), why }),
            None => Ok(None),
        }
    }

    /// Who this host is, and its keys.
    ///
    /// # Errors
    /// If it is not enrolled, or what is stored does not fit together.
    pub fn load(folder: &IdentityFolder) -> Result<(Identity, Keys), IdentityError> {
        let identity = Self::load_if_enrolled(folder)?
            .ok_or_else(|| IdentityError::NotEnrolled { path: shown(folder) })?;
        let keys = Keys::load(folder)?;
        if keys.host_id() != identity.host {
            let why =
                format!("it is about host {}, the key is of {}", identity.host, keys.host_id());
            return Err(IdentityError::Damaged { path: shown(folder), why });
        }
        Ok((identity, keys))
    }

    /// Stores it; durable when this returns.
    ///
    /// # Errors
    /// If it can't be stored; what was there before still is.
    pub fn save(&self, folder: &IdentityFolder) -> Result<(), FileError> {
        let record = Record {
            format: FORMAT,
            host_id: self.host.clone(),
            name: self.name.clone(),
            server: self.server.clone(),
            labels: self.labels.clone(),
            root_sha256: self.root,
            authority: STANDARD.encode(&self.authority),
            certificates: self.certificates.iter().map(|der| STANDARD.encode(der)).collect(),
        };
        // Map keys are strings: this cannot fail.
        let bytes = serde_json::to_vec_pretty(&record).unwrap_or_default();
        file::write(&folder.record(), &bytes, Access::Private)
    }

    /// What the certificate says.
    ///
    /// # Errors
    /// If it is none.
    pub fn certificate(&self) -> Result<Certificate, IdentityError> {
        let leaf = self.certificates.first().map(|der| der.as_ref()).unwrap_or_default();
        Certificate::read(leaf).map_err(|error| IdentityError::Damaged {
            path: "this host's certificate".to_owned(),
            why: error.to_string(),
        })
    }

    fn parse(bytes: &[u8]) -> Result<Identity, String> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if head.format > FORMAT {
            return Err(format!("format {} was written by a later agent", head.format));
        }
        let record: Record = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let der = |text: &String| {
            STANDARD.decode(text).map(CertificateDer::from).map_err(|error| error.to_string())
        };
        Ok(Identity {
            host: record.host_id,
            name: record.name,
            server: record.server,
            labels: record.labels,
            root: record.root_sha256,
            authority: der(&record.authority)?,
            certificates: record.certificates.iter().map(der).collect::<Result<_, _>>()?,
        })
    }
}

fn shown(folder: &IdentityFolder) -> String {
    folder.record().display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(host: HostId) -> Identity {
        Identity {
            host,
            name: "web-1".parse().unwrap(),
            server: "refit.example:7700".into(),
            labels: [("region".parse().unwrap(), "eu".parse().unwrap())].into(),
            root: Digest::of(b"root"),
            authority: CertificateDer::from(vec![1, 2, 3]),
            certificates: vec![CertificateDer::from(vec![4, 5])],
        }
    }

    #[test]
    fn an_identity_reads_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let folder = IdentityFolder::at(dir.path());
        assert!(matches!(Identity::load(&folder), Err(IdentityError::NotEnrolled { .. })));
        let keys = Keys::load_or_make(&folder).unwrap();
        assert!(Identity::load_if_enrolled(&folder).unwrap().is_none(), "keys alone are nothing");
        let written = identity(keys.host_id());
        written.save(&folder).unwrap();
        assert_eq!(Identity::load(&folder).unwrap().0, written);
    }

    #[test]
    fn a_file_that_was_cut_or_changed_is_an_error_and_never_not_enrolled() {
        let dir = tempfile::tempdir().unwrap();
        let folder = IdentityFolder::at(dir.path());
        let keys = Keys::load_or_make(&folder).unwrap();
        identity(keys.host_id()).save(&folder).unwrap();
        let whole = std::fs::read(folder.record()).unwrap();
        for length in 0..whole.len() {
            std::fs::write(folder.record(), &whole[..length]).unwrap();
            let read = Identity::load_if_enrolled(&folder);
            assert!(matches!(read, Err(IdentityError::Damaged { .. })), "cut at {length}");
        }
        identity(HostId::of_public_key(b"another")).save(&folder).unwrap();
        assert!(matches!(Identity::load(&folder), Err(IdentityError::Damaged { .. })));
    }
}
