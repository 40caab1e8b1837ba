//! Why something does not move: one reason for each, with since, until and who can change it. What a
//! hold says is what `refit rollout status`, the page and the host itself print.

use jiff::Timestamp;
use refit_proto::{
    cause,
    hours::Zone,
    names::{Digest, RingName, Version},
    wire,
};

use crate::fleet::{FailureKind, HaltReason, ReportedHold};

/// Why something does not move now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The reason.
    pub reason: HoldReason,
    /// Since when.
    pub since: Timestamp,
    /// Until when; `None` where it takes somebody's act.
    pub until: Option<Timestamp>,
}

/// The reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldReason {
    /// No ring selects the host.
    NoRing,
    /// Nothing was ever promoted to the ring.
    NothingPromoted,
    /// Nobody has set the unsigned part of the ring, and without limits nothing moves.
    NoPolicy,
    /// The ring selects no host.
    NoHosts,
    /// The ring before does not run the same release, healthy and soaked.
    Behind(RingName),
    /// The release was withdrawn.
    Withdrawn(Version),
    /// A person paused the rollout.
    Paused {
        /// Audit name.
        by: String,
        /// In the person's own words.
        why: String,
    },
    /// The brake stopped the rollout.
    Halted(HaltReason),
    /// The ring is going back, or has gone back.
    RolledBack(Version),
    /// As many hosts as may are in flight.
    AtCapacity {
        /// Hosts in flight.
        updating: u64,
        /// As many as may be.
        allowed: u32,
    },
    /// The wave that may begin is full.
    NextWave {
        /// The one that may begin, from 1.
        wave: u32,
        /// How many there are.
        waves: u32,
    },
    /// Nobody is in flight, and these hosts have not asked for their leave yet.
    HostsNotReady(u64),
    /// Hosts run the release, and nobody can say yet that it is healthy there.
    Unproven(u64),
    /// Every host of the ring that is left is away.
    AllAway(u64),
    /// No host of the ring is healthy on the release.
    NoneHealthy,
    /// Every host is through; the release has to prove itself until then.
    Soaking,
    /// No window is open.
    OutsideWindow,
    /// It is a time that is to be avoided.
    Avoided,
    /// A freeze.
    Frozen(String),
    /// Nobody knows what time it is there.
    UnknownZone(Zone),
    /// Something was changed a moment ago.
    Settling,
    /// The host runs something newer.
    Ahead,
    /// The host refuses the release since it failed there.
    Quarantined(Digest),
    /// The host's last attempt failed; it is not tried again in this count.
    Failed(FailureKind),
    /// Attempts ended early again and again, and nobody is to blame; the next comes later.
    TriedBefore(u32),
    /// The host has not been heard since the rollout started.
    Away,
    /// Two machines report with the host's keys.
    SharedIdentity,
    /// The host may not call any more.
    Revoked,
    /// What the host asks leave for is not what it is offered now.
    NotOffered,
    /// The host itself does not move.
    Host(ReportedHold),
}

impl Hold {
    /// A hold that ends by somebody's act.
    pub fn new(reason: HoldReason, since: Timestamp) -> Hold {
        Hold { reason, since, until: None }
    }

    /// A hold that ends by itself.
    pub fn until(reason: HoldReason, since: Timestamp, until: Timestamp) -> Hold {
        Hold { reason, since, until: Some(until) }
    }
}

impl HoldReason {
    /// The machine-readable word of the wire.
    pub fn word(&self) -> &str {
        match self {
            HoldReason::NoRing => "no-ring",
            HoldReason::NothingPromoted => "nothing-promoted",
            HoldReason::NoPolicy => "no-policy",
            HoldReason::NoHosts => "no-hosts",
            HoldReason::Behind(_) => "behind",
            HoldReason::Withdrawn(_) => "withdrawn",
            HoldReason::Paused { .. } => cause::PAUSED,
            HoldReason::Halted(_) => cause::HALTED,
            HoldReason::RolledBack(_) => cause::ROLLED_BACK,
            HoldReason::AtCapacity { .. } => "at-capacity",
            HoldReason::NextWave { .. } => "next-wave",
            HoldReason::HostsNotReady(_) => "hosts-not-ready",
            HoldReason::Unproven(_) => "unproven",
            HoldReason::AllAway(_) => "all-away",
            HoldReason::NoneHealthy => "none-healthy",
            HoldReason::Soaking => "soaking",
            HoldReason::OutsideWindow => "outside-window",
            HoldReason::Avoided => "avoided-hours",
            HoldReason::Frozen(_) => "frozen",
            HoldReason::UnknownZone(_) => "unknown-zone",
            HoldReason::Settling => "settling",
            HoldReason::Ahead => "ahead",
            HoldReason::Quarantined(_) => "quarantined",
            HoldReason::Failed(_) => "failed",
            HoldReason::TriedBefore(_) => "tried-before",
            HoldReason::Away => "away",
            HoldReason::SharedIdentity => "shared-identity",
            HoldReason::Revoked => "revoked",
            HoldReason::NotOffered => "not-offered",
            HoldReason::Host(hold) => &hold.reason,
        }
    }

