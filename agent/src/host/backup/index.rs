//! The list of what was saved. Sealed by its hash, so nothing in it is believed before that was checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use refit_proto::{gathered::Gathered as _, names::Product, package::FileRef};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    super::{
        files::{Attributes, FileError, Files, Time},
        owners::{GROUPS, Owners, USERS},
    },
    Dump, Role, Tested, Vouched,
};
use crate::{
    update::{BackupId, ReleaseId},
    way_back::{decode, encode},
};

const KIND: &str = "backup";
const FORMAT: u32 = 1;
/// With databases. A reader that knows nothing of them would bring half of it back.
const FORMAT_WITH_DUMPS: u32 = 2;

/// What was saved, of all that is covered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Always `backup`.
    #[serde(rename = "_type")]
    kind: String,
    format: u32,
    /// Of which backup.
    pub id: BackupId,
    /// Of which product.
    pub product: Product,
    /// What ran when it was made; `None` if nothing did, or the agent that made it did not say.
    #[serde(default)]
    pub from: Option<ReleaseId>,
    /// Before which release it was made.
    #[serde(default)]
    pub to: Option<ReleaseId>,
    /// When, in seconds since 1970 by the host's clock; 0 if the agent that made it did not say.
    #[serde(default)]
    pub made: i64,
    /// Larger than that of every backup that was here then, whatever the clock says; 0 if the agent that made
    /// it did not count. Ask [`Index::order`].
    #[serde(default, skip_serializing_if = "is_zero")]
    counter: i64,
    /// How it was tried before it was sealed.
    #[serde(default, skip_serializing_if = "Tested::is_restored")]
    pub tested: Tested,
    /// What stood where.
    pub covered: Vec<Covered>,
    /// Databases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dumps: Vec<Dump>,
    /// What is not in here, since somebody else proved to have it. An agent that knows nothing of it brings
    /// back all the same: data stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<Vouched>,
    /// Names of those that own what was saved.
    #[serde(default, skip_serializing_if = "Owners::is_empty")]
    pub owners: Owners,
}

/// What a backup is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Its id: that of the update.
    pub id: BackupId,
    /// Of which product.
    pub product: Product,
    /// What runs.
    pub from: Option<ReleaseId>,
    /// What comes.
    pub to: Option<ReleaseId>,
    /// Now, in seconds since 1970.
    pub made: i64,
}

/// What stood at one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Covered {
    /// Where.
    #[serde(with = "as_text")]
    pub path: PathBuf,
    /// As what.
    pub role: Role,
    /// The thing itself, then what is below it, folders before what is in them. Nothing was there:
    /// none.
    pub entries: Vec<Entry>,
}

/// One file, folder or link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Below the covered path; empty for the thing itself.
    #[serde(with = "as_text")]
    pub path: PathBuf,
    /// What it is.
    #[serde(flatten)]
    pub what: What,
    /// Permission bits, with set-id and sticky; always 777 of a link.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When its content last changed.
    pub modified: Time,
    /// Extended attributes, access control lists and capabilities among them.
    #[serde(with = "attributes", default, skip_serializing_if = "Attributes::is_empty")]
    pub attributes: Attributes,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum What {
    /// A file.
    File {
        /// Its bytes.
        #[serde(flatten)]
        content: FileRef,
    },
    /// Another name of a file that stands before it under the same covered path, with which it has
    /// everything else in common.
    HardLink {
        /// The name that stands before, below the covered path.
        #[serde(with = "as_text")]
        first: PathBuf,
    },
    /// A folder.
    Directory,
    /// A symbolic link.
    Link {
        /// Where it leads.
        #[serde(with = "as_text")]
        target: PathBuf,
    },
}

impl Entry {
    /// What a file holds; `None` for all else.
    pub(super) fn content(&self) -> Option<FileRef> {
        match self.what {
            What::File { content } => Some(content),
            What::Directory | What::Link { .. } | What::HardLink { .. } => None,
        }
    }
}

impl Index {
    pub(super) fn new(about: About, covered: Vec<Covered>, tested: Tested) -> Index {
        let About { id, product, from, to, made } = about;
        let (kind, dumps, outside) = (KIND.into(), Vec::new(), None);
        let owners = Owners::default();
        let (format, counter) = (FORMAT, 0);
        Index {
            kind,
            format,
            id,
            product,
            from,
            to,
            made,
            counter,
            tested,
            covered,
            dumps,
            outside,
            owners,
        }
    }

    pub(super) fn with_dumps(self, dumps: Vec<Dump>) -> Index {
        let format = if dumps.is_empty() { FORMAT } else { FORMAT_WITH_DUMPS };
        Index { format, dumps, ..self }
    }

