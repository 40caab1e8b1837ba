//! The server's audit log as this host has seen it: its newest signed end is kept, and a later one has to go
//! on from there. Decides whether it does; what stands in the log is not a host's to know.

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use prost::Message as _;
use refit_durable::{
    FileError,
    file::{self, Access},
};
use refit_proto::{
    envelope,
    names::Digest,
    trust::PublicKey,
    wire::{self, AuditCheckpoint, SyncReply},
};
use serde::{Deserialize, Serialize};

/// Longest file that is read.
const LONGEST: u64 = 64 * 1024;

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Canonical JSON of the audit key's public half.
    key: String,
    /// Ids of the keys before it: what they sign from now on counts no more.
    former: Vec<String>,
    length: u64,
    hash: Digest,
    /// Hex of the signed envelope, for whoever has to prove it.
    checkpoint: String,
    /// The authority that people had signed when this was seen.
    authority: Digest,
    fault: Option<Fault>,
}

/// How a log is not the one that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Fault {
    /// It ends before what was seen.
    Shortened { held: u64, found: u64 },
    /// It holds something else where this host has seen its end.
    Forked { held: u64 },
    /// A key signed that was replaced.
    StolenKey { key: String },
    /// Nobody signed it, or it can't be read.
    Unsigned,
}

impl Fault {
    fn word(&self) -> &'static str {
        match self {
            Fault::Shortened { .. } => "audit-shortened",
            Fault::Forked { .. } => "audit-forked",
            Fault::StolenKey { .. } => "audit-stolen-key",
            Fault::Unsigned => "audit-unsigned",
        }
    }

    fn in_words(&self) -> String {
        match self {
            Fault::Shortened { held, found } => format!(
                "the server's audit log has {found} entries; this host has seen entry {held} of it"
            ),
            Fault::Forked { held } => {
                format!("the server's audit log has another entry {held} than this host has seen")
            }
            Fault::StolenKey { key } => {
                format!(
                    "the end of the server's audit log is signed by key {key}, which was replaced"
                )
            }
            Fault::Unsigned => {
                "the end of the server's audit log is not signed by its key".to_owned()
            }
        }
    }
}

/// What this host has seen of the log, in a file.
#[derive(Debug)]
pub struct Witness {
    path: PathBuf,
    kept: Mutex<Option<Kept>>,
}

impl Witness {
    /// What is kept in this file. A damaged one is none: the log is seen anew.
    ///
    /// # Errors
    /// If the disk can't be read.
    pub fn load(path: PathBuf) -> Result<Witness, FileError> {
        let bytes = file::read_if_there(&path, LONGEST)?;
        let kept = bytes.and_then(|bytes| {
            let read = serde_json::from_slice(&bytes);
            if let Err(error) = &read {
                tracing::warn!(path = %path.display(), %error, "what was seen of the audit log is damaged");
            }
            read.ok()
        });
        Ok(Witness { path, kept: Mutex::new(kept) })
    }

    /// The newest end that was seen.
    pub fn held(&self) -> Option<wire::AuditHead> {
        let kept = self.kept();
        let kept = kept.as_ref()?;
        Some(wire::AuditHead { length: kept.length, hash: kept.hash.as_bytes().to_vec() })
    }

    /// Why the server's log is not the one that was seen, if it is not.
    pub fn failure(&self) -> Option<wire::Failure> {
        let kept = self.kept();
        let fault = kept.as_ref()?.fault.as_ref()?;
        Some(wire::Failure {
            cause: fault.word().to_owned(),
            text: fault.in_words(),
            help: format!(
                "run `refit audit verify`; if entries were lost with a restored server, that is this. {} \
                 proves what was seen; removing it begins anew",
                self.path.display()
            ),
            ..Default::default()
        })
    }

