//! `refit status`: the whole fleet on one screen.

use refit_proto::wire::{FleetStatus, GetFleetRequest, Hold, ProductStatus, RingStatus};

use crate::{Context, connect::Connection, failure::refused, output, output::Output};

/// Options of `refit status`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  refit status --output json")]
pub(crate) struct Args {
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let fleet = fleet(&Connection::open(context).await?, "").await?;
    args.output.print(&fleet, in_words)
}

/// The status of all products, or of one.
pub(crate) async fn fleet(connection: &Connection, product: &str) -> anyhow::Result<FleetStatus> {
    let request = GetFleetRequest { product: product.to_owned() };
    let reply = connection.status().get_fleet(request).await;
    Ok(reply.map_err(refused("read the fleet's status"))?.into_inner())
}

fn in_words(fleet: &FleetStatus) -> String {
    let mut text = format!("{} hosts, {} in no ring\n", fleet.hosts, fleet.hosts_without_ring);
    if fleet.hosts_shared_identity > 0 {
        text.push_str(&format!(
            "{} with an identity that two machines use: see the runbook, \"Shared identity\"\n",
            fleet.hosts_shared_identity
        ));
    }
    if fleet.hosts_metadata_refused > 0 {
        text.push_str(&format!(
            "{} refuse the signed metadata they are given: `refit host show NAME` names the attack\n",
            fleet.hosts_metadata_refused
        ));
    }
    if fleet.hosts_audit_contradicted > 0 {
        text.push_str(&format!(
            "{} hold an audit log that the server's does not continue: `refit audit verify` names them\n",
            fleet.hosts_audit_contradicted
        ));
    }
    if fleet.hosts_metadata_expired > 0 {
        text.push_str(&format!(
            "{} begin nothing, their metadata has expired: see the runbook, \"Expired metadata\"\n",
            fleet.hosts_metadata_expired
        ));
    }
    for product in &fleet.products {
        text.push_str(&format!("\n{}\n{}", product.product, rings(product)));
    }
    if fleet.products.is_empty() {
        text.push_str("no products yet: `refit apply` describes them\n");
    }
    text.push('\n');
    text.push_str(&output::table(
        ["metadata", "version", "expires"],
        fleet.metadata.iter().map(|file| {
            [file.role.clone(), file.version.to_string(), output::moment(&file.expires)]
        }),
    ));
    text
}

/// One line for each ring of a product.
pub(crate) fn rings(product: &ProductStatus) -> String {
    output::table(
        ["ring", "hosts", "current", "runs", "rollout", "healthy", "in flight", "failed", "hold"],
        product.rings.iter().map(|ring| {
            let counts = ring.rollout.as_ref().and_then(|rollout| rollout.counts);
            let count = |of: fn(&refit_proto::wire::RolloutCounts) -> u64| {
                counts.as_ref().map(|counts| of(counts).to_string()).unwrap_or_default()
            };
            [
                ring.ring.clone(),
                ring.hosts.to_string(),
                ring.current.clone(),
                versions(ring),
                rollout(ring),
                count(|counts| counts.healthy),
                count(|counts| counts.in_flight),
                count(|counts| counts.failed),
                hold(ring_hold(ring)),
            ]
        }),
    )
}

fn versions(ring: &RingStatus) -> String {
    let versions = ring.versions.iter().map(|(version, hosts)| format!("{version} on {hosts}"));
    versions.collect::<Vec<_>>().join(", ")
}

fn rollout(ring: &RingStatus) -> String {
    match &ring.rollout {
        Some(rollout) if rollout.waves > 1 => format!(
            "{} {} (wave {} of {})",
            rollout.version, rollout.state, rollout.wave, rollout.waves
        ),
        Some(rollout) => format!("{} {}", rollout.version, rollout.state),
        None => String::new(),
    }
}

/// Why the ring does not move: its rollout's reason, or its own.
fn ring_hold(ring: &RingStatus) -> Option<&Hold> {
    ring.rollout.as_ref().and_then(|rollout| rollout.hold.as_ref()).or(ring.hold.as_ref())
}

/// A hold in one cell: why, until when, and who can change it.
pub(crate) fn hold(hold: Option<&Hold>) -> String {
    let Some(hold) = hold else { return String::new() };
    let mut text = if hold.text.is_empty() { hold.reason.clone() } else { hold.text.clone() };
    if !hold.until.is_empty() {
        text.push_str(&format!(" (until {})", output::moment(&hold.until)));
    }
    if !hold.who.is_empty() {
        text.push_str(&format!(" [{}]", hold.who));
    }
    text
}

#[cfg(test)]
mod tests {
    use refit_proto::wire::{RolloutCounts, RolloutStatus};

    use super::*;

    #[test]
    fn a_ring_that_does_not_move_says_why_until_when_and_who_can_change_it() {
        let hold = Hold {
            reason: "behind".into(),
            text: "early waits for pilot".into(),
            until: "2030-01-01T00:00:00Z".into(),
            who: "time".into(),
            ..Hold::default()
        };
        let ring = RingStatus {
            ring: "early".into(),
            hosts: 2,
            versions: [("1.0".to_owned(), 2)].into(),
            rollout: Some(RolloutStatus {
                version: "1.1".into(),
                state: "waiting".into(),
                wave: 1,
                waves: 2,
                counts: Some(RolloutCounts { waiting: 2, ..RolloutCounts::default() }),
                hold: Some(hold),
                ..RolloutStatus::default()
            }),
            ..RingStatus::default()
        };
        let product = ProductStatus { rings: vec![ring], ..ProductStatus::default() };
        let text = rings(&product);
        assert!(text.contains("1.1 waiting (wave 1 of 2)"), "{text}");
        assert!(
            text.contains("early waits for pilot (until 2030-01-01T00:00:00Z) [time]"),
            "{text}"
        );
        assert!(text.contains("1.0 on 2"), "{text}");
    }
}
