//! What a push of verified metadata becomes in the fleet's records: releases, and rings with what is
//! promoted to them. Documents are read and checked here, so a push that names what is not there, or not
//! valid, is refused as a whole. Signatures were checked by `refit_proto::trust` before.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use refit_proto::{
    names::{Digest, Product, RingName},
    package::{FileRef, PlanRules},
    policy::{RingDefinition, Rules},
    trust::{
        Misfit, Role,
        metadata::TargetFile,
        promotion::{Promotion, RingFile},
        set::TrustedSet,
    },
};

use crate::{
    content::ContentFolder,
    fleet::{ReleaseId, ReleaseRecord, RingRecord},
    promotion,
    publication::{self, PublicationError},
    store::Rev,
};

/// The records as they are before a push.
pub struct Before {
    /// All releases.
    pub releases: Vec<Rev<ReleaseRecord>>,
    /// All rings.
    pub rings: Vec<Rev<RingRecord>>,
    /// What products' policies ask of a change plan. Nothing is asked of what was permitted before and only
    /// comes back.
    pub plans: BTreeMap<Product, PlanRules>,
}

/// The records that change, each with the revision that it replaces.
#[derive(Debug, Default)]
pub struct Records {
    /// New ones, withdrawn ones, and those that are back.
    pub releases: Vec<(u64, ReleaseRecord)>,
    /// New and changed ones.
    pub rings: Vec<(u64, RingRecord)>,
}

/// Whose push it is.
#[derive(Debug, Clone, Copy)]
pub struct Pusher<'a> {
    /// Audit name.
    pub who: &'a str,
    /// When.
    pub now: Timestamp,
}

/// The records after a push of these roles. `set` is what the repository holds then, whole.
///
/// # Errors
/// What is missing or not valid in the documents that it names.
pub fn records(
    content: &ContentFolder,
    set: &TrustedSet,
    pushed: &BTreeSet<Role>,
    before: &Before,
    pusher: Pusher<'_>,
) -> Result<Records, PublicationError> {
    promotion::check(content, set, pushed, before, pusher.now)?;
    let mut records = Records::default();
    for role in pushed {
        if let Role::Release(product) = role {
            records.releases.extend(releases(content, set, product, before, pusher)?);
        }
    }
    let definitions = match pushed.contains(&Role::Policy) {
        true => definitions(content, set)?,
        false => held_definitions(before),
    };
    let known = Known { before, fresh: &records.releases };
    let mut rings = Vec::new();
    for ((product, name), (order, definition)) in &definitions {
        let held = before
            .rings
            .iter()
            .find(|held| held.value.product == *product && held.value.ring == *name);
        let file = set.ring(product, name);
        let version = set.version(&Role::Ring(product.clone(), name.clone())).unwrap_or(0);
        let old = held.map(|held| &held.value);
        let ring = ring(product, *order, definition, old, file, version, &known, pusher)?;
        if old != Some(&ring) {
            rings.push((held.map_or(0, |held| held.rev), ring));
        }
    }
    for held in &before.rings {
        let key = (held.value.product.clone(), held.value.ring.clone());
        if !definitions.contains_key(&key) && held.value.is_defined() {
            let mut dropped = held.value.clone();
            dropped.undefine();
            rings.push((held.rev, dropped));
        }
    }
    records.rings = rings;
    Ok(records)
}

/// Rings by product and name, each with its place and what defines it.
type Definitions = BTreeMap<(Product, RingName), (u32, RingDefinition)>;

fn definitions(content: &ContentFolder, set: &TrustedSet) -> Result<Definitions, PublicationError> {
    let mut definitions = Definitions::new();
    let targets = set.delegated(&Role::Policy).map(|file| &file.targets).into_iter().flatten();
    for (path, target) in targets {
        let name = path.strip_prefix("policy/").and_then(|name| name.strip_suffix(".json"));
        let (Some(name), Some(file)) = (name, file_of(target)) else {
            return Err(PublicationError::Unknown { path: path.clone() });
        };
        match name {
            "labels" => {
                publication::check_labels(content, file)?;
                continue;
            }
            "servers" => {
                publication::check_servers(content, file)?;
                continue;
            }
            _ => {}
        }
        let Ok(product) = Product::parse(name) else {
            return Err(PublicationError::Unknown { path: path.clone() });
        };
        let policy = publication::check_policy(content, &product, file)?;
        for (order, definition) in (0..).zip(policy.rings) {
            definitions.insert((product.clone(), definition.ring.clone()), (order, definition));
        }
    }
    Ok(definitions)
}

fn held_definitions(before: &Before) -> Definitions {
    let defined = before.rings.iter().map(|held| &held.value).filter(|ring| ring.is_defined());
    defined
        .map(|ring| {
            let RingRecord { product, ring: name, order, select, gate, .. } = ring.clone();
            let definition =
                RingDefinition { ring: name.clone(), select, gate, rules: Rules::default() };
            ((product, name), (order, definition))
        })
        .collect()
}

