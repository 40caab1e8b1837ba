//! Snapshot and timestamp: which version of which file is the newest, and what its bytes are.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Content, Hashes, Header, Object};
use crate::trust::{error::TrustError, role::Role};

/// What one file says of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// At least 1.
    pub version: u64,
    /// Length of the file, where given.
    pub length: Option<u64>,
    /// Hashes of the file, where given.
    pub hashes: Option<Hashes>,
}

impl Pin {
    fn read(object: Object<'_>) -> Result<Pin, TrustError> {
        Ok(Pin {
            version: object.positive("version")?,
            length: object.optional("length").map(|_| object.count("length")).transpose()?,
            hashes: object.optional("hashes").map(|_| Hashes::read(object)).transpose()?,
        })
    }

    /// Whether these are the bytes that are pinned.
    pub fn fits(&self, bytes: &[u8]) -> bool {
        self.length.is_none_or(|length| length == bytes.len() as u64)
            && self.hashes.as_ref().is_none_or(|hashes| hashes.fit(bytes))
    }
}

/// The content of snapshot metadata.
#[derive(Debug, Clone)]
pub struct Snapshot {
    header: Header,
    /// The newest version of targets and of each delegated role.
    pub files: BTreeMap<Role, Pin>,
}

impl Content for Snapshot {
    const TYPE: &'static str = "snapshot";

    fn read(members: &Map<String, Value>, role: &Role, header: Header) -> Result<Self, TrustError> {
        let meta = Object::over(members, role, "`signed`").object("meta")?;
        let mut files = BTreeMap::new();
        for (file, pin) in meta.members() {
            let listed = file
                .strip_suffix(".json")
                .and_then(|name| Role::named(name).ok())
                .ok_or_else(|| meta.flaw(format_args!("{file:?} is not the file of a role")))?;
            files.insert(listed, Pin::read(Object::of(pin, role, file)?)?);
        }
        Ok(Snapshot { header, files })
    }

    fn header(&self) -> &Header {
        &self.header
    }
}

/// The content of timestamp metadata.
#[derive(Debug, Clone)]
pub struct TimestampFile {
    header: Header,
    /// The newest snapshot.
    pub snapshot: Pin,
}

impl Content for TimestampFile {
    const TYPE: &'static str = "timestamp";

    fn read(members: &Map<String, Value>, role: &Role, header: Header) -> Result<Self, TrustError> {
        let meta = Object::over(members, role, "`signed`").object("meta")?;
        if meta.members().len() != 1 {
            return Err(meta.flaw("lists more than snapshot.json"));
        }
        Ok(TimestampFile { header, snapshot: Pin::read(meta.object("snapshot.json")?)? })
    }

    fn header(&self) -> &Header {
        &self.header
    }
}
