//! Why an update did not go on, and whose fault that is. What is blamed decides what follows: weather
//! is tried again, a release that failed here is not taken a second time.

use std::fmt;

use refit_proto::cause;
use serde::{Deserialize, Serialize};

use super::{ids::BackupId, set_aside::SetAside};

/// Why an update did not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The host's own trust does not permit the release on its ring.
    NotPermitted,
    /// Enough keys signed its promotion, but not the right people.
    NotApproved,
    /// Its promotion lacks what the ring demands: a digest, or a ring that comes before.
    NotProven,
    /// It is below the floor, or its promotion sets a floor above it.
    BelowFloor,
    /// The release failed here before.
    Quarantined,
    /// Too many updates of the product failed here.
    FailedTooOften,
    /// The metadata that would permit it has expired.
    MetadataExpired,
    /// The release needs what this host or this agent does not have.
    Unsupported,
    /// A file is not what the signed manifest says.
    ContentMismatch,
    /// A file system has no room, in bytes or inodes.
    NoSpace,
    /// Content did not come: the network, a mirror or the server.
    FetchFailed,
    /// The server cannot be reached, or answers that it cannot.
    ServerAway,
    /// The server does not give the leave to begin.
    LeaseDenied,
    /// Another program holds what the update needs, such as the package manager's lock.
    Busy,
    /// The backup could not be copied to its second place, which the host's owner requires.
    SecondPlaceAway,
    /// A release of the agent itself did not qualify beside the one that runs.
    NotQualified,
    /// The backup could not be made, sealed or test-restored.
    BackupFailed,
    /// A hook of the release failed.
    HookFailed,
    /// A service did not stop.
    ServicesDidNotStop,
    /// The release could not be put in its place.
    SwitchFailed,
    /// A service of the new release did not start.
    ServicesDidNotStart,
    /// A health check said that the new release is not healthy.
    HealthCheckFailed,
    /// The check fails, and it failed before the update too.
    UnhealthyBefore,
    /// What runs is not healthy, and this host takes no update then.
    RedBefore,
    /// A step took longer than it may.
    TimedOut,
    /// The host did not boot when asked.
    RebootFailed,
    /// Something on the host, or the server, held off the boot that the release needs for too long.
    RebootHeld,
    /// The agent was ended in the middle of the update too many times.
    Interrupted,
    /// The server ordered the host to go back.
    BackedOut,
    /// A person on the host brought a backup back.
    Restored,
    /// Another hand has changed what is installed, and the host's owner wants no update then.
    ChangedOnHost,
    /// The sealed backup is not what was sealed.
    BackupDamaged,
    /// What undoes an update failed.
    RollbackFailed,
    /// The agent's own record of the update cannot be read.
    JournalUnreadable,
    /// The host failed in a way that has no name of its own: an input or output error.
    HostFault,
    /// A cause that a later version of the agent has written and this one does not know.
    #[serde(other)]
    Unrecognised,
}

/// Who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The release: it is not taken a second time.
    Release,
    /// The host: its owner has to look at it.
    Host,
    /// Nobody: the host tries again by itself.
    Weather,
    /// A person or the server's policy, who said so.
    Order,
}

impl Cause {
    /// All of them.
    pub const ALL: [Cause; 36] = [
        Cause::NotPermitted,
        Cause::NotApproved,
        Cause::NotProven,
        Cause::BelowFloor,
        Cause::Quarantined,
        Cause::FailedTooOften,
        Cause::MetadataExpired,
        Cause::Unsupported,
        Cause::ContentMismatch,
        Cause::NoSpace,
        Cause::FetchFailed,
        Cause::ServerAway,
        Cause::LeaseDenied,
        Cause::Busy,
        Cause::SecondPlaceAway,
        Cause::NotQualified,
        Cause::BackupFailed,
        Cause::HookFailed,
        Cause::ServicesDidNotStop,
        Cause::SwitchFailed,
        Cause::ServicesDidNotStart,
        Cause::HealthCheckFailed,
        Cause::UnhealthyBefore,
        Cause::RedBefore,
        Cause::TimedOut,
        Cause::RebootFailed,
        Cause::RebootHeld,
        Cause::Interrupted,
        Cause::BackedOut,
        Cause::Restored,
        Cause::ChangedOnHost,
        Cause::BackupDamaged,
        Cause::RollbackFailed,
        Cause::JournalUnreadable,
        Cause::HostFault,
        Cause::Unrecognised,
    ];

