//! The journal in the host's store: the update under way, what waits, how each product's last updates
//! ended, and the quarantine. What belongs together is one commit.

use std::sync::Arc;

use refit_durable::{Batch, Options, SledStore, StateStore, Table};
use refit_proto::names::{Digest, Product, Version};
use serde::{Deserialize, Serialize};

use super::{Journal, JournalError, format};
use crate::update::{Attempt, Failure, LeaseId, Outcome, Queue, Queued, Update};

/// The update under way, under [`CURRENT`].
const UPDATE: Table = Table::new(b'j');
/// What waits, by product.
const QUEUE: Table = Table::new(b'q');
/// How updates ended, by number.
const HISTORY: Table = Table::new(b'h');
/// How each product's last update ended.
const LAST: Table = Table::new(b'l');
/// When a product's update last moved, for people.
const SINCE: Table = Table::new(b't');
/// Release digests that failed here.
const QUARANTINE: Table = Table::new(b'x');

const CURRENT: &[u8] = b"current";
/// The last record that could not be read, for a person to look at.
const DAMAGED: &[u8] = b"damaged";

/// How many ended updates are kept: a year of one a day, at about 1 kB each.
const HISTORY_KEPT: usize = 400;

/// More of anything than a host has: products in the queue, digests in quarantine.
const MANY: usize = 10_000;

/// How an update ended, as history keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// What it was about.
    pub attempt: Attempt,
    /// Under which leave; `None` if it never began.
    pub lease: Option<LeaseId>,
    /// How it ended.
    pub outcome: Outcome,
}

/// A release that this host does not take again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Its product.
    pub product: Product,
    /// Its version.
    pub version: Version,
    /// SHA-256 of its release document.
    pub digest: Digest,
    /// How it failed.
    pub failure: Failure,
}

/// The journal in a store.
pub struct StoreJournal {
    pub(super) store: Arc<dyn StateStore>,
}

impl StoreJournal {
    /// The journal in this store.
    pub fn new(store: Arc<dyn StateStore>) -> StoreJournal {
        StoreJournal { store }
    }

    /// How a product's last update ended; `None` also where a later agent wrote what this one does not know.
    ///
    /// # Errors
    /// If the record is damaged.
    pub fn last(&self, product: &Product) -> Result<Option<Ended>, JournalError> {
        let bytes = self.store.get(LAST, product.as_str().as_bytes())?;
        let name = format!("last/{product}");
        Ok(bytes.map(|bytes| format::read_known(&name, &bytes)).transpose()?.flatten())
    }

    /// Since when a product's update stands where it does: what was given to [`Self::note_since`] last.
    ///
    /// # Errors
    /// If the disk can't be read.
    pub fn since(&self, product: &Product) -> Result<String, JournalError> {
        let text = self.store.get(SINCE, product.as_str().as_bytes())?;
        Ok(text.map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default())
    }

    /// Notes in what is committed next that a product's update has moved at this time.
    pub fn note_since(product: &Product, now: &str, extras: &mut Batch) {
        extras.put(SINCE, product.as_str().as_bytes(), now.as_bytes().to_vec());
    }

    /// How each product's last update ended.
    ///
    /// # Errors
    /// If a record cannot be read.
    pub fn lasts(&self) -> Result<Vec<Ended>, JournalError> {
        self.scan(LAST, "last")
    }

    /// How updates ended on this host, oldest first.
    ///
    /// # Errors
    /// If a record cannot be read.
    pub fn history(&self) -> Result<Vec<Ended>, JournalError> {
        self.scan(HISTORY, "history")
    }

    /// What waits for its turn.
    ///
    /// # Errors
    /// If a record cannot be read.
    pub fn queue(&self) -> Result<Queue, JournalError> {
        Ok(Queue::of(self.scan::<Queued>(QUEUE, "queue")?))
    }

    /// Saves what waits for its turn.
    ///
    /// # Errors
    /// If it is not certain that all of it is durable.
    pub fn save_queue(&self, queue: &Queue) -> Result<(), JournalError> {
        let mut batch = Batch::new();
        for (key, _) in self.store.scan(QUEUE, b"", MANY)? {
            batch.delete(QUEUE, key);
        }
        for queued in queue.iter() {
            let product = queued.attempt.product.as_str();
            batch.put(QUEUE, product.as_bytes(), format::write("queue", queued)?);
        }
        Ok(self.store.commit(batch)?)
    }

    /// Every release that this host does not take again.
    ///
    /// # Errors
    /// If a record cannot be read.
    pub fn quarantine(&self) -> Result<Vec<Quarantined>, JournalError> {
        self.scan(QUARANTINE, "quarantine")
    }

