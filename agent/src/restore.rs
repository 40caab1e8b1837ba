//! Bringing a backup back because a person on the host asks for it. Decides when that may be: never beside
//! an update; and that it is saved before it is done, and reported when it is over.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use refit_durable::Batch;
use refit_proto::names::Product;
use serde::{Deserialize, Serialize};

use crate::{
    journal::{Journal, JournalError},
    steps::{Machine, Waited},
    update::{Attempt, BackupId, Failure, InstallId, Update},
};

/// Requests that are remembered for who asks how they go.
const REMEMBERED: usize = 16;

/// Why a backup is not brought back, or not yet.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// An update is under way.
    #[error(
        "an update of {0} is under way\n\
         help: wait for its end, which `refit-agent status` shows; going back from it needs nothing"
    )]
    UnderWay(Product),
    /// It can't be begun, or it can't go on.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// What was done can't be saved.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Makes ready to bring a backup back. From here on it is brought back, also after a power cut.
///
/// # Errors
/// Why it is not; then nothing was changed.
pub fn begin(
    machine: &mut dyn Machine,
    journal: &dyn Journal,
    backup: &BackupId,
    install: &InstallId,
    last: &dyn Fn(&Product) -> Option<Attempt>,
) -> Result<(), RestoreError> {
    if let Some(update) = journal.load()? {
        return Err(RestoreError::UnderWay(update.attempt().product.clone()));
    }
    let attempt = machine.arm_restore(backup, install, last)?;
    tracing::warn!(
        product = %attempt.product, undone = %attempt.release.version, %backup,
        "a person brings a backup back"
    );
    Ok(())
}

/// Goes on with what was made ready, if anything was, to its end. Safe to repeat.
///
/// # Errors
/// What stands in the way; it is tried again.
pub fn go_on(
    machine: &mut dyn Machine,
    journal: &mut dyn Journal,
    wait: &dyn Fn(Duration) -> Waited,
) -> Result<Option<Update>, RestoreError> {
    let Some(ended) = machine.restore(wait)? else { return Ok(None) };
    // Before the way back is removed: until then only it knows.
    journal.save(&ended, Batch::new())?;
    machine.restored(ended.attempt())?;
    Ok(Some(ended))
}

/// Where a request stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Progress {
    /// Its turn has not come.
    Waiting,
    /// It is brought back.
    UnderWay {
        /// What stands in its way, if anything does.
        text: String,
    },
    /// It is brought back.
    Done {
        /// What came of it.
        text: String,
    },
    /// It is not, and nothing was changed.
    Refused {
        /// Why.
        text: String,
    },
}

/// What people have asked for, for the thread that does it and for who waits. A restart of the agent forgets
/// what was not begun.
#[derive(Debug, Default)]
pub struct Requests(Mutex<BTreeMap<InstallId, (BackupId, Progress)>>);

impl Requests {
    /// Asks for it, if it was not asked for before, and says where it stands.
    pub fn ask(&self, install: &InstallId, backup: &BackupId) -> Progress {
        let mut requests = self.requests();
        if requests.len() >= REMEMBERED && !requests.contains_key(install) {
            let over = requests.iter().find(|(_, (_, progress))| {
                matches!(progress, Progress::Done { .. } | Progress::Refused { .. })
            });
            let Some(over) = over.map(|(install, _)| install.clone()) else {
                return Progress::Refused { text: "too many are asked for at a time".into() };
            };
            requests.remove(&over);
        }
        let asked = || (backup.clone(), Progress::Waiting);
        requests.entry(install.clone()).or_insert_with(asked).1.clone()
    }

    /// The first that waits.
    pub fn waiting(&self) -> Option<(InstallId, BackupId)> {
        let requests = self.requests();
        let mut waiting = requests.iter().filter(|(_, (_, it))| *it == Progress::Waiting);
        waiting.next().map(|(install, (backup, _))| (install.clone(), backup.clone()))
    }

    /// Where a request stands now.
    pub fn stands(&self, install: &InstallId, progress: Progress) {
        if let Some((_, before)) = self.requests().get_mut(install) {
            *before = progress;
        }
    }

    /// What was begun can't go on for now.
    pub fn hindered(&self, why: &str) {
        for (_, progress) in self.requests().values_mut() {
            if let Progress::UnderWay { text } = progress {
                why.clone_into(text);
            }
        }
    }

    fn requests(&self) -> MutexGuard<'_, BTreeMap<InstallId, (BackupId, Progress)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_once_is_done_once_and_the_oldest_answers_are_forgotten() {
        let requests = Requests::default();
        let id = |n: u32| InstallId::parse(&format!("r{n:02}")).unwrap();
        let backup = BackupId::parse("b").unwrap();
        for n in 0..20 {
            assert_eq!(requests.ask(&id(n), &backup), Progress::Waiting);
            assert_eq!(requests.waiting(), Some((id(n), backup.clone())));
            requests.stands(&id(n), Progress::Done { text: n.to_string() });
            assert_eq!(requests.ask(&id(n), &backup), Progress::Done { text: n.to_string() });
            assert_eq!(requests.waiting(), None);
        }
        assert!(requests.requests().len() <= REMEMBERED);
    }
}
