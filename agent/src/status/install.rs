//! How the install of a bundle goes, told from what is there: the waiting file, the update under way, history.

use serde::{Deserialize, Serialize};

use crate::{
    bundle::{Answer, Spool},
    journal::{Journal as _, JournalError},
    report::Reporter,
    update::{InstallId, Update},
};

/// Where the install of a bundle stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Progress {
    /// Its turn has not come.
    Waiting,
    /// It is under way.
    UnderWay {
        /// Its phase.
        phase: String,
        /// Why it waits, if it does.
        text: String,
    },
    /// Its update is over.
    Ended {
        /// Its last phase.
        phase: String,
        /// Why it did not end Committed, if it did not.
        failure: Option<Failed>,
    },
    /// The release runs here already.
    RunsAlready,
    /// No update began.
    Refused {
        /// Why.
        text: String,
    },
    /// Nobody knows this install.
    Unknown,
}

/// Why an update did not end Committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The word.
    pub cause: String,
    /// One sentence.
    pub text: String,
    /// What to do.
    pub help: String,
}

pub(super) fn how_it_goes(install: &InstallId, reporter: &Reporter, spool: &Spool) -> Progress {
    match told(install, reporter, spool) {
        Ok(progress) => progress,
        Err(error) => Progress::Refused { text: error.to_string() },
    }
}

fn told(install: &InstallId, reporter: &Reporter, spool: &Spool) -> Result<Progress, JournalError> {
    if let Some(answer) = spool.answered(install) {
        return Ok(match answer {
            Answer::RunsAlready => Progress::RunsAlready,
            Answer::Refused(text) => Progress::Refused { text },
        });
    }
    // The file first: it is there until the update is over, and the update is in the journal until it is
    // history.
    let waits = spool.waiting().contains(install);
    let under_way = reporter.journal.load()?;
    if let Some(update) = under_way.filter(|update| update.attempt().install == *install) {
        if let Update::Finished { outcome, .. } = &update {
            return Ok(ended(outcome));
        }
        let held = update.holds().first().map(|held| held.hold.text());
        let failed = || update.failure().map(|failure| failure.text.clone());
        let text = held.or_else(failed).unwrap_or_default();
        return Ok(Progress::UnderWay { phase: update.phase().to_string(), text });
    }
    let history = reporter.journal.history()?;
    if let Some(over) = history.iter().rfind(|ended| ended.attempt.install == *install) {
        return Ok(ended(&over.outcome));
    }
    if waits {
        // Whoever asks has just put it there.
        reporter.wanted.stir();
        return Ok(Progress::Waiting);
    }
    Ok(Progress::Unknown)
}

fn ended(outcome: &crate::update::Outcome) -> Progress {
    let failure = outcome.failure().map(|failure| Failed {
        cause: failure.cause.to_string(),
        text: failure.text.clone(),
        help: failure.cause.help().to_owned(),
    });
    Progress::Ended { phase: outcome.phase().to_string(), failure }
}
