//! How much of a backup is restored for a test before it is sealed: all of it, or, above a size that the
//! host's owner sets, a sample that is named. Every byte is read back and compared in either case.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use refit_proto::gathered::Gathered as _;

use super::{Covered, Entry, Index, What, index::as_text_list};

/// How a backup was tried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "how")]
pub enum Tested {
    /// All of it was restored once, and compared.
    #[default]
    Restored,
    /// Every byte was read back; these files alone were restored and compared.
    Checked {
        /// Which, by their places on the host.
        #[serde(with = "as_text_list")]
        sample: Vec<PathBuf>,
        /// Of how many.
        files: u64,
    },
}

impl Tested {
    /// In words, as lists show it.
    pub fn words(&self) -> String {
        match self {
            Tested::Restored => "restored for a test".to_owned(),
            Tested::Checked { sample, files } => {
                format!("checked, not restored (but for {} of {files} files)", sample.len())
            }
        }
    }

    pub(super) fn is_restored(&self) -> bool {
        *self == Tested::Restored
    }

    /// How a backup of this is to be tried where at most `most` bytes are restored. The sample is chosen by
    /// the hashes of the files, so that it is no matter of taste, and lies all over what is saved; of each
    /// covered path that holds a file there is one, the smallest if nothing else fits.
    pub(super) fn choose(covered: &[Covered], most: u64) -> Tested {
        let files: Vec<_> = covered.iter().flat_map(files_of).collect();
        let all = files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.2));
        if all <= most {
            return Tested::Restored;
        }
        let mut chosen = BTreeSet::new();
        let mut bytes = 0_u64;
        for covered in covered {
            if let Some((path, _, length)) = files_of(covered).min_by_key(|file| (file.2, file.1)) {
                bytes = bytes.saturating_add(length);
                chosen.insert(path);
            }
        }
        let mut files_by_hash = files.clone();
        files_by_hash.sort_by_key(|file| file.1);
        for (path, _, length) in files_by_hash {
            if chosen.len() >= MOST_NAMED {
                break;
            }
            if bytes.saturating_add(length) <= most && chosen.insert(path) {
                bytes = bytes.saturating_add(length);
            }
        }
        Tested::Checked { sample: chosen.into_iter().collect(), files: files.len() as u64 }
    }
}

/// Most files of a sample: they are all named.
const MOST_NAMED: usize = 1000;

type File = (PathBuf, refit_proto::names::Digest, u64);

fn files_of(covered: &Covered) -> impl Iterator<Item = File> {
    covered.entries.iter().filter_map(|entry| match &entry.what {
        What::File { content } => {
            Some((place(covered, &entry.path), content.sha256, content.length))
        }
        What::Directory | What::Link { .. } | What::HardLink { .. } => None,
    })
}

fn place(covered: &Covered, below: &Path) -> PathBuf {
    super::scan::join(&covered.path, below)
}

impl Index {
    /// What is restored for a test, of one covered path: everything, or every folder and link, and of the
    /// files the sample.
    pub(super) fn to_be_restored(&self, covered: &Covered) -> Vec<Entry> {
        let Tested::Checked { sample, .. } = &self.tested else { return covered.entries.clone() };
        let sample: BTreeSet<&PathBuf> = sample.iter().gathered();
        let is_in = |below: &Path| sample.contains(&place(covered, below));
        let entries = covered.entries.iter().filter(|entry| match &entry.what {
            What::File { .. } => is_in(&entry.path),
            What::HardLink { first } => is_in(first),
            What::Directory | What::Link { .. } => true,
        });
        entries.cloned().collect()
    }
}
