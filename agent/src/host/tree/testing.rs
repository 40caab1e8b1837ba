//! Releases for tests: documents and content, without a publisher.

use std::collections::BTreeMap;

use refit_proto::{
    names::{PackageName, Platform, Product, Version},
    package::{Backup, Entry, FileRef, Health, Manifest, PackagePath, PackageRef, Release},
};

use super::super::{content::ContentStore, documents::Documents, files::Files, recording::put};

pub(crate) fn payments() -> Product {
    Product::parse("payments").unwrap()
}

pub(crate) fn platform() -> Platform {
    Platform::parse("any").unwrap()
}

/// A release of `payments` whose packages hold these files, with their modes.
pub(crate) fn release(version: &str, packages: &[(&str, Vec<Entry>)]) -> Documents {
    release_that_saves(version, packages, &[])
}

/// The same, with paths to back up.
pub(crate) fn release_that_saves(
    version: &str,
    packages: &[(&str, Vec<Entry>)],
    paths: &[&str],
) -> Documents {
    let mut manifests = BTreeMap::new();
    let mut refs = vec![];
    for (name, entries) in packages {
        let name = PackageName::parse(name).unwrap();
        let backup = Backup { paths: paths.iter().map(|path| (*path).to_owned()).collect() };
        let entries = entries.clone();
        let manifest =
            Manifest::new(name.clone(), entries, vec![], Health::None, backup, vec![]).unwrap();
        let manifest_ref = FileRef::to(&manifest.to_bytes());
        manifests.insert(manifest_ref, manifest.to_bytes());
        refs.push(PackageRef { name, manifest: manifest_ref });
    }
    let platforms = BTreeMap::from([(platform(), refs)]);
    let release = Release::new(payments(), Version::parse(version).unwrap(), 1, platforms);
    Documents::new(release.to_bytes(), &platform(), |package| {
        Ok(manifests[&package.manifest].clone())
    })
    .unwrap()
}

pub(crate) fn file(path: &str, mode: u32, bytes: &[u8]) -> Entry {
    Entry::File { path: PackagePath::parse(path).unwrap(), mode, content: FileRef::to(bytes) }
}

pub(crate) fn folder(path: &str, mode: u32) -> Entry {
    Entry::Directory { path: PackagePath::parse(path).unwrap(), mode }
}

pub(crate) fn link(path: &str, target: &str) -> Entry {
    Entry::Link { path: PackagePath::parse(path).unwrap(), target: target.into() }
}

/// Puts content into the store as if it had been fetched.
pub(crate) fn stock(files: &dyn Files, content: &ContentStore<'_>, contents: &[&[u8]]) {
    for bytes in contents {
        put(files, &content.path(&refit_proto::names::Digest::of(bytes)), bytes, 0o600);
    }
}
