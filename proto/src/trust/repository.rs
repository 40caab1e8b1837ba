//! What a server takes: signed files, each exactly the version after the one held, verified as a host
//! would verify them, all or none, with the snapshot and timestamp that carry them. Whether a floor is
//! within a release's counter is for callers that can read release documents.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

pub use super::freshness::{BUNDLE_LONGEST, ONLINE_LONGEST, SNAPSHOT_LASTS, TIMESTAMP_LASTS};
use super::{
    client::Write,
    error::TrustError,
    freshness::{self, Last, Lasts, Listed},
    key::{KeyId, SignError, Signer},
    metadata::{Authority, Content, Delegation, Root, Targets},
    permission::{self, Closed},
    promotion::{RingFile, version_of_path},
    role::{Paths, Role},
    set::{Stored, TrustedSet, verify_snapshot},
    verify::{Expected, Opened, Trusted, verify, verify_root},
};
use crate::{
    gathered::Gathered as _,
    names::{Digest, Product, RingName},
};

/// Files that one push may bring.
pub const MAX_PUSHED: usize = 256;

/// What a push becomes. All of it is stored in one commit.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// Every file to store, snapshot and timestamp last. Empty where the push brings nothing new.
    pub writes: Vec<Write>,
    /// Version of the snapshot that carries the change.
    pub snapshot: u64,
    /// Version of the timestamp that carries the change.
    pub timestamp: u64,
    /// Target path and digest of each release in the pushed files: to be remembered for ever.
    pub released: Vec<(String, Digest)>,
    /// The promotions in the pushed files, by product.
    pub rings: Vec<(Product, RingName, RingFile)>,
}

/// Why a push is refused. Nothing of it is stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Somebody else was faster, or the file is from elsewhere.
    #[error(
        "{role} is held at version {held}; version {pushed} does not follow it\n\
         help: fetch the newest, make the change on it, and sign again"
    )]
    Conflict {
        /// Whose file.
        role: Role,
        /// The version held; 0 where there is none.
        held: u64,
        /// The version pushed.
        pushed: u64,
    },
    /// Signatures, dates or form.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Only the server signs these, or nobody here knows the role.
    #[error(
        "{role} is not pushed by anyone\nhelp: push root, targets, policy, release and ring files"
    )]
    NotPushed {
        /// Which role.
        role: Role,
    },
    /// More files than one change needs.
    #[error("more than {MAX_PUSHED} files in one push\nhelp: push them in several steps")]
    TooManyFiles,
    /// Nothing can be published before both are there.
    #[error(
        "there is no {missing} yet\nhelp: push root and targets together with `refit trust push`; of a fleet whose server was lost, with `refit trust restore`"
    )]
    NotFounded {
        /// Which is not there.
        missing: Role,
    },
    /// Root does not let this server keep the metadata fresh.
    #[error(
        "root must name the server's freshness key {key} for snapshot and timestamp, threshold 1\n\
         help: make root from the keys that `refit-server init` printed"
    )]
    FreshnessKeyNotNamed {
        /// The server's key.
        key: KeyId,
    },
    /// One server key would have the rights of another.
    #[error(
        "the server's freshness key {key} must not also sign for {role}\n\
         help: use another key, so that stealing one gives nothing of the other"
    )]
    FreshnessKeyToo {
        /// The server's key.
        key: KeyId,
        /// The other role.
        role: Role,
    },
    /// A threshold that nobody can reach.
    #[error(
        "{role} needs {threshold} signatures, but has {usable} usable keys\nhelp: lower the threshold or add keys"
    )]
    Unreachable {
        /// Which role.
        role: Role,
        /// How many are needed.
        threshold: u64,
        /// How many keys there are.
        usable: usize,
    },
    /// Not how Refit arranges its repository.
    #[error("{role} is not arranged as Refit needs it: {flaw}\nhelp: make it with `refit trust`")]
    Arrangement {
        /// Whose file.
        role: Role,
        /// Which rule it breaks.
        flaw: String,
    },
    /// A file that is held would no longer be trusted after this push.
    #[error(
        "after this push {role} would no longer be trusted: {cause}\n\
         help: sign {role} anew with the keys that it has then, and push both together"
    )]
    Orphaned {
        /// Whose file.
        role: Role,
        /// Why.
        cause: Box<TrustError>,
    },
    /// A version stands for one content for ever.
    #[error(
        "{path} was published before with digest {before}\n\
         help: publish the other bytes under a new version"
    )]
    Reused {
        /// The release's target path.
        path: String,
        /// What it stands for.
        before: Digest,
    },
    /// A ring names what the release keys did not sign so.
    #[error("{role}: {closed}")]
    Inconsistent {
        /// The ring.
        role: Role,
        /// What is wrong with its promotion.
        closed: Box<Closed>,
    },
    /// A bundle that would be valid for ever, or never.
    #[error(
        "a bundle is valid for at most {} days, and at least a minute\nhelp: ask for less, and make another bundle later",
        BUNDLE_LONGEST.as_hours() / 24
    )]
    BundleSpan,
    /// The freshness key did not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// Decides on a push. `held` is the newest file of each role; `remembered` knows the digest of every
