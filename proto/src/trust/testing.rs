//! A repository and a host in memory, for tests here and in other crates. What it publishes by its
//! ordinary methods is real: made by `edit`, taken by `repository`. What attackers publish is planted by
//! [`TestRepository::plant`], past every check.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::{
    client::{Next, Refresh, Request, Write},
    edit::{Draft, KeyList, RootKeys},
    error::TrustError,
    freshness::{self, Last, Lasts, Listed},
    key::{LocalKey, Signer},
    metadata::{Content, Targets},
    promotion::{Standing, Terms},
    repository::{self, Accepted, Bundled, Refused},
    role::Role,
    set::{Stored, TrustedSet},
    signing,
    verify::Opened,
};
use crate::names::{Digest, Version};

/// The key of that name: the same in every test.
pub fn key(name: &str) -> LocalKey {
    LocalKey::from_seed(Digest::of(name.as_bytes()).as_bytes())
}

/// Keys by name, of which so many must sign.
pub fn keys(names: &[&str], threshold: u64) -> KeyList {
    KeyList::new(names.iter().map(|name| key(name).public().clone()), threshold)
}

/// A time: `at("2026-01-01T00:00:00Z")`.
pub fn at(text: &str) -> Timestamp {
    text.parse().expect("a date in a test")
}

/// A role: `role("ring.payments.pilot")`.
pub fn role(name: &str) -> Role {
    Role::named(name).expect("a role in a test")
}

/// When every test repository begins.
pub const BEGIN: &str = "2026-01-01T00:00:00Z";

/// Signs any value as a file, by the keys of these names, checking nothing.
pub fn forge(signed: &Value, signers: &[&str]) -> Vec<u8> {
    let signers: Vec<LocalKey> = signers.iter().map(|name| key(name)).collect();
    let signers: Vec<&dyn Signer> = signers.iter().map(|key| key as &dyn Signer).collect();
    signing::sign(signed, &signers).expect("a local key signs")
}

/// The signed content of a file, changed, and signed by the keys of these names.
pub fn amend(
    file: &[u8],
    role: &Role,
    signers: &[&str],
    change: impl FnOnce(&mut Value),
) -> Vec<u8> {
    let mut signed = Opened::open(file, role, None).expect("a file in a test").signed().clone();
    change(&mut signed);
    forge(&signed, signers)
}

/// A repository with root key `root`, targets key `targets` and freshness key `freshness`.
#[derive(Debug, Clone)]
pub struct TestRepository {
    /// The newest file of each role.
    pub held: Stored,
    /// Every version that was published.
    pub files: BTreeMap<(Role, u64), Vec<u8>>,
    /// Who signs for each delegated role.
    signers: BTreeMap<Role, Vec<String>>,
    /// Its clock.
    pub now: Timestamp,
}

impl Default for TestRepository {
    fn default() -> Self {
        TestRepository::new()
    }
}

impl TestRepository {
    /// Root 1 and targets 1, without delegations.
    pub fn new() -> TestRepository {
        let (held, files, signers) = Default::default();
        let mut repository = TestRepository { held, files, signers, now: at(BEGIN) };
        let root = Draft::first_root(&TestRepository::root_keys(), repository.now)
            .and_then(|draft| draft.sign(&[&key("root")]))
            .expect("root 1");
        let targets = Draft::first(Role::Targets, repository.now)
            .and_then(|draft| draft.sign(&[&key("targets")]))
            .expect("targets 1");
        repository.push(&[(Role::Root, root), (Role::Targets, targets)]).expect("the first push");
        repository
    }

    /// One with product `payments` in ring `pilot`, release 1.0 promoted, and a policy by which hosts
    /// labelled `pilot=yes` are in it. Release, ring and policy keys bear their roles' names.
    pub fn with_payments() -> TestRepository {
        let mut repository = TestRepository::new();
        repository.delegate("release.payments", &["release.payments"], 1);
        repository.delegate("policy", &["policy"], 1);
        repository.delegate("ring.payments.pilot", &["ring.payments.pilot"], 1);
        let policy = br#"{"_type":"policy","format":1,"product":"payments","rings":[{"ring":"pilot","select":{"labels":{"pilot":["yes"]}}}]}"#;
        repository
            .edit("policy", |draft| draft.set_policy("payments.json", policy).expect("policy"));
        repository.release("1.0");
        repository.promote("1.0").expect("promoted");
        repository
    }

