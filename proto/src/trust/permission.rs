//! What a host may install: what the keys of its own ring permitted **and** the product's release keys
//! signed, while the metadata lasts. What it should install now, and when, is the server's to offer and
//! the host's to decide within this.

use jiff::Timestamp;

use super::{
    approval::{self, Unapproved},
    error::TrustError,
    promotion::{Promotion, RingFile, Standing},
    role::Role,
    set::TrustedSet,
};
use crate::{
    names::{Digest, Labels, Product, RingName, Version},
    package::{DocumentError, Release, plan_digest},
    policy::{Gate, LabelPolicy, ProductPolicy, RingDefinition},
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
    /// Its ring demands a digest that it does not bind.
    #[error(
        "the promotion of {version} binds no {gate} digest, which the ring demands\n\
         help: promote it again with `--evidence {gate}=FILE`, or with a release that has a plan"
    )]
    Demanded {
        /// Which release.
        version: Version,
        /// Where it stands in the ring.
        standing: Standing,
        /// What is missing.
        gate: Gate,
    },
    /// It passes over a gate that must not be passed over.
    #[error(
        "the promotion of {version} passes over {gate}, which the ring does not allow\n\
         help: promote it again without `--override {gate}`"
    )]
    NotOverridable {
        /// Which release.
        version: Version,
        /// Where it stands in the ring.
        standing: Standing,
        /// What is passed over.
        gate: Gate,
    },
    /// A ring that comes before does not name the same bytes.
    #[error(
        "release {version} is not what ring {before} names, which must come first\n\
         help: promote it to {before} before, with the same bytes"
    )]
    NotBefore {
        /// Which release.
        version: Version,
        /// Where it stands in the ring.
        standing: Standing,
        /// The ring that comes before.
        before: RingName,
    },
    /// What the ring before says can't be relied on.
    #[error("release {version} must be in ring {before} first, which can't be told: {cause}")]
    UnknownBefore {
        /// Which release.
        version: Version,
        /// Where it stands in the ring.
        standing: Standing,
        /// The ring that comes before.
        before: RingName,
        /// What is wrong with that ring.
        cause: Unreliable,
    },
}

impl Closed {
    /// The release that is closed.
    pub fn version(&self) -> &Version {
        match self {
            Closed::NotReleased { version, .. }
            | Closed::OtherBytes { version, .. }
            | Closed::UnknownFeature { version, .. }
            | Closed::Demanded { version, .. }
            | Closed::NotOverridable { version, .. }
            | Closed::NotBefore { version, .. }
            | Closed::UnknownBefore { version, .. } => version,
        }
    }
}

/// Why what a ring's file says does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreliable {
    /// It is missing, was refused, or has expired.
    #[error(transparent)]
    File(Box<TrustError>),
    /// Enough keys signed it, but not the right people.
    #[error(transparent)]
    Unapproved(Unapproved),
}

/// Why a promotion does not fit the document of its release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// The document is about something else than the paths that name it.
    #[error(
        "{product} {version} is promoted, and the document is of {found_product} {found_version}\n\
         help: sign each release under its own path"
    )]
    OtherRelease {
        /// As promoted.
        product: Product,
        /// As promoted.
        version: Version,
        /// As the document says.
        found_product: Product,
        /// As the document says.
        found_version: Version,
    },
    /// A floor above the release that sets it.
    #[error(
        "the promotion of {version} sets the floor {floor}, but that release has counter {counter}\n\
         help: a floor is at most the counter of the release that it comes with"
    )]
    Floor {
        /// The promoted release.
        version: Version,
        /// As the promotion says.
        floor: u64,
        /// As the release says.
        counter: u64,
    },
    /// Another change plan than the release has.
    #[error(
        "the promotion of {version} binds another change plan than the release has\n\
         help: promote it again"
    )]
    OtherPlan {
        /// The promoted release.
        version: Version,
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
    /// Enough keys signed the ring's file, but not the right people.
    #[error("ring {ring} permits nothing: {cause}")]
    Unapproved {
        /// Which ring.
        ring: RingName,
        /// What is missing.
        cause: Unapproved,
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
    let file = relied_on(set, policy, definition, now).map_err(|cause| match cause {
        Unreliable::File(cause) => unusable(*cause),
        Unreliable::Unapproved(cause) => Denied::Unapproved { ring: ring.clone(), cause },
    })?;
    let nothing = || Denied::NothingPromoted { product: product.clone(), ring: ring.clone() };
    let file = file.ok_or_else(nothing)?;

    let mut permission = Permission {
        product: product.clone(),
        ring: ring.clone(),
        current: None,
        back: None,
        barriers: Vec::new(),
        closed: Vec::new(),
    };
    for promotion in file.promotions() {
        let reason = closed(set, product, promotion)
            .or_else(|| unmet(set, policy, definition, promotion, now));
        match reason {
            Some(reason) => permission.closed.push(reason),
            None => match promotion.terms.standing {
                Standing::Current => permission.current = Some(promotion.clone()),
                Standing::Back => permission.back = Some(promotion.clone()),
                Standing::Barrier => permission.barriers.push(promotion.clone()),
            },
        }
    }
    Ok(permission)
}

/// What a ring names, if its file lasts and the right people signed it; `None`: nothing.
fn relied_on<'a>(
    set: &'a TrustedSet,
    policy: &ProductPolicy,
    definition: &RingDefinition,
    now: Timestamp,
) -> Result<Option<&'a RingFile>, Unreliable> {
    let (product, ring) = (&policy.product, &definition.ring);
    let file = |cause| Unreliable::File(Box::new(cause));
    usable(set, &Role::Ring(product.clone(), ring.clone()), now).map_err(file)?;
    match (set.ring(product, ring), approval::of_ring(set, policy, definition)) {
        (Some(file), Some(approved)) if file.promotions().next().is_some() => {
            approved.map_err(Unreliable::Unapproved)?;
            Ok(Some(file))
        }
        (Some(_) | None, _) => Ok(None),
    }
}