/// release ever published, by target path.
///
/// Of a role that it holds nothing of it takes any version: a server that was lost with its disk goes on
/// where hosts are. For that, roots may come alone, one after the other, before anything rests on them.
///
/// A push that was already accepted, sent again after a lost answer, is accepted with nothing to store.
///
/// # Errors
/// Why it is refused.
pub fn accept(
    held: &Stored,
    pushed: &[(Role, Vec<u8>)],
    remembered: &dyn Fn(&str) -> Option<Digest>,
    freshness_key: &dyn Signer,
    now: Timestamp,
) -> Result<Accepted, Refused> {
    if pushed.len() > MAX_PUSHED {
        return Err(Refused::TooManyFiles);
    }
    let mut staged = Staged::new(held, now)?;
    for (role, bytes) in pushed {
        staged.take(role, bytes)?;
    }
    if let (Some(_), None) = (&staged.root, &staged.targets)
        && !staged.writes.is_empty()
    {
        return Ok(staged.roots_alone());
    }
    if let Some(root) = staged.root.as_ref().filter(|_| staged.arranged_anew) {
        root.fresh(now)?;
    }
    staged.check_keys(freshness_key.public().id())?;
    staged.finish(remembered, freshness_key)
}

/// Decides on files that a server once published and has lost: any later version than the one held, where a
/// snapshot that this repository's freshness key signed pins just these bytes, also when they have expired
/// meanwhile. New snapshots and timestamps are later than that one.
///
/// # Errors
/// Why they are refused; nothing of them is stored then.
pub fn take_back(
    held: &Stored,
    offered: &[(Role, Vec<u8>)],
    snapshot: &[u8],
    remembered: &dyn Fn(&str) -> Option<Digest>,
    freshness_key: &dyn Signer,
    now: Timestamp,
) -> Result<Accepted, Refused> {
    if offered.len() > MAX_PUSHED {
        return Err(Refused::TooManyFiles);
    }
    let mut staged = Staged::new(held, now)?;
    staged.taking_back = true;
    for (role, bytes) in offered.iter().filter(|(role, _)| *role == Role::Root) {
        staged.take(role, bytes)?;
    }
    let root = staged.root.as_deref().ok_or(Refused::NotFounded { missing: Role::Root })?;
    let seen = verify_snapshot(root, snapshot, None)?;
    staged.last.snapshot = staged.last.snapshot.max(seen.version());
    staged.last.timestamp = staged.last.timestamp.max(seen.version());
    for (role, bytes) in offered.iter().filter(|(role, _)| *role != Role::Root) {
        let pinned = seen.files.get(role).is_some_and(|pin| pin.fits(bytes));
        if !pinned {
            let (role, by) = (role.clone(), Role::Snapshot);
            return Err(TrustError::NotPinned { role, by }.into());
        }
        staged.take(role, bytes)?;
    }
    staged.check_keys(freshness_key.public().id())?;
    staged.finish(remembered, freshness_key)
}

/// What a snapshot lists above the versions that are held, if the freshness key of the root held signed it.
///
/// # Errors
/// If it did not.
pub fn lacking(held: &Stored, snapshot: &[u8]) -> Result<BTreeMap<Role, u64>, Refused> {
    let root = held.get(&Role::Root).map(|bytes| verify_root(bytes, None)).transpose()?;
    let root = root.ok_or(Refused::NotFounded { missing: Role::Root })?;
    let seen = verify_snapshot(&root, snapshot, None)?;
    let own = freshness::held(held)?.map(|(snapshot, _)| snapshot);
    let version_of =
        |role: &Role| own.as_ref().and_then(|own| own.files.get(role)).map_or(0, |pin| pin.version);
    let later = seen.files.iter().filter(|(role, pin)| pin.version > version_of(role));
    Ok(later.map(|(role, pin)| (role.clone(), pin.version)).gathered())
}

