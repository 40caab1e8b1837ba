//! The release document, `releases/<product>/<version>.json`: what the product's release keys sign.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ChangePlan, DocumentError, manifest::is_absolute, parse_document_knowing};
use crate::{
    canonical,
    names::{Digest, PackageName, Platform, Product, Version},
    sorted,
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
    /// Packages by platform. On a host, all packages of its platform switch together or not at all. A platform
    /// without any: there the release removes the product.
    pub platforms: BTreeMap<Platform, Vec<PackageRef>>,
    /// Of a release that removes the product: what goes beside what its releases brought.
    #[serde(default, skip_serializing_if = "Removal::is_default")]
    pub removal: Removal,
}

/// What a release that removes a product takes away beside programs and units. Without it data stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// Files and folders, absolute; host variables are expanded. Saved first, so that going back brings them back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Debian packages are purged also where a script of theirs runs then, which may take what no backup holds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub purge: bool,
}

impl Removal {
    fn is_default(&self) -> bool {
        *self == Removal::default()
    }
}

/// A host that does not know of it would leave behind what was to go.
const REMOVAL: &str = "removal";

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
            removal: Removal::default(),
        }
    }

    /// The same, of a release that removes the product and takes away more than what it brought. Checked by
    /// [`Release::parse`].
    #[must_use]
    pub fn removing(mut self, removal: Removal) -> Release {
        self.required.retain(|feature| feature != REMOVAL);
        if !removal.is_default() {
            self.required.push(REMOVAL.into());
        }
        self.removal = removal;
        self
    }

    /// Whether it removes the product wherever it comes.
    pub fn is_removal(&self) -> bool {
        !self.platforms.is_empty() && self.platforms.values().all(Vec::is_empty)
    }

    /// Reads a release document whose digest and length have been checked against signed metadata.
    ///
    /// # Errors
    /// Anything that this program cannot follow to the letter.
    pub fn parse(bytes: &[u8]) -> Result<Release, DocumentError> {
        let release: Release = parse_document_knowing("release", bytes, &[REMOVAL])?;
        for (platform, packages) in &release.platforms {
            let mut names: Vec<_> = packages.iter().map(|package| &package.name).collect();
            sorted::sort(&mut names);
            if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                let problem = format!("package {} stands twice on {platform}", twice[0]);
                return Err(DocumentError::Invalid { document: "release", problem });
            }
        }
        if let Err(problem) = release.check_removal() {
            return Err(DocumentError::Invalid { document: "release", problem });
        }
        Ok(release)
    }

    fn check_removal(&self) -> Result<(), String> {
        if self.removal.is_default() {
            return Ok(());
        }
        if !self.required.iter().any(|feature| feature == REMOVAL) {
            return Err("it says what goes with the product, and not under `required`".into());
        }
        if !self.is_removal() {
            return Err("it says what goes with the product, and does not remove it".into());
        }
        match self.removal.paths.iter().find(|path| !is_absolute(path)) {
            Some(path) => Err(format!("{path:?} under removal is not an absolute path")),
            None => Ok(()),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn release(packages: &str) -> Release {
        let text = format!(
            r#"{{"_type":"release","format":1,"product":"payments","version":"3.0","counter":3,
                "platforms":{{"any":[{packages}]}}}}"#
        );
        Release::parse(text.as_bytes()).unwrap()
    }

    fn removal(paths: &[&str]) -> Removal {
        Removal { paths: paths.iter().map(|path| (*path).to_owned()).collect(), purge: false }
    }

    #[test]
    fn a_release_that_takes_more_than_the_product_requires_that_its_reader_knows_and_removes_it() {
        let plain = release("");
        assert!(plain.is_removal());
        assert!(!String::from_utf8(plain.to_bytes()).unwrap().contains("removal"));
        let taking = plain.clone().removing(removal(&["/var/lib/payments", "${DATA}/x"]));
        assert_eq!(taking.required, ["removal"]);
        assert_eq!(Release::parse(&taking.to_bytes()).unwrap(), taking);
        let text = String::from_utf8(taking.to_bytes()).unwrap();
        let hidden = text.replace("\"required\":[\"removal\"],", "");
        assert_ne!(hidden, text);
        assert!(Release::parse(hidden.as_bytes()).is_err());
        for bad in ["var/lib", "/var/../etc", ""] {
            let bad = plain.clone().removing(removal(&[bad]));
            assert!(Release::parse(&bad.to_bytes()).is_err());
        }
        let manifest = serde_json::to_string(&FileRef::to(b"x")).unwrap();
        let stays = release(&format!(r#"{{"name":"payments","manifest":{manifest}}}"#));
        assert!(!stays.is_removal());
        let stays = stays.removing(removal(&["/var/lib/payments"]));
        assert!(Release::parse(&stays.to_bytes()).is_err());
        assert_eq!(taking.removing(Removal::default()), plain);
    }
}
