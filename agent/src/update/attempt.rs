//! What an update is about, and the evidence it gathers on its way: the terms of the release, the
//! lease, the sealed backup. A state that needs a piece of evidence cannot be built without it.

use std::time::Duration;

use jiff::Timestamp;
use refit_proto::{
    names::{Digest, Product, RingName, Version},
    package::{Health, Manifest, Reboot, WayBack},
};
use serde::{Deserialize, Serialize};

use super::{
    baseline::Baseline,
    event::Verdict,
    ids::{BackupId, InstallId, LeaseId},
    may_begin::{Held, HostHold, held_since},
    method::BackupMethod,
    moment::Moment,
};

/// One release of a product, as a host names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseId {
    /// Its version.
    pub version: Version,
    /// SHA-256 of the release document: what is compared and what is quarantined.
    pub digest: Digest,
}

/// Who wants an update. Whoever it is, what is permitted is signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OrderedBy {
    /// The server offers it, and gives the leave to begin.
    #[default]
    Server,
    /// Root on this host installs it from a bundle: the order is its leave too, since there is nobody
    /// else to ask.
    LocalRoot,
}

impl OrderedBy {
    /// As reports say it (`Attempt.ordered_by`).
    pub fn as_str(self) -> &'static str {
        match self {
            OrderedBy::Server => "",
            OrderedBy::LocalRoot => "local-root",
        }
    }

    fn is_server(&self) -> bool {
        *self == OrderedBy::Server
    }
}

/// One try to bring one release of one product to this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Chosen by the host, never used again.
    pub install: InstallId,
    /// The product.
    pub product: Product,
    /// The release to bring.
    pub release: ReleaseId,
    /// The ring through which it came, as the host itself decided.
    pub ring: RingName,
    /// The rollout, as the server names it; only repeated in reports.
    pub rollout: String,
    /// Which attempt of the rollout on this host, as the server counts; only repeated in reports.
    pub number: u32,
    /// The ring goes back: the release is the ring's `back`.
    pub rollback: bool,
    /// What was installed when the attempt began; `None`: nothing, so that going back leaves nothing.
    pub previous: Option<ReleaseId>,
    /// Who wants it.
    #[serde(default, skip_serializing_if = "OrderedBy::is_server")]
    pub ordered_by: OrderedBy,
}

/// What the release's manifests say about how it wants to be brought in and judged. Known as soon as
/// the manifests are here, so that everything later goes by what was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// For how much running time the release must be healthy, without a break, before it is committed.
    pub probation: Duration,
    /// After how much running time in probation the host stops waiting for a verdict.
    pub probation_max: Duration,
    /// How often health is checked.
    pub check_every: Duration,
    /// Whether health can be observed at all (`health = "none"`).
    pub health: Observed,
    /// Whether the release can be undone.
    pub way_back: WayBack,
    /// Whether the host must boot to run the release.
    #[serde(serialize_with = "flag_or_reboot", deserialize_with = "reboot_or_flag")]
    pub reboot: Reboot,
    /// Whether update modules have a say at the commit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub modules: bool,
    /// How the backup gets hold of what it saves: room is held for that.
    #[serde(default, skip_serializing_if = "BackupMethod::is_copy")]
    pub saves_by: BackupMethod,
    /// Whether somebody else's backup stands for data that stays. An agent that does not know this saves it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub data_outside: bool,
}

/// An agent of before there were boots wrote and reads a flag, which was always off.
fn flag_or_reboot<S: serde::Serializer>(reboot: &Reboot, to: S) -> Result<S::Ok, S::Error> {
    match reboot {
        Reboot::Never => to.serialize_bool(false),
        Reboot::WhenRequired | Reboot::Always => reboot.serialize(to),
    }
}

fn reboot_or_flag<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Reboot, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Flag(bool),
        Word(Reboot),
    }
    Ok(match Written::deserialize(from)? {
        Written::Flag(false) => Reboot::Never,
        Written::Flag(true) => Reboot::Always,
        Written::Word(word) => word,
    })
}

