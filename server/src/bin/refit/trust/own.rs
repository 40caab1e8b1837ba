//! The own copy of the trust metadata: the first root, the newest verified file of each role, and what
//! was made here and not sent yet. What is newer than what is decided by `refit_proto::trust`.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, bail, ensure};
use refit_durable::file;
use refit_proto::{
    canonical,
    names::Digest,
    trust::{Role, Stored, Write, metadata::limits, verify},
};

use crate::Context;

/// The folder of the own copy.
pub(crate) struct OwnCopy<'a> {
    context: &'a Context,
    folder: PathBuf,
}

/// A file that was made here and is not known to be on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsent {
    pub(crate) role: Role,
    pub(crate) version: u64,
    pub(crate) bytes: Vec<u8>,
}

/// The SHA-256 of the own first root: what enrollment tokens carry.
pub(crate) fn own_root_digest(context: &Context) -> anyhow::Result<Digest> {
    Ok(Digest::of(&OwnCopy::of(context).first_root()?))
}

impl<'a> OwnCopy<'a> {
    pub(crate) fn of(context: &'a Context) -> OwnCopy<'a> {
        OwnCopy { context, folder: context.home.trust() }
    }

    fn first_root_path(&self) -> PathBuf {
        self.root_path(1)
    }

    fn root_path(&self, version: u64) -> PathBuf {
        self.folder.join(format!("{version}.root.json"))
    }

    /// Every root that was seen, from the first on: a server that was put back to an older copy may lack
    /// several, and takes them one after the other.
    pub(super) fn roots(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        let mut roots = vec![self.first_root()?];
        for version in 2..=limits::ROTATIONS as u64 {
            match file::read_if_there(&self.root_path(version), limits::ROOT)? {
                Some(root) => roots.push(root),
                None => break,
            }
        }
        Ok(roots)
    }

    fn unsent_folder(&self) -> PathBuf {
        self.folder.join("unsent")
    }

    /// The first root, from which everything is verified.
    pub(crate) fn first_root(&self) -> anyhow::Result<Vec<u8>> {
        self.first_root_if_there()?.with_context(|| {
            format!(
                "there is no root in {}\nhelp: `refit trust init` makes the first one; \
                 `refit trust adopt` takes one that somebody handed over",
                self.folder.display()
            )
        })
    }

    /// The same; `None` where there is none.
    pub(crate) fn first_root_if_there(&self) -> anyhow::Result<Option<Vec<u8>>> {
        let path = self.first_root_path();
        let Some(bytes) = file::read_if_there(&path, limits::ROOT)? else { return Ok(None) };
        verify::verify_root(&bytes, None).with_context(|| {
            format!(
                "{} is damaged\nhelp: move it away, and take the first root again as it was handed \
                 over: `refit trust adopt`",
                path.display()
            )
        })?;
        Ok(Some(bytes))
    }

    /// Takes a first root, where there is none.
    pub(crate) fn take_first_root(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let root = verify::verify_root(bytes, None)?;
        let version = refit_proto::trust::Content::version(&*root);
        ensure!(version == 1, "this is version {version} of root, not the first one");
        let path = self.first_root_path();
        let created = self.context.home.write_new(&path, bytes)?;
        ensure!(
            created || self.first_root()? == bytes,
            "{} is another root already\n\
             help: for another fleet, use another folder: `refit --home DIR`",
            path.display()
        );
        Ok(())
    }

    /// The newest file of each role. Root is always there.
    pub(crate) fn stored(&self) -> anyhow::Result<Stored> {
        let mut stored = Stored::from([(Role::Root, self.first_root()?)]);
        for entry in fs::read_dir(&self.folder)
            .with_context(|| format!("cannot read {}", self.folder.display()))?
        {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(Ok(role)) = name.strip_suffix(".json").map(Role::parse) else { continue };
            stored.insert(role.clone(), file::read(&path, limits::max_length(&role))?);
        }
        Ok(stored)
    }

    /// Makes a change durable.
    pub(crate) fn apply(&self, write: &Write) -> anyhow::Result<()> {
        match write {
            Write::Put { role, version, bytes } => {
                if *role == Role::Root {
                    self.context.home.write(&self.root_path(*version), bytes)?;
                }
                self.context.home.write(&self.folder.join(role.file_name()), bytes)
            }
            Write::Delete { role } => {
                file::remove(&self.folder.join(role.file_name()))?;
                Ok(())
            }
        }
    }

    /// Keeps a file until the server has it.
    pub(crate) fn keep_unsent(&self, file: &Unsent) -> anyhow::Result<()> {
        let path = self.unsent_path(file);
        let created = self.context.home.write_new(&path, &file.bytes)?;
        if !created && file::read(&path, limits::max_length(&file.role))? != file.bytes {
            bail!(
                "{} is there already, with another change\n\
                 help: send it first: `refit trust push`",
                path.display()
            );
        }
        Ok(())
    }

    fn unsent_path(&self, file: &Unsent) -> PathBuf {
        self.unsent_folder().join(format!("{}.{}", file.version, file.role.file_name()))
    }

    /// What was made here and not sent yet, in the order in which it is checked: root, targets, then
    /// what targets delegates to; of each role the older first.
    pub(crate) fn unsent(&self) -> anyhow::Result<Vec<Unsent>> {
        let folder = self.unsent_folder();
        let mut unsent = Vec::new();
        if !folder.is_dir() {
            return Ok(unsent);
        }
        for entry in
            fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?
        {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some((version, role)) = name.strip_suffix(".json").and_then(|n| n.split_once('.'))
            else {
                continue;
            };
            if let (Ok(version), Ok(role)) = (version.parse(), Role::parse(role)) {
                let bytes = file::read(&path, limits::max_length(&role))?;
                unsent.push(Unsent { role, version, bytes });
            }
        }
        unsent.sort_by(|a, b| {
            (rank(&a.role), &a.role, a.version).cmp(&(rank(&b.role), &b.role, b.version))
        });
        Ok(unsent)
    }

    /// Refuses to send what the disk has damaged: the server would refuse it too, but can't say which
    /// file here it was.
    pub(crate) fn check_unsent(&self, files: &[Unsent]) -> anyhow::Result<()> {
        for file in files {
            canonical::parse(&file.bytes).with_context(|| {
                format!(
                    "{} is damaged\nhelp: move it away, and make the change again",
                    self.unsent_path(file).display()
                )
            })?;
        }
        Ok(())
    }

    /// Forgets files that the server has.
    pub(crate) fn sent(&self, files: &[Unsent]) -> anyhow::Result<()> {
        for file in files {
            file::remove(&self.unsent_path(file))?;
        }
        Ok(())
    }
}

pub(super) fn rank(role: &Role) -> u8 {
    match role {
        Role::Root => 0,
        Role::Targets => 1,
        Role::Policy | Role::Release(_) => 2,
        // A ring names releases, which have to be there before it.
        Role::Ring(..) => 3,
        Role::Snapshot | Role::Timestamp | Role::Other(_) => 4,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use refit_proto::trust::{
        LocalKey, Signer as _,
        edit::{Draft, KeyList, RootKeys},
    };

    use super::*;
    use crate::home::Home;

    fn root(seed: u8) -> Vec<u8> {
        let key = LocalKey::from_seed(&[seed; 32]);
        let list = KeyList::new([key.public().clone()], 1);
        let keys = RootKeys {
            root: list.clone(),
            targets: list.clone(),
            snapshot: list.clone(),
            timestamp: list,
        };
        Draft::first_root(&keys, Timestamp::UNIX_EPOCH).unwrap().sign(&[&key]).unwrap()
    }

    #[test]
    fn the_first_root_is_taken_once_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(Some(folder.path().join("refit"))).unwrap();
        let context = Context { home, now: Timestamp::UNIX_EPOCH };
        let own = OwnCopy::of(&context);
        assert!(
            own_root_digest(&context).is_err_and(|e| e.to_string().contains("refit trust init"))
        );
        own.take_first_root(&root(1)).unwrap();
        own.take_first_root(&root(1)).unwrap();
        assert!(own.take_first_root(&root(2)).is_err());
        assert!(own.take_first_root(b"{}").is_err());
        assert_eq!(own_root_digest(&context).unwrap(), Digest::of(&root(1)));
        assert_eq!(own.stored().unwrap(), Stored::from([(Role::Root, root(1))]));
    }

    #[test]
    fn a_damaged_file_that_was_not_sent_yet_is_named_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(Some(folder.path().join("refit"))).unwrap();
        let context = Context { home, now: Timestamp::UNIX_EPOCH };
        let own = OwnCopy::of(&context);
        let file = |bytes: &[u8]| Unsent { role: Role::Policy, version: 3, bytes: bytes.into() };
        own.check_unsent(&[file(&root(1))]).unwrap();
        for damage in [&b""[..], b"{\"signed\": ", &[0; 100]] {
            let error = own.check_unsent(&[file(damage)]).unwrap_err().to_string();
            assert!(error.contains("3.policy.json is damaged"), "{error}");
            assert!(error.contains("\nhelp: "), "{error}");
        }
    }

    #[test]
    fn what_is_unsent_is_ordered_as_it_must_be_checked_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(Some(folder.path().join("refit"))).unwrap();
        let context = Context { home, now: Timestamp::UNIX_EPOCH };
        let own = OwnCopy::of(&context);
        assert_eq!(own.unsent().unwrap(), []);
        let file = |role: &str, version| Unsent {
            role: Role::parse(role).unwrap(),
            version,
            bytes: format!("{role} {version}").into_bytes(),
        };
        let ordered = [
            file("root", 1),
            file("targets", 2),
            file("targets", 10),
            file("policy", 1),
            file("release.payments", 1),
            file("ring.payments.pilot", 1),
        ];
        for one in ordered.iter().rev() {
            own.keep_unsent(one).unwrap();
        }
        assert_eq!(own.unsent().unwrap(), ordered);
        own.keep_unsent(&ordered[1]).unwrap();
        let other = Unsent { bytes: b"other".to_vec(), ..ordered[1].clone() };
        assert!(own.keep_unsent(&other).is_err());
        own.sent(&ordered[..5]).unwrap();
        assert_eq!(own.unsent().unwrap(), ordered[5..]);
    }
}
