//! The one way from bytes to trusted content: size, pin, parse, canonical form, threshold, and only then
//! the meaning, from the very value that was verified. Expiry needs a clock's word and is asked of the
//! result; what is fetched, kept or replaced is `client`'s to decide.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
};

use jiff::Timestamp;
use serde_json::Value;

use super::{
    error::TrustError,
    key::KeyId,
    metadata::{self, Authority, Content, Object, Pin, Root, limits},
    role::Role,
};
use crate::canonical;

/// Content that the right keys signed, with the bytes as received. Only this module makes one.
#[derive(Debug, Clone)]
pub struct Trusted<T> {
    role: Role,
    content: T,
    signed: Value,
    signers: BTreeSet<KeyId>,
    bytes: Vec<u8>,
}

impl<T> Trusted<T> {
    /// The file as received: what is stored and handed on.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The verified value itself, with the members that we don't know.
    pub fn signed(&self) -> &Value {
        &self.signed
    }

    /// Whose file it is.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// The trusted keys that signed it, all of them, each once.
    pub fn signers(&self) -> &BTreeSet<KeyId> {
        &self.signers
    }
}

impl<T: Content> Trusted<T> {
    /// Refuses what has expired.
    ///
    /// # Errors
    /// [`TrustError::Expired`].
    pub fn fresh(&self, now: Timestamp) -> Result<(), TrustError> {
        if self.content.expires() <= now {
            let (role, expired) = (self.role.clone(), self.content.expires());
            return Err(TrustError::Expired { role, expired, now });
        }
        Ok(())
    }
}

impl<T> Deref for Trusted<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.content
    }
}

/// What a file has to be.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// Whose file.
    pub role: &'a Role,
    /// Who may sign it.
    pub authority: &'a Authority,
    /// What is pinned, and by whom.
    pub pin: Option<(&'a Pin, &'a Role)>,
}

/// Verifies a file of any role but root.
///
/// # Errors
/// The first thing that is not as expected.
pub fn verify<T: Content>(bytes: &[u8], expected: Expected<'_>) -> Result<Trusted<T>, TrustError> {
    let opened = Opened::open(bytes, expected.role, expected.pin)?;
    let signers = opened.require(expected.authority)?;
    let trusted: Trusted<T> = opened.into_trusted(signers)?;
    if let Some((pin, _)) = expected.pin
        && trusted.version() != pin.version
    {
        let (role, wanted, found) = (expected.role.clone(), pin.version, trusted.version());
        return Err(TrustError::WrongVersion { role, wanted, found });
    }
    Ok(trusted)
}

/// Verifies a root: signed by its own threshold and, if there is one before it, by that one's, of which
/// it must be the next version.
///
/// Without one before it, whoever calls must know these bytes from elsewhere: a host by the hash in its
/// token, or its own store.
///
/// # Errors
/// The first thing that is not as expected.
pub fn verify_root(bytes: &[u8], before: Option<&Root>) -> Result<Trusted<Root>, TrustError> {
    let opened = Opened::open(bytes, &Role::Root, None)?;
    if let Some(before) = before {
        opened.require(before.root())?;
    }
    // A root names its own keys, so it has to be read before its own threshold can be counted.
    let own: Root = metadata::read(&opened.signed, &Role::Root)?;
    let signers = opened.require(own.root())?;
    if let Some(before) = before
        && own.version() != before.version() + 1
    {
        let (role, wanted, found) = (Role::Root, before.version() + 1, own.version());
        return Err(TrustError::WrongVersion { role, wanted, found });
    }
    opened.into_trusted(signers)
}

/// How many and which keys of an authority signed a file, whether or not they suffice: for tools that
/// collect signatures.
///
/// # Errors
/// If the file is no signed file.
pub fn signers(
    bytes: &[u8],
    role: &Role,
    authority: &Authority,
) -> Result<BTreeSet<KeyId>, TrustError> {
    Ok(Opened::open(bytes, role, None)?.count(authority))
}

/// A parsed file, of which nothing is trusted yet.
pub(super) struct Opened<'a> {
    role: &'a Role,
    bytes: &'a [u8],
    signed: Value,
    canonical: Vec<u8>,
    signatures: BTreeMap<String, Vec<u8>>,
}

impl<'a> Opened<'a> {
    pub(super) fn open(
        bytes: &'a [u8],
        role: &'a Role,
        pin: Option<(&Pin, &Role)>,
    ) -> Result<Self, TrustError> {
        let pinned = pin.and_then(|(pin, _)| pin.length);
        let limit =
            pinned.map_or(limits::max_length(role), |length| length.min(limits::max_length(role)));
        if bytes.len() as u64 > limit {
            return Err(TrustError::TooLong { role: role.clone(), limit });
        }
        if let Some((pin, by)) = pin
            && !pin.fits(bytes)
        {
            return Err(TrustError::NotPinned { role: role.clone(), by: by.clone() });
        }
        let value = canonical::parse(bytes)
            .map_err(|cause| TrustError::NotJson { role: role.clone(), cause })?;
        let object = Object::of(&value, role, "the file")?;
        let signatures = read_signatures(object)?;
        let signed = object.value("signed")?;
        Ok(Opened {
            role,
            bytes,
            canonical: canonical::to_canonical(signed),
            signed: signed.clone(),
            signatures,
        })
    }

    pub(super) fn canonical(&self) -> &[u8] {
        &self.canonical
    }

    pub(super) fn signed(&self) -> &Value {
        &self.signed
    }

    pub(super) fn signatures(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.signatures
    }

    /// Refuses a file that too few keys of the authority signed.
    fn require(&self, authority: &Authority) -> Result<BTreeSet<KeyId>, TrustError> {
        let signers = self.count(authority);
        if (signers.len() as u64) < authority.threshold {
            let (valid, threshold) = (signers.len(), authority.threshold);
            return Err(TrustError::Unsigned { role: self.role.clone(), valid, threshold });
        }
        Ok(signers)
    }

    /// The keys of the authority that signed, each once, whatever ids it stands under.
    pub(super) fn count(&self, authority: &Authority) -> BTreeSet<KeyId> {
        let mut counted = BTreeSet::new();
        let mut signers = BTreeSet::new();
        for (id, key) in &authority.keys {
            let Some(signature) = self.signatures.get(&id.to_string()) else { continue };
            if let Some(material) = key.material()
                && key.verify(&self.canonical, signature)
                && counted.insert(material)
            {
                signers.insert(*id);
            }
        }
        signers
    }

    fn into_trusted<T: Content>(self, signers: BTreeSet<KeyId>) -> Result<Trusted<T>, TrustError> {
        let content = metadata::read(&self.signed, self.role)?;
        let (role, bytes) = (self.role.clone(), self.bytes.to_vec());
        Ok(Trusted { role, content, signed: self.signed, signers, bytes })
    }
}

/// Reads `signatures`: counted before any work, each key id once. A signature that is no hex is kept as
/// an empty one, which verifies under no key.
fn read_signatures(file: Object<'_>) -> Result<BTreeMap<String, Vec<u8>>, TrustError> {
    let listed = file.array("signatures")?;
    file.at_most(listed.len(), "signatures", limits::SIGNATURES)?;
    let mut signatures = BTreeMap::new();
    for value in listed {
        let object = Object::of(value, file.role(), "a signature")?;
        let id = object.text("keyid")?;
        let signature = metadata::lower_hex(object.text("sig")?).unwrap_or_default();
        if signatures.insert(id.to_owned(), signature).is_some() {
            return Err(file.flaw("a key id stands twice in `signatures`"));
        }
    }
    Ok(signatures)
}
