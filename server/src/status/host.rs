//! One host as the status model shows it: where each product stands there, and why it does not move.

use jiff::Timestamp;
use refit_proto::{hours::HostPlace, names::Labels, wire};

use super::fleet::NOTHING;
use crate::{
    fleet::{
        Host, HostState, Phase, Placement, ReportedFailure, ReportedHold, ReportedHook,
        placement::Stage,
    },
    rollout::{Decision, Hold, HoldReason, RingPlan, counts::after, decide},
};

/// What a host's status is built from.
#[derive(Debug)]
pub struct HostView<'a> {
    /// Who it is.
    pub host: &'a Host,
    /// Its labels with those set from the centre.
    pub labels: &'a Labels,
    /// When it last called.
    pub last_seen: Timestamp,
    /// By product.
    pub placements: Vec<PlacementView<'a>>,
}

/// What the status of a product on a host is built from.
#[derive(Debug)]
pub struct PlacementView<'a> {
    /// Where it stands.
    pub placement: &'a Placement,
    /// The plan of the ring that it is in.
    pub ring: Option<&'a RingPlan>,
}

/// One host.
pub fn host(view: &HostView<'_>, now: Timestamp) -> wire::HostStatus {
    let host = view.host;
    let labels = view.labels.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    wire::HostStatus {
        host_id: host.id.to_string(),
        name: host.name.to_string(),
        state: host.state.word().to_owned(),
        labels: labels.collect(),
        platform: host.platform.to_string(),
        agent_version: host.agent_version.clone(),
        last_seen: view.last_seen.to_string(),
        certificate_expires: host.certificate.not_after.to_string(),
        server: host.server.clone(),
        products: view.placements.iter().map(|it| placement(host, view.labels, it, now)).collect(),
        metadata_expired: host.metadata_expired,
        metadata_failure: host.metadata_failure.clone().map(failure),
        audit_held: host.audit_held.map(|held| wire::AuditHead {
            length: held.length,
            hash: held.hash.map_or(Vec::new(), |hash| hash.as_bytes().to_vec()),
        }),
        audit_failure: host.audit_failure.clone().map(failure),
        holds: host.holds.iter().map(own_hold).collect(),
        backups: host.backups.iter().cloned().map(wire::BackupState::from).collect(),
    }
}

fn failure(reported: ReportedFailure) -> wire::Failure {
    let ReportedFailure { cause, text, help, log } = reported;
    wire::Failure { cause, text, help, log }
}

/// One product on a host.
pub fn placement(
    host: &Host,
    labels: &Labels,
    view: &PlacementView<'_>,
    now: Timestamp,
) -> wire::PlacementStatus {
    let placement = view.placement;
    let decision = decide(view.ring, placement);
    let installed = placement.have.as_ref().map(|have| have.version.to_string());
    wire::PlacementStatus {
        product: placement.product.to_string(),
        ring: placement.ring.as_ref().map(ToString::to_string).unwrap_or_default(),
        installed: installed.unwrap_or_else(|| NOTHING.to_owned()),
        wanted: wanted(view.ring, &decision),
        phase: placement.phase.map(Phase::word).unwrap_or_default().to_owned(),
        health: placement.health.word().to_owned(),
        attempt: placement.attempt,
        failure: placement.failure.clone().map(failure),
        hold: hold(host, labels, view, decision, now).map(wire::Hold::from),
        quarantine: placement.quarantine.iter().map(ToString::to_string).collect(),
        changed: placement.changed_at.to_string(),
        ahead: placement.ahead,
        hooks: placement.hooks.iter().cloned().map(hook).collect(),
    }
}

fn own_hold(reported: &ReportedHold) -> wire::Hold {
    let moment = |at: Option<Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
    wire::Hold {
        reason: reported.reason.clone(),
        text: reported.text.clone(),
        since: moment(reported.since),
        until: moment(reported.until),
        who: reported.who.clone(),
    }
}

fn hook(reported: ReportedHook) -> wire::HookRun {
    let ReportedHook { package, when, number, good, how, output } = reported;
    wire::HookRun { package, when, number, good, how, output }
}

/// What the ring's signers want here, whether or not it may come now.
fn wanted(ring: Option<&RingPlan>, decision: &Decision) -> String {
    let release = match decision {
        Decision::Offer(offer) => Some(&offer.release),
        Decision::Hold(_) | Decision::BackOut(_) | Decision::UpToDate => {
            ring.and_then(|ring| ring.ring.current.as_ref())
        }
    };
    release.map(|release| release.version.to_string()).unwrap_or_default()
}

/// Why the product does not move on this host; `None`: it moves, or there is nothing to do.
fn hold(
    host: &Host,
    labels: &Labels,
    view: &PlacementView<'_>,
    decision: Decision,
    now: Timestamp,
) -> Option<Hold> {
    let placement = view.placement;
    match host.state {
        HostState::Active => {}
        HostState::Shared => {
            return Some(Hold::new(HoldReason::SharedIdentity, placement.changed_at));
        }
        HostState::Revoked | HostState::Retired => {
            return Some(Hold::new(HoldReason::Revoked, placement.changed_at));
        }
    }
    if placement.phase.map(Phase::stage) == Some(Stage::Started) {
        return None;
    }
    match decision {
        Decision::UpToDate => None,
        Decision::Hold(hold) | Decision::BackOut(hold) => Some(hold),
        Decision::Offer(_) => away(view, now)
            .or_else(|| by_the_clock(host, labels, view, now))
            .or_else(|| own(placement)),
    }
}

/// A host that has an offer waiting, and does not come for it.
fn away(view: &PlacementView<'_>, now: Timestamp) -> Option<Hold> {
    let (rollout, policy) = (view.ring?.rollout.as_ref()?, view.ring?.policy.as_ref()?);
    let started = rollout.started_at?;
    let met = view.placement.met.as_ref() == Some(&rollout.id);
    let expected = now < after(started, policy.silence_seconds);
    (!met && !expected)
        .then(|| Hold::new(HoldReason::Away, view.placement.last_report_at.unwrap_or(started)))
}

/// A host that has the release ready, or is getting it ready, and may not begin at this time of day.
fn by_the_clock(
    host: &Host,
    labels: &Labels,
    view: &PlacementView<'_>,
    now: Timestamp,
) -> Option<Hold> {
    if view.placement.flight.is_some() {
        return None;
    }
    let (plan, zone) = (view.ring?, host.zone());
    let place = HostPlace { labels, zone: zone.as_ref() };
    plan.hours.hold(&plan.ring, plan.rollout.as_ref()?, Some(place), now)
}

/// What the host itself says; or, where it says nothing and does nothing, that it is not ready.
fn own(placement: &Placement) -> Option<Hold> {
    if let Some(own) = &placement.hold {
        let (since, until) = (own.since.unwrap_or(placement.changed_at), own.until);
        return Some(Hold { reason: HoldReason::Host(own.clone()), since, until });
    }
    match placement.phase {
        // On its way, and working.
        Some(Phase::Offered | Phase::Preflight | Phase::Fetching) => None,
        _ if placement.flight.is_some() => None,
        _ => Some(Hold::new(HoldReason::HostsNotReady(1), placement.changed_at)),
    }
}
