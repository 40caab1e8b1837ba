//! Fleet, products, rings and rollouts as the status model shows them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use refit_proto::{names::Product, wire};

use crate::{
    fleet::{FailureKind, Health, ReleaseRecord, Rollout, RolloutState, Tally},
    rollout::{Counts, Plan, RingPlan, brake, plan::waves},
    troubles::Troubled,
};

/// The word for "nothing is installed" where a version would stand. No version has brackets.
pub(super) const NOTHING: &str = "(none)";

/// What the fleet's status is built from.
#[derive(Debug)]
pub struct FleetView<'a> {
    /// When everything here was read.
    pub at: Timestamp,
    /// Revision of the store at which it was read.
    pub revision: u64,
    /// Hosts that count: active and revoked.
    pub hosts: u64,
    /// Hosts that no ring of any product selects.
    pub hosts_without_ring: u64,
    /// Hosts that need a person's eye.
    pub troubled: Troubled,
    /// By name.
    pub products: Vec<ProductPart<'a>>,
    /// The signed metadata in use.
    pub metadata: Vec<wire::MetadataStatus>,
    /// Signed files that wait for signatures.
    pub changes: Vec<wire::ChangeStatus>,
    /// About the server itself.
    pub server: wire::ServerStatus,
}

/// What a product's status is built from.
#[derive(Debug)]
pub struct ProductPart<'a> {
    /// Which product.
    pub product: &'a Product,
    /// What is published.
    pub releases: &'a [ReleaseRecord],
    /// Its plan, made at the same time.
    pub plan: &'a Plan,
    /// Hosts that no ring of it selects.
    pub hosts_without_ring: u64,
}

/// The whole fleet.
pub fn fleet(view: FleetView<'_>) -> wire::FleetStatus {
    wire::FleetStatus {
        at: view.at.to_string(),
        revision: view.revision,
        hosts: view.hosts,
        hosts_without_ring: view.hosts_without_ring,
        hosts_shared_identity: view.troubled.shared_identity,
        hosts_metadata_expired: view.troubled.metadata_expired,
        hosts_metadata_refused: view.troubled.metadata_refused,
        hosts_audit_contradicted: view.troubled.audit_contradicted,
        products: view.products.into_iter().map(product).collect(),
        metadata: view.metadata,
        server: Some(view.server),
        changes: view.changes,
    }
}

fn product(part: ProductPart<'_>) -> wire::ProductStatus {
    let mut releases: Vec<_> = part.releases.iter().collect();
    releases.sort_by_key(|release| std::cmp::Reverse(release.counter));
    wire::ProductStatus {
        product: part.product.to_string(),
        releases: releases.into_iter().map(release).collect(),
        rings: part.plan.rings.iter().map(ring).collect(),
        hosts_without_ring: part.hosts_without_ring,
    }
}

fn release(release: &ReleaseRecord) -> wire::ReleaseStatus {
    wire::ReleaseStatus {
        version: release.version.to_string(),
        digest: release.digest.to_string(),
        counter: release.counter,
        published_by: release.published_by.clone(),
        published_at: release.published_at.to_string(),
    }
}

fn ring(plan: &RingPlan) -> wire::RingStatus {
    let version = |release: &Option<crate::fleet::ReleaseId>| {
        release.as_ref().map(|release| release.version.to_string()).unwrap_or_default()
    };
    wire::RingStatus {
        ring: plan.ring.ring.to_string(),
        order: plan.ring.order,
        hosts: plan.counts.total,
        current: version(&plan.ring.current),
        back: version(&plan.ring.back),
        versions: versions(&plan.tally),
        rollout: plan.rollout.as_ref().map(|it| rollout(plan, it)),
        hold: plan.hold.clone().map(wire::Hold::from),
        installed: installed(&plan.tally),
    }
}

fn installed_version(cell: &crate::fleet::TallyKey) -> String {
    cell.have.as_ref().map_or_else(|| NOTHING.to_owned(), |have| have.version.to_string())
}

fn versions(tally: &Tally) -> BTreeMap<String, u64> {
    let mut versions = BTreeMap::new();
    for row in installed(tally) {
        *versions.entry(row.version).or_default() += row.hosts;
    }
    versions
}

fn installed(tally: &Tally) -> Vec<wire::InstalledCount> {
    let mut rows: BTreeMap<(String, Health), i64> = BTreeMap::new();
    for (cell, hosts) in &tally.0 {
        *rows.entry((installed_version(cell), cell.health)).or_default() += hosts;
    }
    let rows = rows.into_iter().filter_map(|((version, health), hosts)| {
        let hosts = u64::try_from(hosts).ok().filter(|hosts| *hosts > 0)?;
        Some(wire::InstalledCount { version, health: health.word().to_owned(), hosts })
    });
    rows.collect()
}

fn rollout(plan: &RingPlan, rollout: &Rollout) -> wire::RolloutStatus {
    let waves = plan.policy.as_ref().map_or(0, waves);
    // Once every host is through, waves are over.
    let wave = match rollout.state {
        RolloutState::Soaking { .. } | RolloutState::Done { .. } => waves,
        RolloutState::Waiting => 0,
        RolloutState::Running
        | RolloutState::Paused { .. }
        | RolloutState::Halted { .. }
        | RolloutState::RollingBack
        | RolloutState::Superseded { .. } => rollout.wave,
    };
    wire::RolloutStatus {
        id: rollout.id.to_string(),
        version: rollout.release.version.to_string(),
        digest: rollout.release.digest.to_string(),
        state: rollout.word().to_owned(),
        started: rollout.started_at.map(|at| at.to_string()).unwrap_or_default(),
        promoted_by: rollout.promoted_by.clone(),
        wave,
        waves,
        counts: Some(counts(plan, &plan.counts)),
        hold: plan.hold.clone().map(wire::Hold::from),
    }
}

fn counts(plan: &RingPlan, counts: &Counts) -> wire::RolloutCounts {
    let failed = |kind: FailureKind| counts.failed.get(&kind).copied().unwrap_or(0);
    let silent = FailureKind::ALL.into_iter().filter(|kind| kind.is_silence()).map(failed).sum();
    wire::RolloutCounts {
        total: counts.total,
        waiting: counts.waiting,
        in_flight: counts.in_flight,
        healthy: counts.healthy,
        failed: counts.failures(),
        unproven: counts.unproven,
        rolled_back: failed(FailureKind::RolledBack),
        refused: failed(FailureKind::Refused),
        stuck: failed(FailureKind::Stuck),
        timed_out: failed(FailureKind::TimedOut),
        silent,
        away: counts.away,
        quarantined: counts.quarantined,
        unhealthy: failed(FailureKind::Unhealthy),
        ahead: counts.ahead,
        halts_at: plan.policy.as_ref().map_or(0, |it| brake::halts_at(it, counts.total)),
    }
}
