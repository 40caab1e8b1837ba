//! The store on disk, for one server: records, indices and sums as rows of a key-value store, written
//! in one batch per commit.

mod keys;
mod rows;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use refit_durable::{StateStore, StoreStats};
use refit_proto::{
    names::{HostId, HostName, Product, RingName},
    trust::Role,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::watch;

use self::rows::{Rows, Writes};
use super::{
    Cells, Change, Changes, Commit, CommitError, Committed, Doc, DocKey, DocKind, Epoch, HostQuery,
    HostRow, Invalid, Key, Listed, Note, Rev, RingCursor, SignedFile, Store, StoreFault,
    commit::check_size,
};
use crate::{
    audit::{AuditHead, AuditLine},
    fleet::{Host, HostState, Placement, Record, RecordError, Rollout, RolloutId, Tally, TallyKey},
};

/// The store on disk.
pub struct Embedded {
    store: Box<dyn StateStore>,
    /// Held for writing through a commit, so that every read is of one moment.
    moment: RwLock<()>,
    wake: watch::Sender<u64>,
}

/// How long the logs are.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Heads {
    newest_note: u64,
    forgotten: u64,
    audit: u64,
    audit_hash: Option<refit_proto::names::Digest>,
}

impl Heads {
    fn audit(&self) -> AuditHead {
        AuditHead { length: self.audit, hash: self.audit_hash }
    }
}

#[derive(Serialize, Deserialize)]
struct LeaseRow {
    holder: String,
    epoch: Epoch,
    until: Timestamp,
}

impl Embedded {
    /// Keeps the fleet in this key-value store.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn new(store: impl StateStore + 'static) -> Result<Embedded, StoreFault> {
        let store: Box<dyn StateStore> = Box::new(store);
        let newest = Rows(&*store).heads()?.newest_note;
        Ok(Embedded { store, moment: RwLock::new(()), wake: watch::Sender::new(newest) })
    }

    /// How the key-value store is doing.
    pub fn stats(&self) -> StoreStats {
        self.store.stats()
    }

    /// Keeps commits out for as long as it lives.
    fn reading(&self) -> (RwLockReadGuard<'_, ()>, Rows<'_>) {
        (self.moment.read().unwrap_or_else(PoisonError::into_inner), Rows(&*self.store))
    }

    /// Keeps everybody out for as long as it lives.
    fn writing(&self) -> (RwLockWriteGuard<'_, ()>, Rows<'_>) {
        (self.moment.write().unwrap_or_else(PoisonError::into_inner), Rows(&*self.store))
    }
}

/// A record behind its revision.
fn split_rev(row: &[u8]) -> Result<(u64, &[u8]), StoreFault> {
    let (rev, record) =
        row.split_first_chunk().ok_or_else(|| StoreFault::corrupt("a record has no revision"))?;
    Ok((u64::from_be_bytes(*rev), record))
}

fn record<R: Record>(row: &[u8]) -> Result<Rev<R>, StoreFault> {
    let (rev, record) = split_rev(row)?;
    Ok(Rev { rev, value: R::decode(record)? })
}

fn doc(kind: DocKind, row: &[u8]) -> Result<Rev<Doc>, StoreFault> {
    let (rev, record) = split_rev(row)?;
    Ok(Rev { rev, value: Doc::decode(kind, record)? })
}

fn number(row: &[u8]) -> Result<u64, StoreFault> {
    row.try_into().map(u64::from_be_bytes).map_err(|_| StoreFault::corrupt("a row is no number"))
}

