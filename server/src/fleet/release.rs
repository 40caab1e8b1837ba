//! Releases and rings as the signed metadata tells them, kept ready for the plan.

use jiff::Timestamp;
use refit_proto::{
    names::{Digest, Product, RingName, Version},
    policy::{Gate, Selector},
};
use serde::{Deserialize, Serialize};

use super::Record;

/// Names one release for good: the same version never has another digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReleaseId {
    /// The label that people use.
    pub version: Version,
    /// SHA-256 of the release document.
    pub digest: Digest,
    /// Tells which of two releases is newer.
    pub counter: u64,
}

/// A published release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRecord {
    /// Of which product.
    pub product: Product,
    /// Its label.
    pub version: Version,
    /// SHA-256 of the release document.
    pub digest: Digest,
    /// Tells which of two releases is newer.
    pub counter: u64,
    /// Audit name of who published it.
    pub published_by: String,
    /// When it was published.
    pub published_at: Timestamp,
    /// The release role no longer names it: nothing goes to it any more.
    pub withdrawn: bool,
}

impl Record for ReleaseRecord {
    const NAME: &'static str = "release";
}

impl ReleaseRecord {
    /// The release's names.
    pub fn id(&self) -> ReleaseId {
        let (version, digest) = (self.version.clone(), self.digest);
        ReleaseId { version, digest, counter: self.counter }
    }
}

/// A ring as the newest verified metadata defines it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingRecord {
    /// Of which product.
    pub product: Product,
    /// Its name.
    pub ring: RingName,
    /// Place among the product's rings, from 0. A host is in the first that selects it.
    pub order: u32,
    /// Which hosts it selects.
    pub select: Selector,
    /// When it was first defined; after it was dropped, when it was defined again.
    pub defined_at: Timestamp,
    /// The server's gate key may sign its own part for this ring.
    pub gate: bool,
    /// What is promoted; `None` before the first promotion.
    pub current: Option<ReleaseId>,
    /// Where a rollback of the ring goes.
    pub back: Option<ReleaseId>,
    /// Digests that hosts may try again although they failed there.
    pub retry: Vec<Digest>,
    /// Gates that the promotion of `current` passes over, as its signers have signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed: Vec<Gate>,
    /// Version of the ring's file in which the promotion of `current` first stood, with just this
    /// `retry`. A mere renewal of the file keeps it; promoting the same release again does not.
    pub promotion: u64,
    /// Audit name of who pushed that promotion.
    pub promoted_by: String,
    /// When it was pushed.
    pub promoted_at: Option<Timestamp>,
}

impl RingRecord {
    /// Whether the signed policy still names the ring. One that it dropped stays on record and selects
    /// nobody, which no policy can say of a ring that it names.
    pub fn is_defined(&self) -> bool {
        match &self.select {
            Selector::Labels(labels) => !labels.is_empty(),
            Selector::EveryHost => true,
        }
    }

    /// The policy no longer names the ring.
    pub fn undefine(&mut self) {
        self.select = Selector::Labels(Default::default());
    }
}

impl Record for RingRecord {
    const NAME: &'static str = "ring";
}
