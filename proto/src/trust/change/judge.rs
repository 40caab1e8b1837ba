//! Judges a change: verifies what it was made on, from the first root, says in words what it changes,
//! and counts who has signed it and who is missing. What must not be signed by anybody is refused here.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{Base, ChangeError, ChangeFile, SignatureLine, documents};
use crate::{
    names::Digest,
    trust::{
        edit::{self, rules},
        error::TrustError,
        key::{KeyId, Signer},
        metadata::{self, Authority, Content as _, Root, Targets},
        role::Role,
        verify::{self, Expected, Opened, Trusted},
    },
};

/// A change that may be signed by whoever agrees with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Names exactly what is to be signed.
    pub id: Digest,
    /// SHA-256 of the first root that it stands on; `None` where it makes the first.
    pub first_root: Option<Digest>,
    /// Each file.
    pub steps: Vec<JudgedStep>,
    holders: BTreeMap<KeyId, String>,
}

/// One file of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedStep {
    /// Whose file.
    pub role: Role,
    /// Its version.
    pub version: u64,
    /// What it changes, one sentence each.
    pub words: Vec<String>,
    /// Whose signatures it needs. Two for a new root: of the old root's keys and of its own.
    pub needs: Vec<Need>,
    canonical: Vec<u8>,
}

/// Why signatures are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The role's own keys.
    Role,
    /// The keys of the root before.
    OldRoot,
    /// The keys that the new root names for itself.
    NewRoot,
}

/// A threshold and how far it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Whose.
    pub by: By,
    /// How many.
    pub threshold: u64,
    /// Who has signed.
    pub signed: BTreeSet<KeyId>,
    /// Who has not.
    pub waiting: Vec<KeyId>,
    authority: Authority,
}

impl Need {
    fn of(by: By, authority: &Authority, opened: &Opened<'_>) -> Need {
        let signed = opened.count(authority);
        let waiting = authority.ids.iter().filter(|id| !signed.contains(id)).copied().collect();
        let authority = authority.clone();
        Need { by, threshold: authority.threshold, signed, waiting, authority }
    }

    /// How many signatures are missing.
    pub fn missing(&self) -> u64 {
        self.threshold.saturating_sub(self.signed.len() as u64)
    }
}

impl JudgedStep {
    /// Whether a signature is of this file, by a key that counts.
    pub(super) fn takes(&self, line: &SignatureLine) -> bool {
        self.needs.iter().any(|need| {
            let key = need.authority.keys.get(&line.key);
            key.is_some_and(|key| key.verify(&self.canonical, &line.signature))
        })
    }

    /// The keys that have signed, each once.
    pub fn signed(&self) -> BTreeSet<KeyId> {
        self.needs.iter().flat_map(|need| need.signed.iter().copied()).collect()
    }

    /// Whether every threshold is reached.
    pub fn is_complete(&self) -> bool {
        self.needs.iter().all(|need| need.missing() == 0)
    }

    /// The keys that have not signed.
    pub fn waiting(&self) -> BTreeSet<KeyId> {
        self.needs.iter().flat_map(|need| need.waiting.iter().copied()).collect()
    }

    /// Whether this key's signature would complete it, and has its place there.
    pub fn lacks_only(&self, key: KeyId) -> bool {
        self.needs
            .iter()
            .all(|need| need.missing() == 0 || (need.missing() == 1 && need.waiting.contains(&key)))
            && !self.is_complete()
    }

    fn names(&self, key: KeyId) -> bool {
        self.needs.iter().any(|need| need.authority.ids.contains(&key))
    }
}

impl Judged {
    /// Whether every file has its signatures.
    pub fn is_complete(&self) -> bool {
        self.steps.iter().all(JudgedStep::is_complete)
    }

    /// Whether this key counts for anything in it.
    pub fn names(&self, key: KeyId) -> bool {
        self.steps.iter().any(|step| step.names(key))
    }

    /// Who holds a key, as the metadata says.
    pub fn holder(&self, key: KeyId) -> Option<&str> {
        self.holders.get(&key).map(String::as_str)
    }

    /// A key for people: its holder's name where it is known.
    pub fn name_of(&self, key: KeyId) -> String {
        match self.holder(key) {
            Some(holder) => format!("{holder} ({})", key.short()),
            None => key.short(),
        }
    }

    /// The keys that could still sign and have not, each once, where a signature is missing.
    pub fn waiting(&self) -> BTreeSet<KeyId> {
        let needs = self.steps.iter().flat_map(|step| &step.needs);
        needs.filter(|need| need.missing() > 0).flat_map(|need| need.waiting.clone()).collect()
    }

    /// Every key that has signed something in it.
    pub fn signed(&self) -> BTreeSet<KeyId> {
        self.steps.iter().flat_map(JudgedStep::signed).collect()
    }

