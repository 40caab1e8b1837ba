//! How many hosts need a person's eye for what they are or say, whatever ring they are in. Counted over all
//! hosts, and so not for every look.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::{
    fleet::{Host, HostState},
    store::{HostQuery, Listed, Store, StoreFault},
};

/// How old the numbers may be that are shown.
const COUNTED: SignedDuration = SignedDuration::from_secs(30);
/// Hosts in one look.
const PAGE: usize = 1000;

/// The numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Troubled {
    /// Two machines use the host's identity.
    pub shared_identity: u64,
    /// The signed metadata that the host has, has expired: it begins nothing.
    pub metadata_expired: u64,
    /// The host refuses the signed metadata that it is given: it names the attack that it would be.
    pub metadata_refused: u64,
    /// The host holds an audit log that this server's does not continue.
    pub audit_contradicted: u64,
}

impl Troubled {
    fn add(&mut self, host: &Host) {
        let live = match host.state {
            HostState::Shared => {
                self.shared_identity += 1;
                true
            }
            HostState::Active => true,
            HostState::Revoked | HostState::Retired => false,
        };
        if live {
            self.metadata_expired += u64::from(host.metadata_expired);
            self.metadata_refused += u64::from(host.metadata_failure.is_some());
            self.audit_contradicted += u64::from(host.audit_failure.is_some());
        }
    }
}

/// The numbers, counted now and then.
#[derive(Debug, Default)]
pub struct Troubles(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    counted: Option<(Timestamp, Troubled)>,
    /// Grows with each change, so that a count from before one is not kept after it.
    changes: u64,
}

impl Troubles {
    /// How many there are.
    ///
    /// # Errors
    /// If they can't be counted.
    pub fn count(&self, store: &dyn Store, now: Timestamp) -> Result<Troubled, StoreFault> {
        let before = {
            let known = self.known();
            if let Some((at, count)) = known.counted
                && now.duration_since(at) < COUNTED
            {
                return Ok(count);
            }
            known.changes
        };
        let (mut count, mut after) = (Troubled::default(), None);
        loop {
            let Listed { rows, next } = store.find(&HostQuery::default(), after.as_ref(), PAGE)?;
            rows.iter().for_each(|row| count.add(&row.host.value));
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let mut known = self.known();
        if known.changes == before {
            known.counted = Some((now, count));
        }
        Ok(count)
    }

    /// A commit has made it another number: the next look counts.
    pub fn changed(&self) {
        let mut known = self.known();
        (known.counted, known.changes) = (None, known.changes.wrapping_add(1));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each change is one assignment: there is nothing half done to find.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
