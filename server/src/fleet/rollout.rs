//! One release on its way through one ring, as it is stored. What may follow what is decided in
//! `crate::rollout`.

use std::fmt;

use jiff::Timestamp;
use refit_proto::names::{Product, RingName};
use serde::{Deserialize, Serialize};

use super::{Record, ReleaseId};

/// Names a rollout: `payments.pilot.3` is the third of that ring. Since it follows from the rollout
/// before, starting one twice makes one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RolloutId {
    product: Product,
    ring: RingName,
    number: u64,
}

/// A text that names no rollout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a rollout is named like payments.pilot.3: product, ring and number")]
pub struct RolloutIdError;

impl RolloutId {
    /// The rollout of this number of a ring, counted from 1.
    pub fn new(product: Product, ring: RingName, number: u64) -> RolloutId {
        RolloutId { product, ring, number }
    }

    /// Parses `payments.pilot.3`.
    ///
    /// # Errors
    /// Whatever has another form.
    pub fn parse(text: &str) -> Result<RolloutId, RolloutIdError> {
        let mut parts = text.splitn(3, '.');
        let mut part = || parts.next().ok_or(RolloutIdError);
        let product = Product::parse(part()?).map_err(|_| RolloutIdError)?;
        let ring = RingName::parse(part()?).map_err(|_| RolloutIdError)?;
        let digits = part()?;
        let number: u64 = digits.parse().map_err(|_| RolloutIdError)?;
        // One spelling only: no sign, no leading zero.
        if number.to_string() == digits {
            Ok(RolloutId { product, ring, number })
        } else {
            Err(RolloutIdError)
        }
    }

    /// Of which product.
    pub fn product(&self) -> &Product {
        &self.product
    }

    /// Of which ring.
    pub fn ring(&self) -> &RingName {
        &self.ring
    }

    /// Which one of the ring.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl fmt::Display for RolloutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.product, self.ring, self.number)
    }
}

impl TryFrom<String> for RolloutId {
    type Error = RolloutIdError;
    fn try_from(text: String) -> Result<Self, RolloutIdError> {
        RolloutId::parse(&text)
    }
}

impl From<RolloutId> for String {
    fn from(id: RolloutId) -> String {
        id.to_string()
    }
}

/// One release on its way through one ring. The newest of a ring is the one that counts; the older
/// ones are history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its name, which tells product and ring.
    pub id: RolloutId,
    /// What goes out.
    pub release: ReleaseId,
    /// Which promotion asked for it (see [`super::RingRecord::promotion`]).
    pub promotion: u64,
    /// Audit name of who promoted.
    pub promoted_by: String,
    /// Out, or back again.
    pub direction: Direction,
    /// Where it stands.
    pub state: RolloutState,
    /// When the promotion was seen.
    pub created_at: Timestamp,
    /// When the first host could begin. A host that is away since before then counts as `away`.
    pub started_at: Option<Timestamp>,
    /// The wave that may begin, from 1.
    pub wave: u32,
    /// Number of the count that failures go into. A resumed rollout begins a fresh one.
    pub count: u32,
    /// When that count began: silence is counted from then on.
    pub count_since: Timestamp,
    /// How many leases were given. Each one changes the record, so that of two leases given at once on
    /// the same counts the second finds another revision.
    pub granted: u64,
    /// When `state`, `wave`, `direction` or `count` last changed.
    pub changed_at: Timestamp,
}

impl Record for Rollout {
    const NAME: &'static str = "rollout";
}

impl Rollout {
    /// The word of the wire, of tables and of metrics.
    pub fn word(&self) -> &'static str {
        match (&self.state, self.direction) {
            (RolloutState::Waiting, _) => "waiting",
            (RolloutState::Running, _) => "running",
            (RolloutState::Paused { .. }, _) => "paused",
            (RolloutState::Halted { .. }, _) => "halted",
            (RolloutState::RollingBack, _) => "rolling-back",
            (RolloutState::Soaking { .. }, _) => "soaking",
            (RolloutState::Done { .. }, Direction::Forward) => "done",
            (RolloutState::Done { .. }, Direction::Rollback) => "rolled-back",
            (RolloutState::Superseded { .. }, _) => "superseded",
        }
    }
}

/// Which way a rollout takes the hosts of its ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// To the release.
    Forward,
    /// From the release to the ring's `back`.
    Rollback,
}

/// Where a rollout stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum RolloutState {
    /// Its gate is closed: nobody is offered anything yet.
    Waiting,
    /// Hosts are going to the release.
    Running,
    /// Stopped by a person.
    Paused {
        /// Audit name.
        by: String,
        /// In the person's own words.
        reason: String,
    },
    /// Stopped by the brake.
    Halted {
        /// Which limit was reached.
        reason: HaltReason,
    },
    /// Hosts are going to the ring's `back`.
    RollingBack,
    /// Every host is through; the release still has to prove itself.
    Soaking {
        /// When the last host was through.
        since: Timestamp,
    },
    /// Proven, or all the way back. Hosts that join later are still brought along.
    Done {
        /// When.
        at: Timestamp,
    },
    /// Another promotion took its place. Final.
    Superseded {
        /// What took it.
        by: RolloutId,
    },
}

/// Which limit stopped a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "limit")]
pub enum HaltReason {
    /// So many hosts failed.
    Count {
        /// Hosts that failed in this count.
        failed: u64,
        /// As many as that halt.
        allowed: u32,
    },
    /// So large a share of the ring failed.
    Share {
        /// Hosts that failed in this count.
        failed: u64,
        /// Hosts of the ring.
        total: u64,
        /// As many of a hundred as that halt.
        percent: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_has_one_spelling() {
        let id = RolloutId::parse("payments.pilot.3").unwrap();
        assert_eq!(id.to_string(), "payments.pilot.3");
        assert_eq!(
            (id.product().as_str(), id.ring().as_str(), id.number()),
            ("payments", "pilot", 3)
        );
        for bad in [
            "",
            "payments",
            "payments.pilot",
            "payments.pilot.03",
            "payments.pilot.+3",
            "payments.pilot.3.4",
            "payments.pilot.-1",
            "payments..3",
            "Payments.pilot.3",
        ] {
            assert_eq!(RolloutId::parse(bad), Err(RolloutIdError), "{bad}");
        }
    }
}
