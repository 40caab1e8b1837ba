//! The publisher's side: the next version of a file, as a draft that is changed, checked and signed.
//! Members that we don't know are carried on. Where keys and files are kept is for the command line.

mod describe;
mod due;
mod holders;
mod keys;
mod ring;
pub(crate) mod rules;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

pub use self::{
    describe::describe,
    due::{Due, WARN_DAYS},
    holders::holders,
    keys::{KeyList, RootKeys},
    rules::longest_days,
};
pub use super::signing::{AppendError, append};
use super::{
    error::TrustError,
    key::{KeyId, SignError, Signer},
    metadata::{self, Authority, Content, DATE, Header, Root, Targets},
    promotion,
    role::{self, Role},
    signing,
    verify::{self, Opened},
};
use crate::{
    canonical,
    names::{Digest, Product, Version},
};

/// How long a ring's file lasts whose keys are the server's gate key alone, in days: the server renews it.
pub const GATE_RING_DAYS: i64 = 30;

/// How long a role's file lasts by default, in days.
pub fn default_days(role: &Role) -> i64 {
    match role {
        Role::Root | Role::Release(_) => 365,
        Role::Targets | Role::Policy | Role::Ring(..) | Role::Other(_) => 180,
        Role::Snapshot => 7,
        Role::Timestamp => 3,
    }
}

/// Why a draft can't be changed so, or not be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The file before can't be read, or what the draft has become is no valid metadata.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The signer did not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// A draft made on another version than the one before it.
    #[error(
        "version {found} of {role} does not follow {before}\nhelp: make the change on the newest version"
    )]
    NotNext {
        /// Whose file.
        role: Role,
        /// The version before.
        before: u64,
        /// The draft's.
        found: u64,
    },
    /// It would be expired when it is signed.
    #[error("{role} would expire at {expires}, which is past\nhelp: give it a later expiry")]
    ExpiresInPast {
        /// Whose file.
        role: Role,
        /// When.
        expires: Timestamp,
    },
    /// Nobody may be trusted for so long.
    #[error(
        "{role} would last until {expires}; {most} days are the most\nhelp: give it an earlier expiry"
    )]
    ExpiresTooLate {
        /// Whose file.
        role: Role,
        /// When.
        expires: Timestamp,
        /// The most days.
        most: i64,
    },
    /// A threshold that is 0, or that nobody can reach.
    #[error(
        "{role} cannot need {threshold} signatures of {keys} keys\nhelp: use a threshold from 1 to {keys}"
    )]
    Threshold {
        /// For which role.
        role: Role,
        /// Signatures needed.
        threshold: u64,
        /// Keys given.
        keys: usize,
    },
    /// One key counts once.
    #[error("{role} lists key {key} twice\nhelp: list each key once; one key counts once")]
    SameKeyTwice {
        /// For which role.
        role: Role,
        /// The key.
        key: KeyId,
    },
    /// A key of a type that we can't verify with.
    #[error(
        "{role} lists key {key}, which is no ed25519 key\nhelp: make keys with `refit key generate`"
    )]
    UnusableKey {
        /// For which role.
        role: Role,
        /// The key.
        key: KeyId,
    },
    /// The draft is of a role that has no such thing.
    #[error("a {role} file has no {what}\nhelp: open the file of the right role")]
    WrongRole {
        /// Whose draft.
        role: Role,
        /// What was to be changed.
        what: &'static str,
    },
    /// Not there.
    #[error("{role} does not name {what}\nhelp: `refit trust show` lists what is there")]
    NotThere {
        /// Whose draft.
        role: Role,
        /// What was looked for.
        what: String,
    },
    /// The same version with other bytes.
    #[error(
        "{path} was published before with digest {before}\n\
         help: publish the other bytes under a new version"
    )]
    Reused {
        /// The target path.
        path: String,
        /// What it stands for.
        before: Digest,
    },
    /// A floor above the release that sets it.
    #[error(
        "the floor {floor} is above the counter {counter} of release {version}\n\
         help: a promotion may raise the floor to its own release's counter at most"
    )]
    FloorTooHigh {
        /// The release.
        version: Version,
        /// Its floor.
        floor: u64,
        /// Its counter.
        counter: u64,
    },
    /// Not a name that may stand in a target path.
    #[error("{0:?} cannot be a target's name\nhelp: use letters, digits, `.`, `_` and `-`")]
    UnsafeName(String),
}

