//! What is written at a second place about one backup.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{is_name, is_sha256};

const KIND: &str = "refit backup";
const FORMAT: u32 = 1;

/// One file at a second place that holds files of backups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// The hash of its bytes as they lie there, and its name.
    pub sha256: String,
    /// So many bytes.
    pub length: u64,
    /// What it holds. Known to the host alone: the record does not say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<Part>,
}

/// A part of a file, or all of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Part {
    /// The hash of the whole file.
    pub file: String,
    /// Where in it the part begins.
    pub offset: u64,
    /// So many bytes.
    pub length: u64,
}

/// One backup at a second place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    kind: String,
    format: u32,
    /// Of which host.
    pub host: String,
    /// Its id.
    pub id: String,
    /// Of which product.
    pub product: String,
    /// What ran when it was made, by version; `None`: nothing did.
    pub from: Option<String>,
    /// Before which version it was made.
    pub to: Option<String>,
    /// When, in seconds since 1970.
    pub made: i64,
    /// Which of two is the newer one; 0 if the agent that wrote it did not say. Ask [`Record::order`].
    #[serde(default)]
    order: i64,
    /// The hash of its index: what it was sealed with.
    pub seal: String,
    /// Bytes of the files that it brings back.
    pub bytes: u64,
    /// Whom it is encrypted to; none: nobody.
    #[serde(default)]
    pub encrypted_to: Vec<String>,
    /// Every pack that it takes.
    pub packs: Vec<Pack>,
}

/// Why a record can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Its bytes are not those that were written.
    #[error("its bytes are not those that were written")]
    Changed,
    /// It is of a kind or format that this version does not know.
    #[error(
        "it is no record of a backup that this version knows\nhelp: use the version that wrote it"
    )]
    Unknown,
}

/// What a record is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Of which host.
    pub host: String,
    /// Its id.
    pub id: String,
    /// Of which product.
    pub product: String,
    /// What ran.
    pub from: Option<String>,
    /// What comes.
    pub to: Option<String>,
    /// When.
    pub made: i64,
    /// Which of two is the newer one.
    pub order: i64,
    /// The hash of its index.
    pub seal: String,
    /// Bytes of its files.
    pub bytes: u64,
}

impl Record {
    /// A record that names no packs yet.
    pub fn new(about: About) -> Record {
        let About { host, id, product, from, to, made, order, seal, bytes } = about;
        Record {
            kind: KIND.into(),
            format: FORMAT,
            host,
            id,
            product,
            from,
            to,
            made,
            order,
            seal,
            bytes,
            encrypted_to: Vec::new(),
            packs: Vec::new(),
        }
    }

    /// Tells which of two backups is the newer one, whatever was done to the host's clock between them.
    pub fn order(&self) -> i64 {
        self.order.max(self.made)
    }

    /// Its bytes: a line of JSON, and a line with the hash of the first, so that a damaged one is told.
    pub fn to_bytes(&self) -> Vec<u8> {
        // No map with other than string keys and no fallible value: this cannot fail.
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        let sum = hex(&Sha256::digest(&bytes));
        bytes.extend_from_slice(sum.as_bytes());
        bytes.push(b'\n');
        bytes
    }

    /// From its bytes.
    ///
    /// # Errors
    /// If they are others than were written, or by a version that wrote something else.
    pub fn parse(bytes: &[u8]) -> Result<Record, RecordError> {
        let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(RecordError::Changed)?;
        let (line, rest) = bytes.split_at(end + 1);
        if rest != format!("{}\n", hex(&Sha256::digest(line))).as_bytes() {
            return Err(RecordError::Changed);
        }
        let record: Record = serde_json::from_slice(line).map_err(|_| RecordError::Unknown)?;
        let known = record.kind == KIND
            && record.format == FORMAT
            && is_name(&record.id)
            && is_name(&record.host)
            && is_sha256(&record.seal)
            && record.packs.iter().all(|pack| is_sha256(&pack.sha256));
        if known { Ok(record) } else { Err(RecordError::Unknown) }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> Record {
        let pack = Pack { sha256: "ab".repeat(32), length: 7, holds: Vec::new() };
        let about = About {
            host: "h1".into(),
            id: "b1".into(),
            product: "payments".into(),
            from: None,
            to: Some("1.0".into()),
            made: 5,
            order: 6,
            seal: "cd".repeat(32),
            bytes: 9,
        };
        Record { packs: vec![pack], ..Record::new(about) }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        assert_eq!(Record::parse(&record().to_bytes()), Ok(record()));
    }

    #[test]
    fn a_record_of_an_agent_that_did_not_count_is_ordered_by_its_clock() {
        let mut written = serde_json::to_value(record()).unwrap();
        assert_eq!(record().order(), 6);
        written.as_object_mut().unwrap().remove("order");
        let read: Record = serde_json::from_value(written).unwrap();
        assert_eq!(read.order(), 5);
    }

    proptest! {
        #[test]
        fn a_record_with_any_byte_changed_or_cut_is_refused(at in 0..400_usize, to: u8) {
            let mut bytes = record().to_bytes();
            let at = at % bytes.len();
            prop_assert!(Record::parse(&bytes[..at]).is_err());
            if bytes[at] != to {
                bytes[at] = to;
                prop_assert!(Record::parse(&bytes).is_err());
            }
        }
    }
}
