//! Outside proof: where data is too large to be saved by the agent, somebody else's backup may stand for it,
//! if a command of the host's owner names a restore point that is young enough and was proven restorable
//! lately. Believes no more than that: what is named too late, in the future, or not in these words is no
//! proof, and without a proof nothing is changed.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use refit_proto::{names::PackageName, printable::printable};
use serde::{Deserialize, Serialize};

use super::{
    super::{
        files,
        process::{Ended, Program},
    },
    BackupError, Backups, damaged,
    index::as_text_list,
};
use crate::update::BackupId;

/// Whose word counts, and how old it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// Program and arguments. The last line that it writes is the proof, as JSON.
    pub command: Vec<String>,
    /// How old the restore point may be.
    pub max_age: Duration,
    /// How long ago the last test-restore may be.
    pub max_test_age: Duration,
    /// How long the command may take.
    pub timeout: Duration,
}

/// A restore point of somebody else's backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// What a person asks for to have it restored.
    pub restore_point: String,
    /// When it was made.
    pub made: Timestamp,
    /// When one of these was restored for a test last.
    pub tested: Timestamp,
}

/// What a backup does not hold, and by whose word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vouched {
    /// Who has it.
    #[serde(flatten)]
    pub proof: Proof,
    /// Files and folders.
    #[serde(with = "as_text_list")]
    pub paths: Vec<PathBuf>,
    /// Databases, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<PackageName>,
}

impl Vouched {
    /// In words, as lists show it.
    pub fn words(&self) -> String {
        let Proof { restore_point, made, tested } = &self.proof;
        let point = printable(restore_point);
        format!("data is outside: restore point {point} of {made}, last test-restore {tested}")
    }
}

/// Why there is no proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutsideError {
    /// It could not be asked for.
    #[error("backup.outside: {program} did not run: {why}")]
    NotRun {
        /// The command's program.
        program: String,
        /// What the system said.
        why: String,
    },
    /// The command failed.
    #[error("backup.outside: {program} {how}: {output}")]
    Failed {
        /// The command's program.
        program: String,
        /// How it ended.
        how: String,
        /// The end of what it wrote.
        output: String,
    },
    /// What it wrote is no proof.
    #[error(
        "backup.outside: the last line of {program} is no proof: {why}\n\
         help: it must be {{\"restore_point\":\"…\",\"made\":\"2026-01-31T12:00:00Z\",\"tested\":\"…\"}}"
    )]
    Unreadable {
        /// The command's program.
        program: String,
        /// What is wrong with it.
        why: String,
    },
    /// The restore point is older than the owner allows.
    #[error("backup.outside: the restore point {point} is {age} old; at most {most} is allowed")]
    TooOld {
        /// Its name.
        point: String,
        /// How old.
        age: String,
        /// How old it may be.
        most: String,
    },
    /// Nobody has restored one lately.
    #[error(
        "backup.outside: the last test-restore was {age} before now; at most {most} is allowed"
    )]
    TestTooOld {
        /// How long ago.
        age: String,
        /// How long ago it may be.
        most: String,
    },
    /// It names a time that has not come.
    #[error("backup.outside: {what} of {point} is in the future: one of the two clocks is wrong")]
    InTheFuture {
        /// Its name.
        point: String,
        /// Which of its times.
        what: &'static str,
    },
}

/// In a backup's folder until it is sealed: what somebody else has.
const VOUCHED: &str = "outside.json";
/// Longest of these.
const LONGEST: u64 = 1 << 20;

impl Backups<'_> {
    /// Says what is not saved here and who has it, so that the seal covers that; or that all of it is saved.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn keep_vouched(
        &self,
        id: &BackupId,
        vouched: Option<&Vouched>,
    ) -> Result<(), BackupError> {
        let folder = self.folder(id);
        let path = folder.join(VOUCHED);
        let Some(vouched) = vouched else {
            return Ok(files::remove_tree(self.files, &path).map(drop)?);
        };
        files::create_dirs(self.files, &folder, 0o700)?;
        // No map with other than string keys and no fallible value: this cannot fail.
        let bytes = serde_json::to_vec(vouched).unwrap_or_default();
        Ok(files::write_file(self.files, &path, &bytes, 0o600)?)
    }

    /// What a backup that is not sealed does not hold.
    pub(super) fn vouched(&self, id: &BackupId) -> Result<Option<Vouched>, BackupError> {
        let path = self.folder(id).join(VOUCHED);
        if !files::exists(self.files, &path)? {
            return Ok(None);
        }
        let bytes = self.read(&path, LONGEST)?;
        serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(&path, error.to_string()))
    }
}

