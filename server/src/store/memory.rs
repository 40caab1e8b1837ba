//! The store in memory: the plain meaning of [`Store`], which the others are tested against. It is
//! written on its own, over maps, and shares nothing with them but the types.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Included, Unbounded},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use refit_proto::{
    names::{HostId, HostName, Product, RingName},
    trust::Role,
};
use tokio::sync::watch;

use super::{
    Cells, Change, Changes, Commit, CommitError, Committed, Doc, DocKey, DocKind, Epoch, HostQuery,
    HostRow, Invalid, Key, Listed, Note, Rev, RingCursor, SignedFile, Store, StoreFault,
    commit::check_size,
};
use crate::{
    audit::{AuditHead, AuditLine},
    fleet::{Host, HostState, Placement, Record as _, Rollout, RolloutId, Tally, TallyKey},
};

/// A store in memory. It forgets everything with its process.
pub struct MemStore {
    held: Mutex<Held>,
    wake: watch::Sender<u64>,
}

#[derive(Default)]
struct Held {
    hosts: BTreeMap<HostId, Rev<Host>>,
    /// By host, then product.
    placements: BTreeMap<(HostId, Product), Rev<Placement>>,
    docs: BTreeMap<DocKey, Rev<Doc>>,
    files: BTreeMap<Role, BTreeMap<u64, Vec<u8>>>,
    tally: BTreeMap<TallyKey, i64>,
    notes: BTreeMap<u64, Note>,
    /// Revision of the newest note, kept or forgotten.
    newest_note: u64,
    forgotten: u64,
    audit: Vec<AuditLine>,
    leases: BTreeMap<String, (String, Epoch, Timestamp)>,
}

impl Default for MemStore {
    fn default() -> Self {
        MemStore::new()
    }
}

impl MemStore {
    /// An empty store.
    pub fn new() -> MemStore {
        MemStore { held: Mutex::default(), wake: watch::Sender::new(0) }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Only `commit` and `lease` write, and they check everything first.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn audit_head(&self) -> AuditHead {
        self.audit.last().map_or_else(AuditHead::default, AuditLine::head)
    }

    fn placements_of(&self, host: &HostId) -> Vec<Rev<Placement>> {
        let of_host = |((id, _), _): &(&(HostId, Product), &Rev<Placement>)| id == host;
        self.placements.iter().filter(of_host).map(|(_, placement)| placement.clone()).collect()
    }

    fn named(&self, name: &HostName) -> Option<&Rev<Host>> {
        self.hosts
            .values()
            .find(|host| host.value.name == *name && host.value.state != HostState::Retired)
    }

    fn conflicts(&self, commit: &Commit) -> BTreeSet<Key> {
        let mut found = BTreeSet::new();
        let mut meet = |key: Key, held: u64, expected: u64| {
            if held != expected {
                found.insert(key);
            }
        };
        if let Some(lock) = &commit.lock {
            let key = DocKey::Rollout(lock.rollout.clone());
            let held = self.docs.get(&key).map_or(0, |held| held.rev);
            meet(Key::Doc(key), held, lock.rev);
        }
        for (expected, host) in &commit.hosts {
            let held = self.hosts.get(&host.id).map_or(0, |held| held.rev);
            meet(Key::Host(host.id.clone()), held, *expected);
        }
        for (expected, placement) in &commit.placements {
            let at = (placement.host_id.clone(), placement.product.clone());
            let held = self.placements.get(&at).map_or(0, |held| held.rev);
            meet(Key::of(placement), held, *expected);
        }
        for (expected, doc) in &commit.docs {
            let held = self.docs.get(&doc.key()).map_or(0, |held| held.rev);
            meet(Key::Doc(doc.key()), held, *expected);
        }
        for file in &commit.files {
            let versions = self.files.get(&file.role).and_then(BTreeMap::last_key_value);
            meet(
                Key::File(file.role.clone()),
                versions.map_or(0, |(held, _)| *held),
                file.replaces,
            );
        }
        found.extend(self.doubled_names(commit));
        if crate::audit::verify(self.audit_head(), &commit.audit).is_err() {
            found.insert(Key::Audit);
        }
        found
    }

    /// Names that more than one host that is not retired would have after this commit.
    fn doubled_names(&self, commit: &Commit) -> Vec<Key> {
        let mut after: BTreeMap<&HostId, &Host> =
            self.hosts.iter().map(|(id, host)| (id, &host.value)).collect();
        after.extend(commit.hosts.iter().map(|(_, host)| (&host.id, host)));
        let mut names = BTreeMap::<&HostName, usize>::new();
        for host in after.values().filter(|host| host.state != HostState::Retired) {
            *names.entry(&host.name).or_default() += 1;
        }
        let doubled = names.into_iter().filter(|(_, hosts)| *hosts > 1);
        doubled.map(|(name, _)| Key::HostName(name.clone())).collect()
    }

    fn apply(&mut self, commit: Commit) {
        for (expected, host) in commit.hosts {
            self.hosts.insert(host.id.clone(), Rev { rev: expected + 1, value: host });
        }
        for (expected, placement) in commit.placements {
            let at = (placement.host_id.clone(), placement.product.clone());
            self.placements.insert(at, Rev { rev: expected + 1, value: placement });
        }
        for (expected, doc) in commit.docs {
            self.docs.insert(doc.key(), Rev { rev: expected + 1, value: doc });
        }
        for file in commit.files {
            self.files.entry(file.role).or_default().insert(file.version, file.bytes);
        }
        for (cell, delta) in commit.tally {
            let sum = self.tally.entry(cell).or_default();
            *sum = sum.wrapping_add(delta);
        }
        self.tally.retain(|_, sum| *sum != 0);
        for note in commit.notes {
            self.newest_note += 1;
            self.notes.insert(self.newest_note, note);
        }
        self.audit.extend(commit.audit);
    }
}

fn check_sizes(commit: &Commit) -> Result<(), Invalid> {
    for (_, host) in &commit.hosts {
        let key = || Key::Host(host.id.clone());
        let bytes = host.encode().map_err(|_| Invalid::Unwritable(key()))?;
        check_size(key, bytes.len())?;
    }
    for (_, placement) in &commit.placements {
        let key = || Key::of(placement);
        let bytes = placement.encode().map_err(|_| Invalid::Unwritable(key()))?;
        check_size(key, bytes.len())?;
    }
    for (_, doc) in &commit.docs {
        let key = || Key::Doc(doc.key());
        let bytes = doc.encode().map_err(|_| Invalid::Unwritable(key()))?;
        check_size(key, bytes.len())?;
    }
    Ok(())
}

impl Store for MemStore {
    fn host(&self, id: &HostId) -> Result<Option<Rev<Host>>, StoreFault> {
        Ok(self.held().hosts.get(id).cloned())
    }

