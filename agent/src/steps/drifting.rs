//! Looking whether another hand has changed what is installed: gently, never in the middle of an update, and
//! given up at once where there is something to do. Decides what an update is told of it.

use std::{collections::BTreeSet, time::Duration};

use refit_proto::names::{Digest, Product};

use super::{Machine, Steps};
use crate::{
    drive::HostError,
    host::drift::{Drift, Stopped},
    link::{Bucket, Order},
    update::{Attempt, Cause, Failure},
};

/// How long to wait at most before looking whether there is something to do.
const GLANCE: Duration = Duration::from_secs(1);

impl<M: Machine> Steps<M> {
    /// Looks at everything that is installed; says whether it came to its end. `busy` says whether somebody on this
    /// host waits for something.
    pub fn inspect(&mut self, busy: &dyn Fn() -> bool) -> bool {
        let before = self.offers();
        let stop = || self.wanted.is_ending() || busy() || !self.offers().is_subset(&before);
        let Some(drifts) = self.drifts_of(None, &stop) else { return false };
        for (product, drift) in &drifts {
            // Told once, and again when there is more.
            if self.drifts.get(product) != Some(drift) {
                say(product, drift);
            }
        }
        self.drifts = drifts;
        self.look();
        self.look_at_backups();
        true
    }

    /// Why this attempt is refused, if policy has it so: another hand has changed what it would replace. What is
    /// there is looked at now; an order to go back is not held up by it.
    pub(super) fn refuses_drift(
        &mut self,
        attempt: &Attempt,
    ) -> Result<Option<Failure>, HostError> {
        if !self.drift.refuses || attempt.rollback {
            return Ok(None);
        }
        let stop = || self.wanted.is_ending() || self.wanted.took_back(attempt);
        let Some(drifts) = self.drifts_of(Some(&attempt.product), &stop) else {
            // What stopped it is dealt with before the next step.
            return self.go_on().map(|()| None);
        };
        let drift = drifts.get(&attempt.product).cloned().unwrap_or_default();
        let text = drift.text();
        match text.is_some() {
            true => self.drifts.insert(attempt.product.clone(), drift),
            false => self.drifts.remove(&attempt.product),
        };
        self.look();
        Ok(text.map(|text| Failure::new(Cause::ChangedOnHost, text)))
    }

    fn drifts_of(
        &self,
        only: Option<&Product>,
        stop: &dyn Fn() -> bool,
    ) -> Option<std::collections::BTreeMap<Product, Drift>> {
        let mut bucket = Bucket::full(self.drift.most_bytes_per_second, self.clock.running());
        let mut pace = |bytes: usize| {
            let until = {
                let now = self.clock.running();
                now.plus(bucket.take(now, bytes))
            };
            loop {
                let (seen, now) = (self.wanted.changes(), self.clock.running());
                if now >= until {
                    return Ok(());
                }
                if stop() {
                    return Err(Stopped);
                }
                self.wanted.wait(seen, until.since(now).min(GLANCE));
            }
        };
        self.machine.drifts(only, &mut pace)
    }

    /// What the server offers.
    fn offers(&self) -> BTreeSet<(Product, Digest)> {
        let orders = self.wanted.orders().unwrap_or_default().products.into_iter();
        let offer = |(product, order)| match order {
            Order::Offer(offer) => Some((product, offer.release.digest)),
            Order::Hold(_) | Order::BackOut(_) => None,
        };
        orders.filter_map(offer).collect()
    }
}

fn say(product: &Product, drift: &Drift) {
    for it in &drift.differences {
        let (path, kind) = (it.path.display(), it.kind.as_str());
        tracing::error!(%product, %path, kind, "another hand has changed what is installed: {}", it.why);
    }
    if drift.more > 0 {
        tracing::error!(%product, more = drift.more, "and more of what is installed was changed");
    }
}
