//! The interface between the halves: everything that the root half may ask of the network half, and what
//! comes back. Typed and serialisable; larger things travel beside these words as plain bytes.

use refit_proto::{names::Digest, servers::Mirror, trust::Role};
use serde::{Deserialize, Serialize};

use super::INTERFACE;
use crate::link::{CallError, Trouble};

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ask")]
pub enum Ask {
    /// Call with this access from now on. Beside it: the [`super::Access`].
    Use,
    /// Hand over reports and get orders. Beside it: a `SyncRequest`; comes back: a `SyncReply`.
    Sync,
    /// Give the server back what it has lost: an `OfferMetadataRequest`, an `OfferMetadataReply`.
    Offer,
    /// The leave to begin: a `LeaseRequest`, a `LeaseReply`.
    Lease,
    /// May the host boot: a `RebootRequest`, a `RebootReply`.
    Reboot,
    /// A new certificate: a `RenewRequest`, a `RenewReply`.
    Renew,
    /// The address in use did not answer: use the next one.
    MoveOn,
    /// The signed file of a role, as it is published.
    Metadata {
        /// Of whom.
        whom: Whom,
        /// Which role, as TUF names it.
        role: String,
        /// Which version; the newest where none is named.
        version: Option<u64>,
    },
    /// A small file, plain.
    Content {
        /// Of whom.
        whom: Whom,
        /// Which.
        digest: Digest,
        /// Its length when it is plain.
        length: u64,
    },
    /// A file's frame from this byte on; it comes in chunks.
    Frame {
        /// From where.
        from: Giver,
        /// Which.
        digest: Digest,
        /// From which byte of it on.
        offset: u64,
    },
}

/// Who answers at the server's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whom {
    /// The server, which proves who it is.
    Server,
    /// Whoever it is.
    Stranger,
}

/// Who has content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Giver {
    /// The server.
    Server,
    /// The mirror at this address.
    Mirror(String),
}

impl Giver {
    /// A mirror of the signed list.
    pub fn mirror(mirror: &Mirror) -> Giver {
        Giver::Mirror(mirror.as_str().to_owned())
    }
}

impl Ask {
    /// Asks for a role's file.
    pub fn metadata(whom: Whom, role: &Role, version: Option<u64>) -> Ask {
        Ask::Metadata { whom, role: role.to_string(), version }
    }
}

/// A question as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The version of this interface.
    pub interface: u32,
    /// The version of the root half's program.
    pub version: String,
    /// Which access is to be used.
    pub access: Digest,
    /// The least that the time can be, in seconds since 1970: what signed files vouch for.
    pub not_before: i64,
    /// The question.
    pub ask: Ask,
}

impl Asked {
    /// This question, of this program.
    pub fn new(access: Digest, not_before: i64, ask: Ask) -> Asked {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Asked { interface: INTERFACE, version, access, not_before, ask }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Answer {
    /// It is done, or here it is.
    Done {
        /// The server's address that is in use now.
        address: String,
    },
    /// There is no such thing.
    Absent,
    /// Here it comes, in chunks.
    Begins {
        /// Length of the whole frame, where it is known.
        frame_length: Option<u64>,
    },
    /// The next bytes.
    Chunk,
    /// There are no more.
    End,
    /// It did not succeed.
    Failed(Failed),
    /// This half was started anew, or calls with another access: hand it over, and ask again.
    Unready,
    /// This half knows another version of the interface, and ends.
    OtherInterface {
        /// Which.
        interface: u32,
    },
}

/// A call that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// What it means.
    pub trouble: Trouble,
    /// In words.
    pub text: String,
    /// Whether what answered could not prove that it is the fleet's server.
    #[serde(default)]
    pub impostor: bool,
    /// For how long whoever answered asks not to be asked again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rests_milliseconds: Option<u64>,
}

impl From<&CallError> for Answer {
    fn from(error: &CallError) -> Answer {
        let (trouble, impostor) = (error.trouble, error.is_impostor());
        let rests_milliseconds =
            error.retry_after.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
        Answer::Failed(Failed { trouble, text: error.to_string(), impostor, rests_milliseconds })
    }
}
