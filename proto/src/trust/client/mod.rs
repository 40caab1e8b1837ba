//! A refresh: the client workflow of TUF 1.0.34 section 5, step by step, without IO. It says what to
//! fetch, takes the bytes, and hands out what to persist at once after each accepted file. Where files
//! are fetched and kept, and what they permit, is for others.
//!
//! A step that fails leaves everything before it persisted and nothing of itself, so that the next
//! refresh can succeed.

mod search;

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

pub use self::search::Found;
use super::{
    error::TrustError,
    metadata::{Content, Pin, Root, Snapshot, TimestampFile, limits},
    role::Role,
    set::{
        Stored, TrustedSet, pinned_length, targets_pin, verify_snapshot, verify_targets,
        verify_timestamp,
    },
    verify::{Trusted, verify_root},
};

/// A file to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Whose file.
    pub role: Role,
    /// Which version; `None` for the newest.
    pub version: Option<u64>,
    /// Stop reading after this many bytes.
    pub max_length: u64,
    /// What is pinned, for whoever has a cache by digest. It is checked here in any case.
    pub pin: Option<Pin>,
}

/// What a refresh waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Fetch this, then call [`Refresh::supply`] or [`Refresh::absent`].
    Fetch(Request),
    /// Nothing; [`Refresh::into_set`] gives the result.
    Done,
}

/// A change to what is stored. Made durable before the next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Replace the role's file by these bytes.
    Put {
        /// Whose file.
        role: Role,
        /// Its version.
        version: u64,
        /// As received.
        bytes: Vec<u8>,
    },
    /// Remove the role's file, if there is one.
    Delete {
        /// Whose file.
        role: Role,
    },
}

impl Write {
    /// Applies the change to files in memory.
    pub fn apply(self, stored: &mut Stored) {
        match self {
            Write::Put { role, bytes, .. } => stored.insert(role, bytes),
            Write::Delete { role } => stored.remove(&role),
        };
    }

    fn of<T: Content>(file: &Trusted<T>) -> Write {
        let (role, bytes) = (file.role().clone(), file.bytes().to_vec());
        Write::Put { role, version: file.version(), bytes }
    }
}

/// A refresh under way.
#[derive(Debug)]
pub struct Refresh {
    // Fixed once: every expiry is measured by it.
    now: Timestamp,
    /// For how long a snapshot or timestamp that comes in may be signed.
    longest: Option<SignedDuration>,
    stored: Stored,
    root: Trusted<Root>,
    rotations: usize,
    wanted: VecDeque<Role>,
    state: State,
    /// The delegator and role of the request that is out.
    asked: Option<(Role, Role)>,
}

/// How far it has come. Each state holds what has been accepted on the way.
#[derive(Debug)]
enum State {
    Root,
    Timestamp,
    Snapshot { timestamp: Trusted<TimestampFile> },
    Targets { timestamp: Trusted<TimestampFile>, snapshot: Trusted<Snapshot> },
    Delegated { set: Box<TrustedSet> },
}

impl Refresh {
    /// Begins with the stored files, of which root must be there. `wanted` are the delegated roles to
    /// bring along; one that is not published yet is passed over.
    ///
    /// # Errors
    /// If there is no trusted root. Its expiry does not matter: the way out of it is a newer one.
    pub fn start(stored: Stored, wanted: &[Role], now: Timestamp) -> Result<Refresh, TrustError> {
        let missing = TrustError::Missing { role: Role::Root };
        let root = verify_root(stored.get(&Role::Root).ok_or(missing)?, None)?;
        let wanted = wanted.iter().cloned().collect();
        let state = State::Root;
        let (longest, rotations, asked) = (None, 0, None);
        Ok(Refresh { now, longest, stored, root, rotations, wanted, state, asked })
    }

    /// Takes no snapshot or timestamp that is signed for longer than this: what must not come from a
    /// server or a mirror, though a bundle may carry it.
    #[must_use]
    pub fn at_most(self, longest: SignedDuration) -> Refresh {
        Refresh { longest: Some(longest), ..self }
    }

