//! `refit host`: what hosts there are, how one does, and how one leaves the fleet.

mod backup;
mod explain;

use std::path::PathBuf;

use anyhow::bail;
use refit_proto::{
    printable::printable,
    servers::Authority,
    wire::{
        CloseReadmissionRequest, HostRequest, HostStatus, ListHostsRequest, OpenReadmissionRequest,
    },
};

use crate::{
    Context, confirm, connect::Connection, duration, failure::refused, output, output::Output,
    servers, status,
};

/// Options of `refit host`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// All hosts, or those of a product or ring.
    #[command(after_help = "Example:\n  refit host list --product payments --ring pilot")]
    List(List),
    /// Everything about one host.
    #[command(after_help = "Example:\n  refit host show web-1")]
    Show {
        /// Its name or id.
        host: String,
        #[command(flatten)]
        output: Output,
    },
    /// Which rule decides for a host, since when, until when, who can change it, and when it would be updated.
    #[command(after_help = "Example:\n  refit host explain web-1")]
    Explain {
        /// Its name or id.
        host: String,
        #[command(flatten)]
        output: Output,
    },
    /// What a host saved before its updates. Looked at from here; brought back on the host alone.
    #[command(subcommand)]
    Backup(backup::Verb),
    /// Refuse a host at once and for good: its key may be in other hands.
    #[command(after_help = "Example:\n  refit host revoke web-1 --reason 'stolen'")]
    Revoke(Leave),
    /// Take a host that is gone out of every count.
    #[command(after_help = "Example:\n  refit host retire web-1 --reason 'scrapped'")]
    Retire(Leave),
    /// Let hosts back in, for a while, that a server set up anew does not know: its disk was lost.
    #[command(after_help = "Examples:
  refit host readmit --authority lost.crt --for 2h   (the certificate of the authority that was lost)
  refit host readmit --end")]
    Readmit(Readmit),
}

