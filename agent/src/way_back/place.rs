//! Where the way back lies, and how it is armed and removed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{FormatError, Rescued, WayBack};
use crate::host::files::{FileError, Files, exists, read_file, remove_tree, write_file};

/// The largest way back that is read, here and by every rescuer: about 100,000 files of 600 bytes.
pub const LARGEST: u64 = 64 << 20;

/// Where the way back lies. There is one, since a host runs one update at a time.
#[derive(Clone)]
pub struct Place {
    files: Arc<dyn Files>,
    path: PathBuf,
}

/// Why there is no telling what the way back is.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// There is a file and it makes no sense.
    #[error(
        "the way back in {} cannot be used: {source}\n\
         help: docs/RUNBOOK.md, \"Stuck host\"", path.display()
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FormatError,
    },
    /// It would be longer than any that is read.
    #[error(
        "the way back would be {length} bytes long; at most {LARGEST} are read\n\
         help: take folders with very many files out of the manifest's backup"
    )]
    TooLarge {
        /// How long.
        length: u64,
    },
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Place {
    /// In the agent's own folder.
    pub fn in_folder(files: Arc<dyn Files>, folder: &Path) -> Place {
        Place { files, path: folder.join("way-back") }
    }

    /// The file, for the rescuer's command line.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Arms a way back in the place of the one before. Read back before it counts: it will be needed
    /// when nothing else can be trusted.
    ///
    /// # Errors
    /// If it is not certain that it is there.
    pub fn arm(&self, way_back: &WayBack) -> Result<(), PlaceError> {
        let bytes = way_back.to_bytes();
        // What no reader can read must not take the place of one that it can.
        let length = bytes.len() as u64;
        if length > LARGEST {
            return Err(PlaceError::TooLarge { length });
        }
        WayBack::parse(&bytes).map_err(|source| self.unusable(source))?;
        write_file(&*self.files, &self.path, &bytes, 0o600)?;
        match self.load()? {
            Some(read) if read == *way_back => Ok(()),
            Some(_) | None => Err(self.unusable(FormatError::End)),
        }
    }

    /// The way back that is armed; `None` if none is.
    ///
    /// # Errors
    /// If one is and cannot be used.
    pub fn load(&self) -> Result<Option<WayBack>, PlaceError> {
        if !exists(&*self.files, &self.path)? {
            return Ok(None);
        }
        let bytes = read_file(&*self.files, &self.path, LARGEST)?;
        WayBack::parse(&bytes).map(Some).map_err(|source| self.unusable(source))
    }

    /// Removes it, and what the rescuer wrote; says whether one was armed.
    ///
    /// # Errors
    /// If it may still be there.
    pub fn disarm(&self) -> Result<bool, PlaceError> {
        let armed = remove_tree(&*self.files, &self.path)?;
        remove_tree(&*self.files, &self.rescued_path())?;
        Ok(armed)
    }

    /// What the rescuer wrote when it went back; `None` if it did not, or nobody can tell from which
    /// update.
    pub fn rescued(&self) -> Option<Rescued> {
        let bytes = read_file(&*self.files, &self.rescued_path(), Rescued::LARGEST).ok()?;
        Rescued::parse(&bytes)
    }

    fn rescued_path(&self) -> PathBuf {
        self.path.with_file_name(Rescued::FILE)
    }

    fn unusable(&self, source: FormatError) -> PlaceError {
        PlaceError::Unusable { path: self.path.clone(), source }
    }
}
