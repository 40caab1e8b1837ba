//! What a host may install: what the keys of its own ring permitted **and** the product's release keys
//! signed, while the metadata lasts. What it should install now, and when, is the server's to offer and
//! the host's to decide within this.

use jiff::Timestamp;

use super::{
    error::TrustError,
    promotion::{Promotion, Standing},
    role::Role,
    set::TrustedSet,
};
use crate::{
    names::{Digest, Labels, Product, RingName, Version},
    package::DocumentError,
    policy::{LabelPolicy, ProductPolicy},
    servers::{SERVERS, ServersPolicy},
};

/// What a host's ring permits. Every release in it is also signed by the product's release keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    /// The product.
    pub product: Product,
    /// The ring that the host is in.
    pub ring: RingName,
    /// The release to run.
    pub current: Option<Promotion>,
    /// The release to return to.
    pub back: Option<Promotion>,
    /// Releases that must be run on the way.
    pub barriers: Vec<Promotion>,
    /// What the ring names but the host must not install, and why.
    pub closed: Vec<Closed>,
}

impl Permission {
    /// The permitted promotion of a release document.
    pub fn allows(&self, digest: &Digest) -> Option<&Promotion> {
        let permitted = self.current.iter().chain(&self.back).chain(&self.barriers);
        permitted.into_iter().find(|promotion| promotion.digest == *digest)
    }
}

/// Why a release that a ring names is not permitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The release role does not sign it, or not any more.
    #[error(
        "release {version} is not signed by the release keys of {product}, or was withdrawn\n\
         help: promote another release"
    )]
    NotReleased {
        /// Of what.
        product: Product,
        /// Which release.
        version: Version,
        /// Where it stands in the ring.
        standing: Standing,
    },
    /// The ring's keys and the release keys signed different bytes under one version.
    #[error(
        "ring and release keys of {product} signed different bytes as {version} (mix-and-match)\n\
         help: promote the release again from what was published"
    )]
    OtherBytes {
        /// Of what.
        product: Product,
        /// Which release.
        version: Version,
        /// Where it stands in the ring.
        standing: Standing,
    },
    /// It needs a feature that this program does not have.
    #[error(
        "the promotion of {version} requires {feature:?}, which this program does not know\n\
         help: update this program"
    )]
    UnknownFeature {
        /// Which release.
        version: Version,
        /// Where it stands in the ring.
        standing: Standing,
        /// The feature's name.
        feature: String,
    },
}

/// Why a host may install nothing of a product.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// Nothing new begins on expired metadata.
    #[error("nothing new begins: {0}")]
    Expired(TrustError),
    /// The policy role's file is missing or refused.
    #[error("the signed policy is not to be had: {0}")]
    NoPolicyRole(TrustError),
    /// The policy role does not sign a policy for this product.
    #[error("no policy for {0} is signed\nhelp: describe its rings and run `refit apply`")]
    NoPolicy(Product),
    /// These are not the bytes that the policy role signs.
    #[error(
        "the policy file {name} is not the one that is signed (mix-and-match)\nhelp: fetch it again"
    )]
    OtherPolicy {
        /// Its name.
        name: String,
    },
    /// The signed policy can't be followed.
    #[error(transparent)]
    UnreadablePolicy(#[from] DocumentError),
    /// No ring selects the host. It is left alone.
    #[error(
        "no ring of {0} selects this host\n\
         help: give the host the labels of a ring, or add a ring that selects it"
    )]
    NoRing(Product),
    /// A role's file is missing or refused.
    #[error("ring {ring} permits nothing: {cause}")]
    Unusable {
        /// The host's ring.
        ring: RingName,
        /// What is wrong with its file, or with the release role's.
        cause: Box<TrustError>,
    },
    /// The ring names no release.
    #[error("nothing is promoted to ring {ring} of {product}\nhelp: run `refit release promote`")]
    NothingPromoted {
        /// The product.
        product: Product,
        /// The host's ring.
        ring: RingName,
    },
}

/// The policy of a product, if these bytes are the ones that the policy role signs.
///
/// # Errors
/// If not, or if this program can't follow it to the letter.
pub fn trusted_policy(
    set: &TrustedSet,
    product: &Product,
    bytes: &[u8],
) -> Result<ProductPolicy, Denied> {
    let name = format!("{product}.json");
    let target = set.policy_target(&name).ok_or_else(|| match set.refused(&Role::Policy) {
        Some(error) => Denied::NoPolicyRole(error.clone()),
        None => Denied::NoPolicy(product.clone()),
    })?;
    if !target.fits(bytes) {
        return Err(Denied::OtherPolicy { name });
    }
    let policy = ProductPolicy::parse(bytes)?;
    if policy.product != *product {
        return Err(Denied::OtherPolicy { name });
    }
    Ok(policy)
}