    /// Who has to act.
    pub fn blame(self) -> Blame {
        match self {
            Cause::ContentMismatch
            | Cause::NotQualified
            | Cause::HookFailed
            | Cause::ServicesDidNotStart
            | Cause::HealthCheckFailed
            | Cause::TimedOut
            | Cause::Interrupted => Blame::Release,
            Cause::Unsupported
            | Cause::NoSpace
            | Cause::BackupFailed
            | Cause::ServicesDidNotStop
            | Cause::SwitchFailed
            | Cause::UnhealthyBefore
            | Cause::RebootFailed
            | Cause::RebootHeld
            | Cause::ChangedOnHost
            | Cause::BackupDamaged
            | Cause::RollbackFailed
            | Cause::JournalUnreadable
            | Cause::HostFault
            | Cause::Unrecognised => Blame::Host,
            Cause::MetadataExpired
            | Cause::FetchFailed
            | Cause::ServerAway
            | Cause::LeaseDenied
            | Cause::Busy
            | Cause::SecondPlaceAway => Blame::Weather,
            Cause::NotPermitted
            | Cause::NotApproved
            | Cause::NotProven
            | Cause::BelowFloor
            | Cause::Quarantined
            | Cause::FailedTooOften
            | Cause::RedBefore
            | Cause::BackedOut
            | Cause::Restored => Blame::Order,
        }
    }