/// How far two clocks of one organisation may be apart.
const CLOCKS_APART: Duration = Duration::from_secs(300);
/// The longest name of a restore point.
const LONGEST_NAME: usize = 200;

impl Outside {
    /// Asks for a proof, and takes it only if it is good enough now.
    ///
    /// # Errors
    /// Why it is not.
    pub fn ask(&self, now: Timestamp) -> Result<Proof, OutsideError> {
        let (program, arguments) = self
            .command
            .split_first()
            .map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
        let program_name = || program.to_owned();
        let ran = Program {
            program: program.into(),
            arguments: arguments.to_vec(),
            folder: Path::new("/").to_owned(),
            environment: Default::default(),
            mark: "refit-outside-proof".to_owned(),
        }
        .run(self.timeout)
        .map_err(|error| OutsideError::NotRun {
            program: program_name(),
            why: error.to_string(),
        })?;
        let failed = |how: String, output: &str| OutsideError::Failed {
            program: program_name(),
            how,
            output: printable(output),
        };
        match ran {
            Ended::Exited { code: Some(0), output } => self.judge(&output, now),
            Ended::Exited { code: Some(code), output } => {
                Err(failed(format!("ended with {code}"), &output))
            }
            Ended::Exited { code: None, output } => {
                Err(failed("was ended by a signal".to_owned(), &output))
            }
            Ended::TimedOut { output } => {
                Err(failed(format!("took longer than {} s", self.timeout.as_secs()), &output))
            }
        }
    }

    /// What the command wrote, as a proof.
    ///
    /// # Errors
    /// If it is none, or one that is not good enough now.
    pub fn judge(&self, output: &str, now: Timestamp) -> Result<Proof, OutsideError> {
        let program = self.command.first().cloned().unwrap_or_default();
        let unreadable = |why: String| OutsideError::Unreadable { program: program.clone(), why };
        let last = output.lines().rfind(|line| !line.trim().is_empty());
        let last = last.ok_or_else(|| unreadable("it wrote nothing".to_owned()))?;
        let proof: Proof = serde_json::from_slice(last.as_bytes())
            .map_err(|error| unreadable(error.to_string()))?;
        let point = &proof.restore_point;
        if point.trim().is_empty() || point.len() > LONGEST_NAME {
            return Err(unreadable(format!("restore_point must have 1 to {LONGEST_NAME} bytes")));
        }
        if point.chars().any(char::is_control) {
            return Err(unreadable("restore_point holds control characters".to_owned()));
        }
        for (what, at) in [("made", proof.made), ("tested", proof.tested)] {
            if age(at, now).is_none() {
                return Err(OutsideError::InTheFuture { point: point.clone(), what });
            }
        }
        let (made, tested) = (age(proof.made, now), age(proof.tested, now));
        if let Some(age) = made.filter(|age| *age > self.max_age) {
            let (age, most) = (words(age), words(self.max_age));
            return Err(OutsideError::TooOld { point: point.clone(), age, most });
        }
        if let Some(age) = tested.filter(|age| *age > self.max_test_age) {
            let (age, most) = (words(age), words(self.max_test_age));
            return Err(OutsideError::TestTooOld { age, most });
        }
        Ok(proof)
    }
}

/// How long before now; nothing if it is further ahead than clocks may be apart.
fn age(at: Timestamp, now: Timestamp) -> Option<Duration> {
    let seconds = now.as_second().saturating_sub(at.as_second());
    match u64::try_from(seconds) {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => (seconds.unsigned_abs() <= CLOCKS_APART.as_secs()).then_some(Duration::ZERO),
    }
}

fn words(span: Duration) -> String {
    let (days, hours) = (span.as_secs() / 86_400, span.as_secs() % 86_400 / 3600);
    match (days, hours) {
        (0, 0) => format!("{} s", span.as_secs()),
        (0, hours) => format!("{hours} h"),
        (days, 0) => format!("{days} d"),
        (days, hours) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests;
