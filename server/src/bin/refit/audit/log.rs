//! The audit log as a file: what the server handed out, byte for byte, in JSON. Nothing here is believed;
//! `verify` says what holds.

use std::path::Path;

use anyhow::{Context as _, ensure};
use refit_durable::file;
use refit_proto::{names::Digest, wire};
use serde::{Deserialize, Serialize};

/// Entries, oldest first, and the signed end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    pub(super) entries: Vec<Entry>,
    pub(super) checkpoint: Option<Checkpoint>,
}

/// One entry: its exact bytes, which are text, and their hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) sequence: u64,
    pub(super) body: String,
    pub(super) hash: Digest,
}

/// The envelope of the signed end; bytes in hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Checkpoint {
    pub(super) payload_type: String,
    pub(super) payload: String,
    pub(super) signatures: Vec<Signature>,
}

/// One signature; bytes in hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Signature {
    pub(super) key_id: String,
    pub(super) signature: String,
}

/// A million entries of 500 bytes. Larger is not read at once.
const LONGEST: u64 = 512 << 20;

impl Log {
    /// Reads a file that [`Log`] was written to.
    pub(super) fn read(path: &Path) -> anyhow::Result<Log> {
        let bytes = file::read(path, LONGEST)?;
        serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "{} is not an audit log\nhelp: `refit audit list --output json` writes one",
                path.display()
            )
        })
    }

    /// Adds a page as the server sent it.
    pub(super) fn add(&mut self, page: wire::ListAuditReply) -> anyhow::Result<()> {
        for entry in page.entries {
            let wanted = self.entries.len() as u64 + 1;
            ensure!(
                entry.sequence == wanted,
                "the server sent audit entry {} where {wanted} was due",
                entry.sequence
            );
            let sequence = entry.sequence;
            let body = String::from_utf8(entry.body)
                .with_context(|| format!("audit entry {sequence} is not text"))?;
            self.entries.push(Entry { sequence, body, hash: Digest::from_bytes(&entry.hash)? });
        }
        // The first one: what is written while the pages come makes the log longer than it, never
        // shorter.
        if self.checkpoint.is_none() {
            self.checkpoint = page.checkpoint.map(Checkpoint::of);
        }
        Ok(())
    }
}

impl Checkpoint {
    /// From the wire.
    pub(super) fn of(envelope: wire::Envelope) -> Checkpoint {
        Checkpoint {
            payload_type: envelope.payload_type,
            payload: hex(&envelope.payload),
            signatures: envelope
                .signatures
                .into_iter()
                .map(|one| Signature { key_id: one.key_id, signature: hex(&one.signature) })
                .collect(),
        }
    }

    /// As it was on the wire.
    pub(super) fn envelope(&self) -> anyhow::Result<wire::Envelope> {
        let signatures = self.signatures.iter().map(|one| {
            Ok(wire::Signature { key_id: one.key_id.clone(), signature: unhex(&one.signature)? })
        });
        Ok(wire::Envelope {
            payload_type: self.payload_type.clone(),
            payload: unhex(&self.payload)?,
            signatures: signatures.collect::<anyhow::Result<_>>()?,
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Lower-case digits in pairs, and nothing else: one byte string has one spelling.
fn unhex(text: &str) -> anyhow::Result<Vec<u8>> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    pairs.collect::<Option<_>>().context("the checkpoint is not in lower-case hex")
}
