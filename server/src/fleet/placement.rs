//! One product on one host: where it stands, as the host last reported and as the server last decided.
//! Leaves out who the host is; that is in [`super::host`].

use std::fmt;

use jiff::Timestamp;
use refit_proto::names::{Digest, HostId, Product, RingName, Version};
use serde::{Deserialize, Serialize};

use super::{Direction, Record, RolloutId};

/// One product on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The product.
    pub product: Product,
    /// The host.
    pub host_id: HostId,
    /// The ring that the host counts in; `None`: no ring selects it, and it is left alone. Follows
    /// `selected_by` once nothing is in flight (`rollout::place`).
    pub ring: Option<RingName>,
    /// The first ring that selects the host now, by the signed definitions.
    pub selected_by: Option<RingName>,
    /// The host's place in its ring: spread evenly, the same for ever.
    pub order_key: OrderKey,
    /// The update that the host has leave for. Set by admission alone.
    pub flight: Option<Flight>,
    /// The rollout that the host has been in touch with since it started. Without that a host is `away`.
    pub met: Option<RolloutId>,
    /// What runs, as the host says.
    pub have: Option<Have>,
    /// Where the host's update stands; `None`: no update.
    pub phase: Option<Phase>,
    /// The rollout that `attempt` counts for.
    pub attempted: Option<RolloutId>,
    /// The host's newest attempt at that rollout, from 1. A host that was lost, or whose lease ran out, goes
    /// on with the same one.
    pub attempt: u32,
    /// When the host said how that attempt ended; `None`: it has not ended.
    pub ended_at: Option<Timestamp>,
    /// Counter of the newest report that is folded in. An older one changes nothing.
    pub seq: u64,
    /// How the product is, as the host says.
    pub health: Health,
    /// Why the last update did not end well, as the host says.
    pub failure: Option<ReportedFailure>,
    /// What counts against a rollout: one failure for each host and count, and it stays.
    pub failed: Option<Failed>,
    /// Why the host itself does not move, as it says.
    pub hold: Option<ReportedHold>,
    /// Releases that the host refuses since they failed there.
    pub quarantine: Vec<Digest>,
    /// The release of the rollout in `met` is among them, and no promotion has lifted that.
    pub refuses: bool,
    /// What runs is newer than the ring's current release.
    pub ahead: bool,
    /// How the hooks of the host's last update went, as it says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<ReportedHook>,
    /// When anything but `seq` and `last_report_at` last changed.
    pub changed_at: Timestamp,
    /// When the server last heard a report; `None`: never.
    pub last_report_at: Option<Timestamp>,
}

impl Record for Placement {
    const NAME: &'static str = "placement";
}

impl Placement {
    /// The placement of a product on a host that has not reported yet.
    pub fn new(product: Product, host_id: HostId, now: Timestamp) -> Placement {
        let order_key = OrderKey::of(&host_id, &product);
        Placement {
            product,
            host_id,
            ring: None,
            selected_by: None,
            order_key,
            flight: None,
            met: None,
            have: None,
            phase: None,
            attempted: None,
            attempt: 0,
            ended_at: None,
            seq: 0,
            health: Health::Unknown,
            failure: None,
            failed: None,
            hold: None,
            quarantine: Vec::new(),
            refuses: false,
            ahead: false,
            hooks: Vec::new(),
            changed_at: now,
            last_report_at: None,
        }
    }

    /// Which attempt at this rollout comes next, or goes on.
    pub fn next_attempt(&self, rollout: &RolloutId) -> u32 {
        match (&self.attempted, self.ended_at) {
            (Some(attempted), Some(_)) if attempted == rollout => self.attempt.saturating_add(1),
            (Some(attempted), None) if attempted == rollout => self.attempt,
            (Some(_) | None, _) => 1,
        }
    }

    /// Whether this release runs.
    pub fn runs(&self, digest: &Digest) -> bool {
        self.have.as_ref().is_some_and(|have| have.digest == *digest)
    }
}

/// A host's place in the order of its ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderKey(pub u32);

impl OrderKey {
    /// Hashed with the product, so that the same hosts are not the first for every product.
    pub fn of(host: &HostId, product: &Product) -> OrderKey {
        let digest = Digest::of(format!("{host} {product}").as_bytes());
        let [a, b, c, d, ..] = *digest.as_bytes();
        OrderKey(u32::from_be_bytes([a, b, c, d]))
    }
}

