//! What is written together, and what every store refuses before it looks at anything.

use std::{collections::BTreeSet, fmt};

use refit_proto::{
    names::{HostId, HostName, Product},
    trust::Role,
};

use super::{Doc, DocKey, Epoch, Note};
use crate::{
    audit::AuditLine,
    fleet::{Host, Placement, RolloutId, TallyKey},
};

/// Most bytes of a record or a signed file.
pub const MAX_RECORD: usize = 2 * 1024 * 1024;

/// Most hosts in a note.
pub const MAX_NOTED: usize = 400;

/// Longest id of a token: the only name here that is not parsed before.
const LONGEST_ID: usize = 128;

/// The rollout row that a commit stands on: not written by it, and taken before all else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// Which rollout.
    pub rollout: RolloutId,
    /// The revision that was read.
    pub rev: u64,
}

/// A signed file that follows the one held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileWrite {
    /// Whose.
    pub role: Role,
    /// The version that is held; 0: none.
    pub replaces: u64,
    /// The version that this one says.
    pub version: u64,
    /// The file.
    pub bytes: Vec<u8>,
}

/// What is written together, or not at all. An expected revision of 0 means: not there yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// Refused if the lease of this name has another epoch.
    pub fence: Option<(String, Epoch)>,
    /// Refused if the rollout is not at this revision.
    pub lock: Option<Lock>,
    /// Hosts, each with the revision that was read.
    pub hosts: Vec<(u64, Host)>,
    /// Placements, each with the revision that was read.
    pub placements: Vec<(u64, Placement)>,
    /// Documents, each with the revision that was read.
    pub docs: Vec<(u64, Doc)>,
    /// Signed files.
    pub files: Vec<FileWrite>,
    /// Added to the cells; never read back here.
    pub tally: Vec<(TallyKey, i64)>,
    /// Get the next revisions, in this order.
    pub notes: Vec<Note>,
    /// The next lines of the audit log.
    pub audit: Vec<AuditLine>,
}

impl Commit {
    /// Nothing yet.
    pub fn new() -> Commit {
        Commit::default()
    }

    /// Writes a host.
    pub fn host(&mut self, expected: u64, host: Host) -> &mut Commit {
        self.hosts.push((expected, host));
        self
    }

    /// Writes a placement, and counts the change: `before` is what is stored, if anything is.
    pub fn placement(
        &mut self,
        before: Option<&super::Rev<Placement>>,
        after: Placement,
    ) -> &mut Commit {
        self.tally.extend(crate::fleet::changes(before.map(|before| &before.value), Some(&after)));
        self.placements.push((before.map_or(0, |before| before.rev), after));
        self
    }

    /// Writes a document.
    pub fn doc(&mut self, expected: u64, doc: impl Into<Doc>) -> &mut Commit {
        self.docs.push((expected, doc.into()));
        self
    }

    /// Writes a signed file.
    pub fn file(&mut self, file: FileWrite) -> &mut Commit {
        self.files.push(file);
        self
    }

    /// Tells whoever follows the fleet.
    pub fn note(&mut self, note: Note) -> &mut Commit {
        self.notes.push(note);
        self
    }

    /// What no store takes, found without looking at one.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub(super) fn check(&self) -> Result<(), Invalid> {
        let mut seen = BTreeSet::new();
        for key in self.keys() {
            if !seen.insert(key.clone()) {
                return Err(Invalid::Twice(key));
            }
        }
        for (_, doc) in &self.docs {
            if let Doc::Token(token) = doc
                && (token.id.len() > LONGEST_ID || token.id.contains('\0'))
            {
                return Err(Invalid::Name(Key::Doc(doc.key())));
            }
        }
        for file in &self.files {
            let key = || Key::File(file.role.clone());
            if file.version <= file.replaces {
                let (version, replaces) = (file.version, file.replaces);
                return Err(Invalid::NotNewer { key: key(), version, replaces });
            }
            check_size(key, file.bytes.len())?;
        }
        for note in &self.notes {
            match note {
                Note::Placements(_, hosts) if hosts.len() > MAX_NOTED => {
                    return Err(Invalid::LongNote(hosts.len()));
                }
                Note::Placements(..)
                | Note::Metadata
                | Note::Product(_)
                | Note::Rollout(_)
                | Note::Host(_) => {}
            }
        }
        self.audit.iter().try_for_each(|line| check_size(|| Key::Audit, line.body().len()))
    }

    /// Everything it writes by name.
    fn keys(&self) -> impl Iterator<Item = Key> {
        let hosts = self.hosts.iter().map(|(_, host)| Key::Host(host.id.clone()));
        let placements = self.placements.iter().map(|(_, placement)| Key::of(placement));
        let docs = self.docs.iter().map(|(_, doc)| Key::Doc(doc.key()));
        let files = self.files.iter().map(|file| Key::File(file.role.clone()));
        hosts.chain(placements).chain(docs).chain(files)
    }
}

/// Refuses what is too large to be kept.
pub(super) fn check_size(key: impl FnOnce() -> Key, size: usize) -> Result<(), Invalid> {
    if size > MAX_RECORD { Err(Invalid::TooLarge { key: key(), size }) } else { Ok(()) }
}

/// Names what two commits can meet at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A host.
    Host(HostId),
    /// The name of a host that is not retired: only one can have it.
    HostName(HostName),
    /// One product on one host.
    Placement(Product, HostId),
    /// A document.
    Doc(DocKey),
    /// A role's newest file.
    File(Role),
    /// The end of the audit log.
    Audit,
}

impl Key {
    /// The key of a placement.
    pub fn of(placement: &Placement) -> Key {
        Key::Placement(placement.product.clone(), placement.host_id.clone())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Host(id) => write!(f, "host {id}"),
            Key::HostName(name) => write!(f, "the host name {name}"),
            Key::Placement(product, host) => write!(f, "{product} on host {host}"),
            Key::Doc(key) => key.fmt(f),
            Key::File(role) => write!(f, "the signed file of {role}"),
            Key::Audit => f.write_str("the audit log"),
        }
    }
}

/// What no store takes. A mistake of whoever made the commit, but for sizes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Invalid {
    #[error("{0} is written twice")]
    Twice(Key),
    #[error("{key} has {size} bytes, at most {MAX_RECORD} are kept")]
    TooLarge { key: Key, size: usize },
    #[error("{key} version {version} can't replace version {replaces}")]
    NotNewer { key: Key, version: u64, replaces: u64 },
    #[error("a note names {0} hosts, at most {MAX_NOTED} go into one")]
    LongNote(usize),
    #[error("{0} can't be kept under this name")]
    Name(Key),
    #[error("{0} can't be written as it is")]
    Unwritable(Key),
}
