//! Targets: the files that a role signs, and the roles that it delegates to.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha512};

use super::{Authority, Bins, Content, Header, Object, limits, root::read_keys};
use crate::{
    names::Digest,
    trust::{
        error::TrustError,
        key::{KeyId, PublicKey},
        role::{self, MAX_NAME, Paths, Role},
    },
};

/// Hashes of a file. At least one is of a kind that we compute; of those, all must fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashes {
    sha256: Option<Digest>,
    sha512: Option<[u8; 64]>,
}

impl Hashes {
    /// The hashes that we sign.
    pub fn of(bytes: &[u8]) -> Hashes {
        Hashes { sha256: Some(Digest::of(bytes)), sha512: None }
    }

    /// Reads `hashes` of an object. A value that is short, padded or upper-case is refused rather than
    /// skipped: else it would mean "no check".
    pub(super) fn read(object: Object<'_>) -> Result<Hashes, TrustError> {
        let listed = object.object("hashes")?;
        let mut hashes = Hashes { sha256: None, sha512: None };
        for name in listed.members().keys() {
            let text = listed.text(name)?;
            match name.as_str() {
                "sha256" => hashes.sha256 = Some(Digest::parse(text).map_err(|e| listed.flaw(e))?),
                "sha512" => {
                    let bytes = lower_hex(text).and_then(|bytes| bytes.try_into().ok());
                    let flaw = || listed.flaw("`sha512` is not 128 lower-case hex digits");
                    hashes.sha512 = Some(bytes.ok_or_else(flaw)?);
                }
                _ => {}
            }
        }
        if hashes.sha256.is_none() && hashes.sha512.is_none() {
            return Err(listed.flaw("holds neither `sha256` nor `sha512`"));
        }
        Ok(hashes)
    }

    /// As they are written.
    pub(crate) fn to_value(&self) -> Value {
        let mut members = Map::new();
        if let Some(digest) = self.sha256 {
            members.insert("sha256".into(), digest.to_string().into());
        }
        if let Some(digest) = self.sha512 {
            members.insert("sha512".into(), hex(&digest).into());
        }
        Value::Object(members)
    }

    /// One of the listed hashes, as its hex digits.
    pub fn first_hex(&self) -> String {
        match (self.sha256, self.sha512) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(digest)) => hex(&digest),
            (None, None) => String::new(),
        }
    }

    /// The SHA-256, where listed.
    pub fn sha256(&self) -> Option<Digest> {
        self.sha256
    }

    /// Whether these bytes have every listed hash.
    pub fn fit(&self, bytes: &[u8]) -> bool {
        self.sha256.is_none_or(|digest| digest == Digest::of(bytes))
            && self.sha512.is_none_or(|digest| digest[..] == Sha512::digest(bytes)[..])
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes from lower-case hex digits; `None` for anything else.
pub(crate) fn lower_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect()
}

/// What a role signs about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetFile {
    /// Bytes.
    pub length: u64,
    /// Of the plain bytes.
    pub hashes: Hashes,
    /// What else the role says of it; null where it says nothing.
    pub custom: Value,
}

impl TargetFile {
    fn read(object: Object<'_>) -> Result<TargetFile, TrustError> {
        Ok(TargetFile {
            length: object.count("length")?,
            hashes: Hashes::read(object)?,
            custom: object.optional("custom").cloned().unwrap_or(Value::Null),
        })
    }

    /// The SHA-256. Targets of Refit's own roles always have one; a file of another role without it is
    /// none of ours.
    pub fn digest(&self) -> Option<Digest> {
        self.hashes.sha256()
    }

    /// Whether these are the signed bytes.
    pub fn fits(&self, bytes: &[u8]) -> bool {
        self.length == bytes.len() as u64 && self.hashes.fit(bytes)
    }

    /// Whether both sign the same bytes.
    pub fn same_bytes(&self, other: &TargetFile) -> bool {
        self.length == other.length && self.hashes == other.hashes
    }
}

/// One delegation: a role, its keys, and the paths that it may sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegation {
    /// Never a top-level role.
    pub role: Role,
    /// Who may sign for it.
    pub authority: Authority,
    /// Whether a search for a covered path ends here.
    pub terminating: bool,
    /// What it covers.
    pub paths: Paths,
}