/// The next version of a role's file, not signed yet.
#[derive(Debug, Clone)]
pub struct Draft {
    role: Role,
    signed: Map<String, Value>,
    before: Option<(Value, Header)>,
    now: Timestamp,
}

impl Draft {
    /// Root 1.
    ///
    /// # Errors
    /// If the keys can't be used so.
    pub fn first_root(keys: &RootKeys, now: Timestamp) -> Result<Draft, EditError> {
        let mut draft = Draft::empty(Role::Root, "root", now);
        draft.signed.insert("consistent_snapshot".into(), true.into());
        draft.set_root_keys(keys)?;
        Ok(draft)
    }

    /// Version 1 of targets, policy, a release role or a ring.
    ///
    /// # Errors
    /// If the role's first version is made otherwise: root by [`Draft::first_root`], snapshot and
    /// timestamp by the server.
    pub fn first(role: Role, now: Timestamp) -> Result<Draft, EditError> {
        match role {
            Role::Targets | Role::Policy | Role::Release(_) | Role::Ring(..) => {}
            Role::Root | Role::Snapshot | Role::Timestamp | Role::Other(_) => {
                return Err(EditError::WrongRole { role, what: "first version made this way" });
            }
        }
        let mut draft = Draft::empty(role, "targets", now);
        draft.signed.insert("targets".into(), json!({}));
        Ok(draft)
    }

