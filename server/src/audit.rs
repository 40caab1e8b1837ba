//! The audit log as a chain: each line holds the hash of the one before, so that nobody can change,
//! drop or insert one without every later hash telling. The store keeps the order; this makes the
//! lines and checks them. Who may do what is decided elsewhere.

use jiff::Timestamp;
use refit_proto::{
    canonical::to_canonical,
    names::{Digest, NameError},
};

use serde::{Deserialize, Serialize};

use crate::{
    fleet::{Actor, AuditEntry, AuditOutcome, ReportedFailure},
    store::{Commit, CommitError, Committed, Key, Store, StoreFault},
};

/// Length and hash of a log. A checkpoint is this, signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// How many lines.
    pub length: u64,
    /// Hash of the last one; `None` if there is none.
    pub hash: Option<Digest>,
}

/// Something that was done, or refused, before it has its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// Who did it.
    pub who: Actor,
    /// A verb with its noun: `rollout pause`.
    pub act: String,
    /// To what: `payments pilot`.
    pub what: String,
    /// Whether it was done.
    pub outcome: AuditOutcome,
}

impl Deed {
    /// Something that was done.
    pub fn done(who: Actor, act: &str, what: impl Into<String>) -> Deed {
        Deed { who, act: act.to_owned(), what: what.into(), outcome: AuditOutcome::Done }
    }

    /// Something that was refused.
    pub fn refused(who: Actor, act: &str, what: impl Into<String>, why: impl Into<String>) -> Deed {
        let outcome = AuditOutcome::Refused(why.into());
        Deed { who, act: act.to_owned(), what: what.into(), outcome }
    }
}

/// A line of the log: the entry, and the bytes that the chain covers. They are written once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditLine {
    entry: AuditEntry,
    body: Vec<u8>,
}

impl AuditLine {
    /// The line after this head.
    pub fn after(head: AuditHead, at: Timestamp, deed: Deed) -> AuditLine {
        let Deed { who, act, what, outcome } = deed;
        let outcome = match outcome {
            AuditOutcome::Done => AuditOutcome::Done,
            AuditOutcome::Refused(why) => AuditOutcome::Refused(one_line(&why)),
        };
        let who = match who {
            Actor::Token(id) => Actor::Token(one_line(&id)),
            named @ (Actor::Person(_)
            | Actor::Ci(_)
            | Actor::Host(_)
            | Actor::Server
            | Actor::Unknown) => named,
        };
        let entry = AuditEntry {
            sequence: head.length + 1,
            at,
            who,
            act: one_line(&act),
            what: one_line(&what),
            outcome,
            previous: head.hash,
        };
        let value = serde_json::to_value(&entry).expect("strings and one number");
        AuditLine { entry, body: to_canonical(&value) }
    }

    /// The line that these bytes are.
    ///
    /// # Errors
    /// If they are none.
    pub fn parse(body: Vec<u8>) -> Result<AuditLine, serde_json::Error> {
        Ok(AuditLine { entry: serde_json::from_slice(&body)?, body })
    }

    /// What it says.
    pub fn entry(&self) -> &AuditEntry {
        &self.entry
    }

    /// The exact bytes that the chain covers.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// SHA-256 of the body.
    pub fn hash(&self) -> Digest {
        Digest::of(&self.body)
    }

    /// Whether it is the next line of a log with this head.
    pub fn follows(&self, head: AuditHead) -> bool {
        self.entry.sequence == head.length + 1 && self.entry.previous == head.hash
    }

    /// The head of the log that ends with this line.
    pub fn head(&self) -> AuditHead {
        AuditHead { length: self.entry.sequence, hash: Some(self.hash()) }
    }
}

/// Longest text of an entry. Names and reasons are shorter; what callers send may not be.
const LONGEST: usize = 1000;

/// The canonical form leaves control characters as they are, which JSON readers refuse; and a log line
/// is one line.
fn one_line(text: &str) -> String {
    text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The lines for these deeds, after this head.
pub fn lines(
    head: AuditHead,
    at: Timestamp,
    deeds: impl IntoIterator<Item = Deed>,
) -> Vec<AuditLine> {
    let mut head = head;
    let line = |deed| {
        let line = AuditLine::after(head, at, deed);
        head = line.head();
        line
    };
    deeds.into_iter().map(line).collect()
}

/// Where a log is not what its hashes say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the audit log is broken at line {at}: it does not follow on the line before\n\
     help: compare it with the newest checkpoint that hosts hold, and with a backup"
)]
pub struct BrokenChain {
    /// The line that does not follow.
    pub at: u64,
}

/// Checks a piece of the log that begins after `head`, and gives the head at its end.
///
/// # Errors
/// The first line that does not follow.
pub fn verify<'a>(
    head: AuditHead,
    lines: impl IntoIterator<Item = &'a AuditLine>,
) -> Result<AuditHead, BrokenChain> {
    lines.into_iter().try_fold(head, |head, line| {
        if line.follows(head) { Ok(line.head()) } else { Err(BrokenChain { at: head.length + 1 }) }
    })
}