fn json<T: DeserializeOwned>(row: &[u8]) -> Result<T, StoreFault> {
    serde_json::from_slice(row).map_err(StoreFault::corrupt)
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>, StoreFault> {
    serde_json::to_vec(value).map_err(StoreFault::corrupt)
}

impl Rows<'_> {
    fn heads(self) -> Result<Heads, StoreFault> {
        Ok(self.get(keys::HEADS, &[])?.map(|row| json(&row)).transpose()?.unwrap_or_default())
    }

    fn host(self, id: &HostId) -> Result<Option<Rev<Host>>, StoreFault> {
        self.get(keys::HOST, &keys::host(id))?.map(|row| record(&row)).transpose()
    }

    /// Who has this name.
    fn holder(self, name: &HostName) -> Result<Option<HostId>, StoreFault> {
        let row = self.get(keys::HOST_NAME, &keys::host_name(name))?;
        let id = |row: Vec<u8>| {
            let text = String::from_utf8(row).map_err(StoreFault::corrupt)?;
            HostId::parse(&text).map_err(StoreFault::corrupt)
        };
        row.map(id).transpose()
    }

    fn placement(
        self,
        product: &Product,
        host: &HostId,
    ) -> Result<Option<Rev<Placement>>, StoreFault> {
        let row = self.get(keys::PLACEMENT, &keys::placement(host, product))?;
        row.map(|row| record(&row)).transpose()
    }

    fn placements(self, host: &HostId) -> Result<Vec<Rev<Placement>>, StoreFault> {
        let prefix = keys::host(host);
        self.each(keys::PLACEMENT, &prefix, None, usize::MAX, |_, row| record(&row).map(Some))
    }

    /// The placement that an index row names.
    fn indexed(self, product: &Product, key: &[u8]) -> Result<Rev<Placement>, StoreFault> {
        let host = keys::last_host(key);
        let found = host.map(|host| self.placement(product, &host)).transpose()?.flatten();
        found.ok_or_else(|| StoreFault::corrupt("an index names a placement that is not there"))
    }

    fn doc(self, key: &DocKey) -> Result<Option<Rev<Doc>>, StoreFault> {
        self.get(keys::DOC, &keys::doc(key))?.map(|row| doc(key.kind(), &row)).transpose()
    }

    /// Without reading what it holds.
    fn doc_rev(self, key: &DocKey) -> Result<u64, StoreFault> {
        let row = self.get(keys::DOC, &keys::doc(key))?;
        Ok(row.map(|row| split_rev(&row).map(|(rev, _)| rev)).transpose()?.unwrap_or(0))
    }

    fn newest_version(self, role: &Role) -> Result<u64, StoreFault> {
        let row = self.get(keys::FILE_NEWEST, &keys::role(role))?;
        Ok(row.map(|row| number(&row)).transpose()?.unwrap_or(0))
    }

    fn file(self, role: &Role, version: u64) -> Result<Option<SignedFile>, StoreFault> {
        let bytes = self.get(keys::FILE, &keys::file(role, version))?;
        Ok(bytes.map(|bytes| SignedFile { version, bytes }))
    }

    fn lease(self, name: &str) -> Result<Option<LeaseRow>, StoreFault> {
        self.get(keys::LEASE, &keys::lease(name))?.map(|row| json(&row)).transpose()
    }
}

/// What a commit writes, as bytes, in the commit's order.
struct Encoded {
    hosts: Vec<Vec<u8>>,
    placements: Vec<Vec<u8>>,
    docs: Vec<Vec<u8>>,
}

impl Encoded {
    fn of(commit: &Commit) -> Result<Encoded, Invalid> {
        let hosts = commit.hosts.iter().map(|(expected, host)| {
            encoded(*expected, host.encode(), || Key::Host(host.id.clone()))
        });
        let placements = commit.placements.iter().map(|(expected, placement)| {
            encoded(*expected, placement.encode(), || Key::of(placement))
        });
        let docs = commit
            .docs
            .iter()
            .map(|(expected, doc)| encoded(*expected, doc.encode(), || Key::Doc(doc.key())));
        Ok(Encoded {
            hosts: hosts.collect::<Result<_, _>>()?,
            placements: placements.collect::<Result<_, _>>()?,
            docs: docs.collect::<Result<_, _>>()?,
        })
    }
}

/// The row of a record, behind its new revision.
fn encoded(
    expected: u64,
    record: Result<Vec<u8>, RecordError>,
    key: impl Fn() -> Key,
) -> Result<Vec<u8>, Invalid> {
    let record = record.map_err(|_| Invalid::Unwritable(key()))?;
    check_size(key, record.len())?;
    Ok([&(expected + 1).to_be_bytes()[..], &record].concat())
}

/// What is stored where a commit writes.
struct Before {
    hosts: Vec<Option<Rev<Host>>>,
    placements: Vec<Option<Rev<Placement>>>,
    heads: Heads,
}

