//! Opens and closes the way back for hosts that this server has no record of. Who comes in by it is decided
//! in `crate::enrollment`.

use jiff::{SignedDuration, Timestamp};
use refit_proto::{names::Digest, wire};

use super::{
    ApiError, Shared,
    admin::{ADMINISTRATOR, one_line},
    call::{Call, retry},
};
use crate::{
    fleet::{READMISSION_LONGEST, Readmission},
    store::{Commit, Reads as _, Store},
};

/// What log and audit log call it.
pub(super) const OPEN: &str = "readmission open";
/// The same for its end.
pub(super) const CLOSE: &str = "readmission close";

/// What is opened, for the audit log.
pub(super) fn title(message: &wire::OpenReadmissionRequest) -> String {
    let authority = Digest::from_bytes(&message.authority_sha256);
    let authority = authority.map_or_else(|_| "?".to_owned(), |digest| digest.short());
    format!("for {} s, authority {authority} {}", message.seconds, message.reason)
}

pub(super) fn open(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
    message: &wire::OpenReadmissionRequest,
) -> Result<wire::OpenReadmissionReply, ApiError> {
    let member = call.member(store, ADMINISTRATOR)?;
    one_line(&message.reason)?;
    let authority = Digest::from_bytes(&message.authority_sha256)?;
    let authority_name = shared
        .keys
        .authorities
        .former(&authority)
        .map_err(|error| ApiError::Invalid(error.to_string()))?;
    let until = until(message.seconds, call.now)?;
    retry(shared, store, call.now, || {
        let held = store.read::<Readmission>(())?;
        let opened = Readmission {
            authority,
            authority_name,
            opened_by: member.to_string(),
            opened_at: call.now,
            until,
            hosts: 0,
        };
        let mut commit = Commit::new();
        commit.doc(held.map_or(0, |held| held.rev), opened);
        let reply = wire::OpenReadmissionReply { until: until.to_string() };
        Ok((reply, commit, call.done()))
    })
}

fn until(seconds: u64, now: Timestamp) -> Result<Timestamp, ApiError> {
    let length = i64::try_from(seconds).map(SignedDuration::from_secs);
    let length = length.ok().filter(|it| it.is_positive() && *it <= READMISSION_LONGEST);
    let length = length.ok_or_else(|| {
        let text = "hosts are readmitted for at least a second and at most seven days";
        ApiError::Invalid(text.to_owned())
    })?;
    Ok(now.saturating_add(length).unwrap_or(Timestamp::MAX))
}

pub(super) fn close(
    shared: &Shared,
    store: &dyn Store,
    call: &Call,
) -> Result<wire::CloseReadmissionReply, ApiError> {
    call.member(store, ADMINISTRATOR)?;
    retry(shared, store, call.now, || {
        let open = store.read::<Readmission>(())?.filter(|held| held.value.is_open(call.now));
        let Some(held) = open else {
            return Err(ApiError::NotFound("no hosts are being readmitted".into()));
        };
        let reply = wire::CloseReadmissionReply { hosts: held.value.hosts };
        let mut commit = Commit::new();
        commit.doc(held.rev, Readmission { until: call.now, ..held.value });
        Ok((reply, commit, call.done()))
    })
}

/// The opening that lasts now.
pub(super) fn status(
    store: &dyn Store,
    now: Timestamp,
) -> Result<Option<wire::ReadmissionStatus>, ApiError> {
    let open = store.read::<Readmission>(())?.map(|held| held.value).filter(|it| it.is_open(now));
    Ok(open.map(|it| wire::ReadmissionStatus {
        until: it.until.to_string(),
        opened_by: it.opened_by,
        hosts: it.hosts,
        authority_sha256: it.authority.as_bytes().to_vec(),
    }))
}
