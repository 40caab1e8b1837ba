//! The public halves of the server's own keys, as they were when this side first took them: a file that
//! `refit-server init` wrote, or the server's answer. From then on a server with other keys is another.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use refit_proto::{canonical, trust::PublicKey, wire::GetServerKeysRequest};
use serde_json::Value;

use crate::{Context, connect::Connection, failure::refused, home};

/// "freshness", "gate" and "audit".
pub(crate) type ServerKeys = BTreeMap<String, PublicKey>;

/// The keys that were taken, if any were.
pub(crate) fn known(context: &Context) -> anyhow::Result<Option<ServerKeys>> {
    let path = context.home.server_keys();
    home::read(&path)?
        .map(|bytes| read(&bytes).with_context(|| format!("{} is damaged", path.display())))
        .transpose()
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
             help: if it was set up anew, move that file away; else find out who answers in its place",
            context.home.server_keys().display()
        );
        return Ok(());
    }
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

/// Reads keys by name, each an object or its text.
pub(crate) fn read(bytes: &[u8]) -> anyhow::Result<ServerKeys> {
    let value = canonical::parse(bytes)?;
    let members = value.as_object().context("the file does not hold keys by name")?;
    let mut keys = ServerKeys::new();
    for (name, value) in members {
        let key = match value {
            Value::String(text) => PublicKey::from_json(text.as_bytes()),
            other => PublicKey::from_json(&canonical::to_canonical(other)),
        };
        keys.insert(name.clone(), key.with_context(|| format!("the server's {name} key"))?);
    }
    Ok(keys)
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
}