impl Before {
    fn read(rows: Rows<'_>, commit: &Commit) -> Result<Before, StoreFault> {
        let hosts = commit.hosts.iter().map(|(_, host)| rows.host(&host.id));
        let placements = commit
            .placements
            .iter()
            .map(|(_, placement)| rows.placement(&placement.product, &placement.host_id));
        Ok(Before {
            hosts: hosts.collect::<Result<_, _>>()?,
            placements: placements.collect::<Result<_, _>>()?,
            heads: rows.heads()?,
        })
    }

    /// Where the commit does not meet what it expects.
    fn conflicts(&self, rows: Rows<'_>, commit: &Commit) -> Result<BTreeSet<Key>, StoreFault> {
        fn rev<T>(held: &Option<Rev<T>>) -> u64 {
            held.as_ref().map_or(0, |held| held.rev)
        }
        let mut found = BTreeSet::new();
        if let Some(lock) = &commit.lock {
            let key = DocKey::Rollout(lock.rollout.clone());
            if rows.doc_rev(&key)? != lock.rev {
                found.insert(Key::Doc(key));
            }
        }
        for ((expected, host), held) in commit.hosts.iter().zip(&self.hosts) {
            if rev(held) != *expected {
                found.insert(Key::Host(host.id.clone()));
            }
        }
        for ((expected, placement), held) in commit.placements.iter().zip(&self.placements) {
            if rev(held) != *expected {
                found.insert(Key::of(placement));
            }
        }
        for (expected, doc) in &commit.docs {
            if rows.doc_rev(&doc.key())? != *expected {
                found.insert(Key::Doc(doc.key()));
            }
        }
        for file in &commit.files {
            if rows.newest_version(&file.role)? != file.replaces {
                found.insert(Key::File(file.role.clone()));
            }
        }
        found.extend(doubled_names(rows, commit)?);
        let mut head = self.heads.audit();
        for line in &commit.audit {
            if !line.follows(head) {
                found.insert(Key::Audit);
            }
            head = line.head();
        }
        Ok(found)
    }
}

/// A host's claim to its name.
fn claim(host: &Host) -> Option<&HostName> {
    (host.state != HostState::Retired).then_some(&host.name)
}

/// Names that a host of the commit would share with another.
fn doubled_names(rows: Rows<'_>, commit: &Commit) -> Result<Vec<Key>, StoreFault> {
    let written: BTreeSet<&HostId> = commit.hosts.iter().map(|(_, host)| &host.id).collect();
    let mut claimed = BTreeSet::new();
    let mut doubled = Vec::new();
    for name in commit.hosts.iter().filter_map(|(_, host)| claim(host)) {
        // Who is written by this very commit says itself whether it keeps the name.
        let kept = rows.holder(name)?.is_some_and(|holder| !written.contains(&holder));
        if !claimed.insert(name) || kept {
            doubled.push(Key::HostName(name.clone()));
        }
    }
    Ok(doubled)
}

