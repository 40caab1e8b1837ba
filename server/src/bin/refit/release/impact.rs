//! `refit release impact`: what a published release would do to the fleet, by the server's knowledge, before
//! anything starts.

use std::collections::BTreeMap;

use refit_proto::{
    names::{Product, Version},
    printable::printable,
    wire::{BlockedHosts, GetImpactRequest, Impact, RingImpact},
};

use crate::{connect::Connection, duration, failure::refused, output, output::Output};

/// Options of `refit release impact`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Of which product.
    product: Product,
    /// Which release; a published one.
    version: Version,
    /// How long one update is taken to have, like 20m. Left out: as long as the release's health checks ask for, and
    /// a minute.
    #[arg(long, value_name = "TIME", value_parser = span)]
    update: Option<u64>,
    #[command(flatten)]
    output: Output,
}

fn span(text: &str) -> Result<u64, String> {
    match duration::seconds(text) {
        Ok(0) => Err("an update takes longer than nothing".to_owned()),
        Ok(seconds) => Ok(seconds),
        Err(error) => Err(format!("{error:#}")),
    }
}

pub(super) async fn run(connection: &Connection, args: Args) -> anyhow::Result<()> {
    let Args { product, version, update, output } = args;
    let request = GetImpactRequest {
        product: product.to_string(),
        version: version.to_string(),
        update_seconds: update.unwrap_or(0),
    };
    let reply = connection.status().get_impact(request).await;
    let what = format!("tell the impact of {product} {version}");
    output.print(reply.map_err(refused(what))?.get_ref(), in_words)
}

fn in_words(impact: &Impact) -> String {
    let mut text = format!("{} {}, digest {}\n", impact.product, impact.version, impact.digest);
    if impact.withdrawn {
        text += "WITHDRAWN: it goes to nobody any more\n";
    }
    if !impact.plan_lacks.is_empty() {
        let lacks = impact.plan_lacks.join(", ");
        text += &format!("its change plan lacks {lacks}, so no ring may have it\n");
    }
    if impact.rings.is_empty() {
        text += "the product has no rings yet (refit apply)\n";
    }
    text.push('\n');
    text += &rings(&impact.rings);
    for ring in &impact.rings {
        text += &details(ring);
    }
    let update = duration::in_words(impact.update_seconds);
    text += &format!(
        "\nTimes: if it were promoted now to each ring and all went well, with updates of {update} each.\n"
    );
    if impact.hosts_without_ring > 0 {
        text += &format!("{} hosts are in no ring and left alone.\n", impact.hosts_without_ring);
    }
    text
}

fn rings(rings: &[RingImpact]) -> String {
    let headings = [
        "ring",
        "hosts",
        "to update",
        "run it",
        "blocked",
        "to fetch",
        "starts",
        "through",
        "proven",
    ];
    let rows = rings.iter().map(|ring| {
        let blocked: u64 = ring.blocked.iter().map(|blocked| blocked.hosts).sum();
        [
            ring.ring.clone(),
            ring.hosts.to_string(),
            ring.to_update.to_string(),
            ring.on_release.to_string(),
            blocked.to_string(),
            bytes(ring.bytes),
            output::moment(&ring.starts),
            output::moment(&ring.through),
            output::moment(&ring.proven),
        ]
    });
    output::table(headings, rows)
}

fn details(ring: &RingImpact) -> String {
    let mut lines = Vec::new();
    for (what, counts) in
        [("runs now", &ring.versions), ("platform", &ring.platforms), ("label", &ring.labels)]
    {
        if !counts.is_empty() {
            lines.push(format!("{what}: {}", counted(counts)));
        }
    }
    lines.extend(ring.blocked.iter().map(blocked));
    if let Some(hold) = &ring.hold {
        lines.push(format!("now: {} ({})", printable(&hold.text), hold.who));
    }
    if !ring.no_times.is_empty() {
        lines.push(format!("no times: {}", printable(&ring.no_times)));
    }
    let lines = lines.iter().map(|line| format!("  {line}\n")).collect::<String>();
    if lines.is_empty() { String::new() } else { format!("\n{}\n{lines}", ring.ring) }
}

/// The most first.
fn counted(counts: &BTreeMap<String, u64>) -> String {
    let mut counts: Vec<(&String, &u64)> = counts.iter().collect();
    counts.sort_by_key(|(what, count)| (std::cmp::Reverse(**count), *what));
    let words = counts.iter().map(|(what, count)| format!("{} {count}", printable(what)));
    words.collect::<Vec<_>>().join(", ")
}

fn blocked(blocked: &BlockedHosts) -> String {
    let BlockedHosts { text, who, hosts, names, .. } = blocked;
    let more = match hosts.saturating_sub(names.len() as u64) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("blocked: {} - {}{more}; can change it: {who}", printable(text), names.join(", "))
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} kB", bytes / 1000),
        10_000_000..10_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_screen_says_who_would_be_updated_who_not_and_when() {
        let counts = |counts: &[(&str, u64)]| {
            counts.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect()
        };
        let ring = RingImpact {
            ring: "broad".into(),
            hosts: 30,
            on_release: 2,
            to_update: 25,
            platforms: counts(&[("linux-x86_64", 25)]),
            labels: counts(&[("region=eu", 5), ("region=us", 20)]),
            versions: counts(&[("2.4.0", 25)]),
            blocked: vec![BlockedHosts {
                reason: "disk-full".into(),
                text: "less is free there".into(),
                who: "the host".into(),
                hosts: 3,
                names: vec!["db-1".into(), "db-2".into()],
            }],
            bytes: 12_300_000,
            starts: "2026-12-01T22:00:00Z".into(),
            through: "2026-12-02T01:10:00.5Z".into(),
            ..RingImpact::default()
        };
        let impact = Impact {
            product: "payments".into(),
            version: "2.4.1".into(),
            digest: "ab".into(),
            plan_lacks: vec!["runbook".into()],
            update_seconds: 600,
            rings: vec![ring],
            hosts_without_ring: 4,
            ..Impact::default()
        };
        assert_eq!(
            in_words(&impact),
            "payments 2.4.1, digest ab\n\
             its change plan lacks runbook, so no ring may have it\n\n\
             RING   HOSTS  TO UPDATE  RUN IT  BLOCKED  TO FETCH  STARTS                THROUGH               PROVEN\n\
             broad  30     25         2       3        12 MB     2026-12-01T22:00:00Z  2026-12-02T01:10:00Z  -\n\n\
             broad\n  runs now: 2.4.0 25\n  platform: linux-x86_64 25\n  label: region=us 20, region=eu 5\n  \
             blocked: less is free there - db-1, db-2 and 1 more; can change it: the host\n\n\
             Times: if it were promoted now to each ring and all went well, with updates of 10m each.\n\
             4 hosts are in no ring and left alone.\n"
        );
    }
}