/// What a ring's rules ask of a promotion and it does not bring; `None`: nothing. The way back is asked
/// for nothing: it was current in this ring before, and going back at night needs nobody.
pub fn unmet(
    set: &TrustedSet,
    policy: &ProductPolicy,
    definition: &RingDefinition,
    promotion: &Promotion,
    now: Timestamp,
) -> Option<Closed> {
    let terms = &promotion.terms;
    let (version, standing) = (promotion.version.clone(), terms.standing);
    match standing {
        Standing::Back => return None,
        Standing::Current | Standing::Barrier => {}
    }
    let rules = &definition.rules;
    let mut passed = terms.overrides.iter().map(|passed| passed.gate);
    if let Some(gate) = passed.find(|gate| !rules.overridable.contains(gate)) {
        return Some(Closed::NotOverridable { version, standing, gate });
    }
    let passed = |gate: Gate| terms.overrides.iter().any(|passed| passed.gate == gate);
    let missing = rules.demands.iter().find(|gate| !passed(**gate) && !terms.binds(**gate));
    if let Some(gate) = missing {
        return Some(Closed::Demanded { version, standing, gate: *gate });
    }
    if passed(Gate::After) {
        return None;
    }
    rules.after.iter().find_map(|before| not_before(set, policy, before, promotion, now))
}

/// Why the ring before does not vouch for a release, if so. It has to name the same bytes now, as the one
/// to run, the one to go back to, or a barrier: what it has dropped, nobody there runs any more.
fn not_before(
    set: &TrustedSet,
    policy: &ProductPolicy,
    before: &RingName,
    promotion: &Promotion,
    now: Timestamp,
) -> Option<Closed> {
    let (version, standing) = (promotion.version.clone(), promotion.terms.standing);
    let (theirs, before) = (policy.ring(before), before.clone());
    let Some(theirs) = theirs else {
        return Some(Closed::NotBefore { version, standing, before });
    };
    match relied_on(set, policy, theirs, now) {
        Err(cause) => Some(Closed::UnknownBefore { version, standing, before, cause }),
        Ok(file) => {
            let same = |theirs: &Promotion| {
                theirs.version == version && theirs.target().same_bytes(promotion.target())
            };
            let named = file.is_some_and(|file| file.promotions().any(same));
            (!named).then_some(Closed::NotBefore { version, standing, before })
        }
    }
}

/// Whether a promotion fits the document of its release, whose bytes were checked against it.
///
/// # Errors
/// The first thing that does not fit.
pub fn fits_document(
    product: &Product,
    promotion: &Promotion,
    document: &[u8],
    release: &Release,
) -> Result<(), Misfit> {
    let version = promotion.version.clone();
    if (&release.product, &release.version) != (product, &version) {
        let (found_product, found_version) = (release.product.clone(), release.version.clone());
        let product = product.clone();
        return Err(Misfit::OtherRelease { product, version, found_product, found_version });
    }
    let counter = release.counter;
    if let Some(floor) = promotion.terms.min_release_counter.filter(|floor| *floor > counter) {
        return Err(Misfit::Floor { version, floor, counter });
    }
    let bound = promotion.terms.change_plan;
    if bound.is_some() && bound != plan_digest(document) {
        return Err(Misfit::OtherPlan { version });
    }
    Ok(())
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
