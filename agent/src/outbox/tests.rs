//! Reports against a server that goes by the rules of the protocol.

use std::cell::Cell;

use refit_durable::{Entry, MemStore, StoreStats};
use refit_proto::trust::{PublicKey, Signer as _};

use super::*;

/// What a server does with the reports of one host, by the rules of the protocol.
#[derive(Default)]
struct FakeServer {
    counter: u64,
    hash: Option<Digest>,
    stored: Vec<String>,
}

impl FakeServer {
    /// Stores what is new; an error as the server gives it for a chain that does not fit.
    fn sync(&mut self, envelopes: &[Envelope], key: &PublicKey) -> Result<(), String> {
        let (mut counter, mut hash) = (self.counter, self.hash);
        let mut fresh = Vec::new();
        for sent in envelopes {
            let report: Report = envelope::open(sent, key).map_err(|error| error.to_string())?;
            if report.counter <= counter {
                continue;
            }
            let previous = hash.map_or(Vec::new(), |hash: Digest| hash.as_bytes().to_vec());
            if report.counter != counter + 1 || report.previous != previous {
                return Err(format!("report {} does not follow on {counter}", report.counter));
            }
            (counter, hash) = (report.counter, Some(Digest::of(&sent.payload)));
            fresh.push(report.at);
        }
        (self.counter, self.hash) = (counter, hash);
        self.stored.extend(fresh);
        Ok(())
    }
}

const SEED: [u8; 32] = [7; 32];

fn key() -> PublicKey {
    LocalKey::from_seed(&SEED).public().clone()
}

fn outbox(store: &MemStore) -> Outbox {
    let host = HostId::of_public_key(b"host");
    Outbox::new(Arc::new(store.clone()), host, LocalKey::from_seed(&SEED), || {})
}

fn news(at: &str, weight: Weight) -> News {
    News { at: at.to_owned(), state: HostState::default(), event: None, weight }
}

fn report(outbox: &Outbox, at: &str) {
    outbox.report(news(at, Weight::Step)).unwrap();
}

fn all(outbox: &Outbox) -> Vec<Envelope> {
    outbox.waiting(usize::MAX, usize::MAX).unwrap()
}

#[test]
fn what_is_sent_again_after_a_lost_answer_is_the_same_bytes_and_counts_once() {
    let (store, mut server) = (MemStore::new(), FakeServer::default());
    report(&outbox(&store), "1");
    report(&outbox(&store), "2");
    let first = all(&outbox(&store));
    server.sync(&first, &key()).unwrap();
    // The answer is lost, the agent starts again and has more to say.
    report(&outbox(&store), "3");
    let second = all(&outbox(&store));
    assert_eq!(second[..2], first);
    server.sync(&second, &key()).unwrap();
    assert_eq!(server.stored, ["1", "2", "3"]);
    outbox(&store).acknowledge(server.counter, server.hash).unwrap();
    assert_eq!(outbox(&store).count().unwrap(), 0);
    assert!(store.scan(REPORTS, b"", 9).unwrap().is_empty(), "nothing is left behind");
    report(&outbox(&store), "4");
    server.sync(&all(&outbox(&store)), &key()).unwrap();
    assert_eq!(server.stored, ["1", "2", "3", "4"]);
}

#[test]
fn an_acknowledgement_in_the_middle_or_one_that_is_repeated_loses_nothing() {
    let (store, mut server) = (MemStore::new(), FakeServer::default());
    let outbox = outbox(&store);
    for at in ["1", "2", "3"] {
        report(&outbox, at);
    }
    server.sync(&all(&outbox)[..2], &key()).unwrap();
    for _ in 0..2 {
        outbox.acknowledge(server.counter, server.hash).unwrap();
        assert_eq!(outbox.count().unwrap(), 1);
    }
    server.sync(&all(&outbox), &key()).unwrap();
    assert_eq!(server.stored, ["1", "2", "3"]);
}

#[test]
fn a_report_is_there_exactly_if_its_commit_is() {
    const OTHER: Table = Table::new(b'j');
    let store = MemStore::new();
    let outbox = outbox(&store);
    for committed in [false, true, false, true] {
        let writing = outbox.writing();
        let mut batch = Batch::new();
        batch.put(OTHER, b"update", b"moved");
        writing.add(news(&committed.to_string(), Weight::Outcome), &mut batch).unwrap();
        // What a kill before the commit leaves: nothing of it.
        if committed {
            store.commit(batch).unwrap();
        }
        drop(writing);
    }
    let mut server = FakeServer::default();
    server.sync(&all(&outbox), &key()).unwrap();
    assert_eq!(server.stored, ["true", "true"]);
}

