//! The documents that signed metadata names: manifest, release, policies, list of servers.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    path::{Component, Path},
};

use crate::{
    package::{DocumentError, Entry, Manifest, PackagePath, Release},
    policy::{LabelPolicy, ProductPolicy},
    servers::ServersPolicy,
};

/// A document that is taken is written again as it was read, and a manifest never leaves its folder.
pub fn manifest(data: &[u8]) {
    if let Some(manifest) = reads_back(data, Manifest::parse, Manifest::to_bytes) {
        stays_inside(&manifest);
    }
    reads_back(data, Release::parse, Release::to_bytes);
    reads_back(data, ProductPolicy::parse, ProductPolicy::to_bytes);
    reads_back(data, LabelPolicy::parse, LabelPolicy::to_bytes);
    reads_back(data, ServersPolicy::parse, ServersPolicy::to_bytes);
}

fn reads_back<T: PartialEq + Debug>(
    data: &[u8],
    parse: fn(&[u8]) -> Result<T, DocumentError>,
    write: fn(&T) -> Vec<u8>,
) -> Option<T> {
    match parse(data) {
        Ok(read) => {
            let written = write(&read);
            let again = parse(&written).expect("what was taken once is taken again");
            assert_eq!(again, read);
            assert_eq!(write(&again), written, "one document, one form");
            Some(read)
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

/// Every path once, below its folder by every reading, and every link too.
fn stays_inside(manifest: &Manifest) {
    assert!(manifest.entries.len() <= Manifest::MAX_ENTRIES);
    let mut seen = BTreeSet::new();
    let mut links = BTreeSet::new();
    for entry in &manifest.entries {
        let path = entry.path();
        assert!(seen.insert(path.as_str()), "{path} stands twice");
        let normal = Path::new(path.as_str()).components();
        assert!(normal.clone().all(|part| matches!(part, Component::Normal(_))), "{path}");
        for above in Path::new(path.as_str()).ancestors().skip(1) {
            assert!(!links.contains(above), "{path} lies below a link");
        }
        match entry {
            Entry::Directory { mode, .. } | Entry::File { mode, .. } => {
                assert!(*mode <= 0o777, "{path} has mode {mode:o}");
            }
            Entry::Link { target, .. } => {
                assert!(leads_inside(path, target), "{path} leads to {target}");
                links.insert(Path::new(path.as_str()));
            }
        }
    }
}

/// The same question as the parser's, answered another way: step by step through a made-up tree.
fn leads_inside(link: &PackagePath, target: &str) -> bool {
    let mut at: Vec<&str> = link.as_str().split('/').collect();
    at.pop();
    for part in Path::new(target).components() {
        match part {
            Component::RootDir | Component::Prefix(_) => return false,
            Component::CurDir => {}
            Component::ParentDir => {
                if at.pop().is_none() {
                    return false;
                }
            }
            Component::Normal(name) => at.push(name.to_str().unwrap_or_default()),
        }
    }
    true
}