/// The update that a host has leave for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flight {
    /// Which rollout admitted it.
    pub rollout: RolloutId,
    /// Into which count a failure goes.
    pub count: u32,
    /// To the release or back from it.
    pub direction: Direction,
    /// Where it goes.
    pub digest: Digest,
    /// The leave to begin.
    pub lease: Lease,
}

/// Names a lease: `payments.pilot.3/<host id>/1`, so that asking again gives the same one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(String);

impl LeaseId {
    /// The lease of this attempt of this host.
    pub fn new(rollout: &RolloutId, host: &HostId, attempt: u32) -> LeaseId {
        LeaseId(format!("{rollout}/{host}/{attempt}"))
    }

    /// As it travels.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The short leave that lets one host begin an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// When it was given.
    pub granted_at: Timestamp,
    /// After this the host may not begin any more.
    pub until: Timestamp,
}

/// What runs on a host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Have {
    /// The label that people use.
    pub version: Version,
    /// SHA-256 of the release document.
    pub digest: Digest,
}

/// How a product is on a host, as the host says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Every check holds.
    Good,
    /// A check fails.
    Bad,
    /// A check cannot be evaluated. Never counts as healthy.
    Unknown,
    /// Still unknown when probation ended: the host stays on the release, and no gate counts it as healthy.
    Unproven,
    /// The release has no check, by name, and policy allows that.
    Unobserved,
}

impl Health {
    /// Every verdict.
    pub const ALL: [Health; 5] =
        [Health::Good, Health::Bad, Health::Unknown, Health::Unproven, Health::Unobserved];

    /// The word of the wire, of tables and of metrics.
    pub fn word(self) -> &'static str {
        match self {
            Health::Good => "good",
            Health::Bad => "bad",
            Health::Unknown => "unknown",
            Health::Unproven => "unproven",
            Health::Unobserved => "unobserved",
        }
    }

    /// The verdict that this word names. A word that we don't know is a verdict that we don't know.
    pub fn parse(word: &str) -> Health {
        Health::ALL.into_iter().find(|health| health.word() == word).unwrap_or(Health::Unknown)
    }

    /// Whether a gate may count the host.
    pub fn is_healthy(self) -> bool {
        match self {
            Health::Good | Health::Unobserved => true,
            Health::Bad | Health::Unknown | Health::Unproven => false,
        }
    }
}

/// Where a host's update stands (docs/ARCHITECTURE.md has the drawing).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Seen by the host.
    Offered,
    /// Summing up what it takes.
    Preflight,
    /// Content is on its way.
    Fetching,
    /// For its window and its lease.
    Waiting,
    /// The service runs, the backup is made.
    BackingUp,
    /// The service stops.
    Quiescing,
    /// Saving what has to be saved at rest.
    Sealing,
    /// From the old release to the new one.
    Switching,
    /// The release asked for a reboot.
    Rebooting,
    /// The new release proves itself.
    Probation,
    /// To the old release.
    RollingBack,
    /// Ended on the new release.
    Committed,
    /// Ended before anything changed.
    Refused,
    /// The offer was taken back before anything began.
    Dropped,
    /// Ended on the old release.
    RolledBack,
    /// Ended where a person has to help.
    Stuck,
    /// A word of a newer agent. Counts as begun, so that it is never mistaken for an idle host.
    Other,
}

impl Phase {
    /// Every phase that has a word.
    pub const ALL: [Phase; 16] = [
        Phase::Offered,
        Phase::Preflight,
        Phase::Fetching,
        Phase::Waiting,
        Phase::BackingUp,
        Phase::Quiescing,
        Phase::Sealing,
        Phase::Switching,
        Phase::Rebooting,
        Phase::Probation,
        Phase::RollingBack,
        Phase::Committed,
        Phase::Refused,
        Phase::Dropped,
        Phase::RolledBack,
        Phase::Stuck,
    ];

    /// The word of the wire and of tables.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Offered => "offered",
            Phase::Preflight => "preflight",
            Phase::Fetching => "fetching",
            Phase::Waiting => "waiting",
            Phase::BackingUp => "backing-up",
            Phase::Quiescing => "quiescing",
            Phase::Sealing => "sealing",
            Phase::Switching => "switching",
            Phase::Rebooting => "rebooting",
            Phase::Probation => "probation",
            Phase::RollingBack => "rolling-back",
            Phase::Committed => "committed",
            Phase::Refused => "refused",
            Phase::Dropped => "dropped",
            Phase::RolledBack => "rolled-back",
            Phase::Stuck => "stuck",
            Phase::Other => "other",
        }
    }

    /// The phase that this word names; `None` for the empty word: no update.
    pub fn parse(word: &str) -> Option<Phase> {
        if word.is_empty() {
            return None;
        }
        let known = Phase::ALL.into_iter().find(|phase| phase.word() == word);
        Some(known.unwrap_or(Phase::Other))
    }

    /// What the phase means for whoever counts.
    pub fn stage(self) -> Stage {
        match self {
            Phase::Offered | Phase::Preflight => Stage::NotFetching,
            Phase::Fetching | Phase::Waiting => Stage::NotStarted,
            Phase::BackingUp
            | Phase::Quiescing
            | Phase::Sealing
            | Phase::Switching
            | Phase::Rebooting
            | Phase::Probation
            | Phase::RollingBack
            | Phase::Other => Stage::Started,
            Phase::Committed
            | Phase::Refused
            | Phase::Dropped
            | Phase::RolledBack
            | Phase::Stuck => Stage::Ended,
        }
    }
}

