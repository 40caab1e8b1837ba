//! `refit-agent enroll`: from a token to an enrolled host with its first root.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use refit_agent::{
    clock::Clock,
    identity::{Identity, Keys, Ways},
    link::{self, Server},
    trusted::TrustFolder,
};
use refit_proto::{names::HostName, token::Token};

use super::{
    Common,
    line::{Arg, Command, Does, Given},
};

const TOKEN: Arg = Arg::option("token", "TOKEN", "The token of `refit token create`")
    .needed()
    .or_variable("REFIT_TOKEN");
const NAME: Arg =
    Arg::option("name", "NAME", "What people call this host; its host name if left out");

pub(super) const COMMAND: Command = Command {
    name: "enroll",
    about: "Make this machine a host of the fleet, with a token of `refit token create`",
    args: &[TOKEN, NAME],
    does: Does::This(run),
    ..Command::NONE
};

fn run(given: &Given) -> Result<ExitCode> {
    let token = given.must(&TOKEN, given.text(&TOKEN)?)?;
    let name: Option<HostName> = given.parsed(&NAME)?;
    let settings = Common::of(given)?.settings()?;
    let folder = settings.identity();
    let clock = Clock::system()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let known = Identity::load_if_enrolled(&folder)?;
    if let Some(identity) = &known
        && TrustFolder::at(settings.trust()).has_root()?
    {
        println!(
            "this host is enrolled already, as {} ({}) at {}; nothing was changed",
            identity.name, identity.host, identity.server
        );
        return Ok(ExitCode::SUCCESS);
    }
    let identity = match known {
        // Enrolled, but the first root was lost on its way.
        Some(identity) => identity,
        None => {
            let token = Token::parse(&token)?;
            let name = match name {
                Some(name) => name,
                None => own_name()?,
            };
            let (platform, proxies) = (&settings.platform, &settings.proxies);
            let enrolling = link::enroll(&token, name, platform, &folder, clock.clone(), proxies);
            runtime.block_on(enrolling)?
        }
    };
    let keys = Keys::load(&folder)?;
    let root = runtime.block_on(async {
        let server = Server::new(&identity, &keys, Ways::of(&identity, None), clock)?
            .with_proxies(settings.proxies.clone())?;
        anyhow::Ok(link::fetch_first_root(&server, &identity).await?)
    });
    let root = root.context(
        "this host is enrolled, but its first root is not here; run the same command again",
    )?;
    TrustFolder::at(settings.trust()).put_first_root(&root)?;
    println!(
        "this host is enrolled as {} ({}) at {}",
        identity.name, identity.host, identity.server
    );
    Ok(ExitCode::SUCCESS)
}

fn own_name() -> Result<HostName> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    HostName::parse(&name).with_context(|| {
        format!("this machine's name {name:?} can't be used\nhelp: give one with `--name`")
    })
}