/// Commits, with these deeds at the end of the audit log. Another line may get in between at any time,
/// so that alone is no conflict.
///
/// # Errors
/// As [`Store::commit`].
pub fn commit(
    store: &dyn Store,
    commit: &Commit,
    at: Timestamp,
    deeds: &[Deed],
) -> Result<Committed, CommitError> {
    loop {
        let mut attempt = commit.clone();
        attempt.audit = lines(store.audit_head()?, at, deeds.iter().cloned());
        match store.commit(attempt) {
            Err(error) if error.is_conflict_of(&[Key::Audit]) => {}
            done => return done,
        }
    }
}

/// Checks the whole log in a store.
///
/// # Errors
/// If it can't be read; `Ok(Err(_))` if it is broken.
pub fn verify_store(store: &dyn Store) -> Result<Result<AuditHead, BrokenChain>, StoreFault> {
    const PAGE: usize = 500;
    let mut head = AuditHead::default();
    loop {
        let lines = store.audit_after(head.length, PAGE)?;
        if lines.is_empty() {
            return Ok(if head == store.audit_head()? {
                Ok(head)
            } else {
                Err(BrokenChain { at: head.length + 1 })
            });
        }
        match verify(head, &lines) {
            Ok(next) => head = next,
            Err(broken) => return Ok(Err(broken)),
        }
    }
}

/// The hash of one line of the log in a store; `None` where the log is shorter.
///
/// # Errors
/// If it can't be read.
pub fn hash_at(store: &dyn Store, length: u64) -> Result<Option<Digest>, StoreFault> {
    let Some(before) = length.checked_sub(1) else { return Ok(None) };
    let line = store.audit_after(before, 1)?.into_iter().next();
    Ok(line.filter(|line| line.entry().sequence == length).map(|line| line.hash()))
}

/// How this log contradicts what somebody has seen of it, if it does.
///
/// # Errors
/// If it can't be read.
pub fn contradiction(
    store: &dyn Store,
    seen: AuditHead,
) -> Result<Option<ReportedFailure>, StoreFault> {
    let AuditHead { length, hash } = seen;
    let found = hash_at(store, length)?;
    if found == hash {
        return Ok(None);
    }
    let (cause, text) = match found {
        Some(_) => {
            ("audit-forked", format!("the host has seen another entry {length} of the audit log"))
        }
        None => (
            "audit-shortened",
            format!("the host has seen entry {length} of the audit log, which is not here"),
        ),
    };
    let help = "run `refit audit verify`; if this server was put back to an older copy, that is this; \
                else somebody has rewritten the log";
    let (cause, help, log) = (cause.to_owned(), help.to_owned(), String::new());
    Ok(Some(ReportedFailure { cause, text, help, log }))
}

/// Reads a head from its parts, as checkpoints carry it.
///
/// # Errors
/// If the hash is not 32 bytes.
pub fn head_from_wire(length: u64, hash: &[u8]) -> Result<AuditHead, NameError> {
    let hash = if length == 0 { None } else { Some(Digest::from_bytes(hash)?) };
    Ok(AuditHead { length, hash })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Vec<AuditLine> {
        let deeds = (0..5).map(|n| Deed::done(Actor::Server, "rollout halt", format!("p r{n}")));
        lines(AuditHead::default(), Timestamp::UNIX_EPOCH, deeds)
    }

    #[test]
    fn every_change_to_the_log_shows() {
        let log = log();
        assert_eq!(verify(AuditHead::default(), &log), Ok(log[4].head()));
        for n in 0..5 {
            let mut dropped = log.clone();
            dropped.remove(n);
            let head = verify(AuditHead::default(), &dropped);
            assert_ne!(head, Ok(log[4].head()), "line {n} dropped");

            let mut changed = log.clone();
            let body = String::from_utf8(log[n].body().to_vec()).unwrap().replace("halt", "done");
            changed[n] = AuditLine::parse(body.into_bytes()).unwrap();
            let head = verify(AuditHead::default(), &changed);
            assert_ne!(head, Ok(log[4].head()), "line {n} changed");

            let mut swapped = log.clone();
            swapped.swap(n, (n + 1) % 5);
            assert!(verify(AuditHead::default(), &swapped).is_err(), "line {n} swapped");
        }
    }

    #[test]
    fn a_line_can_be_read_back_whatever_a_caller_sent() {
        let what =
            "line 1\nline 2\u{1b}[31m\0 \"quoted\" \\ ä \u{2028}".to_owned() + &"x".repeat(5000);
        let deed = Deed::refused(Actor::Token("a\nb".to_owned()), "host enroll", &*what, &*what);
        let line = AuditLine::after(AuditHead::default(), Timestamp::UNIX_EPOCH, deed);
        assert_eq!(AuditLine::parse(line.body().to_vec()).unwrap(), line);
        assert!(refit_proto::canonical::parse(line.body()).is_ok());
        assert!(!line.entry().what.contains('\n'));
        assert!(line.body().len() < 5000);
    }
}