    /// Whether this host does not take the release. A record that cannot be read counts as one.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn is_quarantined(&self, digest: &Digest) -> Result<bool, JournalError> {
        Ok(self.store.get(QUARANTINE, digest.as_bytes())?.is_some())
    }

    /// Takes a release out of quarantine, since a person named it; says whether it was in.
    ///
    /// # Errors
    /// If it is not certain that this is durable.
    pub fn lift(&self, digest: &Digest, extras: Batch) -> Result<bool, JournalError> {
        let was_in = self.is_quarantined(digest)?;
        let mut batch = extras;
        batch.delete(QUARANTINE, digest.as_bytes());
        self.store.commit(batch)?;
        Ok(was_in)
    }

    /// Makes a store of its own with a copy of all that the journal holds, and closes it.
    ///
    /// # Errors
    /// If it can't be made whole.
    pub fn copy_into(&self, options: Options) -> Result<(), JournalError> {
        let copy = SledStore::open(options)?.store;
        for table in [UPDATE, QUEUE, HISTORY, LAST, QUARANTINE] {
            let mut batch = Batch::new();
            for (key, value) in self.store.scan(table, b"", MANY)? {
                batch.put(table, key, value);
            }
            copy.commit(batch)?;
        }
        Ok(())
    }

    pub(super) fn scan<T: serde::de::DeserializeOwned>(
        &self,
        table: Table,
        name: &str,
    ) -> Result<Vec<T>, JournalError> {
        let entries = self.store.scan(table, b"", MANY)?;
        let mut known = Vec::new();
        for (key, value) in entries {
            known.extend(format::read_known(&format!("{name}/{}", key.escape_ascii()), &value)?);
        }
        Ok(known)
    }

    /// Adds an update to history and drops what is too old.
    fn put_history(&self, ended: &[u8], batch: &mut Batch) -> Result<(), JournalError> {
        let kept = self.store.scan(HISTORY, b"", MANY)?;
        let newest = kept.last().and_then(|(key, _)| key.as_slice().try_into().ok());
        let number = newest.map_or(0, |key| u64::from_be_bytes(key).saturating_add(1));
        batch.put(HISTORY, number.to_be_bytes(), ended);
        let too_many = (kept.len() + 1).saturating_sub(HISTORY_KEPT);
        for (key, _) in kept.into_iter().take(too_many) {
            batch.delete(HISTORY, key);
        }
        Ok(())
    }
}

impl Journal for StoreJournal {
    fn save(&mut self, update: &Update, extras: Batch) -> Result<(), JournalError> {
        let mut batch = extras;
        if let Update::Finished { attempt, lease, outcome, settled } = update {
            let ended =
                Ended { attempt: attempt.clone(), lease: lease.clone(), outcome: outcome.clone() };
            let record = format::write("ended", &ended)?;
            if let (true, Some(failure)) = (outcome.quarantines(), outcome.failure()) {
                let quarantined = Quarantined {
                    product: attempt.product.clone(),
                    version: attempt.release.version.clone(),
                    digest: attempt.release.digest,
                    failure: failure.clone(),
                };
                let key = attempt.release.digest.as_bytes();
                batch.put(QUARANTINE, *key, format::write("quarantine", &quarantined)?);
            }
            batch.put(LAST, attempt.product.as_str().as_bytes(), record.clone());
            if *settled {
                self.put_history(&record, &mut batch)?;
                batch.delete(UPDATE, CURRENT);
                return Ok(self.store.commit(batch)?);
            }
        }
        batch.put(UPDATE, CURRENT, format::write("current", update)?);
        Ok(self.store.commit(batch)?)
    }

    fn load(&self) -> Result<Option<Update>, JournalError> {
        let bytes = self.store.get(UPDATE, CURRENT)?;
        bytes.map(|bytes| format::read("current", &bytes)).transpose()
    }

    fn set_aside(&mut self) -> Result<(), JournalError> {
        let Some(bytes) = self.store.get(UPDATE, CURRENT)? else { return Ok(()) };
        let mut batch = Batch::new();
        batch.put(UPDATE, DAMAGED, bytes);
        batch.delete(UPDATE, CURRENT);
        Ok(self.store.commit(batch)?)
    }
}

#[cfg(test)]
mod tests {
    use refit_durable::MemStore;

    use super::*;
    use crate::update::{BackupId, Cause, Event, Phase, testing};

    fn journal() -> (Arc<MemStore>, StoreJournal) {
        let store = Arc::new(MemStore::new());
        (store.clone(), StoreJournal::new(store))
    }

