//! The verified files that belong together, and what they say in the fleet's words. A set is made by a
//! refresh, or from stored files; expiry is asked of it, since a running release outlives its metadata.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    error::TrustError,
    metadata::{Content, Pin, Root, Snapshot, TargetFile, Targets, TimestampFile, limits},
    promotion::{self, RingFile},
    role::Role,
    verify::{Expected, Trusted, verify, verify_root},
};
use crate::names::{Digest, Product, RingName, Version};

/// The newest file of each role, as received.
pub type Stored = BTreeMap<Role, Vec<u8>>;

/// Root, timestamp, snapshot and targets that belong together, and the delegated roles that were asked for.
#[derive(Debug, Clone)]
pub struct TrustedSet {
    pub(super) root: Trusted<Root>,
    pub(super) timestamp: Trusted<TimestampFile>,
    pub(super) snapshot: Trusted<Snapshot>,
    pub(super) targets: Trusted<Targets>,
    // By who delegates and to whom: a file that one role's keys vouch for says nothing under another's.
    delegated: BTreeMap<(Role, Role), Trusted<Targets>>,
    rings: BTreeMap<(Product, RingName), RingFile>,
    refused: BTreeMap<(Role, Role), TrustError>,
}

impl TrustedSet {
    pub(super) fn new(
        root: Trusted<Root>,
        timestamp: Trusted<TimestampFile>,
        snapshot: Trusted<Snapshot>,
        targets: Trusted<Targets>,
    ) -> TrustedSet {
        let (delegated, rings, refused) = Default::default();
        TrustedSet { root, timestamp, snapshot, targets, delegated, rings, refused }
    }

    /// Verifies stored files anew, without asking anyone: what a host goes by while nobody answers.
    /// What has expired is still read: see [`TrustedSet::expired`].
    ///
    /// # Errors
    /// If the four top-level files are not there or do not belong together. A wanted role that can't be
    /// verified is noted in [`TrustedSet::refused`] instead.
    pub fn load(stored: &Stored, wanted: &[Role]) -> Result<TrustedSet, TrustError> {
        let root = verify_root(file_of(stored, &Role::Root)?, None)?;
        let timestamp = verify_timestamp(&root, file_of(stored, &Role::Timestamp)?)?;
        let pin = Some(&timestamp.snapshot);
        let snapshot = verify_snapshot(&root, file_of(stored, &Role::Snapshot)?, pin)?;
        let targets = verify_targets(&root, &snapshot, file_of(stored, &Role::Targets)?)?;
        let mut set = TrustedSet::new(root, timestamp, snapshot, targets);
        for role in wanted {
            if set.targets.delegation(role).is_none() || !set.snapshot.files.contains_key(role) {
                continue;
            }
            let admitted = file_of(stored, role)
                .and_then(|bytes| set.verify_delegated(&Role::Targets, role, bytes))
                .and_then(|file| set.admit(&Role::Targets, file));
            if let Err(error) = admitted {
                set.refuse(&Role::Targets, role, error);
            }
        }
        Ok(set)
    }

    /// The root.
    pub fn root(&self) -> &Trusted<Root> {
        &self.root
    }

    /// The timestamp.
    pub fn timestamp(&self) -> &Trusted<TimestampFile> {
        &self.timestamp
    }

    /// The snapshot.
    pub fn snapshot(&self) -> &Trusted<Snapshot> {
        &self.snapshot
    }

    /// The top-level targets.
    pub fn targets(&self) -> &Trusted<Targets> {
        &self.targets
    }

    /// The verified file of a role that the top-level targets delegate to.
    pub fn delegated(&self, role: &Role) -> Option<&Trusted<Targets>> {
        self.delegated_by(&Role::Targets, role)
    }

    /// Why a wanted role's file is not in the set, though the snapshot lists it.
    pub fn refused(&self, role: &Role) -> Option<&TrustError> {
        self.refused_by(&Role::Targets, role)
    }

    /// Every wanted role whose file was refused.
    pub fn all_refused(&self) -> impl Iterator<Item = (&Role, &TrustError)> {
        self.refused.iter().map(|((_, role), error)| (role, error))
    }

