//! The one request that the helper gets, and its answers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Pack, Record};

/// What the helper is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Where.
    pub place: Place,
    /// Of which host: the name of a folder of its own there.
    pub host: String,
    /// What.
    pub job: Job,
}

/// A second place.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Place {
    /// A folder, on another file system than the host's own backups.
    Folder {
        /// Absolute.
        path: PathBuf,
        /// On whose file system it must not lie; `None`: on any.
        apart_from: Option<PathBuf>,
    },
    /// A folder on another host, by OpenSSH's own `sftp`.
    Ssh {
        /// Its name or address.
        host: String,
        /// Who logs in there.
        user: String,
        /// The port.
        port: u16,
        /// The folder there.
        path: String,
        /// The file of the private key.
        key: PathBuf,
        /// The file that says by which key the other host is known. Another is refused.
        known_hosts: PathBuf,
    },
    /// A bucket of an S3-compatible store.
    S3 {
        /// Its name.
        bucket: String,
        /// Before every name in it; may be empty.
        prefix: String,
        /// Where the store is; `None`: Amazon's.
        endpoint: Option<String>,
        /// Which region.
        region: String,
        /// A file with `AWS_ACCESS_KEY_ID=…` and `AWS_SECRET_ACCESS_KEY=…`; `None`: they are in the helper's
        /// environment, or the machine has a role of its own.
        credentials: Option<PathBuf>,
        /// Certificates of the authority that vouches for the store; `None`: the system's.
        authority: Option<PathBuf>,
    },
}

/// One thing to do.
#[expect(clippy::large_enum_variant, reason = "there is one of it in a run of the program")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "job")]
pub enum Job {
    /// Brings files there, in packs, and reads each pack back from there. Answers with [`Answer::Stored`]
    /// for every pack that holds one of them, then [`Answer::Done`].
    Save {
        /// The files.
        files: Vec<File>,
        /// Packs that may hold some of them, not read back yet: read back now, and not relied on if they are
        /// not whole.
        unsure: Vec<Pack>,
        /// Packs that were read back already.
        sure: Vec<Pack>,
        /// Whom it is encrypted to, `age1…`; none: nobody.
        encrypt_to: Vec<String>,
        /// What makes a backup of it, once all packs are there. Its own list of packs is filled in.
        record: Option<Record>,
    },
    /// Says which backups are there: [`Answer::List`].
    List,
    /// Which hosts have a folder there: [`Answer::Hosts`].
    Hosts,
    /// Reads backups back: [`Answer::Verified`] for each.
    Verify {
        /// Which; none: all.
        ids: Vec<String>,
    },
    /// Fetches a backup into a folder, as it lay in the host's own: [`Answer::Fetched`].
    Fetch {
        /// Which.
        id: String,
        /// The folder, which is there and empty.
        to: PathBuf,
        /// The file of the private key, where it is encrypted.
        identity: Option<PathBuf>,
    },
    /// Removes backups, then the packs that no backup refers to: [`Answer::Done`].
    Prune {
        /// Which backups.
        remove: Vec<String>,
        /// Packs that stay though no backup that is there refers to them yet.
        keep: Vec<String>,
    },
}

/// A file to bring there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its hash.
    pub sha256: String,
    /// Its bytes.
    pub length: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// What the helper says, a line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Answer {
    /// A pack is there and was read back from there.
    Stored {
        /// Which.
        pack: Pack,
    },
    /// All of it is done.
    Done,
    /// The backups that are there.
    List {
        /// Each.
        backups: Vec<Listed>,
    },
    /// The hosts that have a folder there.
    Hosts {
        /// Their names.
        hosts: Vec<String>,
    },
    /// What came of reading one backup back.
    Verified {
        /// It.
        verified: Verified,
    },
    /// A backup was fetched.
    Fetched {
        /// What it is.
        record: Record,
    },
    /// It is not done.
    Failed {
        /// Whose fault that is.
        why: Why,
        /// What happened: one sentence that names the thing.
        text: String,
    },
}

/// A backup that is there, by its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Listed {
    /// Its record is whole; its packs were not looked at.
    Recorded {
        /// It.
        record: Record,
    },
    /// Its record can't be read.
    Damaged {
        /// Which backup.
        id: String,
        /// Why.
        text: String,
    },
}

/// What came of reading one backup back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Which.
    pub id: String,
    /// Bytes that were read there.
    pub bytes: u64,
    /// Each file there that is not what was stored, with what is wrong; none: it is whole.
    pub damages: Vec<String>,
}

/// Whose fault it is that something is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The place can't be reached now, or is full: it may be otherwise in a while.
    Away,
    /// The place refuses, or is not what it has to be: somebody has to change something.
    Refused,
    /// What is there is not what was stored there, or is not there.
    Damaged,
    /// Something on this host: a file that can't be read, a setting that can't be used.
    Host,
}

/// Whether a host or backup may be named so there: a letter or digit, then these and `.`, `_`, `-`.
pub fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(plain)
}

/// Whether a text is a hash as the names of packs are.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
}
