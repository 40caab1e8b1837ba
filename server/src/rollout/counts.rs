//! How the hosts of a ring stand towards its rollout, summed up from cells. Every host is in exactly one
//! class; only `failed` is counted apart, since a failure stays counted even where the host came
//! through later.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::fleet::{FailureKind, Have, RingPolicy, Rollout, Tally, TallyKey};

/// A duration that a record gives in seconds. Longer than the calendar is as good as for ever.
pub(crate) fn after(from: Timestamp, seconds: u64) -> Timestamp {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    from.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// What a cell is to a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Has leave, or is past its backup without.
    InFlight,
    /// Runs the release, and a gate may count it.
    Healthy,
    /// Runs the release, and no gate may count it.
    Unproven,
    /// Failed in this count and does not run the release.
    Failed,
    /// Runs something newer.
    Ahead,
    /// Refuses the release since it failed there.
    Quarantined,
    /// In touch, and still to go.
    Waiting,
    /// Not heard since the rollout started.
    Unmet,
}

fn class(cell: &TallyKey, rollout: &Rollout) -> Class {
    let runs = |have: &Have| have.digest == rollout.release.digest;
    let failed = failed_in(cell, rollout).is_some();
    let met = cell.met.as_ref() == Some(&rollout.id);
    if cell.flight.is_some() {
        Class::InFlight
    } else if cell.begun {
        // Lost on the way. Once it is counted as failed, or was never heard in this rollout, nobody
        // waits for it.
        match (failed, met) {
            (true, _) => Class::Failed,
            (false, true) => Class::InFlight,
            (false, false) => Class::Unmet,
        }
    } else if cell.have.as_ref().is_some_and(runs) {
        match (cell.health.is_healthy(), failed) {
            (true, _) => Class::Healthy,
            (false, true) => Class::Failed,
            (false, false) => Class::Unproven,
        }
    } else if failed {
        Class::Failed
    } else if cell.ahead {
        Class::Ahead
    } else if !met {
        Class::Unmet
    } else if cell.refuses {
        Class::Quarantined
    } else {
        Class::Waiting
    }
}

fn failed_in(cell: &TallyKey, rollout: &Rollout) -> Option<FailureKind> {
    match &cell.failed {
        Some((id, count, kind)) if *id == rollout.id && *count == rollout.count => Some(*kind),
        Some(_) | None => None,
    }
}

/// How the hosts of a ring stand towards its rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Hosts of the ring.
    pub total: u64,
    /// In touch, and still to go.
    pub waiting: u64,
    /// Under way, for this rollout or an earlier one.
    pub in_flight: u64,
    /// Hold a slot: as `in_flight`, without those that are under way although their leave was taken
    /// back after a long silence.
    pub slots: u64,
    /// Run the release, healthy.
    pub healthy: u64,
    /// Run the release, not known to be healthy.
    pub unproven: u64,
    /// Failed in this count, by kind; also those that came through later.
    pub failed: BTreeMap<FailureKind, u64>,
    /// Not heard since before the rollout started. Not failed.
    pub away: u64,
    /// Refuse the release since it failed there.
    pub quarantined: u64,
    /// Run something newer.
    pub ahead: u64,
    /// Hosts that fill the waves so far. A host that failed leaves its place to another, so that a wave
    /// ends with healthy hosts, or by the brake.
    pub begun: u64,
    /// Hosts that run the release, whatever their health.
    pub on_release: u64,
}

impl Counts {
    /// Sums up the cells of a ring. Before the rollout has started everybody is waiting; and a host
    /// has `silence_seconds` to show up before it counts as away.
    pub fn of(
        tally: &Tally,
        rollout: &Rollout,
        policy: Option<&RingPolicy>,
        now: Timestamp,
    ) -> Counts {
        let expected = match (rollout.started_at, policy) {
            (Some(started), Some(policy)) => now < after(started, policy.silence_seconds),
            (None, _) | (_, None) => true,
        };
        let of = |wanted: Class| tally.count(|cell| class(cell, rollout) == wanted);
        let unmet = of(Class::Unmet);
        let (late, away) = if expected { (unmet, 0) } else { (0, unmet) };
        let in_flight = of(Class::InFlight);
        let (healthy, unproven) = (of(Class::Healthy), of(Class::Unproven));
        Counts {
            total: tally.count(|_| true),
            waiting: of(Class::Waiting) + late,
            in_flight,
            slots: tally.count(|cell| cell.flight.is_some()),
            healthy,
            unproven,
            failed: failures(tally, rollout),
            away,
            quarantined: of(Class::Quarantined),
            ahead: of(Class::Ahead),
            begun: in_flight + healthy + unproven,
            on_release: tally.count(|cell| {
                cell.have.as_ref().is_some_and(|have| have.digest == rollout.release.digest)
            }),
        }
    }

    /// All failures of the count.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Every host is through that could be: nobody waits, nobody is under way, nobody is unproven, and
    /// at least one host shows that the release works.
    pub fn settled(&self) -> bool {
        self.waiting == 0 && self.in_flight == 0 && self.unproven == 0 && self.healthy > 0
    }
}

fn failures(tally: &Tally, rollout: &Rollout) -> BTreeMap<FailureKind, u64> {
    FailureKind::ALL
        .into_iter()
        .map(|kind| (kind, tally.count(|cell| failed_in(cell, rollout) == Some(kind))))
        .filter(|(_, hosts)| *hosts > 0)
        .collect()
}