fn releases(
    content: &ContentFolder,
    set: &TrustedSet,
    product: &Product,
    before: &Before,
    pusher: Pusher<'_>,
) -> Result<Vec<(u64, ReleaseRecord)>, PublicationError> {
    let mut changed = Vec::new();
    let mut listed = BTreeSet::new();
    for (version, target) in set.releases(product) {
        let Some(file) = file_of(target) else { continue };
        listed.insert(file.sha256);
        let held = before
            .releases
            .iter()
            .find(|held| held.value.product == *product && held.value.version == version);
        match held {
            Some(held) if held.value.withdrawn => {
                changed.push((held.rev, ReleaseRecord { withdrawn: false, ..held.value.clone() }));
            }
            Some(_) => {}
            None => {
                let release = publication::check_release(content, product, &version, file)?;
                let record = ReleaseRecord {
                    product: product.clone(),
                    version,
                    digest: file.sha256,
                    counter: release.counter,
                    published_by: pusher.who.to_owned(),
                    published_at: pusher.now,
                    withdrawn: false,
                };
                changed.push((0, record));
            }
        }
    }
    for held in &before.releases {
        let release = &held.value;
        if release.product == *product && !release.withdrawn && !listed.contains(&release.digest) {
            changed.push((held.rev, ReleaseRecord { withdrawn: true, ..release.clone() }));
        }
    }
    Ok(changed)
}

/// Releases that are on record, or will be with this push.
struct Known<'a> {
    before: &'a Before,
    fresh: &'a [(u64, ReleaseRecord)],
}

impl Known<'_> {
    fn id(&self, product: &Product, digest: &Digest) -> Option<ReleaseId> {
        let fresh = self.fresh.iter().map(|(_, release)| release);
        let held = self.before.releases.iter().map(|held| &held.value);
        fresh
            .chain(held)
            .find(|release| release.product == *product && release.digest == *digest)
            .map(ReleaseRecord::id)
    }
}

#[expect(clippy::too_many_arguments, reason = "a ring is made of all of these, once")]
fn ring(
    product: &Product,
    order: u32,
    definition: &RingDefinition,
    old: Option<&RingRecord>,
    file: Option<&RingFile>,
    version: u64,
    known: &Known<'_>,
    pusher: Pusher<'_>,
) -> Result<RingRecord, PublicationError> {
    let promoted = |promotion: Option<&Promotion>| match promotion {
        Some(promotion) => check_promotion(product, promotion, known).map(Some),
        None => Ok(None),
    };
    if let Some(file) = file {
        for promotion in file.promotions() {
            check_promotion(product, promotion, known)?;
        }
    }
    let current = promoted(file.and_then(|file| file.current.as_ref()))?;
    let back = promoted(file.and_then(|file| file.back.as_ref()))?;
    let retry = file
        .and_then(|file| file.current.as_ref())
        .map(|promotion| promotion.terms.retry.clone())
        .unwrap_or_default();
    let passed = file
        .and_then(|file| file.current.as_ref())
        .map(|promotion| promotion.terms.overrides.iter().map(|passed| passed.gate).collect())
        .unwrap_or_default();
    let mut ring = RingRecord {
        product: product.clone(),
        ring: definition.ring.clone(),
        order,
        select: definition.select.clone(),
        defined_at: old.filter(|old| old.is_defined()).map_or(pusher.now, |old| old.defined_at),
        gate: definition.gate,
        current,
        back,
        retry,
        passed,
        promotion: version,
        promoted_by: pusher.who.to_owned(),
        promoted_at: Some(pusher.now),
    };
    if ring.current.is_none() {
        (ring.promotion, ring.promoted_by, ring.promoted_at) = (0, String::new(), None);
    }
    if let Some(old) = old.filter(|old| old.current == ring.current && old.retry == ring.retry) {
        // The file was signed anew, or the ring defined anew: nobody promoted anything.
        ring.promotion = old.promotion;
        ring.promoted_by.clone_from(&old.promoted_by);
        ring.promoted_at = old.promoted_at;
    }
    Ok(ring)
}

fn check_promotion(
    product: &Product,
    promotion: &Promotion,
    known: &Known<'_>,
) -> Result<ReleaseId, PublicationError> {
    let version = promotion.version.clone();
    if let Some(feature) = promotion.unknown_feature() {
        let feature = feature.chars().take(80).collect();
        return Err(PublicationError::Feature { version, feature });
    }
    let Some(release) = known.id(product, &promotion.digest) else {
        return Err(PublicationError::NotPublished { product: product.clone(), version });
    };
    match promotion.terms.min_release_counter {
        Some(floor) if floor > release.counter => {
            Err(Misfit::Floor { version, floor, counter: release.counter }.into())
        }
        Some(_) | None => Ok(release),
    }
}

fn file_of(target: &TargetFile) -> Option<FileRef> {
    Some(FileRef { sha256: target.digest()?, length: target.length })
}
