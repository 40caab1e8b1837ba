//! Refit's server.

use std::{
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use refit_durable::file;
use refit_proto::names::PersonName;
use refit_server::{
    audit_key, authorities,
    clock::Clock,
    init::{self, Made, Outcome, Plan},
    serve,
    settings::{DEFAULT_DATA, DEFAULT_LISTEN, Overrides, Settings},
};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Refit's server: publishes signed releases ring by ring
#[derive(Parser)]
#[command(name = "refit-server", version)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make the data folder, the server's keys and the first administrator's token
    Init(InitArgs),
    /// Serve
    Run(RunArgs),
    /// The certificate authority: show it, replace it, retire the one before
    Ca(CaArgs),
    /// The audit key: replace one that was stolen
    Audit(AuditArgs),
}

#[derive(Args)]
struct AuditArgs {
    /// The data folder
    #[arg(long, global = true, env = "REFIT_DATA", default_value = DEFAULT_DATA)]
    data: PathBuf,
    #[command(subcommand)]
    act: AuditAct,
}

#[derive(Subcommand)]
enum AuditAct {
    /// Put a new audit key in its place, with an entry in the log that names both; stop the server first
    Replace,
}

#[derive(Args)]
struct InitArgs {
    /// Name of the first administrator, as the audit log will name them
    #[arg(long)]
    admin: PersonName,
    /// The data folder
    #[arg(long, env = "REFIT_DATA", default_value = DEFAULT_DATA)]
    data: PathBuf,
    /// DNS name or IP address by which agents and people reach the server; the first stands in
    /// tokens. By default this machine's name and loopback
    #[arg(long = "address", value_name = "NAME_OR_IP", num_args = 1..)]
    addresses: Vec<String>,
    /// Where the server will listen for agents and people
    #[arg(long, env = "REFIT_LISTEN", default_value = DEFAULT_LISTEN)]
    listen: SocketAddr,
}

#[derive(Args)]
struct CaArgs {
    /// The data folder
    #[arg(long, global = true, env = "REFIT_DATA", default_value = DEFAULT_DATA)]
    data: PathBuf,
    #[command(subcommand)]
    act: CaAct,
}

#[derive(Subcommand)]
enum CaAct {
    /// Print the certificate of the authority that issues, and of the one that it replaces
    Show,
    /// Put a new authority in its place; the one before stays accepted until it is retired
    Replace {
        /// The one before was stolen: retire it at once
        #[arg(long)]
        stolen: bool,
    },
    /// Retire the authority before: its certificates may only renew themselves
    Retire,
    /// Let hosts renew that have a certificate of a former authority, by its certificate alone
    Accept {
        /// PEM
        certificate: PathBuf,
    },
}

#[derive(Args)]
struct RunArgs {
    /// The data folder
    #[arg(long, env = "REFIT_DATA", default_value = DEFAULT_DATA)]
    data: PathBuf,
    /// Where to listen for agents and people, in place of the setting
    #[arg(long, env = "REFIT_LISTEN")]
    listen: Option<SocketAddr>,
    /// Where to show the page, /metrics and the probes, in place of the setting; loopback only
    #[arg(long, env = "REFIT_STATUS_LISTEN")]
    status_listen: Option<SocketAddr>,
}

fn main() -> ExitCode {
    let done = match Command::parse().action {
        Action::Init(args) => init_data(args),
        Action::Run(args) => run(args),
        Action::Ca(args) => ca(args),
        Action::Audit(args) => audit(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn init_data(args: InitArgs) -> anyhow::Result<()> {
    let addresses = match args.addresses.is_empty() {
        true => own_names(),
        false => args.addresses,
    };
    let InitArgs { admin, data, listen, .. } = args;
    let plan = Plan { data, admin, addresses, listen };
    match init::init(&plan, Clock::system().now())? {
        Outcome::Made(made) => say(&story(&plan, &made))?,
        Outcome::AlreadyThere => say(&format!(
            "{} is a data folder of refit-server already; nothing was changed\n\
             help: if its first token was lost before anybody logged in, remove the folder and make it anew",
            plan.data.display()
        ))?,
    }
    Ok(())
}

fn ca(args: CaArgs) -> anyhow::Result<()> {
    let folder = args.data.join(init::KEYS);
    const RESTART: &str = "restart the server; then name the authorities in the signed list of servers \
                           with `refit apply`";
    match args.act {
        CaAct::Show => {
            for (standing, pem) in authorities::shown_certificates(&folder)? {
                say(&format!("# {}\n{}", standing.word(), pem.trim_end()))?;
            }
            Ok(())
        }
        CaAct::Replace { stolen } => {
            authorities::replace(&folder, stolen, Clock::system().now())?;
            Ok(say(&format!("there is a new authority\nnext: {RESTART}"))?)
        }
        CaAct::Retire => {
            authorities::retire(&folder)?;
            Ok(say("the authority before is retired\nnext: restart the server")?)
        }
        CaAct::Accept { certificate } => {
            authorities::accept_former(&folder, &file::read(&certificate, 64 * 1024)?)?;
            Ok(say(
                "certificates of that authority may renew themselves\nnext: restart the server",
            )?)
        }
    }
}

fn audit(args: AuditArgs) -> anyhow::Result<()> {
    match args.act {
        AuditAct::Replace => {
            let new = audit_key::replace(&args.data, Clock::system().now())?;
            let json = new.to_json();
            Ok(say(&format!(
                "{}\nnext: start the server; save that line as audit.pub.json, and on each administrator's \
                 machine `refit audit believe audit.pub.json`",
                String::from_utf8_lossy(&json)
            ))?)
        }
    }
}

/// A reader that has gone away (`| head`) is no failure of ours.
fn say(text: &str) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn story(plan: &Plan, made: &Made) -> String {
    let data = plan.data.display();
    let keys =
        made.keys.public(&Default::default()).into_iter().map(|(name, key)| {
            format!("  {name:<10} {}\n", String::from_utf8_lossy(&key.to_json()))
        });
    format!(
        "made the data folder {data}\n\n\
         public halves of the server's own keys (`refit trust init --from-server` asks for them):\n{}\n\
         start the server with\n  refit-server run --data {data}\n\n\
         and log in within 24 hours, once, with\n  refit login \\\n{}",
        keys.collect::<String>(),
        made.token.to_text()
    )
}

/// By what a server is reached where nobody says: this machine's name, if it can stand in a
/// certificate, and loopback.
fn own_names() -> Vec<String> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name = Some(name).filter(|name| refit_server::ca::is_server_name(name));
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    names.extend(name.filter(|name| name != "localhost"));
    names
}

fn run(args: RunArgs) -> anyhow::Result<()> {
    let over = Overrides { listen: args.listen, status_listen: args.status_listen };
    let settings = Settings::load(&args.data, &over)?;
    log();
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let ready = serve::open(settings, Clock::system()).await?;
        ready
            .serve(async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            })
            .await
    })
}

/// Takes as many open files as the system allows: each connection is one, and what a service gets by
/// default is a thousand.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// One line for each event, to standard error; `REFIT_LOG` says how much.
fn log() {
    let filter = EnvFilter::try_from_env("REFIT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_takes_as_many_open_files_as_it_may() {
        let mut few = getrlimit(Resource::Nofile);
        few.current = Some(256);
        setrlimit(Resource::Nofile, few).expect("a limit can be lowered");
        raise_open_files();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
    }
}