/// Every key that the newest root and targets name, of those held and pushed: by them a server knows which
/// of its keys is in use, before it asks [`accept`]. Nothing is verified here.
pub fn named_keys(held: &Stored, pushed: &[(Role, Vec<u8>)]) -> BTreeSet<KeyId> {
    let newest = |role: &Role| {
        let pushed = pushed.iter().rfind(|(found, _)| found == role).map(|(_, bytes)| bytes);
        pushed.or_else(|| held.get(role))
    };
    let mut ids = BTreeSet::new();
    if let Some(root) = newest(&Role::Root).and_then(|bytes| peek::<Root>(bytes, &Role::Root)) {
        for role in [Role::Root, Role::Targets, Role::Snapshot, Role::Timestamp] {
            ids.extend(root.authority(&role).into_iter().flat_map(|it| it.ids.iter().copied()));
        }
    }
    let targets = newest(&Role::Targets).and_then(|bytes| peek::<Targets>(bytes, &Role::Targets));
    for delegation in targets.into_iter().flat_map(|targets| targets.delegations) {
        ids.extend(delegation.authority.ids);
    }
    ids
}

fn peek<T: Content>(bytes: &[u8], role: &Role) -> Option<T> {
    let opened = Opened::open(bytes, role, None).ok()?;
    super::metadata::read(opened.signed(), role).ok()
}

/// Signs snapshot and timestamp anew where half of their time has passed; `None` where it has not.
///
/// # Errors
/// If what is held can't be read, or the key does not sign.
pub fn renew(
    held: &Stored,
    freshness_key: &dyn Signer,
    now: Timestamp,
) -> Result<Option<Vec<Write>>, Refused> {
    let staged = Staged::new(held, now)?;
    match freshness::held(held)? {
        Some((snapshot, timestamp)) if freshness::is_due(&snapshot, &timestamp, now) => {
            let fresh =
                freshness::sign(&staged.listed, staged.last, Lasts::ONLINE, freshness_key, now)?;
            Ok(Some(puts(&fresh)))
        }
        Some(_) | None => Ok(None),
    }
}

/// A snapshot and timestamp for a bundle, and what is published in the same moment.
#[derive(Debug, Clone)]
pub struct Bundled {
    /// For the bundle alone: never stored, never served.
    pub snapshot: Vec<u8>,
    /// Pins that snapshot.
    pub timestamp: Vec<u8>,
    /// Version of that timestamp.
    pub version: u64,
    /// Until when both are valid.
    pub expires: Timestamp,
    /// The snapshot and timestamp to store: the versions after those of the bundle, as short-lived as ever.
    pub writes: Vec<Write>,
}

/// The shortest time for which a bundle is of any use.
const BUNDLE_SHORTEST: SignedDuration = SignedDuration::from_mins(1);

/// Signs a snapshot and timestamp that last as long as a bundle has to, on what is held. What is
/// published next is newer by one, so that a host that comes back from a bundle goes on with the server's
/// own at once, and no host that is online is ever served the long-lived ones.
///
/// # Errors
/// If the span is not one for a bundle, there is nothing to sign, or the key does not sign.
pub fn for_bundle(
    held: &Stored,
    valid: SignedDuration,
    freshness_key: &dyn Signer,
    now: Timestamp,
) -> Result<Bundled, Refused> {
    if valid < BUNDLE_SHORTEST || valid > BUNDLE_LONGEST {
        return Err(Refused::BundleSpan);
    }
    let staged = Staged::new(held, now)?;
    staged.check_keys(freshness_key.public().id())?;
    let own =
        freshness::sign(&staged.listed, staged.last, Lasts::bundle(valid), freshness_key, now)?;
    let last = Last { snapshot: own.snapshot.0, timestamp: own.timestamp.0 };
    let next = freshness::sign(&staged.listed, last, Lasts::ONLINE, freshness_key, now)?;
    Ok(Bundled {
        snapshot: own.snapshot.1,
        timestamp: own.timestamp.1,
        version: own.timestamp.0,
        expires: now.saturating_add(valid).unwrap_or(Timestamp::MAX),
        writes: puts(&next),
    })
}