    /// How the signatures stand, one line each: `root 2, by the old root: 1 of 2, waiting for bob`.
    pub fn standing(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for step in &self.steps {
            for need in &step.needs {
                let by = match need.by {
                    By::Role => "",
                    By::OldRoot => ", by the old root's keys",
                    By::NewRoot => ", by its own keys",
                };
                let (count, threshold) = (need.signed.len(), need.threshold);
                let mut line =
                    format!("{} {}{by}: {count} of {threshold}", step.role, step.version);
                if need.missing() > 0 {
                    let names: Vec<_> = need.waiting.iter().map(|id| self.name_of(*id)).collect();
                    line.push_str(&format!(", waiting for {}", names.join(" or ")));
                }
                lines.push(line);
            }
        }
        lines
    }

    /// What signing would change, and what it is called.
    pub fn in_words(&self) -> Vec<String> {
        self.steps.iter().flat_map(|step| step.words.clone()).collect()
    }

    /// Signs every file for which the key counts.
    ///
    /// # Errors
    /// If it counts for none, or has signed all of them.
    pub fn sign(&self, signer: &dyn Signer) -> Result<Vec<SignatureLine>, ChangeError> {
        let key = signer.public().id();
        let named: Vec<_> = self.steps.iter().filter(|step| step.names(key)).collect();
        if named.is_empty() {
            return Err(ChangeError::NotNamed { key });
        }
        let left: Vec<_> = named.iter().filter(|step| !step.signed().contains(&key)).collect();
        if left.is_empty() {
            return Err(ChangeError::AlreadySigned { key });
        }
        let line = |step: &&&JudgedStep| -> Result<SignatureLine, ChangeError> {
            Ok(SignatureLine { key, signature: signer.sign(&step.canonical)? })
        };
        left.iter().map(line).collect()
    }
}

impl ChangeFile {
    /// Judges it. `own` is the SHA-256 of the first root as the judge knows it; without one, the judge
    /// has to compare [`Judged::first_root`] by other means.
    ///
    /// # Errors
    /// Why it must not be signed.
    pub fn judge(&self, own: Option<Digest>, now: Timestamp) -> Result<Judged, ChangeError> {
        let first_root = self.base().roots.first().map(|bytes| Digest::of(bytes));
        if let Some(own) = own.filter(|own| Some(*own) != first_root) {
            // Whoever makes the first root has it, as the very root that is to be signed.
            let found = first_root.map_or_else(|| "yet to be signed".to_owned(), |d| d.to_string());
            return Err(ChangeError::OtherFleet { found, own });
        }
        let mut world = World::of(self.base())?;
        let mut steps = Vec::new();
        for (role, file) in self.steps() {
            steps.push(world.step(self, role, file, now)?);
        }
        Ok(Judged { id: self.id()?, first_root, steps, holders: world.holders })
    }
}

/// What is held, verified; and what the steps so far would make of it.
struct World {
    held_root: Option<Trusted<Root>>,
    held_targets: Option<Trusted<Targets>>,
    held: BTreeMap<Role, Trusted<Targets>>,
    root: Option<Root>,
    targets: Option<Targets>,
    holders: BTreeMap<KeyId, String>,
}

impl World {
    fn of(base: &Base) -> Result<World, ChangeError> {
        let mut root: Option<Trusted<Root>> = None;
        for bytes in &base.roots {
            root = Some(verify::verify_root(bytes, root.as_deref())?);
        }
        if let (Some(newest), count) = (&root, base.roots.len() as u64)
            && newest.version() != count
        {
            let flaw =
                format!("it holds {count} roots, but the last is version {}", newest.version());
            return Err(ChangeError::NotAChange { flaw });
        }
        let mut world = World {
            root: root.as_deref().cloned(),
            held_root: root,
            held_targets: None,
            held: BTreeMap::new(),
            targets: None,
            holders: BTreeMap::new(),
        };
        if let Some(root) = &world.held_root {
            world.holders.extend(edit::holders(root.signed()));
        }
        if let Some(bytes) = base.held.get(&Role::Targets) {
            let root = world.held_root.as_ref().ok_or(TrustError::Missing { role: Role::Root })?;
            let (role, authority) = (&Role::Targets, root.targets());
            let targets: Trusted<Targets> =
                verify::verify(bytes, Expected { role, authority, pin: None })?;
            world.holders.extend(edit::holders(targets.signed()));
            world.targets = Some((*targets).clone());
            world.held_targets = Some(targets);
        }
        for (role, bytes) in base.held.iter().filter(|(role, _)| **role != Role::Targets) {
            let targets = world.held_targets.as_ref();
            let delegation = targets.and_then(|targets| targets.delegation(role));
            let delegation =
                delegation.ok_or_else(|| ChangeError::NobodySigns { role: role.clone() })?;
            let expected = Expected { role, authority: &delegation.authority, pin: None };
            world.held.insert(role.clone(), verify::verify(bytes, expected)?);
        }
        Ok(world)
    }

