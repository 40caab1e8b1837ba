//! `refit trust restore`: what is kept here goes to a server that was set up anew, after its disk was lost
//! with everything on it. Its keys are new, so root and targets are signed once more, to name them; all
//! other files are sent as they are. The server takes each role when what it names is there.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use refit_proto::{
    trust::{
        PublicKey, Request, Role, TrustedSet,
        change::Base,
        edit::{Draft, KeyList, RootKeys},
        metadata::limits,
        verify::verify_root,
    },
    wire::{MetadataFile, PushMetadataRequest},
};

use super::{
    OwnCopy, ceremony,
    own::{Unsent, rank},
    refresh, rotate,
};
use crate::{
    Context, connect::Connection, failure::refused, output, release, server_keys,
    server_keys::ServerKeys,
};

/// How the tool names the server's gate key among the holders of a role.
const GATE: &str = "the server (gate)";

/// Options of `refit trust restore`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Folders of releases, whose content is uploaded first.
    #[arg(value_name = "RELEASE_DIR")]
    releases: Vec<PathBuf>,
    /// A key to sign the new root and targets with; else those kept here.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Where others have to sign as well: what the change that they sign is called.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let connection = Connection::open(context).await?;
    if !has_metadata(&connection).await? {
        let keys = server_keys::ask(&connection).await?;
        if !name_new_keys(context, &keys, &args).await? {
            return Ok(());
        }
        found(context, &connection).await?;
    }
    for folder in &args.releases {
        release::upload_folder(&connection, folder).await?;
    }
    send_the_rest(context, &connection).await
}

async fn has_metadata(connection: &Connection) -> anyhow::Result<bool> {
    let role = Role::Timestamp;
    let max_length = limits::max_length(&role);
    let request = Request { role, version: None, max_length, pin: None };
    Ok(refresh::fetch(connection, &request).await?.is_some())
}

/// Sees to it that the newest root here names the server's freshness key. Says whether everybody has
/// signed it.
async fn name_new_keys(context: &Context, keys: &ServerKeys, args: &Args) -> anyhow::Result<bool> {
    let own = OwnCopy::of(context);
    let freshness = server_keys::named(keys, "freshness")?;
    let roots = all_roots(&own)?;
    let newest = verify_root(roots.last().context("there is no root here")?, None)?;
    if newest.timestamp().ids.contains(&freshness.id()) {
        return Ok(true);
    }
    ensure!(
        own.unsent()?.is_empty(),
        "there are files here that were made for the lost server and never sent\n\
         help: move {} away, and make these changes again afterwards",
        context.home.trust().join("unsent").display()
    );
    let set = refresh::load_everything(context)?;
    let only = KeyList::new([freshness.clone()], 1);
    let root_keys = RootKeys { snapshot: only.clone(), timestamp: only, ..rotate::root_keys(&set) };
    let mut drafts = vec![rotate::root(context, &set, &root_keys, &Default::default())?];
    drafts.extend(with_gate(context, &set, server_keys::named(keys, "gate")?)?);
    let roles: Vec<Role> = drafts.iter().map(|draft| draft.role().clone()).collect();
    let mut change = ceremony::from(context, Base::of(roots, &set, &roles), &drafts)?;
    let judged = ceremony::show_and_sign(context, &mut change, &args.keys)?;
    if judged.is_complete() {
        ceremony::keep(context, &change)?;
        return Ok(true);
    }
    ceremony::conclude(context, None, &change, args.out.as_deref()).await?;
    output::line("once all signatures are merged, give `refit trust restore` again")?;
    Ok(false)
}

/// Where the lost server's gate key signs for rings, the new one takes its place. What people sign for
/// such a ring they sign once more; the server adds its part when it takes it.
fn with_gate(context: &Context, set: &TrustedSet, new: &PublicKey) -> anyhow::Result<Vec<Draft>> {
    let holders = rotate::names(set);
    let lost = |id| holders.get(id).is_some_and(|name| name == GATE) && *id != new.id();
    let mut targets = rotate::again(context, set, &Role::Targets)?;
    let mut drafts = Vec::new();
    let mut named = false;
    for delegation in &set.targets().delegations {
        let authority = &delegation.authority;
        if !authority.ids.iter().any(lost) {
            continue;
        }
        named = true;
        let kept = authority.keys.iter().filter(|(id, _)| !lost(id)).map(|(_, key)| key.clone());
        let list = KeyList::new(kept.chain([new.clone()]), authority.threshold);
        targets.delegate(&delegation.role, &list)?;
        let held = set.delegated(&delegation.role).is_some();
        let people_too = list.keys.len() > 1;
        if held && people_too && rotate::signed_by_too_few(set, &delegation.role, &list) {
            drafts.push(rotate::again(context, set, &delegation.role)?);
        }
    }
    if named {
        targets.name_holders(&[(new.id(), GATE.to_owned())].into());
        drafts.insert(0, targets);
    }
    Ok(drafts)
}

