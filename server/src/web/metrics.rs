//! The status model as OpenMetrics text. Every number is made anew from the model at each scrape, so
//! that nothing here can drift from what the page shows.

use jiff::Timestamp;
use prometheus_client::{
    encoding::text::encode,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use refit_proto::wire;

/// What the text is.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every state that a rollout's word may name: each is exported, one of them as 1, so that an alert can
/// name the state it is about.
const STATES: [&str; 9] = [
    "waiting",
    "running",
    "paused",
    "halted",
    "rolling-back",
    "rolled-back",
    "soaking",
    "done",
    "superseded",
];

type Labels = Vec<(String, String)>;
type Numbers = Family<Labels, Gauge>;

/// The metrics of the fleet.
pub(super) fn render(fleet: &wire::FleetStatus) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("refit");
    server(&mut registry, fleet);
    hosts(&mut registry, fleet);
    rollouts(&mut registry, fleet);
    metadata(&mut registry, fleet);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn set(numbers: &Numbers, labels: Labels, value: u64) {
    numbers.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
}

fn family(registry: &mut Registry, name: &str, help: &str) -> Numbers {
    let numbers = Numbers::default();
    registry.register(name, help, numbers.clone());
    numbers
}

fn number(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let number: Gauge = Gauge::default();
    number.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register(name, help, number);
}

fn server(registry: &mut Registry, fleet: &wire::FleetStatus) {
    let server = fleet.server.clone().unwrap_or_default();
    let info = family(registry, "server_info", "The server; its version is a label");
    set(&info, labels([("version", &server.version)]), 1);
    number(registry, "audit_entries", "Entries of the audit log", server.audit_length);
    number(registry, "store_bytes", "What the store takes on disk", server.store_bytes);
}

fn hosts(registry: &mut Registry, fleet: &wire::FleetStatus) {
    number(registry, "fleet_hosts", "Hosts that count", fleet.hosts);
    number(
        registry,
        "fleet_hosts_without_ring",
        "Hosts that no ring selects",
        fleet.hosts_without_ring,
    );
    number(
        registry,
        "fleet_hosts_shared_identity",
        "Hosts whose identity two machines use",
        fleet.hosts_shared_identity,
    );
    number(
        registry,
        "fleet_hosts_metadata_expired",
        "Hosts that begin nothing, since their signed metadata has expired",
        fleet.hosts_metadata_expired,
    );
    number(
        registry,
        "fleet_hosts_metadata_refused",
        "Hosts that refuse the signed metadata they are given; each names the attack that it would be",
        fleet.hosts_metadata_refused,
    );
    number(
        registry,
        "fleet_hosts_audit_contradicted",
        "Hosts that hold an audit log which this server's does not continue",
        fleet.hosts_audit_contradicted,
    );
    let numbers = family(registry, "hosts", "Hosts of a ring by installed version and health");
    for (product, ring) in rings(fleet) {
        for row in &ring.installed {
            let pairs = [
                ("product", product),
                ("ring", &ring.ring),
                ("version", &row.version),
                ("health", &row.health),
            ];
            set(&numbers, labels(pairs), row.hosts);
        }
    }
}

fn rings(fleet: &wire::FleetStatus) -> impl Iterator<Item = (&str, &wire::RingStatus)> {
    fleet
        .products
        .iter()
        .flat_map(|product| product.rings.iter().map(|ring| (product.product.as_str(), ring)))
}

fn rollouts(registry: &mut Registry, fleet: &wire::FleetStatus) {
    let states = family(registry, "rollout_state", "1 for the state that the ring's rollout is in");
    let counts =
        family(registry, "rollout_hosts", "Hosts of a ring by how they stand to its rollout");
    let failures = family(registry, "rollout_failures", "Failures that the brake counts, by kind");
    let halts_at = family(registry, "rollout_halts_at", "As many failures halt the rollout");
    let held = family(registry, "ring_held", "1 for the reason why the ring does not move");
    for (product, ring) in rings(fleet) {
        let place = [("product", product), ("ring", ring.ring.as_str())];
        if let Some(hold) = &ring.hold {
            set(&held, labels([place[0], place[1], ("reason", &hold.reason)]), 1);
        }
        let Some(rollout) = &ring.rollout else { continue };
        let version = ("version", rollout.version.as_str());
        for state in STATES {
            let pairs = [place[0], place[1], version, ("state", state)];
            set(&states, labels(pairs), u64::from(state == rollout.state));
        }
        let Some(all) = &rollout.counts else { continue };
        set(&halts_at, labels([place[0], place[1], version]), all.halts_at);
        for (standing, hosts) in standings(all) {
            let pairs = [place[0], place[1], version, ("standing", standing)];
            set(&counts, labels(pairs), hosts);
        }
        for (kind, hosts) in kinds(all) {
            set(&failures, labels([place[0], place[1], version, ("kind", kind)]), hosts);
        }
    }
}

fn standings(counts: &wire::RolloutCounts) -> [(&'static str, u64); 8] {
    [
        ("waiting", counts.waiting),
        ("in-flight", counts.in_flight),
        ("healthy", counts.healthy),
        ("unproven", counts.unproven),
        ("failed", counts.failed),
        ("away", counts.away),
        ("quarantined", counts.quarantined),
        ("ahead", counts.ahead),
    ]
}

fn kinds(counts: &wire::RolloutCounts) -> [(&'static str, u64); 6] {
    [
        ("rolled-back", counts.rolled_back),
        ("refused", counts.refused),
        ("stuck", counts.stuck),
        ("unhealthy", counts.unhealthy),
        ("timed-out", counts.timed_out),
        ("silent", counts.silent),
    ]
}

fn metadata(registry: &mut Registry, fleet: &wire::FleetStatus) {
    let help = "Seconds until a metadata file expires; below zero once it has";
    let expiry = family(registry, "metadata_expiry_seconds", help);
    let version = family(registry, "metadata_version", "Version of a metadata file");
    let help = "1 where somebody has to sign a metadata file anew, or the server should have";
    let warning = family(registry, "metadata_warning", help);
    let help = "Signatures that an open change of signed files still needs";
    let missing = family(registry, "change_signatures_missing", help);
    let help = "Seconds until an open change of signed files lapses";
    let lapses = family(registry, "change_lapses_seconds", help);
    let now = fleet.at.parse::<Timestamp>();
    for change in &fleet.changes {
        let pair = || labels([("role", &change.role)]);
        set(&missing, pair(), change.signatures_missing);
        if let (Ok(now), Ok(at)) = (&now, change.lapses.parse::<Timestamp>()) {
            lapses.get_or_create(&pair()).set(at.duration_since(*now).as_secs());
        }
    }
    for file in fleet.metadata.iter().filter(|file| !file.warning.is_empty()) {
        set(&warning, labels([("role", &file.role), ("warning", &file.warning)]), 1);
    }
    let help = "Version of a metadata file that hosts hold and the server has lost";
    let lacking = family(registry, "metadata_lacking_version", help);
    for file in fleet.metadata.iter().filter(|file| file.lacking > 0) {
        set(&lacking, labels([("role", &file.role)]), file.lacking);
    }
    for file in &fleet.metadata {
        set(&version, labels([("role", &file.role)]), file.version);
        // A time that cannot be read is no number: an absent series can be alerted on, a 0 lies.
        if let (Ok(now), Ok(expires)) = (&now, file.expires.parse::<Timestamp>()) {
            let seconds = expires.duration_since(*now).as_secs();
            expiry.get_or_create(&labels([("role", &file.role)])).set(seconds);
        }
    }
}
