//! Where a host's chain of reports stands: what the server has of it, and its newest.

use refit_durable::Batch;
use refit_proto::names::Digest;
use serde::{Deserialize, Serialize};

use super::{CHAIN, CHAIN_KEY};

/// A report by its number and hash; number 0 is before the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Link {
    pub(super) counter: u64,
    pub(super) hash: Option<Digest>,
}

/// What the store keeps of the chain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chain {
    /// The newest that the server has acknowledged.
    pub(super) base: Link,
    /// The newest of all.
    pub(super) head: Link,
}

impl Chain {
    pub(super) fn parse(bytes: &[u8]) -> Option<Chain> {
        let chain: Chain = serde_json::from_slice(bytes).ok()?;
        (chain.base.counter <= chain.head.counter).then_some(chain)
    }

    pub(super) fn put(&self, batch: &mut Batch) {
        // Numbers and words: this cannot fail.
        batch.put(CHAIN, CHAIN_KEY, serde_json::to_vec(self).unwrap_or_default());
    }
}