/// Every root from the first on, with those that are not sent yet.
fn all_roots(own: &OwnCopy<'_>) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut roots = own.roots()?;
    let unsent = own.unsent()?.into_iter().filter(|file| file.role == Role::Root);
    roots.extend(unsent.map(|file| file.bytes));
    Ok(roots)
}

/// Sends the roots, one after the other, and targets with the last of them: from then on the server shows
/// metadata.
async fn found(context: &Context, connection: &Connection) -> anyhow::Result<()> {
    let own = OwnCopy::of(context);
    let roots = all_roots(&own)?;
    let (last, before) = roots.split_last().context("there is no root here")?;
    let there = refresh::roots(connection).await?.len();
    for root in before.iter().skip(there) {
        send(connection, vec![(Role::Root, root.clone())]).await?;
    }
    let targets = newest_here(&own, &Role::Targets)?.context("there are no targets here")?;
    let root = (there < roots.len()).then(|| (Role::Root, last.clone()));
    let targets = (Role::Targets, targets);
    send(connection, root.into_iter().chain([targets]).collect()).await?;
    let sent = own.unsent()?.into_iter().filter(|file| file.role.is_top_level());
    own.sent(&sent.collect::<Vec<_>>())?;
    refresh::refresh(context, connection, &[]).await?;
    output::line(&format!("the server has root 1 to {} and targets", roots.len()))
}

/// The newest file of a role here, sent or not.
fn newest_here(own: &OwnCopy<'_>, role: &Role) -> anyhow::Result<Option<Vec<u8>>> {
    let unsent = own.unsent()?.into_iter().rfind(|file: &Unsent| file.role == *role);
    Ok(match unsent {
        Some(file) => Some(file.bytes),
        None => own.stored()?.remove(role),
    })
}

/// Sends the newest file of each role of which the server has none, and says which it can't take yet.
async fn send_the_rest(context: &Context, connection: &Connection) -> anyhow::Result<()> {
    let own = OwnCopy::of(context);
    let set = refresh::newest(context, connection, &[]).await?;
    let mut roles: Vec<Role> = set.targets().delegations.iter().map(|it| it.role.clone()).collect();
    roles.sort_by_key(rank);
    roles.retain(|role| !set.snapshot().files.contains_key(role));
    let mut left = Vec::new();
    for role in roles {
        let Some(file) = newest_here(&own, &role)? else { continue };
        match send(connection, vec![(role.clone(), file)]).await {
            Ok(()) => {
                let sent = own.unsent()?.into_iter().filter(|file| file.role == role);
                own.sent(&sent.collect::<Vec<_>>())?;
                output::line(&format!("the server has {role}"))?;
            }
            Err(error) => left.push(format!("{role} is not taken yet: {error:#}")),
        }
    }
    if left.is_empty() {
        return output::line("the server has everything that is kept here");
    }
    left.push(
        "next: `refit apply FLEET_FILE` for the policy; `refit trust restore RELEASE_DIR...` for releases"
            .to_owned(),
    );
    output::line(&left.join("\n"))
}

async fn send(connection: &Connection, files: Vec<(Role, Vec<u8>)>) -> anyhow::Result<()> {
    let what = files.iter().map(|(role, _)| role.to_string()).collect::<Vec<_>>().join(" and ");
    let to_wire = |(role, file): (Role, Vec<u8>)| MetadataFile { role: role.to_string(), file };
    let request = PushMetadataRequest { files: files.into_iter().map(to_wire).collect() };
    connection
        .repository()
        .push_metadata(request)
        .await
        .map_err(refused(format!("send {what}")))?;
    Ok(())
}
