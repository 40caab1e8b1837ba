//! When something happened, as the core is told: it reads no clock itself. Deadlines are reckoned in
//! running time, since the wall clock of a host may be wrong, or be set while an update runs.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::BootId;

/// Time since the host booted, in nanoseconds of CLOCK_BOOTTIME. Comparable within one boot only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Running(u64);

impl Running {
    /// From nanoseconds of CLOCK_BOOTTIME.
    pub fn from_nanos(nanos: u64) -> Running {
        Running(nanos)
    }

    /// Nanoseconds of CLOCK_BOOTTIME.
    pub fn as_nanos(self) -> u64 {
        self.0
    }

    /// This much later.
    pub fn plus(self, span: Duration) -> Running {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Running(self.0.saturating_add(nanos))
    }

    /// How much later this is than `earlier`; nothing if it is not later.
    pub fn since(self, earlier: Running) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A moment by all of the host's clocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// For people and reports; nothing is decided by it.
    pub wall: Timestamp,
    /// The boot in which `running` counts.
    pub boot: BootId,
    /// Running time since that boot.
    pub running: Running,
}

impl Moment {
    /// Running time since `earlier`; `None` if the host has booted in between, since nobody knows for
    /// how long it was off.
    pub fn since(&self, earlier: &Moment) -> Option<Duration> {
        (self.boot == earlier.boot).then(|| self.running.since(earlier.running))
    }
}