#[test]
fn a_host_that_lost_its_outbox_goes_on_where_the_server_stands() {
    let (store, mut server) = (MemStore::new(), FakeServer::default());
    for at in ["1", "2", "3"] {
        report(&outbox(&store), at);
    }
    server.sync(&all(&outbox(&store)), &key()).unwrap();
    let lost = MemStore::new();
    report(&outbox(&lost), "after the loss");
    // It counts as a report that the server has; an answer to an empty call tells the host better.
    outbox(&lost).acknowledge(server.counter, server.hash).unwrap();
    server.sync(&all(&outbox(&lost)), &key()).unwrap();
    assert_eq!(server.stored, ["1", "2", "3", "after the loss"]);
}

#[test]
fn a_server_restored_from_an_older_backup_gets_what_comes_next() {
    let (store, mut server) = (MemStore::new(), FakeServer::default());
    report(&outbox(&store), "1");
    server.sync(&all(&outbox(&store)), &key()).unwrap();
    let backup = (server.counter, server.hash);
    report(&outbox(&store), "2");
    server.sync(&all(&outbox(&store)), &key()).unwrap();
    outbox(&store).acknowledge(server.counter, server.hash).unwrap();
    (server.counter, server.hash) = backup;
    report(&outbox(&store), "3");
    server.sync(&all(&outbox(&store)), &key()).unwrap_err();
    outbox(&store).acknowledge(server.counter, server.hash).unwrap();
    server.sync(&all(&outbox(&store)), &key()).unwrap();
    assert_eq!(server.stored, ["1", "2", "3"]);
}

#[test]
fn a_crowded_outbox_leaves_steps_out_and_never_an_outcome_and_the_chain_has_no_gap() {
    let (store, mut server) = (MemStore::new(), FakeServer::default());
    let outbox = outbox(&store);
    for number in 0..CROWDED + 50 {
        report(&outbox, &number.to_string());
    }
    assert_eq!(outbox.count().unwrap(), CROWDED);
    outbox.report(news("outcome", Weight::Outcome)).unwrap();
    report(&outbox, "left out");
    server.sync(&all(&outbox), &key()).unwrap();
    assert_eq!(server.stored.len() as u64, CROWDED + 1);
    assert_eq!(server.stored.last().unwrap(), "outcome");
}

#[test]
fn a_report_of_any_size_comes_back_whole_and_a_call_is_limited() {
    let store = MemStore::new();
    let outbox = outbox(&store);
    for size in [0, PART - 400, PART, 5 * PART] {
        report(&outbox, &"x".repeat(size));
    }
    assert_eq!(all(&outbox).len(), 4);
    FakeServer::default().sync(&all(&outbox), &key()).unwrap();
    assert_eq!(outbox.waiting(2, usize::MAX).unwrap().len(), 2);
    assert_eq!(outbox.waiting(9, 1).unwrap().len(), 1, "one at least, however large");
}

#[test]
fn a_damaged_record_of_the_chain_is_rebuilt_from_what_waits() {
    let (store, mut server) = (MemStore::new(), FakeServer::default());
    for at in ["1", "2", "3"] {
        report(&outbox(&store), at);
    }
    server.sync(&all(&outbox(&store))[..1], &key()).unwrap();
    outbox(&store).acknowledge(server.counter, server.hash).unwrap();
    let mut batch = Batch::new();
    batch.put(CHAIN, CHAIN_KEY, b"{ damaged");
    store.commit(batch).unwrap();
    report(&outbox(&store), "4");
    server.sync(&all(&outbox(&store)), &key()).unwrap();
    assert_eq!(server.stored, ["1", "2", "3", "4"]);
}

/// A store that fails from some commit on.
struct Failing {
    inner: MemStore,
    left: Mutex<Cell<u32>>,
}

impl StateStore for Failing {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(table, key)
    }
    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.inner.scan(table, from, limit)
    }
    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let left = self.left.lock().unwrap();
        if left.get() == 0 {
            return Err(StoreError::Full { path: "/full".into() });
        }
        left.set(left.get() - 1);
        self.inner.commit(batch)
    }
    fn stats(&self) -> StoreStats {
        self.inner.stats()
    }
}

#[test]
fn whichever_commit_fails_the_chain_goes_on_from_what_is_stored() {
    for failing in 0..5 {
        let (inner, mut server) = (MemStore::new(), FakeServer::default());
        let left = Mutex::new(Cell::new(failing));
        let store = Arc::new(Failing { inner: inner.clone(), left });
        let host = HostId::of_public_key(b"host");
        let broken = Outbox::new(store, host, LocalKey::from_seed(&SEED), || {});
        let mut written = Vec::new();
        for at in ["1", "2", "3"] {
            if broken.report(news(at, Weight::Step)).is_ok() {
                written.push(at);
            }
            server.sync(&all(&broken), &key()).unwrap();
            let _lost = broken.acknowledge(server.counter, server.hash);
        }
        report(&outbox(&inner), "after");
        written.push("after");
        server.sync(&all(&outbox(&inner)), &key()).unwrap();
        assert_eq!(server.stored, written, "commit {failing} failed");
    }
}
