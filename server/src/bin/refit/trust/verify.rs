//! `refit trust verify`: walks what is published as a host does that knows nothing but the first root, and
//! what is made here as it would be published, before anybody sees it.

use anyhow::{Context as _, ensure};
use refit_proto::{
    trust::{Next, Refresh, Request, Role, Stored, TrustedSet},
    wire::{MetadataFile, PushMetadataRequest},
};

use super::{OwnCopy, own::Unsent, refresh};
use crate::{Context, connect::Connection, failure::refused, output};

/// Options of `refit trust verify`.
#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(context: &Context, _: Args) -> anyhow::Result<()> {
    let connection = Connection::open(context).await?;
    let unsent = OwnCopy::of(context).unsent()?;
    let staged = Staged::of(&connection, unsent).await?;
    let first = walk(context, &connection, &staged, &[]).await?;
    let roles: Vec<Role> = first.targets().delegations.iter().map(|it| it.role.clone()).collect();
    let set = walk(context, &connection, &staged, &roles).await?;
    set.expired(context.now)?;
    let mut lines = Vec::new();
    for (role, version, expires) in set.roles() {
        let note = if staged.holds(&role, version) { " (made here, not sent yet)" } else { "" };
        lines.push(format!("{role} {version}, until {expires}{note}"));
    }
    for role in &roles {
        if let Some(error) = set.refused(role) {
            anyhow::bail!("a host would not trust {role}: {error}");
        }
    }
    lines.push(format!(
        "a host that knows the first root alone trusts all of it, from root 1 to {}",
        version(&set)
    ));
    output::line(&lines.join("\n"))
}

fn version(set: &TrustedSet) -> u64 {
    set.version(&Role::Root).unwrap_or(0)
}

/// What would be published, where something is made here.
struct Staged {
    made: Vec<Unsent>,
    snapshot: Option<(u64, Vec<u8>)>,
    timestamp: Option<Vec<u8>>,
}

impl Staged {
    /// Has the server say what it would publish; it stores nothing.
    async fn of(connection: &Connection, made: Vec<Unsent>) -> anyhow::Result<Staged> {
        if made.is_empty() {
            return Ok(Staged { made, snapshot: None, timestamp: None });
        }
        let files = made
            .iter()
            .map(|file| MetadataFile { role: file.role.to_string(), file: file.bytes.clone() });
        let request = PushMetadataRequest { files: files.collect() };
        let reply = connection.changes().rehearse_push(request).await;
        let reply = reply.map_err(refused("rehearse what is made here"))?.into_inner();
        let of = |role: &str| reply.files.iter().find(|file| file.role == role);
        let snapshot = of("snapshot").map(|file| (reply.snapshot, file.file.clone()));
        let timestamp = of("timestamp").map(|file| file.file.clone());
        ensure!(
            snapshot.is_some() && timestamp.is_some(),
            "the server has all of it, or is too old to rehearse\nhelp: `refit trust push`"
        );
        Ok(Staged { made, snapshot, timestamp })
    }

    fn holds(&self, role: &Role, version: u64) -> bool {
        self.made.iter().any(|file| file.role == *role && file.version == version)
    }

    fn answer(&self, request: &Request) -> Option<Vec<u8>> {
        match (&request.role, request.version) {
            (Role::Timestamp, _) => self.timestamp.clone(),
            (Role::Snapshot, version) => {
                let (held, bytes) = self.snapshot.as_ref()?;
                (version == Some(*held)).then(|| bytes.clone())
            }
            (role, version) => {
                let made = self.made.iter().find(|file| {
                    file.role == *role && version.is_none_or(|version| file.version == version)
                });
                made.map(|file| file.bytes.clone())
            }
        }
    }
}

/// Our own client, from the first root and an empty store.
async fn walk(
    context: &Context,
    connection: &Connection,
    staged: &Staged,
    wanted: &[Role],
) -> anyhow::Result<TrustedSet> {
    let first = OwnCopy::of(context).first_root()?;
    let mut refresh = Refresh::start(Stored::from([(Role::Root, first)]), wanted, context.now)?;
    while let Next::Fetch(request) = refresh.next()? {
        let found = match staged.answer(&request) {
            Some(bytes) => Some(bytes),
            None => refresh::fetch(connection, &request).await?,
        };
        match found {
            Some(bytes) => {
                // Nothing is kept: this host is none.
                let _writes = refresh.supply(&bytes)?;
            }
            None => refresh.absent().context("a file is missing")?,
        }
    }
    Ok(refresh.into_set()?)
}
