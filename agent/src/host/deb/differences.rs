//! All that another hand has changed of what Debian packages brought.

use std::path::{Path, PathBuf};

use super::{DebError, Debs, ask, installed};
use crate::host::{
    documents::Documents,
    drift::{Drift, Kind, LookError},
    tree::InstallError,
};

impl Debs<'_> {
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
        let unasked = |error: DebError| InstallError::Unplaceable {
            path: folder.to_owned(),
            why: error.to_string(),
        };
        for deb in self.debs(release, folder).map_err(unasked)? {
            match installed(&deb.name).map_err(unasked)? {
                Some(version) if version == deb.version => {}
                Some(version) => {
                    drift.add(
                        &deb.path,
                        Kind::Other,
                        format!("{} {version} is installed", deb.name),
                    );
                    continue;
                }
                None => {
                    drift.add(&deb.path, Kind::Missing, format!("{} is not installed", deb.name));
                    continue;
                }
            }
            let said = ask("dpkg", &["--verify", &deb.name]).map_err(unasked)?.text;
            for (path, kind) in said.lines().filter_map(difference) {
                let why = format!("it is not as {} {} brought it", deb.name, deb.version);
                drift.add(&path, kind, why);
            }
        }
        Ok(())
    }
}

/// A line of `dpkg --verify` about a file that is no conffile: `??5??????   /path`, `missing     /path`.
fn difference(line: &str) -> Option<(PathBuf, Kind)> {
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