    /// One sentence for people.
    pub fn text(&self) -> String {
        match self {
            HoldReason::NoRing => "no ring selects this host, so it is left alone".into(),
            HoldReason::NothingPromoted => "nothing has been promoted to this ring".into(),
            HoldReason::NoPolicy => "nobody has set limits for this ring (refit apply)".into(),
            HoldReason::NoHosts => "the ring selects no host".into(),
            HoldReason::Behind(ring) => {
                format!("waits until ring {ring} runs the same release, healthy and soaked")
            }
            HoldReason::Withdrawn(version) => format!("release {version} was withdrawn"),
            HoldReason::Paused { by, why } if why.is_empty() => format!("paused by {by}"),
            HoldReason::Paused { by, why } => format!("paused by {by}: {why}"),
            HoldReason::Halted(reason) => halt_text(*reason),
            HoldReason::RolledBack(version) => format!("the ring goes back from {version}"),
            HoldReason::AtCapacity { updating, allowed } => {
                format!("{updating} of at most {allowed} hosts are in flight")
            }
            HoldReason::NextWave { wave, waves } => {
                format!("wave {wave} of {waves} is full and has to come through first")
            }
            HoldReason::HostsNotReady(hosts) => {
                format!("{} not ready to begin yet", are(*hosts))
            }
            HoldReason::Unproven(hosts) => {
                format!("{} on the release, but not known to be healthy", are(*hosts))
            }
            HoldReason::AllAway(hosts) => {
                format!("{} away since before the rollout began", are(*hosts))
            }
            HoldReason::NoneHealthy => "no host of the ring is healthy on the release".into(),
            HoldReason::Soaking => "every host is through; the release is proving itself".into(),
            HoldReason::OutsideWindow => "no window for updates is open here".into(),
            HoldReason::Avoided => "updates avoid this time of day here".into(),
            HoldReason::Frozen(why) => format!("a freeze: {why}"),
            HoldReason::UnknownZone(Zone::Host) => {
                "its windows go by the host's own clock, and the host reports no time zone".into()
            }
            HoldReason::UnknownZone(Zone::Named(name)) => {
                format!("its windows go by time zone {name}, which the server does not know")
            }
            HoldReason::Settling => {
                "promoted, or its windows changed, a moment ago: nothing begins at once".into()
            }
            HoldReason::Ahead => "a newer release runs here and is left alone".into(),
            HoldReason::Quarantined(digest) => {
                format!("release {} failed on this host and is refused", digest.short())
            }
            HoldReason::Failed(kind) => format!("the last attempt failed: {}", kind.word()),
            HoldReason::TriedBefore(attempts) => {
                format!("{attempts} attempts ended before they began; the next comes later")
            }
            HoldReason::Away => "not heard since before the rollout began".into(),
            HoldReason::SharedIdentity => {
                "two machines report with this host's keys, or it was restored from an image: enroll it again"
                    .into()
            }
            HoldReason::Revoked => "the host's certificate is revoked".into(),
            HoldReason::NotOffered => "this release is not offered to this host now".into(),
            HoldReason::Host(hold) => hold.text.clone(),
        }
    }

    /// Who can change it.
    pub fn who(&self) -> &str {
        match self {
            HoldReason::NoRing => "policy signers",
            HoldReason::NothingPromoted | HoldReason::RolledBack(_) | HoldReason::Withdrawn(_) => {
                "ring signers"
            }
            HoldReason::Quarantined(_) => "ring signers, with retry",
            HoldReason::NoPolicy | HoldReason::NoHosts => "administrator",
            HoldReason::Behind(_) => "the ring before",
            HoldReason::Paused { .. }
            | HoldReason::Halted(_)
            | HoldReason::NoneHealthy
            | HoldReason::Failed(_) => "operator",
            HoldReason::AtCapacity { .. } | HoldReason::NextWave { .. } => "the hosts in flight",
            HoldReason::HostsNotReady(_)
            | HoldReason::Unproven(_)
            | HoldReason::AllAway(_)
            | HoldReason::Away
            | HoldReason::NotOffered => "the host",
            HoldReason::Soaking | HoldReason::TriedBefore(_) | HoldReason::Settling => "time",
            HoldReason::OutsideWindow | HoldReason::Avoided => {
                "administrator, or ring signers with --override window"
            }
            HoldReason::Frozen(_) => "administrator, or ring signers with --override freeze",
            HoldReason::UnknownZone(_) => "administrator",
            HoldReason::Ahead => "operator, by rollback",
            HoldReason::SharedIdentity | HoldReason::Revoked => "administrator",
            HoldReason::Host(hold) if hold.who.is_empty() => "the host",
            HoldReason::Host(hold) => &hold.who,
        }
    }
}

fn are(hosts: u64) -> String {
    if hosts == 1 { "1 host is".into() } else { format!("{hosts} hosts are") }
}

fn halt_text(reason: HaltReason) -> String {
    match reason {
        HaltReason::Count { failed, allowed } => {
            format!("{failed} failed; the limit is {allowed}")
        }
        HaltReason::Share { failed, total, percent } => {
            format!("{failed} of {total} failed; the limit is {percent} %")
        }
    }
}

impl From<Hold> for wire::Hold {
    fn from(hold: Hold) -> wire::Hold {
        wire::Hold {
            reason: hold.reason.word().to_owned(),
            text: hold.reason.text(),
            since: hold.since.to_string(),
            until: hold.until.map(|at| at.to_string()).unwrap_or_default(),
            who: hold.reason.who().to_owned(),
        }
    }
}
