//! The life of one update, as states and events. Decides what an update waits for and what follows
//! from what happens; does nothing itself: no input, no output, no clock, no chance. What it decides is
//! saved and carried out by `drive.rs`.
//!
//! ```text
//!   Offered ──► Preflight ──► Fetching ──► Waiting ──► BackingUp ──► Quiescing ──► Sealing ──► Switching ──► Probation ──► Committed
//!     │ ▲          │ ▲          │ ▲         │ ▲ ▲          │             │            │          │    │    ▲     │ ▲ │
//!     │ └weather   │ └weather   │ └weather  │ │ └──────────┤             │            │          │    ▼    │     │ └─┘ good for too short
//!     │            │            │           │ └weather     │ weather,    │            │          │  Rebooting   │     a time, or unknown
//!     │            │            │           │              │ lease over  │            │          │    │         │
//!     ▼            ▼            ▼           ▼              ▼             ▼            ▼          ▼    ▼         ▼ failed check, back-out
//!   ╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌ Refused ╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌   ╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌ RollingBack ╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌
//!   ╌╌ offer taken back: Dropped ╌╌╌╌╌╌╌╌╌╌╌                                     │                 │
//!                                                                                ▼                 ▼ no way back, or it failed
//!   the host is untouched                                                    RolledBack          Stuck
//! ```
//!
//! - Until Quiescing nothing on the host is changed, so there is nothing to go back from. From
//!   Quiescing on the host finishes to a whole release, whatever the network does.
//! - A release with `way_back = "none"` goes from Switching, Rebooting and Probation straight to Stuck.
//! - A boot is asked for when nothing holds it off, and at most twice; how often is saved before. Held off
//!   for too long, or not done, the host goes back. A boot with the same id is no boot.
//! - Where update modules have a say, what has proved itself stays in Probation until they agree; if one does
//!   not, the host goes back.
//! - An agent that starts again finds its update in the journal and takes the step once more. In
//!   BackingUp it goes on only if its lease still holds; too many starts from Quiescing on go back.
//! - After its end an update has one step left, `Settle`: the way back is disarmed and space given
//!   back only when the end is durable.

mod attempt;
mod baseline;
mod cause;
mod event;
mod ids;
mod local_hold;
mod may_begin;
mod method;
mod moment;
mod past;
mod phase;
mod power;
mod probation;
mod queue;
mod reboot;
mod set_aside;
mod state;
mod step;

pub use attempt::{
    Attempt, Change, Lease, Observed, OrderedBy, ReleaseId, Retry, SealedBackup, Terms,
};
pub use baseline::{Baseline, CheckId, Compared, Found, compare};
pub use cause::{Blame, Cause, Failure};
pub use event::{Event, Verdict};
pub use ids::{BackupId, BootId, IdError, InstallId, LeaseId};
pub use local_hold::LocalHold;
pub use may_begin::{Facts, Held, HostHold, OwnWindows, Rate, may_begin};
pub use method::BackupMethod;
pub use moment::{Moment, Running};
pub use past::{Begun, TooMany, failures_of, too_many_in_a_day};
pub use phase::Phase;
pub use power::if_power_went;
pub use probation::{Probation, Proof};
pub use queue::{Queue, Queued};
pub use reboot::{RebootNeed, RebootReason, Rebooting};
pub use set_aside::SetAside;
pub use state::{Outcome, UnexpectedEvent, Update};
pub use step::{Step, Undo};

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
