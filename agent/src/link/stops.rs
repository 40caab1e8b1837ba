//! Which products the server has stopped here, for the time when it can't be asked: a pause that was heard
//! once holds for installs that root orders on this host until the server takes it back, also after a
//! restart.

use std::{fmt, sync::Arc};

use refit_durable::{Batch, StateStore, StoreError, Table};
use refit_proto::{cause, names::Product, wire::Hold};

use super::orders::{Order, Orders};

const STOPS: Table = Table::new(b's');
/// More products than a host has.
const MANY: usize = 10_000;

/// A stop that holds, if an order is one: paused, halted, going back. Other holds are about whose turn it
/// is, which a host without a network can't wait for.
pub fn stop(order: Option<&Order>) -> Option<&Hold> {
    match order? {
        Order::BackOut(hold) => Some(hold),
        Order::Hold(hold) if cause::STOPS.contains(&hold.reason.as_str()) => Some(hold),
        Order::Hold(_) | Order::Offer(_) => None,
    }
}

/// What is remembered; nothing without a store.
#[derive(Default)]
pub(super) struct Stops(Option<Arc<dyn StateStore>>);

impl Stops {
    pub(super) fn in_store(store: Arc<dyn StateStore>) -> Stops {
        Stops(Some(store))
    }

    /// Remembers the stops in these orders, and forgets all others.
    pub(super) fn note(&self, orders: &Orders) {
        if let Err(error) = self.try_note(orders) {
            tracing::error!("the server's stops can't be remembered: {error}");
        }
    }

    fn try_note(&self, orders: &Orders) -> Result<(), StoreError> {
        let Some(store) = &self.0 else { return Ok(()) };
        let mut batch = Batch::new();
        for (key, _) in store.scan(STOPS, b"", MANY)? {
            let product = std::str::from_utf8(&key).ok().and_then(|name| Product::parse(name).ok());
            if product.is_none_or(|product| stop(orders.products.get(&product)).is_none()) {
                batch.delete(STOPS, key);
            }
        }
        for (product, order) in &orders.products {
            let Some(hold) = stop(Some(order)) else { continue };
            let key = product.as_str().as_bytes();
            let text: String = hold.text.chars().take(500).collect();
            if store.get(STOPS, key)?.as_deref() != Some(text.as_bytes()) {
                batch.put(STOPS, key, text.into_bytes());
            }
        }
        if batch == Batch::new() { Ok(()) } else { store.commit(batch) }
    }

    /// In the server's words, why this product was stopped when it was heard last. What can't be read is
    /// a stop.
    pub(super) fn stop(&self, product: &Product) -> Option<String> {
        let store = self.0.as_ref()?;
        match store.get(STOPS, product.as_str().as_bytes()) {
            Ok(text) => text.map(|text| String::from_utf8_lossy(&text).into_owned()),
            Err(error) => Some(format!("what the server said last can't be read: {error}")),
        }
    }
}

impl fmt::Debug for Stops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stops({})", self.0.is_some())
    }
}
