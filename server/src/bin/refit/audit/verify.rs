//! Whether an audit log is whole: every entry's hash, the chain from each to the one before, and the
//! signed end. Pure: whoever has the log and the audit key comes to the same answer.

use anyhow::{Context as _, bail, ensure};
use refit_proto::{canonical, envelope, names::Digest, trust::PublicKey, wire::AuditCheckpoint};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::log::{Entry, Log};

/// How long the log was, and its hash, when it was last verified: a later log must go on from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) length: u64,
    pub(super) hash: Digest,
}

/// What was found to hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verified {
    /// What the server signed.
    pub(super) seen: Known,
    /// Entries after that.
    pub(super) beyond: u64,
    /// When it signed.
    pub(super) at: String,
    /// The hash of every entry.
    pub(super) hashes: Vec<Digest>,
}

/// What a host has seen of the log, as it reported under its own signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Witnessed {
    pub(super) host: String,
    pub(super) seen: Known,
}

/// Checks the log against what hosts have seen of it.
///
/// # Errors
/// The hosts that have seen another.
pub(super) fn against_hosts(hashes: &[Digest], hosts: &[Witnessed]) -> anyhow::Result<()> {
    let contradicted = hosts.iter().filter_map(|host| {
        let error = reach(hashes, &host.seen).err()?;
        Some(format!("\n  {}: {error}", host.host))
    });
    let contradicted: String = contradicted.collect();
    ensure!(
        contradicted.is_empty(),
        "hosts have seen another log than this one:{contradicted}\n\
         help: if the server was restored from a backup, ask who did so; else somebody rewrote the log with \
         its audit key: see the runbook, \"Stolen audit key\""
    );
    Ok(())
}

/// How the audit log says that its key was replaced.
const REPLACED: &str = "audit key replace";

/// Refuses an end that a key signed after it was replaced.
fn still_in_use(entries: &[Entry], key: &PublicKey, end: u64) -> anyhow::Result<()> {
    let id = key.id().to_string();
    for entry in entries.iter().take(usize::try_from(end).unwrap_or(usize::MAX)) {
        let line = Line::read(entry)?;
        if line.act != REPLACED {
            continue;
        }
        let Some((old, new)) = line.what.split_once(" by ") else { continue };
        ensure!(
            old != id,
            "audit key {} was replaced by {} in entry {}; what it signs afterwards counts no more\n\
             help: `refit audit believe FILE` takes the new one, as `refit-server audit replace` printed it",
            key.id().short(),
            new.get(..12).unwrap_or(new),
            entry.sequence
        );
    }
    Ok(())
}

/// Checks the log from its first entry to its signed end.
///
/// # Errors
/// The first thing that does not hold.
pub(super) fn verify(
    log: &Log,
    key: &PublicKey,
    known: Option<&Known>,
) -> anyhow::Result<Verified> {
    let checkpoint = log.checkpoint.as_ref().context("the log has no signed end")?.envelope()?;
    let end: AuditCheckpoint = envelope::open(&checkpoint, key)?;
    let hashes = chain(&log.entries)?;
    still_in_use(&log.entries, key, end.length)?;
    let seen = Known { length: end.length, hash: Digest::from_bytes(&end.hash)? };
    reach(&hashes, &seen).context(
        "entries are missing or were exchanged after the server signed the log's end\n\
         help: keep a copy of this log and of the server's data folder, then find out who had access",
    )?;
    if let Some(known) = known {
        reach(&hashes, known).context(
            "the server once signed a log that this one does not continue: it was shortened or forked\n\
             help: if the server was restored from a backup, ask who did so; else treat it as taken over",
        )?;
    }
    let beyond = hashes.len() as u64 - seen.length;
    Ok(Verified { seen, beyond, at: end.at, hashes })
}

/// The hash of every entry, if each is what its hash says and follows the one before.
fn chain(entries: &[Entry]) -> anyhow::Result<Vec<Digest>> {
    let mut hashes = Vec::with_capacity(entries.len());
    for (before, entry) in entries.iter().enumerate() {
        let due = before as u64 + 1;
        ensure!(
            entry.sequence == due,
            "entry {due} is missing; entry {} stands there",
            entry.sequence
        );
        let hash = Digest::of(entry.body.as_bytes());
        ensure!(hash == entry.hash, "entry {due} was changed: its hash is {hash}");
        let line = Line::read(entry)?;
        ensure!(line.sequence == due, "entry {due} calls itself {}", line.sequence);
        ensure!(
            line.previous == hashes.last().copied(),
            "entry {due} does not follow from the one before it"
        );
        hashes.push(hash);
    }
    Ok(hashes)
}