    pub(super) fn with_owners(self, owners: Owners) -> Index {
        Index { owners, ..self }
    }

    /// The same with the numbers that its users and groups have on this host now.
    ///
    /// # Errors
    /// If the host's lists can't be read.
    pub fn owned_as_now(mut self, files: &dyn Files) -> Result<Index, FileError> {
        let numbers = self.owners.now(files)?;
        for entry in self.covered.iter_mut().flat_map(|covered| &mut covered.entries) {
            entry.uid = numbers.user(entry.uid);
            entry.gid = numbers.group(entry.gid);
        }
        Ok(self)
    }

    /// Whose numbers a way back has to look up when it is gone. Where the host's own list comes back with it,
    /// numbers are what they were.
    pub fn owners_back(&self) -> Owners {
        let comes_back = |list: &str| {
            let covered = self.covered.iter().filter(|covered| covered.role != Role::Data);
            covered.into_iter().any(|covered| Path::new(list).starts_with(&covered.path))
        };
        let mut owners = self.owners.clone();
        if comes_back(USERS) {
            owners.users.clear();
        }
        if comes_back(GROUPS) {
            owners.groups.clear();
        }
        owners
    }

    pub(super) fn with_vouched(self, outside: Option<Vouched>) -> Index {
        Index { outside, ..self }
    }

    /// The same, after the one with the largest of these orders.
    pub(super) fn after(self, last: Option<i64>) -> Index {
        Index { counter: next_order(last, self.made), ..self }
    }

    /// Tells which of two backups is the newer one.
    pub fn order(&self) -> i64 {
        // An agent that did not count had only its clock.
        self.counter.max(self.made)
    }

    /// How it was tried, and who has what is not in it: as lists show it.
    pub fn words(&self) -> String {
        match &self.outside {
            None => self.tested.words(),
            Some(vouched) => format!("{}; {}", self.tested.words(), vouched.words()),
        }
    }

    /// Its bytes, which are sealed.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // No map with other than string keys and no fallible value: this cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Index> {
        let index: Index = serde_json::from_slice(bytes).ok()?;
        let known = [FORMAT, FORMAT_WITH_DUMPS].contains(&index.format);
        (index.kind == KIND && known).then_some(index)
    }

    /// Every content that it needs, each once.
    pub fn content(&self) -> BTreeSet<FileRef> {
        let entries = self.covered.iter().flat_map(|covered| &covered.entries);
        let files = entries.filter_map(Entry::content);
        files.chain(self.dumps.iter().flat_map(Dump::contents)).gathered()
    }

    /// Where the product's link led; `None` if there was none.
    pub fn link_target(&self) -> Option<&PathBuf> {
        let link = self.covered.iter().find(|covered| covered.role == Role::Link)?;
        match &link.entries.first()?.what {
            What::Link { target } => Some(target),
            What::File { .. } | What::Directory | What::HardLink { .. } => None,
        }
    }
}

/// The order of a backup that is made now, in seconds since 1970, after one of the order `last`. The clock may be
/// set back, or stand still at its floor; a counter alone could not be compared with backups that were not counted,
/// nor be found again when all were lost but those at the second place.
pub(super) fn next_order(last: Option<i64>, now: i64) -> i64 {
    last.map_or(now, |last| now.max(last.saturating_add(1)))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(counter: &i64) -> bool {
    *counter == 0
}

/// Names of files need not be text: bytes that are not plain stand as `%XX`.
mod as_text {
    use super::*;

    pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&encode(path.as_os_str().as_bytes()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        let bytes = decode(&String::deserialize(from)?).map_err(serde::de::Error::custom)?;
        Ok(PathBuf::from(OsString::from_vec(bytes)))
    }
}

/// Several of them.
pub(super) mod as_text_list {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        paths: &[PathBuf],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(paths.iter().map(|path| encode(path.as_os_str().as_bytes())))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<PathBuf>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let path = |text: &String| {
            let bytes = decode(text).map_err(serde::de::Error::custom)?;
            Ok(PathBuf::from(OsString::from_vec(bytes)))
        };
        texts.iter().map(path).collect()
    }
}

mod attributes {
    use super::*;

    pub(super) fn serialize<S: Serializer>(from: &Attributes, to: S) -> Result<S::Ok, S::Error> {
        let text = |name: &OsStr| encode(name.as_bytes());
        to.collect_map(from.iter().map(|(name, value)| (text(name), encode(value))))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Attributes, D::Error> {
        let text = BTreeMap::<String, String>::deserialize(from)?;
        let bytes = |text: &str| decode(text).map_err(serde::de::Error::custom);
        text.iter()
            .map(|(name, value)| Ok((OsString::from_vec(bytes(name)?), bytes(value)?)))
            .collect()
    }
}
