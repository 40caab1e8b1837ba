//! Who this host is: its keys, which never leave it, its certificate, and what it took from its
//! enrollment token: labels, the first root's hash, the certificate authority. Decides what is a whole
//! identity; how one is got is `link`'s.

mod certificate;
mod host_key;
mod keys;
mod record;
mod ways;

pub use certificate::{Certificate, CertificateError};
pub use keys::{Keys, KeysError};
pub use record::{Identity, IdentityError};
pub use ways::Ways;

use std::path::{Path, PathBuf};

use refit_durable::{FileError, file};

/// Where a host keeps who it is.
#[derive(Debug, Clone)]
pub struct IdentityFolder(PathBuf);

impl IdentityFolder {
    /// The folder of this name, which need not be there yet.
    pub fn at(path: impl Into<PathBuf>) -> IdentityFolder {
        IdentityFolder(path.into())
    }

    /// Makes the folder, readable by its owner alone.
    fn create(&self) -> Result<(), FileError> {
        use std::os::unix::fs::PermissionsExt as _;
        file::create_dir_all(&self.0)?;
        // The files in it are private by themselves; this hides their names as well.
        let private = std::fs::Permissions::from_mode(0o700);
        if let Err(error) = std::fs::set_permissions(&self.0, private) {
            tracing::warn!(path = %self.0.display(), %error, "the folder of keys stays readable");
        }
        Ok(())
    }

    fn host_key(&self) -> PathBuf {
        self.0.join("host.key")
    }

    fn report_key(&self) -> PathBuf {
        self.0.join("report.key")
    }

    fn record(&self) -> PathBuf {
        self.0.join("host.json")
    }

    fn servers(&self) -> PathBuf {
        self.0.join("servers.json")
    }

    /// What was seen of the server's audit log.
    pub fn audit(&self) -> PathBuf {
        self.0.join("audit.json")
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }
}
