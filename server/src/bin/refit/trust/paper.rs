//! The small files that people hand to each other: a change, and the signatures that come back. They are
//! public; whoever alters one gains nothing.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use refit_durable::file::{self, Access};
use refit_proto::trust::{
    KeyId,
    change::{self, ChangeFile, SignatureLine},
};

/// What a file that was handed over holds.
pub(super) enum Paper {
    Change(ChangeFile),
    Signatures(Vec<SignatureLine>),
}

/// Reads a file of either kind.
pub(super) fn read(path: &Path) -> anyhow::Result<Paper> {
    let bytes = file::read(path, change::MAX_LENGTH as u64)?;
    let named = || path.display().to_string();
    match std::str::from_utf8(&bytes).map(SignatureLine::read_all) {
        Ok(Ok(lines)) => Ok(Paper::Signatures(lines)),
        _ => ChangeFile::from_bytes(&bytes).map(Paper::Change).with_context(named),
    }
}

/// Reads a change.
pub(super) fn change(path: &Path) -> anyhow::Result<ChangeFile> {
    let bytes = file::read(path, change::MAX_LENGTH as u64)?;
    ChangeFile::from_bytes(&bytes).with_context(|| path.display().to_string())
}

/// Writes a change where it was asked for, whole or not at all.
pub(super) fn write(path: &Path, change: &ChangeFile) -> anyhow::Result<()> {
    Ok(file::write(path, &change.to_bytes(), Access::Shared)?)
}

/// What a change is called on disk where nobody says: `root-3.change`.
pub(super) fn name(change: &ChangeFile, version: u64) -> PathBuf {
    let role = change.role().map(ToString::to_string).unwrap_or_default();
    PathBuf::from(format!("{role}-{version}.change"))
}

/// Writes signatures beside the change, under the key's short id; the same ones again are no harm.
pub(super) fn write_signatures(
    beside: &Path,
    key: KeyId,
    lines: &[SignatureLine],
) -> anyhow::Result<PathBuf> {
    let path = beside.with_extension(format!("{}.sig", key.short()));
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    file::write(&path, text.as_bytes(), Access::Shared)?;
    Ok(path)
}