    fn ended(version: &str, cause: Cause, settled: bool) -> Update {
        let failure = Failure::new(cause, "503");
        Update::Finished {
            attempt: testing::attempt_of("payments", version),
            lease: None,
            outcome: Outcome::RolledBack { failure, health: None },
            settled,
        }
    }

    #[test]
    fn every_state_is_read_back_as_it_was_saved() {
        for update in testing::every_state() {
            let (_, mut journal) = journal();
            journal.save(&update, Batch::new()).unwrap();
            assert_eq!(journal.load().unwrap(), Some(update));
        }
    }

    #[test]
    fn what_an_earlier_agent_journaled_is_still_read() {
        // Written by format 1, one record per state. Records are added here, and none is ever changed.
        let records = include_str!("format-1.txt").split("\n\n").map(str::trim_end);
        let read = records.map(|record| format::read("current", record.as_bytes()).unwrap());
        let mut read: Vec<Update> = read.collect();
        // The first agents wrote of a boot only which one had to end, and how often it was asked for.
        let rebooting = read.remove(8);
        let expected = testing::every_state();
        assert_eq!(rebooting.phase(), Phase::Rebooting);
        let after = rebooting.clone().on(Event::Resumed { at: testing::at_boot("boot-2", 1) });
        assert_eq!(after.unwrap().phase(), Phase::Probation);
        assert!(rebooting.on(Event::Resumed { at: testing::at(1) }).is_ok());
        let later = read.pop().unwrap();
        assert_eq!(later, expected[8]);
        read.insert(8, later);
        assert_eq!(read, expected);
    }

    /// A record with what a later agent may add to it.
    fn later(record: &[u8], from: &str, to: &str) -> Vec<u8> {
        let text = std::str::from_utf8(record).unwrap();
        let json = text.split_once('\n').unwrap().1.replace(from, to);
        let covered = format!("2 1\n{json}");
        format!("refit-journal {} {covered}", Digest::of(covered.as_bytes())).into_bytes()
    }

    #[test]
    fn an_agent_of_before_reads_what_a_later_one_added_and_takes_no_unknown_state_for_none() {
        for update in testing::every_state() {
            let (store, mut journal) = journal();
            journal.save(&update, Batch::new()).unwrap();
            let put = |key: &[u8], bytes: Vec<u8>| {
                let mut batch = Batch::new();
                batch.put(UPDATE, key, bytes);
                store.commit(batch).unwrap();
            };
            let Some(written) = store.get(UPDATE, CURRENT).unwrap() else { continue };
            // Wherever a structure of ours begins; a span of time is none.
            let written = later(&written, "{\"secs\"", "{ \"secs\"");
            put(CURRENT, later(&written, "{\"", "{\"later\":{\"x\":[1]},\""));
            assert_eq!(journal.load().unwrap().as_ref(), Some(&update));
            let state = format!("\"state\":{}", serde_json::to_value(&update).unwrap()["state"]);
            put(CURRENT, later(&written, &state, "\"state\":\"of-a-later-agent\""));
            let unknown = journal.load();
            assert!(matches!(unknown, Err(JournalError::Unreadable { .. })), "{unknown:?}");
        }
    }

    #[test]
    fn what_a_later_agent_remembers_in_another_way_hides_nothing_that_is_known() {
        let (store, mut journal) = journal();
        for version in ["1.0", "2.0"] {
            let update = ended(version, Cause::HealthCheckFailed, true);
            journal.save(&update, Batch::new()).unwrap();
        }
        let product = testing::attempt_of("payments", "2.0").product;
        let mut batch = Batch::new();
        for table in [HISTORY, LAST, QUARANTINE] {
            let (key, record) = store.scan(table, b"", MANY).unwrap().pop().unwrap();
            // Whatever holds a version: a word in the place of a text.
            batch.put(table, key, later(&record, "\"version\":\"", "\"version\":1,\"was\":\""));
        }
        store.commit(batch).unwrap();
        assert_eq!(journal.history().unwrap().len(), 1);
        assert_eq!(journal.last(&product).unwrap(), None);
        assert_eq!(journal.lasts().unwrap().len(), 0);
        assert_eq!(journal.quarantine().unwrap().len(), 1);
        for version in ["1.0", "2.0"] {
            let digest = testing::attempt_of("payments", version).release.digest;
            assert!(journal.is_quarantined(&digest).unwrap(), "{version} is still refused");
        }
    }

