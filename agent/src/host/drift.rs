//! What another hand has changed of what is installed: every entry of the signed manifests is compared with what
//! stands there, and each that differs is named by path. Reads as slowly as it is told to, and stops when it is
//! told to; it changes nothing.

use std::path::{Path, PathBuf};

use refit_proto::package::FileRef;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{
    files::{Action, FileError, Files, Piece},
    tree::InstallError,
};

/// Most paths that are named; the rest are counted.
const MOST: usize = 50;

/// How something differs from what was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Its bytes, or where a link leads.
    Changed,
    /// It is not there.
    Missing,
    /// Something of another kind stands there.
    Other,
    /// Its mode.
    Mode,
    /// Its owner or group.
    Owner,
    /// An extended attribute.
    Attribute,
    /// It can't be read.
    Unreadable,
}

impl Kind {
    /// The word in status and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Changed => "changed",
            Kind::Missing => "missing",
            Kind::Other => "other",
            Kind::Mode => "mode",
            Kind::Owner => "owner",
            Kind::Attribute => "attribute",
            Kind::Unreadable => "unreadable",
        }
    }
}

/// One thing that is not as it was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where.
    pub path: PathBuf,
    /// How.
    pub kind: Kind,
    /// In words, for people.
    pub why: String,
}

/// All that differs of a product, the first of it by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// At most 50.
    pub differences: Vec<Difference>,
    /// How many more there are.
    pub more: usize,
    /// What no manifest names, in folders that one does: named, at most 50, and no reason for anything, since services
    /// write beside their programs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra: Vec<PathBuf>,
    /// What was put back since the look before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub repaired: Vec<PathBuf>,
}

impl Drift {
    /// One more.
    pub fn add(&mut self, path: &Path, kind: Kind, why: impl Into<String>) {
        if self.differences.len() < MOST {
            self.differences.push(Difference { path: path.to_owned(), kind, why: why.into() });
        } else {
            self.more += 1;
        }
    }

    /// One more that no manifest names.
    pub fn add_extra(&mut self, path: PathBuf) {
        if self.extra.len() < MOST {
            self.extra.push(path);
        }
    }

    /// Whether there is anything to tell.
    pub fn has_news(&self) -> bool {
        !self.is_empty() || !self.extra.is_empty() || !self.repaired.is_empty()
    }

    /// Whether all is as it was signed.
    pub fn is_empty(&self) -> bool {
        self.differences.is_empty()
    }

    /// In one sentence that names the first few paths; `None` if all is as it was signed.
    pub fn text(&self) -> Option<String> {
        let first = self.differences.first()?;
        let path = first.path.display();
        let mut text = format!("{path} is not what the signed manifest says: {}", first.why);
        let rest = &self.differences[1..];
        let named = rest.iter().take(3);
        for other in named {
            text += &format!("; {} ({})", other.path.display(), other.kind.as_str());
        }
        let more = rest.len().saturating_sub(3) + self.more;
        if more > 0 {
            text += &format!("; and {more} more");
        }
        Some(text)
    }
}

/// Why a look did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// Something else has to be done now.
    #[error("the look was stopped")]
    Stopped,
    /// What should stand here can't be told.
    #[error(transparent)]
    Install(#[from] InstallError),
}

/// The look was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

impl From<Stopped> for LookError {
    fn from(_: Stopped) -> LookError {
        LookError::Stopped
    }
}

/// Reads for a look.
pub struct Reader<'a> {
    /// The disk.
    pub files: &'a dyn Files,
    /// Told of each piece that was read; waits as long as is gentle.
    pub pace: &'a mut dyn FnMut(usize) -> Result<(), Stopped>,
}

impl Reader<'_> {
    /// Whether a file holds these bytes. One that can't be read is another.
    ///
    /// # Errors
    /// If the look is stopped.
    pub fn holds(
        &mut self,
        path: &Path,
        content: &FileRef,
    ) -> Result<Result<(), FileError>, Stopped> {
        let different = || FileError {
            action: Action::Read,
            path: path.to_owned(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, DIFFERENT),
        };
        let mut file = match self.files.open(path) {
            Ok(file) => file,
            Err(error) => return Ok(Err(error)),
        };
        let (mut hash, mut length) = (Sha256::new(), 0_u64);
        let mut buffer = vec![0; 128 * 1024];
        loop {
            match file.piece(&mut buffer) {
                Ok(Piece::End) => break,
                Ok(Piece::Data(read)) => {
                    hash.update(&buffer[..read]);
                    length += read as u64;
                    (self.pace)(read)?;
                }
                Ok(Piece::Hole(zeros)) => {
                    let zeros = zeros.min(content.length.saturating_sub(length).saturating_add(1));
                    length += zeros;
                    let mut left = zeros;
                    buffer.fill(0);
                    while left > 0 {
                        let next = usize::try_from(left).unwrap_or(buffer.len()).min(buffer.len());
                        hash.update(&buffer[..next]);
                        left -= next as u64;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Err(FileError::at(Action::Read, path)(error))),
            }
            if length > content.length {
                return Ok(Err(different()));
            }
        }
        let same = length == content.length && hash.finalize()[..] == content.sha256.as_bytes()[..];
        Ok(if same { Ok(()) } else { Err(different()) })
    }

    /// Notes whether a file holds these bytes.
    ///
    /// # Errors
    /// If the look is stopped.
    pub fn compare(
        &mut self,
        path: &Path,
        content: &FileRef,
        drift: &mut Drift,
    ) -> Result<(), Stopped> {
        match self.holds(path, content)? {
            Ok(()) => {}
            Err(error) if error.source.kind() == std::io::ErrorKind::InvalidData => {
                drift.add(path, Kind::Changed, DIFFERENT);
            }
            Err(error) => drift.add(path, Kind::Unreadable, error.source.to_string()),
        }
        Ok(())
    }
}

const DIFFERENT: &str = "its bytes are others";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_names_the_first_and_counts_the_rest() {
        let mut drift = Drift::default();
        assert_eq!(drift.text(), None);
        for number in 0..60 {
            drift.add(Path::new(&format!("/opt/{number}")), Kind::Missing, "it is not there");
        }
        assert_eq!((drift.differences.len(), drift.more), (50, 10));
        let text = drift.text().unwrap();
        assert!(text.starts_with("/opt/0 is not what the signed manifest says: it is not there"));
        assert!(text.contains("/opt/3 (missing)") && text.ends_with("; and 56 more"), "{text}");
    }
}
