//! Which product is updated next. A host runs one update at a time; what else is offered waits here.

use std::collections::BTreeMap;

use refit_proto::names::Product;
use serde::{Deserialize, Serialize};

use super::attempt::Attempt;

/// An attempt that waits for its turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// What waits.
    pub attempt: Attempt,
    /// Larger goes first.
    pub priority: i32,
}

/// What waits, at most one attempt for each product.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Queue {
    waiting: BTreeMap<Product, Queued>,
}

impl Queue {
    /// A queue of what the journal held.
    pub fn of(waiting: impl IntoIterator<Item = Queued>) -> Queue {
        let mut queue = Queue::default();
        for queued in waiting {
            queue.offer(queued);
        }
        queue
    }

    /// Takes an offer. A product's new offer replaces the one that waits, since only the newest is what
    /// the server wants; the same release offered again stays the attempt that it was. Says whether
    /// anything has changed.
    pub fn offer(&mut self, queued: Queued) -> bool {
        let product = queued.attempt.product.clone();
        if self.waiting.get(&product).is_some_and(|waiting| same_offer(waiting, &queued)) {
            return false;
        }
        self.waiting.insert(product, queued);
        true
    }

    /// Forgets what waits for a product: the server does not offer it any more. Says whether anything
    /// did wait.
    pub fn take_back(&mut self, product: &Product) -> bool {
        self.waiting.remove(product).is_some()
    }

    /// Whose turn is next: by priority, then by name.
    pub fn first(&self) -> Option<&Queued> {
        // The map is in order of names, and of equals `min_by_key` gives the first.
        self.waiting.values().min_by_key(|queued| std::cmp::Reverse(queued.priority))
    }

    /// Everything that waits, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Queued> {
        self.waiting.values()
    }
}

/// Whether an offer is the one that waits already; the install id is the host's own and says nothing.
fn same_offer(waiting: &Queued, offered: &Queued) -> bool {
    let mut offered = offered.clone();
    offered.attempt.install = waiting.attempt.install.clone();
    *waiting == offered
}

#[cfg(test)]
mod tests {
    use super::{super::testing::attempt_of, *};

    fn queued(product: &str, priority: i32) -> Queued {
        Queued { attempt: attempt_of(product, "2.0"), priority }
    }

    #[test]
    fn products_take_their_turn_by_priority_then_by_name() {
        let mut queue = Queue::of([queued("c", 1), queued("b", 0), queued("a", 0), queued("d", 1)]);
        let mut turns = Vec::new();
        while let Some(first) = queue.first().cloned() {
            assert!(queue.take_back(&first.attempt.product));
            turns.push(first.attempt.product.to_string());
        }
        assert_eq!(turns, ["c", "d", "a", "b"]);
    }

    #[test]
    fn an_offer_repeated_is_the_same_attempt_and_a_new_one_replaces_it() {
        let mut queue = Queue::of([queued("a", 0)]);
        let first = queue.first().cloned().unwrap();
        let mut again = first.clone();
        again.attempt.install = crate::update::InstallId::parse("another").unwrap();
        assert!(!queue.offer(again));
        assert_eq!(queue.first(), Some(&first));
        let newer = Queued { attempt: attempt_of("a", "3.0"), priority: 0 };
        assert!(queue.offer(newer.clone()));
        assert_eq!(queue.first(), Some(&newer));
        assert_eq!(queue.iter().count(), 1);
    }
}
