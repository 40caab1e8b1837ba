//! What a backup covers: resolved once, so that no link that somebody makes later leads elsewhere, and
//! never the agent's own folders.

use std::path::{Path, PathBuf};

use refit_proto::package::{Variables, expand};

use super::{
    super::{documents::Documents, files::Files},
    BackupError,
};

/// One path that is saved with all that is below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cover {
    /// Resolved: no link on the way.
    pub path: PathBuf,
    /// As what.
    pub role: Role,
}

/// What a covered path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The product's link to its current release.
    Link,
    /// A unit file.
    Unit,
    /// Placed by a release, with the installer `files`.
    Placed,
    /// Named by the manifest.
    Declared,
}

/// What has to be saved before this release is installed: the product's link, these unit files, what is
/// `placed`, and what its manifests name. `own` are the agent's own folders, which no manifest may name.
///
/// # Errors
/// A path that cannot be resolved, uses an unknown variable, or is none that may be brought back.
pub fn covers(
    files: &dyn Files,
    release: &Documents,
    variables: &Variables,
    link: &Path,
    units: &[PathBuf],
    placed: Vec<Cover>,
    own: &[&Path],
) -> Result<Vec<Cover>, BackupError> {
    let mut covers = vec![Cover { path: link.to_owned(), role: Role::Link }];
    let units = units.iter().map(|path| Cover { path: path.clone(), role: Role::Unit });
    covers.extend(units);
    let mut declared = Vec::new();
    for path in release.packages.iter().flat_map(|package| &package.manifest.backup.paths) {
        let expanded = expand(path, variables)?;
        declared.push(resolve(files, Path::new(&expanded), own)?);
    }
    declared.sort();
    // Sorted, a folder stands before what is in it, which it brings back too.
    declared.dedup_by(|inner, outer| inner.starts_with(outer));
    for path in declared {
        if let Some(other) = covers.iter().find(|other| other.path.starts_with(&path)) {
            let why = format!("it holds {}, which is saved by itself", other.path.display());
            return Err(BackupError::Unsaveable { path, why });
        }
        covers.push(Cover { path, role: Role::Declared });
    }
    // What lies in a folder that the manifest names comes back with it.
    let named: Vec<PathBuf> = covers.iter().map(|cover| cover.path.clone()).collect();
    covers.extend(placed.into_iter().filter(|cover| {
        let within = |named: &PathBuf| cover.path.starts_with(named);
        !named.iter().any(within)
    }));
    Ok(covers)
}

/// What is set aside gets up to 143 bytes to its name, of the 255 that Linux allows.
const LONGEST_NAME: usize = 112;

/// The place itself that a path leads to.
///
/// # Errors
/// If the agent's own folders, `own`, are there, or nothing could be brought back there.
pub fn resolve(files: &dyn Files, path: &Path, own: &[&Path]) -> Result<PathBuf, BackupError> {
    let refuse =
        |why: &str| Err(BackupError::Unsaveable { path: path.to_owned(), why: why.to_owned() });
    let plain = path.components().skip(1).all(|c| matches!(c, std::path::Component::Normal(_)));
    if !path.is_absolute() || !plain || path.file_name().is_none() {
        return refuse("it is no plain absolute path below the root");
    }
    if path.file_name().is_some_and(|name| name.len() > LONGEST_NAME) {
        return refuse("its name is too long to set it aside under a longer one");
    }
    let resolved = files.resolve(path)?;
    if own.iter().any(|own| own.starts_with(&resolved) || resolved.starts_with(own)) {
        return refuse("the agent's own files are there");
    }
    Ok(resolved)
}
