//! What the server remembers: one record type for each thing of the fleet, and how a record becomes bytes.
//! Decides nothing: rules are in `rollout`, keeping is in `store`.

pub mod audit;
pub mod backup;
pub mod change;
pub mod host;
pub mod people;
pub mod placement;
pub mod policy;
pub mod readmission;
pub mod record;
pub mod release;
pub mod rollout;
pub mod tally;

pub use audit::{Actor, AuditEntry, AuditOutcome};
pub use backup::{BackupCheck, ReportedBackup};
pub use change::{ChangeState, OpenChange};
pub use host::{Certificate, Host, HostState, ReportKey};
pub use people::{Person, TokenRecord, TokenSubject};
pub use placement::{
    Failed, FailureKind, Flight, Have, Health, Lease, LeaseId, OrderKey, Phase, Placement,
    ReportedFailure, ReportedHold, ReportedHook,
};
pub use policy::{PolicyError, RingPolicy, RolloutPolicy};
pub use readmission::{READMISSION_LONGEST, Readmission};
pub use record::{Record, RecordError};
pub use release::{ReleaseId, ReleaseRecord, RingRecord};
pub use rollout::{Direction, HaltReason, Rollout, RolloutId, RolloutState};
pub use tally::{Tally, TallyKey, changes};
