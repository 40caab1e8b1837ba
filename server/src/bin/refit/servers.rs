//! The signed list of servers on the caller's side: kept as it was verified last, and followed by every
//! command. `refit server show` says which authorities there are, and how many hosts use each.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use refit_proto::{
    names::Digest,
    servers::{Authority, SERVERS, ServersPolicy},
    trust::{TrustedSet, trusted_servers},
    wire::{GetFleetRequest, GetServerKeysRequest},
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde::Serialize;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    Context, connect::Connection, content, failure::refused, home, output, output::Output,
};

/// How long a server may take to take a connection before the next one is tried.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest certificate file that is read.
const LONGEST_CERTIFICATE: u64 = 64 * 1024;
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Options of `refit server`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Take the server's certificate authority from a file, in place of the one of the login.
    #[command(
        after_help = "Example:\n  refit server believe ca.crt   (as `refit-server ca show` prints it)"
    )]
    Believe {
        /// PEM or DER.
        certificate: PathBuf,
    },
    /// The certificate authorities with the hosts that use each, and signed files that were lost.
    #[command(after_help = "Example:\n  refit server show")]
    Show {
        #[command(flatten)]
        output: Output,
    },
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    match args.verb {
        Verb::Show { output } => {
            let connection = Connection::open(context).await?;
            output.print(&shown(&connection).await?, in_words)
        }
        Verb::Believe { certificate: path } => believe(context, &path),
    }
}

fn believe(context: &Context, path: &Path) -> anyhow::Result<()> {
    let authority = Authority::from_der(&certificate(path)?)?;
    // A list that names another may be the reason for this.
    refit_durable::file::remove(&kept(context))?;
    context.home.write(&context.home.authority(), authority.der())?;
    output::line(&format!("the server's authority is {}", authority.sha256().short()))
}

/// A certificate as files hold it: PEM or DER.
pub(crate) fn certificate(path: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = refit_durable::file::read(path, LONGEST_CERTIFICATE)?;
    // What `refit-server ca show` prints says above each which one it is.
    let pem = bytes.windows(BEGIN.len()).any(|part| part == BEGIN);
    match pem {
        true => Ok(CertificateDer::from_pem_slice(&bytes)
            .ok()
            .with_context(|| format!("{} holds no certificate", path.display()))?
            .to_vec()),
        false => Ok(bytes),
    }
}

/// Refuses a list without the authority by which the server proves itself now: every host would lose it.
pub(crate) async fn check_shown(
    connection: &Connection,
    list: &ServersPolicy,
) -> anyhow::Result<()> {
    let known = shown(connection).await?.authorities;
    let named = |row: &&AuthorityRow| row.standing == "replaced" || row.standing == "issues";
    let Some(now) = known.iter().rfind(named) else { return Ok(()) };
    ensure!(
        list.authorities.iter().any(|authority| authority.sha256().to_string() == now.sha256),
        "the list of servers lacks the authority {} by which the server proves itself now\n\
         help: `refit-server ca show` prints it; `refit-server ca retire` ends its time",
        &now.sha256[..12]
    );
    Ok(())
}

#[derive(Debug, Serialize)]
struct Shown {
    authorities: Vec<AuthorityRow>,
    /// What the server once published and has lost.
    lacking: Vec<LackingRow>,
    /// Set while hosts are let back in that the server does not know.
    readmission: Option<ReadmissionRow>,
}

#[derive(Debug, Serialize)]
struct ReadmissionRow {
    until: String,
    opened_by: String,
    hosts: u64,
}

#[derive(Debug, Serialize)]
struct LackingRow {
    role: String,
    version: u64,
}

#[derive(Debug, Serialize)]
struct AuthorityRow {
    sha256: String,
    standing: String,
    hosts: u64,
}

async fn shown(connection: &Connection) -> anyhow::Result<Shown> {
    let reply = connection.admin().get_server_keys(GetServerKeysRequest {}).await;
    let reply = reply.map_err(refused("read the server's authorities"))?.into_inner();
    let row = |it: refit_proto::wire::AuthorityStatus| AuthorityRow {
        sha256: Digest::from_bytes(&it.sha256).map(|it| it.to_string()).unwrap_or_default(),
        standing: it.standing,
        hosts: it.hosts,
    };
    let fleet = connection.status().get_fleet(GetFleetRequest::default()).await;
    let files = fleet.map_err(refused("read what the server lacks"))?.into_inner().metadata;
    let files = files.into_iter().filter(|file| file.lacking > 0);
    let lacking = files.map(|it| LackingRow { role: it.role, version: it.lacking }).collect();
    let readmission = reply.readmission.map(|it| ReadmissionRow {
        until: it.until,
        opened_by: it.opened_by,
        hosts: it.hosts,
    });
    let authorities = reply.authorities.into_iter().map(row).collect();
    Ok(Shown { authorities, lacking, readmission })
}