    /// The keys of root 1.
    pub fn root_keys() -> RootKeys {
        RootKeys {
            root: keys(&["root"], 1),
            targets: keys(&["targets"], 1),
            snapshot: keys(&["freshness"], 1),
            timestamp: keys(&["freshness"], 1),
        }
    }

    /// Pushes files as a server takes them.
    ///
    /// # Errors
    /// Why they are refused.
    pub fn push(&mut self, pushed: &[(Role, Vec<u8>)]) -> Result<Accepted, Refused> {
        let accepted =
            repository::accept(&self.held, pushed, &|_| None, &key("freshness"), self.now)?;
        self.store(&accepted.writes);
        Ok(accepted)
    }

    /// Delegates to a role by name.
    pub fn delegate(&mut self, name: &str, names: &[&str], threshold: u64) {
        let delegated = role(name);
        let held = &self.held[&Role::Targets];
        let mut draft = Draft::next(Role::Targets, held, self.now).expect("targets");
        draft.delegate(&delegated, &keys(names, threshold)).expect("a delegation");
        let file = draft.sign(&[&key("targets")]).expect("targets");
        self.signers.insert(delegated, names.iter().map(|name| (*name).to_owned()).collect());
        self.push(&[(Role::Targets, file)]).expect("targets are taken");
    }

    /// A draft of a delegated role's next version.
    pub fn draft(&self, name: &str) -> Draft {
        let role = role(name);
        match self.held.get(&role) {
            Some(held) => Draft::next(role, held, self.now),
            None => Draft::first(role, self.now),
        }
        .expect("a draft")
    }

    /// Changes, signs and pushes a delegated role's next version.
    pub fn edit(&mut self, name: &str, change: impl FnOnce(&mut Draft)) {
        let mut draft = self.draft(name);
        change(&mut draft);
        let file = self.sign(&draft);
        self.push(&[(role(name), file)]).expect("the change is taken");
    }

    /// Signs a draft with every key of its role.
    pub fn sign(&self, draft: &Draft) -> Vec<u8> {
        let signers: Vec<LocalKey> =
            self.signers[draft.role()].iter().map(|name| key(name)).collect();
        let signers: Vec<&dyn Signer> = signers.iter().map(|key| key as &dyn Signer).collect();
        draft.sign(&signers).expect("a valid draft")
    }

    /// Publishes a release of `payments`, whose document is its version.
    pub fn release(&mut self, version: &str) {
        let parsed: Version = version.parse().expect("a version");
        self.edit("release.payments", |draft| {
            draft.add_release(&parsed, version.as_bytes()).expect("a new release");
        });
    }

    /// Promotes a release of `payments` to `pilot`.
    ///
    /// # Errors
    /// Why the server refuses it.
    pub fn promote(&mut self, version: &str) -> Result<Accepted, Refused> {
        let releases = self.release_file();
        let mut draft = self.draft("ring.payments.pilot");
        let version: Version = version.parse().expect("a version");
        draft
            .promote(&releases, &version, 1, Terms::new(Standing::Current))
            .expect("a published release");
        let file = self.sign(&draft);
        self.push(&[(role("ring.payments.pilot"), file)])
    }

    /// The releases of `payments`.
    pub fn release_file(&self) -> Targets {
        let role = role("release.payments");
        let opened = Opened::open(&self.held[&role], &role, None).expect("the release file");
        super::metadata::read(opened.signed(), &role).expect("the release file")
    }

    /// Publishes a file past every check, with the snapshot and timestamp that pin it, as somebody who
    /// holds the freshness key can.
    pub fn plant(&mut self, role: &Role, version: u64, file: Vec<u8>) {
        self.store(&[Write::Put { role: role.clone(), version, bytes: file.clone() }]);
        if role.is_top_level() && *role != Role::Targets {
            return;
        }
        let (snapshot, timestamp) =
            freshness::held(&self.held).expect("own files").expect("they are there");
        let mut listed: BTreeMap<Role, Listed> = snapshot
            .files
            .iter()
            .map(|(role, pin)| (role.clone(), Listed::of(pin.version, &self.held[role])))
            .collect();
        listed.insert(role.clone(), Listed::of(version, &file));
        let last = Last { snapshot: snapshot.version(), timestamp: timestamp.version() };
        let fresh = freshness::sign(&listed, last, Lasts::ONLINE, &key("freshness"), self.now)
            .expect("signed");
        self.store(&[
            Write::Put { role: Role::Snapshot, version: fresh.snapshot.0, bytes: fresh.snapshot.1 },
            Write::Put {
                role: Role::Timestamp,
                version: fresh.timestamp.0,
                bytes: fresh.timestamp.1,
            },
        ]);
    }

