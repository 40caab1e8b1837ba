//! `refit login`: the caller's first certificate, for a key that is made here.

use anyhow::{Context as _, bail, ensure};
use rcgen::KeyPair;
use refit_proto::{
    names::PersonName,
    token::{Subject, Token},
    wire::{LoginRequest, TokenProof},
};

use crate::{
    Context,
    connect::Connection,
    failure::refused,
    home::{self, Server},
    identity::Identity,
    output, server_keys, servers,
};

/// Options of `refit login`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  refit login refit1-eyJpZCI6...")]
pub(crate) struct Args {
    /// The token, as `refit-server init` or `refit token create` printed it.
    token: String,
    /// Refuse a token that is for someone else.
    #[arg(long)]
    name: Option<PersonName>,
    /// The server was set up anew after its disk was lost: take its new keys in place of those noted.
    #[arg(long)]
    new_server: bool,
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let token = Token::parse(&args.token)?;
    let name = person(&token)?;
    if let Some(wanted) = &args.name {
        ensure!(wanted == name, "the token is for {name}, not for {wanted}");
    }
    ensure!(
        context.now < token.expires,
        "the token expired at {}\nhelp: ask for a new one",
        token.expires
    );
    let key = login_key(context, &token)?;
    let (identity, server) = log_in(&token, name, key).await?;
    context.home.write(&context.home.authority(), &token.ca_der())?;
    context.home.save_server(&server)?;
    identity.save(context)?;
    refit_durable::file::remove(&context.home.login_key(&token.id))?;
    if args.new_server {
        server_keys::set_aside(context)?;
        servers::forget(context)?;
    }
    note_server_keys(context, &server.address, &token.ca_der(), &identity).await?;
    let Server { address, name, roles } = server;
    output::line(&format!("logged in to {address} as {name} ({})", roles.join(", ")))
}

/// The server's public halves, the audit key among them, are taken at the first chance: the connection
/// is to the authority that the token named. Who may not read them does without.
async fn note_server_keys(
    context: &Context,
    address: &str,
    authority: &[u8],
    identity: &Identity,
) -> anyhow::Result<()> {
    let connection = Connection::with(address, authority, Some(identity))?;
    match server_keys::ask(&connection).await {
        Ok(keys) => server_keys::take(context, &keys),
        Err(_) => Ok(()),
    }
}

fn person(token: &Token) -> anyhow::Result<&PersonName> {
    match &token.subject {
        Subject::Person { name } | Subject::Ci { name } => Ok(name),
        Subject::Host { .. } => {
            bail!("the token is for a host\nhelp: use it there: `refit-agent enroll --token TOKEN`")
        }
    }
}

/// The key of this login. It is stored before it is used, so that a login whose answer was lost can be
/// repeated with the same key.
fn login_key(context: &Context, token: &Token) -> anyhow::Result<KeyPair> {
    ensure!(
        !token.id.is_empty() && token.id.bytes().all(|b| b.is_ascii_alphanumeric()),
        "the token has no usable id\nhelp: ask for a new one"
    );
    let path = context.home.login_key(&token.id);
    if let Some(pem) = home::read(&path)? {
        let pem = String::from_utf8_lossy(&pem);
        return KeyPair::from_pem(&pem).with_context(|| format!("{} is damaged", path.display()));
    }
    let key = KeyPair::generate().context("cannot make a key")?;
    context.home.write(&path, key.serialize_pem().as_bytes())?;
    Ok(key)
}

async fn log_in(
    token: &Token,
    name: &PersonName,
    key: KeyPair,
) -> anyhow::Result<(Identity, Server)> {
    let certificate_request = Identity::request(&key, name.as_str())?;
    let proof = TokenProof { token_id: token.id.clone(), secret: token.secret().to_vec() };
    let reply = Connection::with(&token.server, &token.ca_der(), None)?
        .enrollment()
        .login(LoginRequest { token: Some(proof), certificate_request })
        .await
        .map_err(refused(format!("log in to {}", token.server)))?
        .into_inner();
    ensure!(
        reply.name == name.as_str(),
        "the server takes us for {:?}, but the token is for {name}",
        reply.name
    );
    let identity = Identity::new(reply.certificates, key)?;
    let server = Server { address: token.server.clone(), name: reply.name, roles: reply.roles };
    Ok((identity, server))
}
