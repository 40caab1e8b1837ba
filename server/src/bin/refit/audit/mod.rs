//! `refit audit`: who did what, and whether the log that says so is whole.

mod log;
mod verify;

use std::path::PathBuf;

use anyhow::Context as _;
use refit_proto::{
    names::Digest,
    trust::PublicKey,
    wire::{ListAuditRequest, ListHostsRequest},
};

use self::{
    log::Log,
    verify::{Known, Line, Verified, Witnessed},
};
use crate::{
    Context, connect::Connection, failure::refused, home, host, key, output, output::Output,
    server_keys,
};

/// Options of `refit audit`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// The log, oldest entry first. As JSON it is a file that anybody can verify.
    #[command(
        after_help = "Examples:\n  refit audit list\n  refit audit list --output json > audit.json"
    )]
    List(Output),
    /// Check that no entry was changed, removed or added since the server signed the log's end.
    #[command(after_help = "Examples:
  refit audit verify
  refit audit verify --file audit.json --audit-key audit.pub.json")]
    Verify(Verify),
    /// Take the server's new audit key, as `refit-server audit replace` printed it, in place of the one noted.
    #[command(after_help = "Example:\n  refit audit believe audit.pub.json")]
    Believe {
        /// The new public half.
        key: String,
    },
}

#[derive(clap::Args)]
struct Verify {
    /// Check a log that `refit audit list --output json` wrote, and ask no server.
    #[arg(long)]
    file: Option<PathBuf>,
    /// The server's audit key, instead of the one that was noted at login or `refit trust init`.
    #[arg(long, value_name = "FILE")]
    audit_key: Option<String>,
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    match args.verb {
        Verb::List(output) => {
            let log = fetch(&Connection::open(context).await?).await?;
            output.print(&log, list)
        }
        Verb::Verify(args) => verify(context, args).await,
        Verb::Believe { key } => {
            let key = key::public(context, None, &key)?;
            let id = key.id().short();
            server_keys::believe_audit(context, key)?;
            output::line(&format!("the server's audit key is {id}"))
        }
    }
}

async fn verify(context: &Context, args: Verify) -> anyhow::Result<()> {
    let key = audit_key(context, args.audit_key.as_deref())?;
    let known: Option<Known> = home::read_json(&context.home.checkpoint())?;
    // A file may be older than what was seen: it is held against what was seen of it, no more.
    let mut hosts = Vec::new();
    let (log, known) = match &args.file {
        Some(file) => {
            let log = Log::read(file)?;
            let within = known.filter(|known| known.length <= log.entries.len() as u64);
            (log, within)
        }
        None => {
            let connection = Connection::open(context).await?;
            // Hosts first: the log is never shorter than what they have seen before it was read.
            hosts = witnessed(&connection).await?;
            (fetch(&connection).await?, known)
        }
    };
    let Verified { seen, beyond, at, hashes } = verify::verify(&log, &key, known.as_ref())?;
    verify::against_hosts(&hashes, &hosts)?;
    if args.file.is_none() {
        context.home.write(&context.home.checkpoint(), &serde_json::to_vec_pretty(&seen)?)?;
    }
    let more = match beyond {
        0 => String::new(),
        more => format!("; {more} newer entries are chained to it and not signed yet"),
    };
    let at = output::moment(&at);
    output::line(&format!(
        "the log is whole: {} entries, signed at {at} by audit key {}{more}{}",
        seen.length,
        key.id().short(),
        match hosts.len() {
            0 => String::new(),
            hosts => format!("; {hosts} hosts have seen this log"),
        }
    ))
}

/// What hosts have seen of the log.
async fn witnessed(connection: &Connection) -> anyhow::Result<Vec<Witnessed>> {
    let hosts = host::hosts(connection, ListHostsRequest::default()).await?;
    let seen = hosts.into_iter().filter_map(|host| Some((host.name, host.audit_held?)));
    seen.map(|(host, held)| {
        let hash = Digest::from_bytes(&held.hash)?;
        Ok(Witnessed { host, seen: Known { length: held.length, hash } })
    })
    .collect()
}

fn audit_key(context: &Context, named: Option<&str>) -> anyhow::Result<PublicKey> {
    match named {
        Some(word) => key::public(context, None, word),
        None => server_keys::known(context)?.and_then(|mut keys| keys.remove("audit")).context(
            "the server's audit key is not known here\nhelp: name it with --audit-key FILE",
        ),
    }
}

/// Entries asked for at once.
const PAGE: u32 = 1000;

/// The whole log, at least up to the end that was signed when the reading began.
async fn fetch(connection: &Connection) -> anyhow::Result<Log> {
    let mut log = Log::default();
    loop {
        let request = ListAuditRequest { after: log.entries.len() as u64, limit: PAGE };
        let reply = connection.admin().list_audit(request).await;
        let reply = reply.map_err(refused("read the audit log"))?.into_inner();
        let ended = reply.entries.is_empty();
        log.add(reply)?;
        if ended {
            return Ok(log);
        }
    }
}

fn list(log: &Log) -> String {
    output::table(
        ["no", "at", "who", "act", "what", "outcome"],
        log.entries.iter().map(|entry| match Line::read(entry) {
            Ok(line) => [
                line.sequence.to_string(),
                output::moment(&line.at),
                line.who,
                line.act,
                line.what,
                line.outcome,
            ],
            Err(error) => [entry.sequence.to_string(), String::new(), error.to_string()]
                .into_iter()
                .chain(std::iter::repeat_n(String::new(), 3))
                .collect::<Vec<_>>()
                .try_into()
                .unwrap_or_default(),
        }),
    )
}