    #[test]
    fn a_record_cut_or_flipped_anywhere_is_never_nothing_pending() {
        let (store, mut journal) = journal();
        let update = testing::every_state().remove(9);
        journal.save(&update, Batch::new()).unwrap();
        let whole = store.get(UPDATE, CURRENT).unwrap().unwrap();
        let damage = |bytes: Vec<u8>| {
            let mut batch = Batch::new();
            batch.put(UPDATE, CURRENT, bytes);
            store.commit(batch).unwrap();
        };
        for length in 0..whole.len() {
            damage(whole[..length].to_vec());
            assert!(journal.load().is_err(), "cut at {length}");
            let mut flipped = whole.clone();
            flipped[length] ^= 0x04;
            damage(flipped);
            assert!(journal.load().is_err(), "flipped at {length}");
        }
    }

    #[test]
    fn a_settled_update_is_history_and_nothing_is_under_way() {
        let (_, mut journal) = journal();
        journal.save(&ended("2.0", Cause::NoSpace, false), Batch::new()).unwrap();
        assert!(journal.load().unwrap().is_some());
        assert_eq!(journal.history().unwrap().len(), 0);
        journal.save(&ended("2.0", Cause::NoSpace, true), Batch::new()).unwrap();
        assert_eq!(journal.load().unwrap(), None);
        let history = journal.history().unwrap();
        assert_eq!(history.len(), 1);
        let product = history[0].attempt.product.clone();
        assert_eq!(journal.last(&product).unwrap().as_ref(), history.first());
    }

    #[test]
    fn a_release_that_failed_here_is_quarantined_until_its_digest_is_named() {
        let (_, mut journal) = journal();
        journal.save(&ended("2.0", Cause::HealthCheckFailed, false), Batch::new()).unwrap();
        journal.save(&ended("3.0", Cause::NoSpace, false), Batch::new()).unwrap();
        let quarantine = journal.quarantine().unwrap();
        assert_eq!(quarantine.len(), 1, "no space is not the release's fault");
        let digest = quarantine[0].digest;
        assert_eq!(digest, testing::attempt_of("payments", "2.0").release.digest);
        assert!(journal.is_quarantined(&digest).unwrap());
        assert!(!journal.lift(&Digest::of(b"another"), Batch::new()).unwrap());
        assert!(journal.lift(&digest, Batch::new()).unwrap());
        assert!(!journal.is_quarantined(&digest).unwrap());
    }

    #[test]
    fn history_keeps_the_newest_and_no_more_than_its_share() {
        let (_, mut journal) = journal();
        for number in 0..HISTORY_KEPT + 7 {
            let update = ended(&format!("1.{number}"), Cause::NoSpace, true);
            journal.save(&update, Batch::new()).unwrap();
        }
        let history = journal.history().unwrap();
        assert_eq!(history.len(), HISTORY_KEPT);
        assert_eq!(history[0].attempt.release.version.as_str(), "1.7");
    }

    #[test]
    fn a_transition_and_what_is_written_with_it_are_one_commit() {
        let (store, mut journal) = journal();
        let outbox = Table::new(b'o');
        let mut extras = Batch::new();
        extras.put(outbox, b"1".as_slice(), b"report".as_slice());
        extras.expect(outbox, b"1".as_slice(), Some(b"another".to_vec()));
        let update = testing::every_state().remove(0);
        assert!(journal.save(&update, extras).is_err(), "the guard does not hold");
        assert_eq!(journal.load().unwrap(), None);
        assert_eq!(store.get(outbox, b"1").unwrap(), None);
    }

    #[test]
    fn the_queue_is_there_after_a_restart() {
        let (store, journal) = journal();
        let queued =
            |name, priority| Queued { attempt: testing::attempt_of(name, "2.0"), priority };
        let mut queue = Queue::of([queued("a", 0), queued("b", 5)]);
        journal.save_queue(&queue).unwrap();
        let again = StoreJournal::new(store);
        assert_eq!(again.queue().unwrap(), queue);
        queue.take_back(&queued("b", 5).attempt.product);
        journal.save_queue(&queue).unwrap();
        assert_eq!(again.queue().unwrap(), queue);
    }

    #[test]
    fn the_largest_update_fits_into_a_record() {
        let (_, mut journal) = journal();
        let long = "\u{1f980}".repeat(5000);
        let failure = Failure::new(Cause::HealthCheckFailed, long);
        let outcome = Outcome::Stuck {
            failure: failure.clone(),
            rollback: Some(failure),
            backup: BackupId::parse(&"b".repeat(128)).unwrap(),
        };
        let attempt = testing::attempt_of("payments", &"9".repeat(64));
        let update = Update::Finished { attempt, lease: None, outcome, settled: false };
        journal.save(&update, Batch::new()).unwrap();
    }
}