impl Delegation {
    fn read(
        value: &Value,
        owner: &Role,
        keys: &BTreeMap<KeyId, PublicKey>,
    ) -> Result<Delegation, TrustError> {
        let object = Object::of(value, owner, "a delegation")?;
        let role = Role::named(object.text("name")?).map_err(|e| object.flaw(e))?;
        if role.is_top_level() {
            return Err(object.flaw(format_args!("delegates to the top-level role {role}")));
        }
        let words = |name| {
            let words = object.words(name, "paths of one delegation", limits::DELEGATIONS)?;
            if words.iter().any(|word| word.len() > MAX_NAME) {
                return Err(
                    object.flaw(format_args!("`{name}` holds a path over {MAX_NAME} bytes"))
                );
            }
            Ok(words.into_iter().map(str::to_owned).collect())
        };
        let paths = match (object.optional("paths"), object.optional("path_hash_prefixes")) {
            (Some(_), None) => Paths::Patterns(words("paths")?),
            (None, Some(_)) => Paths::HashPrefixes(words("path_hash_prefixes")?),
            (Some(_), Some(_)) | (None, None) => {
                return Err(object.flaw("needs one of `paths` and `path_hash_prefixes`"));
            }
        };
        Ok(Delegation {
            role,
            authority: Authority::read(object, keys)?,
            terminating: object.truth("terminating")?,
            paths,
        })
    }
}

/// The content of targets metadata, top-level or delegated.
#[derive(Debug, Clone)]
pub struct Targets {
    header: Header,
    /// By path.
    pub targets: BTreeMap<String, TargetFile>,
    /// In order of precedence. Empty where there are `bins`.
    pub delegations: Vec<Delegation>,
    /// Delegation by the hash of the path, in place of the list.
    pub bins: Option<Bins>,
}

impl Targets {
    /// The delegation to a role by its name. A bin has none.
    pub fn delegation(&self, role: &Role) -> Option<&Delegation> {
        self.delegations.iter().find(|delegation| delegation.role == *role)
    }

    /// Who may sign for a role that these targets delegate to, by name or as a bin.
    pub fn authority(&self, role: &Role) -> Option<&Authority> {
        let bins = self.bins.as_ref().filter(|bins| bins.hold(role));
        self.delegation(role).map(|it| &it.authority).or(bins.map(|bins| &bins.authority))
    }
}

impl Content for Targets {
    const TYPE: &'static str = "targets";

    fn read(members: &Map<String, Value>, role: &Role, header: Header) -> Result<Self, TrustError> {
        let object = Object::over(members, role, "`signed`");
        let (delegations, bins) = read_delegations(object)?;
        Ok(Targets { header, targets: read_targets(object)?, delegations, bins })
    }

    fn header(&self) -> &Header {
        &self.header
    }
}

fn read_targets(object: Object<'_>) -> Result<BTreeMap<String, TargetFile>, TrustError> {
    let listed = object.object("targets")?;
    let role = object.role();
    if let Role::Release(_) = role {
        listed.at_most(listed.members().len(), "releases", limits::RELEASES)?;
    }
    let pattern = role.pattern();
    let mut targets = BTreeMap::new();
    for (path, value) in listed.members() {
        if path.is_empty() || path.len() > MAX_NAME {
            return Err(listed.flaw("holds a path that is empty or too long"));
        }
        let file = TargetFile::read(Object::of(value, role, path)?)?;
        if let Some(pattern) = &pattern {
            if !role::is_safe_path(path) || !role::matches(pattern, path) {
                return Err(listed.flaw(format_args!("{path:?} is not one of {pattern:?}")));
            }
            if file.digest().is_none() {
                return Err(listed.flaw(format_args!("{path:?} has no `sha256`")));
            }
        }
        targets.insert(path.clone(), file);
    }
    Ok(targets)
}

fn read_delegations(object: Object<'_>) -> Result<(Vec<Delegation>, Option<Bins>), TrustError> {
    if object.optional("delegations").is_none() {
        return Ok((Vec::new(), None));
    }
    let delegations = object.object("delegations")?;
    let keys = read_keys(delegations)?;
    match (delegations.optional("roles"), delegations.optional("succinct_roles")) {
        (Some(_), None) => Ok((read_roles(delegations, &keys)?, None)),
        (None, Some(_)) => Ok((Vec::new(), Some(Bins::read(delegations, &keys)?))),
        (Some(_), Some(_)) | (None, None) => {
            Err(delegations.flaw("needs one of `roles` and `succinct_roles`"))
        }
    }
}

fn read_roles(
    delegations: Object<'_>,
    keys: &BTreeMap<KeyId, PublicKey>,
) -> Result<Vec<Delegation>, TrustError> {
    let listed = delegations.array("roles")?;
    delegations.at_most(listed.len(), "delegations", limits::DELEGATIONS)?;
    let mut names = BTreeSet::new();
    let mut roles = Vec::with_capacity(listed.len());
    for value in listed {
        let delegation = Delegation::read(value, delegations.role(), keys)?;
        if !names.insert(delegation.role.clone()) {
            return Err(delegations.flaw(format_args!("{} stands there twice", delegation.role)));
        }
        roles.push(delegation);
    }
    Ok(roles)
}
