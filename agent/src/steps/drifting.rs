//! Looking whether another hand has changed what is installed: gently, never in the middle of an update, and
//! given up at once where there is something to do. Decides what an update is told of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use refit_proto::{
    gathered::Gathered as _,
    names::{Digest, Product},
};

use super::{Machine, Steps};
use crate::{
    drive::HostError,
    host::{
        drift::{Drift, Stopped},
        gentle::gently,
    },
    link::{Bucket, Order, ToVerify},
    settings::DriftPolicy,
    update::{Attempt, Cause, Failure},
};

/// How long to wait at most before looking whether there is something to do.
const GLANCE: Duration = Duration::from_secs(1);

impl<M: Machine> Steps<M> {
    /// Looks at everything that is installed; says whether it came to its end. `busy` says whether somebody on this
    /// host waits for something.
    pub fn inspect(&mut self, busy: &(dyn Fn() -> bool + Sync)) -> bool {
        gently(|| self.inspect_now(busy))
    }

    fn inspect_now(&mut self, busy: &dyn Fn() -> bool) -> bool {
        if let Err(error) = self.machine.finish_repairs() {
            tracing::warn!("what a repair has left can't be removed: {error}");
        }
        let before = self.offers();
        let stop = || self.wanted.is_ending() || busy() || !self.offers().is_subset(&before);
        let Some(mut drifts) = self.drifts_of(None, &stop) else { return false };
        match self.drift.policy {
            DriftPolicy::Show | DriftPolicy::Refuse => {}
            DriftPolicy::Repair => {
                if self.repair(&mut drifts, &stop).is_none() {
                    return false;
                }
            }
        }
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

    /// Puts back what differs, and looks again at what that was; `None` if it was stopped.
    fn repair(&self, drifts: &mut BTreeMap<Product, Drift>, stop: &dyn Fn() -> bool) -> Option<()> {
        let changed: Vec<Product> = drifts
            .iter()
            .filter(|(_, drift)| !drift.is_empty())
            .map(|(product, _)| product.clone())
            .collect();
        for product in changed {
            if stop() {
                return None;
            }
            say(&product, &drifts[&product]);
            let repaired = match self.machine.repair(&product, &mut *self.frames_until_ending()) {
                Ok(repaired) => repaired,
                Err(error) => {
                    tracing::error!(%product, "nothing is put back: {error}");
                    continue;
                }
            };
            for path in &repaired {
                tracing::warn!(%product, path = %path.display(), "put back as it was signed");
            }
            let mut left = self.drifts_of(Some(&product), stop)?;
            let drift = Drift { repaired, ..left.remove(&product).unwrap_or_default() };
            drifts.insert(product, drift);
        }
        Some(())
    }

    /// Reads again the backups that the server has asked for.
    pub fn verify_backups(&mut self) {
        let orders = self.wanted.orders().unwrap_or_default().verify;
        if orders.iter().all(|order| self.answered.contains(&order.asked)) {
            self.answered.clear();
            self.answered.extend(orders.into_iter().map(|order| order.asked));
            return;
        }
        let answered = gently(|| self.verify_now(&orders));
        self.answered.extend(answered);
        self.look_at_backups();
    }

    /// Which requests were answered, before something else came to be done.
    fn verify_now(&mut self, orders: &[ToVerify]) -> Vec<String> {
        let before = self.offers();
        let stop = || self.wanted.is_ending() || !self.offers().is_subset(&before);
        let mut answered = Vec::new();
        for order in orders.iter().filter(|order| !self.answered.contains(&order.asked)) {
            let mut bucket = Bucket::full(self.drift.most_bytes_per_second, self.clock.running());
            let mut pace = |bytes: u64| {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                self.pace(&mut bucket, bytes, &stop)
            };
            if self.machine.verify_backup(order, &mut pace) {
                answered.push(order.asked.clone());
            }
        }
        answered
    }

    /// Why this attempt is refused, if policy has it so: another hand has changed what it would replace. What is
    /// there is looked at now; an order to go back is not held up by it.
    pub(super) fn refuses_drift(
        &mut self,
        attempt: &Attempt,
    ) -> Result<Option<Failure>, HostError> {
        if self.drift.policy != DriftPolicy::Refuse || attempt.rollback {
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
    ) -> Option<BTreeMap<Product, Drift>> {
        let mut bucket = Bucket::full(self.drift.most_bytes_per_second, self.clock.running());
        self.machine.drifts(only, &mut |bytes| self.pace(&mut bucket, bytes, stop))
    }

    fn pace(
        &self,
        bucket: &mut Bucket,
        bytes: usize,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), Stopped> {
        let now = self.clock.running();
        let until = now.plus(bucket.take(now, bytes));
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
    }

    /// What the server offers.
    fn offers(&self) -> BTreeSet<(Product, Digest)> {
        let orders = self.wanted.orders().unwrap_or_default().products.into_iter();
        let offer = |(product, order)| match order {
            Order::Offer(offer) => Some((product, offer.release.digest)),
            Order::Hold(_) | Order::BackOut(_) => None,
        };
        orders.filter_map(offer).gathered()
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
