//! Where signed metadata is kept: the newest file of each role as received, and the policy files that
//! the policy role pins. Everything is verified each time it is read, so a damaged file is only one to be
//! fetched again.

use std::path::{Path, PathBuf};

use refit_durable::{
    FileError,
    file::{self, Access, Action},
};
use refit_proto::trust::{self, Role, Stored, Write, metadata::limits};

/// Largest document that is given back to a server: what one message holds beside the files.
const LARGEST_GIVEN: u64 = 2 << 20;

/// The folder of signed metadata.
#[derive(Debug, Clone)]
pub struct TrustFolder(PathBuf);

/// Why stored metadata gives nothing.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file can't be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is stored can't be trusted.
    #[error(transparent)]
    Trust(#[from] trust::TrustError),
    /// The policy of who is in which ring can't be used.
    #[error(transparent)]
    Denied(#[from] trust::Denied),
}

impl TrustFolder {
    /// The folder of this name, which need not be there yet.
    pub fn at(path: impl Into<PathBuf>) -> TrustFolder {
        TrustFolder(path.into())
    }

    /// Whether there is a root to begin with.
    ///
    /// # Errors
    /// If that can't be told.
    pub fn has_root(&self) -> Result<bool, FileError> {
        Ok(file::read_if_there(&self.role(&Role::Root), limits::ROOT)?.is_some())
    }

    /// Stores the first root, whose hash was checked against the token's. A root that is there stays.
    ///
    /// # Errors
    /// If it can't be stored.
    pub fn put_first_root(&self, bytes: &[u8]) -> Result<(), FileError> {
        file::create_dir_all(&self.0)?;
        file::write_new(&self.role(&Role::Root), bytes, Access::Shared)?;
        Ok(())
    }

    /// Replaces a root that can't be read by the first one.
    pub(super) fn reset_root(&self, bytes: &[u8]) -> Result<(), FileError> {
        file::create_dir_all(&self.0)?;
        file::write(&self.role(&Role::Root), bytes, Access::Shared)
    }

    /// Every role's file.
    pub(super) fn stored(&self) -> Result<Stored, FileError> {
        let mut stored = Stored::new();
        let failed = |source| FileError::Io { action: Action::List, path: self.0.clone(), source };
        let entries = match std::fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(stored),
            // A file that can't be read is not one that was never there: what it says is a floor.
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".json")) else {
                continue;
            };
            let Ok(role) = Role::parse(name) else { continue };
            if let Some(bytes) = file::read_if_there(&entry.path(), limits::max_length(&role))? {
                stored.insert(role, bytes);
            }
        }
        Ok(stored)
    }

    /// Makes changes durable, in an order that leaves no harm if the power goes in between: what a new
    /// root disowns is gone before the new root is there.
    pub(super) fn apply(&self, writes: Vec<Write>) -> Result<(), FileError> {
        for write in &writes {
            if let Write::Delete { role } = write {
                file::remove(&self.role(role))?;
            }
        }
        for write in &writes {
            if let Write::Put { role, bytes, .. } = write {
                file::write(&self.role(role), bytes, Access::Shared)?;
            }
        }
        Ok(())
    }

    /// A file that the policy role pins, whatever it holds.
    pub(super) fn policy(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
        match file::read_if_there(&self.policy_path(name), limit) {
            Ok(bytes) => Ok(bytes),
            // Not the one that is pinned, in any case.
            Err(FileError::TooLarge { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every file that the policy role pins and that can be read.
    pub(super) fn policies(&self) -> Vec<Vec<u8>> {
        let entries = std::fs::read_dir(self.0.join("policy")).into_iter().flatten().flatten();
        let read = entries.map(|entry| file::read_if_there(&entry.path(), LARGEST_GIVEN));
        read.filter_map(|bytes| bytes.ok().flatten()).collect()
    }

    /// Stores a file that the policy role pins.
    pub(super) fn put_policy(&self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        let path = self.policy_path(name);
        file::create_dir_all(path.parent().unwrap_or(&self.0))?;
        file::write(&path, bytes, Access::Shared)
    }

    fn role(&self, role: &Role) -> PathBuf {
        self.0.join(role.file_name())
    }

    /// `name` is the name of a product, or `labels`, with `.json`: one step of a path.
    fn policy_path(&self, name: &str) -> PathBuf {
        self.0.join("policy").join(Path::new(name))
    }
}