impl Writes<'_> {
    fn hosts(
        &mut self,
        commit: &Commit,
        before: &Before,
        encoded: &Encoded,
    ) -> Result<(), StoreFault> {
        // All names are given up before any is taken: one host may take over another's.
        for held in before.hosts.iter().flatten() {
            if let Some(name) = claim(&held.value) {
                self.delete(keys::HOST_NAME, &keys::host_name(name))?;
            }
        }
        for ((_, host), row) in commit.hosts.iter().zip(&encoded.hosts) {
            self.put(keys::HOST, &keys::host(&host.id), row)?;
            if let Some(name) = claim(host) {
                let id = host.id.as_str().as_bytes();
                self.put(keys::HOST_NAME, &keys::host_name(name), id)?;
            }
        }
        Ok(())
    }

    fn placements(
        &mut self,
        commit: &Commit,
        before: &Before,
        encoded: &Encoded,
    ) -> Result<(), StoreFault> {
        for held in before.placements.iter().flatten() {
            self.delete(keys::RING, &keys::placed_in_ring(&held.value))?;
            if let Some(flight) = &held.value.flight {
                let key = keys::in_flight(&flight.rollout, &held.value.host_id);
                self.delete(keys::FLIGHT, &key)?;
            }
        }
        for ((_, placement), row) in commit.placements.iter().zip(&encoded.placements) {
            let key = keys::placement(&placement.host_id, &placement.product);
            self.put(keys::PLACEMENT, &key, row)?;
            self.put(keys::RING, &keys::placed_in_ring(placement), &[])?;
            if let Some(flight) = &placement.flight {
                let key = keys::in_flight(&flight.rollout, &placement.host_id);
                self.put(keys::FLIGHT, &key, &[])?;
            }
        }
        Ok(())
    }

    fn docs(
        &mut self,
        rows: Rows<'_>,
        commit: &Commit,
        encoded: &Encoded,
    ) -> Result<(), StoreFault> {
        let mut newest = BTreeMap::new();
        for ((_, doc), row) in commit.docs.iter().zip(&encoded.docs) {
            self.put(keys::DOC, &keys::doc(&doc.key()), row)?;
            if let Doc::Rollout(rollout) = doc {
                let key = keys::newest_rollout(&rollout.id);
                let held = rows.get(keys::NEWEST_ROLLOUT, &key)?;
                let held = held.map(|row| number(&row)).transpose()?.unwrap_or(0);
                let number = newest.entry(key).or_insert(held);
                *number = rollout.id.number().max(*number);
            }
        }
        for (key, number) in newest {
            self.put(keys::NEWEST_ROLLOUT, &key, &number.to_be_bytes())?;
        }
        Ok(())
    }

    fn files(&mut self, commit: &Commit) -> Result<(), StoreFault> {
        for file in &commit.files {
            self.put(keys::FILE, &keys::file(&file.role, file.version), &file.bytes)?;
            let newest = file.version.to_be_bytes();
            self.put(keys::FILE_NEWEST, &keys::role(&file.role), &newest)?;
        }
        Ok(())
    }

    fn tally(&mut self, rows: Rows<'_>, commit: &Commit) -> Result<(), StoreFault> {
        let mut deltas = BTreeMap::<&TallyKey, i64>::new();
        for (cell, delta) in &commit.tally {
            let sum = deltas.entry(cell).or_default();
            *sum = sum.wrapping_add(*delta);
        }
        for (cell, delta) in deltas {
            let json = to_json(cell)?;
            let key = keys::cell(cell, &json);
            let held = rows.get(keys::TALLY, &key)?;
            let held = held.map(|row| sum_and_cell(&row).map(|(sum, _)| sum)).transpose()?;
            match held.unwrap_or(0).wrapping_add(delta) {
                0 => self.delete(keys::TALLY, &key)?,
                sum => self.put(keys::TALLY, &key, &[&sum.to_be_bytes()[..], &json].concat())?,
            }
        }
        Ok(())
    }

    /// Notes and audit lines, and how long both are then.
    fn logs(&mut self, commit: &Commit, mut heads: Heads) -> Result<Heads, StoreFault> {
        for note in &commit.notes {
            heads.newest_note += 1;
            self.put(keys::CHANGE, &keys::number(heads.newest_note), &to_json(note)?)?;
        }
        for line in &commit.audit {
            let head = line.head();
            self.put(keys::AUDIT, &keys::number(head.length), line.body())?;
            (heads.audit, heads.audit_hash) = (head.length, head.hash);
        }
        self.heads(heads)?;
        Ok(heads)
    }

    fn heads(&mut self, heads: Heads) -> Result<(), StoreFault> {
        self.put(keys::HEADS, &[], &to_json(&heads)?)
    }
}

fn sum_and_cell(row: &[u8]) -> Result<(i64, &[u8]), StoreFault> {
    let (sum, cell) =
        row.split_first_chunk().ok_or_else(|| StoreFault::corrupt("a cell has no sum"))?;
    Ok((i64::from_be_bytes(*sum), cell))
}

impl Store for Embedded {
    fn host(&self, id: &HostId) -> Result<Option<Rev<Host>>, StoreFault> {
        let (_moment, rows) = self.reading();
        rows.host(id)
    }

    fn host_named(&self, name: &HostName) -> Result<Option<Rev<Host>>, StoreFault> {
        let (_moment, rows) = self.reading();
        rows.holder(name)?.map_or(Ok(None), |id| rows.host(&id))
    }