fn in_words(shown: &Shown) -> String {
    let lacking = shown.lacking.iter().map(|row| {
        format!("\nlacks {} {}, which hosts hold: it is asked for", row.role, row.version)
    });
    let lacking: String = lacking.collect();
    let rows = shown.authorities.iter().map(|row| {
        let short = row.sha256.chars().take(12).collect();
        [short, row.standing.clone(), row.hosts.to_string()]
    });
    let readmission = shown.readmission.as_ref().map(|it| {
        let until = output::moment(&it.until);
        format!("\nhosts are readmitted until {until}, by {}; {} came back", it.opened_by, it.hosts)
    });
    let table = output::table(["authority", "standing", "hosts"], rows);
    format!("{table}{lacking}{}", readmission.unwrap_or_default())
}

fn kept(context: &Context) -> PathBuf {
    context.home.trust().join("servers.json")
}

/// Forgets the list that was verified last: it names the authority of a server that is lost.
pub(crate) fn forget(context: &Context) -> anyhow::Result<()> {
    refit_durable::file::remove(&kept(context))?;
    Ok(())
}

/// The list that was verified last, if any was.
pub(crate) fn known(context: &Context) -> anyhow::Result<Option<ServersPolicy>> {
    let path = kept(context);
    let Some(bytes) = home::read(&path)? else { return Ok(None) };
    let damaged = || format!("{} is damaged\nhelp: remove it; it comes again", path.display());
    ServersPolicy::parse(&bytes).map(Some).with_context(damaged)
}

/// Keeps the list that this set signs, or none.
pub(crate) async fn follow(
    context: &Context,
    connection: &Connection,
    set: &TrustedSet,
) -> anyhow::Result<()> {
    let Some(target) = set.policy_target(SERVERS) else {
        refit_durable::file::remove(&kept(context))?;
        return Ok(());
    };
    if home::read(&kept(context))?.is_some_and(|bytes| target.fits(&bytes)) {
        return Ok(());
    }
    let digest = target.digest().context("the list of servers is signed without a SHA-256")?;
    let bytes =
        content::fetch(connection, digest, target.length, ServersPolicy::MAX_LENGTH).await?;
    trusted_servers(set, &bytes)?;
    context.home.write(&kept(context), &bytes)
}

/// Where to connect: the first address that takes a connection, of the list and then of the login.
pub(crate) async fn address(context: &Context) -> anyhow::Result<String> {
    let own = context.home.server()?.address;
    let Some(list) = known(context)? else { return Ok(own) };
    if list.servers.iter().all(|address| address.as_str() == own) {
        return Ok(own);
    }
    for address in list.servers.iter().map(|address| address.as_str()) {
        if matches!(timeout(PATIENCE, TcpStream::connect(address)).await, Ok(Ok(_))) {
            return Ok(address.to_owned());
        }
    }
    Ok(own)
}

/// Whom to believe there: those of the list, else the one of the login.
pub(crate) fn authorities(context: &Context) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    if let Some(list) = known(context)? {
        return Ok(list.authorities.iter().map(|authority| authority.der().clone()).collect());
    }
    let own = home::read(&context.home.authority())?.context(
        "the server's certificate authority is missing\nhelp: log in again: `refit login TOKEN`",
    )?;
    Ok(vec![CertificateDer::from(own)])
}

/// The address and authority that tokens carry. While one authority replaces another, the server proves
/// itself by the last of the list to those who know nothing else yet.
pub(crate) fn for_tokens(context: &Context) -> anyhow::Result<(String, Vec<u8>)> {
    let address = match known(context)?.and_then(|list| list.servers.into_iter().next()) {
        Some(address) => address.to_string(),
        None => context.home.server()?.address,
    };
    let authority = authorities(context)?.pop().context("there is no authority")?;
    Ok((address, authority.to_vec()))
}
