//! The public halves of the server's own keys, as they were when this side first took them: a file that
//! `refit-server init` wrote, or the server's answer. From then on a server with other keys is another.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use refit_proto::{
    canonical,
    names::Digest,
    trust::{PublicKey, TrustedSet, key::KeyError},
    wire::GetServerKeysRequest,
};

use crate::{Context, connect::Connection, failure::refused, home};

/// "freshness", "gate" and "audit".
pub(crate) type ServerKeys = BTreeMap<String, PublicKey>;

/// The keys that were taken, if any were.
pub(crate) fn known(context: &Context) -> anyhow::Result<Option<ServerKeys>> {
    let path = context.home.server_keys();
    let Some(bytes) = home::read(&path)? else { return Ok(None) };
    let damaged = || {
        format!(
            "{} is damaged\nhelp: put back what `refit-server init` printed, or move the file away \
             and name the audit key with --audit-key FILE",
            path.display()
        )
    };
    let keys = read(&bytes).with_context(damaged)?;
    // What is no key file at all reads as a file without keys.
    ensure!(!keys.is_empty(), damaged());
    Ok(Some(keys))
}

/// Takes the freshness and gate keys that signed metadata names in place of those noted. The audit key is
/// named by no metadata, and stays.
pub(crate) fn follow(context: &Context, keys: &ServerKeys, set: &TrustedSet) -> anyhow::Result<()> {
    let Some(mut noted) = known(context)? else { return Ok(()) };
    let rings = set.targets().delegations.iter().map(|delegation| &delegation.authority);
    let named: Vec<_> = rings.chain([set.root().timestamp()]).flat_map(|it| &it.ids).collect();
    let before = noted.clone();
    for name in ["freshness", "gate"] {
        if let Some(key) = keys.get(name).filter(|key| named.contains(&&key.id())) {
            noted.insert(name.to_owned(), key.clone());
        }
    }
    if noted == before { Ok(()) } else { note(context, &noted) }
}

/// Takes keys for good.
///
/// # Errors
/// If others were taken before.
pub(crate) fn take(context: &Context, keys: &ServerKeys) -> anyhow::Result<()> {
    if let Some(known) = known(context)? {
        ensure!(
            known == *keys,
            "the server shows other keys than those noted in {}\n\
             help: if it was set up anew, log in with `refit login TOKEN --new-server`; else find out who \
             answers in its place",
            context.home.server_keys().display()
        );
        return Ok(());
    }
    note(context, keys)
}

/// Puts the note of a lost server's keys aside: what its audit key signed can still be checked by it.
pub(crate) fn set_aside(context: &Context) -> anyhow::Result<()> {
    let path = context.home.server_keys();
    let Some(bytes) = home::read(&path)? else { return Ok(()) };
    let name = format!("server-keys.lost-{}.json", Digest::of(&bytes).short());
    context.home.write(&path.with_file_name(name), &bytes)?;
    refit_durable::file::remove(&path)?;
    Ok(())
}

/// Takes another audit key for the one noted, which is put aside.
pub(crate) fn believe_audit(context: &Context, key: PublicKey) -> anyhow::Result<()> {
    let mut keys = known(context)?.unwrap_or_default();
    set_aside(context)?;
    keys.insert("audit".to_owned(), key);
    note(context, &keys)
}

fn note(context: &Context, keys: &ServerKeys) -> anyhow::Result<()> {
    let file: BTreeMap<_, _> = keys.iter().map(|(name, key)| (name, key.to_value())).collect();
    context.home.write(&context.home.server_keys(), &serde_json::to_vec_pretty(&file)?)
}

/// Asks the server.
pub(crate) async fn ask(connection: &Connection) -> anyhow::Result<ServerKeys> {
    let reply = connection.admin().get_server_keys(GetServerKeysRequest {}).await;
    let keys = reply.map_err(refused("read the server's public keys"))?.into_inner().keys;
    keys.into_iter()
        .map(|(name, key)| {
            let key = PublicKey::from_json(key.as_bytes())
                .with_context(|| format!("the server's {name} key"))?;
            Ok((name, key))
        })
        .collect()
}

