//! Building a package from a folder: what a publisher has on disk becomes entries addressed by content.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    Backup, Data, DocumentError, Entry, FileRef, Health, Hook, ImageError, Installer, Manifest,
    MenderPayload, PackagePath, PathError, PlacedAs, PodmanImage, Reboot, Service,
    frame::{compress, copy_hashed},
    podman::LARGEST,
};
use crate::names::PackageName;

/// What the publisher writes beside the tree: everything in a manifest that files do not tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageDescription {
    /// By default the product's name.
    #[serde(default)]
    pub package: Option<PackageName>,
    /// What runs.
    #[serde(default)]
    pub services: Vec<Service>,
    /// How a host tells whether it works.
    pub health: Health,
    /// What is saved beside the tree, the link and the units.
    #[serde(default)]
    pub backup: Backup,
    /// Commands of the package's own.
    #[serde(default)]
    pub hooks: Vec<Hook>,
    /// Whether a host has to boot before the package runs.
    #[serde(default)]
    pub reboot: Reboot,
    /// How it is put on a host.
    #[serde(default)]
    pub installer: Installer,
    /// With the installer `files`: what is not root's, or has more than a mode.
    #[serde(default)]
    pub files: Vec<PlacedAs>,
    /// Data that it works on.
    #[serde(default)]
    pub data: Data,
    /// With the installer `mender`: which module, and what it is told.
    #[serde(default)]
    pub mender: Option<MenderPayload>,
}

/// A built package.
#[derive(Debug)]
pub struct Built {
    /// Its manifest, checked.
    pub manifest: Manifest,
    /// Where the content lies, in the order of the manifest; equal content may stand several times.
    pub files: Vec<BuiltFile>,
}

/// One content file of a built package.
#[derive(Debug, Clone)]
pub struct BuiltFile {
    /// What the manifest says.
    pub content: FileRef,
    /// Where it was read from.
    pub source: PathBuf,
}

/// Why a folder is not a package.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file or folder could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A device, socket or pipe, a set-user-id file, or a name that is not UTF-8.
    #[error("{} cannot be in a package: {problem}", path.display())]
    Unsuitable {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Its path is not one that a manifest may hold.
    #[error(transparent)]
    Path(#[from] PathError),
    /// What should be a container's image is none.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The manifest breaks a rule.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

/// Builds the package of everything below `tree`. The same tree gives the same manifest, byte for byte:
/// entries are sorted, and times and owners are left out.
///
/// # Errors
/// A file that cannot be read or cannot be in a package; a description that makes no valid manifest.
pub fn build(
    tree: &Path,
    package: PackageName,
    description: PackageDescription,
) -> Result<Built, BuildError> {
    let mut entries = Vec::new();
    let mut files = Vec::new();
    walk(tree, None, &mut entries, &mut files)?;
    let PackageDescription {
        package: _,
        services,
        health,
        backup,
        hooks,
        reboot,
        installer,
        files: placed,
        data,
        mender,
    } = description;
    let mut manifest = Manifest::unchecked(package, entries, services, health, backup, hooks);
    manifest.mender = mender;
    if installer == Installer::Podman {
        manifest.podman = Some(PodmanImage::of_layout(|path| read_small(&tree.join(path)))?);
    }
    let manifest = manifest.with_reboot(reboot).with_data(data).installed_by(installer, placed)?;
    Ok(Built { manifest, files })
}

/// One of an image's documents, all of it.
fn read_small(path: &Path) -> Result<Vec<u8>, BuildError> {
    let io = |source| BuildError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(io)?;
    io::Read::read_to_end(&mut io::Read::take(file, LARGEST + 1), &mut bytes).map_err(io)?;
    match bytes.len() as u64 > LARGEST {
        true => Err(io(io::Error::other("it is larger than any such document"))),
        false => Ok(bytes),
    }
}

fn walk(
    folder: &Path,
    inside: Option<&PackagePath>,
    entries: &mut Vec<Entry>,
    files: &mut Vec<BuiltFile>,
) -> Result<(), BuildError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| BuildError::Io { path, source }
    };
    let mut names = Vec::new();
    for found in fs::read_dir(folder).map_err(io(folder))? {
        names.push(found.map_err(io(folder))?.file_name());
    }
    names.sort();
    for name in names {
        let source = folder.join(&name);
        let unsuitable = |problem| BuildError::Unsuitable { path: source.clone(), problem };
        let name = name.to_str().ok_or_else(|| unsuitable("its name is not UTF-8"))?;
        let path = match inside {
            Some(parent) => PackagePath::parse(&format!("{parent}/{name}"))?,
            None => PackagePath::parse(name)?,
        };
        let metadata = fs::symlink_metadata(&source).map_err(io(&source))?;
        let mode = metadata.permissions().mode() & 0o7777;
        if metadata.is_dir() {
            entries.push(Entry::Directory { path: path.clone(), mode: mode & 0o777 });
            walk(&source, Some(&path), entries, files)?;
        } else if metadata.is_symlink() {
            let target = fs::read_link(&source).map_err(io(&source))?;
            let target = target.to_str().ok_or_else(|| unsuitable("its target is not UTF-8"))?;
            entries.push(Entry::Link { path, target: target.to_owned() });
        } else if metadata.is_file() {
            if mode > 0o777 {
                return Err(unsuitable("it has a set-user-id, set-group-id or sticky bit"));
            }
            let mut file = fs::File::open(&source).map_err(io(&source))?;
            let (sha256, length) =
                copy_hashed(&mut file, &mut io::sink(), u64::MAX).map_err(io(&source))?;
            let content = FileRef { sha256, length };
            entries.push(Entry::File { path, mode, content });
            files.push(BuiltFile { content, source });
        } else {
            return Err(unsuitable("it is not a file, folder or link"));
        }
    }
    Ok(())
}

