//! The records that are few and read by name: one enum, so that the store's trait needs one method for
//! all of them, and each still has its type at the caller's.

use std::fmt;

use refit_proto::{
    names::{PersonName, Product, RingName, Version},
    trust::Role,
};

use crate::fleet::{
    OpenChange, Person, Readmission, Record, RecordError, ReleaseRecord, RingRecord, Rollout,
    RolloutId, RolloutPolicy, TokenRecord,
};

/// What kinds there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the record of that name")]
pub enum DocKind {
    Person,
    Token,
    Release,
    Ring,
    Policy,
    Rollout,
    Change,
    Readmission,
}

/// Names a document. In the order in which documents are listed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each names the record of that name")]
pub enum DocKey {
    Person(PersonName),
    /// By its id.
    Token(String),
    Release(Product, Version),
    Ring(Product, RingName),
    Policy(Product),
    Rollout(RolloutId),
    /// By the role of its first file.
    Change(Role),
    /// There is one at a time.
    Readmission,
}

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the record of that name")]
pub enum Doc {
    Person(Person),
    Token(TokenRecord),
    Release(ReleaseRecord),
    Ring(RingRecord),
    Policy(RolloutPolicy),
    Rollout(Rollout),
    Change(OpenChange),
    Readmission(Readmission),
}

impl DocKey {
    /// Of which kind it is.
    pub fn kind(&self) -> DocKind {
        match self {
            DocKey::Person(_) => DocKind::Person,
            DocKey::Token(_) => DocKind::Token,
            DocKey::Release(..) => DocKind::Release,
            DocKey::Ring(..) => DocKind::Ring,
            DocKey::Policy(_) => DocKind::Policy,
            DocKey::Rollout(_) => DocKind::Rollout,
            DocKey::Change(_) => DocKind::Change,
            DocKey::Readmission => DocKind::Readmission,
        }
    }
}

impl fmt::Display for DocKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DocKey::Person(name) => write!(f, "person {name}"),
            DocKey::Token(id) => write!(f, "token {}", id.escape_debug()),
            DocKey::Release(product, version) => write!(f, "release {product} {version}"),
            DocKey::Ring(product, ring) => write!(f, "ring {product} {ring}"),
            DocKey::Policy(product) => write!(f, "rollout policy of {product}"),
            DocKey::Rollout(id) => write!(f, "rollout {id}"),
            DocKey::Change(role) => write!(f, "change of {role}"),
            DocKey::Readmission => f.write_str("readmission"),
        }
    }
}

impl Doc {
    /// Its name.
    pub fn key(&self) -> DocKey {
        match self {
            Doc::Person(person) => DocKey::Person(person.name.clone()),
            Doc::Token(token) => DocKey::Token(token.id.clone()),
            Doc::Release(release) => {
                DocKey::Release(release.product.clone(), release.version.clone())
            }
            Doc::Ring(ring) => DocKey::Ring(ring.product.clone(), ring.ring.clone()),
            Doc::Policy(policy) => DocKey::Policy(policy.product.clone()),
            Doc::Rollout(rollout) => DocKey::Rollout(rollout.id.clone()),
            Doc::Change(change) => DocKey::Change(change.role.clone()),
            Doc::Readmission(_) => DocKey::Readmission,
        }
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, RecordError> {
        match self {
            Doc::Person(person) => person.encode(),
            Doc::Token(token) => token.encode(),
            Doc::Release(release) => release.encode(),
            Doc::Ring(ring) => ring.encode(),
            Doc::Policy(policy) => policy.encode(),
            Doc::Rollout(rollout) => rollout.encode(),
            Doc::Change(change) => change.encode(),
            Doc::Readmission(readmission) => readmission.encode(),
        }
    }

    pub(super) fn decode(kind: DocKind, bytes: &[u8]) -> Result<Doc, RecordError> {
        Ok(match kind {
            DocKind::Person => Doc::Person(Record::decode(bytes)?),
            DocKind::Token => Doc::Token(Record::decode(bytes)?),
            DocKind::Release => Doc::Release(Record::decode(bytes)?),
            DocKind::Ring => Doc::Ring(Record::decode(bytes)?),
            DocKind::Policy => Doc::Policy(Record::decode(bytes)?),
            DocKind::Rollout => Doc::Rollout(Record::decode(bytes)?),
            DocKind::Change => Doc::Change(Record::decode(bytes)?),
            DocKind::Readmission => Doc::Readmission(Record::decode(bytes)?),
        })
    }
}

/// A record that is kept as a document.
pub trait Document: Record + Into<Doc> {
    /// What names it.
    type Key: Into<DocKey>;
    /// Its kind.
    const KIND: DocKind;
    /// The record, if the document is of this kind.
    fn from_doc(doc: Doc) -> Option<Self>;
}

macro_rules! documents {
    ($($record:ident is $kind:ident by $key:ty as $wrap:expr;)*) => {$(
        impl From<$record> for Doc {
            fn from(record: $record) -> Doc {
                Doc::$kind(record)
            }
        }

        impl Document for $record {
            type Key = $key;
            const KIND: DocKind = DocKind::$kind;
            fn from_doc(doc: Doc) -> Option<Self> {
                match doc {
                    Doc::$kind(record) => Some(record),
                    _ => None,
                }
            }
        }

        impl From<$key> for DocKey {
            fn from(key: $key) -> DocKey {
                let wrap: fn($key) -> DocKey = $wrap;
                wrap(key)
            }
        }
    )*};
}

documents! {
    Person is Person by PersonName as DocKey::Person;
    TokenRecord is Token by String as DocKey::Token;
    ReleaseRecord is Release by (Product, Version) as |(product, version)| DocKey::Release(product, version);
    RingRecord is Ring by (Product, RingName) as |(product, ring)| DocKey::Ring(product, ring);
    RolloutPolicy is Policy by Product as DocKey::Policy;
    Rollout is Rollout by RolloutId as DocKey::Rollout;
    OpenChange is Change by Role as DocKey::Change;
    Readmission is Readmission by () as |()| DocKey::Readmission;
}