    /// A target that a role signs, if it is delegated that path.
    pub fn target(&self, role: &Role, path: &str) -> Option<&TargetFile> {
        let delegation = self.targets.delegation(role)?;
        let file = self.delegated(role)?.targets.get(path)?;
        delegation.paths.cover(path).then_some(file)
    }

    /// The signed release of that version.
    pub fn release(&self, product: &Product, version: &Version) -> Option<&TargetFile> {
        let path = promotion::release_path(product, version);
        self.target(&Role::Release(product.clone()), &path)
    }

    /// The signed release whose document has that digest.
    pub fn release_by_digest(
        &self,
        product: &Product,
        digest: &Digest,
    ) -> Option<(Version, &TargetFile)> {
        self.releases(product).find(|(_, file)| file.digest() == Some(*digest))
    }

    /// Every signed release of a product.
    pub fn releases(&self, product: &Product) -> impl Iterator<Item = (Version, &TargetFile)> {
        let role = Role::Release(product.clone());
        let paths = self.delegated(&role).map(|file| file.targets.keys()).into_iter().flatten();
        paths.filter_map(move |path| {
            Some((promotion::version_of_path(path)?, self.target(&role, path)?))
        })
    }

    /// What a ring's keys permit.
    pub fn ring(&self, product: &Product, ring: &RingName) -> Option<&RingFile> {
        self.rings.get(&(product.clone(), ring.clone()))
    }

    /// A file that the policy role signs, by its name: `payments.json`, `labels.json`.
    pub fn policy_target(&self, name: &str) -> Option<&TargetFile> {
        self.target(&Role::Policy, &format!("policy/{name}"))
    }

    /// The version of a role's file, if the set holds it.
    pub fn version(&self, role: &Role) -> Option<u64> {
        self.header(role).map(|(version, _)| version)
    }

    /// When a role's file expires, if the set holds it.
    pub fn expires(&self, role: &Role) -> Option<Timestamp> {
        self.header(role).map(|(_, expires)| expires)
    }

    /// Every role in the set, with version and expiry.
    pub fn roles(&self) -> Vec<(Role, u64, Timestamp)> {
        let top = [Role::Root, Role::Timestamp, Role::Snapshot, Role::Targets];
        top.into_iter()
            .chain(self.delegated.keys().map(|(_, role)| role.clone()))
            .filter_map(|role| self.header(&role).map(|(version, at)| (role, version, at)))
            .collect()
    }

    /// The top-level roles that have expired: then nothing new begins.
    pub fn expired(&self, now: Timestamp) -> Result<(), TrustError> {
        self.root.fresh(now)?;
        self.timestamp.fresh(now)?;
        self.snapshot.fresh(now)?;
        self.targets.fresh(now)
    }

    /// The files of the set, as received.
    pub fn files(&self) -> Stored {
        let mut files = Stored::new();
        files.insert(Role::Root, self.root.bytes().to_vec());
        files.insert(Role::Timestamp, self.timestamp.bytes().to_vec());
        files.insert(Role::Snapshot, self.snapshot.bytes().to_vec());
        files.insert(Role::Targets, self.targets.bytes().to_vec());
        for ((_, role), file) in &self.delegated {
            files.insert(role.clone(), file.bytes().to_vec());
        }
        files
    }

    fn header(&self, role: &Role) -> Option<(u64, Timestamp)> {
        fn of<T: Content>(file: &Trusted<T>) -> Option<(u64, Timestamp)> {
            Some((file.version(), file.expires()))
        }
        match role {
            Role::Root => of(&self.root),
            Role::Targets => of(&self.targets),
            Role::Snapshot => of(&self.snapshot),
            Role::Timestamp => of(&self.timestamp),
            Role::Policy | Role::Release(_) | Role::Ring(..) | Role::Other(_) => {
                self.delegated(role).and_then(of)
            }
        }
    }

    pub(super) fn delegated_by(&self, delegator: &Role, role: &Role) -> Option<&Trusted<Targets>> {
        self.delegated.get(&(delegator.clone(), role.clone()))
    }