/// Whether the log holds this length with this hash.
fn reach(hashes: &[Digest], known: &Known) -> anyhow::Result<()> {
    let Known { length, hash } = known;
    // The end of a log without entries has no hash to compare.
    let at = length.checked_sub(1).and_then(|at| usize::try_from(at).ok());
    match at.map(|at| hashes.get(at)) {
        Some(Some(found)) if found == hash => Ok(()),
        Some(Some(found)) => bail!("entry {length} has the hash {found}, signed is {hash}"),
        Some(None) => bail!("the log ends with entry {}, signed are {length}", hashes.len()),
        None => bail!("the signed log is empty"),
    }
}

/// An entry's content, for people.
pub(super) struct Line {
    pub(super) sequence: u64,
    pub(super) at: String,
    pub(super) who: String,
    pub(super) act: String,
    pub(super) what: String,
    pub(super) outcome: String,
    previous: Option<Digest>,
}

impl Line {
    /// Reads an entry's body.
    pub(super) fn read(entry: &Entry) -> anyhow::Result<Line> {
        let unreadable = || format!("entry {} cannot be read", entry.sequence);
        let body = canonical::parse(entry.body.as_bytes()).with_context(unreadable)?;
        let text = |name: &str| body.get(name).map(in_words).with_context(unreadable);
        let previous = match body.get("previous").with_context(unreadable)? {
            Value::Null => None,
            Value::String(hash) if hash.is_empty() => None,
            Value::String(hash) => Some(Digest::parse(hash).with_context(unreadable)?),
            _ => bail!(unreadable()),
        };
        Ok(Line {
            sequence: body.get("sequence").and_then(Value::as_u64).with_context(unreadable)?,
            at: text("at")?,
            who: text("who")?,
            act: text("act")?,
            what: text("what")?,
            outcome: text("outcome")?,
            previous,
        })
    }
}

