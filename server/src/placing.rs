//! Which ring a host is in: by the signed definitions, held against its labels. Hosts find the same for
//! themselves, by the same rule. Reads the store and the content folder; commits nothing.

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use refit_proto::{
    names::{Digest, HostId, Labels, Product, RingName},
    package::FileRef,
    policy::LabelPolicy,
    trust::Role,
};
use serde_json::Value;

use crate::{
    content::ContentFolder,
    fleet::{Host, Placement, RingRecord},
    publication::{self, PublicationError},
    rollout,
    store::{Commit, Rev, Store, StoreFault},
};

/// Why labels set from the centre can't be had.
#[derive(Debug, thiserror::Error)]
pub enum LabelsError {
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreFault),
    /// The document that the policy role signed is not here any more, or damaged.
    #[error(transparent)]
    Document(#[from] PublicationError),
}

/// The labels set from the centre, as they were last read.
#[derive(Debug, Default)]
pub struct LabelCache(Mutex<Option<(u64, Arc<LabelPolicy>)>>);

impl LabelCache {
    /// The labels that the newest policy role's file names.
    ///
    /// # Errors
    /// If store or content can't be read: then nobody is placed, rather than placed wrongly.
    pub fn read(
        &self,
        store: &dyn Store,
        content: &ContentFolder,
    ) -> Result<Arc<LabelPolicy>, LabelsError> {
        let Some(file) = store.file(&Role::Policy, None)? else {
            return Ok(Arc::new(LabelPolicy::new(Default::default())));
        };
        let mut held = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((version, labels)) = &*held
            && *version == file.version
        {
            return Ok(labels.clone());
        }
        let labels = match policy_target(&file.bytes, "labels.json") {
            Some(target) => publication::check_labels(content, target)?,
            None => LabelPolicy::new(Default::default()),
        };
        let labels = Arc::new(labels);
        *held = Some((file.version, labels.clone()));
        Ok(labels)
    }
}

/// A document that the policy role's file names. The file was verified before it was stored.
pub fn policy_target(file: &[u8], name: &str) -> Option<FileRef> {
    let file: Value = serde_json::from_slice(file).ok()?;
    let target = file.get("signed")?.get("targets")?.get(format!("policy/{name}"))?;
    let sha256 = Digest::parse(target.get("hashes")?.get("sha256")?.as_str()?).ok()?;
    Some(FileRef { sha256, length: target.get("length")?.as_u64()? })
}

/// The first ring of a product, in the signed order, that selects a host with these labels.
pub fn ring_of<'a>(
    rings: impl IntoIterator<Item = &'a RingRecord>,
    product: &Product,
    labels: &Labels,
) -> Option<RingName> {
    rings
        .into_iter()
        .filter(|ring| ring.product == *product && ring.select.matches(labels))
        .min_by_key(|ring| ring.order)
        .map(|ring| ring.ring.clone())
}

/// A placement where it is now, and where the signed definitions put it.
pub fn placed(
    held: Option<&Rev<Placement>>,
    product: &Product,
    host: &HostId,
    ring: Option<RingName>,
    now: Timestamp,
) -> Placement {
    let before = match held {
        Some(held) => held.value.clone(),
        None => Placement::new(product.clone(), host.clone(), now),
    };
    rollout::place(&before, ring, now).placement
}

/// Puts a host into the rings of every product, as far as it is not there already. With `fresh_chain`
/// its reports begin anew, so that the counter of the old chain must not hide them.
///
/// # Errors
/// If the store can't be read.
pub fn place_host(
    store: &dyn Store,
    rings: &[Rev<RingRecord>],
    labels: &LabelPolicy,
    host: &Host,
    fresh_chain: bool,
    now: Timestamp,
    commit: &mut Commit,
) -> Result<(), StoreFault> {
    let labels = labels.labels_of(&host.id, &host.labels);
    for product in products(rings) {
        let ring = ring_of(rings.iter().map(|ring| &ring.value), &product, &labels);
        let held = store.placement(&product, &host.id)?;
        let mut after = placed(held.as_ref(), &product, &host.id, ring, now);
        if fresh_chain {
            after.seq = 0;
        }
        if held.as_ref().is_none_or(|held| held.value != after) {
            commit.placement(held.as_ref(), after);
        }
    }
    Ok(())
}

/// Every product that has rings, each once, in order.
pub fn products(rings: &[Rev<RingRecord>]) -> Vec<Product> {
    let mut products: Vec<Product> = rings.iter().map(|ring| ring.value.product.clone()).collect();
    products.sort();
    products.dedup();
    products
}
