//! What the server wants of this host now, as levels: the newest answer replaces the one before, and
//! whoever acts looks here again. An order is a wish; what is permitted is decided in
//! [`crate::trusted`]. What can't be read is taken as a hold: it brings nothing new and stops nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use refit_durable::StateStore;
use refit_proto::{
    envelope::{self, EnvelopeError},
    names::{Digest, Product, Version},
    wire::{self, Envelope, Hold, product_order},
};

use super::stops::{Stops, stop};
use crate::update::{Attempt, BackupId, OrderedBy, ReleaseId};

/// Most products in one answer; a host has a few.
const MOST_PRODUCTS: usize = 10_000;

/// What the server wants for one product.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    /// Bring this release.
    Offer(Offer),
    /// Begin nothing.
    Hold(Hold),
    /// End a probation as if a check had failed; else begin nothing.
    BackOut(Hold),
}

/// A release that the server offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The rollout, as the server names it.
    pub rollout: String,
    /// Which attempt, as the server counts.
    pub attempt: u32,
    /// The ring that the server believes this host to be in.
    pub ring: String,
    /// What to bring.
    pub release: ReleaseId,
    /// The ring is going back.
    pub rollback: bool,
}

impl Offer {
    /// Whether an attempt is the answer to this offer.
    pub fn is_for(&self, attempt: &Attempt) -> bool {
        self.release == attempt.release
            && self.rollout == attempt.rollout
            && self.attempt == attempt.number
            && self.rollback == attempt.rollback
    }
}

/// The orders of one answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Orders {
    /// By product. What is not named is not wanted.
    pub products: BTreeMap<Product, Order>,
    /// Backups to read again when there is nothing else to do.
    pub verify: Vec<ToVerify>,
}

/// A backup to read again and compare with its seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToVerify {
    /// Which.
    pub backup: BackupId,
    /// What the answer repeats.
    pub asked: String,
}

/// Most that are taken of one answer: as many as are reported.
const MOST_TO_VERIFY: usize = 20;
/// Longest word that an answer repeats.
const LONGEST_ASKED: usize = 64;

impl Orders {
    /// Reads the orders of an answer.
    ///
    /// # Errors
    /// If the answer holds none, or more than any host has.
    pub fn read(envelope: &Envelope) -> Result<Orders, EnvelopeError> {
        let orders: wire::Orders = envelope::unwrap_unsigned(envelope)?;
        let mut products = BTreeMap::new();
        for order in orders.products.into_iter().take(MOST_PRODUCTS) {
            match Product::parse(&order.product) {
                Ok(product) => {
                    let order = read_order(order.order);
                    products.insert(product, order);
                }
                Err(error) => tracing::warn!(%error, "an order is passed over"),
            }
        }
        let verify = orders.verify.into_iter().take(MOST_TO_VERIFY).filter_map(|order| {
            let short = order.asked.len() <= LONGEST_ASKED && !order.asked.is_empty();
            let backup = BackupId::parse(&order.backup).ok().filter(|_| short)?;
            Some(ToVerify { backup, asked: order.asked })
        });
        Ok(Orders { products, verify: verify.collect() })
    }
}

fn read_order(order: Option<product_order::Order>) -> Order {
    match order {
        Some(product_order::Order::Offer(offer)) => match read_offer(offer) {
            Ok(offer) => Order::Offer(offer),
            Err(why) => unreadable(&why.to_string()),
        },
        Some(product_order::Order::Hold(hold)) => Order::Hold(hold),
        Some(product_order::Order::BackOut(hold)) => Order::BackOut(hold),
        // Of a later protocol.
        None => unreadable("this agent does not know the order"),
    }
}

fn read_offer(offer: wire::Offer) -> Result<Offer, refit_proto::names::NameError> {
    let version = Version::parse(&offer.version)?;
    let release = ReleaseId { version, digest: Digest::from_bytes(&offer.digest)? };
    Ok(Offer {
        // Only repeated in reports; what is longer than any of ours is cut.
        rollout: offer.rollout_id.chars().take(100).collect(),
        attempt: offer.attempt,
        ring: offer.ring.chars().take(100).collect(),
        release,
        rollback: offer.rollback,
    })
}

fn unreadable(why: &str) -> Order {
    tracing::warn!(why, "an order can't be read; nothing new begins for its product");
    Order::Hold(Hold {
        reason: "unreadable-order".into(),
        text: format!("the server's order can't be read: {why}"),
        who: "operator".into(),
        ..Hold::default()
    })
}

/// What the server wants now, for everybody who acts by it. Empty until the first answer of this run:
/// without it nothing new begins, and nothing under way stops.
#[derive(Debug, Default)]
pub struct Wanted {
    inner: Mutex<Inner>,
    changed: Condvar,
    stops: Stops,
}

#[derive(Debug, Default)]
struct Inner {
    orders: Option<Orders>,
    /// Counts changes, so that a waiter misses none.
    changes: u64,
    ending: bool,
}

impl Wanted {
    /// Nothing heard yet in this run; what was stopped before is remembered in the host's store.
    pub fn in_store(store: Arc<dyn StateStore>) -> Wanted {
        Wanted { stops: Stops::in_store(store), ..Wanted::default() }
    }

