//! A release on disk, between building and publishing: `release.json`, the content by digest, and the
//! signed file of the release role once it is signed. Nothing in it is believed before it was checked.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use refit_durable::file::{self, Access, Pending};
use refit_proto::{
    names::{Digest, Product},
    package::{FileRef, Manifest, Release},
};
use sha2::{Digest as _, Sha256};

/// The folder of one release.
pub(super) struct ReleaseFolder {
    path: PathBuf,
}

/// A release whose files are all there and are what they should be.
pub(super) struct Checked {
    pub(super) release: Release,
    /// The exact bytes that are signed.
    pub(super) document: Vec<u8>,
    /// Everything that hosts need beside the document: manifests and files, each once.
    pub(super) content: BTreeSet<FileRef>,
}

impl ReleaseFolder {
    /// The folder at this path.
    pub(super) fn at(path: &Path) -> ReleaseFolder {
        ReleaseFolder { path: path.to_owned() }
    }

    /// Makes the folder for a new release. A finished one is never built over.
    pub(super) fn create(path: &Path) -> anyhow::Result<ReleaseFolder> {
        let folder = ReleaseFolder::at(path);
        ensure!(
            !folder.document().exists(),
            "{} holds a release already\nhelp: remove it, or choose another folder with --out",
            path.display()
        );
        file::create_dir_all(&path.join("content"))?;
        Ok(folder)
    }

    fn document(&self) -> PathBuf {
        self.path.join("release.json")
    }

    /// Where content lies.
    pub(super) fn content(&self, digest: &Digest) -> PathBuf {
        self.path.join("content").join(digest.to_string())
    }

    /// Where the signed file of the release role lies.
    pub(super) fn signed(&self, product: &Product) -> PathBuf {
        self.path.join(format!("release.{product}.json"))
    }

    /// Copies a file in, if its bytes are the expected ones.
    pub(super) fn add_file(&self, source: &Path, expected: FileRef) -> anyhow::Result<()> {
        let place = self.content(&expected.sha256);
        if place.exists() {
            return Ok(());
        }
        let mut pending = Pending::create(&place, Access::Shared)?;
        let mut from =
            File::open(source).with_context(|| format!("cannot read {}", source.display()))?;
        let found = copy(&mut from, pending.file())
            .with_context(|| format!("cannot copy {}", source.display()))?;
        ensure!(found == expected, "{} changed while the release was built", source.display());
        Ok(pending.publish()?)
    }

    /// Puts bytes in, and says what they are.
    pub(super) fn add_bytes(&self, bytes: &[u8]) -> anyhow::Result<FileRef> {
        let reference = FileRef::to(bytes);
        file::write(&self.content(&reference.sha256), bytes, Access::Shared)?;
        Ok(reference)
    }

    /// Writes the document. The last file: with it, the release is whole.
    pub(super) fn finish(&self, release: &Release) -> anyhow::Result<()> {
        Ok(file::write(&self.document(), &release.to_bytes(), Access::Shared)?)
    }

    /// Reads the release and checks every file against what names it.
    pub(super) fn check(&self) -> anyhow::Result<Checked> {
        let document = file::read(&self.document(), Release::MAX_LENGTH).context(
            "this is not the folder of a release\nhelp: `refit release build` makes one",
        )?;
        let release = Release::parse(&document)?;
        let mut content = BTreeSet::new();
        for package in release.platforms.values().flatten() {
            let manifest = self.manifest(package.manifest)?;
            ensure!(
                manifest.package == package.name,
                "the manifest of {} says that it is {}",
                package.name,
                manifest.package
            );
            content.insert(package.manifest);
            for file in manifest.content() {
                if content.insert(file) {
                    self.check_file(file)?;
                }
            }
        }
        Ok(Checked { release, document, content })
    }

    fn manifest(&self, reference: FileRef) -> anyhow::Result<Manifest> {
        let path = self.content(&reference.sha256);
        let bytes = file::read(&path, Manifest::MAX_LENGTH).with_context(|| unreadable(&path))?;
        ensure!(FileRef::to(&bytes) == reference, damaged(&path));
        Ok(Manifest::parse(&bytes)?)
    }

    fn check_file(&self, reference: FileRef) -> anyhow::Result<()> {
        let path = self.content(&reference.sha256);
        let mut from = File::open(&path).with_context(|| unreadable(&path))?;
        ensure!(copy(&mut from, &mut io::sink())? == reference, damaged(&path));
        Ok(())
    }

    /// The folder's file for content, opened for upload.
    pub(super) fn open(&self, reference: FileRef) -> anyhow::Result<File> {
        let path = self.content(&reference.sha256);
        File::open(&path).with_context(|| unreadable(&path))
    }

    /// The signed file of the release role, if the release is signed.
    pub(super) fn read_signed(&self, product: &Product) -> anyhow::Result<Vec<u8>> {
        let path = self.signed(product);
        match file::read_if_there(&path, refit_proto::trust::metadata::limits::TARGETS)? {
            Some(bytes) => Ok(bytes),
            None => bail!(
                "{} is not signed\nhelp: sign it: `refit release sign {} --key KEY`",
                self.path.display(),
                self.path.display()
            ),
        }
    }
}

fn damaged(path: &Path) -> String {
    format!("{} is damaged\nhelp: build the release again", path.display())
}

/// Copies everything, and says what it was.
fn copy(from: &mut dyn io::Read, to: &mut dyn io::Write) -> io::Result<FileRef> {
    struct Hashing<'a>(&'a mut dyn io::Write, Sha256);
    impl io::Write for Hashing<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let written = self.0.write(bytes)?;
            self.1.update(&bytes[..written]);
            Ok(written)
        }
        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }
    let mut to = Hashing(to, Sha256::new());
    let mut from = io::BufReader::with_capacity(128 * 1024, from.take(u64::MAX));
    let length = io::copy(&mut from, &mut to)?;
    to.flush()?;
    Ok(FileRef { sha256: Digest::from(<[u8; 32]>::from(to.1.finalize())), length })
}

/// A text file that the publisher names, such as the notes.
pub(super) fn read_text(path: &Path) -> anyhow::Result<String> {
    let length = fs::metadata(path).with_context(|| unreadable(path))?.len();
    ensure!(length <= Release::MAX_LENGTH / 2, "{} is too long for a release", path.display());
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
/// A release's folder is made as a whole; what is missing from it can only be made again.
fn unreadable(path: &Path) -> String {
    format!(
        "cannot read {}\nhelp: a part of the release is gone; make it again with `refit release build`",
        path.display()
    )
}