/// The files as they would be after the push.
struct Staged {
    now: Timestamp,
    files: Stored,
    root: Option<Trusted<Root>>,
    targets: Option<Trusted<Targets>>,
    listed: BTreeMap<Role, Listed>,
    last: Last,
    writes: Vec<Write>,
    changed: BTreeMap<Role, Trusted<Targets>>,
    arranged_anew: bool,
    before: Stored,
    /// Files are taken back, not published: versions may be left out, and what has expired proves itself.
    taking_back: bool,
}

impl Staged {
    fn new(held: &Stored, now: Timestamp) -> Result<Staged, Refused> {
        let root = held.get(&Role::Root).map(|bytes| verify_root(bytes, None)).transpose()?;
        let targets = match (&root, held.get(&Role::Targets)) {
            (Some(root), Some(bytes)) => Some(verify_top_targets(root, bytes)?),
            (None, _) | (_, None) => None,
        };
        let (mut listed, mut last) = (BTreeMap::new(), Last { snapshot: 0, timestamp: 0 });
        if let Some((snapshot, timestamp)) = freshness::held(held)? {
            last = Last { snapshot: snapshot.version(), timestamp: timestamp.version() };
            for (role, pin) in snapshot.files {
                let missing = TrustError::Missing { role: role.clone() };
                let bytes = held.get(&role).ok_or(missing)?;
                listed.insert(role, Listed::of(pin.version, bytes));
            }
        }
        Ok(Staged {
            now,
            files: held.clone(),
            root,
            targets,
            listed,
            last,
            writes: Vec::new(),
            changed: BTreeMap::new(),
            arranged_anew: false,
            before: held.clone(),
            taking_back: false,
        })
    }

    fn take(&mut self, role: &Role, bytes: &[u8]) -> Result<(), Refused> {
        if self.files.get(role).is_some_and(|held| held == bytes) {
            return Ok(());
        }
        match role {
            Role::Root => self.take_root(bytes),
            Role::Targets => self.take_targets(bytes),
            Role::Policy | Role::Release(_) | Role::Ring(..) => self.take_delegated(role, bytes),
            Role::Snapshot | Role::Timestamp | Role::Other(_) => {
                Err(Refused::NotPushed { role: role.clone() })
            }
        }
    }

    fn take_root(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let held = self.root.as_ref().map_or(0, |root| root.version());
        let root = match verify_root(bytes, self.root.as_deref()) {
            Err(TrustError::WrongVersion { role, found, .. }) => {
                return Err(Refused::Conflict { role, held, pushed: found });
            }
            verified => verified?,
        };
        self.follows(&root, held)?;
        if !root.consistent_snapshot {
            return Err(arrangement(&Role::Root, "`consistent_snapshot` is not true"));
        }
        for role in [Role::Root, Role::Targets, Role::Snapshot, Role::Timestamp] {
            if let Some(authority) = root.authority(&role) {
                reachable(&role, authority)?;
            }
        }
        self.put(&root);
        self.root = Some(root);
        self.arranged_anew = true;
        Ok(())
    }

    fn take_targets(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let root = self.root.as_ref().ok_or(Refused::NotFounded { missing: Role::Root })?;
        let targets = verify_top_targets(root, bytes)?;
        let held = self.listed.get(&Role::Targets).map_or(0, |listed| listed.version);
        self.follows(&targets, held)?;
        check_delegations(&targets)?;
        self.listed.insert(Role::Targets, Listed::of(targets.version(), bytes));
        self.put(&targets);
        self.targets = Some(targets);
        self.arranged_anew = true;
        Ok(())
    }

    fn take_delegated(&mut self, role: &Role, bytes: &[u8]) -> Result<(), Refused> {
        let targets =
            self.targets.as_ref().ok_or(Refused::NotFounded { missing: Role::Targets })?;
        let delegation = targets.delegation(role).ok_or_else(|| {
            arrangement(role, "no delegation names it: run `refit trust delegate` first")
        })?;
        let expected = Expected { role, authority: &delegation.authority, pin: None };
        let file: Trusted<Targets> = verify(bytes, expected)?;
        let held = self.listed.get(role).map_or(0, |listed| listed.version);
        self.follows(&file, held)?;
        if !file.delegations.is_empty() {
            return Err(arrangement(role, "it delegates further"));
        }
        if let Role::Release(_) = role
            && let Some(path) = file.targets.keys().find(|path| version_of_path(path).is_none())
        {
            return Err(arrangement(role, &format!("{path:?} does not name a version")));
        }
        self.listed.insert(role.clone(), Listed::of(file.version(), bytes));
        self.put(&file);
        self.changed.insert(role.clone(), file);
        Ok(())
    }

