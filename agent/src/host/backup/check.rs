//! Whether a backup still is what was sealed, file by file: for a person, who wants to know all that is wrong.

use refit_proto::names::Digest;

use super::{BackupError, Backups, INDEX, INDEX_MAX, Index, damaged, unreadable};
use crate::{host::files, update::BackupId};

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

impl Backups<'_> {
    /// Reads all of a sealed backup by its own seal and goes on after what is damaged. Changes nothing.
    pub fn check(&self, id: &BackupId) -> Checked {
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
            Err(error) => return Checked::unreadable(error),
        };
        let mut damages = Vec::new();
        for content in index.content() {
            let path = self.content(id, &content.sha256);
            match files::copy(self.files, &path, None, content.length.saturating_add(1)) {
                Ok(found) if found == (content.sha256, content.length) => {}
                Ok(_) => damages.push(damaged(&path, "its bytes are not those that were saved")),
                Err(error) => damages.push(unreadable(error)),
            }
        }
        Checked { index: Some(index), damages }
    }
}