    /// What it waits for now. Asked again, it answers the same.
    ///
    /// # Errors
    /// What stands in the way of going on.
    #[expect(
        clippy::should_implement_trait,
        reason = "it fails, and repeats itself until answered"
    )]
    pub fn next(&mut self) -> Result<Next, TrustError> {
        loop {
            let request = match &self.state {
                State::Root if self.rotations >= limits::ROTATIONS => {
                    self.end_roots()?;
                    continue;
                }
                State::Root => Request {
                    role: Role::Root,
                    version: Some(self.root.version() + 1),
                    max_length: limits::ROOT,
                    pin: None,
                },
                State::Timestamp => Request {
                    role: Role::Timestamp,
                    version: None,
                    max_length: limits::TIMESTAMP,
                    pin: None,
                },
                State::Snapshot { timestamp } => {
                    let pin = &timestamp.snapshot;
                    if let Some(held) = self.held_snapshot(pin) {
                        self.reuse_snapshot(held)?;
                        continue;
                    }
                    self.pinned(&Role::Snapshot, pin)
                }
                State::Targets { snapshot, .. } => {
                    if let Some(bytes) = self.stored.get(&Role::Targets)
                        && let Ok(held) = verify_targets(&self.root, snapshot, bytes)
                        && held.fresh(self.now).is_ok()
                    {
                        self.enter_delegated(held);
                        continue;
                    }
                    self.pinned(&Role::Targets, targets_pin(snapshot)?)
                }
                State::Delegated { .. } => match self.next_wanted() {
                    Some(request) => return Ok(Next::Fetch(request)),
                    None => return Ok(Next::Done),
                },
            };
            self.asked = Some((Role::Root, request.role.clone()));
            return Ok(Next::Fetch(request));
        }
    }

    /// Takes the bytes of the requested file; says what to persist before going on.
    ///
    /// A delegated role's file that can't be trusted stops neither the refresh nor other roles: it is
    /// left out of the set, which says why.
    ///
    /// # Errors
    /// Why the file is refused. The refresh then stands where it stood.
    pub fn supply(&mut self, bytes: &[u8]) -> Result<Vec<Write>, TrustError> {
        let (delegator, role) = self.asked.clone().ok_or(TrustError::Unasked)?;
        let writes = match &self.state {
            State::Root => self.take_root(bytes)?,
            State::Timestamp => self.take_timestamp(bytes)?,
            State::Snapshot { .. } => self.take_snapshot(bytes)?,
            State::Targets { .. } => self.take_targets(bytes)?,
            State::Delegated { .. } => self.take_delegated(&delegator, &role, bytes),
        };
        self.asked = None;
        for write in &writes {
            write.clone().apply(&mut self.stored);
        }
        Ok(writes)
    }

    /// There is no such file. Any other trouble (no connection, a server's error) is not this: then the
    /// refresh is given up.
    ///
    /// # Errors
    /// If the file has to be there.
    pub fn absent(&mut self) -> Result<(), TrustError> {
        let (delegator, role) = self.asked.clone().ok_or(TrustError::Unasked)?;
        let missing = TrustError::Missing { role: role.clone() };
        match &mut self.state {
            // The one file that may be missing: there is no newer root.
            State::Root => self.end_roots()?,
            State::Timestamp | State::Snapshot { .. } | State::Targets { .. } => {
                return Err(missing);
            }
            State::Delegated { set } => set.refuse(&delegator, &role, missing),
        }
        self.asked = None;
        Ok(())
    }

    /// Whether files are asked for by version and digest, as the newest trusted root says.
    pub fn consistent_snapshot(&self) -> bool {
        self.root.consistent_snapshot
    }

    /// The set, once [`Refresh::next`] has said that it is done.
    ///
    /// # Errors
    /// If it is not done.
    pub fn into_set(mut self) -> Result<TrustedSet, TrustError> {
        match self.next()? {
            Next::Done => {}
            Next::Fetch(_) => return Err(TrustError::Unfinished),
        }
        match self.state {
            State::Delegated { set } => Ok(*set),
            State::Root | State::Timestamp | State::Snapshot { .. } | State::Targets { .. } => {
                Err(TrustError::Unfinished)
            }
        }
    }

    /// 5.3.4 to 5.3.9, and 5.3.11 in the same write: were the old timestamp and snapshot deleted later,
    /// a crash in between would leave them, and nobody would know that their keys had changed. A file
    /// that the new keys don't cover stays for whoever looks for the cause; nothing reads it, since every
    /// use verifies it again, and should a later root cover it again, that is a change of keys too.
    fn take_root(&mut self, bytes: &[u8]) -> Result<Vec<Write>, TrustError> {
        let next = verify_root(bytes, Some(&self.root))?;
        let mut writes = vec![Write::of(&next)];
        let rotated = !next.timestamp().same_as(self.root.timestamp())
            || !next.snapshot().same_as(self.root.snapshot());
        self.root = next;
        if rotated {
            let still_trusted = [Role::Timestamp, Role::Snapshot].into_iter().filter(|role| {
                self.stored.get(role).is_some_and(|bytes| self.trusts_of_itself(role, bytes))
            });
            writes.extend(still_trusted.map(|role| Write::Delete { role }));
        }
        self.rotations += 1;
        Ok(writes)
    }

    /// Whether the newest root's keys signed these bytes.
    fn trusts_of_itself(&self, role: &Role, bytes: &[u8]) -> bool {
        match role {
            Role::Timestamp => verify_timestamp(&self.root, bytes).is_ok(),
            Role::Snapshot => verify_snapshot(&self.root, bytes, None).is_ok(),
            Role::Root
            | Role::Targets
            | Role::Policy
            | Role::Release(_)
            | Role::Ring(..)
            | Role::Other(_) => false,
        }
    }

    /// 5.3.10: only the last root must not have expired.
    fn end_roots(&mut self) -> Result<(), TrustError> {
        self.root.fresh(self.now)?;
        self.state = State::Timestamp;
        Ok(())
    }

    /// 5.4.2 to 5.4.5. The stored timestamp is a floor also after it has expired.
    fn take_timestamp(&mut self, bytes: &[u8]) -> Result<Vec<Write>, TrustError> {
        let new = verify_timestamp(&self.root, bytes)?;
        self.not_long_lived(&new)?;
        let held = self.stored.get(&Role::Timestamp);
        let held = held.and_then(|bytes| verify_timestamp(&self.root, bytes).ok());
        if let Some(held) = held {
            refuse_older(&Role::Timestamp, held.version(), new.version())?;
            if new.version() == held.version() {
                // Nothing new: the one that is stored stays.
                held.fresh(self.now)?;
                self.state = State::Snapshot { timestamp: held };
                return Ok(Vec::new());
            }
            refuse_older(&Role::Snapshot, held.snapshot.version, new.snapshot.version)?;
        }
        new.fresh(self.now)?;
        let writes = vec![Write::of(&new)];
        self.state = State::Snapshot { timestamp: new };
        Ok(writes)
    }

    /// Its life is counted from its signing (a version is the seconds since 1970) or from now, whichever
    /// is later: a host whose clock is behind must not refuse everything.
    fn not_long_lived<T: Content>(&self, file: &Trusted<T>) -> Result<(), TrustError> {
        let signed = i64::try_from(file.version()).ok();
        let signed = signed.and_then(|seconds| Timestamp::from_second(seconds).ok());
        let from = signed.unwrap_or(self.now).max(self.now);
        let lives = file.expires().duration_since(from);
        if self.longest.is_some_and(|longest| lives > longest) {
            let (role, expires) = (file.role().clone(), file.expires());
            return Err(TrustError::LongLived { role, expires });
        }
        Ok(())
    }

    /// 5.5.2 to 5.5.7.
    fn take_snapshot(&mut self, bytes: &[u8]) -> Result<Vec<Write>, TrustError> {
        let State::Snapshot { timestamp } = &self.state else { return Err(TrustError::Unasked) };
        let new = verify_snapshot(&self.root, bytes, Some(&timestamp.snapshot))?;
        self.not_long_lived(&new)?;
        self.refuse_lower_versions(&new)?;
        new.fresh(self.now)?;
        let writes = vec![Write::of(&new)];
        self.reuse_snapshot(new)?;
        Ok(writes)
    }

    /// The stored snapshot, if it is the one that is pinned now.
    fn held_snapshot(&self, pin: &Pin) -> Option<Trusted<Snapshot>> {
        let bytes = self.stored.get(&Role::Snapshot)?;
        let held = verify_snapshot(&self.root, bytes, Some(pin)).ok()?;
        held.fresh(self.now).is_ok().then_some(held)
    }

    fn reuse_snapshot(&mut self, snapshot: Trusted<Snapshot>) -> Result<(), TrustError> {
        let State::Snapshot { timestamp } = std::mem::replace(&mut self.state, State::Timestamp)
        else {
            return Err(TrustError::Unasked);
        };
        self.state = State::Targets { timestamp, snapshot };
        Ok(())
    }

    /// 5.5.5. The stored snapshot is a floor also when nothing pins it any more, or it has expired.
    fn refuse_lower_versions(&self, new: &Snapshot) -> Result<(), TrustError> {
        let Some(bytes) = self.stored.get(&Role::Snapshot) else { return Ok(()) };
        let Ok(held) = verify_snapshot(&self.root, bytes, None) else { return Ok(()) };
        for (role, pin) in &held.files {
            let unlisted = || TrustError::Unlisted { role: role.clone(), held: pin.version };
            let offered = new.files.get(role).ok_or_else(unlisted)?.version;
            refuse_older(role, pin.version, offered)?;
        }
        Ok(())
    }

    /// 5.6.2 to 5.6.6.
    fn take_targets(&mut self, bytes: &[u8]) -> Result<Vec<Write>, TrustError> {
        let State::Targets { snapshot, .. } = &self.state else { return Err(TrustError::Unasked) };
        let new = verify_targets(&self.root, snapshot, bytes)?;
        new.fresh(self.now)?;
        let writes = vec![Write::of(&new)];
        self.enter_delegated(new);
        Ok(writes)
    }

    fn enter_delegated(&mut self, targets: Trusted<super::Targets>) {
        match std::mem::replace(&mut self.state, State::Timestamp) {
            State::Targets { timestamp, snapshot } => {
                let set = TrustedSet::new(self.root.clone(), timestamp, snapshot, targets);
                self.state = State::Delegated { set: Box::new(set) };
            }
            other => self.state = other,
        }
    }

    fn take_delegated(&mut self, delegator: &Role, role: &Role, bytes: &[u8]) -> Vec<Write> {
        let State::Delegated { set } = &mut self.state else { return Vec::new() };
        let taken = set.verify_delegated(delegator, role, bytes).and_then(|file| {
            file.fresh(self.now)?;
            let write = Write::of(&file);
            set.admit(delegator, file)?;
            Ok(write)
        });
        match taken {
            Ok(write) => vec![write],
            Err(error) => {
                set.refuse(delegator, role, error);
                Vec::new()
            }
        }
    }

    /// The request for the next wanted role that the stored files don't answer.
    fn next_wanted(&mut self) -> Option<Request> {
        while let Some(role) = self.wanted.front().cloned() {
            match self.obtain(&Role::Targets, &role) {
                search::Obtained::Fetch(request) => return Some(request),
                search::Obtained::Held | search::Obtained::Unlisted | search::Obtained::Refused => {
                    self.wanted.pop_front();
                }
            }
        }
        None
    }

    fn pinned(&self, role: &Role, pin: &Pin) -> Request {
        Request {
            role: role.clone(),
            version: self.root.consistent_snapshot.then_some(pin.version),
            max_length: pinned_length(role, pin),
            pin: Some(pin.clone()),
        }
    }
}

fn refuse_older(role: &Role, held: u64, offered: u64) -> Result<(), TrustError> {
    if offered < held {
        return Err(TrustError::Rollback { role: role.clone(), held, offered });
    }
    Ok(())
}
