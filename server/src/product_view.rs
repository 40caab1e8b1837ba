//! A product as it is stored at one moment, in the form in which `rollout::plan` wants to see it.

use std::sync::Arc;

use jiff::{Timestamp, tz::TimeZone};
use refit_proto::{
    hours::Zones,
    names::{Digest, Product, RingName},
};

use crate::{
    fleet::{ReleaseRecord, RingPolicy, RingRecord, Rollout, RolloutPolicy, Tally},
    placing,
    rollout::{HoursNow, Plan, ProductView, RingView, Watched, narrows, plan},
    store::{Cells, Reads as _, Rev, Store, StoreFault},
};

/// A product with its rings in the signed order.
pub struct ProductNow {
    /// Which product.
    pub product: Product,
    /// In order; those that the signed policy no longer names are left out.
    pub rings: Vec<RingNow>,
    /// When updates may begin.
    pub hours: Arc<HoursNow>,
    /// Digests of withdrawn releases.
    pub withdrawn: Vec<Digest>,
}

/// A ring.
pub struct RingNow {
    /// Its definition.
    pub ring: Rev<RingRecord>,
    /// Its newest rollout.
    pub rollout: Option<Rev<Rollout>>,
    policy: Option<RingPolicy>,
    tally: Tally,
}

impl RingNow {
    /// What narrows it; `None`: nobody has set it.
    pub fn policy(&self) -> Option<&RingPolicy> {
        self.policy.as_ref()
    }
}

impl ProductNow {
    /// Reads every product.
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn read_all(store: &dyn Store) -> Result<Vec<ProductNow>, StoreFault> {
        let rings = store.all::<RingRecord>()?;
        let rollouts = store.newest_rollouts()?;
        let releases = store.all::<ReleaseRecord>()?;
        placing::products(&rings)
            .into_iter()
            .map(|product| ProductNow::of(store, product, &rings, &rollouts, &releases))
            .collect()
    }

    fn of(
        store: &dyn Store,
        product: Product,
        rings: &[Rev<RingRecord>],
        rollouts: &[Rev<Rollout>],
        releases: &[Rev<ReleaseRecord>],
    ) -> Result<ProductNow, StoreFault> {
        let policy = store.read::<RolloutPolicy>(product.clone())?.map(|held| held.value);
        let mine =
            rings.iter().filter(|ring| ring.value.product == product && ring.value.is_defined());
        let mut rings = Vec::new();
        for ring in mine {
            let name = &ring.value.ring;
            // Counted after its rollout was read: whoever commits on that rollout's revision then counts
            // too many in flight rather than too few.
            let tally = store.tally(Cells::Ring(&product, Some(name)))?;
            let rollout = rollouts
                .iter()
                .find(|held| held.value.id.product() == &product && held.value.id.ring() == name);
            let policy = policy.as_ref().and_then(|policy| policy.ring(name));
            rings.push(RingNow {
                ring: ring.clone(),
                rollout: rollout.cloned(),
                policy: policy.cloned(),
                tally,
            });
        }
        rings.sort_by_key(|ring| ring.ring.value.order);
        let withdrawn = releases
            .iter()
            .map(|held| &held.value)
            .filter(|release| release.product == product && release.withdrawn)
            .map(|release| release.digest)
            .collect();
        let hours = Arc::new(policy.map(hours_now).unwrap_or_default());
        Ok(ProductNow { product, rings, hours, withdrawn })
    }

    /// A ring by its name.
    pub fn ring(&self, name: &RingName) -> Option<&RingNow> {
        self.rings.iter().find(|ring| ring.ring.value.ring == *name)
    }

    /// What changes now. `watched` gives the hosts of each ring whose deadlines are to be looked at.
    pub fn plan<'a>(
        &'a self,
        listening_since: Timestamp,
        now: Timestamp,
        watched: impl Fn(&RingNow) -> Vec<Watched<'a>>,
    ) -> Plan {
        let narrowed = |ring: &RingNow| Some(narrows(&ring.ring.value, ring.policy.as_ref()?));
        let policies: Vec<Option<RingPolicy>> = self.rings.iter().map(narrowed).collect();
        let rings = self.rings.iter().zip(&policies).map(|(ring, policy)| RingView {
            ring: &ring.ring.value,
            policy: policy.as_ref(),
            rollout: ring.rollout.as_ref().map(|held| &held.value),
            tally: &ring.tally,
            withdrawn: &self.withdrawn,
            watched: watched(ring),
        });
        let (product, rings) = (&self.product, rings.collect());
        let view = ProductView { product, rings, hours: &self.hours, listening_since };
        plan(&view, now)
    }
}

/// The rules of a policy, with the time zones that this machine knows.
fn hours_now(policy: RolloutPolicy) -> HoursNow {
    let RolloutPolicy { hours, hours_changed_at: changed_at, .. } = policy;
    let zones = Zones::of(&hours, |name| TimeZone::get(name).ok());
    HoursNow { hours, zones, changed_at }
}
