//! The release document, `releases/<product>/<version>.json`: what the product's release keys sign.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ChangePlan, DocumentError, parse_document};
use crate::{
    canonical,
    names::{Digest, PackageName, Platform, Product, Version},
};

/// A release: immutable, signed by digest and length through the product's release role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Always `release`.
    #[serde(rename = "_type")]
    kind: String,
    format: u32,
    /// Features that a reader must know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// What it is a release of.
    pub product: Product,
    /// Its label.
    pub version: Version,
    /// Tells the order of releases; larger is newer.
    pub counter: u64,
    /// For users, in Markdown.
    #[serde(default)]
    pub notes: String,
    /// Documents for users: addresses.
    #[serde(default)]
    pub links: Vec<String>,
    /// Goal, owner, urgency and way back.
    #[serde(default)]
    pub plan: ChangePlan,
    /// Packages by platform. On a host, all packages of its platform switch together or not at all.
    pub platforms: BTreeMap<Platform, Vec<PackageRef>>,
}

/// One package of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageRef {
    /// Unique within the release and platform.
    pub name: PackageName,
    /// Its manifest, from which all content is addressed.
    pub manifest: FileRef,
}

/// A file by its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileRef {
    /// SHA-256 of the plain bytes.
    pub sha256: Digest,
    /// Length of the plain bytes.
    pub length: u64,
}

/// The digest of a release document's change plan, as it is written there: with the members that this
/// program doesn't know. `None` where the document has none.
pub fn plan_digest(document: &[u8]) -> Option<Digest> {
    let document: serde_json::Value = serde_json::from_slice(document).ok()?;
    Some(Digest::of(&canonical::to_canonical(document.get("plan")?)))
}

impl FileRef {
    /// The reference to these bytes.
    pub fn to(bytes: &[u8]) -> FileRef {
        FileRef { sha256: Digest::of(bytes), length: bytes.len() as u64 }
    }
}

impl Release {
    /// Largest release document that anyone reads, bytes. A hundred packages on ten platforms need 200 kB.
    pub const MAX_LENGTH: u64 = 1_000_000;

    /// A release with no notes, links or plan yet.
    pub fn new(
        product: Product,
        version: Version,
        counter: u64,
        platforms: BTreeMap<Platform, Vec<PackageRef>>,
    ) -> Release {
        Release {
            kind: "release".into(),
            format: super::FORMAT,
            required: Vec::new(),
            product,
            version,
            counter,
            notes: String::new(),
            links: Vec::new(),
            plan: ChangePlan::default(),
            platforms,
        }
    }

    /// Reads a release document whose digest and length have been checked against signed metadata.
    ///
    /// # Errors
    /// Anything that this program cannot follow to the letter.
    pub fn parse(bytes: &[u8]) -> Result<Release, DocumentError> {
        let release: Release = parse_document("release", bytes)?;
        for (platform, packages) in &release.platforms {
            let mut names: Vec<_> = packages.iter().map(|package| &package.name).collect();
            names.sort();
            if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                let problem = format!("package {} stands twice on {platform}", twice[0]);
                return Err(DocumentError::Invalid { document: "release", problem });
            }
        }
        Ok(release)
    }

    /// The document's bytes, which the signed metadata pins.
    pub fn to_bytes(&self) -> Vec<u8> {
        // No map with other than string keys and no fallible value: this cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The packages for a host of this platform: its own, or those for `any`. `None` where the release
    /// has nothing for it.
    pub fn packages_for(&self, platform: &Platform) -> Option<&[PackageRef]> {
        self.platforms.get(platform).or_else(|| self.platforms.get("any")).map(Vec::as_slice)
    }
}
