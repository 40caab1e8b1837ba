//! A key of the server that signs metadata, and the one that will follow it. The next is made beside the
//! one in use, its public half is named in signed metadata by the people who may, and from that moment on
//! the server signs with it. Which of them signs is told by the metadata, never by the server's memory, so
//! that a stop at any moment leaves a server that works.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};

use refit_durable::file::{self, Access};
use refit_proto::trust::{KeyId, LocalKey, PublicKey, Signer as _};

use super::{KeysError, damaged, read_secret};

/// The keys of one purpose, oldest first.
pub struct OnlineKey {
    folder: PathBuf,
    name: &'static str,
    first: Link,
    making: Mutex<()>,
}

struct Link {
    key: LocalKey,
    next: OnceLock<Box<Link>>,
}

impl OnlineKey {
    /// Reads the key in use, and the next one where it was made.
    pub(crate) fn load(folder: &Path, name: &'static str) -> Result<OnlineKey, KeysError> {
        let first = Link { key: read(&current(folder, name))?, next: OnceLock::new() };
        let next = next(folder, name);
        if next.exists() {
            let link = Link { key: read(&next)?, next: OnceLock::new() };
            // A new lock is empty.
            let _empty = first.next.set(Box::new(link));
        }
        Ok(OnlineKey { folder: folder.to_owned(), name, first, making: Mutex::new(()) })
    }

    fn links(&self) -> impl Iterator<Item = &Link> {
        std::iter::successors(Some(&self.first), |link| link.next.get().map(Box::as_ref))
    }

    /// The newest of these keys that is among the ids; else the one that was in use at the start.
    pub fn for_ids(&self, ids: &BTreeSet<KeyId>) -> &LocalKey {
        let named = self.links().filter(|link| ids.contains(&link.key.public().id())).last();
        &named.unwrap_or(&self.first).key
    }

    /// The key in use, as far as this server knows without looking at metadata.
    pub fn public(&self) -> &PublicKey {
        self.first.key.public()
    }

    /// Makes the key that will follow, durably, where there is none yet that is not in use. Asked twice,
    /// it is the same one.
    ///
    /// # Errors
    /// If it can't be made or kept.
    pub fn prepare(&self, in_use: &BTreeSet<KeyId>) -> Result<&PublicKey, KeysError> {
        let _turn = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let last = self.links().last().unwrap_or(&self.first);
        if !std::ptr::eq(last, &self.first) && !in_use.contains(&last.key.public().id()) {
            return Ok(last.key.public());
        }
        self.settle(in_use)?;
        let key = LocalKey::generate()?;
        let path = next(&self.folder, self.name);
        file::write(&path, key.to_pem()?.as_bytes(), Access::Private)?;
        let link = last.next.get_or_init(|| Box::new(Link { key, next: OnceLock::new() }));
        Ok(link.key.public())
    }

    /// Puts the next key in the place of the one in use once metadata names it: what it replaces is worth
    /// nothing any more.
    ///
    /// # Errors
    /// If the folder can't be written; then it is tried again.
    pub fn settle(&self, in_use: &BTreeSet<KeyId>) -> Result<(), KeysError> {
        let next = next(&self.folder, self.name);
        if next.exists() && in_use.contains(&read(&next)?.public().id()) {
            file::rename(&next, &current(&self.folder, self.name))?;
        }
        Ok(())
    }
}

fn current(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.pem"))
}

fn next(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.next.pem"))
}

fn read(path: &Path) -> Result<LocalKey, KeysError> {
    LocalKey::from_pem(&read_secret(path)?).map_err(|error| damaged(path.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let pem = LocalKey::generate().unwrap().to_pem().unwrap();
        file::write(&folder.path().join("gate.pem"), pem.as_bytes(), Access::Private).unwrap();
        folder
    }

    fn ids(keys: &[KeyId]) -> BTreeSet<KeyId> {
        keys.iter().copied().collect()
    }

    #[test]
    fn the_next_key_signs_from_the_moment_at_which_metadata_names_it_and_after_every_restart() {
        let folder = folder();
        let keys = OnlineKey::load(folder.path(), "gate").unwrap();
        let first = keys.public().id();
        let second = keys.prepare(&ids(&[first])).unwrap().id();
        assert_eq!(keys.prepare(&ids(&[first])).unwrap().id(), second, "asked twice, it is one");
        assert_ne!(first, second);
        let restarted = OnlineKey::load(folder.path(), "gate").unwrap();
        for keys in [&keys, &restarted] {
            assert_eq!(keys.for_ids(&ids(&[first])).public().id(), first);
            assert_eq!(keys.for_ids(&ids(&[second])).public().id(), second);
            assert_eq!(keys.for_ids(&ids(&[first, second])).public().id(), second);
        }
        // Before it is named, nothing moves; from then on the old one is gone.
        keys.settle(&ids(&[first])).unwrap();
        assert_eq!(OnlineKey::load(folder.path(), "gate").unwrap().public().id(), first);
        keys.settle(&ids(&[second])).unwrap();
        let settled = OnlineKey::load(folder.path(), "gate").unwrap();
        assert_eq!(settled.public().id(), second);
        assert_eq!(settled.for_ids(&ids(&[first])).public().id(), second);
        // And again, without a restart.
        let third = keys.prepare(&ids(&[second])).unwrap().id();
        assert!(third != first && third != second);
        assert_eq!(keys.for_ids(&ids(&[third])).public().id(), third);
    }
}