    /// Stores files as they are.
    pub fn store(&mut self, writes: &[Write]) {
        for write in writes {
            if let Write::Put { role, version, bytes } = write {
                self.files.insert((role.clone(), *version), bytes.clone());
            }
            write.clone().apply(&mut self.held);
        }
    }

    /// Renews snapshot and timestamp where they are due.
    ///
    /// # Errors
    /// If what is held can't be read.
    pub fn renew(&mut self) -> Result<bool, Refused> {
        let writes = repository::renew(&self.held, &key("freshness"), self.now)?;
        let renewed = writes.is_some();
        self.store(&writes.unwrap_or_default());
        Ok(renewed)
    }

    /// Signs a snapshot and timestamp for a bundle, as a server does. Like a server, it publishes what
    /// replaces them, and keeps nothing of them.
    ///
    /// # Errors
    /// Why they are refused.
    pub fn for_bundle(&mut self, valid: jiff::SignedDuration) -> Result<Bundled, Refused> {
        let bundled = repository::for_bundle(&self.held, valid, &key("freshness"), self.now)?;
        self.store(&bundled.writes);
        Ok(bundled)
    }

    /// What a server answers.
    pub fn serve(&self, request: &Request) -> Option<Vec<u8>> {
        match request.version {
            Some(version) => self.files.get(&(request.role.clone(), version)).cloned(),
            None => self.held.get(&request.role).cloned(),
        }
    }
}

/// A host's stored metadata, and what it asked for.
#[derive(Debug, Clone)]
pub struct TestHost {
    /// Its files.
    pub stored: Stored,
    /// Requests of the last refresh.
    pub requests: Vec<Request>,
}

impl TestHost {
    /// A host that knows the repository's newest root, and nothing else.
    pub fn new(repository: &TestRepository) -> TestHost {
        let root = repository.held[&Role::Root].clone();
        TestHost { stored: [(Role::Root, root)].into_iter().collect(), requests: Vec::new() }
    }

    /// Refreshes from a repository, by its clock. What has been accepted is stored also after a failure.
    ///
    /// # Errors
    /// Why the refresh failed.
    pub fn refresh(
        &mut self,
        repository: &TestRepository,
        wanted: &[&str],
    ) -> Result<TrustedSet, TrustError> {
        self.refresh_from(wanted, repository.now, |request| repository.serve(request))
    }

    /// Refreshes from whatever answers; `None` says that there is no such file.
    ///
    /// # Errors
    /// Why the refresh failed.
    pub fn refresh_from(
        &mut self,
        wanted: &[&str],
        now: Timestamp,
        serve: impl FnMut(&Request) -> Option<Vec<u8>>,
    ) -> Result<TrustedSet, TrustError> {
        let wanted: Vec<Role> = wanted.iter().map(|name| role(name)).collect();
        self.carry(Refresh::start(self.stored.clone(), &wanted, now)?, serve)
    }

    /// Carries a refresh to its end.
    ///
    /// # Errors
    /// Why it failed.
    pub fn carry(
        &mut self,
        mut refresh: Refresh,
        mut serve: impl FnMut(&Request) -> Option<Vec<u8>>,
    ) -> Result<TrustedSet, TrustError> {
        self.requests.clear();
        while let Next::Fetch(request) = refresh.next()? {
            self.requests.push(request.clone());
            match serve(&request) {
                Some(bytes) => {
                    for write in refresh.supply(&bytes)? {
                        write.apply(&mut self.stored);
                    }
                }
                None => refresh.absent()?,
            }
        }
        refresh.into_set()
    }

    /// The requests of the last refresh, as a server logs them: `2.root`, `timestamp`.
    pub fn asked(&self) -> Vec<String> {
        let name = |request: &Request| match request.version {
            Some(version) => format!("{version}.{}", request.role),
            None => request.role.to_string(),
        };
        self.requests.iter().map(name).collect()
    }
}