/// Reads keys by name: our own file, or what `refit-server init` printed, saved as it was.
pub(crate) fn read(bytes: &[u8]) -> anyhow::Result<ServerKeys> {
    let keys = match canonical::parse(bytes) {
        Ok(value) => {
            let members = value.as_object().context("the file does not hold keys by name")?;
            let key = |value| PublicKey::from_json(&canonical::to_canonical(value));
            members.iter().map(|(name, value)| (name.clone(), key(value))).collect()
        }
        Err(_) => printed(std::str::from_utf8(bytes).context("the file is not text")?),
    };
    keys.into_iter()
        .map(|(name, key)| Ok((name.clone(), key.with_context(|| format!("the {name} key"))?)))
        .collect()
}

/// Lines of a name and a key, among others.
fn printed(text: &str) -> BTreeMap<String, Result<PublicKey, KeyError>> {
    let lines = text.lines().filter_map(|line| line.trim().split_once(' '));
    let keys = lines.filter(|(_, rest)| rest.trim_start().starts_with('{'));
    keys.map(|(name, key)| (name.to_owned(), PublicKey::from_json(key.trim().as_bytes()))).collect()
}

/// The key of that name.
pub(crate) fn named<'a>(keys: &'a ServerKeys, name: &str) -> anyhow::Result<&'a PublicKey> {
    keys.get(name).with_context(|| format!("the server's keys lack {name:?}"))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use refit_proto::trust::{LocalKey, Signer as _};

    use super::*;
    use crate::home::Home;

    #[test]
    fn a_damaged_file_of_keys_is_named_and_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(Some(folder.path().join("refit"))).unwrap();
        let context = Context { home, now: Timestamp::UNIX_EPOCH };
        assert_eq!(known(&context).unwrap(), None);
        for damage in ["", "x", "{\"audit\": {}}"] {
            context.home.write(&context.home.server_keys(), damage.as_bytes()).unwrap();
            let error = format!("{:#}", known(&context).unwrap_err());
            assert!(error.contains("server-keys.json is damaged"), "{error}");
        }
    }

    #[test]
    fn keys_once_taken_are_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(Some(folder.path().join("refit"))).unwrap();
        let context = Context { home, now: Timestamp::UNIX_EPOCH };
        let keys = |seed| {
            let key = LocalKey::from_seed(&[seed; 32]).public().clone();
            ServerKeys::from([("audit".to_owned(), key)])
        };
        assert!(known(&context).unwrap().is_none());
        take(&context, &keys(1)).unwrap();
        take(&context, &keys(1)).unwrap();
        assert!(take(&context, &keys(2)).is_err());
        assert_eq!(known(&context).unwrap().unwrap(), keys(1));
    }

    #[test]
    fn what_the_server_printed_at_init_can_be_used_as_it_is() {
        let key = |seed| LocalKey::from_seed(&[seed; 32]).public().clone();
        let line = |name: &str, seed| {
            format!("  {name:<10} {}\n", String::from_utf8(key(seed).to_json()).unwrap())
        };
        let text = format!("made the folder\n\nkeys:\n{}{}", line("gate", 1), line("audit", 2));
        let expected =
            ServerKeys::from([("audit".to_owned(), key(2)), ("gate".to_owned(), key(1))]);
        assert_eq!(read(text.as_bytes()).unwrap(), expected);
        let file = serde_json::json!({ "audit": key(2).to_value(), "gate": key(1).to_value() });
        assert_eq!(read(file.to_string().as_bytes()).unwrap(), expected);
        let damaged = text.replace("ed25519", "ed25518");
        assert!(read(damaged.as_bytes()).is_err());
        assert!(read(b"\xff").is_err());
    }
}
