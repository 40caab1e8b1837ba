//! The fleet's memory: typed reads, and one way to write, all or nothing and durable when it returns.
//!
//! The store decides nothing. It keeps revisions, so that nobody overwrites what they have not seen;
//! keeps sums ([`Commit::tally`]), notes for whoever follows the fleet, and the audit log in its order.
//! What may follow what is decided in `rollout`, `enrollment` and `publication`, before a commit.
//!
//! [`Embedded`] is the store on disk, over `refit-durable`. [`MemStore`] is the plain meaning of the
//! trait. Nothing tells them apart but a restart.

mod commit;
#[cfg(test)]
mod conformance;
mod doc;
mod embedded;
mod error;
mod memory;
mod query;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use refit_proto::{
    names::{HostId, HostName, Product, RingName},
    trust::Role,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use commit::{Commit, FileWrite, Invalid, Key, Lock, MAX_NOTED, MAX_RECORD};
pub use doc::{Doc, DocKey, DocKind, Document};
pub use embedded::Embedded;
pub use error::{CommitError, StoreFault};
pub use memory::MemStore;
pub use query::{HostQuery, HostRow, Listed};

use crate::{
    audit::{AuditHead, AuditLine},
    fleet::{Host, OrderKey, Placement, Rollout, RolloutId, Tally},
};

/// A record with its revision: 1 when it is written first, one more with each write. To change it, name
/// the revision that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rev<T> {
    /// How often it was written.
    pub rev: u64,
    /// The record.
    pub value: T,
}

/// Of which cells the sum is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cells<'a> {
    /// All there are.
    Fleet,
    /// Those of a product.
    Product(&'a Product),
    /// Those of a ring; `None`: of the hosts that no ring of the product selects.
    Ring(&'a Product, Option<&'a RingName>),
}

/// Placements that are read at a time.
const PAGE: usize = 1000;

/// A place in the order of a ring: everything after it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RingCursor {
    /// The host's place.
    pub order_key: OrderKey,
    /// Hosts can share a place.
    pub host_id: HostId,
}

impl RingCursor {
    /// The place of this placement.
    pub fn of(placement: &Placement) -> RingCursor {
        RingCursor { order_key: placement.order_key, host_id: placement.host_id.clone() }
    }
}

/// A signed file, as it was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedFile {
    /// The version that it says.
    pub version: u64,
    /// The file.
    pub bytes: Vec<u8>,
}

/// What changed, for whoever follows the fleet. A hint to read it again; never the truth itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Note {
    /// Signed metadata.
    Metadata,
    /// Rings, releases or policy of a product.
    Product(Product),
    /// A rollout's state.
    Rollout(RolloutId),
    /// Placements of a product, at most [`MAX_NOTED`] hosts in a note.
    Placements(Product, Vec<HostId>),
    /// A host: labels, state.
    Host(HostId),
}

/// A note with its place in the order of commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// 1, 2, 3, ... without gaps.
    pub rev: u64,
    /// What changed.
    pub note: Note,
}

/// Notes after a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Older notes, after the place that was asked for, are forgotten: whoever follows has to read all
    /// that it follows again.
    pub forgotten: bool,
    /// In the order of commits.
    pub list: Vec<Change>,
}

/// What a commit has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Revision of the newest note, of this commit or one before.
    pub change: u64,
}