/// How far an update has come, as far as counting goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The host knows of the release, and no content is on its way.
    NotFetching,
    /// Content comes or is there; without a lease nothing changes.
    NotStarted,
    /// From the backup on: only with a lease.
    Started,
    /// It is over, one way or another.
    Ended,
}

/// What went wrong, in the host's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedFailure {
    /// Machine-readable.
    pub cause: String,
    /// One sentence.
    pub text: String,
    /// What to do about it.
    pub help: String,
    /// The end of the failed release's log.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log: String,
}

/// How a hook went, in the host's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedHook {
    /// Of which package.
    pub package: String,
    /// When it ran.
    pub when: String,
    /// Its place among the package's hooks.
    pub number: u32,
    /// It ended well.
    pub good: bool,
    /// How it ended.
    pub how: String,
    /// The end of what it wrote.
    pub output: String,
}

/// Why the host does not move, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedHold {
    /// Machine-readable.
    pub reason: String,
    /// One sentence.
    pub text: String,
    /// Since when, if the host says.
    pub since: Option<Timestamp>,
    /// Until when, if the host knows.
    pub until: Option<Timestamp>,
    /// Who can change it.
    pub who: String,
}

/// A host's failure as it counts against a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Against which.
    pub rollout: RolloutId,
    /// In which of its counts.
    pub count: u32,
    /// What it was.
    pub kind: FailureKind,
    /// When the server learned of it.
    pub at: Timestamp,
}

/// What counts as a failure. Errors, time-outs and silence feed one count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// Went back to the old release.
    RolledBack,
    /// Ended before anything changed, by the fault of release or host.
    Refused,
    /// Ended where a person has to help.
    Stuck,
    /// Committed, and turned bad before the release was proven.
    Unhealthy,
    /// Admitted, and not at an end within the limit.
    TimedOut,
    /// Silent since it was offered the release.
    NeverFetched,
    /// Silent since it fetched.
    NeverStarted,
    /// Silent since it began.
    LostAfterStart,
}

impl FailureKind {
    /// Every kind.
    pub const ALL: [FailureKind; 8] = [
        FailureKind::RolledBack,
        FailureKind::Refused,
        FailureKind::Stuck,
        FailureKind::Unhealthy,
        FailureKind::TimedOut,
        FailureKind::NeverFetched,
        FailureKind::NeverStarted,
        FailureKind::LostAfterStart,
    ];

    /// The word of tables and metrics.
    pub fn word(self) -> &'static str {
        match self {
            FailureKind::RolledBack => "rolled-back",
            FailureKind::Refused => "refused",
            FailureKind::Stuck => "stuck",
            FailureKind::Unhealthy => "unhealthy",
            FailureKind::TimedOut => "timed-out",
            FailureKind::NeverFetched => "never-fetched",
            FailureKind::NeverStarted => "never-started",
            FailureKind::LostAfterStart => "lost-after-start",
        }
    }

    /// Whether the host has fallen silent, rather than said what is wrong.
    pub fn is_silence(self) -> bool {
        match self {
            FailureKind::NeverFetched | FailureKind::NeverStarted | FailureKind::LostAfterStart => {
                true
            }
            FailureKind::RolledBack
            | FailureKind::Refused
            | FailureKind::Stuck
            | FailureKind::Unhealthy
            | FailureKind::TimedOut => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_a_newer_agent_is_neither_idle_nor_healthy() {
        assert_eq!(Phase::parse(""), None);
        assert_eq!(Phase::parse("levitating").map(Phase::stage), Some(Stage::Started));
        assert!(!Health::parse("superb").is_healthy());
        for phase in Phase::ALL {
            assert_eq!(Phase::parse(phase.word()), Some(phase));
        }
    }
}
