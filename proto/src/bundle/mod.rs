//! One file for a host without a network: a release's metadata, documents and content in one stream of named
//! parts. Decides the format alone; docs/FILES.md describes it. Nothing in a bundle is trusted because it is
//! in one: whoever reads it hands the metadata to `trust` and checks content by digest, exactly as with
//! bytes from a server. The hash at its end finds a damaged copy; it stops nobody.
//!
//! [`read`] is a pure function over [`std::io::Read`] with bounded memory: what to fuzz.

mod part;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::io;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::{
    part::PartName,
    read::{Index, Span, read},
    write::Writer,
};
use crate::names::{Digest, Platform, Product, RingName, Version};

/// How every bundle of this format begins. A later format has another number.
const MAGIC: &[u8; 16] = b"refit bundle v1\n";
/// What of it is the same in every format.
const MAGIC_PREFIX: usize = 14;

/// Limits that hold before any work is done.
pub mod limits {
    /// Parts of one bundle: a release with more files is split into packages of several releases.
    pub const PARTS: usize = 250_000;
    /// Parts that are metadata: as many roots as one refresh walks, and the roles.
    pub const METADATA: usize = 1_100;
    /// Bytes of a part's name.
    pub const NAME: usize = 255;
    /// Bytes of the head.
    pub const HEAD: u64 = 65_536;
    /// Bytes of one frame of content: 1 TiB.
    pub const CONTENT: u64 = 1 << 40;
}

/// What the bundle says of itself: a wish like a server's offer, which signed metadata confirms or refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    #[serde(rename = "_type")]
    kind: String,
    format: u32,
    /// Features that a reader must know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    required: Vec<String>,
    /// Of which product.
    pub product: Product,
    /// The version of the release.
    pub version: Version,
    /// SHA-256 of the release document.
    pub digest: Digest,
    /// The rings whose promotions it carries.
    pub rings: Vec<RingName>,
    /// The platforms whose content it carries.
    pub platforms: Vec<Platform>,
    /// When it was made.
    pub made: Timestamp,
    /// Until when its own timestamp is valid.
    pub expires: Timestamp,
}

/// What a bundle is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Of which product.
    pub product: Product,
    /// The version of the release.
    pub version: Version,
    /// SHA-256 of the release document.
    pub digest: Digest,
}

impl Head {
    /// The head of a new bundle.
    pub fn new(
        about: About,
        rings: Vec<RingName>,
        platforms: Vec<Platform>,
        made: Timestamp,
        expires: Timestamp,
    ) -> Head {
        let About { product, version, digest } = about;
        Head {
            kind: "bundle".into(),
            format: crate::package::FORMAT,
            required: Vec::new(),
            product,
            version,
            digest,
            rings,
            platforms,
            made,
            expires,
        }
    }

    fn parse(bytes: &[u8]) -> Result<Head, BundleError> {
        crate::package::parse_document("bundle", bytes).map_err(|error| {
            let text = error.to_string();
            BundleError::Head(text.split("\nhelp:").next().unwrap_or_default().to_owned())
        })
    }

    fn to_bytes(&self) -> Vec<u8> {
        // No map with other than string keys and no fallible value: this cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Why a file is not a bundle that can be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Something else.
    #[error("this is not a bundle\nhelp: make one with `refit bundle export`")]
    NotABundle,
    /// A later format than this program knows.
    #[error(
        "the bundle has format {found:?}; this program reads format 1\nhelp: update this program first"
    )]
    Format {
        /// What it says.
        found: String,
    },
    /// It ends in the middle.
    #[error("the bundle ends in the middle of {part}\nhelp: copy it once more; it is not whole")]
    Truncated {
        /// Where.
        part: String,
    },
    /// It goes on after its end.
    #[error("the bundle goes on after its end\nhelp: copy it once more; something was added to it")]
    Trailing,
    /// A byte was changed on its way.
    #[error(
        "the bundle is damaged: its hash is not the one at its end\nhelp: copy it once more, or make another"
    )]
    Damaged,
    /// A part that no bundle has.
    #[error(
        "the bundle has a part {name:?}, which no bundle has\nhelp: make another with `refit bundle export`"
    )]
    Name {
        /// Its name, cut.
        name: String,
    },
    /// Doubled or reordered parts.
    #[error(
        "the bundle's part {name} stands after {after}\nhelp: make another with `refit bundle export`, which orders its parts"
    )]
    Order {
        /// The part.
        name: String,
        /// The one before.
        after: String,
    },
    /// Endless data.
    #[error(
        "the bundle's part {name} has {length} bytes, at most {limit} are read (endless data)\nhelp: make another with `refit bundle export`"
    )]
    TooLong {
        /// The part.
        name: String,
        /// As it says.
        length: u64,
        /// See [`limits`].
        limit: u64,
    },
    /// Endless work.
    #[error(
        "the bundle has more than {limit} {what} (endless work)\nhelp: make one of a smaller release"
    )]
    TooMany {
        /// Of what.
        what: &'static str,
        /// See [`limits`].
        limit: usize,
    },
    /// A bundle begins with its head.
    #[error(
        "the bundle does not say what it is about\nhelp: make another with `refit bundle export`"
    )]
    NoHead,
    /// The head can't be followed.
    #[error(
        "the bundle's head can't be used: {0}\nhelp: update this program, or make another bundle"
    )]
    Head(String),
    /// Reading or writing failed.
    #[error("the bundle can't be read or written: {0}")]
    Io(#[from] io::Error),
}