/// The labels set from the centre, if these bytes are the ones that the policy role signs.
///
/// # Errors
/// If not, or if this program can't follow them to the letter.
pub fn trusted_labels(set: &TrustedSet, bytes: &[u8]) -> Result<LabelPolicy, Denied> {
    let name = "labels.json";
    match set.policy_target(name) {
        Some(target) if target.fits(bytes) => Ok(LabelPolicy::parse(bytes)?),
        Some(_) | None => Err(Denied::OtherPolicy { name: name.to_owned() }),
    }
}

/// Where the servers are, if these bytes are the ones that the policy role signs.
///
/// # Errors
/// If not, or if this program can't follow them to the letter.
pub fn trusted_servers(set: &TrustedSet, bytes: &[u8]) -> Result<ServersPolicy, Denied> {
    match set.policy_target(SERVERS) {
        Some(target) if target.fits(bytes) => Ok(ServersPolicy::parse(bytes)?),
        Some(_) | None => Err(Denied::OtherPolicy { name: SERVERS.to_owned() }),
    }
}

/// What a host with these labels may install of a product. `policy` comes from [`trusted_policy`].
///
/// # Errors
/// Why it may install nothing.
pub fn permit(
    set: &TrustedSet,
    policy: &ProductPolicy,
    labels: &Labels,
    product: &Product,
    now: Timestamp,
) -> Result<Permission, Denied> {
    set.expired(now).map_err(Denied::Expired)?;
    usable(set, &Role::Policy, now).map_err(Denied::NoPolicyRole)?;
    if policy.product != *product {
        return Err(Denied::NoPolicy(product.clone()));
    }
    let definition = policy.ring_of(labels).ok_or_else(|| Denied::NoRing(product.clone()))?;
    let ring = definition.ring.clone();
    let unusable = |cause| Denied::Unusable { ring: ring.clone(), cause: Box::new(cause) };
    usable(set, &Role::Release(product.clone()), now).map_err(unusable)?;
    usable(set, &Role::Ring(product.clone(), ring.clone()), now).map_err(unusable)?;
    let nothing = || Denied::NothingPromoted { product: product.clone(), ring: ring.clone() };
    let file = set.ring(product, &ring).ok_or_else(nothing)?;

    let mut permission = Permission {
        product: product.clone(),
        ring: ring.clone(),
        current: None,
        back: None,
        barriers: Vec::new(),
        closed: Vec::new(),
    };
    for promotion in file.promotions() {
        match closed(set, product, promotion) {
            Some(reason) => permission.closed.push(reason),
            None => match promotion.terms.standing {
                Standing::Current => permission.current = Some(promotion.clone()),
                Standing::Back => permission.back = Some(promotion.clone()),
                Standing::Barrier => permission.barriers.push(promotion.clone()),
            },
        }
    }
    if file.promotions().next().is_none() { Err(nothing()) } else { Ok(permission) }
}

/// Refuses a delegated role whose file is missing, was refused, or has expired.
fn usable(set: &TrustedSet, role: &Role, now: Timestamp) -> Result<(), TrustError> {
    match (set.delegated(role), set.refused(role)) {
        (Some(file), None) => file.fresh(now),
        (_, Some(error)) => Err(error.clone()),
        (None, None) => Err(TrustError::Missing { role: role.clone() }),
    }
}

/// Why a release that a ring names must not be installed, if so.
pub(super) fn closed(set: &TrustedSet, product: &Product, promotion: &Promotion) -> Option<Closed> {
    let (version, standing) = (promotion.version.clone(), promotion.terms.standing);
    if let Some(feature) = promotion.unknown_feature() {
        return Some(Closed::UnknownFeature { version, standing, feature: feature.to_owned() });
    }
    let product_name = product.clone();
    let ring_target = promotion.target();
    match set.release(product, &version) {
        None => Some(Closed::NotReleased { product: product_name, version, standing }),
        Some(released) if !released.same_bytes(ring_target) => {
            Some(Closed::OtherBytes { product: product_name, version, standing })
        }
        Some(_) => None,
    }
}
