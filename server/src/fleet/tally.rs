//! Counting without a scan: each placement stands in exactly one cell, so that a change of a placement
//! is at most one cell less and one more, and every count of a ring is a sum over its few cells.

use refit_proto::names::{Product, RingName};
use serde::{Deserialize, Serialize};

use super::{
    FailureKind, Have, Health, Placement, RolloutId,
    placement::{Phase, Stage},
};

/// A cell: all that a rollout, a gate or a metric asks about a placement. Product and ring come first,
/// since cells are read by ring.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TallyKey {
    /// Of which product.
    pub product: Product,
    /// In which ring; `None`: no ring selects the host.
    pub ring: Option<RingName>,
    /// What runs.
    pub have: Option<Have>,
    /// How it is.
    pub health: Health,
    /// The rollout that it is in flight for.
    pub flight: Option<RolloutId>,
    /// An update is past its backup, in flight or not.
    pub begun: bool,
    /// The rollout that it has been in touch with.
    pub met: Option<RolloutId>,
    /// The failure that counts, with rollout and count.
    pub failed: Option<(RolloutId, u32, FailureKind)>,
    /// It refuses the release of `met`.
    pub refuses: bool,
    /// What runs is newer than what is promoted.
    pub ahead: bool,
}

impl TallyKey {
    /// The one cell that a placement stands in.
    pub fn of(placement: &Placement) -> TallyKey {
        TallyKey {
            product: placement.product.clone(),
            ring: placement.ring.clone(),
            have: placement.have.clone(),
            health: placement.health,
            flight: placement.flight.as_ref().map(|flight| flight.rollout.clone()),
            begun: placement.phase.map(Phase::stage) == Some(Stage::Started),
            met: placement.met.clone(),
            failed: placement
                .failed
                .as_ref()
                .map(|failed| (failed.rollout.clone(), failed.count, failed.kind)),
            refuses: placement.refuses,
            ahead: placement.ahead,
        }
    }
}

/// What a commit adds to the cells when a placement changes. `None`: it is not there.
pub fn changes(before: Option<&Placement>, after: Option<&Placement>) -> Vec<(TallyKey, i64)> {
    let (before, after) = (before.map(TallyKey::of), after.map(TallyKey::of));
    if before == after {
        return Vec::new();
    }
    let less = before.map(|cell| (cell, -1));
    let more = after.map(|cell| (cell, 1));
    less.into_iter().chain(more).collect()
}

/// The cells of a ring or of a fleet, as the store sums them up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally(pub Vec<(TallyKey, i64)>);

impl Tally {
    /// Counts placements themselves: for tests, and for checking a store.
    pub fn recount<'a>(placements: impl IntoIterator<Item = &'a Placement>) -> Tally {
        let mut cells = std::collections::BTreeMap::<TallyKey, i64>::new();
        for placement in placements {
            *cells.entry(TallyKey::of(placement)).or_default() += 1;
        }
        Tally(cells.into_iter().collect())
    }

    /// How many placements stand in the cells that pass.
    pub fn count(&self, pass: impl Fn(&TallyKey) -> bool) -> u64 {
        let sum: i64 = self.0.iter().filter(|(cell, _)| pass(cell)).map(|(_, n)| n).sum();
        // Below zero only where a store has miscounted; then nobody is there, rather than 2^64.
        u64::try_from(sum).unwrap_or(0)
    }
}