    /// Compare and set: exactly the version after the one held, and not expired.
    fn follows<T: Content>(&self, file: &Trusted<T>, held: u64) -> Result<(), Refused> {
        if self.taking_back && file.version() > held {
            return Ok(());
        }
        // A repository that was lost takes its roots in turn, before anything rests on them.
        if *file.role() == Role::Root && file.version() == held + 1 && self.targets.is_none() {
            return Ok(());
        }
        // The first that this repository has of a role: what it had before was lost, and hosts have seen it.
        if held == 0 && file.version() > 0 && *file.role() != Role::Root {
            return Ok(file.fresh(self.now)?);
        }
        if file.version() != held + 1 {
            let (role, pushed) = (file.role().clone(), file.version());
            return Err(Refused::Conflict { role, held, pushed });
        }
        Ok(file.fresh(self.now)?)
    }

    fn put<T: Content>(&mut self, file: &Trusted<T>) {
        let (role, bytes) = (file.role().clone(), file.bytes().to_vec());
        let write = Write::Put { role, version: file.version(), bytes };
        write.clone().apply(&mut self.files);
        self.writes.push(write);
    }

    /// The freshness key may keep the metadata fresh, alone, and nothing else.
    fn check_keys(&self, key: KeyId) -> Result<(), Refused> {
        let root = self.root.as_ref().ok_or(Refused::NotFounded { missing: Role::Root })?;
        let targets =
            self.targets.as_ref().ok_or(Refused::NotFounded { missing: Role::Targets })?;
        for authority in [root.snapshot(), root.timestamp()] {
            if authority.threshold != 1 || !authority.keys.contains_key(&key) {
                return Err(Refused::FreshnessKeyNotNamed { key });
            }
        }
        let others = [(Role::Root, root.root()), (Role::Targets, root.targets())]
            .into_iter()
            .chain(targets.delegations.iter().map(|d| (d.role.clone(), &d.authority)));
        for (role, authority) in others {
            if authority.ids.contains(&key) {
                return Err(Refused::FreshnessKeyToo { key, role });
            }
        }
        Ok(())
    }

    /// Roots without anything that rests on them: nobody is shown a snapshot or timestamp yet.
    fn roots_alone(self) -> Accepted {
        let (released, rings) = Default::default();
        Accepted { writes: self.writes, snapshot: 0, timestamp: 0, released, rings }
    }

    /// Makes snapshot and timestamp, and verifies the whole as a host would.
    fn finish(
        mut self,
        remembered: &dyn Fn(&str) -> Option<Digest>,
        freshness_key: &dyn Signer,
    ) -> Result<Accepted, Refused> {
        if self.writes.is_empty() {
            let (snapshot, timestamp) = (self.last.snapshot, self.last.timestamp);
            let (writes, released, rings) = Default::default();
            return Ok(Accepted { writes, snapshot, timestamp, released, rings });
        }
        let fresh =
            freshness::sign(&self.listed, self.last, Lasts::ONLINE, freshness_key, self.now)?;
        for write in puts(&fresh) {
            write.clone().apply(&mut self.files);
            self.writes.push(write);
        }
        let set = TrustedSet::load(&self.files, &self.to_verify())?;
        if let Some((role, cause)) = set.all_refused().next() {
            let cause = Box::new(cause.clone());
            return Err(Refused::Orphaned { role: role.clone(), cause });
        }
        let released = self.released(remembered)?;
        let rings = self.rings(&set)?;
        let (snapshot, timestamp) = (fresh.snapshot.0, fresh.timestamp.0);
        Ok(Accepted { writes: self.writes, snapshot, timestamp, released, rings })
    }

    /// The delegated roles that this push may have touched: all where keys may have changed, else the
    /// pushed ones and the releases that pushed rings name.
    fn to_verify(&self) -> Vec<Role> {
        let mut roles: BTreeSet<Role> = self.changed.keys().cloned().gathered();
        for role in self.changed.keys() {
            if let Role::Ring(product, _) = role {
                roles.insert(Role::Release(product.clone()));
            }
        }
        if self.arranged_anew {
            roles.extend(self.listed.keys().filter(|role| !role.is_top_level()).cloned());
        }
        roles.into_iter().collect()
    }

