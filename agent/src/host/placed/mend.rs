//! Putting back one file at a place of its own that another hand has changed.

use std::path::{Path, PathBuf};

use refit_proto::package::Entry;

use super::{Placed, Target, refused, unplaceable};
use crate::host::{
    documents::Documents,
    files::{self, Kind},
    tree::InstallError,
};

impl Placed<'_> {
    /// The places of a release that are not as signed.
    ///
    /// # Errors
    /// If they can't be told.
    pub fn changed(&self, release: &Documents) -> Result<Vec<PathBuf>, InstallError> {
        let mut changed = Vec::new();
        for target in self.targets(release).map_err(unplaceable)? {
            // What can't be told is no reason to leave the others.
            if !matches!(self.is_as_signed(&target), Ok(Ok(()))) {
                changed.push(target.at);
            }
        }
        Ok(changed)
    }

    /// Puts back what stands at this place, from the release's own folder, whose file is checked by its hash.
    ///
    /// # Errors
    /// If it can't be put back; then what stands there is what stood there.
    pub fn mend(&self, release: &Documents, folder: &Path, at: &Path) -> Result<(), InstallError> {
        files::remove_unfinished(self.files, at)?;
        for target in self.targets(release).map_err(unplaceable)? {
            if target.at == at {
                self.mend_one(&target, folder)?;
            }
        }
        Ok(())
    }

    fn mend_one(&self, target: &Target<'_>, folder: &Path) -> Result<(), InstallError> {
        let stat = self.files.stat(&target.at)?;
        match (target.entry, stat.map(|stat| stat.kind)) {
            (Entry::Directory { .. }, _) => self.put_folder(target),
            (_, Some(Kind::Directory | Kind::Socket | Kind::Special)) => {
                Err(refused(&target.at, "something else stands there, which is not taken away"))
            }
            (Entry::Link { target: to, .. }, None | Some(Kind::File | Kind::Link)) => {
                files::replace_link(self.files, Path::new(to), &target.at)?;
                let (uid, gid) = self.owner(target)?;
                Ok(self.files.set_owner(&target.at, uid, gid)?)
            }
            (Entry::File { path, content, .. }, None | Some(Kind::File | Kind::Link)) => {
                let from = folder.join(target.package).join(path.as_str());
                self.put_file(target, &from, content)
            }
        }
    }
}