    fn host_named(&self, name: &HostName) -> Result<Option<Rev<Host>>, StoreFault> {
        Ok(self.held().named(name).cloned())
    }

    fn find(
        &self,
        query: &HostQuery,
        after: Option<&HostId>,
        limit: usize,
    ) -> Result<Listed, StoreFault> {
        let held = self.held();
        let rows = held.hosts.iter().filter(|(id, _)| after.is_none_or(|after| *id > after));
        let mut rows: Vec<HostRow> = rows
            .map(|(id, host)| HostRow { host: host.clone(), placements: held.placements_of(id) })
            .filter(|row| {
                query.selects(&row.host.value, row.placements.iter().map(|placed| &placed.value))
            })
            .collect();
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| row.host.value.id.clone());
        Ok(Listed { rows, next })
    }

    fn placement(
        &self,
        product: &Product,
        host: &HostId,
    ) -> Result<Option<Rev<Placement>>, StoreFault> {
        Ok(self.held().placements.get(&(host.clone(), product.clone())).cloned())
    }

    fn placements(&self, host: &HostId) -> Result<Vec<Rev<Placement>>, StoreFault> {
        Ok(self.held().placements_of(host))
    }

    fn ring_after(
        &self,
        product: &Product,
        ring: Option<&RingName>,
        after: Option<&RingCursor>,
        limit: usize,
    ) -> Result<Vec<Rev<Placement>>, StoreFault> {
        let held = self.held();
        let mut found: Vec<_> = held
            .placements
            .values()
            .filter(|placed| placed.value.product == *product && placed.value.ring.as_ref() == ring)
            .filter(|placed| after.is_none_or(|after| RingCursor::of(&placed.value) > *after))
            .cloned()
            .collect();
        found.sort_by_key(|placed| RingCursor::of(&placed.value));
        found.truncate(limit);
        Ok(found)
    }

    fn in_flight(
        &self,
        rollout: &RolloutId,
        after: Option<&HostId>,
        limit: usize,
    ) -> Result<Vec<Rev<Placement>>, StoreFault> {
        let flies = |placed: &&Rev<Placement>| {
            placed.value.product == *rollout.product()
                && placed.value.flight.as_ref().is_some_and(|flight| flight.rollout == *rollout)
                && after.is_none_or(|after| placed.value.host_id > *after)
        };
        Ok(self.held().placements.values().filter(flies).take(limit).cloned().collect())
    }

    fn tally(&self, cells: Cells<'_>) -> Result<Tally, StoreFault> {
        let asked = |cell: &TallyKey| match cells {
            Cells::Fleet => true,
            Cells::Product(product) => cell.product == *product,
            Cells::Ring(product, ring) => cell.product == *product && cell.ring.as_ref() == ring,
        };
        let held = self.held();
        let sums = held.tally.iter().filter(|(cell, _)| asked(cell));
        Ok(Tally(sums.map(|(cell, sum)| (cell.clone(), *sum)).collect()))
    }

