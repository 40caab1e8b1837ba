//! Whether a pushed ring's file brings what the signed policy asks of it: the right people, the rings
//! before, the digests, the floor. Hosts ask the same, by the same code; here it is refused before
//! anybody waits for hosts that never begin. Reads the content folder, and blocks on it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use refit_proto::{
    names::{Product, RingName},
    package::{FileRef, Release},
    policy::ProductPolicy,
    trust::{Promotion, Role, TrustedSet, approval, approval::Flaw, fits_document, unmet},
};

use crate::{
    content::ContentFolder,
    fleet::RingRecord,
    publication::{self, PublicationError},
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
    before: &[Rev<RingRecord>],
    now: Timestamp,
) -> Result<(), PublicationError> {
    check_alone(content, set, pushed)?;
    for role in pushed {
        let Role::Ring(product, ring) = role else { continue };
        let Some(policy) = policy(content, set, product)? else { continue };
        let held = before.iter().map(|held| &held.value);
        let held = held.into_iter().find(|it| it.product == *product && it.ring == *ring);
        check_ring(content, set, &policy, ring, held, now)?;
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

fn check_ring(
    content: &ContentFolder,
    set: &TrustedSet,
    policy: &ProductPolicy,
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
    if named.is_none_or(|named| named.digest != current.digest)
        && let Some(closed) = unmet(set, policy, definition, current, now)
    {
        return Err(closed.into());
    }
    fits(content, product, current)
}

/// Against the release's own document.
fn fits(
    content: &ContentFolder,
    product: &Product,
    promotion: &Promotion,
) -> Result<(), PublicationError> {
    let target = FileRef { sha256: promotion.digest, length: promotion.length };
    let document = format!("release {product} {}", promotion.version);
    let bytes = publication::read(content, &document, target, Release::MAX_LENGTH)?;
    let release =
        Release::parse(&bytes).map_err(|cause| PublicationError::Document { document, cause })?;
    Ok(fits_document(product, promotion, &bytes, &release)?)
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