/// `{"person": "alice"}` reads as `person alice`.
fn in_words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(members) => {
            let pairs = members.iter().map(|(name, value)| format!("{name} {}", in_words(value)));
            pairs.collect::<Vec<_>>().join(", ")
        }
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use refit_proto::trust::{LocalKey, Signer as _};

    use super::{super::log::Checkpoint, *};

    fn key() -> LocalKey {
        LocalKey::from_seed(&[7; 32])
    }

    fn log_of(length: u64, signed: u64) -> Log {
        let mut log = Log::default();
        let mut previous = None;
        for sequence in 1..=length {
            let body = serde_json::json!({
                "sequence": sequence, "at": "2026-01-01T00:00:00Z", "who": {"person": "alice"},
                "act": "rollout pause", "what": "payments pilot", "outcome": "done",
                "previous": previous,
            });
            let body = String::from_utf8(canonical::to_canonical(&body)).unwrap();
            let hash = Digest::of(body.as_bytes());
            previous = Some(hash.to_string());
            log.entries.push(Entry { sequence, body, hash });
        }
        let hash = log.entries[signed as usize - 1].hash.as_bytes().to_vec();
        let at = "2026-01-01T00:00:00Z".to_owned();
        let end = AuditCheckpoint { length: signed, hash, at, ..Default::default() };
        log.checkpoint = Some(Checkpoint::of(envelope::seal(&end, &key()).unwrap()));
        log
    }

    fn known(log: &Log, length: u64) -> Known {
        Known { length, hash: log.entries[length as usize - 1].hash }
    }

    /// Entries of which one replaces the key, and the end signed by `signer`.
    fn replaced_log(signer: &LocalKey) -> Log {
        let (old, new) = (key(), LocalKey::from_seed(&[8; 32]));
        let mut log = Log::default();
        let mut previous = None;
        for sequence in 1..=5 {
            let (act, what) = match sequence {
                3 => (REPLACED, format!("{} by {}", old.public().id(), new.public().id())),
                _ => ("rollout pause", "payments pilot".to_owned()),
            };
            let body = serde_json::json!({
                "sequence": sequence, "at": "2026-01-01T00:00:00Z", "who": "server",
                "act": act, "what": what, "outcome": "done", "previous": previous,
            });
            let body = String::from_utf8(canonical::to_canonical(&body)).unwrap();
            let hash = Digest::of(body.as_bytes());
            previous = Some(hash.to_string());
            log.entries.push(Entry { sequence, body, hash });
        }
        sign_end(&mut log, 5, signer);
        log
    }

    fn sign_end(log: &mut Log, length: u64, signer: &LocalKey) {
        let hash = log.entries[length as usize - 1].hash.as_bytes().to_vec();
        let at = "2026-01-01T00:00:00Z".to_owned();
        let end = AuditCheckpoint { length, hash, at, ..Default::default() };
        log.checkpoint = Some(Checkpoint::of(envelope::seal(&end, signer).unwrap()));
    }

    #[test]
    fn history_before_a_replacement_still_verifies_and_what_the_old_key_signs_afterwards_does_not()
    {
        let new = LocalKey::from_seed(&[8; 32]);
        let log = replaced_log(&new);
        verify(&log, new.public(), Some(&known(&log, 2))).unwrap();
        // As it was signed before: by the old key, under the old key.
        let mut before = log.clone();
        sign_end(&mut before, 2, &key());
        verify(&before, key().public(), None).unwrap();
        // The stolen key signs on.
        for length in [3, 5] {
            let mut later = log.clone();
            sign_end(&mut later, length, &key());
            let refused = verify(&later, key().public(), None).unwrap_err().to_string();
            assert!(
                refused.contains("was replaced by") && refused.contains("entry 3"),
                "{refused}"
            );
            assert!(verify(&later, new.public(), None).is_err());
        }
    }

    #[test]
    fn a_log_that_was_rewritten_with_the_stolen_key_is_told_by_the_hosts_that_saw_it() {
        let seen_then = log_of(4, 4);
        let host = |name: &str, seen| Witnessed { host: name.to_owned(), seen };
        let hosts = [host("web-1", known(&seen_then, 4)), host("web-2", known(&seen_then, 2))];
        let now = verify(&log_of(6, 6), key().public(), None).unwrap();
        against_hosts(&now.hashes, &hosts).unwrap();
        let rewritten = verify(&replaced_log(&key()), key().public(), None);
        assert!(rewritten.is_err());
        let rewritten = chain(&replaced_log(&key()).entries).unwrap();
        let told = against_hosts(&rewritten, &hosts).unwrap_err().to_string();
        assert!(told.contains("web-1") && told.contains("Stolen audit key"), "{told}");
        let shortened = against_hosts(&now.hashes[..3], &hosts).unwrap_err().to_string();
        assert!(shortened.contains("web-1") && !shortened.contains("web-2"), "{shortened}");
    }

    #[test]
    fn a_whole_log_is_verified_up_to_its_signed_end() {
        let log = log_of(5, 4);
        let verified = verify(&log, key().public(), Some(&known(&log, 2))).unwrap();
        assert_eq!((verified.seen, verified.beyond), (known(&log, 4), 1));
    }

    #[test]
    fn every_byte_of_the_file_counts() {
        let log = log_of(3, 3);
        let bytes = serde_json::to_vec(&log).unwrap();
        let mut refused = 0;
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let holds = serde_json::from_slice::<Log>(&flipped)
                    .is_ok_and(|log| verify(&log, key().public(), None).is_ok());
                assert!(!holds, "bit {bit} of byte {at} flipped: {:?}", flipped[at] as char);
                refused += 1;
            }
        }
        assert_eq!(refused, bytes.len() * 8);
    }

    #[test]
    fn an_entry_that_was_removed_moved_or_put_in_is_noticed() {
        let whole = log_of(4, 4);
        for at in 0..4 {
            let mut log = whole.clone();
            log.entries.remove(at);
            assert!(verify(&log, key().public(), None).is_err(), "{at} removed");
        }
        let mut swapped = whole.clone();
        swapped.entries.swap(1, 2);
        assert!(verify(&swapped, key().public(), None).is_err());
        let mut doubled = whole.clone();
        doubled.entries.insert(1, whole.entries[0].clone());
        assert!(verify(&doubled, key().public(), None).is_err());
        // Entries with numbers and hashes made to fit still don't follow from one another.
        let mut log = whole;
        log.entries.pop();
        assert!(verify(&log, key().public(), None).is_err());
    }

    #[test]
    fn a_log_that_was_shortened_or_forked_since_it_was_last_seen_is_noticed() {
        let log = log_of(4, 4);
        let longer = log_of(6, 6);
        assert!(verify(&log, key().public(), Some(&known(&longer, 6))).is_err());
        let other = Known { length: 3, hash: Digest::of(b"another third entry") };
        assert!(verify(&log, key().public(), Some(&other)).is_err());
        assert!(verify(&longer, key().public(), Some(&known(&log, 4))).is_ok());
    }

    #[test]
    fn an_end_signed_by_another_key_or_by_nobody_is_refused() {
        let other = LocalKey::from_seed(&[8; 32]);
        assert!(verify(&log_of(2, 2), other.public(), None).is_err());
        let mut unsigned = log_of(2, 2);
        unsigned.checkpoint = None;
        assert!(verify(&unsigned, key().public(), None).is_err());
    }
}
