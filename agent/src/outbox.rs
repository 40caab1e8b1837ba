//! What this host has to report: durable until the server has acknowledged it, exactly once in effect.
//! Each report is signed once, counts one more than the one before and names its hash, and is sent as the
//! same bytes however often it takes. Decides how reports are kept, numbered and given up; what they say
//! is decided in [`crate::status`].
//!
//! A report about an update is written in the commit that moves the update ([`Outbox::writing`]). While a
//! server is away for long, what a later report says better is not written at all, so that the chain has
//! no gaps and outcomes always find room. Where the server's chain is not ours (the host's disk was
//! restored, or the server's), what waits is numbered anew from where the server stands.

mod chain;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message as _;
use refit_durable::{Batch, StateStore, StoreError, Table, store::MAX_VALUE};
use refit_proto::{
    envelope,
    names::{Digest, HostId},
    trust::{LocalKey, SignError},
    wire::{Envelope, Event, HostState, Report},
};

use chain::{Chain, Link};

/// Reports that wait, in parts: counter, then part, both big-endian.
const REPORTS: Table = Table::new(b'o');
/// Where the chain stands.
const CHAIN: Table = Table::new(b'c');
const CHAIN_KEY: &[u8] = b"chain";

/// How many reports wait before only what must not be lost is added: a day of restarts, or of an update
/// that is tried again and again.
const CROWDED: u64 = 200;

/// Parts of a report in the store, bytes.
const PART: usize = MAX_VALUE;
/// More parts than wait: reports of 100 parts would be 1.6 MB each.
const MANY: usize = 1 << 20;

/// What the outbox could not do.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The store.
    #[error("the outbox cannot be used: {0}")]
    Store(#[from] StoreError),
    /// The report key.
    #[error("a report cannot be signed: {0}")]
    Sign(#[from] SignError),
}

/// Something to report.
#[derive(Debug, Clone)]
pub struct News {
    /// RFC 3339, by the host's clock.
    pub at: String,
    /// The whole state.
    pub state: HostState,
    /// What has just happened.
    pub event: Option<Event>,
    /// Whether a later report makes up for it.
    pub weight: Weight,
}

/// Whether a later report makes up for one that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// It does: left out while very many wait.
    Step,
    /// It does not: how an update began and ended.
    Outcome,
}

/// The outbox in the host's store.
pub struct Outbox {
    store: Arc<dyn StateStore>,
    host: HostId,
    key: LocalKey,
    // Held from reading the chain to the commit that moves it.
    turn: Mutex<()>,
    written: Box<dyn Fn() + Send + Sync>,
}

/// The outbox while a report is being written: nobody else writes one until this is dropped, which must
/// be after the commit.
pub struct Writing<'a> {
    outbox: &'a Outbox,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        (self.outbox.written)();
    }
}

impl Outbox {
    /// The outbox of this host in its store. `written` is called after each report.
    pub fn new(
        store: Arc<dyn StateStore>,
        host: HostId,
        key: LocalKey,
        written: impl Fn() + Send + Sync + 'static,
    ) -> Outbox {
        Outbox { store, host, key, turn: Mutex::new(()), written: Box::new(written) }
    }

