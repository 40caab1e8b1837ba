//! How far a module has come, on the disk. Two words, so that the saved command that goes back can read and
//! write them too: the state, and whether it was only entered or also left.

use std::{fmt, path::Path};

use super::super::files::{self, FileError, Files};

const STATE: &str = "state";
const REBOOT: &str = "reboot";
const LONGEST: u64 = 256;

/// What a module is called for, by the protocol's own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the protocol's own word")]
pub enum State {
    ProvidePayloadFileSizes,
    Download,
    DownloadWithFileSizes,
    ArtifactInstall,
    NeedsArtifactReboot,
    ArtifactReboot,
    ArtifactVerifyReboot,
    ArtifactCommit,
    SupportsRollback,
    ArtifactRollback,
    ArtifactRollbackReboot,
    ArtifactVerifyRollbackReboot,
    ArtifactFailure,
    Cleanup,
}

impl State {
    const ALL: [State; 14] = [
        State::ProvidePayloadFileSizes,
        State::Download,
        State::DownloadWithFileSizes,
        State::ArtifactInstall,
        State::NeedsArtifactReboot,
        State::ArtifactReboot,
        State::ArtifactVerifyReboot,
        State::ArtifactCommit,
        State::SupportsRollback,
        State::ArtifactRollback,
        State::ArtifactRollbackReboot,
        State::ArtifactVerifyRollbackReboot,
        State::ArtifactFailure,
        State::Cleanup,
    ];

    /// The protocol's word.
    pub fn as_str(self) -> &'static str {
        match self {
            State::ProvidePayloadFileSizes => "ProvidePayloadFileSizes",
            State::Download => "Download",
            State::DownloadWithFileSizes => "DownloadWithFileSizes",
            State::ArtifactInstall => "ArtifactInstall",
            State::NeedsArtifactReboot => "NeedsArtifactReboot",
            State::ArtifactReboot => "ArtifactReboot",
            State::ArtifactVerifyReboot => "ArtifactVerifyReboot",
            State::ArtifactCommit => "ArtifactCommit",
            State::SupportsRollback => "SupportsRollback",
            State::ArtifactRollback => "ArtifactRollback",
            State::ArtifactRollbackReboot => "ArtifactRollbackReboot",
            State::ArtifactVerifyRollbackReboot => "ArtifactVerifyRollbackReboot",
            State::ArtifactFailure => "ArtifactFailure",
            State::Cleanup => "Cleanup",
        }
    }

    /// Whether the host may have been changed once this was entered.
    pub(super) fn changes(self) -> bool {
        match self {
            State::ProvidePayloadFileSizes
            | State::Download
            | State::DownloadWithFileSizes
            | State::SupportsRollback
            | State::Cleanup => false,
            State::ArtifactInstall
            | State::NeedsArtifactReboot
            | State::ArtifactReboot
            | State::ArtifactVerifyReboot
            | State::ArtifactCommit
            | State::ArtifactRollback
            | State::ArtifactRollbackReboot
            | State::ArtifactVerifyRollbackReboot
            | State::ArtifactFailure => true,
        }
    }

    /// Whether it lies on the way of a good update.
    pub(super) fn is_forward(self) -> bool {
        match self {
            State::ProvidePayloadFileSizes
            | State::Download
            | State::DownloadWithFileSizes
            | State::ArtifactInstall
            | State::NeedsArtifactReboot
            | State::ArtifactReboot
            | State::ArtifactVerifyReboot
            | State::ArtifactCommit => true,
            State::SupportsRollback
            | State::ArtifactRollback
            | State::ArtifactRollbackReboot
            | State::ArtifactVerifyRollbackReboot
            | State::ArtifactFailure
            | State::Cleanup => false,
        }
    }

    fn parse(word: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a module answered to `NeedsArtifactReboot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeedsReboot {
    /// No boot, or it was not asked yet.
    No,
    /// It sees to it itself.
    Yes,
    /// The host has to boot.
    Automatic,
}

/// How far a module has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The state that was entered last.
    pub state: State,
    /// Whether it was left.
    pub done: bool,
    /// Which boot it asked for.
    pub reboot: NeedsReboot,
}

impl Record {
    /// Reads it; `None` where no state was entered.
    ///
    /// # Errors
    /// If it can't be read, or is none.
    pub(super) fn read(files: &dyn Files, work: &Path) -> Result<Option<Record>, FileError> {
        let Some(text) = read(files, &work.join(STATE))? else { return Ok(None) };
        let (word, phase) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let state = State::parse(word).ok_or_else(|| {
            let source = std::io::Error::other(format!("{word:?} is no state"));
            FileError::at(files::Action::Read, &work.join(STATE))(source)
        })?;
        let reboot = match read(files, &work.join(REBOOT))?.as_deref().map(str::trim) {
            Some("Yes") => NeedsReboot::Yes,
            Some("Automatic") => NeedsReboot::Automatic,
            Some(_) | None => NeedsReboot::No,
        };
        Ok(Some(Record { state, done: phase == "done", reboot }))
    }
}

fn read(files: &dyn Files, path: &Path) -> Result<Option<String>, FileError> {
    if !files::exists(files, path)? {
        return Ok(None);
    }
    let bytes = files::read_file(files, path, LONGEST)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

pub(super) fn write(
    files: &dyn Files,
    work: &Path,
    state: State,
    done: bool,
) -> Result<(), FileError> {
    let phase = if done { "done" } else { "entered" };
    let text = format!("{state} {phase}\n");
    files::write_file(files, &work.join(STATE), text.as_bytes(), 0o600)
}

pub(super) fn write_reboot(
    files: &dyn Files,
    work: &Path,
    needs: NeedsReboot,
) -> Result<(), FileError> {
    let word = match needs {
        NeedsReboot::No => "No\n",
        NeedsReboot::Yes => "Yes\n",
        NeedsReboot::Automatic => "Automatic\n",
    };
    files::write_file(files, &work.join(REBOOT), word.as_bytes(), 0o600)
}