    /// Looks at what the server shows. `authority` is the one that people have signed.
    pub fn look(&self, reply: &SyncReply, authority: Digest) {
        let Some(checkpoint) = &reply.audit_checkpoint else { return };
        let mut kept = self.kept();
        let after = match judge(kept.as_ref(), checkpoint, &reply.audit_key, authority) {
            Ok(newest) => newest,
            Err(fault) => {
                let Some(before) = kept.clone() else { return };
                if before.fault.as_ref() != Some(&fault) {
                    tracing::warn!(cause = fault.word(), "{}", fault.in_words());
                }
                Kept { fault: Some(fault), ..before }
            }
        };
        if kept.as_ref() == Some(&after) {
            return;
        }
        let bytes = serde_json::to_vec(&after).unwrap_or_default();
        match file::write(&self.path, &bytes, Access::Private) {
            Ok(()) => *kept = Some(after),
            Err(error) => tracing::warn!(%error, "what was seen of the audit log can't be kept"),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be kept now.
fn judge(
    kept: Option<&Kept>,
    envelope: &wire::Envelope,
    key: &str,
    authority: Digest,
) -> Result<Kept, Fault> {
    let public = PublicKey::from_json(key.as_bytes()).map_err(|_| Fault::Unsigned)?;
    let seen: AuditCheckpoint = envelope::open(envelope, &public).map_err(|_| Fault::Unsigned)?;
    let hash = Digest::from_bytes(&seen.hash).map_err(|_| Fault::Unsigned)?;
    let id = public.id().to_string();
    let mut newest = Kept {
        key: key.to_owned(),
        former: Vec::new(),
        length: seen.length,
        hash,
        checkpoint: envelope.encode_to_vec().iter().map(|byte| format!("{byte:02x}")).collect(),
        authority,
        fault: None,
    };
    let Some(kept) = kept else { return Ok(newest) };
    if kept.former.contains(&id) {
        return Err(Fault::StolenKey { key: id });
    }
    newest.former.clone_from(&kept.former);
    if kept.key != key {
        let before = PublicKey::from_json(kept.key.as_bytes()).map_err(|_| Fault::Unsigned)?;
        newest.former.push(before.id().to_string());
        // People have signed another authority: the server was set up anew, and its log begins anew.
        if kept.authority != authority {
            return Ok(newest);
        }
    }
    if seen.length < kept.length {
        return Err(Fault::Shortened { held: kept.length, found: seen.length });
    }
    let same = match seen.length == kept.length {
        true => hash == kept.hash,
        false => seen.held_length == kept.length && seen.held_hash == kept.hash.as_bytes(),
    };
    if !same {
        return Err(Fault::Forked { held: kept.length });
    }
    if seen.length == kept.length && kept.key == key {
        // Signed once more: nothing new, and no reason to write.
        return Ok(Kept { fault: None, authority, ..kept.clone() });
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use refit_proto::trust::{LocalKey, Signer as _};

    use super::*;

    const AUTHORITY: &[u8] = b"the authority";

    fn reply(key: &LocalKey, length: u64, log: &str, held: Option<(u64, &str)>) -> SyncReply {
        let hash = |length: u64, log: &str| Digest::of(format!("{log} {length}").as_bytes());
        let (held_length, held_hash) = match held {
            Some((length, log)) => (length, hash(length, log).as_bytes().to_vec()),
            None => (0, Vec::new()),
        };
        let hash = hash(length, log).as_bytes().to_vec();
        let at = "2026-11-24T00:00:00Z".to_owned();
        let end = AuditCheckpoint { length, hash, at, held_length, held_hash };
        SyncReply {
            audit_checkpoint: Some(envelope::seal(&end, key).unwrap()),
            audit_key: String::from_utf8(key.public().to_json()).unwrap(),
            ..SyncReply::default()
        }
    }

    struct Host {
        _folder: tempfile::TempDir,
        witness: Witness,
    }

    impl Host {
        /// Has seen ten entries of "a".
        fn new() -> Host {
            let folder = tempfile::tempdir().unwrap();
            let witness = Witness::load(folder.path().join("audit.json")).unwrap();
            let host = Host { _folder: folder, witness };
            assert_eq!(host.sees(&reply(&key(1), 10, "a", None)), None);
            host
        }

        fn sees(&self, reply: &SyncReply) -> Option<String> {
            self.sees_under(reply, AUTHORITY)
        }

        fn sees_under(&self, reply: &SyncReply, authority: &[u8]) -> Option<String> {
            self.witness.look(reply, Digest::of(authority));
            // What counts is what a restart finds.
            let again = Witness::load(self.witness.path.clone()).unwrap();
            assert_eq!(again.failure(), self.witness.failure());
            again.failure().map(|failure| failure.cause)
        }

        fn length(&self) -> u64 {
            self.witness.held().unwrap().length
        }
    }

    fn key(seed: u8) -> LocalKey {
        LocalKey::from_seed(&[seed; 32])
    }

    #[test]
    fn a_log_that_goes_on_is_kept_and_one_that_went_back_or_forked_is_named() {
        let host = Host::new();
        assert_eq!(host.sees(&reply(&key(1), 12, "a", Some((10, "a")))), None);
        assert_eq!(host.length(), 12);
        for (reply, word) in [
            (reply(&key(1), 11, "a", Some((12, "a"))), "audit-shortened"),
            (reply(&key(1), 12, "b", Some((12, "b"))), "audit-forked"),
            (reply(&key(1), 20, "b", Some((12, "b"))), "audit-forked"),
            (reply(&key(1), 20, "b", None), "audit-forked"),
            // It speaks of another length than was asked for.
            (reply(&key(1), 20, "b", Some((3, "a"))), "audit-forked"),
        ] {
            assert_eq!(host.sees(&reply).as_deref(), Some(word));
            assert_eq!(host.length(), 12, "what was seen is kept");
        }
        assert_eq!(host.sees(&reply(&key(1), 13, "a", Some((12, "a")))), None);
    }

    #[test]
    fn a_key_that_was_replaced_signs_nothing_any_more() {
        let host = Host::new();
        assert_eq!(host.sees(&reply(&key(2), 11, "a", Some((10, "a")))), None);
        let old = reply(&key(1), 12, "a", Some((11, "a")));
        assert_eq!(host.sees(&old).as_deref(), Some("audit-stolen-key"));
        // Another key is no way to another log.
        let forked = reply(&key(3), 30, "b", Some((11, "b")));
        assert_eq!(host.sees(&forked).as_deref(), Some("audit-forked"));
        let mut unsigned = reply(&key(2), 12, "a", Some((11, "a")));
        unsigned.audit_key = String::from_utf8(key(4).public().to_json()).unwrap();
        assert_eq!(host.sees(&unsigned).as_deref(), Some("audit-unsigned"));
    }

    #[test]
    fn a_server_that_was_set_up_anew_begins_a_new_log_where_people_signed_its_authority() {
        let host = Host::new();
        let anew = reply(&key(2), 2, "new", Some((10, "new")));
        assert_eq!(host.sees(&anew).as_deref(), Some("audit-shortened"));
        assert_eq!(host.sees_under(&anew, b"another authority"), None);
        assert_eq!(host.length(), 2);
        // The same key under another authority is no new server.
        let shorter = reply(&key(2), 1, "new", None);
        assert_eq!(host.sees_under(&shorter, b"a third").as_deref(), Some("audit-shortened"));
    }
}
