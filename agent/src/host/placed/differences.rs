//! All that another hand has changed of files at places of their own.

use std::path::Path;

use refit_proto::package::Entry;

use super::{Placed, Target, attributes, unplaceable};
use crate::host::{
    documents::Documents,
    drift::{Drift, Kind, LookError, Reader},
    files,
    tree::InstallError,
};

impl Placed<'_> {
    /// Adds what is not as the release's signed manifests say.
    ///
    /// # Errors
    /// If the look is stopped, or the places can't be told.
    pub fn differences(
        &self,
        release: &Documents,
        reader: &mut Reader<'_>,
        drift: &mut Drift,
    ) -> Result<(), LookError> {
        for target in self.targets(release).map_err(unplaceable)? {
            match self.difference(&target, reader, drift) {
                Err(LookError::Install(error)) => {
                    drift.add(&target.at, Kind::Unreadable, error.to_string());
                }
                other => other?,
            }
            (reader.pace)(0)?;
        }
        Ok(())
    }

    fn difference(
        &self,
        target: &Target<'_>,
        reader: &mut Reader<'_>,
        drift: &mut Drift,
    ) -> Result<(), LookError> {
        let at = &target.at;
        let Some(stat) = self.files.stat(at).map_err(InstallError::from)? else {
            drift.add(at, Kind::Missing, "it is not there");
            return Ok(());
        };
        let (kind, whole) = match target.entry {
            // One that was there before is somebody else's.
            Entry::Directory { .. } => (files::Kind::Directory, false),
            Entry::File { .. } => (files::Kind::File, true),
            Entry::Link { .. } => (files::Kind::Link, true),
        };
        if stat.kind != kind {
            drift.add(at, Kind::Other, "it is something else");
            return Ok(());
        }
        if !whole {
            return Ok(());
        }
        let before = drift.differences.len() + drift.more;
        match target.entry {
            Entry::Directory { .. } => {}
            Entry::Link { target: to, .. } => {
                if self.files.read_link(at).map_err(InstallError::from)? != Path::new(to) {
                    drift.add(at, Kind::Changed, "it leads elsewhere");
                }
            }
            Entry::File { content, .. } => reader.compare(at, content, drift)?,
        }
        if drift.differences.len() + drift.more > before {
            return Ok(());
        }
        let (uid, gid) = self.owner(target)?;
        if (stat.uid, stat.gid) != (uid, gid) {
            let why = format!("it belongs to {}:{}, not {uid}:{gid}", stat.uid, stat.gid);
            drift.add(at, Kind::Owner, why);
            return Ok(());
        }
        let Entry::File { .. } = target.entry else { return Ok(()) };
        if let Some(wanted) = target.mode().filter(|wanted| *wanted != stat.mode) {
            drift.add(at, Kind::Mode, format!("its mode is {:o}, not {wanted:o}", stat.mode));
            return Ok(());
        }
        let found = self.files.attributes(at).map_err(InstallError::from)?;
        let other = attributes(target).find(|(name, value)| found.get(name) != Some(value));
        if let Some((name, _)) = other {
            let why = format!("its attribute {} is another", name.display());
            drift.add(at, Kind::Attribute, why);
        }
        Ok(())
    }
}
