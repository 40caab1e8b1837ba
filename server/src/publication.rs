//! Whether what signed metadata names is all here and all valid: release documents with their
//! manifests and content, and policies. The signatures are checked in `proto/src/trust`; nothing is
//! shown to anybody before both agree. Reads the content folder, and blocks on it.

use refit_proto::{
    names::{Product, RingName, Version},
    package::{DocumentError, FileRef, Manifest, PackageRef, PlanField, Release, Urgency},
    policy::{LabelPolicy, ProductPolicy},
    servers::ServersPolicy,
    trust::{Closed, Misfit, Unapproved, approval::Flaw},
};

use crate::content::{ContentError, ContentFolder};

/// Why signed metadata is refused all the same.
#[derive(Debug, thiserror::Error)]
pub enum PublicationError {
    /// Something that it names is not here, or not what it says.
    #[error("{document}: {cause}")]
    Content {
        /// What names it.
        document: String,
        /// What is wrong.
        cause: ContentError,
    },
    /// It is here, and can't be followed to the letter.
    #[error("{document}: {cause}")]
    Document {
        /// Which.
        document: String,
        /// Why.
        cause: DocumentError,
    },
    /// Longer than anyone reads.
    #[error("{document} has {length} bytes, at most {limit} are read\nhelp: split it")]
    TooLong {
        /// Which.
        document: String,
        /// As it is signed.
        length: u64,
        /// See the documents' own limits.
        limit: u64,
    },
    /// The policy role signs something that means nothing.
    #[error(
        "{path} is neither a product's policy nor the labels nor the servers\nhelp: sign `policy/PRODUCT.json`, `policy/labels.json` and `policy/servers.json` alone; `refit apply` does"
    )]
    Unknown {
        /// The path that was signed.
        path: String,
    },
    /// A promotion that this server can't follow.
    #[error(
        "the promotion of {version} requires {feature:?}, which this server does not know\nhelp: update the server first"
    )]
    Feature {
        /// The promoted release.
        version: Version,
        /// What it requires.
        feature: String,
    },
    /// A promotion of nothing.
    #[error(
        "{product} {version} is promoted, but was not published\nhelp: publish it first with `refit release publish`"
    )]
    NotPublished {
        /// Of which product.
        product: Product,
        /// The promoted release.
        version: Version,
    },
    /// A promotion that does not fit its release.
    #[error(transparent)]
    Misfit(#[from] Misfit),
    /// A promotion that does not bring what its ring asks for.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// A release that does not say what its product's policy asks for.
    #[error(
        "the change plan of {product} {version} lacks {}, which the policy of {product} asks of {} releases\n\
         help: a release never changes: build another version that says it in refit.toml, and look at it with `refit release check` before it is signed",
        listed(.missing),
        .urgency.as_str()
    )]
    Plan {
        /// Of which product.
        product: Product,
        /// The promoted release.
        version: Version,
        /// How soon it says that it is needed.
        urgency: Urgency,
        /// What it does not say.
        missing: Vec<PlanField>,
    },
    /// A ring's file that the wrong people signed.
    #[error("the promotion to ring {ring} of {product} does not count: {cause}")]
    Unapproved {
        /// Of which product.
        product: Product,
        /// Which ring.
        ring: RingName,
        /// What is missing.
        cause: Unapproved,
    },
    /// A ring that whoever has this server could promote to as they like.
    #[error(transparent)]
    Ring(#[from] Flaw),
    /// The document is about something else than its path.
    #[error(
        "{document} is about {found}\nhelp: sign each document under its own path; `refit release sign` does"
    )]
    OtherPath {
        /// The path that was signed.
        document: String,
        /// What the document says.
        found: String,
    },
}

fn listed(fields: &[PlanField]) -> String {
    fields.iter().map(|field| field.as_str()).collect::<Vec<_>>().join(", ")
}

/// Reads a release document and checks that everything it needs is here.
///
/// # Errors
/// The first thing that is missing or wrong.
pub fn check_release(
    content: &ContentFolder,
    product: &Product,
    version: &Version,
    target: FileRef,
) -> Result<Release, PublicationError> {
    let document = format!("release {product} {version}");
    let bytes = read(content, &document, target, Release::MAX_LENGTH)?;
    let release = Release::parse(&bytes)
        .map_err(|cause| PublicationError::Document { document: document.clone(), cause })?;
    if (&release.product, &release.version) != (product, version) {
        let found = format!("release {} {}", release.product, release.version);
        return Err(PublicationError::OtherPath { document, found });
    }
    for (platform, packages) in &release.platforms {
        for package in packages {
            let document = format!("{document}, package {} on {platform}", package.name);
            check_package(content, document, package)?;
        }
    }
    Ok(release)
}

fn check_package(
    content: &ContentFolder,
    document: String,
    package: &PackageRef,
) -> Result<(), PublicationError> {
    let bytes = read(content, &document, package.manifest, Manifest::MAX_LENGTH)?;
    let manifest = Manifest::parse(&bytes)
        .map_err(|cause| PublicationError::Document { document: document.clone(), cause })?;
    if manifest.package != package.name {
        let found = format!("package {}", manifest.package);
        return Err(PublicationError::OtherPath { document, found });
    }
    for file in manifest.content() {
        content
            .verify(file.sha256, file.length)
            .map_err(|cause| PublicationError::Content { document: document.clone(), cause })?;
    }
    Ok(())
}

