//! What a ring's file says: which release is its current one, which one it may go back to, and what was
//! shown to the signers. Whether a host may install it is `permission`'s to decide.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    error::TrustError,
    metadata::{TargetFile, Targets},
    role::Role,
};
use crate::{
    names::{Digest, PersonName, Product, RingName, Version},
    policy::{ApprovalKind, EvidenceKind, Gate},
};

/// Features of promotions that this program knows. A promotion that requires another one is refused by
/// name; other members that we don't know are ignored.
pub const KNOWN_FEATURES: [&str; 0] = [];

/// Where a release stands in a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// The one to run.
    Current,
    /// The one to return to.
    Back,
    /// One that every host on an older release must run first.
    Barrier,
}

/// A test result that the signers were shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What it is about.
    pub kind: EvidenceKind,
    /// The digest of the result.
    pub sha256: Digest,
}

/// What somebody wrote to say yes. The approval itself is a signature; this binds the words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Who wrote it.
    pub person: PersonName,
    /// As what.
    pub kind: ApprovalKind,
    /// The digest of what was written.
    pub sha256: Digest,
}

/// A gate that was passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// Which.
    pub gate: Gate,
    /// Why. Never blank.
    pub reason: String,
}

/// What a promotion signs beyond the release's length and hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Where the release stands.
    pub standing: Standing,
    /// The evidence that the signers were shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Evidence>,
    /// Digest of the change plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_plan: Option<Digest>,
    /// What was written to say yes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Approval>,
    /// Gates that were passed over, each with its reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
    /// Release digests whose quarantine this promotion lifts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retry: Vec<Digest>,
    /// The floor: once a host runs a release at or above it, none below it is installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_release_counter: Option<u64>,
    /// Features that a reader must know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
}

impl Terms {
    /// No more than where the release stands.
    pub fn new(standing: Standing) -> Terms {
        Terms {
            standing,
            evidence: Vec::new(),
            change_plan: None,
            approvals: Vec::new(),
            overrides: Vec::new(),
            retry: Vec::new(),
            min_release_counter: None,
            required: Vec::new(),
        }
    }

    /// Whether a digest of what this gate asks for is bound. What rings come before is no digest.
    pub fn binds(&self, gate: Gate) -> bool {
        match gate {
            Gate::Functional | Gate::Performance | Gate::Security => {
                self.evidence.iter().any(|shown| shown.kind.gate() == gate)
            }
            Gate::ChangePlan => self.change_plan.is_some(),
            Gate::After | Gate::Window | Gate::Freeze | Gate::Soak | Gate::Share => false,
        }
    }
}

/// The signed act that permits a release on a ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promotion {
    /// The release's version.
    pub version: Version,
    /// The release document's digest.
    pub digest: Digest,
    /// The release document's length.
    pub length: u64,
    /// The rest of what was signed.
    pub terms: Terms,
    target: TargetFile,
}

impl Promotion {
    /// The target as the ring's keys signed it: length and every hash.
    pub fn target(&self) -> &TargetFile {
        &self.target
    }

    /// The first required feature that this program does not know.
    pub fn unknown_feature(&self) -> Option<&str> {
        self.terms
            .required
            .iter()
            .map(String::as_str)
            .find(|feature| !KNOWN_FEATURES.contains(feature))
    }
}

/// A ring's promotions: at most one current, at most one back, any number of barriers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RingFile {
    /// The release to run.
    pub current: Option<Promotion>,
    /// The release to return to.
    pub back: Option<Promotion>,
    /// Releases that must be run on the way.
    pub barriers: Vec<Promotion>,
}

impl RingFile {
    /// Reads the promotions of a ring's verified file.
    ///
    /// # Errors
    /// If a target is no promotion, or a standing is taken twice.
    pub fn read(
        product: &Product,
        ring: &RingName,
        targets: &Targets,
    ) -> Result<RingFile, TrustError> {
        let role = Role::Ring(product.clone(), ring.clone());
        let mut file = RingFile::default();
        for (path, target) in &targets.targets {
            let promotion = read_promotion(&role, path, target)?;
            let place = match promotion.terms.standing {
                Standing::Current => &mut file.current,
                Standing::Back => &mut file.back,
                Standing::Barrier => {
                    file.barriers.push(promotion);
                    continue;
                }
            };
            if place.is_some() {
                let standing = promotion.terms.standing;
                return Err(flaw(&role, format!("{standing:?} stands twice").to_lowercase()));
            }
            *place = Some(promotion);
        }
        Ok(file)
    }

    /// All promotions: current, back, then barriers.
    pub fn promotions(&self) -> impl Iterator<Item = &Promotion> {
        self.current.iter().chain(&self.back).chain(&self.barriers)
    }

    /// The promotion of a release document.
    pub fn promotion_of(&self, digest: &Digest) -> Option<&Promotion> {
        self.promotions().find(|promotion| promotion.digest == *digest)
    }
}

/// The target path of a release.
pub fn release_path(product: &Product, version: &Version) -> String {
    format!("releases/{product}/{version}.json")
}

/// The target path of a promotion.
pub fn promotion_path(product: &Product, ring: &RingName, version: &Version) -> String {
    format!("rings/{product}/{ring}/{version}.json")
}

/// The version in the last segment of a release's or promotion's path.
pub fn version_of_path(path: &str) -> Option<Version> {
    let name = path.rsplit('/').next()?.strip_suffix(".json")?;
    Version::parse(name).ok()
}

fn read_promotion(role: &Role, path: &str, target: &TargetFile) -> Result<Promotion, TrustError> {
    let version = version_of_path(path)
        .ok_or_else(|| flaw(role, format!("{path:?} does not name a version")))?;
    let digest = target.digest().ok_or_else(|| flaw(role, format!("{path:?} has no `sha256`")))?;
    let custom = match &target.custom {
        Value::Object(members) => Value::Object(members.clone()),
        _ => return Err(flaw(role, format!("{path:?} has no terms in `custom`"))),
    };
    let terms: Terms = serde_json::from_value(custom)
        .map_err(|error| flaw(role, format!("the terms of {path:?}: {error}")))?;
    if let Some(blank) = terms.overrides.iter().find(|passed| passed.reason.trim().is_empty()) {
        return Err(flaw(role, format!("{path:?} passes over {} for no reason", blank.gate)));
    }
    Ok(Promotion { version, digest, length: target.length, terms, target: target.clone() })
}

fn flaw(role: &Role, flaw: String) -> TrustError {
    TrustError::Malformed { role: role.clone(), flaw }
}
