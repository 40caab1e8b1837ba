//! Changes that wait for signatures: which may be opened, what a signature does to one, and how one ends.
//! A role has one open change at a time. Nothing here completes a change: what is signed is judged by
//! `refit_proto::trust`, and published by a push like any other.

use std::collections::BTreeSet;

use jiff::Timestamp;
use refit_proto::{
    names::Digest,
    trust::{
        Role,
        change::{ChangeError, ChangeFile, Judged, SignatureLine},
        set::Stored,
    },
    wire,
};

use crate::{
    fleet::{ChangeState, OpenChange},
    store::Rev,
};

/// Why a change is not opened or not signed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The change itself.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// Made on files that are not the newest.
    #[error(
        "the change is not made on the newest {role}\nhelp: make it again; what is newest is fetched by itself"
    )]
    NotOnNewest {
        /// Whose file differs.
        role: Role,
    },
    /// Before there is a root, nothing can be judged.
    #[error(
        "this server holds no metadata yet\nhelp: hand the change round as a file, and push it when it is signed"
    )]
    NotFounded,
    /// One at a time.
    #[error(
        "{role} has an open change by {owner}, since {since}, {}\n\
         help: sign it (`refit trust sign {role}`), or have it withdrawn (`refit trust change withdraw {role}`)",
        waiting(.missing)
    )]
    AlreadyOpen {
        /// The role that both change.
        role: Role,
        /// Who proposed the open one.
        owner: String,
        /// Since when.
        since: Timestamp,
        /// Who could still sign it.
        missing: Vec<String>,
    },
    /// Nothing to sign.
    #[error("{role} has no open change\nhelp: `refit trust status` lists the open ones")]
    NoneOpen {
        /// Whose.
        role: Role,
    },
}

fn waiting(missing: &[String]) -> String {
    match missing.is_empty() {
        true => "which is signed and not published yet".to_owned(),
        false => format!("which waits for {}", missing.join(" or ")),
    }
}

/// What a server holds, for judging.
pub struct Held<'a> {
    /// The newest file of each role.
    pub newest: &'a Stored,
    /// The first root.
    pub first_root: Option<&'a [u8]>,
    /// When it is asked.
    pub now: Timestamp,
}

impl Held<'_> {
    /// Judges a change that has to be made on what is held.
    fn judge(&self, change: &ChangeFile) -> Result<Judged, Refused> {
        let first_root = self.first_root.map(Digest::of).ok_or(Refused::NotFounded)?;
        let judged = change.judge(Some(first_root), self.now)?;
        let differs = |role: &Role, bytes: Option<&Vec<u8>>| self.newest.get(role) != bytes;
        let base = change.base();
        if differs(&Role::Root, base.roots.last()) {
            return Err(Refused::NotOnNewest { role: Role::Root });
        }
        let about = change.roles().chain([&Role::Targets]).filter(|role| **role != Role::Root);
        for role in about {
            if differs(role, base.held.get(role)) {
                return Err(Refused::NotOnNewest { role: role.clone() });
            }
        }
        Ok(judged)
    }
}

/// The record of a change that is proposed now, and the revision that it replaces. The same change
/// proposed again only adds its signatures.
///
/// # Errors
/// Why it is not taken.
pub fn propose(
    held: &Held<'_>,
    known: &[Rev<OpenChange>],
    mut change: ChangeFile,
    owner: &str,
) -> Result<(u64, OpenChange), Refused> {
    change.owner = owner.to_owned();
    change.opened = held.now;
    let judged = held.judge(&change)?;
    let roles: BTreeSet<&Role> = change.roles().collect();
    let role = (*change.role().unwrap_or(&Role::Root)).clone();
    for open in known.iter().filter(|open| open.value.is_open(held.now)) {
        let mut other = read(&open.value)?;
        let Some(shared) = other.roles().find(|role| roles.contains(role)).cloned() else {
            continue;
        };
        if open.value.id == judged.id {
            other.join(&change, held.now)?;
            return Ok((open.rev, OpenChange { file: text(&other), ..open.value.clone() }));
        }
        let missing = missing(&other.judge(None, held.now)?);
        let OpenChange { owner, opened_at: since, .. } = open.value.clone();
        return Err(Refused::AlreadyOpen { role: shared, owner, since, missing });
    }
    let record = OpenChange {
        role: role.clone(),
        owner: owner.to_owned(),
        opened_at: held.now,
        lapses_at: change.lapses(),
        id: judged.id,
        state: ChangeState::Open,
        file: text(&change),
    };
    let before = known.iter().find(|known| known.value.role == role);
    Ok((before.map_or(0, |before| before.rev), record))
}

