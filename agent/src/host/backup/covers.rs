//! What a backup covers: resolved once, so that no link that somebody makes later leads elsewhere, and
//! never the agent's own folders.

use std::path::{Path, PathBuf};

use refit_proto::{
    package::{DataUse, Variables, expand},
    sorted,
};

use super::{
    super::{
        documents::Documents,
        files::{self, Files},
    },
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
    /// Named by the manifest as configuration.
    Declared,
    /// Data: saved, and left as it is by going back.
    Data,
    /// Data that the release converts: saved at rest, and brought back.
    Converted,
}

impl Role {
    fn named(self) -> &'static str {
        match self {
            Role::Link => "the product's link",
            Role::Unit => "a unit file",
            Role::Placed => "a file of the release",
            Role::Declared => "configuration",
            Role::Data => "data",
            Role::Converted => "data that is converted",
        }
    }
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
    for (path, role) in named(release) {
        let expanded = expand(&path, variables)?;
        let path = resolve(files, Path::new(&expanded), own)?;
        declared.push(Cover { path: as_absent(files, path, role)?, role });
    }
    for Cover { path, role } in outermost(declared)? {
        if let Some(other) = covers.iter().find(|other| other.path.starts_with(&path)) {
            let why = format!("it holds {}, which is saved by itself", other.path.display());
            return Err(BackupError::Unsaveable { path, why });
        }
        covers.push(Cover { path, role });
    }
    // What lies in a folder that the manifest names comes back with it.
    let comes_back = covers.iter().filter(|cover| cover.role != Role::Data);
    let named: Vec<PathBuf> = comes_back.map(|cover| cover.path.clone()).collect();
    covers.extend(placed.into_iter().filter(|cover| {
        let within = |named: &PathBuf| cover.path.starts_with(named);
        !named.iter().any(within)
    }));
    Ok(covers)
}

/// What a folder of drop-ins adds to what is covered: they change the units that a release replaces, whoever put them
/// there, so they come back with these as configuration does. Of a folder in which something is covered already, the
/// rest.
///
/// # Errors
/// If it can't be looked at.
pub fn drop_ins(
    files: &dyn Files,
    folder: &Path,
    covers: &[Cover],
) -> Result<Vec<Cover>, BackupError> {
    if covers.iter().any(|cover| folder.starts_with(&cover.path)) {
        return Ok(Vec::new());
    }
    let declared = |path: PathBuf| Cover { path, role: Role::Declared };
    let within = |path: &Path| covers.iter().any(|cover| cover.path.starts_with(path));
    if !within(folder) {
        return Ok(vec![declared(folder.to_owned())]);
    }
    let names = match files.stat(folder)?.map(|stat| stat.kind) {
        Some(super::super::files::Kind::Directory) => files.list(folder)?,
        Some(_) | None => Vec::new(),
    };
    let paths = names.iter().map(|name| folder.join(name));
    Ok(paths.filter(|path| !within(path)).map(declared).collect())
}

/// Where the folder of what a manifest names is not there, it is the folder's absence that is brought back: in it
/// nothing could be.
fn as_absent(files: &dyn Files, path: PathBuf, role: Role) -> Result<PathBuf, BackupError> {
    if role == Role::Data {
        return Ok(path);
    }
    let mut absent = path.clone();
    for folder in path.ancestors().skip(1) {
        if files::exists(files, folder)? {
            break;
        }
        absent = folder.to_owned();
    }
    Ok(absent)
}

/// What its manifests name, as what. Of what a database keeps in files, those are only converted as files.
fn named(release: &Documents) -> Vec<(String, Role)> {
    // What goes with the product is brought back whole, also data: nobody writes to it any more.
    let goes = release.release.removal.paths.iter();
    let mut named: Vec<_> = goes.map(|path| (path.clone(), Role::Declared)).collect();
    for package in &release.packages {
        let (backup, data) = (&package.manifest.backup, &package.manifest.data);
        named.extend(backup.paths.iter().map(|path| (path.clone(), Role::Declared)));
        match data.used {
            DataUse::Untouched => {}
            DataUse::Kept => named.extend(data.paths.iter().map(|path| (path.clone(), Role::Data))),
            DataUse::Converted => {
                named.extend(data.declared_paths().into_iter().map(|path| (path, Role::Converted)));
            }
        }
    }
    named
}

/// Without what lies in another of them, which holds it already.
fn outermost(mut covers: Vec<Cover>) -> Result<Vec<Cover>, BackupError> {
    // Sorted, a folder stands before what is in it.
    sorted::sort_by(&mut covers, |a, b| a.path.cmp(&b.path));
    let mut outer: Vec<Cover> = Vec::new();
    for cover in covers {
        let Some(around) = outer.iter_mut().find(|outer| cover.path.starts_with(&outer.path))
        else {
            outer.push(cover);
            continue;
        };
        let both_data =
            [cover.role, around.role].iter().all(|it| matches!(it, Role::Data | Role::Converted));
        if cover.role == around.role {
        } else if cover.path == around.path && both_data {
            // What one package converts comes back, also where another only writes to it.
            around.role = Role::Converted;
        } else {
            let (path, inner, at) = (cover.path, cover.role.named(), around.path.display());
            let why = format!("it is named as {inner}, and {at} as {}", around.role.named());
            return Err(BackupError::Unsaveable { path, why });
        }
    }
    Ok(outer)
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