    fn find(
        &self,
        query: &HostQuery,
        after: Option<&HostId>,
        limit: usize,
    ) -> Result<Listed, StoreFault> {
        let (_moment, rows) = self.reading();
        let after = after.map(keys::host);
        let one_more = limit.saturating_add(1);
        let mut found = rows.each(keys::HOST, &[], after.as_deref(), one_more, |_, row| {
            let host: Rev<Host> = record(&row)?;
            let placements = rows.placements(&host.value.id)?;
            let selected =
                query.selects(&host.value, placements.iter().map(|placed| &placed.value));
            Ok(selected.then_some(HostRow { host, placements }))
        })?;
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|row| row.host.value.id.clone());
        Ok(Listed { rows: found, next })
    }

    fn placement(
        &self,
        product: &Product,
        host: &HostId,
    ) -> Result<Option<Rev<Placement>>, StoreFault> {
        let (_moment, rows) = self.reading();
        rows.placement(product, host)
    }

    fn placements(&self, host: &HostId) -> Result<Vec<Rev<Placement>>, StoreFault> {
        let (_moment, rows) = self.reading();
        rows.placements(host)
    }

    fn ring_after(
        &self,
        product: &Product,
        ring: Option<&RingName>,
        after: Option<&RingCursor>,
        limit: usize,
    ) -> Result<Vec<Rev<Placement>>, StoreFault> {
        let (_moment, rows) = self.reading();
        let prefix = keys::ring(product, ring);
        let after = after.map(|after| keys::in_ring(product, ring, after));
        rows.each(keys::RING, &prefix, after.as_deref(), limit, |key, _| {
            rows.indexed(product, key).map(Some)
        })
    }

    fn in_flight(
        &self,
        rollout: &RolloutId,
        after: Option<&HostId>,
        limit: usize,
    ) -> Result<Vec<Rev<Placement>>, StoreFault> {
        let (_moment, rows) = self.reading();
        let prefix = keys::flight(rollout);
        let after = after.map(|after| keys::in_flight(rollout, after));
        rows.each(keys::FLIGHT, &prefix, after.as_deref(), limit, |key, _| {
            rows.indexed(rollout.product(), key).map(Some)
        })
    }

    fn tally(&self, cells: Cells<'_>) -> Result<Tally, StoreFault> {
        let (_moment, rows) = self.reading();
        let prefix = keys::cells(cells);
        let mut sums = rows.each(keys::TALLY, &prefix, None, usize::MAX, |_, row| {
            let (sum, cell) = sum_and_cell(&row)?;
            Ok(Some((json::<TallyKey>(cell)?, sum)))
        })?;
        sums.sort();
        Ok(Tally(sums))
    }

    fn doc(&self, key: &DocKey) -> Result<Option<Rev<Doc>>, StoreFault> {
        let (_moment, rows) = self.reading();
        rows.doc(key)
    }

    fn docs(
        &self,
        kind: DocKind,
        after: Option<&DocKey>,
        limit: usize,
    ) -> Result<Vec<Rev<Doc>>, StoreFault> {
        let (_moment, rows) = self.reading();
        let after = after.map(keys::doc);
        let prefix = keys::docs(kind);
        // A place in another kind is before or after all of this one.
        let after = after.filter(|after| *after > prefix);
        rows.each(keys::DOC, &prefix, after.as_deref(), limit, |_, row| doc(kind, &row).map(Some))
    }

    fn newest_rollouts(&self) -> Result<Vec<Rev<Rollout>>, StoreFault> {
        let (_moment, rows) = self.reading();
        rows.each(keys::NEWEST_ROLLOUT, &[], None, usize::MAX, |ring, newest| {
            number(&newest)?;
            let key = [&keys::docs(DocKind::Rollout), ring, &newest].concat();
            let row = rows.get(keys::DOC, &key)?;
            let row = row.ok_or_else(|| StoreFault::corrupt("the newest rollout is not there"))?;
            record(&row).map(Some)
        })
    }

    fn file(&self, role: &Role, version: Option<u64>) -> Result<Option<SignedFile>, StoreFault> {
        let (_moment, rows) = self.reading();
        match version {
            Some(version) => rows.file(role, version),
            None => rows.file(role, rows.newest_version(role)?),
        }
    }

    fn newest_files(&self) -> Result<BTreeMap<Role, SignedFile>, StoreFault> {
        let (_moment, rows) = self.reading();
        let files = rows.each(keys::FILE_NEWEST, &[], None, usize::MAX, |key, row| {
            let name = key.strip_suffix(&[0]).unwrap_or(key);
            let name = std::str::from_utf8(name).map_err(StoreFault::corrupt)?;
            let role = Role::named(name).map_err(StoreFault::corrupt)?;
            let file = rows.file(&role, number(&row)?)?;
            let file = file.ok_or_else(|| StoreFault::corrupt("a signed file is missing"))?;
            Ok(Some((role, file)))
        })?;
        Ok(files.into_iter().collect())
    }

    fn audit_head(&self) -> Result<AuditHead, StoreFault> {
        let (_moment, rows) = self.reading();
        Ok(rows.heads()?.audit())
    }

    fn audit_after(&self, sequence: u64, limit: usize) -> Result<Vec<AuditLine>, StoreFault> {
        let (_moment, rows) = self.reading();
        let after = keys::number(sequence);
        rows.each(keys::AUDIT, &[], Some(&after), limit, |_, body| {
            AuditLine::parse(body).map(Some).map_err(StoreFault::corrupt)
        })
    }

    fn changes(&self, after: u64, limit: usize) -> Result<Changes, StoreFault> {
        let (_moment, rows) = self.reading();
        let forgotten = after < rows.heads()?.forgotten;
        let from = keys::number(after);
        let list = rows.each(keys::CHANGE, &[], Some(&from), limit, |key, row| {
            Ok(Some(Change { rev: number(key)?, note: json::<Note>(&row)? }))
        })?;
        Ok(Changes { forgotten, list })
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
        let (_moment, rows) = self.writing();
        let epoch = match rows.lease(name)? {
            None => Epoch(1),
            Some(held) if held.until <= now => Epoch(held.epoch.0 + 1),
            Some(held) if held.holder != holder => return Ok(None),
            Some(held) => held.epoch,
        };
        let lasts = SignedDuration::try_from(lasts).unwrap_or(SignedDuration::MAX);
        let until = now.saturating_add(lasts).unwrap_or(Timestamp::MAX);
        let row = LeaseRow { holder: holder.to_owned(), epoch, until };
        let mut writes = Writes::new(rows);
        writes.put(keys::LEASE, &keys::lease(name), &to_json(&row)?)?;
        writes.commit()?;
        Ok(Some(epoch))
    }

    fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        commit.check()?;
        let encoded = Encoded::of(&commit)?;
        let (_moment, rows) = self.writing();
        if let Some((name, epoch)) = &commit.fence
            && rows.lease(name)?.is_none_or(|held| held.epoch != *epoch)
        {
            return Err(CommitError::Fenced);
        }
        let before = Before::read(rows, &commit)?;
        let conflicts = before.conflicts(rows, &commit)?;
        if !conflicts.is_empty() {
            return Err(CommitError::Conflict(conflicts.into_iter().collect()));
        }
        let mut writes = Writes::new(rows);
        writes.hosts(&commit, &before, &encoded)?;
        writes.placements(&commit, &before, &encoded)?;
        writes.docs(rows, &commit, &encoded)?;
        writes.files(&commit)?;
        writes.tally(rows, &commit)?;
        let heads = writes.logs(&commit, before.heads)?;
        writes.commit()?;
        self.wake.send_replace(heads.newest_note);
        Ok(Committed { change: heads.newest_note })
    }

    fn forget_changes(&self, up_to: u64) -> Result<(), StoreFault> {
        let (_moment, rows) = self.writing();
        let mut heads = rows.heads()?;
        let up_to = up_to.min(heads.newest_note).max(heads.forgotten);
        let mut writes = Writes::new(rows);
        for rev in heads.forgotten + 1..=up_to {
            writes.delete(keys::CHANGE, &keys::number(rev))?;
        }
        heads.forgotten = up_to;
        writes.heads(heads)?;
        writes.commit()?;
        Ok(())
    }
}
