//! The page: rings, rollouts, hosts and holds, as the status model has them. Made on the server; it
//! reloads itself and runs no script.

use askama::Template;
use jiff::Timestamp;
use refit_proto::wire;

use super::Question;

#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    title: String,
    reload: bool,
    still_link: String,
    reload_link: String,
    next_link: String,
    filtered: bool,
    filter: String,
    fleet: &'a wire::FleetStatus,
    hosts: &'a [wire::HostStatus],
}

/// The page as HTML.
pub(super) fn render(
    question: &Question,
    fleet: &wire::FleetStatus,
    hosts: &wire::ListHostsReply,
) -> Result<String, askama::Error> {
    let still = Question { still: true, ..question.clone() };
    let reload = Question { still: false, ..question.clone() };
    let next = Question { page_token: hosts.next_page_token.clone(), ..question.clone() };
    let more = !hosts.next_page_token.is_empty();
    let page = Page {
        title: title(fleet),
        reload: !question.still,
        still_link: link(&still),
        reload_link: link(&reload),
        next_link: if more { format!("{}#hosts", link(&next)) } else { String::new() },
        filtered: !filter(question).is_empty(),
        filter: filter(question),
        fleet,
        hosts: &hosts.hosts,
    };
    page.render()
}

/// A tab in the background shows that something stands still.
fn title(fleet: &wire::FleetStatus) -> String {
    let rollouts = fleet.products.iter().flat_map(|product| &product.rings);
    let halted = rollouts
        .filter_map(|ring| ring.rollout.as_ref())
        .filter(|rollout| rollout.state == "halted")
        .count();
    if halted == 0 { "Refit".into() } else { format!("({halted} halted) Refit") }
}

fn filter(question: &Question) -> String {
    let parts =
        [("host", &question.host), ("product", &question.product), ("ring", &question.ring)];
    let named = parts.into_iter().filter(|(_, value)| !value.is_empty());
    named.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
}

fn link(question: &Question) -> String {
    let mut parts = Vec::new();
    for (name, value) in [
        ("product", &question.product),
        ("ring", &question.ring),
        ("host", &question.host),
        ("page_token", &question.page_token),
    ] {
        if !value.is_empty() {
            parts.push(format!("{name}={}", escaped(value)));
        }
    }
    if question.still {
        parts.push("still=true".into());
    }
    format!("/?{}", parts.join("&"))
}

/// Percent-encoding of whatever is not plainly harmless.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

// What the template calls, below.

/// A time for people.
fn time(time: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => or_dash(time).to_owned(),
    }
}

/// An empty word as a dash.
fn or_dash(text: &str) -> &str {
    if text.is_empty() { "–" } else { text }
}

/// The first digits of a digest, for people to recognise.
fn first(digest: &str) -> String {
    digest.chars().take(12).collect()
}

/// The list of a ring's hosts.
fn hosts_link(product: &str, ring: &str) -> String {
    let (product, ring) = (product.to_owned(), ring.to_owned());
    format!("{}#hosts", link(&Question { product, ring, ..Question::default() }))
}

/// A part of the hosts in percent, for the bar alone: rounded, so never for a decision.
fn share(part: &u64, whole: &u64) -> u64 {
    part.saturating_mul(100).checked_div(*whole).unwrap_or(0).min(100)
}

/// How a state of a rollout is coloured; the word stands beside it.
fn tone(state: &str) -> &'static str {
    match state {
        "done" => "good",
        "running" | "soaking" => "busy",
        "halted" | "rolling-back" | "rolled-back" => "bad",
        _ => "wait",
    }
}

/// How a health is coloured; the word itself is what says it.
fn health_tone(health: &str) -> &'static str {
    match health {
        "good" => "good",
        "bad" => "bad",
        "unproven" => "wait",
        _ => "soft",
    }
}

/// The counts in words, without the zeros.
fn said(counts: &wire::RolloutCounts) -> String {
    let parts = [
        ("healthy", counts.healthy),
        ("in flight", counts.in_flight),
        ("waiting", counts.waiting),
        ("unproven", counts.unproven),
        ("failed", counts.failed),
        ("quarantined", counts.quarantined),
        ("away", counts.away),
        ("ahead", counts.ahead),
    ];
    let named = parts.into_iter().filter(|(_, hosts)| *hosts > 0);
    let said: Vec<_> = named.map(|(word, hosts)| format!("{hosts} {word}")).collect();
    if said.is_empty() { "no hosts".into() } else { said.join(", ") }
}

/// Since when, until when, and who can change it.
fn when(hold: &wire::Hold) -> String {
    let mut parts = Vec::new();
    if !hold.since.is_empty() {
        parts.push(format!("since {}", time(&hold.since)));
    }
    if !hold.until.is_empty() {
        parts.push(format!("until {}", time(&hold.until)));
    }
    if !hold.who.is_empty() {
        parts.push(format!("who can change it: {}", hold.who));
    }
    parts.join(", ")
}
