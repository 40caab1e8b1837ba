//! When a role's file has to be signed anew, and how urgent it is. People are told a month before; the
//! server renews its own files at half their life, so what is older than that is its failure.

use jiff::{SignedDuration, Timestamp};

use super::default_days;
use crate::trust::role::Role;

/// How long before the end people are told, in days.
pub const WARN_DAYS: i64 = 30;

/// How a file stands against its expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// Nobody has to act.
    Fine,
    /// Whoever signs it has to act in the next weeks.
    Due,
    /// The server should have renewed it.
    Overdue,
    /// Hosts begin nothing new by it.
    Expired,
}

impl Due {
    /// How a role's file stands now.
    pub fn of(role: &Role, expires: Timestamp, now: Timestamp) -> Due {
        let left = expires.duration_since(now);
        let days = |days: i64| SignedDuration::from_hours(24 * days);
        let lasts = days(default_days(role));
        match role {
            _ if left <= SignedDuration::ZERO => Due::Expired,
            // Half of their life is when the server renews them; an hour later it has not.
            Role::Snapshot | Role::Timestamp
                if left < lasts / 2 - SignedDuration::from_hours(1) =>
            {
                Due::Overdue
            }
            Role::Snapshot | Role::Timestamp => Due::Fine,
            // A ring that the server renews lasts 30 days and would always be due.
            Role::Ring(..) if left <= days(super::GATE_RING_DAYS) / 2 => Due::Due,
            Role::Ring(..) => Due::Fine,
            Role::Root | Role::Targets | Role::Policy | Role::Release(_) | Role::Other(_) => {
                if left <= days(WARN_DAYS) { Due::Due } else { Due::Fine }
            }
        }
    }

    /// The word of the status model; empty where nobody has to act.
    pub fn word(self) -> &'static str {
        match self {
            Due::Fine => "",
            Due::Due => "due",
            Due::Overdue => "overdue",
            Due::Expired => "expired",
        }
    }
}