/// The open change of a role.
///
/// # Errors
/// If there is none.
pub fn of<'a>(
    known: &'a [Rev<OpenChange>],
    role: &Role,
    now: Timestamp,
) -> Result<(&'a Rev<OpenChange>, ChangeFile), Refused> {
    for open in known.iter().filter(|open| open.value.is_open(now)) {
        let change = read(&open.value)?;
        if change.roles().any(|found| found == role) {
            return Ok((open, change));
        }
    }
    Err(Refused::NoneOpen { role: role.clone() })
}

/// The record with these signatures on it.
///
/// # Errors
/// If there is no such change, or a signature fits nothing in it.
pub fn sign(
    held: &Held<'_>,
    known: &[Rev<OpenChange>],
    role: &Role,
    lines: &[SignatureLine],
) -> Result<(u64, OpenChange), Refused> {
    let (open, mut change) = of(known, role, held.now)?;
    held.judge(&change)?;
    for line in lines {
        change.add(line, held.now)?;
    }
    Ok((open.rev, OpenChange { file: text(&change), ..open.value.clone() }))
}

/// The changes that end because files of these roles were published.
pub fn ended_by_push(
    known: &[Rev<OpenChange>],
    pushed: &[(Role, Vec<u8>)],
    now: Timestamp,
) -> Vec<(u64, OpenChange)> {
    let mut ended = Vec::new();
    for open in known.iter().filter(|open| open.value.is_open(now)) {
        let Ok(change) = read(&open.value) else { continue };
        let touched = change.roles().any(|role| pushed.iter().any(|(found, _)| found == role));
        if !touched {
            continue;
        }
        let as_signed =
            change.steps().iter().all(|(role, _)| pushed.iter().any(|(found, _)| found == role));
        let owner = change.owner.clone();
        let same = as_signed
            && ChangeFile::new(owner, now, change.base().clone(), in_order(&change, pushed))
                .id()
                .is_ok_and(|id| id == open.value.id);
        let state = if same { ChangeState::Published } else { ChangeState::Overtaken };
        ended.push((open.rev, open.value.ended(state)));
    }
    ended
}

fn in_order(change: &ChangeFile, pushed: &[(Role, Vec<u8>)]) -> Vec<(Role, Vec<u8>)> {
    let of = |role: &Role| pushed.iter().find(|(found, _)| found == role).cloned();
    change.roles().filter_map(of).collect()
}

/// The changes that nobody completed in time.
pub fn lapsed(known: &[Rev<OpenChange>], now: Timestamp) -> Vec<(u64, OpenChange)> {
    let open = known.iter().filter(|known| known.value.state == ChangeState::Open);
    let late = open.filter(|open| now >= open.value.lapses_at);
    late.map(|open| (open.rev, open.value.ended(ChangeState::Lapsed))).collect()
}

/// A change as everybody is shown it.
///
/// # Errors
/// If what is stored can't be read.
pub fn status(open: &OpenChange, now: Timestamp) -> Result<wire::ChangeStatus, Refused> {
    let change = read(open)?;
    let judged = change.judge(None, now)?;
    let needs = || judged.steps.iter().flat_map(|step| &step.needs);
    Ok(wire::ChangeStatus {
        role: open.role.to_string(),
        version: judged.steps.first().map_or(0, |step| step.version),
        roles: change.roles().map(ToString::to_string).collect(),
        owner: open.owner.clone(),
        opened: open.opened_at.to_string(),
        lapses: open.lapses_at.to_string(),
        sha256: open.id.to_string(),
        standing: judged.standing(),
        missing: missing(&judged),
        signatures_missing: needs().map(|need| need.missing()).max().unwrap_or(0),
    })
}

fn missing(judged: &Judged) -> Vec<String> {
    judged.waiting().into_iter().map(|key| judged.name_of(key)).collect()
}

/// The change that a record holds.
///
/// # Errors
/// If it can't be read.
pub fn read(open: &OpenChange) -> Result<ChangeFile, ChangeError> {
    ChangeFile::from_bytes(open.file.as_bytes())
}

fn text(change: &ChangeFile) -> String {
    String::from_utf8_lossy(&change.to_bytes()).into_owned()
}