impl BuiltFile {
    /// Compresses the file for upload, and says so if it is no longer the one that was built.
    ///
    /// # Errors
    /// A file that cannot be read, or that changed since the build.
    pub fn pack(&self, frame: &mut dyn io::Write) -> Result<(), BuildError> {
        let io = |source| BuildError::Io { path: self.source.clone(), source };
        let mut file = fs::File::open(&self.source).map_err(io)?;
        let (sha256, length) = compress(&mut file, frame).map_err(io)?;
        if (FileRef { sha256, length }) == self.content {
            Ok(())
        } else {
            let problem = "it changed since the release was built";
            Err(BuildError::Unsuitable { path: self.source.clone(), problem })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn description() -> PackageDescription {
        PackageDescription {
            package: None,
            services: vec![],
            health: Health::None,
            backup: Backup::default(),
            hooks: vec![],
            reboot: Reboot::Never,
            installer: Installer::Tree,
            files: vec![],
            data: Data::default(),
            mender: None,
        }
    }

    fn built(tree: &Path) -> Result<Built, BuildError> {
        build(tree, PackageName::parse("payments").unwrap(), description())
    }

    #[test]
    fn the_same_tree_gives_the_same_manifest_wherever_it_lies() {
        let make = || {
            let tree = tempfile::tempdir().unwrap();
            fs::create_dir(tree.path().join("bin")).unwrap();
            fs::write(tree.path().join("bin/b"), "b").unwrap();
            fs::write(tree.path().join("bin/a"), "a").unwrap();
            symlink("bin/a", tree.path().join("run")).unwrap();
            tree
        };
        let (one, two) = (make(), make());
        let bytes = |tree: &tempfile::TempDir| built(tree.path()).unwrap().manifest.to_bytes();
        assert_eq!(bytes(&one), bytes(&two));
        let paths: Vec<_> = built(one.path())
            .unwrap()
            .manifest
            .entries
            .iter()
            .map(|entry| entry.path().to_string())
            .collect();
        assert_eq!(paths, ["bin", "bin/a", "bin/b", "run"]);
    }

    /// CVE-2021-38511, CVE-2026-33055, CVE-2026-33056, RUSTSEC-2025-0110, CVE-2025-62518.
    #[test]
    fn what_a_host_must_not_get_is_refused_when_it_is_built() {
        let refused = |make: &dyn Fn(&Path)| {
            let tree = tempfile::tempdir().unwrap();
            make(tree.path());
            built(tree.path()).unwrap_err().to_string()
        };
        let out = refused(&|tree| symlink("/etc/passwd", tree.join("x")).unwrap());
        assert!(out.contains("points out of the package"), "{out}");
        let suid = refused(&|tree| {
            fs::write(tree.join("su"), "").unwrap();
            fs::set_permissions(tree.join("su"), fs::Permissions::from_mode(0o4755)).unwrap();
        });
        assert!(suid.contains("set-user-id"), "{suid}");
        let socket = refused(&|tree| {
            drop(std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap());
        });
        assert!(socket.contains("not a file, folder or link"), "{socket}");
    }

    /// CVE-2026-34155: lengths and hashes past 2 GiB and past 4 GiB are right. The digests are those of
    /// `head -c N /dev/zero | sha256sum`.
    #[test]
    fn files_beyond_2_and_4_gib_have_their_length_and_their_hash() {
        let expected = [
            ((2_u64 << 30) + 1, "b8030a8ab89280935633d8d991da3d9907c0f12e8b6fc3bfc515f4d440872b6e"),
            ((4_u64 << 30) + 1, "fbb82f7b353676bb562eb82157fcf0ea42c36492ca13ee56dbf82c08b6802c5c"),
        ];
        let tried = expected.map(|(length, digest)| {
            // Files on a disk, which take no room there, and a frame of the longer one.
            std::thread::spawn(move || {
                let tree = tempfile::tempdir().unwrap();
                fs::File::create(tree.path().join("big")).unwrap().set_len(length).unwrap();
                let manifest = built(tree.path()).unwrap().manifest;
                let content = manifest.content().into_iter().next().unwrap();
                assert_eq!((content.length, content.sha256.to_string().as_str()), (length, digest));
                let read = Manifest::parse(&manifest.to_bytes()).unwrap();
                assert_eq!(read.content(), manifest.content());
            })
        });
        let (length, digest) = expected[0];
        let digest = crate::names::Digest::parse(digest).unwrap();
        let mut frame = Vec::new();
        let mut zeros = io::Read::take(io::repeat(0), length);
        let packed = super::super::compress(&mut zeros, &mut frame).unwrap();
        assert_eq!(packed, (digest, length));
        for (claimed, good) in [(length, true), (length - 1, false), (length - (2 << 30), false)] {
            let got = super::super::decompress(&mut &frame[..], &mut io::sink(), digest, claimed);
            assert_eq!(got.is_ok(), good, "{claimed}");
        }
        tried.into_iter().for_each(|tried| tried.join().unwrap());
    }

    /// CVE-2020-25860.
    #[test]
    fn a_file_that_changes_between_build_and_upload_is_noticed() {
        let tree = tempfile::tempdir().unwrap();
        fs::write(tree.path().join("a"), "a").unwrap();
        let built = built(tree.path()).unwrap();
        assert!(built.files[0].pack(&mut Vec::new()).is_ok());
        fs::write(tree.path().join("a"), "b").unwrap();
        assert!(built.files[0].pack(&mut Vec::new()).is_err());
    }
}