    fn doc(&self, key: &DocKey) -> Result<Option<Rev<Doc>>, StoreFault> {
        Ok(self.held().docs.get(key).cloned())
    }

    fn docs(
        &self,
        kind: DocKind,
        after: Option<&DocKey>,
        limit: usize,
    ) -> Result<Vec<Rev<Doc>>, StoreFault> {
        let held = self.held();
        let of_kind = held.docs.iter().filter(|(key, _)| key.kind() == kind);
        let asked = of_kind.filter(|(key, _)| after.is_none_or(|after| *key > after));
        Ok(asked.take(limit).map(|(_, doc)| doc.clone()).collect())
    }

    fn newest_rollouts(&self) -> Result<Vec<Rev<Rollout>>, StoreFault> {
        let mut newest = BTreeMap::new();
        for found in self.held().docs.values() {
            if let Doc::Rollout(rollout) = &found.value {
                let ring = (rollout.id.product().clone(), rollout.id.ring().clone());
                // Documents come in order, so the last of a ring stays.
                newest.insert(ring, Rev { rev: found.rev, value: rollout.clone() });
            }
        }
        Ok(newest.into_values().collect())
    }

    fn file(&self, role: &Role, version: Option<u64>) -> Result<Option<SignedFile>, StoreFault> {
        let held = self.held();
        let Some(versions) = held.files.get(role) else { return Ok(None) };
        let found = match version {
            Some(version) => versions.get_key_value(&version),
            None => versions.last_key_value(),
        };
        Ok(found.map(|(version, bytes)| SignedFile { version: *version, bytes: bytes.clone() }))
    }

    fn newest_files(&self) -> Result<BTreeMap<Role, SignedFile>, StoreFault> {
        let held = self.held();
        let newest = held.files.iter().filter_map(|(role, versions)| {
            let (version, bytes) = versions.last_key_value()?;
            Some((role.clone(), SignedFile { version: *version, bytes: bytes.clone() }))
        });
        Ok(newest.collect())
    }

    fn audit_head(&self) -> Result<AuditHead, StoreFault> {
        Ok(self.held().audit_head())
    }

    fn audit_after(&self, sequence: u64, limit: usize) -> Result<Vec<AuditLine>, StoreFault> {
        let held = self.held();
        let lines = held.audit.iter().filter(|line| line.entry().sequence > sequence);
        Ok(lines.take(limit).cloned().collect())
    }

    fn changes(&self, after: u64, limit: usize) -> Result<Changes, StoreFault> {
        let held = self.held();
        let list = held
            .notes
            .range((Excluded(after), Unbounded))
            .take(limit)
            .map(|(rev, note)| Change { rev: *rev, note: note.clone() })
            .collect();
        Ok(Changes { forgotten: after < held.forgotten, list })
    }

    fn wake(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }

    fn lease(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        lasts: Duration,
    ) -> Result<Option<Epoch>, StoreFault> {
        let mut held = self.held();
        let epoch = match held.leases.get(name) {
            None => Epoch(1),
            Some((_, epoch, until)) if *until <= now => Epoch(epoch.0 + 1),
            Some((other, _, _)) if other != holder => return Ok(None),
            Some((_, epoch, _)) => *epoch,
        };
        let until =
            now.saturating_add(SignedDuration::try_from(lasts).unwrap_or(SignedDuration::MAX));
        let until = until.unwrap_or(Timestamp::MAX);
        held.leases.insert(name.to_owned(), (holder.to_owned(), epoch, until));
        Ok(Some(epoch))
    }

    fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        commit.check()?;
        check_sizes(&commit)?;
        let mut held = self.held();
        if let Some((name, epoch)) = &commit.fence
            && held.leases.get(name).is_none_or(|(_, now, _)| now != epoch)
        {
            return Err(CommitError::Fenced);
        }
        let conflicts = held.conflicts(&commit);
        if !conflicts.is_empty() {
            return Err(CommitError::Conflict(conflicts.into_iter().collect()));
        }
        held.apply(commit);
        let change = held.newest_note;
        self.wake.send_replace(change);
        Ok(Committed { change })
    }

    fn forget_changes(&self, up_to: u64) -> Result<(), StoreFault> {
        let mut held = self.held();
        let up_to = up_to.min(held.newest_note).max(held.forgotten);
        let forgotten: Vec<_> =
            held.notes.range((Unbounded, Included(up_to))).map(|(rev, _)| *rev).collect();
        for rev in forgotten {
            held.notes.remove(&rev);
        }
        held.forgotten = up_to;
        Ok(())
    }
}
