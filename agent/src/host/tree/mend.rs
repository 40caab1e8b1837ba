//! Putting back one entry of an installed release that another hand has changed: in one move each, so that at every
//! moment the old or the new stands there. What is of another kind than what was signed is left, since it may hold
//! what somebody needs.

use std::path::Path;

use refit_proto::package::{Entry, FileRef};

use super::{InstallError, Tree};
use crate::host::{
    content::ContentStore,
    files::{self, Action, FileError, Kind},
};

impl Tree<'_> {
    /// Puts an entry back at its path; says whether that had to be done. `content` has the bytes of a file.
    ///
    /// # Errors
    /// If it can't be put back; then what stands there is what stood there.
    pub fn mend(
        &self,
        path: &Path,
        entry: &Entry,
        content: &ContentStore<'_>,
    ) -> Result<bool, InstallError> {
        files::remove_unfinished(self.files, path)?;
        if self.verify_entry(path, entry).is_ok() {
            return Ok(false);
        }
        let stat = self.files.stat(path)?;
        let damaged =
            |why: &str| Err(InstallError::Damaged { path: path.to_owned(), why: why.to_owned() });
        match (entry, stat.map(|stat| stat.kind)) {
            (Entry::Directory { mode, .. }, None) => {
                self.files.create_dir(path, *mode)?;
                files::sync_parent(self.files, path)?;
            }
            (Entry::Directory { mode, .. }, Some(Kind::Directory)) => {
                self.files.set_mode(path, *mode)?;
                self.files.sync_dir(path)?;
            }
            (Entry::Link { target, .. }, None | Some(Kind::Link | Kind::File)) => {
                files::replace_link(self.files, Path::new(target), path)?;
            }
            (Entry::File { mode, content: wanted, .. }, None | Some(Kind::Link | Kind::File)) => {
                self.mend_file(path, *mode, wanted, content)?;
            }
            (Entry::Directory { .. }, Some(_))
            | (
                Entry::Link { .. } | Entry::File { .. },
                Some(Kind::Directory | Kind::Socket | Kind::Special),
            ) => {
                return damaged("something else stands there, which is not taken away");
            }
        }
        Ok(true)
    }

    fn mend_file(
        &self,
        path: &Path,
        mode: u32,
        wanted: &FileRef,
        content: &ContentStore<'_>,
    ) -> Result<(), InstallError> {
        let (source, new) = (content.path(&wanted.sha256), files::beside(path));
        let made = self.copy_to(&source, &new, mode, wanted);
        let placed = made.and_then(|()| Ok(self.files.rename(&new, path)?));
        if let Err(error) = placed {
            // What counts is why it failed; a full disk needs its space back.
            let _best_effort = files::remove_tree(self.files, &new);
            return Err(error);
        }
        Ok(files::sync_parent(self.files, path)?)
    }

    /// A copy, never a second name: what is written to the one must not change the other.
    fn copy_to(
        &self,
        source: &Path,
        new: &Path,
        mode: u32,
        wanted: &FileRef,
    ) -> Result<(), InstallError> {
        let mut file = self.files.create(new, mode)?;
        let limit = wanted.length.saturating_add(1);
        let (sha256, length) = files::copy(self.files, source, Some((new, file.as_mut())), limit)?;
        if (FileRef { sha256, length }) != *wanted {
            let why = "the content that was to be put back changed on the disk".into();
            return Err(InstallError::Damaged { path: source.to_owned(), why });
        }
        Ok(file.sync().map_err(FileError::at(Action::Sync, new))?)
    }
}
