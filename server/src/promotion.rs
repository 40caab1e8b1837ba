//! Whether a pushed ring's file brings what the signed policy asks of it: the right people, the rings
//! before, the digests, the floor. Hosts ask the same, by the same code; here it is refused before
//! anybody waits for hosts that never begin. Reads the content folder, and blocks on it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use refit_proto::{
    names::{Product, RingName},
    package::{ChangePlan, FileRef, PlanRules, Release},
    policy::ProductPolicy,
    trust::{
        Promotion, RingFile, Role, Targets, TrustedSet, approval, approval::Flaw,
        change::ChangeFile, fits_document, metadata, unmet,
    },
};

use crate::{
    content::ContentFolder,
    fleet::RingRecord,
    publication::{self, PublicationError},
    push::Before,
    store::Rev,
};

/// Checks the rings that were pushed, as they are then. What a ring named already is not asked for its
/// rings before and digests again: the file may have been renewed, or the policy changed since.
///
/// # Errors
/// The first thing that a host would refuse.
pub fn check(
    content: &ContentFolder,
    set: &TrustedSet,
    pushed: &BTreeSet<Role>,
    before: &Before,
    now: Timestamp,
) -> Result<(), PublicationError> {
    check_alone(content, set, pushed)?;
    for role in pushed {
        let Role::Ring(product, ring) = role else { continue };
        let Some(policy) = policy(content, set, product)? else { continue };
        let mut held = before.rings.iter().map(|held| &held.value);
        let held = held.find(|it| it.product == *product && it.ring == *ring);
        let asked = Asked { policy: &policy, plan: before.plans.get(product) };
        check_ring(content, set, asked, ring, held, now)?;
    }
    Ok(())
}

/// A ring that the server signs alone has to come after another one: else whoever has the server promotes to
/// it as they like. Policy and delegations are signed apart, so both are looked at with either.
fn check_alone(
    content: &ContentFolder,
    set: &TrustedSet,
    pushed: &BTreeSet<Role>,
) -> Result<(), PublicationError> {
    if !pushed.contains(&Role::Policy) && !pushed.contains(&Role::Targets) {
        return Ok(());
    }
    let delegations = set.targets().delegations.iter();
    let products: BTreeSet<&Product> = delegations
        .filter_map(|delegation| match &delegation.role {
            Role::Ring(product, _) => Some(product),
            _ => None,
        })
        .collect();
    for product in products {
        let policy = match policy(content, set, product) {
            Ok(Some(policy)) => policy,
            // One that was lost with the disk keeps nobody from putting the rest in order.
            Ok(None) | Err(PublicationError::Content { .. }) => continue,
            Err(error) => return Err(error),
        };
        let mut flaws = approval::arrangement(&policy, set.targets()).into_iter();
        if let Some(flaw) = flaws.find(|flaw| matches!(flaw, Flaw::NothingBefore { .. })) {
            return Err(flaw.into());
        }
    }
    Ok(())
}

/// What is asked of a promotion.
#[derive(Clone, Copy)]
struct Asked<'a> {
    /// By what is signed.
    policy: &'a ProductPolicy,
    /// Of the release's change plan.
    plan: Option<&'a PlanRules>,
}

fn check_ring(
    content: &ContentFolder,
    set: &TrustedSet,
    Asked { policy, plan }: Asked<'_>,
    ring: &RingName,
    held: Option<&RingRecord>,
    now: Timestamp,
) -> Result<(), PublicationError> {
    let product = &policy.product;
    let (Some(definition), Some(file)) = (policy.ring(ring), set.ring(product, ring)) else {
        return Ok(());
    };
    // An empty file permits nothing, whoever signed it.
    if file.promotions().next().is_some()
        && let Some(Err(cause)) = approval::of_ring(set, policy, definition)
    {
        let ring = ring.clone();
        return Err(PublicationError::Unapproved { product: product.clone(), ring, cause });
    }
    let Some(current) = &file.current else { return Ok(()) };
    let named = held.and_then(|held| held.current.as_ref());
    let is_new = named.is_none_or(|named| named.digest != current.digest);
    if is_new && let Some(closed) = unmet(set, policy, definition, current, now) {
        return Err(closed.into());
    }
    let release = fitting(content, product, current)?;
    match plan.filter(|_| is_new) {
        Some(plan) => says(plan, release),
        None => Ok(()),
    }
}

/// Whether nobody is asked in vain to sign a change: the releases that it would make current say what is asked
/// of their plans. It is asked again when the change is published.
///
/// # Errors
/// The first release that does not.
pub fn check_proposed(
    content: &ContentFolder,
    change: &ChangeFile,
    plans: &BTreeMap<Product, PlanRules>,
    rings: &[Rev<RingRecord>],
) -> Result<(), PublicationError> {
    for (role, bytes) in change.steps() {
        let Role::Ring(product, ring) = role else { continue };
        let file = unsigned(product, ring, bytes);
        let (Some(plan), Some(current)) = (plans.get(product), file.and_then(|file| file.current))
        else {
            continue;
        };
        let names = |held: &Rev<RingRecord>| {
            let RingRecord { product: of, ring: name, current: named, .. } = &held.value;
            (of, name) == (product, ring)
                && named.as_ref().is_some_and(|named| named.digest == current.digest)
        };
        if !rings.iter().any(names) {
            says(plan, fitting(content, product, &current)?)?;
        }
    }
    Ok(())
}

/// What a ring's file says that nobody has signed yet.
fn unsigned(product: &Product, ring: &RingName, bytes: &[u8]) -> Option<RingFile> {
    let file: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let role = Role::Ring(product.clone(), ring.clone());
    let targets: Targets = metadata::read(file.get("signed")?, &role).ok()?;
    RingFile::read(product, ring, &targets).ok()
}

fn says(plan: &PlanRules, release: Release) -> Result<(), PublicationError> {
    let missing = plan.missing(&release);
    if missing.is_empty() {
        return Ok(());
    }
    let Release { product, version, plan: ChangePlan { urgency, .. }, .. } = release;
    Err(PublicationError::Plan { product, version, urgency, missing })
}

/// The release that is promoted, if the promotion fits its document.
fn fitting(
    content: &ContentFolder,
    product: &Product,
    promotion: &Promotion,
) -> Result<Release, PublicationError> {
    let target = FileRef { sha256: promotion.digest, length: promotion.length };
    let document = format!("release {product} {}", promotion.version);
    let bytes = publication::read(content, &document, target, Release::MAX_LENGTH)?;
    let release =
        Release::parse(&bytes).map_err(|cause| PublicationError::Document { document, cause })?;
    fits_document(product, promotion, &bytes, &release)?;
    Ok(release)
}

/// The policy of a product, where one is signed.
///
/// # Errors
/// If it is not here, or not followed to the letter.
pub fn policy(
    content: &ContentFolder,
    set: &TrustedSet,
    product: &Product,
) -> Result<Option<ProductPolicy>, PublicationError> {
    let Some(target) = set.policy_target(&format!("{product}.json")) else { return Ok(None) };
    let Some(sha256) = target.digest() else { return Ok(None) };
    let file = FileRef { sha256, length: target.length };
    publication::check_policy(content, product, file).map(Some)
}