impl Terms {
    /// The terms of a release with these packages: the strictest of them, since they switch together.
    /// A release without a package that runs cannot be observed.
    pub fn of<'a>(way_back: WayBack, manifests: impl IntoIterator<Item = &'a Manifest>) -> Terms {
        let mut terms = Terms {
            probation: Duration::ZERO,
            probation_max: Duration::ZERO,
            check_every: Duration::MAX,
            health: Observed::Not,
            way_back,
            reboot: Reboot::Never,
            modules: false,
            saves_by: BackupMethod::default(),
            data_outside: false,
        };
        for manifest in manifests {
            terms.modules |= manifest.mender.is_some();
            terms.reboot = terms.reboot.max(manifest.reboot);
            let Health::Checked(observed) = &manifest.health else { continue };
            let seconds = |seconds: u32| Duration::from_secs(seconds.into());
            terms.health = Observed::ByChecks;
            terms.probation = terms.probation.max(seconds(observed.good_seconds));
            terms.probation_max = terms.probation_max.max(seconds(observed.max_seconds));
            terms.check_every = terms.check_every.min(seconds(observed.interval_seconds));
        }
        match terms.health {
            Observed::ByChecks => terms,
            Observed::Not => Terms {
                probation_max: Self::UNOBSERVED_MAX,
                check_every: Self::UNOBSERVED_EVERY,
                ..terms
            },
        }
    }

    /// How often an installed tree without checks is looked at, until it was verified once.
    const UNOBSERVED_EVERY: Duration = Duration::from_secs(5);
    /// For how long that is tried: an hour of a disk that cannot be read says enough.
    const UNOBSERVED_MAX: Duration = Duration::from_secs(3600);
}

/// Whether a release's health can be observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Observed {
    /// It has checks.
    ByChecks,
    /// It has none, by name: the installed tree is verified, and the host counts as unobserved.
    Not,
}

/// The leave to begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// As the server names it.
    pub id: LeaseId,
    /// When the host sent its request: the lease counts from here, so that a slow answer never
    /// lengthens it.
    pub asked: Moment,
    /// For how long it holds, in running time.
    pub lasts: Duration,
}

impl Lease {
    /// Whether the lease still holds. After a boot nobody knows for how long the host was off, so it
    /// does not.
    pub fn holds(&self, at: &Moment) -> bool {
        at.since(&self.asked).is_some_and(|passed| passed < self.lasts)
    }
}

/// A backup that is sealed by hash and was test-restored: what it takes to change the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedBackup {
    /// Which backup.
    pub id: BackupId,
    /// SHA-256 of its list of contents. Going back from anything else is refused.
    pub seal: Digest,
}

/// What is known of an update that has begun to change the host: held from Quiescing to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What it is about.
    pub attempt: Attempt,
    /// By which terms.
    pub terms: Terms,
    /// Under which leave.
    pub lease: LeaseId,
    /// What it can go back to; sealed on the way through Sealing.
    pub backup: BackupId,
    /// The verdict on what ran before; `None` if nothing did.
    pub baseline: Option<Verdict>,
    /// What the new release's checks found before the update.
    #[serde(default, skip_serializing_if = "Baseline::is_empty")]
    pub before: Baseline,
    /// How often the agent was started again since the change began.
    #[serde(default)]
    pub starts: u32,
}

/// How often something was tried again because of the weather.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Tries that failed in a row.
    pub failed: u32,
    /// The last of them, so that a host that stands still says why.
    pub last: Option<super::cause::Failure>,
    /// The host's own reasons not to begin now, where it waits for those.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<Held>,
}

impl Retry {
    /// The first pause after a failure.
    const FIRST: Duration = Duration::from_secs(2);
    /// The longest pause: a host is back at work within a quarter of an hour after the weather is.
    const LONGEST: Duration = Duration::from_secs(15 * 60);

    /// How long to wait before the next try: doubled after each failure. Whoever waits adds the
    /// jitter, since that takes chance.
    pub fn pause(&self) -> Duration {
        match self.failed {
            0 => Duration::ZERO,
            failed => Self::FIRST.saturating_mul(1 << (failed - 1).min(16)).min(Self::LONGEST),
        }
    }

    /// While the host's own rules hold it: nothing has failed.
    #[must_use]
    pub(super) fn held(self, holds: Vec<HostHold>, now: Timestamp) -> Retry {
        Retry { holds: held_since(&self.holds, holds, now), ..Retry::default() }
    }

    /// After one more failure.
    #[must_use]
    pub fn after(self, failure: super::cause::Failure) -> Retry {
        Retry { failed: self.failed.saturating_add(1), last: Some(failure), holds: Vec::new() }
    }
}