    /// Begins to write a report into somebody's commit.
    pub fn writing(&self) -> Writing<'_> {
        Writing { outbox: self, _turn: self.turn() }
    }

    /// Writes a report in a commit of its own.
    ///
    /// # Errors
    /// If it is not certain that it is durable.
    pub fn report(&self, news: News) -> Result<(), OutboxError> {
        let writing = self.writing();
        let mut batch = Batch::new();
        writing.add(news, &mut batch)?;
        Ok(self.store.commit(batch)?)
    }

    /// What waits, oldest first: at most so many reports, and at most so many bytes but at least one.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn waiting(&self, most: usize, bytes: usize) -> Result<Vec<Envelope>, OutboxError> {
        let chain = self.chain()?;
        let mut taken: Vec<Envelope> = Vec::new();
        let mut size = 0;
        for counter in chain.base.counter + 1..=chain.head.counter {
            let Some(stored) = self.stored(counter)? else { continue };
            size += stored.len();
            if taken.len() == most || (size > bytes && !taken.is_empty()) {
                break;
            }
            match Envelope::decode(stored.as_slice()) {
                Ok(envelope) => taken.push(envelope),
                Err(error) => tracing::error!(counter, %error, "a report in the outbox is damaged"),
            }
        }
        Ok(taken)
    }

    /// How many reports wait.
    ///
    /// # Errors
    /// If that can't be read.
    pub fn count(&self) -> Result<u64, OutboxError> {
        let chain = self.chain()?;
        Ok(chain.head.counter - chain.base.counter)
    }

    /// Takes the server's word for what it has stored: forgets it here, or, where the server's chain is
    /// not this one, numbers what waits anew.
    ///
    /// # Errors
    /// If it is not certain that this is durable; asked again, it is done again.
    pub fn acknowledge(&self, counter: u64, hash: Option<Digest>) -> Result<(), OutboxError> {
        let _turn = self.turn();
        let chain = self.chain()?;
        let acknowledged = Link { counter, hash };
        if acknowledged == chain.base {
            return Ok(());
        }
        if self.link_at(&chain, counter)? == Some(acknowledged) {
            let mut batch = Batch::new();
            self.forget(chain.base.counter + 1, counter, &mut batch)?;
            Chain { base: acknowledged, ..chain }.put(&mut batch);
            return Ok(self.store.commit(batch)?);
        }
        self.begin_anew(&chain, acknowledged)
    }

    /// Where the chain stood after a report that waits here.
    fn link_at(&self, chain: &Chain, counter: u64) -> Result<Option<Link>, OutboxError> {
        if counter <= chain.base.counter || counter > chain.head.counter {
            return Ok(None);
        }
        let stored = self.stored(counter)?;
        let envelope = stored.and_then(|bytes| Envelope::decode(bytes.as_slice()).ok());
        Ok(envelope.map(|envelope| Link { counter, hash: Some(Digest::of(&envelope.payload)) }))
    }

    /// Signs what waits once more, as what follows on where the server stands.
    fn begin_anew(&self, chain: &Chain, base: Link) -> Result<(), OutboxError> {
        tracing::warn!(
            server = base.counter,
            host = chain.base.counter,
            waiting = chain.head.counter - chain.base.counter,
            "the server's reports of this host are not those that this host knows of; \
             what waits is numbered anew"
        );
        let mut reports = Vec::new();
        for counter in chain.base.counter + 1..=chain.head.counter {
            let envelope = self.stored(counter)?;
            let envelope = envelope.and_then(|bytes| Envelope::decode(bytes.as_slice()).ok());
            let report = envelope.and_then(|e| Report::decode(e.payload.as_slice()).ok());
            reports.extend(report);
        }
        let mut batch = Batch::new();
        self.forget(chain.base.counter + 1, chain.head.counter, &mut batch)?;
        let mut anew = Chain { base, head: base };
        for report in reports {
            self.seal(report, &mut anew, &mut batch)?;
        }
        anew.put(&mut batch);
        Ok(self.store.commit(batch)?)
    }

    /// Signs a report as the next one and adds it to the batch.
    fn seal(
        &self,
        mut report: Report,
        chain: &mut Chain,
        batch: &mut Batch,
    ) -> Result<(), OutboxError> {
        report.host_id = self.host.to_string();
        report.counter = chain.head.counter + 1;
        report.previous = chain.head.hash.map_or(Vec::new(), |hash| hash.as_bytes().to_vec());
        let envelope = envelope::seal(&report, &self.key)?;
        chain.head = Link { counter: report.counter, hash: Some(Digest::of(&envelope.payload)) };
        for (part, bytes) in envelope.encode_to_vec().chunks(PART).enumerate() {
            batch.put(REPORTS, key(report.counter, part), bytes);
        }
        Ok(())
    }

    fn forget(&self, first: u64, last: u64, batch: &mut Batch) -> Result<(), OutboxError> {
        for (found, _) in self.store.scan(REPORTS, &key(first, 0), MANY)? {
            if counter_of(&found).is_none_or(|counter| counter > last) {
                break;
            }
            batch.delete(REPORTS, found);
        }
        Ok(())
    }

    /// A report's envelope, put together from its parts.
    fn stored(&self, counter: u64) -> Result<Option<Vec<u8>>, OutboxError> {
        let mut whole = Vec::new();
        for part in 0.. {
            match self.store.get(REPORTS, &key(counter, part))? {
                Some(bytes) => {
                    let is_last = bytes.len() < PART;
                    whole.extend(bytes);
                    if is_last {
                        break;
                    }
                }
                None => break,
            }
        }
        Ok((!whole.is_empty()).then_some(whole))
    }

    fn chain(&self) -> Result<Chain, OutboxError> {
        match self.store.get(CHAIN, CHAIN_KEY)? {
            None => Ok(Chain::default()),
            Some(bytes) => match Chain::parse(&bytes) {
                Some(chain) => Ok(chain),
                None => {
                    tracing::error!("the outbox's record of its chain is damaged; it is rebuilt");
                    self.rebuilt()
                }
            },
        }
    }

    /// The chain as the waiting reports tell it. Without any, the server's next answer tells it.
    fn rebuilt(&self) -> Result<Chain, OutboxError> {
        let mut chain = Chain::default();
        let mut first = true;
        for (found, _) in self.store.scan(REPORTS, b"", MANY)? {
            let Some(counter) = counter_of(&found).filter(|c| *c != chain.head.counter) else {
                continue;
            };
            let envelope = self.stored(counter)?;
            let envelope = envelope.and_then(|bytes| Envelope::decode(bytes.as_slice()).ok());
            let Some(payload) = envelope.map(|envelope| envelope.payload) else { continue };
            let Ok(report) = Report::decode(payload.as_slice()) else { continue };
            if std::mem::take(&mut first) {
                let hash = Digest::from_bytes(&report.previous).ok();
                chain.base = Link { counter: counter - 1, hash };
            }
            chain.head = Link { counter, hash: Some(Digest::of(&payload)) };
        }
        Ok(chain)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        // The lock guards no data: what it orders is in the store.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writing<'_> {
    /// Adds a report to the batch, which must be committed before this is dropped, or not at all.
    ///
    /// # Errors
    /// If it can't be signed, or the chain can't be read.
    pub fn add(&self, news: News, batch: &mut Batch) -> Result<(), OutboxError> {
        let mut chain = self.outbox.chain()?;
        let crowded = chain.head.counter - chain.base.counter >= CROWDED;
        if crowded && news.weight == Weight::Step {
            return Ok(());
        }
        let report =
            Report { at: news.at, state: Some(news.state), event: news.event, ..Report::default() };
        self.outbox.seal(report, &mut chain, batch)?;
        chain.put(batch);
        Ok(())
    }
}

fn key(counter: u64, part: usize) -> Vec<u8> {
    let part = u32::try_from(part).unwrap_or(u32::MAX);
    [&counter.to_be_bytes()[..], &part.to_be_bytes()].concat()
}

fn counter_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(..8)?.try_into().ok()?))
}