    /// The word on the wire (`Failure.cause`) and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::NotPermitted => cause::NOT_PERMITTED,
            Cause::NotApproved => cause::NOT_APPROVED,
            Cause::NotProven => cause::NOT_PROVEN,
            Cause::BelowFloor => cause::BELOW_FLOOR,
            Cause::Quarantined => cause::QUARANTINED,
            Cause::FailedTooOften => cause::FAILED_TOO_OFTEN,
            Cause::MetadataExpired => cause::METADATA_EXPIRED,
            Cause::Unsupported => "unsupported",
            Cause::ContentMismatch => "content-mismatch",
            Cause::NoSpace => "no-space",
            Cause::FetchFailed => cause::FETCH_FAILED,
            Cause::ServerAway => cause::SERVER_AWAY,
            Cause::LeaseDenied => cause::LEASE_DENIED,
            Cause::Busy => cause::BUSY,
            Cause::SecondPlaceAway => cause::SECOND_PLACE_AWAY,
            Cause::NotQualified => "not-qualified",
            Cause::BackupFailed => "backup-failed",
            Cause::HookFailed => "hook-failed",
            Cause::ServicesDidNotStop => "services-did-not-stop",
            Cause::SwitchFailed => "switch-failed",
            Cause::ServicesDidNotStart => "services-did-not-start",
            Cause::HealthCheckFailed => "health-check-failed",
            Cause::UnhealthyBefore => "unhealthy-before",
            Cause::RedBefore => cause::RED_BEFORE,
            Cause::TimedOut => "timed-out",
            Cause::RebootFailed => "reboot-failed",
            Cause::RebootHeld => "reboot-held",
            Cause::ChangedOnHost => "changed-on-host",
            Cause::Interrupted => "interrupted",
            Cause::BackedOut => cause::BACKED_OUT,
            Cause::Restored => cause::RESTORED,
            Cause::BackupDamaged => "backup-damaged",
            Cause::RollbackFailed => "rollback-failed",
            Cause::JournalUnreadable => "journal-unreadable",
            Cause::HostFault => "host-fault",
            Cause::Unrecognised => "unrecognised",
        }
    }

    /// What to do about it (`Failure.help`).
    pub fn help(self) -> &'static str {
        match self {
            Cause::NotPermitted => {
                "promote the release to this host's ring, or wait until its signatures reach the host"
            }
            Cause::NotApproved => {
                "let the persons sign the promotion whose approvals the ring needs"
            }
            Cause::NotProven => {
                "promote the release with what the ring demands, and to the rings before it first"
            }
            Cause::BelowFloor => "promote a release whose counter is at or above the floor",
            Cause::Quarantined => {
                "publish a corrected release, or promote this one again naming its digest under `retry`"
            }
            Cause::FailedTooOften => {
                "find out why, then let it come again on the host, `refit-agent brake forgive`, or by a promotion that names its digest under `retry`"
            }
            Cause::MetadataExpired => {
                "renew the expired metadata on the server; the host goes on by itself"
            }
            Cause::Unsupported => "update the agent, or build the release for this host's platform",
            Cause::ContentMismatch => {
                "publish the release's content again and look at who changed it on its way"
            }
            Cause::NoSpace => {
                "free space on the named file system; the server offers the release again"
            }
            Cause::FetchFailed => {
                "nothing: the host tries again; look at the network or the mirror if it lasts"
            }
            Cause::ServerAway => {
                "nothing: the host tries again; look at the server or the network if it lasts"
            }
            Cause::LeaseDenied => {
                "nothing: the host asks again; the rollout's hold says what it waits for"
            }
            Cause::Busy => {
                "nothing: the host tries again; end the program that is named if it lasts"
            }
            Cause::SecondPlaceAway => {
                "nothing: the host tries again; look at the second place of its backups if it lasts"
            }
            Cause::NotQualified => {
                "publish a corrected release of the agent; the host keeps the agent that it has"
            }
            Cause::BackupFailed => {
                "repair what could not be saved; nothing on the host was changed"
            }
            Cause::HookFailed => {
                "read what the hook wrote (`refit-agent status`; all of it in `hooks/` of the agent's data folder) and correct the release, or what it says under `hooks` that it needs"
            }
            Cause::ServicesDidNotStop => "look at the named service on the host",
            Cause::SwitchFailed => "look at the named file on the host",
            Cause::ServicesDidNotStart => {
                "read the service's log on the host and correct the release"
            }
            Cause::HealthCheckFailed => {
                "read the service's log on the host and correct the release"
            }
            Cause::UnhealthyBefore => {
                "repair the service on the host: it was not healthy before the update either"
            }
            Cause::RedBefore => {
                "repair the service on the host, or let updates come to it as it is: `health.red_before`"
            }
            Cause::TimedOut => {
                "read the service's log on the host, and give the step more time in the manifest if it needs it"
            }
            Cause::RebootFailed => "reboot the host by hand",
            Cause::RebootHeld => {
                "end what held the boot off (`systemd-inhibit --list`), or give it longer with `reboot_hold_seconds`"
            }
            Cause::Interrupted => {
                "find out what ends the agent or the host while this release is installed"
            }
            Cause::BackedOut => "nothing: the order came from the server",
            Cause::Restored => {
                "publish a corrected release, or lift the quarantine on the host: `refit-agent quarantine lift`"
            }
            Cause::ChangedOnHost => {
                "find out who changed it, and put it back as it was or set `drift.policy = \"show\"`; then have the release offered again"
            }
            Cause::BackupDamaged => "go on by docs/RUNBOOK.md, \"Stuck host\"; check the disk",
            Cause::RollbackFailed => "go on by docs/RUNBOOK.md, \"Stuck host\"",
            Cause::JournalUnreadable => "check the host's disk; the damaged store was set aside",
            Cause::HostFault => "look at the host's log and its disk",
            Cause::Unrecognised => "update the agent to the version that wrote this",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Longest text of a failure that is kept: it is journaled at every step and reported.
const LONGEST_TEXT: usize = 1000;

/// What went wrong in particular: the cause, and one sentence that names the thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}\nhelp: {}", cause.help())]
pub struct Failure {
    /// For machines.
    pub cause: Cause,
    /// For people: one sentence that names the thing and the cause, without the help.
    pub text: String,
    /// The end of what the failed release's services wrote, where going back has kept it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log: String,
}

impl Failure {
    /// A failure of this cause; a text that is too long is cut.
    pub fn new(cause: Cause, text: impl Into<String>) -> Failure {
        let text: String = text.into();
        let text = text.chars().take(LONGEST_TEXT).collect();
        Failure { cause, text, log: String::new() }
    }

    /// A release does not run any more, since a person on the host brought this backup back.
    pub fn restored(backup: &BackupId) -> Failure {
        Failure::new(Cause::Restored, format!("root on this host brought backup {backup} back"))
    }

    /// The same failure, which also names where that is kept which going back found in its way. The
    /// names come whole: of the rest, as much is kept as there is room for.
    #[must_use]
    pub fn and_kept(self, kept: &[SetAside]) -> Failure {
        if kept.is_empty() {
            return self;
        }
        let named: Vec<_> = kept.iter().map(SetAside::to_string).collect();
        let named = format!("; what it had written is kept in {}", named.join(", "));
        let room = LONGEST_TEXT.saturating_sub(named.chars().count());
        let text: String = self.text.chars().take(room).collect();
        Failure::new(self.cause, text + &named)
    }

    /// The same failure with the end of the log of what failed.
    #[must_use]
    pub fn with_log(self, log: String) -> Failure {
        Failure { log, ..self }
    }

    /// Who has to act.
    pub fn blame(&self) -> Blame {
        self.cause.blame()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_of_a_cause_is_the_one_in_the_journal() {
        for cause in Cause::ALL {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.as_str());
        }
    }

    #[test]
    fn the_server_does_not_count_just_those_causes_for_which_nobody_is_to_blame() {
        for cause in Cause::ALL {
            let blameless = matches!(cause.blame(), Blame::Weather | Blame::Order);
            assert_eq!(cause::BLAMELESS.contains(&cause.as_str()), blameless, "{cause}");
        }
    }

    #[test]
    fn a_cause_of_a_later_version_is_still_read() {
        let cause: Cause = serde_json::from_str("\"eaten-by-a-grue\"").unwrap();
        assert_eq!(cause, Cause::Unrecognised);
    }
}
