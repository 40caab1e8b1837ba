//! When each host last called, exactly, and in memory alone: a poll must not cost a write. After a
//! restart the coarse time in the store and the moment of the start stand in.

use std::{collections::HashMap, sync::Mutex};

use jiff::Timestamp;
use refit_proto::names::HostId;

/// Hosts that were let in since the start.
#[derive(Debug, Default)]
pub struct Presence(Mutex<HashMap<HostId, Timestamp>>);

impl Presence {
    /// The host calls now.
    pub fn saw(&self, host: &HostId, now: Timestamp) {
        self.lock().insert(host.clone(), now);
    }

    /// When it last called; `stored` where that was before the start.
    pub fn last_seen(&self, host: &HostId, stored: Timestamp) -> Timestamp {
        self.lock().get(host).copied().unwrap_or(stored).max(stored)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<HostId, Timestamp>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
