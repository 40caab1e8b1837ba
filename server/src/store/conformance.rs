//! What every store must do, whatever it is: one suite, run over each. [`MemStore`] tells what is right.

use std::{
    collections::BTreeSet,
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use proptest::{
    collection::vec,
    option,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use refit_durable::{Options, SledStore};
use refit_proto::{
    names::{Digest, HostId, Labels, Product, RingName, Version},
    trust::Role,
};

use super::*;
use crate::{
    audit::{self, Deed},
    fleet::{
        Actor, Certificate, Direction, Flight, Have, HostState, Lease, LeaseId, Placement,
        ReleaseId, ReportKey, Rollout, RolloutState, Tally, TokenRecord, TokenSubject,
    },
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn product(n: u8) -> Product {
    Product::parse(["payments", "web", "a"][usize::from(n) % 3]).unwrap()
}

fn ring(n: u8) -> RingName {
    // One is the beginning of the other.
    RingName::parse(["pilot", "pilot-2"][usize::from(n) % 2]).unwrap()
}

fn rollout_id(n: u8) -> RolloutId {
    RolloutId::new(product(n / 4), ring(n / 2), u64::from(n % 2) * 300 + 1)
}

fn host_id(n: u8) -> HostId {
    HostId::of_public_key(&[n])
}

fn certificate() -> Certificate {
    let public_key = Digest::of(b"key");
    Certificate { serial: "01".to_owned(), not_after: at(0), public_key, authority: None }
}

fn host(n: u8, name: u8, state: HostState) -> Host {
    Host {
        id: host_id(n),
        name: format!("web-{name}").parse().unwrap(),
        labels: Labels::default(),
        state,
        platform: "any".parse().unwrap(),
        agent_version: String::new(),
        time_zone: String::new(),
        free_bytes: 0,
        certificate: certificate(),
        report_key: ReportKey::from_bytes(&[n; 32]).unwrap(),
        report_counter: 0,
        report_hash: None,
        token_id: "t".to_owned(),
        enrolled_at: at(0),
        last_seen: at(0),
        timestamp_version: 0,
        metadata_expired: false,
        server: String::new(),
        metadata_failure: None,
        audit_held: None,
        audit_failure: None,
        holds: Vec::new(),
        backups: Vec::new(),
        verify: Vec::new(),
    }
}

fn placement(n: u8, of: u8, in_ring: Option<u8>, flies: Option<u8>, version: u8) -> Placement {
    let digest = Digest::of(&[version]);
    let flight = flies.map(|rollout| Flight {
        rollout: rollout_id(rollout),
        count: 1,
        direction: Direction::Forward,
        digest,
        lease: Lease {
            id: LeaseId::new(&rollout_id(rollout), &host_id(n), 1),
            granted_at: at(0),
            until: at(600),
        },
    });
    Placement {
        ring: in_ring.map(ring),
        flight,
        have: Some(Have { version: Version::parse(&format!("{version}")).unwrap(), digest }),
        ..Placement::new(product(of), host_id(n), at(0))
    }
}

fn token(n: u8, uses: u16) -> TokenRecord {
    TokenRecord {
        id: format!("token-{n}"),
        secret_sha256: Digest::of(&[n]),
        subject: TokenSubject::Host { labels: Labels::default(), root_sha256: Digest::of(b"root") },
        uses_left: 0,
        used_by: (0..uses).map(|n| Digest::of(&n.to_be_bytes())).collect(),
        expires: at(0),
        created_by: "person ann".to_owned(),
        created_at: at(0),
    }
}

fn rollout(n: u8) -> Rollout {
    Rollout {
        id: rollout_id(n),
        release: ReleaseId {
            version: Version::parse("1").unwrap(),
            digest: Digest::of(b"1"),
            counter: 1,
        },
        promotion: 1,
        promoted_by: "person ann".to_owned(),
        direction: Direction::Forward,
        state: RolloutState::Running,
        created_at: at(0),
        started_at: None,
        wave: 1,
        count: 1,
        count_since: at(0),
        granted: 0,
        changed_at: at(0),
    }
}

fn role(n: u8) -> Role {
    match n % 4 {
        0 => Role::Root,
        1 => Role::Release(product(0)),
        2 => Role::Ring(product(0), ring(0)),
        _ => Role::Ring(product(0), ring(1)),
    }
}

fn deed(n: u8) -> Deed {
    Deed::done(Actor::Server, "rollout halt", format!("payments {n}"))
}

// --- the same as in memory ---

#[derive(Debug, Clone)]
enum Piece {
    Host { n: u8, name: u8, state: HostState, stale: bool },
    Placement { n: u8, of: u8, ring: Option<u8>, flies: Option<u8>, version: u8, stale: bool },
    Token { n: u8, uses: u16, stale: bool },
    Rollout { n: u8, stale: bool },
    File { n: u8, jump: u64, size: usize, stale: bool },
    Note(u8),
    Audit { n: u8, stale: bool },
}

#[derive(Debug, Clone)]
enum Act {
    Commit { pieces: Vec<Piece>, fence: Option<(u8, bool)>, lock: Option<(u8, bool)> },
    Lease { name: u8, holder: u8, at: i64 },
    Forget(u64),
    Reopen,
}

/// Mostly fresh, so that most commits go through.
fn stale() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.04)
}

fn piece() -> impl Strategy<Value = Piece> {
    let state = prop_oneof![
        4 => Just(HostState::Active),
        1 => Just(HostState::Revoked),
        2 => Just(HostState::Retired),
    ];
    prop_oneof![
        3 => (0_u8..4, 0_u8..8, state, stale())
            .prop_map(|(n, name, state, stale)| Piece::Host { n, name, state, stale }),
        6 => (0_u8..4, 0_u8..3, option::of(0_u8..2), option::of(0_u8..8), 0_u8..2, stale()).prop_map(
            |(n, of, ring, flies, version, stale)| {
                // A host flies for rollouts of the product alone.
                let flies = flies.map(|rollout| of % 2 * 4 + rollout % 4).filter(|_| of < 2);
                Piece::Placement { n, of, ring, flies, version, stale }
            }
        ),
        2 => (0_u8..3, prop_oneof![Just(0), Just(3), Just(700)], stale())
            .prop_map(|(n, uses, stale)| Piece::Token { n, uses, stale }),
        2 => (0_u8..8, stale()).prop_map(|(n, stale)| Piece::Rollout { n, stale }),
        2 => (0_u8..4, 0_u64..300, prop_oneof![Just(10), 16_000_usize..40_000], stale())
            .prop_map(|(n, jump, size, stale)| Piece::File { n, jump, size, stale }),
        1 => (0_u8..9).prop_map(Piece::Note),
        2 => (0_u8..9, stale()).prop_map(|(n, stale)| Piece::Audit { n, stale }),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => (vec(piece(), 0..6), option::weighted(0.1, (0_u8..2, stale())),
               option::weighted(0.1, (0_u8..8, stale())))
            .prop_map(|(pieces, fence, lock)| Act::Commit { pieces, fence, lock }),
        2 => (0_u8..2, 0_u8..2, 0_i64..50).prop_map(|(name, holder, at)| Act::Lease { name, holder, at }),
        1 => (0_u64..20).prop_map(Act::Forget),
        1 => Just(Act::Reopen),
    ]
}

fn rev<T>(held: Option<&Rev<T>>, stale: bool) -> u64 {
    held.map_or(0, |held| held.rev) + u64::from(stale)
}

/// The commit that these pieces are, as one who has read `store` would make it.
fn commit_of(
    store: &dyn Store,
    pieces: &[Piece],
    fence: Option<(u8, bool)>,
    lock: Option<(u8, bool)>,
    epochs: &[u64; 2],
) -> Commit {
    let mut commit = Commit::new();
    commit.fence = fence.map(|(name, stale)| {
        (format!("lease-{name}"), Epoch(epochs[usize::from(name)] + u64::from(stale)))
    });
    commit.lock = lock.map(|(n, stale)| {
        let held = store.doc(&DocKey::Rollout(rollout_id(n))).unwrap();
        Lock { rollout: rollout_id(n), rev: rev(held.as_ref(), stale) }
    });
    let mut head = store.audit_head().unwrap();
    for piece in pieces {
        match *piece {
            Piece::Host { n, name, state, stale } => {
                let held = store.host(&host_id(n)).unwrap();
                commit.host(rev(held.as_ref(), stale), host(n, name, state));
            }
            Piece::Placement { n, of, ring, flies, version, stale } => {
                let mut held = store.placement(&product(of), &host_id(n)).unwrap();
                if let (Some(held), true) = (&mut held, stale) {
                    held.rev += 1;
                }
                commit.placement(held.as_ref(), placement(n, of, ring, flies, version));
            }
            Piece::Token { n, uses, stale } => {
                let token = token(n, uses);
                let held = store.read::<TokenRecord>(token.id.clone()).unwrap();
                commit.doc(rev(held.as_ref(), stale), token);
            }
            Piece::Rollout { n, stale } => {
                let held = store.read::<Rollout>(rollout_id(n)).unwrap();
                commit.doc(rev(held.as_ref(), stale), rollout(n));
            }
            Piece::File { n, jump, size, stale } => {
                let held = store.file(&role(n), None).unwrap().map_or(0, |held| held.version);
                let (replaces, version) = (held + u64::from(stale), held + jump);
                let bytes = vec![version as u8; size];
                commit.file(FileWrite { role: role(n), replaces, version, bytes });
            }
            Piece::Note(n) => {
                commit.note(Note::Placements(product(n), vec![host_id(n)]));
            }
            Piece::Audit { n, stale } => {
                let line = AuditLine::after(head, at(i64::from(n)), deed(n));
                if !stale {
                    head = line.head();
                }
                commit.audit.push(line);
            }
        }
    }
    commit
}

/// Everything that a store tells, in words. Lists are read in pages.
fn everything(store: &dyn Store) -> Vec<String> {
    let mut told = Vec::new();
    for query in [
        HostQuery::default(),
        HostQuery { state: Some(HostState::Active), ..HostQuery::default() },
        HostQuery { product: Some(product(1)), ring: Some(ring(1)), ..HostQuery::default() },
    ] {
        let mut after = None;
        loop {
            let page = store.find(&query, after.as_ref(), 1).unwrap();
            told.push(format!("{query:?} {page:?}"));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    told.push(format!("{:?}", store.find(&HostQuery::default(), None, 0).unwrap()));
    for n in 0..8 {
        let name = format!("web-{n}").parse().unwrap();
        told.push(format!("{name} {:?}", store.host_named(&name).unwrap()));
        told.push(format!("{:?}", store.host(&host_id(n)).unwrap()));
        told.push(format!("{:?}", store.placements(&host_id(n)).unwrap()));
        told.push(format!("flight {n} {:?}", store.in_flight(&rollout_id(n), None, 9).unwrap()));
        let after = store.in_flight(&rollout_id(n), Some(&host_id(1)), 2).unwrap();
        told.push(format!("flight {n} {after:?}"));
        let file = store.file(&role(n), Some(u64::from(n) * 40)).unwrap();
        told.push(format!("file {n} {file:?}"));
    }
    for of in (0..3).map(product) {
        told.push(format!("{of} {:?}", store.tally(Cells::Product(&of)).unwrap()));
        for ring in [None, Some(ring(0)), Some(ring(1))] {
            let ring = ring.as_ref();
            told.push(format!("{of} {ring:?} {:?}", store.tally(Cells::Ring(&of, ring)).unwrap()));
            let mut after: Option<RingCursor> = None;
            loop {
                let page = store.ring_after(&of, ring, after.as_ref(), 2).unwrap();
                told.push(format!("{of} {ring:?} {page:?}"));
                let Some(last) = page.last() else { break };
                after = Some(RingCursor::of(&last.value));
            }
        }
    }
    let kinds = [
        DocKind::Person,
        DocKind::Token,
        DocKind::Release,
        DocKind::Ring,
        DocKind::Policy,
        DocKind::Rollout,
        DocKind::Change,
        DocKind::Readmission,
    ];
    let place = DocKey::Rollout(rollout_id(2));
    for kind in kinds {
        told.push(format!("{kind:?} {:?}", store.docs(kind, None, usize::MAX).unwrap()));
        told.push(format!("{kind:?} {:?}", store.docs(kind, Some(&place), 2).unwrap()));
    }
    told.push(format!("{:?}", store.newest_rollouts().unwrap()));
    told.push(format!("{:?}", store.newest_files().unwrap()));
    told.push(format!(
        "{:?} {:?}",
        store.audit_head().unwrap(),
        store.audit_after(0, 999).unwrap()
    ));
    told.push(format!("{:?}", store.audit_after(2, 2).unwrap()));
    for after in [0, 3] {
        told.push(format!("{:?}", store.changes(after, 5).unwrap()));
    }
    told
}

/// What holds in every store, after whatever commits.
fn check_sums_and_logs(store: &dyn Store) {
    let rows = store.find(&HostQuery::default(), None, usize::MAX).unwrap().rows;
    let mut placements: Vec<Placement> =
        rows.into_iter().flat_map(|row| row.placements).map(|placed| placed.value).collect();
    // Also of hosts that have no record here.
    for n in 0..8 {
        for placed in store.placements(&host_id(n)).unwrap() {
            if !placements.contains(&placed.value) {
                placements.push(placed.value);
            }
        }
    }
    assert_eq!(store.tally(Cells::Fleet).unwrap(), Tally::recount(&placements));
    assert_eq!(audit::verify_store(store).unwrap(), Ok(store.audit_head().unwrap()));
    let changes = store.changes(0, usize::MAX).unwrap();
    let revs: Vec<u64> = changes.list.iter().map(|change| change.rev).collect();
    let first = revs.first().copied().unwrap_or(1);
    assert_eq!(revs, (first..first + revs.len() as u64).collect::<Vec<_>>(), "gaps");
    assert_eq!(changes.forgotten, first > 1 || (revs.is_empty() && *store.wake().borrow() > 0));
}

/// Something that holds one store, which can be closed and opened again.
trait Place {
    fn open(&self) -> Box<dyn Store>;
}

fn behaves_as_the_store_in_memory<P: Place>(cases: u32, fresh: impl Fn() -> P) {
    let mut runner =
        TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let same = |acts: Vec<Act>| {
        let (place, model) = (fresh(), MemStore::new());
        let mut store = place.open();
        let mut epochs = [0, 0];
        for act in acts {
            match act {
                Act::Commit { pieces, fence, lock } => {
                    let commit = commit_of(&model, &pieces, fence, lock, &epochs);
                    let (real, meant) = (store.commit(commit.clone()), model.commit(commit));
                    prop_assert_eq!(format!("{real:?}"), format!("{meant:?}"));
                }
                Act::Lease { name, holder, at: second } => {
                    let (lease, holder) = (format!("lease-{name}"), format!("replica-{holder}"));
                    let lasts = Duration::from_secs(10);
                    let meant = model.lease(&lease, &holder, at(second), lasts).unwrap();
                    prop_assert_eq!(
                        store.lease(&lease, &holder, at(second), lasts).unwrap(),
                        meant
                    );
                    if let Some(Epoch(epoch)) = meant {
                        epochs[usize::from(name)] = epoch;
                    }
                }
                Act::Forget(up_to) => {
                    model.forget_changes(up_to).unwrap();
                    store.forget_changes(up_to).unwrap();
                }
                Act::Reopen => {
                    drop(store);
                    store = place.open();
                }
            }
            prop_assert_eq!(*store.wake().borrow(), *model.wake().borrow());
        }
        let (real, meant) = (everything(&*store), everything(&model));
        for (real, meant) in real.iter().zip(&meant) {
            prop_assert_eq!(real, meant);
        }
        check_sums_and_logs(&*store);
        Ok(())
    };
    if let Err(error) = runner.run(&vec(act(), 1..40), same) {
        panic!("{error}");
    }
}

// --- by claim ---

fn a_conflict_names_everything_in_the_way_and_changes_nothing(store: &dyn Store) {
    let mut first = Commit::new();
    first.host(0, host(1, 1, HostState::Active)).placement(None, placement(1, 0, None, None, 1));
    first.doc(0, rollout(0));
    let file =
        |replaces, version| FileWrite { role: Role::Root, replaces, version, bytes: vec![1] };
    first.file(file(0, 1));
    store.commit(first).unwrap();
    let before = everything(store);

    let mut second = Commit::new();
    let stale = Rev { rev: 7, value: placement(1, 0, None, None, 1) };
    second.host(2, host(1, 2, HostState::Active)).host(0, host(2, 1, HostState::Active));
    second.placement(Some(&stale), placement(1, 0, Some(0), None, 2));
    second.doc(0, rollout(0)).file(file(0, 2)).note(Note::Metadata);
    second.lock = Some(Lock { rollout: rollout_id(1), rev: 1 });
    second.audit =
        audit::lines(AuditHead { length: 3, hash: Some(Digest::of(b"another")) }, at(0), [deed(1)]);
    let Err(CommitError::Conflict(found)) = store.commit(second) else { panic!("committed") };
    let meant = BTreeSet::from([
        Key::Host(host_id(1)),
        Key::Placement(product(0), host_id(1)),
        Key::Doc(DocKey::Rollout(rollout_id(0))),
        Key::Doc(DocKey::Rollout(rollout_id(1))),
        Key::File(Role::Root),
        Key::Audit,
    ]);
    assert_eq!(found, meant.into_iter().collect::<Vec<_>>());
    assert_eq!(everything(store), before);
}

fn a_name_belongs_to_one_host_until_it_is_retired(store: &dyn Store) {
    let write = |hosts: &[(u64, Host)]| {
        let mut commit = Commit::new();
        for (rev, host) in hosts {
            commit.host(*rev, host.clone());
        }
        store.commit(commit).map(drop)
    };
    write(&[(0, host(1, 1, HostState::Active))]).unwrap();
    let taken = write(&[(0, host(2, 1, HostState::Active))]).unwrap_err();
    let key = Key::HostName("web-1".parse().unwrap());
    assert!(taken.is_conflict_of(&[key]), "{taken}");
    // Revoked keeps the name, retired gives it up: also in the same commit.
    write(&[(1, host(1, 1, HostState::Revoked))]).unwrap();
    assert!(write(&[(0, host(2, 1, HostState::Active))]).is_err());
    write(&[(0, host(2, 1, HostState::Active)), (2, host(1, 1, HostState::Retired))]).unwrap();
    let named = store.host_named(&"web-1".parse().unwrap()).unwrap().unwrap();
    assert_eq!(named.value.id, host_id(2));
    assert!(
        write(&[(0, host(3, 9, HostState::Active)), (0, host(4, 9, HostState::Active))]).is_err()
    );
}

fn who_has_lost_the_lease_can_not_commit_under_it(store: &dyn Store) {
    let lasts = Duration::from_secs(10);
    let under = |epoch: Epoch| {
        let mut commit = Commit::new();
        commit.note(Note::Metadata).fence = Some(("leader".to_owned(), epoch));
        store.commit(commit).map(drop)
    };
    assert!(matches!(under(Epoch(1)), Err(CommitError::Fenced)), "nobody has it");
    let one = store.lease("leader", "one", at(0), lasts).unwrap().unwrap();
    assert_eq!(store.lease("leader", "two", at(9), lasts).unwrap(), None);
    assert_eq!(store.lease("leader", "one", at(9), lasts).unwrap(), Some(one), "renewed");
    assert_eq!(store.lease("leader", "two", at(18), lasts).unwrap(), None);
    under(one).unwrap();
    let two = store.lease("leader", "two", at(19), lasts).unwrap().unwrap();
    assert!(two > one);
    assert!(matches!(under(one), Err(CommitError::Fenced)));
    under(two).unwrap();
    let again = store.lease("leader", "two", at(40), lasts).unwrap().unwrap();
    assert!(again > two, "it may have been another's meanwhile");
}

fn what_no_store_takes_is_refused(store: &dyn Store) {
    let mut twice = Commit::new();
    twice.host(0, host(1, 1, HostState::Active)).host(1, host(1, 1, HostState::Active));
    let mut old = Commit::new();
    old.file(FileWrite { role: Role::Root, replaces: 2, version: 2, bytes: vec![] });
    let mut large = Commit::new();
    large.file(FileWrite {
        role: Role::Root,
        replaces: 0,
        version: 1,
        bytes: vec![0; MAX_RECORD + 1],
    });
    let mut large_record = Commit::new();
    large_record.doc(0, token(1, 40_000));
    let mut name = Commit::new();
    name.doc(0, TokenRecord { id: "x".repeat(500), ..token(1, 0) });
    let mut note = Commit::new();
    note.note(Note::Placements(product(0), vec![host_id(0); MAX_NOTED + 1]));
    for commit in [twice, old, large, large_record, name, note] {
        let refused = store.commit(commit);
        assert!(matches!(refused, Err(CommitError::Invalid(_))), "{refused:?}");
    }
    let mut largest = Commit::new();
    largest.file(FileWrite {
        role: Role::Root,
        replaces: 0,
        version: 1,
        bytes: vec![7; MAX_RECORD],
    });
    largest.note(Note::Placements(product(0), (0..MAX_NOTED).map(|n| host_id(n as u8)).collect()));
    store.commit(largest).unwrap();
    assert_eq!(store.file(&Role::Root, None).unwrap().unwrap().bytes, vec![7; MAX_RECORD]);
}

/// Each thread moves hosts and counts on a rollout, with notes and audit lines.
fn committers_at_once_lose_nothing(store: &Arc<dyn Store>) {
    const THREADS: u8 = 4;
    const EACH: u8 = 12;
    let mut first = Commit::new();
    first.doc(0, rollout(0));
    store.commit(first).unwrap();
    let count_on = |n: u8| {
        let held = store.read::<Rollout>(rollout_id(0)).unwrap().unwrap();
        let moved = store.placement(&product(0), &host_id(n % 3)).unwrap();
        let mut commit = Commit::new();
        commit.doc(held.rev, Rollout { wave: held.value.wave + 1, ..held.value });
        commit.placement(moved.as_ref(), placement(n % 3, 0, Some(n), None, n));
        commit.note(Note::Rollout(rollout_id(0)));
        audit::commit(&**store, &commit, at(0), &[deed(n), deed(n)])
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let mut done = 0;
                while done < EACH {
                    match count_on(thread + done) {
                        Ok(_) => done += 1,
                        Err(CommitError::Conflict(_)) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
    let commits = u64::from(THREADS * EACH);
    let held = store.read::<Rollout>(rollout_id(0)).unwrap().unwrap();
    assert_eq!((held.rev, u64::from(held.value.wave)), (commits + 1, commits + 1));
    assert_eq!(store.audit_head().unwrap().length, 2 * commits);
    assert_eq!(store.changes(0, usize::MAX).unwrap().list.len() as u64, commits);
    check_sums_and_logs(&**store);
}

fn check<P: Place>(cases: u32, fresh: impl Fn() -> P) {
    let place = fresh();
    a_conflict_names_everything_in_the_way_and_changes_nothing(&*place.open());
    let place = fresh();
    a_name_belongs_to_one_host_until_it_is_retired(&*place.open());
    let place = fresh();
    who_has_lost_the_lease_can_not_commit_under_it(&*place.open());
    let place = fresh();
    what_no_store_takes_is_refused(&*place.open());
    let place = fresh();
    committers_at_once_lose_nothing(&Arc::from(place.open()));
    behaves_as_the_store_in_memory(cases, fresh);
}

/// A store in memory that is kept while it is closed.
struct Kept(refit_durable::MemStore);

impl Place for Kept {
    fn open(&self) -> Box<dyn Store> {
        Box::new(Embedded::new(self.0.clone()).unwrap())
    }
}

struct OnDisk(tempfile::TempDir);

fn open_on_disk(dir: &Path) -> Embedded {
    let opened = SledStore::open(Options::new(dir, at(0))).unwrap();
    assert!(opened.set_aside.is_none() && !opened.repaired);
    Embedded::new(opened.store).unwrap()
}

impl Place for OnDisk {
    fn open(&self) -> Box<dyn Store> {
        Box::new(open_on_disk(self.0.path()))
    }
}

#[test]
fn the_store_in_memory_keeps_its_own_rules() {
    let stores = [MemStore::new(), MemStore::new(), MemStore::new(), MemStore::new()];
    a_conflict_names_everything_in_the_way_and_changes_nothing(&stores[0]);
    a_name_belongs_to_one_host_until_it_is_retired(&stores[1]);
    who_has_lost_the_lease_can_not_commit_under_it(&stores[2]);
    what_no_store_takes_is_refused(&stores[3]);
    committers_at_once_lose_nothing(&(Arc::new(MemStore::new()) as Arc<dyn Store>));
}

#[test]
fn the_rows_of_a_key_value_store_behave_as_the_store_in_memory() {
    check(150, || Kept(refit_durable::MemStore::new()));
}

#[test]
fn the_store_on_disk_behaves_as_the_store_in_memory() {
    check(12, || OnDisk(tempfile::tempdir().unwrap()));
}

// --- kill -9 ---

const WRITER_DIR: &str = "REFIT_STORE_WRITER_DIR";

/// The body of a process that commits until it is killed; returns at once in any other.
#[test]
fn writer() {
    let Some(dir) = std::env::var_os(WRITER_DIR).map(PathBuf::from) else { return };
    let store = open_on_disk(&dir.join("store"));
    let mut acks = OpenOptions::new().append(true).create(true).open(dir.join("acks")).unwrap();
    loop {
        let round = store.audit_head().unwrap().length + 1;
        let mut commit = Commit::new();
        for n in 0..4 {
            let held = store.placement(&product(0), &host_id(n)).unwrap();
            let ring = (round as u8).wrapping_add(n);
            commit.placement(held.as_ref(), placement(n, 0, Some(ring), None, round as u8));
        }
        commit.note(Note::Metadata);
        audit::commit(&store, &commit, at(0), &[deed(round as u8)]).unwrap();
        acks.write_all(&[1]).unwrap();
    }
}

#[test]
fn kill_9_leaves_every_acknowledged_commit_with_its_sums_and_logs() {
    let dir = tempfile::tempdir().unwrap();
    let acks = || std::fs::metadata(dir.path().join("acks")).map_or(0, |found| found.len());
    for kill in 1..=12 {
        let before = acks();
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["store::conformance::writer", "--exact"])
            .env(WRITER_DIR, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while acks() < before + kill * 5 {
            assert_eq!(writer.try_wait().unwrap(), None, "the writer ended");
            std::thread::sleep(Duration::from_millis(1));
        }
        writer.kill().unwrap();
        writer.wait().unwrap();

        let acknowledged = acks();
        let store = open_on_disk(&dir.path().join("store"));
        let rounds = store.audit_head().unwrap().length;
        // What was killed between the commit and the word about it is there, and more than acknowledged.
        assert!((acknowledged..=acknowledged + kill).contains(&rounds), "{acknowledged} {rounds}");
        assert_eq!(store.changes(0, usize::MAX).unwrap().list.len() as u64, rounds);
        for n in 0..4 {
            assert_eq!(store.placements(&host_id(n)).unwrap()[0].rev, rounds);
        }
        check_sums_and_logs(&store);
    }
}