#[derive(clap::Args)]
struct Readmit {
    /// Certificate of the lost authority, PEM or DER. Its hosts may renew their certificates; the server
    /// has to know it: `refit-server ca accept`.
    #[arg(long, value_name = "FILE", required_unless_present = "end")]
    authority: Option<PathBuf>,
    /// For how long, at most 7d.
    #[arg(long = "for", value_name = "SPAN", required_unless_present = "end")]
    span: Option<String>,
    /// End it now.
    #[arg(long, conflicts_with_all = ["authority", "span"])]
    end: bool,
    /// Why; it goes into the audit log.
    #[arg(long, default_value = "")]
    reason: String,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

#[derive(clap::Args)]
struct List {
    /// Only hosts that run this product.
    #[arg(long, default_value = "")]
    product: String,
    /// Only hosts of this ring.
    #[arg(long, default_value = "", requires = "product")]
    ring: String,
    #[command(flatten)]
    output: Output,
}

#[derive(clap::Args)]
struct Leave {
    /// Its name or id.
    host: String,
    /// Why; it goes into the audit log.
    #[arg(long, default_value = "")]
    reason: String,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let connection = Connection::open(context).await?;
    match args.verb {
        Verb::List(List { product, ring, output }) => {
            let request = ListHostsRequest { product, ring, ..ListHostsRequest::default() };
            let mut hosts = hosts(&connection, request).await?;
            // Names are not for ever: of two hosts that had one after the other, the id tells.
            hosts.sort_by(|a, b| (&a.name, &a.host_id).cmp(&(&b.name, &b.host_id)));
            output.print(&hosts, |hosts| list(hosts))
        }
        Verb::Show { host, output } => output.print(&one(&connection, &host).await?, show),
        Verb::Explain { host, output } => explain::run(&connection, &host, output).await,
        Verb::Backup(verb) => backup::run(&connection, verb).await,
        Verb::Revoke(leave) => revoke(&connection, leave).await,
        Verb::Retire(leave) => retire(&connection, leave).await,
        Verb::Readmit(readmit) => self::readmit(&connection, readmit).await,
    }
}

/// All hosts that a request asks for, page by page.
pub(crate) async fn hosts(
    connection: &Connection,
    mut request: ListHostsRequest,
) -> anyhow::Result<Vec<HostStatus>> {
    let mut hosts = Vec::new();
    loop {
        let reply = connection.status().list_hosts(request.clone()).await;
        let reply = reply.map_err(refused("list the hosts"))?.into_inner();
        hosts.extend(reply.hosts);
        if reply.next_page_token.is_empty() || reply.next_page_token == request.page_token {
            return Ok(hosts);
        }
        request.page_token = reply.next_page_token;
    }
}

async fn one(connection: &Connection, host: &str) -> anyhow::Result<HostStatus> {
    let request = ListHostsRequest { host: host.to_owned(), ..ListHostsRequest::default() };
    match hosts(connection, request).await?.into_iter().next() {
        Some(found) => Ok(found),
        None => bail!("there is no host {host:?}\nhelp: `refit host list` shows all"),
    }
}

fn list(hosts: &[HostStatus]) -> String {
    let rows = hosts.iter().flat_map(|host| {
        let placements = match host.products.as_slice() {
            [] => vec![None],
            products => products.iter().map(Some).collect(),
        };
        placements.into_iter().map(move |placed| {
            let of = |get: fn(&refit_proto::wire::PlacementStatus) -> String| {
                placed.map(get).unwrap_or_default()
            };
            [
                host.name.clone(),
                host.state.clone(),
                of(|placed| placed.product.clone()),
                of(|placed| placed.ring.clone()),
                of(|placed| placed.installed.clone()),
                of(|placed| placed.wanted.clone()),
                of(|placed| placed.phase.clone()),
                of(|placed| placed.health.clone()),
                of(|placed| placed.hold.as_ref().map(|hold| hold.text.clone()).unwrap_or_default()),
                output::moment(&host.last_seen),
            ]
        })
    });
    output::table(
        [
            "host",
            "state",
            "product",
            "ring",
            "installed",
            "wanted",
            "phase",
            "health",
            "hold",
            "last seen",
        ],
        rows,
    )
}

fn show(host: &HostStatus) -> String {
    let labels: Vec<_> =
        host.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut lines = vec![
        format!("{} ({})", host.name, host.host_id),
        format!("state         {}", host.state),
        format!("labels        {}", labels.join(" ")),
        format!("platform      {}, agent {}", host.platform, host.agent_version),
        format!("last seen     {}", output::moment(&host.last_seen)),
        format!("certificate   expires {}", output::moment(&host.certificate_expires)),
        format!("calls         {}", host.server),
    ];
    if host.metadata_expired {
        lines.push("metadata      has expired there: nothing new begins".to_owned());
    }
    if let Some(refused) = &host.metadata_failure {
        lines.push(format!("metadata      is refused ({}): {}", refused.cause, refused.text));
        lines.push(format!("help          {}", refused.help));
    }
    if let Some(other) = &host.audit_failure {
        lines.push(format!("audit log     ({}): {}", other.cause, other.text));
        lines.push(format!("help          {}", other.help));
    }
    for hold in &host.holds {
        let (text, who) = (printable(&hold.text), printable(&hold.who));
        let (since, until) = (output::moment(&hold.since), output::moment(&hold.until));
        lines.push(format!("held          {text}, since {since} until {until}, by {who}"));
    }
    for placed in &host.products {
        let ring = if placed.ring.is_empty() { "in no ring" } else { &placed.ring };
        lines.push(format!("\n{}: {ring}", placed.product));
        lines.push(format!(
            "  installed   {}{}",
            placed.installed,
            if placed.ahead { " (ahead of its ring)" } else { "" }
        ));
        for (what, text) in [
            ("wanted     ", placed.wanted.clone()),
            ("phase      ", placed.phase.clone()),
            ("health     ", placed.health.clone()),
            ("hold       ", status::hold(placed.hold.as_ref())),
            ("quarantine ", placed.quarantine.join(" ")),
        ] {
            if !text.is_empty() {
                lines.push(format!("  {what} {text}"));
            }
        }
        if let Some(failure) = &placed.failure {
            lines.push(format!("  failure     {}: {}", failure.cause, failure.text));
            if !failure.help.is_empty() {
                lines.push(format!("  help        {}", failure.help));
            }
            // The service's words, which may be anything; the last of them.
            let log: Vec<&str> = failure.log.lines().collect();
            for line in log.iter().skip(log.len().saturating_sub(SHOWN_LOG)) {
                let plain: String = line.chars().filter(|c| !c.is_control()).collect();
                lines.push(format!("  log         {plain}"));
            }
        }
        for run in &placed.hooks {
            let how = printable(&run.how);
            let (when, package) = (printable(&run.when), printable(&run.package));
            lines.push(format!("  hook        {when} {} of {package} {how}", run.number));
            let output: Vec<&str> = run.output.lines().collect();
            for line in output.iter().skip(output.len().saturating_sub(SHOWN_OUTPUT)) {
                lines.push(format!("  output      {}", printable(line)));
            }
        }
    }
    lines.join("\n")
}

/// Lines of a failed release's log that `host show` shows; `--output json` has all that were reported.
const SHOWN_LOG: usize = 20;
/// The same of what a hook wrote.
const SHOWN_OUTPUT: usize = 10;

async fn revoke(connection: &Connection, leave: Leave) -> anyhow::Result<()> {
    let host = one(connection, &leave.host).await?;
    confirm::ask_if_somebody_is_there(
        &format!("revoke {} ({})? It is refused from then on.", host.name, host.host_id),
        leave.yes,
    )?;
    let reply = connection.admin().revoke_host(request(&host, leave.reason)).await;
    let reply = reply.map_err(refused(format!("revoke {}", host.name)))?.into_inner();
    output::line(&format!("revoked {} ({})", reply.name, reply.host_id))
}

async fn retire(connection: &Connection, leave: Leave) -> anyhow::Result<()> {
    let host = one(connection, &leave.host).await?;
    confirm::ask_if_somebody_is_there(
        &format!("retire {} ({})? It leaves every count.", host.name, host.host_id),
        leave.yes,
    )?;
    let reply = connection.admin().retire_host(request(&host, leave.reason)).await;
    let reply = reply.map_err(refused(format!("retire {}", host.name)))?.into_inner();
    output::line(&format!("retired {} ({})", reply.name, reply.host_id))
}

async fn readmit(connection: &Connection, args: Readmit) -> anyhow::Result<()> {
    let (Some(authority), Some(span)) = (&args.authority, &args.span) else {
        let reply = connection.admin().close_readmission(CloseReadmissionRequest {}).await;
        let hosts = reply.map_err(refused("end the readmission"))?.into_inner().hosts;
        return output::line(&format!("hosts are not readmitted any more; {hosts} came back"));
    };
    let authority = Authority::from_der(&servers::certificate(authority)?)?.sha256();
    let seconds = duration::seconds(span)?;
    confirm::ask_if_somebody_is_there(
        &format!(
            "readmit hosts of the authority {} for {span}? Each machine with a certificate of it comes in, \
             also one that was revoked before.",
            authority.short()
        ),
        args.yes,
    )?;
    let request = OpenReadmissionRequest {
        authority_sha256: authority.as_bytes().to_vec(),
        seconds,
        reason: args.reason,
    };
    let reply = connection.admin().open_readmission(request).await;
    let until = reply.map_err(refused("readmit hosts"))?.into_inner().until;
    output::line(&format!(
        "hosts of {} are readmitted until {}\nnext: look through `refit host list`, and \
         `refit host readmit --end` when all are back",
        authority.short(),
        output::moment(&until)
    ))
}

/// By id, so that what was shown and confirmed is what is meant.
fn request(host: &HostStatus, reason: String) -> HostRequest {
    HostRequest { host: host.host_id.clone(), reason }
}

#[cfg(test)]
mod tests {
    use refit_proto::wire::PlacementStatus;