/// Counts the holders of a lease: whoever comes after another has a higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// Reads are of what is committed, each of one moment. Lists come in the order of their keys, after the
/// place that is named, and at most so many as asked for.
pub trait Store: Send + Sync + 'static {
    /// A host.
    ///
    /// # Errors
    /// If the store can't be read, as everywhere here.
    fn host(&self, id: &HostId) -> Result<Option<Rev<Host>>, StoreFault>;

    /// The host that has this name and is not retired.
    ///
    /// # Errors
    /// See [`Store::host`].
    fn host_named(&self, name: &HostName) -> Result<Option<Rev<Host>>, StoreFault>;

    /// Hosts with all their placements, for lists.
    ///
    /// # Errors
    /// See [`Store::host`].
    fn find(
        &self,
        query: &HostQuery,
        after: Option<&HostId>,
        limit: usize,
    ) -> Result<Listed, StoreFault>;

    /// One product on one host.
    ///
    /// # Errors
    /// See [`Store::host`].
    fn placement(
        &self,
        product: &Product,
        host: &HostId,
    ) -> Result<Option<Rev<Placement>>, StoreFault>;

    /// Every product on one host, by name of the product.
    ///
    /// # Errors
    /// See [`Store::host`].
    fn placements(&self, host: &HostId) -> Result<Vec<Rev<Placement>>, StoreFault>;

    /// The placements of a ring in its order, for admission; `None`: of those that no ring selects.
    ///
    /// # Errors
    /// See [`Store::host`].
    fn ring_after(
        &self,
        product: &Product,
        ring: Option<&RingName>,
        after: Option<&RingCursor>,
        limit: usize,
    ) -> Result<Vec<Rev<Placement>>, StoreFault>;

    /// The placements in flight for a rollout, by host, for time-outs.
    ///
    /// # Errors
    /// See [`Store::host`].
    fn in_flight(
        &self,
        rollout: &RolloutId,
        after: Option<&HostId>,
        limit: usize,
    ) -> Result<Vec<Rev<Placement>>, StoreFault>;

    /// The sums of cells that are not zero, in order.
    ///
    /// # Errors
    /// See [`Store::host`].
    fn tally(&self, cells: Cells<'_>) -> Result<Tally, StoreFault>;

    /// A document. [`Reads::read`] gives it its type.
    ///
    /// # Errors
    /// See [`Store::host`].
    fn doc(&self, key: &DocKey) -> Result<Option<Rev<Doc>>, StoreFault>;

    /// The documents of a kind.
    ///
    /// # Errors
    /// See [`Store::host`].
    fn docs(
        &self,
        kind: DocKind,
        after: Option<&DocKey>,
        limit: usize,
    ) -> Result<Vec<Rev<Doc>>, StoreFault>;

    /// The newest rollout of each ring that has had one, by product and ring.
    ///
    /// # Errors
    /// See [`Store::host`].
    fn newest_rollouts(&self) -> Result<Vec<Rev<Rollout>>, StoreFault>;

    /// A role's signed file, of this version or the newest.
    ///
    /// # Errors
    /// See [`Store::host`].
    fn file(&self, role: &Role, version: Option<u64>) -> Result<Option<SignedFile>, StoreFault>;

    /// The newest file of every role, of one moment.
    ///
    /// # Errors
    /// See [`Store::host`].
    fn newest_files(&self) -> Result<BTreeMap<Role, SignedFile>, StoreFault>;

    /// Length and hash of the audit log.
    ///
    /// # Errors
    /// See [`Store::host`].
    fn audit_head(&self) -> Result<AuditHead, StoreFault>;

    /// The audit log after this sequence number.
    ///
    /// # Errors
    /// See [`Store::host`].
    fn audit_after(&self, sequence: u64, limit: usize) -> Result<Vec<AuditLine>, StoreFault>;

    /// The notes after this revision.
    ///
    /// # Errors
    /// See [`Store::host`].
    fn changes(&self, after: u64, limit: usize) -> Result<Changes, StoreFault>;

    /// Revision of the newest note. A hint that [`Store::changes`] may have more; it may never come.
    fn wake(&self) -> watch::Receiver<u64>;

    /// Takes the lease of this name, or keeps it. `None` while another has it. A holder that comes back
    /// after its time gets a new epoch, like any other.
    ///
    /// # Errors
    /// If the store can't be written; it is then unknown who holds it.
    fn lease(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        lasts: Duration,
    ) -> Result<Option<Epoch>, StoreFault>;

    /// All of it or nothing, and durable on return.
    ///
    /// # Errors
    /// With `Conflict`, `Fenced` and `Invalid` nothing is changed. After `Unavailable` and `Corrupt` it
    /// is unknown whether it was: read again by revision, and repeat.
    fn commit(&self, commit: Commit) -> Result<Committed, CommitError>;

    /// Forgets the notes up to this revision.
    ///
    /// # Errors
    /// If the store can't be written.
    fn forget_changes(&self, up_to: u64) -> Result<(), StoreFault>;
}

/// Reads with the document's own type. For every store.
pub trait Reads: Store {
    /// A document.
    ///
    /// # Errors
    /// If the store can't be read.
    fn read<D: Document>(&self, key: D::Key) -> Result<Option<Rev<D>>, StoreFault> {
        let found = self.doc(&key.into())?;
        Ok(found.and_then(|found| Some(Rev { rev: found.rev, value: D::from_doc(found.value)? })))
    }

    /// All documents of a kind. For kinds that are few.
    ///
    /// # Errors
    /// If the store can't be read.
    fn all<D: Document>(&self) -> Result<Vec<Rev<D>>, StoreFault> {
        let found = self.docs(D::KIND, None, usize::MAX)?;
        let typed =
            |found: Rev<Doc>| Some(Rev { rev: found.rev, value: D::from_doc(found.value)? });
        Ok(found.into_iter().filter_map(typed).collect())
    }

    /// Every placement of a ring, in its order; `None`: those that no ring selects. Reads a part at a time.
    ///
    /// # Errors
    /// If the store can't be read, or `each` fails.
    fn each_in_ring(
        &self,
        product: &Product,
        ring: Option<&RingName>,
        mut each: impl FnMut(&Placement) -> Result<(), StoreFault>,
    ) -> Result<(), StoreFault> {
        let mut after = None;
        loop {
            let page = self.ring_after(product, ring, after.as_ref(), PAGE)?;
            for held in &page {
                each(&held.value)?;
            }
            match page.last().filter(|_| page.len() == PAGE) {
                Some(last) => after = Some(RingCursor::of(&last.value)),
                None => return Ok(()),
            }
        }
    }
}

impl<S: Store + ?Sized> Reads for S {}

/// The store for async code: each use runs on a thread that may wait for the disk.
#[derive(Clone)]
pub struct StoreHandle(Arc<dyn Store>);

impl StoreHandle {
    /// A handle on this store.
    pub fn new(store: impl Store) -> StoreHandle {
        StoreHandle(Arc::new(store))
    }

    /// The store itself, for code that may wait.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0
    }

    /// Runs a piece of work against the store. Once begun it is ended, also if the caller goes away.
    ///
    /// # Errors
    /// What the work says; and `Unavailable` if the server is ending.
    pub async fn run<T, E>(
        &self,
        work: impl FnOnce(&dyn Store) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreFault> + Send + 'static,
    {
        let store = self.0.clone();
        match tokio::task::spawn_blocking(move || work(&*store)).await {
            Ok(done) => done,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(E::from(StoreFault::unavailable("the server is ending"))),
            },
        }
    }
}
