//! The signed documents of one release as a host keeps them: the release document and the manifests of
//! its packages for this platform, as received, so that what is installed is told by the file system.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use refit_proto::{
    gathered::Gathered as _,
    names::{Digest, PackageName, Platform},
    package::{DocumentError, Entry, FileRef, Manifest, PackageRef, Release},
};

use super::{
    content::Offered,
    files::{self, FileError, Files},
};
use crate::update::ReleaseId;

/// The documents of one release, for one platform. Checked against each other by hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    /// Version and digest.
    pub id: ReleaseId,
    /// The release document.
    pub release: Release,
    /// Its packages on this platform.
    pub packages: Vec<Package>,
    release_bytes: Vec<u8>,
}

/// One package of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name, which is also the name of its folder.
    pub name: PackageName,
    /// Its manifest.
    pub manifest: Manifest,
    bytes: Vec<u8>,
}

/// Why documents cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum DocumentsError {
    /// A document cannot be read.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The release has nothing for this host.
    #[error(
        "{product} {version} has no packages for {platform}\n\
         help: build the release for this platform, or take the host out of its ring"
    )]
    Platform {
        /// The product.
        product: String,
        /// The version.
        version: String,
        /// What the host is.
        platform: Platform,
    },
    /// Other bytes than the document above it names.
    #[error("the {document} is not the one that was signed\nhelp: publish the release again")]
    Mismatch {
        /// Which document.
        document: String,
    },
    /// The disk.
    #[error(transparent)]
    File(#[from] FileError),
}

fn mismatch(document: impl Into<String>) -> DocumentsError {
    DocumentsError::Mismatch { document: document.into() }
}

/// The manifests that a release needs on this platform, to be brought in as content.
///
/// # Errors
/// If it has none for the platform, or names a manifest larger than any may be.
pub fn manifests_of(
    release: &Release,
    platform: &Platform,
) -> Result<BTreeSet<FileRef>, DocumentsError> {
    let packages = packages_of(release, platform)?;
    if let Some(package) = packages.iter().find(|p| p.manifest.length > Manifest::MAX_LENGTH) {
        let problem = format!("the manifest of {} is larger than any may be", package.name);
        return Err(DocumentError::Invalid { document: "release", problem }.into());
    }
    Ok(packages.iter().map(|package| package.manifest).gathered())
}

fn packages_of<'a>(
    release: &'a Release,
    platform: &Platform,
) -> Result<&'a [PackageRef], DocumentsError> {
    release.packages_for(platform).ok_or_else(|| DocumentsError::Platform {
        product: release.product.to_string(),
        version: release.version.to_string(),
        platform: platform.clone(),
    })
}

impl Documents {
    /// From the release document, whose digest was checked against signed metadata, and the manifests
    /// that it names, by what `manifest` gives for them.
    ///
    /// # Errors
    /// A manifest that cannot be had, is not the one that is named, or cannot be followed.
    pub fn new(
        release_bytes: Vec<u8>,
        platform: &Platform,
        manifest: impl Fn(&PackageRef) -> Result<Vec<u8>, DocumentsError>,
    ) -> Result<Documents, DocumentsError> {
        let release = Release::parse(&release_bytes)?;
        manifests_of(&release, platform)?;
        let mut packages = Vec::new();
        for package in packages_of(&release, platform)? {
            let bytes = manifest(package)?;
            if FileRef::to(&bytes) != package.manifest {
                return Err(mismatch(format!("manifest of package {}", package.name)));
            }
            let manifest = Manifest::parse(&bytes)?;
            if manifest.package != package.name {
                return Err(mismatch(format!("manifest of package {}", package.name)));
            }
            packages.push(Package { name: package.name.clone(), manifest, bytes });
        }
        let digest = Digest::of(&release_bytes);
        let id = ReleaseId { version: release.version.clone(), digest };
        Ok(Documents { id, release, packages, release_bytes })
    }

    /// From the folder of an installed release.
    ///
    /// # Errors
    /// If they cannot be read, or are not those of the release `digest`.
    pub fn load(
        files: &dyn Files,
        folder: &Path,
        digest: &Digest,
        platform: &Platform,
    ) -> Result<Documents, DocumentsError> {
        let path = folder.join(RELEASE);
        let release_bytes = files::read_file(files, &path, Release::MAX_LENGTH)?;
        if Digest::of(&release_bytes) != *digest {
            return Err(mismatch(format!("release document {}", path.display())));
        }
        Documents::new(release_bytes, platform, |package| {
            let path = folder.join(manifest_path(&package.name));
            Ok(files::read_file(files, &path, Manifest::MAX_LENGTH)?)
        })
    }

    /// The documents as files in the release's folder, those of the folders first.
    pub fn files(&self) -> Vec<(PathBuf, &[u8])> {
        let release = (PathBuf::from(RELEASE), self.release_bytes.as_slice());
        let manifests = self.packages.iter();
        let manifests = manifests.map(|p| (manifest_path(&p.name), p.bytes.as_slice()));
        std::iter::once(release).chain(manifests).collect()
    }

    /// Every content file that the release needs here, each once.
    pub fn content(&self) -> BTreeSet<FileRef> {
        self.packages.iter().flat_map(|package| package.manifest.content()).gathered()
    }

    /// What the release, installed in `folder`, can give to the next one.
    pub fn offers(&self, folder: &Path) -> Offered {
        let mut offered: Offered = BTreeMap::new();
        for package in &self.packages {
            for entry in &package.manifest.entries {
                if let Entry::File { path, content, .. } = entry {
                    let at = folder.join(package.name.as_str()).join(path.as_str());
                    offered.entry(*content).or_default().push(at);
                }
            }
        }
        offered
    }
}

/// The folder of the documents in a release's folder. No package can have this name.
pub(super) const FOLDER: &str = ".refit";
const RELEASE: &str = ".refit/release.json";

fn manifest_path(package: &PackageName) -> PathBuf {
    Path::new(FOLDER).join("packages").join(format!("{package}.json"))
}
