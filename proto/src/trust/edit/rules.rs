//! What nobody must sign, whoever agrees with it: an expiry in the past or too far away, a threshold that
//! nobody can reach, one key that counts twice.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::EditError;
use crate::trust::{metadata::Authority, role::Role};

/// The longest that a role's file may last, in days. Whoever loses a key must not be trusted for ever.
pub fn longest_days(role: &Role) -> i64 {
    match role {
        Role::Root | Role::Release(_) => 730,
        Role::Targets | Role::Policy | Role::Ring(..) | Role::Other(_) => 365,
        Role::Snapshot => 30,
        Role::Timestamp => 30,
    }
}

/// Refuses a file that has expired, or that would last too long.
///
/// # Errors
/// Which of them.
pub(crate) fn check_expiry(
    role: &Role,
    expires: Timestamp,
    now: Timestamp,
) -> Result<(), EditError> {
    if expires <= now {
        return Err(EditError::ExpiresInPast { role: role.clone(), expires });
    }
    let most = longest_days(role);
    // Whoever wrote it may have had a clock that was a little ahead.
    let span = SignedDuration::from_hours(most * 24 + 24);
    if expires > now.saturating_add(span).unwrap_or(Timestamp::MAX) {
        return Err(EditError::ExpiresTooLate { role: role.clone(), expires, most });
    }
    Ok(())
}

/// Refuses a threshold that nobody can reach, and a key that stands there twice or can't be used.
///
/// # Errors
/// Which of them.
pub(crate) fn check_authority(role: &Role, authority: &Authority) -> Result<(), EditError> {
    let mut seen = BTreeSet::new();
    for id in &authority.ids {
        let material = authority.keys.get(id).and_then(|key| key.material());
        let material =
            material.ok_or_else(|| EditError::UnusableKey { role: role.clone(), key: *id })?;
        if !seen.insert(material) {
            return Err(EditError::SameKeyTwice { role: role.clone(), key: *id });
        }
    }
    let (threshold, keys) = (authority.threshold, authority.ids.len());
    if threshold == 0 || threshold > keys as u64 {
        return Err(EditError::Threshold { role: role.clone(), threshold, keys });
    }
    Ok(())
}