    /// Why this product is stopped: as the server says now, or said when it was heard last.
    pub fn stop(&self, product: &Product) -> Option<String> {
        match self.orders() {
            Some(orders) => stop(orders.products.get(product)).map(|hold| hold.text.clone()),
            None => self.stops.stop(product),
        }
    }

    /// Takes the newest orders; says whether they differ from those before.
    pub fn set(&self, orders: Orders) -> bool {
        let mut inner = self.lock();
        if inner.orders.as_ref() == Some(&orders) {
            return false;
        }
        inner.orders = Some(orders.clone());
        inner.changes += 1;
        drop(inner);
        self.stops.note(&orders);
        self.changed.notify_all();
        true
    }

    /// What is wanted for a product; `None` where the server names nothing, or was not heard yet.
    pub fn order(&self, product: &Product) -> Option<Order> {
        self.lock().orders.as_ref()?.products.get(product).cloned()
    }

    /// The newest orders; `None` before the first answer.
    pub fn orders(&self) -> Option<Orders> {
        self.lock().orders.clone()
    }

    /// Whether the server does not want this attempt any more. A server that was not heard in this run
    /// has taken nothing back.
    pub fn took_back(&self, attempt: &Attempt) -> bool {
        match attempt.ordered_by {
            // Not its to take back; but it may stop it.
            OrderedBy::LocalRoot => return self.stop(&attempt.product).is_some(),
            OrderedBy::Server => {}
        }
        let inner = self.lock();
        let Some(orders) = &inner.orders else { return false };
        match orders.products.get(&attempt.product) {
            Some(Order::Offer(offer)) => !offer.is_for(attempt),
            Some(Order::Hold(_) | Order::BackOut(_)) | None => true,
        }
    }

    /// Whether a probation of this product is to end as if a check had failed.
    pub fn backs_out(&self, product: &Product) -> bool {
        matches!(self.order(product), Some(Order::BackOut(_)))
    }

    /// The agent is to end: everybody who waits here stops.
    pub fn end(&self) {
        self.lock().ending = true;
        self.changed.notify_all();
    }

    /// Whether the agent is to end.
    pub fn is_ending(&self) -> bool {
        self.lock().ending
    }

    /// Counts the changes so far.
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Something else has happened that those who wait should look at.
    pub fn stir(&self) {
        self.lock().changes += 1;
        self.changed.notify_all();
    }

    /// Waits until the orders have changed since `seen`, the agent is to end, or the time is over.
    pub fn wait(&self, seen: u64, longest: Duration) {
        let inner = self.lock();
        let waiting = |inner: &mut Inner| inner.changes == seen && !inner.ending;
        drop(
            self.changed
                .wait_timeout_while(inner, longest, waiting)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each change is one assignment: there is nothing half done to find.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(offer: wire::Offer) -> Order {
        let order = Some(product_order::Order::Offer(offer));
        let products = vec![wire::ProductOrder { product: "payments".into(), order }];
        let envelope = envelope::wrap(&wire::Orders { issued: 1, products, verify: Vec::new() });
        let orders = Orders::read(&envelope).unwrap();
        orders.products.into_values().next().unwrap()
    }

    fn offer() -> wire::Offer {
        wire::Offer {
            rollout_id: "r1".into(),
            attempt: 1,
            ring: "pilot".into(),
            version: "1.1".into(),
            digest: vec![7; 32],
            rollback: false,
        }
    }

    #[test]
    fn an_offer_that_cannot_be_read_is_a_hold() {
        assert!(matches!(offered(offer()), Order::Offer(_)));
        for wrong in [
            wire::Offer { digest: vec![7; 31], ..offer() },
            wire::Offer { version: "../1".into(), ..offer() },
        ] {
            assert!(matches!(offered(wrong), Order::Hold(_)));
        }
    }

    #[test]
    fn orders_signed_as_something_else_are_refused() {
        let envelope = Envelope { payload_type: "refit.v1.Report".into(), ..Envelope::default() };
        Orders::read(&envelope).unwrap_err();
    }

    #[test]
    fn a_server_that_was_not_heard_takes_nothing_back_and_a_later_answer_counts() {
        let wanted = Wanted::default();
        let Order::Offer(offer) = offered(offer()) else { panic!("an offer") };
        let product: Product = "payments".parse().unwrap();
        let attempt = Attempt {
            install: crate::update::InstallId::parse("i").unwrap(),
            product: product.clone(),
            release: offer.release.clone(),
            ring: "pilot".parse().unwrap(),
            rollout: "r1".into(),
            number: 1,
            rollback: false,
            previous: None,
            ordered_by: OrderedBy::Server,
        };
        assert!(!wanted.took_back(&attempt));
        let orders = Orders {
            products: [(product.clone(), Order::Offer(offer))].into(),
            ..Orders::default()
        };
        assert!(wanted.set(orders.clone()));
        assert!(!wanted.set(orders), "the same again changes nothing");
        assert!(!wanted.took_back(&attempt));
        let back_out = Orders {
            products: [(product.clone(), Order::BackOut(Hold::default()))].into(),
            ..Orders::default()
        };
        assert!(wanted.set(back_out));
        assert!(wanted.took_back(&attempt) && wanted.backs_out(&product));
    }
}