/// Reads a product's policy.
///
/// # Errors
/// If it is not here, or not followed to the letter.
pub fn check_policy(
    content: &ContentFolder,
    product: &Product,
    target: FileRef,
) -> Result<ProductPolicy, PublicationError> {
    let document = format!("policy of {product}");
    let bytes = read(content, &document, target, ProductPolicy::MAX_LENGTH)?;
    let policy = ProductPolicy::parse(&bytes)
        .map_err(|cause| PublicationError::Document { document: document.clone(), cause })?;
    if policy.product != *product {
        let found = format!("product {}", policy.product);
        return Err(PublicationError::OtherPath { document, found });
    }
    Ok(policy)
}

/// Reads the labels set from the centre.
///
/// # Errors
/// If they are not here, or not followed to the letter.
pub fn check_labels(
    content: &ContentFolder,
    target: FileRef,
) -> Result<LabelPolicy, PublicationError> {
    let document = "labels".to_owned();
    let bytes = read(content, &document, target, LabelPolicy::MAX_LENGTH)?;
    LabelPolicy::parse(&bytes).map_err(|cause| PublicationError::Document { document, cause })
}

/// Reads where the servers are.
///
/// # Errors
/// If it is not here, or not followed to the letter.
pub fn check_servers(
    content: &ContentFolder,
    target: FileRef,
) -> Result<ServersPolicy, PublicationError> {
    let document = "servers".to_owned();
    let bytes = read(content, &document, target, ServersPolicy::MAX_LENGTH)?;
    ServersPolicy::parse(&bytes).map_err(|cause| PublicationError::Document { document, cause })
}

pub(crate) fn read(
    content: &ContentFolder,
    document: &str,
    target: FileRef,
    limit: u64,
) -> Result<Vec<u8>, PublicationError> {
    let document = document.to_owned();
    if target.length > limit {
        return Err(PublicationError::TooLong { document, length: target.length, limit });
    }
    content
        .read_document(target.sha256, target.length)
        .map_err(|cause| PublicationError::Content { document, cause })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use refit_proto::names::Digest;
    use serde_json::{Value, json};

    use super::*;

    struct Shelf {
        _data: tempfile::TempDir,
        content: ContentFolder,
    }

    impl Shelf {
        fn new() -> Shelf {
            let data = tempfile::tempdir().unwrap();
            let content = ContentFolder::open(data.path(), 1 << 30).unwrap();
            Shelf { _data: data, content }
        }

        fn put(&self, plain: &[u8]) -> FileRef {
            let target = FileRef::to(plain);
            let mut upload = self.content.begin(target.sha256, target.length).unwrap();
            upload.write(&zstd::encode_all(plain, 3).unwrap()).unwrap();
            upload.finish().unwrap();
            target
        }

        fn manifest(&self, package: &str, path: &str, file: FileRef) -> FileRef {
            let manifest: Value = json!({
                "_type": "manifest", "format": 1, "package": package, "installer": "tree",
                "entries": [{
                    "kind": "file", "path": path, "mode": 0o644,
                    "sha256": file.sha256.to_string(), "length": file.length,
                }],
                "health": "none",
            });
            self.put(manifest.to_string().as_bytes())
        }

        fn release(&self, version: &str, manifest: FileRef) -> FileRef {
            let package = PackageRef { name: "app".parse().unwrap(), manifest };
            let platforms = BTreeMap::from([("any".parse().unwrap(), vec![package])]);
            let release =
                Release::new("payments".parse().unwrap(), version.parse().unwrap(), 7, platforms);
            self.put(&release.to_bytes())
        }

        fn check(&self, release: FileRef) -> Result<Release, PublicationError> {
            let (product, version) = ("payments".parse().unwrap(), "1.0".parse().unwrap());
            check_release(&self.content, &product, &version, release)
        }
    }

    #[test]
    fn a_release_with_everything_it_names_passes() {
        let shelf = Shelf::new();
        let file = shelf.put(b"program");
        let release = shelf.release("1.0", shelf.manifest("app", "app", file));
        assert_eq!(shelf.check(release).unwrap().counter, 7);
    }

    #[test]
    fn whatever_is_missing_or_wrong_is_named() {
        let shelf = Shelf::new();
        let file = shelf.put(b"program");
        let missing = FileRef::to(b"never uploaded");
        let wrong_length = FileRef { length: file.length + 1, ..file };
        for (release, named) in [
            (missing, "no content"),
            (shelf.release("1.0", missing), "no content"),
            (shelf.release("1.0", shelf.manifest("app", "app", missing)), "no content"),
            (shelf.release("1.0", shelf.manifest("app", "app", wrong_length)), "instead of"),
            (shelf.release("1.0", shelf.manifest("app", "../outside", file)), "manifest"),
            (shelf.release("1.0", shelf.manifest("other", "app", file)), "package other"),
            (shelf.release("1.1", shelf.manifest("app", "app", file)), "payments 1.1"),
            (shelf.release("1.0", file), "manifest"),
            (file, "release"),
            (FileRef { length: u64::MAX, ..file }, "at most"),
        ] {
            let error = shelf.check(release).unwrap_err().to_string();
            assert!(error.contains(named), "{named}: {error}");
        }
    }

    #[test]
    fn a_policy_is_for_the_product_that_its_path_names() {
        let shelf = Shelf::new();
        let policy = ProductPolicy::new("payments".parse().unwrap(), Vec::new()).unwrap();
        let target = shelf.put(&policy.to_bytes());
        assert!(check_policy(&shelf.content, &policy.product, target).is_ok());
        let other = "billing".parse().unwrap();
        assert!(check_policy(&shelf.content, &other, target).is_err());
        assert!(check_labels(&shelf.content, target).is_err());
        let labels = shelf.put(&LabelPolicy::new(BTreeMap::new()).to_bytes());
        assert!(check_labels(&shelf.content, labels).is_ok());
        assert_ne!(labels.sha256, Digest::of(b""));
    }
}
