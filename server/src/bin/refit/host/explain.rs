//! `refit host explain`: which rule decides for a host, since when, until when, who can change it, and when it would
//! be updated; by the server's knowledge.

use refit_proto::{
    printable::printable,
    wire::{ExplainHostRequest, HostExplanation, PlacementStatus, ProductExplanation},
};

use crate::{connect::Connection, failure::refused, output, output::Output};

pub(super) async fn run(connection: &Connection, host: &str, output: Output) -> anyhow::Result<()> {
    let request = ExplainHostRequest { host: host.to_owned() };
    let reply = connection.status().explain_host(request).await;
    let reply = reply.map_err(refused(format!("explain {host}")))?;
    output.print(reply.get_ref(), in_words)
}

fn in_words(host: &HostExplanation) -> String {
    let labels: Vec<String> =
        host.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let zone = match host.time_zone.as_str() {
        "" => "unknown".to_owned(),
        zone => printable(zone),
    };
    let seen = output::moment(&host.last_seen);
    let mut text = format!(
        "{} ({})\nstate      {}, last seen {seen}\nlabels     {}\nplatform   {}, time zone {zone}\n",
        host.name,
        host.host_id,
        host.state,
        labels.join(" "),
        host.platform
    );
    for product in &host.products {
        text += &format!("\n{}\n", product.product);
        for line in of_product(product) {
            text += &format!("  {line}\n");
        }
    }
    if host.products.is_empty() {
        text += "\nthere are no products yet (refit apply)\n";
    }
    text
}

fn of_product(product: &ProductExplanation) -> Vec<String> {
    let mut lines = Vec::new();
    for ring in &product.considered {
        let verdict = if ring.has_it { "has it" } else { "passes it" };
        lines.push(format!("ring {} {verdict}: {}", ring.ring, ring.why));
    }
    let placement = product.placement.clone().unwrap_or_default();
    if !product.considered.iter().any(|ring| ring.has_it) {
        lines.push(format!("so no ring has it, and it stays on {}", placement.installed));
        return lines;
    }
    lines.push(format!("it runs {}, {}", placement.installed, wanted(&placement)));
    match &placement.hold {
        Some(hold) => {
            let (since, until) = (output::moment(&hold.since), output::moment(&hold.until));
            let until = if until.is_empty() { "somebody acts".to_owned() } else { until };
            lines.push(format!("what decides: {}", printable(&hold.text)));
            lines.push(format!("since {since}, until {until}"));
            lines.push(format!("who can change it: {}", printable(&hold.who)));
        }
        None if placement.installed == placement.wanted => {
            lines.push("there is nothing to do".to_owned());
        }
        None => lines.push(format!("nothing holds it; it is {}", phase(&placement))),
    }
    if placement.installed != placement.wanted && !placement.wanted.is_empty() {
        lines.push(match output::moment(&product.earliest) {
            none if none.is_empty() => "it is updated once that has changed".to_owned(),
            at => format!("it is updated no earlier than {at}"),
        });
    }
    if !product.ring_through.is_empty() {
        let through = output::moment(&product.ring_through);
        lines.push(format!("if all goes well, its whole ring is through by {through}"));
    } else if !product.no_time.is_empty() {
        lines.push(format!("nobody can say when: {}", printable(&product.no_time)));
    }
    lines
}

fn wanted(placement: &PlacementStatus) -> String {
    match placement.wanted.as_str() {
        "" => "and its ring wants nothing else yet".to_owned(),
        wanted if wanted == placement.installed => "as its ring wants".to_owned(),
        wanted => format!("and its ring wants {wanted}"),
    }
}

fn phase(placement: &PlacementStatus) -> String {
    match placement.phase.as_str() {
        "" => "about to begin".to_owned(),
        phase => format!("at {phase}"),
    }
}

#[cfg(test)]
mod tests {
    use refit_proto::wire::{ConsideredRing, Hold};

    use super::*;

    fn explained(placement: PlacementStatus) -> ProductExplanation {
        let ring = |ring: &str, has_it, why: &str| ConsideredRing {
            ring: ring.into(),
            has_it,
            why: why.into(),
        };
        ProductExplanation {
            product: "payments".into(),
            considered: vec![
                ring("pilot", false, "it takes stage=pilot; the host has no label stage"),
                ring("broad", true, "it takes every host"),
            ],
            placement: Some(placement),
            ..ProductExplanation::default()
        }
    }

    fn placement(installed: &str, wanted: &str, hold: Option<Hold>) -> PlacementStatus {
        let (installed, wanted) = (installed.into(), wanted.into());
        PlacementStatus { installed, wanted, hold, ..PlacementStatus::default() }
    }

    #[test]
    fn it_says_what_decides_since_when_until_when_who_and_when_it_would_be_updated() {
        let hold = Hold {
            reason: "outside-window".into(),
            text: "no window for updates is open here".into(),
            since: "2026-12-01T10:00:00Z".into(),
            until: "2026-12-01T21:00:00Z".into(),
            who: "administrator".into(),
        };
        let explained = ProductExplanation {
            earliest: "2026-12-01T21:00:00Z".into(),
            ring_through: "2026-12-01T23:30:00Z".into(),
            ..explained(placement("2.4.0", "2.4.1", Some(hold)))
        };
        assert_eq!(
            of_product(&explained),
            [
                "ring pilot passes it: it takes stage=pilot; the host has no label stage",
                "ring broad has it: it takes every host",
                "it runs 2.4.0, and its ring wants 2.4.1",
                "what decides: no window for updates is open here",
                "since 2026-12-01T10:00:00Z, until 2026-12-01T21:00:00Z",
                "who can change it: administrator",
                "it is updated no earlier than 2026-12-01T21:00:00Z",
                "if all goes well, its whole ring is through by 2026-12-01T23:30:00Z",
            ]
        );
    }

    #[test]
    fn a_hold_without_an_end_waits_for_somebody_and_a_host_in_no_ring_for_nobody() {
        let paused = Hold { text: "paused by ann: night".into(), ..Hold::default() };
        let lines = of_product(&explained(placement("1", "2", Some(paused))));
        assert!(lines[4].ends_with("until somebody acts"), "{lines:?}");
        assert_eq!(lines.last().unwrap(), "it is updated once that has changed");
        let done = of_product(&explained(placement("2", "2", None)));
        assert_eq!(done[2..], ["it runs 2, as its ring wants", "there is nothing to do"]);
        let mut outside = explained(placement("2", "", None));
        outside.considered.pop();
        assert_eq!(of_product(&outside)[1], "so no ring has it, and it stays on 2");
    }
}
