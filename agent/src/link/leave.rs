//! The leave to begin: asked for at the end of Waiting, and counted from the moment of asking. Without it
//! no host begins, so after a pause none begins later than one lease.

use std::time::Duration;

use refit_proto::wire::{LeaseRequest, RebootRequest, lease_reply::Answer};

use super::{CallError, Link};
use crate::{
    clock::Clock,
    update::{Attempt, Cause, Failure, Lease, LeaseId},
};

/// The longest lease that a host takes, whatever the server says: a pause must be felt within the hour.
const LONGEST: Duration = Duration::from_secs(3600);

/// Asks for the leave to begin.
///
/// # Errors
/// Why the host must not begin now.
pub async fn ask_leave(link: &Link, attempt: &Attempt, clock: &Clock) -> Result<Lease, Failure> {
    // Before the request is sent, so that a slow answer never lengthens the lease.
    let asked = clock.moment();
    let request = LeaseRequest {
        product: attempt.product.to_string(),
        rollout_id: attempt.rollout.clone(),
        attempt: attempt.number,
        digest: attempt.release.digest.as_bytes().to_vec(),
    };
    let reply = link.lease(request).await;
    match reply.map_err(|error| away(&error))?.answer {
        Some(Answer::Lease(lease)) => {
            let id = LeaseId::parse(&lease.id)
                .map_err(|error| Failure::new(Cause::ServerAway, error.to_string()))?;
            let lasts = Duration::from_secs(lease.seconds.into()).min(LONGEST);
            Ok(Lease { id, asked, lasts })
        }
        Some(Answer::Hold(hold)) => {
            let text = format!("the server gives no lease: {} ({})", hold.text, hold.reason);
            Err(Failure::new(Cause::LeaseDenied, text))
        }
        None => Err(Failure::new(Cause::LeaseDenied, "the server's answer is of a later protocol")),
    }
}

/// Asks whether the host may boot now, in the middle of its update.
///
/// # Errors
/// Why it must not.
pub async fn ask_reboot(link: &Link, attempt: &Attempt) -> Result<(), Failure> {
    let request = RebootRequest {
        product: attempt.product.to_string(),
        rollout_id: attempt.rollout.clone(),
        attempt: attempt.number,
        digest: attempt.release.digest.as_bytes().to_vec(),
    };
    let reply = link.reboot(request).await.map_err(|error| {
        let text = format!("the server can't be asked whether this host may boot: {error}");
        Failure::new(Cause::ServerAway, text)
    })?;
    if reply.may {
        return Ok(());
    }
    let hold = reply.hold.unwrap_or_default();
    let text = format!("the server does not let this host boot: {} ({})", hold.text, hold.reason);
    Err(Failure::new(Cause::LeaseDenied, text))
}

fn away(error: &CallError) -> Failure {
    Failure::new(Cause::ServerAway, format!("the server gives no lease: {error}"))
}
