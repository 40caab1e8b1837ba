//! Whether a backup still is what was sealed, file by file: for a person, who wants to know all that is wrong.

use jiff::Timestamp;
use refit_proto::names::Digest;
use serde::{Deserialize, Serialize};

use super::{BackupError, Backups, INDEX, INDEX_MAX, Index, damaged, unreadable};
use crate::{
    host::{
        drift::Stopped,
        files::{self, FileError},
    },
    update::BackupId,
};

/// What a reading of everything in a backup found.
#[derive(Debug)]
pub struct Checked {
    /// What it holds; `None` where its list can't be relied on.
    pub index: Option<Index>,
    /// Each file of it that is not what was sealed.
    pub damages: Vec<BackupError>,
}

impl Checked {
    fn unreadable(error: BackupError) -> Checked {
        Checked { index: None, damages: vec![error] }
    }

    /// Whether it can be gone back to.
    pub fn is_whole(&self) -> bool {
        self.index.is_some() && self.damages.is_empty()
    }
}

/// What a check has found that the server asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckAnswer {
    /// Which request it answers.
    pub asked: String,
    /// When it was over.
    pub at: Timestamp,
    /// What is damaged, in words, the first few; none: it is whole.
    pub damages: Vec<String>,
}

/// In a backup's folder.
const ANSWER: &str = "verified.json";
const LONGEST_ANSWER: u64 = 1 << 16;
/// Most damages that an answer names, and the longest text of one.
const MOST_DAMAGES: usize = 5;
const LONGEST_DAMAGE: usize = 300;

impl Checked {
    /// The answer to a request.
    pub fn answer(&self, asked: &str, at: Timestamp) -> CheckAnswer {
        let words = |error: &BackupError| {
            let text = error.to_string();
            let first = text.split("\nhelp:").next().unwrap_or_default();
            first.chars().take(LONGEST_DAMAGE).collect()
        };
        let damages = self.damages.iter().take(MOST_DAMAGES).map(words).collect();
        CheckAnswer { asked: asked.to_owned(), at, damages }
    }
}

impl Backups<'_> {
    /// Reads all of a sealed backup by its own seal and goes on after what is damaged. Changes nothing.
    pub fn check(&self, id: &BackupId) -> Checked {
        self.check_until(id, &mut |_| Ok(()))
            .unwrap_or_else(|Stopped| Checked { index: None, damages: Vec::new() })
    }

    /// The same, told of the bytes of each file before it is read, and stopped between two.
    ///
    /// # Errors
    /// If it was stopped.
    pub fn check_until(
        &self,
        id: &BackupId,
        pace: &mut dyn FnMut(u64) -> Result<(), Stopped>,
    ) -> Result<Checked, Stopped> {
        let place = self.folder(id).join(INDEX);
        let index = self.own_seal(id).and_then(|sealed| {
            let bytes = self.read(&place, INDEX_MAX)?;
            if Digest::of(&bytes) != sealed.seal {
                return Err(damaged(&place, "its hash is not the sealed one"));
            }
            let index = Index::parse(&bytes).filter(|index| index.id == *id);
            index.ok_or_else(|| damaged(&place, "it is no index of this backup"))
        });
        let index = match index {
            Ok(index) => index,
            Err(error) => return Ok(Checked::unreadable(error)),
        };
        let mut damages = Vec::new();
        for content in index.content() {
            pace(content.length)?;
            let path = self.content(id, &content.sha256);
            match files::copy(self.files, &path, None, content.length.saturating_add(1)) {
                Ok(found) if found == (content.sha256, content.length) => {}
                Ok(_) => damages.push(damaged(&path, "its bytes are not those that were saved")),
                Err(error) => damages.push(unreadable(error)),
            }
        }
        Ok(Checked { index: Some(index), damages })
    }

    /// Keeps what a check has found that the server asked for, beside the backup.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn keep_answer(&self, id: &BackupId, answer: &CheckAnswer) -> Result<(), FileError> {
        // No map with other than string keys and no fallible value: this cannot fail.
        let bytes = serde_json::to_vec(answer).unwrap_or_default();
        files::write_file(self.files, &self.folder(id).join(ANSWER), &bytes, 0o600)
    }

    /// What the last check that the server asked for has found; `None` if there was none, or it can't be read.
    pub fn answer(&self, id: &BackupId) -> Option<CheckAnswer> {
        let bytes = self.read(&self.folder(id).join(ANSWER), LONGEST_ANSWER).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}
