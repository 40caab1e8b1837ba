//! Why a host would not go to a release as it stands now, whatever the clock says.

use refit_proto::names::Platform;

use crate::rollout::HoldReason;

/// The reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Blocked {
    /// One that holds it in any rollout, too.
    Held(HoldReason),
    /// The release brings nothing for what it runs on.
    Platform(Platform),
    /// An update before has ended where a person has to help.
    Stuck,
    /// Not heard for a while.
    Silent,
    /// What it holds of the signed metadata has expired.
    Expired,
    /// The release alone is larger than what is free there.
    Disk {
        /// Bytes of what the release brings; its backup comes to that.
        needed: u64,
    },
}

impl Blocked {
    /// The machine-readable word.
    pub(super) fn word(&self) -> &str {
        match self {
            Blocked::Held(reason) => reason.word(),
            Blocked::Platform(_) => "no-package",
            Blocked::Stuck => "stuck",
            Blocked::Silent => "away",
            Blocked::Expired => "metadata-expired",
            Blocked::Disk { .. } => "disk-full",
        }
    }

    /// One sentence for people.
    pub(super) fn text(&self) -> String {
        match self {
            Blocked::Held(reason) => reason.text(),
            Blocked::Platform(platform) => format!("the release has no package for {platform}"),
            Blocked::Stuck => "an update before ended where a person has to help".into(),
            Blocked::Silent => "not heard for longer than its ring's `silence`".into(),
            Blocked::Expired => "its signed metadata has expired, so it begins nothing new".into(),
            Blocked::Disk { needed } => {
                format!("less is free there than the {needed} bytes that the release brings")
            }
        }
    }

    /// Who can change it.
    pub(super) fn who(&self) -> &str {
        match self {
            Blocked::Held(reason) => reason.who(),
            Blocked::Platform(_) => "publisher",
            Blocked::Stuck => "operator",
            Blocked::Silent | Blocked::Disk { .. } => "the host",
            Blocked::Expired => "trust signers",
        }
    }
}