    /// The version after this file, with its content and the default expiry. Who signed it is not
    /// checked here: take it from a verified set.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn next(role: Role, held: &[u8], now: Timestamp) -> Result<Draft, EditError> {
        let signed = Opened::open(held, &role, None)?.signed().clone();
        let header = match &role {
            Role::Root => metadata::read::<Root>(&signed, &role)?.header().clone(),
            Role::Targets | Role::Policy | Role::Release(_) | Role::Ring(..) => {
                metadata::read::<Targets>(&signed, &role)?.header().clone()
            }
            Role::Snapshot | Role::Timestamp | Role::Other(_) => {
                return Err(EditError::WrongRole { role, what: "next version made by hand" });
            }
        };
        let Value::Object(members) = signed.clone() else {
            return Err(EditError::NotThere { role, what: "`signed`".into() });
        };
        let days = default_days(&role);
        let mut draft = Draft { role, signed: members, before: None, now };
        draft.signed.insert("version".into(), (header.version + 1).into());
        draft.before = Some((signed, header));
        draft.expire_in_days(days);
        Ok(draft)
    }

    fn empty(role: Role, kind: &str, now: Timestamp) -> Draft {
        let mut signed = Map::new();
        signed.insert("_type".into(), kind.into());
        signed.insert("spec_version".into(), "1.0.34".into());
        signed.insert("version".into(), 1.into());
        let days = default_days(&role);
        let mut draft = Draft { role, signed, before: None, now };
        draft.expire_in_days(days);
        draft
    }

    /// Whose file it is.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.signed.get("version").and_then(Value::as_u64).unwrap_or(0)
    }

    /// Sets the expiry to so many days from now.
    pub fn expire_in_days(&mut self, days: i64) {
        let span = SignedDuration::from_secs(days.saturating_mul(24 * 60 * 60));
        self.expire_at(self.now.saturating_add(span).unwrap_or(Timestamp::MAX));
    }

    /// Sets the expiry.
    pub fn expire_at(&mut self, expires: Timestamp) {
        self.signed.insert("expires".into(), expires.strftime(DATE).to_string().into());
    }

    /// Names other keys for the top-level roles. Root then needs the signatures of the old threshold
    /// and of the new one.
    ///
    /// # Errors
    /// If the keys can't be used so.
    pub fn set_root_keys(&mut self, keys: &RootKeys) -> Result<(), EditError> {
        self.require_role(self.role == Role::Root, "top-level keys")?;
        let (listed, roles) = keys.to_values()?;
        self.signed.insert("keys".into(), listed);
        self.signed.insert("roles".into(), roles);
        Ok(())
    }

    /// Delegates to a role, or changes its keys: its own paths, terminating.
    ///
    /// # Errors
    /// If the keys can't be used so, or the role is none that is delegated.
    pub fn delegate(&mut self, role: &Role, keys: &KeyList) -> Result<(), EditError> {
        self.require_role(self.role == Role::Targets, "delegations")?;
        let pattern = role
            .pattern()
            .ok_or(EditError::WrongRole { role: role.clone(), what: "delegation to it" })?;
        let (known, mut delegation) = keys.to_delegation(role)?;
        delegation.insert("name".into(), role.to_string().into());
        delegation.insert("paths".into(), json!([pattern]));
        delegation.insert("terminating".into(), true.into());
        keys::put_delegation(&mut self.signed, role, known, delegation);
        Ok(())
    }

    /// Takes a delegation back. What the role signed is then trusted by nobody.
    ///
    /// # Errors
    /// If there is none.
    pub fn undelegate(&mut self, role: &Role) -> Result<(), EditError> {
        self.require_role(self.role == Role::Targets, "delegations")?;
        if keys::remove_delegation(&mut self.signed, role) {
            Ok(())
        } else {
            Err(self.not_there(role.to_string()))
        }
    }

    /// Adds a release: its version and the bytes of its document.
    ///
    /// # Errors
    /// If the version stands for other bytes already.
    pub fn add_release(&mut self, version: &Version, document: &[u8]) -> Result<(), EditError> {
        let path = promotion::release_path(&self.product()?, version);
        if let Some(before) = self.targets()?.targets.get(&path).and_then(|t| t.digest())
            && before != Digest::of(document)
        {
            return Err(EditError::Reused { path, before });
        }
        self.put_target(path, target_of(document, None));
        Ok(())
    }

    /// Retires or withdraws a release.
    ///
    /// # Errors
    /// If it is not there.
    pub fn remove_release(&mut self, version: &Version) -> Result<(), EditError> {
        let path = promotion::release_path(&self.product()?, version);
        self.remove_target(&path)
    }

    /// Sets a file of the policy role: `payments.json`, `labels.json`.
    ///
    /// # Errors
    /// If the name can't be one.
    pub fn set_policy(&mut self, name: &str, bytes: &[u8]) -> Result<(), EditError> {
        self.require_role(self.role == Role::Policy, "policy files")?;
        let path = format!("policy/{name}");
        if !role::is_safe_path(&path) || name.contains('/') {
            return Err(EditError::UnsafeName(name.to_owned()));
        }
        self.put_target(path, target_of(bytes, None));
        Ok(())
    }

    /// Removes a file of the policy role.
    ///
    /// # Errors
    /// If it is not there.
    pub fn remove_policy(&mut self, name: &str) -> Result<(), EditError> {
        self.require_role(self.role == Role::Policy, "policy files")?;
        self.remove_target(&format!("policy/{name}"))
    }

    /// What signing it would change, in words.
    ///
    /// # Errors
    /// If the draft is no valid metadata.
    pub fn describe(&self) -> Result<Vec<String>, EditError> {
        Ok(describe(self.before.as_ref().map(|(value, _)| value), &self.value(), &self.role)?)
    }

    /// The canonical bytes that a signature covers.
    pub fn message(&self) -> Vec<u8> {
        canonical::to_canonical(&self.value())
    }

    /// The signed file, with one signature by each signer. Fewer than the threshold are allowed:
    /// [`append`] adds the others, and the server takes only what is complete.
    ///
    /// # Errors
    /// If the draft must not be signed, or a signer does not sign.
    pub fn sign(&self, signers: &[&dyn Signer]) -> Result<Vec<u8>, EditError> {
        self.check()?;
        for (at, signer) in signers.iter().enumerate() {
            let key = signer.public().id();
            if signers[..at].iter().any(|before| before.public().id() == key) {
                return Err(EditError::SameKeyTwice { role: self.role.clone(), key });
            }
        }
        let file = signing::sign(&self.value(), signers)?;
        // Read back as everybody else will read it, limits included.
        Opened::open(&file, &self.role, None)?;
        Ok(file)
    }

    /// The file without a signature, for holders to whom it is handed.
    ///
    /// # Errors
    /// If the draft must not be signed.
    pub fn unsigned(&self) -> Result<Vec<u8>, EditError> {
        self.sign(&[])
    }

    /// Refuses what must not be signed.
    fn check(&self) -> Result<(), EditError> {
        let value = self.value();
        let header = match self.role {
            Role::Root => metadata::read::<Root>(&value, &self.role)?.header().clone(),
            _ => metadata::read::<Targets>(&value, &self.role)?.header().clone(),
        };
        let before = self.before.as_ref().map_or(0, |(_, header)| header.version);
        if header.version != before + 1 {
            let (role, found) = (self.role.clone(), header.version);
            return Err(EditError::NotNext { role, before, found });
        }
        rules::check_expiry(&self.role, header.expires, self.now)?;
        if let Role::Ring(product, ring) = &self.role {
            promotion::RingFile::read(product, ring, &self.targets()?)?;
        }
        Ok(())
    }

    fn value(&self) -> Value {
        Value::Object(self.signed.clone())
    }

    fn targets(&self) -> Result<Targets, EditError> {
        Ok(metadata::read(&self.value(), &self.role)?)
    }

    fn product(&self) -> Result<Product, EditError> {
        match &self.role {
            Role::Release(product) => Ok(product.clone()),
            _ => Err(EditError::WrongRole { role: self.role.clone(), what: "releases" }),
        }
    }

    fn require_role(&self, right: bool, what: &'static str) -> Result<(), EditError> {
        if right { Ok(()) } else { Err(EditError::WrongRole { role: self.role.clone(), what }) }
    }

    fn not_there(&self, what: String) -> EditError {
        EditError::NotThere { role: self.role.clone(), what }
    }

    fn put_target(&mut self, path: String, target: Value) {
        if let Some(Value::Object(targets)) = self.signed.get_mut("targets") {
            targets.insert(path, target);
        }
    }

    fn remove_target(&mut self, path: &str) -> Result<(), EditError> {
        let targets = self.signed.get_mut("targets").and_then(Value::as_object_mut);
        match targets.and_then(|targets| targets.remove(path)) {
            Some(_) => Ok(()),
            None => Err(self.not_there(path.to_owned())),
        }
    }
}

/// Which keys of an authority still have to sign a file, and how many of them are needed. For a new
/// root, asked once with the old root's keys and once with its own.
///
/// # Errors
/// If the file can't be read.
pub fn missing_signatures(
    bytes: &[u8],
    role: &Role,
    authority: &Authority,
) -> Result<(u64, Vec<KeyId>), TrustError> {
    let signed = verify::signers(bytes, role, authority)?;
    let missing = authority.threshold.saturating_sub(signed.len() as u64);
    Ok((missing, authority.keys.keys().filter(|id| !signed.contains(id)).copied().collect()))
}

fn target_of(bytes: &[u8], custom: Option<Value>) -> Value {
    let mut target = json!({
        "length": bytes.len(),
        "hashes": { "sha256": Digest::of(bytes).to_string() },
    });
    if let (Some(custom), Value::Object(members)) = (custom, &mut target) {
        members.insert("custom".into(), custom);
    }
    target
}