    pub(super) fn refused_by(&self, delegator: &Role, role: &Role) -> Option<&TrustError> {
        self.refused.get(&(delegator.clone(), role.clone()))
    }

    pub(super) fn pin(&self, role: &Role) -> Option<&Pin> {
        self.snapshot.files.get(role)
    }

    /// Verifies a delegated role's file under one delegator's keys.
    pub(super) fn verify_delegated(
        &self,
        delegator: &Role,
        role: &Role,
        bytes: &[u8],
    ) -> Result<Trusted<Targets>, TrustError> {
        let missing = || TrustError::Missing { role: role.clone() };
        let owner = match delegator {
            Role::Targets => Some(&self.targets),
            other => {
                self.delegated.iter().find(|((_, role), _)| role == other).map(|(_, file)| file)
            }
        };
        let authority = owner.and_then(|owner| owner.authority(role)).ok_or_else(missing)?;
        let pin = self.pin(role).ok_or_else(missing)?;
        let pin = Some((pin, &Role::Snapshot));
        verify(bytes, Expected { role, authority, pin })
    }

    /// Takes a verified file of a delegated role.
    pub(super) fn admit(
        &mut self,
        delegator: &Role,
        file: Trusted<Targets>,
    ) -> Result<(), TrustError> {
        if let (Role::Targets, Role::Ring(product, ring)) = (delegator, file.role()) {
            // A ring's promotions are read as a whole, so each has to be one that it may sign.
            let delegation = self.targets.delegation(file.role());
            let covers = |path: &String| delegation.is_some_and(|d| d.paths.cover(path));
            if let Some(path) = file.targets.keys().find(|path| !covers(path)) {
                let flaw = format!("{path:?} is not delegated to it");
                return Err(TrustError::Malformed { role: file.role().clone(), flaw });
            }
            let promotions = RingFile::read(product, ring, &file)?;
            self.rings.insert((product.clone(), ring.clone()), promotions);
        }
        let role = file.role().clone();
        self.delegated.insert((delegator.clone(), role), file);
        Ok(())
    }

    pub(super) fn refuse(&mut self, delegator: &Role, role: &Role, error: TrustError) {
        self.refused.insert((delegator.clone(), role.clone()), error);
    }
}

pub(super) fn verify_timestamp(
    root: &Root,
    bytes: &[u8],
) -> Result<Trusted<TimestampFile>, TrustError> {
    let expected = Expected { role: &Role::Timestamp, authority: root.timestamp(), pin: None };
    verify(bytes, expected)
}

pub(super) fn verify_snapshot(
    root: &Root,
    bytes: &[u8],
    pin: Option<&Pin>,
) -> Result<Trusted<Snapshot>, TrustError> {
    let pin = pin.map(|pin| (pin, &Role::Timestamp));
    verify(bytes, Expected { role: &Role::Snapshot, authority: root.snapshot(), pin })
}

pub(super) fn verify_targets(
    root: &Root,
    snapshot: &Snapshot,
    bytes: &[u8],
) -> Result<Trusted<Targets>, TrustError> {
    let pin = targets_pin(snapshot)?;
    let pin = Some((pin, &Role::Snapshot));
    verify(bytes, Expected { role: &Role::Targets, authority: root.targets(), pin })
}

pub(super) fn targets_pin(snapshot: &Snapshot) -> Result<&Pin, TrustError> {
    snapshot.files.get(&Role::Targets).ok_or(TrustError::Missing { role: Role::Targets })
}

/// The most bytes to fetch of a pinned file.
pub(super) fn pinned_length(role: &Role, pin: &Pin) -> u64 {
    let limit = limits::max_length(role);
    pin.length.map_or(limit, |length| length.min(limit))
}

fn file_of<'a>(stored: &'a Stored, role: &Role) -> Result<&'a [u8], TrustError> {
    let missing = || TrustError::Missing { role: role.clone() };
    stored.get(role).map(Vec::as_slice).ok_or_else(missing)
}
