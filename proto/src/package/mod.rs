//! What is signed and installed: the release document, the manifest of each package, and building both
//! from a folder. Content is addressed by the SHA-256 of its plain bytes; compression is only transfer
//! and storage.
//!
//! Each document says which features a reader must know (`required`); an unknown one is refused by name,
//! any other unknown member is ignored, so that documents may grow.

mod agent;
mod build;
mod data;
mod expand;
mod frame;
mod manifest;
pub mod mender;
mod path;
mod plan;
pub mod podman;
mod release;

pub use agent::{AGENT, AGENT_PROGRAM, RESCUE_PROGRAM, check_agent, is_agent};
pub use build::{BuildError, Built, BuiltFile, PackageDescription, build};
pub use data::{ByCommand, Data, DataUse, Database, Mysql, Postgresql, Sqlite};
pub use expand::{ExpandError, Variables, expand};
pub use frame::{FrameError, compress, decompress, stored};
pub use manifest::{
    Backup, Check, Entry, Growth, Health, Hook, HookNeeds, HookTime, Installer, Limit, Manifest,
    Observed, PlacedAs, Probe, Reboot, Service,
};
pub use mender::MenderPayload;
pub use path::{PackagePath, PathError};
pub use plan::{ChangeKind, ChangePlan, PlanField, PlanRules, UnknownRule, Urgency, WayBack};
pub use podman::{ImageError, PodmanImage};
pub use release::{FileRef, PackageRef, Release, Removal, plan_digest};

/// Why a signed document is not usable. The bytes were signed, so this is the publisher's to mend.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not the JSON that this document is.
    #[error(
        "the {document} cannot be read: {}\nhelp: build it again with `refit release build`",
        crate::printable::printable(&.source.to_string())
    )]
    Unreadable {
        /// "release", "manifest" or "policy".
        document: &'static str,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A later format than this program knows.
    #[error(
        "the {document} has format {found}; this program reads format {known}\n\
         help: update this program first"
    )]
    Format {
        /// "release", "manifest" or "policy".
        document: &'static str,
        /// The format that it claims.
        found: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// It asks for a feature that this program does not have.
    #[error(
        "the {document} requires {feature:?}, which this program does not know\n\
         help: update this program first"
    )]
    Required {
        /// "release", "manifest" or "policy".
        document: &'static str,
        /// The feature's name.
        feature: String,
    },
    /// It breaks a rule of its own format.
    #[error("the {document} is not valid: {}\nhelp: mend it and build the release again", crate::printable::printable(.problem))]
    Invalid {
        /// "release", "manifest" or "policy".
        document: &'static str,
        /// Which rule, and where.
        problem: String,
    },
}

/// Reads the part that all documents share, before anything else is looked at.
pub(crate) fn parse_document<T: serde::de::DeserializeOwned>(
    document: &'static str,
    bytes: &[u8],
) -> Result<T, DocumentError> {
    parse_document_knowing(document, bytes, &[])
}

/// The same for a document of whose features this program knows these.
pub(crate) fn parse_document_knowing<T: serde::de::DeserializeOwned>(
    document: &'static str,
    bytes: &[u8],
    known: &[&str],
) -> Result<T, DocumentError> {
    #[derive(serde::Deserialize)]
    struct Head {
        #[serde(rename = "_type")]
        kind: String,
        format: u32,
        #[serde(default)]
        required: Vec<String>,
    }
    let unreadable = |source| DocumentError::Unreadable { document, source };
    let head: Head = serde_json::from_slice(bytes).map_err(unreadable)?;
    if head.kind != document {
        let problem = format!("it is a {:?}, not a {document:?}", head.kind);
        return Err(DocumentError::Invalid { document, problem });
    }
    if head.format != FORMAT {
        return Err(DocumentError::Format { document, found: head.format, known: FORMAT });
    }
    if let Some(feature) = head.required.into_iter().find(|f| !known.contains(&f.as_str())) {
        return Err(DocumentError::Required { document, feature });
    }
    serde_json::from_slice(bytes).map_err(unreadable)
}

/// The format of documents that this program writes and reads.
pub(crate) const FORMAT: u32 = 1;
