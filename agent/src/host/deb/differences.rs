//! All that another hand has changed of what Debian packages brought.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use super::{DebError, Debs, ask, installed};
use crate::host::{
    documents::Documents,
    drift::{Drift, Kind, LookError},
    tree::InstallError,
};

impl Debs<'_> {
    /// Whether what the packages brought is on the host as they brought it; conffiles are the host's owner's.
    ///
    /// # Errors
    /// The first file that is not.
    pub fn verify(&self, release: &Documents, folder: &Path) -> Result<(), InstallError> {
        let mut first = None;
        self.look(release, folder, &mut |path, _, why| {
            first = Some(InstallError::Damaged { path, why });
            ControlFlow::Break(())
        })?;
        first.map_or(Ok(()), Err)
    }

    /// Adds what is not as the packages brought it; conffiles are the host's owner's. `dpkg --verify` reads at its
    /// own pace.
    ///
    /// # Errors
    /// If dpkg does not tell.
    pub fn differences(
        &self,
        release: &Documents,
        folder: &Path,
        drift: &mut Drift,
    ) -> Result<(), LookError> {
        let looked = self.look(release, folder, &mut |path, kind, why| {
            drift.add(&path, kind, why);
            ControlFlow::Continue(())
        });
        Ok(looked?)
    }

    /// Tells what is not as the packages brought it, until it is told to stop.
    fn look(
        &self,
        release: &Documents,
        folder: &Path,
        tell: &mut dyn FnMut(PathBuf, Kind, String) -> ControlFlow<()>,
    ) -> Result<(), InstallError> {
        let unasked = |error: DebError| InstallError::Unplaceable {
            path: folder.to_owned(),
            why: error.to_string(),
        };
        for deb in self.debs(release, folder).map_err(unasked)? {
            let other = match installed(&deb.name).map_err(unasked)? {
                Some(version) if version == deb.version => None,
                Some(version) => {
                    Some((Kind::Other, format!("{} {version} is installed", deb.name)))
                }
                None => Some((Kind::Missing, format!("{} is not installed", deb.name))),
            };
            if let Some((kind, why)) = other {
                if tell(deb.path, kind, why).is_break() {
                    return Ok(());
                }
                continue;
            }
            let said = ask("dpkg", &["--verify", &deb.name]).map_err(unasked)?.text;
            for (path, kind) in said.lines().filter_map(difference) {
                let why = format!("it is not as {} {} brought it", deb.name, deb.version);
                if tell(path, kind, why).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// A line of `dpkg --verify` about a file that is no conffile: `??5??????   /path`, `missing     /path`.
pub(super) fn difference(line: &str) -> Option<(PathBuf, Kind)> {
    let (word, rest) = line.split_once(char::is_whitespace)?;
    let rest = rest.trim_start();
    let kind = if word == "missing" { Kind::Missing } else { Kind::Changed };
    rest.starts_with('/').then(|| (PathBuf::from(rest), kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dpkgs_lines_are_read_and_conffiles_are_left_out() {
        let of = |line| difference(line).map(|(path, kind)| (path.display().to_string(), kind));
        assert_eq!(of("??5??????   /usr/bin/x"), Some(("/usr/bin/x".into(), Kind::Changed)));
        assert_eq!(of("missing     /usr/a b"), Some(("/usr/a b".into(), Kind::Missing)));
        assert_eq!(of("??5?????? c /etc/x.conf"), None);
        assert_eq!(of("missing   c /etc/x.conf"), None);
        assert_eq!(of(""), None);
    }
}