    /// Each pushed release, if its version stands for the bytes that it always stood for.
    fn released(
        &self,
        remembered: &dyn Fn(&str) -> Option<Digest>,
    ) -> Result<Vec<(String, Digest)>, Refused> {
        let mut released = Vec::new();
        for (role, file) in &self.changed {
            let Role::Release(_) = role else { continue };
            let held = self.held_digests(role);
            for (path, target) in &file.targets {
                let Some(digest) = target.digest() else { continue };
                let before = remembered(path).or_else(|| held.get(path).copied());
                if let Some(before) = before.filter(|before| *before != digest) {
                    return Err(Refused::Reused { path: path.clone(), before });
                }
                released.push((path.clone(), digest));
            }
        }
        Ok(released)
    }

    /// What the file held before said, whoever signed it: it was verified when it was taken.
    fn held_digests(&self, role: &Role) -> BTreeMap<String, Digest> {
        let read = |bytes: &Vec<u8>| {
            let opened = Opened::open(bytes, role, None).ok()?;
            super::metadata::read::<Targets>(opened.signed(), role).ok()
        };
        let targets = self.before.get(role).and_then(read).map(|file| file.targets);
        let targets = targets.into_iter().flatten();
        targets.filter_map(|(path, target)| Some((path, target.digest()?))).gathered()
    }

    /// The pushed rings, if each promotion is a release that the release keys signed, to the byte.
    fn rings(&self, set: &TrustedSet) -> Result<Vec<(Product, RingName, RingFile)>, Refused> {
        let mut rings = Vec::new();
        for role in self.changed.keys() {
            let Role::Ring(product, ring) = role else { continue };
            let Some(file) = set.ring(product, ring) else { continue };
            for promotion in file.promotions() {
                if let Some(closed) = permission::closed(set, product, promotion) {
                    let closed = Box::new(closed);
                    return Err(Refused::Inconsistent { role: role.clone(), closed });
                }
            }
            rings.push((product.clone(), ring.clone(), file.clone()));
        }
        Ok(rings)
    }
}

fn puts(fresh: &freshness::Fresh) -> Vec<Write> {
    let put = |role, (version, bytes): &(u64, Vec<u8>)| Write::Put {
        role,
        version: *version,
        bytes: bytes.clone(),
    };
    vec![put(Role::Snapshot, &fresh.snapshot), put(Role::Timestamp, &fresh.timestamp)]
}

fn verify_top_targets(root: &Root, bytes: &[u8]) -> Result<Trusted<Targets>, TrustError> {
    verify(bytes, Expected { role: &Role::Targets, authority: root.targets(), pin: None })
}

fn arrangement(role: &Role, flaw: &str) -> Refused {
    Refused::Arrangement { role: role.clone(), flaw: flaw.to_owned() }
}

fn reachable(role: &Role, authority: &Authority) -> Result<(), Refused> {
    let usable: BTreeSet<_> = authority.keys.values().filter_map(|key| key.material()).gathered();
    if (usable.len() as u64) < authority.threshold {
        let (threshold, usable) = (authority.threshold, usable.len());
        return Err(Refused::Unreachable { role: role.clone(), threshold, usable });
    }
    Ok(())
}

/// One level, each role ours, terminating, with its own paths and nothing else; and the keys that say
/// which host is in which ring at least as many as any ring's.
fn check_delegations(targets: &Targets) -> Result<(), Refused> {
    if !targets.targets.is_empty() {
        return Err(arrangement(&Role::Targets, "it lists targets of its own"));
    }
    let threshold_of = |delegation: &Delegation| delegation.authority.threshold;
    let mut strictest = 0;
    for delegation in &targets.delegations {
        let role = &delegation.role;
        let Some(pattern) = role.pattern() else {
            return Err(arrangement(&Role::Targets, &format!("{role} is not a role of Refit")));
        };
        if !delegation.terminating || delegation.paths != Paths::Patterns(vec![pattern.clone()]) {
            let flaw = format!("{role} must be terminating, with the one path {pattern:?}");
            return Err(arrangement(&Role::Targets, &flaw));
        }
        reachable(role, &delegation.authority)?;
        if let Role::Ring(..) = role {
            strictest = strictest.max(threshold_of(delegation));
        }
    }
    match targets.delegation(&Role::Policy).map(threshold_of) {
        Some(threshold) if threshold < strictest => {
            let flaw =
                format!("policy needs {threshold} signatures, the strictest ring {strictest}");
            Err(arrangement(&Role::Targets, &flaw))
        }
        Some(_) | None => Ok(()),
    }
}