    fn step(
        &mut self,
        change: &ChangeFile,
        role: &Role,
        file: &[u8],
        now: Timestamp,
    ) -> Result<JudgedStep, ChangeError> {
        let opened = Opened::open(file, role, None)?;
        let step = match role {
            Role::Root => self.root(&opened, now)?,
            Role::Targets => self.targets(&opened, now)?,
            Role::Policy | Role::Release(_) | Role::Ring(..) => {
                self.delegated(change, role, &opened, now)?
            }
            Role::Snapshot | Role::Timestamp | Role::Other(_) => {
                return Err(ChangeError::NobodySigns { role: role.clone() });
            }
        };
        self.unchanged(&opened, &step)?;
        Ok(step)
    }

    /// A file that brings a holder's signature which doesn't fit was changed after it was signed: it is
    /// not one that merely waits for more of them.
    fn unchanged(&self, opened: &Opened<'_>, step: &JudgedStep) -> Result<(), ChangeError> {
        let waiting = step.needs.iter().flat_map(|need| &need.waiting);
        let mut broken = waiting.filter(|key| opened.signatures().contains_key(&key.to_string()));
        match broken.next() {
            None => Ok(()),
            Some(key) => Err(ChangeError::ChangedSince {
                role: step.role.clone(),
                key: *key,
                holder: self.holders.get(key).cloned(),
            }),
        }
    }

    fn root(&mut self, opened: &Opened<'_>, now: Timestamp) -> Result<JudgedStep, ChangeError> {
        let role = Role::Root;
        let new: Root = metadata::read(opened.signed(), &role)?;
        follows(&role, self.held_root.as_ref().map_or(0, |held| held.version()), new.version())?;
        rules::check_expiry(&role, new.expires(), now)?;
        for role in [Role::Root, Role::Targets, Role::Snapshot, Role::Timestamp] {
            if let Some(authority) = new.authority(&role) {
                rules::check_authority(&role, authority)?;
            }
        }
        let before = self.held_root.as_ref();
        let words = edit::describe(before.map(|held| held.signed()), opened.signed(), &role)?;
        let mut words = words;
        if let Some(held) = before
            && (held.snapshot() != new.snapshot() || held.timestamp() != new.timestamp())
        {
            words.push(
                "hosts drop the snapshot and timestamp that they hold, and take new ones"
                    .to_owned(),
            );
        }
        let needs = match before {
            Some(held) => vec![
                Need::of(By::OldRoot, held.root(), opened),
                Need::of(By::NewRoot, new.root(), opened),
            ],
            None => vec![Need::of(By::Role, new.root(), opened)],
        };
        self.holders.extend(edit::holders(opened.signed()));
        let version = new.version();
        self.root = Some(new);
        Ok(JudgedStep { role, version, words, needs, canonical: opened.canonical().to_vec() })
    }

    fn targets(&mut self, opened: &Opened<'_>, now: Timestamp) -> Result<JudgedStep, ChangeError> {
        let role = Role::Targets;
        let root = self.root.as_ref().ok_or(TrustError::Missing { role: Role::Root })?;
        let authority = root.targets().clone();
        let new: Targets = metadata::read(opened.signed(), &role)?;
        let before = self.held_targets.as_ref();
        follows(&role, before.map_or(0, |held| held.version()), new.version())?;
        rules::check_expiry(&role, new.expires(), now)?;
        for delegation in &new.delegations {
            rules::check_authority(&delegation.role, &delegation.authority)?;
        }
        let words = edit::describe(before.map(|held| held.signed()), opened.signed(), &role)?;
        let needs = vec![Need::of(By::Role, &authority, opened)];
        self.holders.extend(edit::holders(opened.signed()));
        let version = new.version();
        self.targets = Some(new);
        Ok(JudgedStep { role, version, words, needs, canonical: opened.canonical().to_vec() })
    }

    fn delegated(
        &mut self,
        change: &ChangeFile,
        role: &Role,
        opened: &Opened<'_>,
        now: Timestamp,
    ) -> Result<JudgedStep, ChangeError> {
        let delegation = self.targets.as_ref().and_then(|targets| targets.delegation(role));
        let delegation =
            delegation.ok_or_else(|| ChangeError::NobodySigns { role: role.clone() })?;
        let new: Targets = metadata::read(opened.signed(), role)?;
        let before = self.held.get(role);
        follows(role, before.map_or(0, |held| held.version()), new.version())?;
        rules::check_expiry(role, new.expires(), now)?;
        let mut words = edit::describe(before.map(|held| held.signed()), opened.signed(), role)?;
        words.extend(documents::told(before.map(|held| &**held), &new, &change.documents));
        let needs = vec![Need::of(By::Role, &delegation.authority, opened)];
        let (role, version) = (role.clone(), new.version());
        Ok(JudgedStep { role, version, words, needs, canonical: opened.canonical().to_vec() })
    }
}

fn follows(role: &Role, before: u64, found: u64) -> Result<(), ChangeError> {
    if found == before + 1 {
        return Ok(());
    }
    Err(ChangeError::NotNext { role: role.clone(), before, found })
}
