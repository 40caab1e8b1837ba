//! The parts that a bundle may have, and their order. A name is parsed once and written one way only, so
//! that two names never mean the same part.

use std::fmt;

use super::limits;
use crate::{
    names::Digest,
    trust::{Role, metadata},
};

/// A part's name. The order of the variants, and of what they hold, is the order in the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartName {
    /// `bundle.json`.
    Head,
    /// `metadata/N.root.json`: every root, as published.
    Root(u64),
    /// `metadata/ROLE.json`: a role's file as published, or the snapshot and timestamp of the bundle's own.
    Metadata(Role),
    /// `content/DIGEST`: a document or content file as a zstd frame.
    Content(Digest),
    /// `end`: SHA-256 of all bytes before its own 32.
    End,
}

impl PartName {
    /// Parses a name.
    pub(super) fn parse(name: &str) -> Option<PartName> {
        let parsed = match name {
            "bundle.json" => PartName::Head,
            "end" => PartName::End,
            other => match other.split_once('/')? {
                ("content", digest) => PartName::Content(Digest::parse(digest).ok()?),
                ("metadata", file) => metadata_part(file.strip_suffix(".json")?)?,
                _ => return None,
            },
        };
        // One way to write it, or it is another name.
        (parsed.to_string() == name).then_some(parsed)
    }

    /// The most bytes that it may have.
    pub(super) fn limit(&self) -> u64 {
        match self {
            PartName::Head => limits::HEAD,
            PartName::Root(_) => metadata::limits::ROOT,
            PartName::Metadata(role) => metadata::limits::max_length(role),
            PartName::Content(_) => limits::CONTENT,
            PartName::End => 32,
        }
    }
}

fn metadata_part(name: &str) -> Option<PartName> {
    if let Some(version) = name.strip_suffix(".root") {
        return version.parse().ok().filter(|version| *version > 0).map(PartName::Root);
    }
    match Role::parse(name).ok()? {
        Role::Root => None,
        role => Some(PartName::Metadata(role)),
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PartName::Head => f.write_str("bundle.json"),
            PartName::Root(version) => write!(f, "metadata/{version}.root.json"),
            PartName::Metadata(role) => write!(f, "metadata/{role}.json"),
            PartName::Content(digest) => write!(f, "content/{digest}"),
            PartName::End => f.write_str("end"),
        }
    }
}
