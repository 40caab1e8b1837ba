//! A TUF client with the command line of the TUF project's conformance suite, over the very core that
//! hosts trust: `proto/src/trust`. It fetches over HTTP and keeps its state in a flat folder. It is a
//! test program and never shipped: built with the feature `conformance`, it also verifies with P-256 and
//! RSA keys.
//!
//! Every failure ends with code 1, and leaves what the core had persisted before it.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use refit_durable::file::{self, Access};
use refit_proto::{
    names::Digest,
    trust::{
        Found, Next, Refresh, Request, Role, Stored, TargetFile, Write, metadata::limits, verify,
    },
};

/// What a URL's path holds as it is: RFC 3986's unreserved characters.
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Below this many bytes a second, after the grace, a transfer counts as stalled: an attacker who sends a
/// byte now and then must not hold a client for ever.
const LEAST_RATE: u64 = 1_000;
const GRACE: Duration = Duration::from_secs(10);

/// A TUF client for the conformance suite.
#[derive(Parser)]
struct Args {
    /// Where the trusted files are.
    #[arg(long)]
    metadata_dir: PathBuf,
    /// Where metadata is fetched, with a slash at the end.
    #[arg(long)]
    metadata_url: Option<String>,
    /// The path of a target to download; repeatable.
    #[arg(long)]
    target_name: Vec<String>,
    /// Where targets are kept.
    #[arg(long)]
    target_dir: Option<PathBuf>,
    /// Where targets are fetched, with a slash at the end.
    #[arg(long)]
    target_base_url: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Trust this root from now on.
    Init {
        /// As it was handed over.
        root: PathBuf,
    },
    /// Bring the trusted files up to date.
    Refresh,
    /// Refresh, then download each target.
    Download,
}

#[expect(clippy::disallowed_methods, reason = "the program's own clock, read once")]
fn main() -> ExitCode {
    let now = Timestamp::now();
    // The suite compares with 1, so a wrong command line must not end with clap's 2.
    let outcome = Args::try_parse().map_err(Into::into).and_then(|args| run(&args, now));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(1)
        }
    }
}

fn run(args: &Args, now: Timestamp) -> Result<()> {
    match &args.verb {
        Verb::Init { root } => init(args, root),
        Verb::Refresh => Client::start(args, now)?.refresh(),
        Verb::Download => {
            let mut client = Client::start(args, now)?;
            client.refresh()?;
            args.target_name.iter().try_for_each(|name| client.download(args, name))
        }
    }
}

fn init(args: &Args, root: &Path) -> Result<()> {
    let bytes = file::read(root, limits::ROOT)?;
    verify::verify_root(&bytes, None)?;
    file::create_dir_all(&args.metadata_dir)?;
    Ok(file::write(&args.metadata_dir.join(Role::Root.file_name()), &bytes, Access::Shared)?)
}

/// One refresh and the searches after it, all by the same clock reading.
struct Client<'a> {
    folder: &'a Path,
    url: &'a str,
    http: ureq::Agent,
    refresh: Refresh,
}

impl<'a> Client<'a> {
    fn start(args: &'a Args, now: Timestamp) -> Result<Client<'a>> {
        let url = args.metadata_url.as_deref().context("--metadata-url is missing")?;
        let http = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_secs(30)))
            .build()
            .into();
        let refresh = Refresh::start(stored(&args.metadata_dir)?, &[], now)?;
        Ok(Client { folder: &args.metadata_dir, url, http, refresh })
    }

    fn refresh(&mut self) -> Result<()> {
        while let Next::Fetch(request) = self.refresh.next()? {
            self.fetch(&request)?;
        }
        Ok(())
    }

    /// Fetches what is asked for and makes what was accepted durable.
    fn fetch(&mut self, request: &Request) -> Result<()> {
        let name = request.role.file_name();
        let name = request.version.map_or(name.clone(), |version| format!("{version}.{name}"));
        let Some(bytes) = self.get(&format!("{}{name}", self.url), request.max_length)? else {
            return Ok(self.refresh.absent()?);
        };
        for write in self.refresh.supply(&bytes)? {
            match write {
                Write::Put { role, bytes, .. } => {
                    file::write(&self.folder.join(role.file_name()), &bytes, Access::Shared)?;
                }
                Write::Delete { role } => {
                    file::remove(&self.folder.join(role.file_name()))?;
                }
            }
        }
        Ok(())
    }

    fn download(&mut self, args: &Args, name: &str) -> Result<()> {
        let folder = args.target_dir.as_deref().context("--target-dir is missing")?;
        let base = args.target_base_url.as_deref().context("--target-base-url is missing")?;
        let target = loop {
            match self.refresh.find(name)? {
                Found::Target(target) => break target,
                Found::Nothing => bail!("no trusted role signs {name:?}"),
                Found::Fetch(request) => self.fetch(&request)?,
            }
        };
        // Named by the digest of its path: no name that a repository chooses leaves the folder.
        let place = folder.join(Digest::of(name.as_bytes()).to_string());
        let kept = file::read_if_there(&place, target.length);
        if kept.is_ok_and(|kept| kept.is_some_and(|bytes| target.fits(&bytes))) {
            return Ok(());
        }
        let url = format!("{base}{}", self.target_path(name, &target));
        let bytes = self.get(&url, target.length)?.with_context(|| format!("{url} is missing"))?;
        ensure!(target.fits(&bytes), "{url} is not what was signed");
        file::create_dir_all(folder)?;
        Ok(file::write(&place, &bytes, Access::Shared)?)
    }

    /// With consistent snapshots the file bears its hash (TUF 5.7.3).
    fn target_path(&self, name: &str, target: &TargetFile) -> String {
        let path = utf8_percent_encode(name, PATH).to_string();
        if !self.refresh.consistent_snapshot() {
            return path;
        }
        let hash = target.hashes.first_hex();
        match path.rsplit_once('/') {
            Some((folder, file)) => format!("{folder}/{hash}.{file}"),
            None => format!("{hash}.{path}"),
        }
    }

    /// The bytes, at most `limit`; `None` if the server says that there is no such file.
    fn get(&self, url: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let answer = self.http.get(url).call().with_context(|| format!("cannot fetch {url}"))?;
        match answer.status().as_u16() {
            200 => {}
            404 => return Ok(None),
            code => bail!("{url}: HTTP {code}"),
        }
        let mut body = answer.into_body().into_reader().take(limit + 1);
        let mut bytes = Vec::new();
        let mut chunk = [0; 16 * 1024];
        let began = Instant::now();
        loop {
            let count = body.read(&mut chunk).with_context(|| format!("cannot read {url}"))?;
            if count == 0 {
                break;
            }
            bytes.extend_from_slice(&chunk[..count]);
            let late = began.elapsed().saturating_sub(GRACE).as_secs();
            ensure!(bytes.len() as u64 >= late * LEAST_RATE, "{url}: the transfer stalls");
        }
        ensure!(bytes.len() as u64 <= limit, "{url} has more than {limit} bytes");
        Ok(Some(bytes))
    }
}

/// The trusted files of a folder, by the role that each name stands for.
fn stored(folder: &Path) -> Result<Stored> {
    let mut stored = Stored::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(role) = name.to_str().and_then(Role::of_file_name) else { continue };
        let bytes = file::read(&entry.path(), limits::max_length(&role))?;
        stored.insert(role, bytes);
    }
    Ok(stored)
}