    use super::*;

    #[test]
    fn what_hooks_wrote_is_shown_with_how_they_ended_and_moves_no_cursor() {
        let hook = refit_proto::wire::HookRun {
            package: "payments".into(),
            when: "after-switch".into(),
            number: 1,
            good: false,
            how: "took longer than 5 s".into(),
            output: "one\n\u{1b}[2Jtwo".into(),
        };
        let placed = PlacementStatus { hooks: vec![hook], ..PlacementStatus::default() };
        let text = show(&HostStatus { products: vec![placed], ..HostStatus::default() });
        for part in [
            "  hook        after-switch 1 of payments took longer than 5 s",
            "  output      one",
            "  output      \\u{1b}[2Jtwo",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_host_in_no_ring_is_shown_as_such() {
        let host = HostStatus {
            name: "web-1".into(),
            products: vec![PlacementStatus {
                product: "payments".into(),
                ..PlacementStatus::default()
            }],
            ..HostStatus::default()
        };
        assert!(show(&host).contains("payments: in no ring"));
        let refused = HostStatus {
            metadata_expired: true,
            metadata_failure: Some(refit_proto::wire::Failure {
                cause: "rollback".into(),
                ..Default::default()
            }),
            ..HostStatus::default()
        };
        let text = show(&refused);
        assert!(text.contains("has expired there") && text.contains("(rollback)"), "{text}");
        assert_eq!(list(&[host, HostStatus::default()]).lines().count(), 3);
    }
}
