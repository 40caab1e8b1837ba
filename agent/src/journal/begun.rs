//! Which updates began to change this host, and which of them failed: what the host's own brake counts. Each
//! is written in the commit in which it begins or ends, so that none is forgotten and none counted twice.

use refit_durable::{Batch, Table};
use refit_proto::{names::Product, sorted};

use super::{JournalError, StoreJournal, format};
use crate::update::{Begun, Blame, Moment, Outcome, Phase, Update};

const BEGUN: Table = Table::new(b'b');

/// How many are kept. More in the longest time that counts is more than any limit allows.
const KEPT: usize = 1000;

impl StoreJournal {
    /// The updates that began here, as far back as anything counts.
    ///
    /// # Errors
    /// If a record can't be read: then nobody knows how many there were.
    pub fn begun(&self) -> Result<Vec<Begun>, JournalError> {
        self.scan(BEGUN, "begun")
    }

    /// Adds what this step of an update changes in that memory.
    pub(crate) fn note_begun(
        &self,
        update: &Update,
        at: &Moment,
        batch: &mut Batch,
    ) -> Result<(), JournalError> {
        let failed = match update {
            Update::Finished { outcome, .. } => has_failed(outcome),
            _ if update.phase() == Phase::Quiescing => false,
            _ => return Ok(()),
        };
        let attempt = update.attempt();
        let key = attempt.install.as_str().as_bytes();
        let known = self.store.get(BEGUN, key)?;
        // One that never began is not counted; one whose beginning was lost with a journal is.
        if known.is_none() && !failed && update.phase() != Phase::Quiescing {
            return Ok(());
        }
        let known = known.and_then(|bytes| format::read::<Begun>("begun", &bytes).ok());
        let at = known.map_or_else(|| at.clone(), |begun| begun.at);
        let (install, product) = (attempt.install.clone(), attempt.product.clone());
        let begun = Begun { install, product, at, failed };
        batch.put(BEGUN, key, format::write("begun", &begun)?);
        self.drop_oldest(batch)
    }

    /// A person, or a signed retry, lets a product that failed here be tried again; says whether it had
    /// failed.
    ///
    /// # Errors
    /// If it is not certain that this is durable.
    pub fn forgive(&self, product: &Product) -> Result<bool, JournalError> {
        let mut batch = Batch::new();
        let mut any = false;
        for begun in self.begun()? {
            if begun.failed && begun.product == *product {
                any = true;
                let begun = Begun { failed: false, ..begun };
                let key = begun.install.as_str().as_bytes().to_vec();
                batch.put(BEGUN, key, format::write("begun", &begun)?);
            }
        }
        self.store.commit(batch)?;
        Ok(any)
    }

    fn drop_oldest(&self, batch: &mut Batch) -> Result<(), JournalError> {
        let mut kept = self.begun()?;
        sorted::sort_by(&mut kept, |a, b| a.at.wall.cmp(&b.at.wall));
        let too_many = (kept.len() + 1).saturating_sub(KEPT);
        for begun in kept.iter().take(too_many) {
            batch.delete(BEGUN, begun.install.as_str().as_bytes());
        }
        Ok(())
    }
}

fn has_failed(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::RolledBack { failure, .. } | Outcome::Stuck { failure, .. } => {
            failure.blame() == Blame::Release
        }
        Outcome::Committed { .. } | Outcome::Refused { .. } | Outcome::Dropped => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use refit_durable::MemStore;

    use super::*;
    use crate::update::{Cause, InstallId, testing};

    fn journal() -> StoreJournal {
        StoreJournal::new(Arc::new(MemStore::new()))
    }

    fn note(journal: &StoreJournal, update: &Update, second: u64) {
        let mut batch = Batch::new();
        journal.note_begun(update, &testing::at(second), &mut batch).unwrap();
        journal.store.commit(batch).unwrap();
    }

    #[test]
    fn an_update_counts_from_its_quiescing_on_once_and_what_never_began_does_not() {
        for update in testing::every_state() {
            let journal = journal();
            note(&journal, &update, 5);
            note(&journal, &update, 6);
            let begun = journal.begun().unwrap();
            let (failed, quiescing) = match &update {
                Update::Finished { outcome, .. } => (has_failed(outcome), false),
                update => (false, update.phase() == Phase::Quiescing),
            };
            assert_eq!(begun.len(), usize::from(failed || quiescing), "{}", update.phase());
            assert!(begun.iter().all(|begun| begun.failed == failed && begun.at == testing::at(5)));
        }
    }

    #[test]
    fn a_failure_is_remembered_with_its_beginning_until_it_is_forgiven() {
        let journal = journal();
        note(&journal, &Update::Quiescing { change: testing::change() }, 5);
        let failure = testing::failure(Cause::HealthCheckFailed);
        let failed = testing::ended(Outcome::RolledBack { failure, health: None });
        note(&journal, &failed, 90);
        let begun = journal.begun().unwrap();
        assert_eq!((begun.len(), begun[0].failed, &begun[0].at), (1, true, &testing::at(5)));
        let product = begun[0].product.clone();
        assert!(!journal.forgive(&"other".parse().unwrap()).unwrap());
        assert!(journal.begun().unwrap()[0].failed);
        assert!(journal.forgive(&product).unwrap());
        let begun = journal.begun().unwrap();
        assert_eq!((begun.len(), begun[0].failed), (1, false), "it counts as begun all the same");
        assert!(!journal.forgive(&product).unwrap());
    }

    #[test]
    fn what_is_not_the_releases_fault_is_no_failure_of_it() {
        for cause in Cause::ALL {
            let failure = testing::failure(cause);
            let failed = has_failed(&Outcome::RolledBack { failure, health: None });
            assert_eq!(failed, cause.blame() == Blame::Release, "{cause}");
        }
    }

    #[test]
    fn a_record_that_cannot_be_read_is_an_error_and_the_memory_stays_bounded() {
        let journal = journal();
        for number in 0..KEPT + 5 {
            let mut change = testing::change();
            change.attempt.install = InstallId::parse(&format!("install-{number}")).unwrap();
            note(&journal, &Update::Quiescing { change }, number as u64);
        }
        assert_eq!(journal.begun().unwrap().len(), KEPT);
        let mut batch = Batch::new();
        batch.put(BEGUN, b"x".to_vec(), b"garbage".to_vec());
        journal.store.commit(batch).unwrap();
        assert!(journal.begun().is_err());
    }
}
