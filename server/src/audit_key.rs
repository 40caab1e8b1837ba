//! Replaces the audit key: the log itself says so, in an entry that names both keys, and the new key signs from
//! then on. What was cut goes on where it was when it is asked for again.

use std::path::Path;

use jiff::Timestamp;
use refit_durable::{
    Options, SledStore,
    file::{self, Access, FileError},
};
use refit_proto::trust::{LocalKey, PublicKey, Signer as _, key::KeyError};

use crate::{
    audit::{self, Deed},
    fleet::Actor,
    init::{KEYS, STORE},
    keys::{AUDIT, KeysError, load_key},
    store::{Commit, CommitError, Embedded, Store, StoreFault},
};

const NEW: &str = "audit.new.pem";
const ACT: &str = "audit key replace";

/// Why it was not replaced.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceAuditError {
    /// A key file.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// No new key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store, or a server that runs on it.
    #[error("the store could not be opened: {0}\nhelp: stop the server first")]
    Store(#[from] refit_durable::StoreError),
    /// The store.
    #[error(transparent)]
    Fault(#[from] StoreFault),
    /// The store.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Replaces the audit key of a data folder whose server is stopped; the new key's public half.
///
/// # Errors
/// Why not; asked for again, it goes on.
pub fn replace(data: &Path, now: Timestamp) -> Result<PublicKey, ReplaceAuditError> {
    let folder = data.join(KEYS);
    let (current, next) = (folder.join(AUDIT), folder.join(NEW));
    let store = Embedded::new(SledStore::open(Options::new(data.join(STORE), now))?.store)?;
    if !next.exists() {
        file::write(&next, LocalKey::generate()?.to_pem()?.as_bytes(), Access::Private)?;
    }
    let (old, new) = (load_key(&current)?, load_key(&next)?);
    let what = format!("{} by {}", old.public().id(), new.public().id());
    if !is_noted(&store, &what)? {
        let deed = Deed::done(Actor::Server, ACT, what);
        audit::commit(&store, &Commit::new(), now, &[deed])?;
    }
    file::rename(&next, &current)?;
    Ok(new.public().clone())
}

/// Whether the log says so already: the last time was cut after its entry.
fn is_noted(store: &dyn Store, what: &str) -> Result<bool, StoreFault> {
    let head = store.audit_head()?;
    let last = store.audit_after(head.length.saturating_sub(1), 1)?;
    Ok(last.iter().any(|line| line.entry().act == ACT && line.entry().what == what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::{Plan, init};

    fn now() -> Timestamp {
        "2026-11-24T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn the_log_names_both_keys_once_however_often_the_replacement_is_cut() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().join("data");
        let plan = Plan {
            data: data.clone(),
            admin: "alice".parse().unwrap(),
            addresses: vec!["localhost".into()],
            listen: "127.0.0.1:0".parse().unwrap(),
        };
        init(&plan, now()).unwrap();
        let at = |name: &str| data.join(KEYS).join(name);
        let old_pem = std::fs::read(at(AUDIT)).unwrap();
        let old = load_key(&at(AUDIT)).unwrap();
        let new = replace(&data, now()).unwrap();
        assert_eq!(load_key(&at(AUDIT)).unwrap().public(), &new);
        // Cut after the entry: both files are as they were before the rename.
        std::fs::rename(at(AUDIT), at(NEW)).unwrap();
        file::write(&at(AUDIT), &old_pem, Access::Private).unwrap();
        assert_eq!(replace(&data, now()).unwrap(), new);

        let opened = SledStore::open(Options::new(data.join(STORE), now())).unwrap();
        let store = Embedded::new(opened.store).unwrap();
        let lines = store.audit_after(0, 100).unwrap();
        let said: Vec<_> = lines.iter().filter(|line| line.entry().act == ACT).collect();
        assert_eq!(said.len(), 1);
        assert_eq!(said[0].entry().what, format!("{} by {}", old.public().id(), new.id()));
        audit::verify_store(&store).unwrap().unwrap();
    }
}
