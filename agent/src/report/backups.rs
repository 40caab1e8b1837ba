//! The backups that a host keeps, as it reports them.

use std::sync::{Arc, RwLock};

use jiff::Timestamp;
use refit_proto::{sorted, wire::BackupState};

use crate::{
    host::{
        backup::{Backups, Index, Vouched, What},
        second::Standing,
    },
    update::BackupId,
};

/// Most that are reported: the newest.
const MOST: usize = 20;
/// Longest reason that is reported.
const LONGEST: usize = 300;

/// What was found when it was looked at last.
pub type HeldBackups = Arc<RwLock<Vec<BackupState>>>;

/// The newest backups that are here, the newest first. Reads their lists, not their bytes.
pub fn held_backups(backups: &Backups<'_>) -> Vec<BackupState> {
    let ids = backups.list().unwrap_or_else(|error| {
        tracing::error!("the backups can't be reported: {error}");
        Vec::new()
    });
    let mut found: Vec<(i64, BackupState)> =
        ids.iter().map(|id| held_backup(backups, id)).collect();
    sorted::sort_by(&mut found, |a, b| (b.0, &b.1.id).cmp(&(a.0, &a.1.id)));
    found.truncate(MOST);
    found.into_iter().map(|(_, state)| state).collect()
}

fn held_backup(backups: &Backups<'_>, id: &BackupId) -> (i64, BackupState) {
    let mut state = BackupState { id: id.to_string(), ..BackupState::default() };
    match backups.copied(id).ok().flatten().map(|copied| copied.standing) {
        None => {}
        Some(Standing::Begun | Standing::Saved) => "begun".clone_into(&mut state.second),
        Some(Standing::Whole { .. }) => "whole".clone_into(&mut state.second),
        Some(Standing::Failed { text, .. }) => {
            "failed".clone_into(&mut state.second);
            state.second_failure = text.chars().take(LONGEST).collect();
        }
    }
    if let Some(answer) = backups.answer(id) {
        state.verified = answer.at.to_string();
        (state.verified_for, state.damages) = (answer.asked, answer.damages);
    }
    let index = match backups.is_sealed(id) {
        Ok(false) => {
            "unfinished".clone_into(&mut state.state);
            return (i64::MAX, state);
        }
        Ok(true) | Err(_) => backups.index(id),
    };
    let Ok(index) = index else {
        "damaged".clone_into(&mut state.state);
        return (i64::MAX, state);
    };
    "sealed".clone_into(&mut state.state);
    let version = |release: &Option<crate::update::ReleaseId>| {
        release.as_ref().map(|release| release.version.to_string()).unwrap_or_default()
    };
    state.product = index.product.to_string();
    (state.from, state.to) = (version(&index.from), version(&index.to));
    let made = Timestamp::from_second(index.made).ok().filter(|_| index.made > 0);
    state.made = made.map(|made| made.to_string()).unwrap_or_default();
    let outside = index.outside.as_ref().map(Vouched::words).unwrap_or_default();
    state.outside = outside.chars().take(LONGEST).collect();
    state.bytes = bytes(&index);
    state.seal = backups.own_seal(id).map(|sealed| sealed.seal.to_string()).unwrap_or_default();
    (index.order(), state)
}

fn bytes(index: &Index) -> u64 {
    let entries = index.covered.iter().flat_map(|covered| &covered.entries);
    let lengths = entries.map(|entry| match &entry.what {
        What::File { content } => content.length,
        What::HardLink { .. } | What::Directory | What::Link { .. } => 0,
    });
    lengths.sum()
}
