//! What every store must do, whatever it is: one suite, run over each implementation. A store passes
//! if nothing tells it apart from [`MemStore`], before and after it is opened again.

#![expect(clippy::unwrap_used, reason = "it runs in tests alone")]

use std::sync::Arc;

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::{
    Batch, MemStore, StateStore, StoreError, Table,
    store::{MAX_KEY, MAX_VALUE},
};

/// A place that holds one store.
pub trait Place {
    /// Opens the store, which is closed now, or makes an empty one the first time.
    fn open(&self) -> Arc<dyn StateStore>;
}

const A: Table = Table::new(1);
const B: Table = Table::new(2);
/// The last table: nothing comes after it that could end a scan.
const LAST: Table = Table::new(255);

/// Runs the suite. `fresh` makes a place with nothing in it.
pub fn check<P: Place>(fresh: impl Fn() -> P) {
    keys_come_in_the_order_of_their_bytes(&fresh());
    tables_do_not_touch_each_other(&fresh());
    a_batch_is_written_whole_or_not_at_all(&fresh());
    a_guard_sees_what_was_before_the_batch(&fresh());
    what_is_too_large_is_refused_and_changes_nothing(&fresh());
    of_many_who_swap_one_value_each_sees_the_one_before(&fresh());
    readers_never_see_half_a_batch(&fresh());
    what_was_committed_is_there_when_opened_again(&fresh());
    it_behaves_as_the_store_in_memory(fresh);
}

fn put(store: &dyn StateStore, table: Table, key: &[u8], value: &[u8]) {
    let mut batch = Batch::new();
    batch.put(table, key, value);
    store.commit(batch).expect("a plain put");
}

fn keys(store: &dyn StateStore, table: Table, from: &[u8], limit: usize) -> Vec<Vec<u8>> {
    store.scan(table, from, limit).expect("a scan").into_iter().map(|(key, _)| key).collect()
}

fn keys_come_in_the_order_of_their_bytes(place: &impl Place) {
    let store = place.open();
    let in_order: [&[u8]; 7] = [b"", b"\0", b"\0\0", b"a", b"a\0", b"b", b"\xff\xff"];
    for key in [4, 1, 6, 0, 3, 5, 2] {
        put(&*store, A, in_order[key], &[key as u8]);
    }
    assert_eq!(keys(&*store, A, b"", 100), in_order);
    assert_eq!(keys(&*store, A, b"a", 2), in_order[3..5]);
    assert_eq!(keys(&*store, A, b"aa", 1), in_order[5..6]);
    assert!(keys(&*store, A, b"\xff\xff\0", 100).is_empty());
    assert!(keys(&*store, A, b"", 0).is_empty());
}

fn tables_do_not_touch_each_other(place: &impl Place) {
    let store = place.open();
    for table in [A, B, LAST] {
        put(&*store, table, b"key", &[table.byte()]);
    }
    for table in [A, B, LAST] {
        assert_eq!(store.get(table, b"key").unwrap(), Some(vec![table.byte()]));
        assert_eq!(store.scan(table, b"", 9).unwrap(), [(b"key".to_vec(), vec![table.byte()])]);
    }
    let mut batch = Batch::new();
    batch.delete(B, b"key");
    store.commit(batch).unwrap();
    assert_eq!(store.get(B, b"key").unwrap(), None);
    assert_eq!(store.get(A, b"key").unwrap(), Some(vec![A.byte()]));
    assert_eq!(store.stats().live_keys, 2);
}

fn a_batch_is_written_whole_or_not_at_all(place: &impl Place) {
    let store = place.open();
    put(&*store, A, b"old", b"1");
    let mut batch = Batch::new();
    batch.put(A, b"new", b"2");
    batch.put(B, b"new", b"2");
    batch.delete(A, b"old");
    batch.expect(A, b"old", Some(b"something else".to_vec()));
    assert!(matches!(store.commit(batch.clone()), Err(StoreError::Conflict { .. })));
    assert_eq!(store.get(A, b"old").unwrap(), Some(b"1".to_vec()));
    assert_eq!(store.get(A, b"new").unwrap(), None);
    assert_eq!(store.get(B, b"new").unwrap(), None);

    let mut batch = Batch::new();
    batch.put(A, b"new", b"2");
    batch.put(B, b"new", b"2");
    batch.delete(A, b"old");
    batch.expect(A, b"old", Some(b"1".to_vec()));
    store.commit(batch).unwrap();
    assert_eq!(keys(&*store, A, b"", 9), [b"new"]);
    assert_eq!(keys(&*store, B, b"", 9), [b"new"]);
}

fn a_guard_sees_what_was_before_the_batch(place: &impl Place) {
    let store = place.open();
    let mut batch = Batch::new();
    batch.put(A, b"key", b"1");
    batch.put(A, b"key", b"2");
    batch.expect(A, b"key", None);
    store.commit(batch.clone()).unwrap();
    assert_eq!(store.get(A, b"key").unwrap(), Some(b"2".to_vec()), "the last word counts");
    assert!(matches!(store.commit(batch), Err(StoreError::Conflict { .. })));
    // A guard alone is a question.
    let mut question = Batch::new();
    question.expect(A, b"key", Some(b"2".to_vec()));
    store.commit(question).unwrap();
    // An empty value is not the same as none.
    put(&*store, A, b"empty", b"");
    let mut batch = Batch::new();
    batch.expect(A, b"empty", None);
    assert!(matches!(store.commit(batch), Err(StoreError::Conflict { .. })));
}

fn what_is_too_large_is_refused_and_changes_nothing(place: &impl Place) {
    let store = place.open();
    let longest = vec![7; MAX_KEY];
    let largest = vec![7; MAX_VALUE];
    put(&*store, A, &longest, &largest);
    assert_eq!(store.get(A, &longest).unwrap(), Some(largest));
    for (key, value) in [(MAX_KEY + 1, 0), (1, MAX_VALUE + 1)] {
        let mut batch = Batch::new();
        batch.put(A, b"beside", b"");
        batch.put(A, vec![0; key], vec![0; value]);
        assert!(matches!(store.commit(batch), Err(StoreError::TooLarge { .. })));
        assert_eq!(keys(&*store, A, b"", 9), std::slice::from_ref(&longest));
    }
}

fn of_many_who_swap_one_value_each_sees_the_one_before(place: &impl Place) {
    const THREADS: u32 = 4;
    const EACH: u32 = 15;
    let store = place.open();
    let count_up = || {
        let held = store.get(A, b"count").unwrap();
        let count = held.as_deref().map_or(0, |held| u32::from_be_bytes(held.try_into().unwrap()));
        let mut batch = Batch::new();
        batch.expect(A, b"count", held);
        batch.put(A, b"count", (count + 1).to_be_bytes());
        store.commit(batch)
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut done = 0;
                while done < EACH {
                    match count_up() {
                        Ok(()) => done += 1,
                        Err(StoreError::Conflict { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
    let count = store.get(A, b"count").unwrap().unwrap();
    assert_eq!(count, (THREADS * EACH).to_be_bytes());
}

fn readers_never_see_half_a_batch(place: &impl Place) {
    const KEYS: u8 = 40;
    let store = place.open();
    let write = |round: u8| {
        let mut batch = Batch::new();
        for key in 0..KEYS {
            batch.put(A, [key], [round]);
        }
        store.commit(batch).unwrap();
    };
    write(0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (1..60).for_each(write));
        while !writer.is_finished() {
            let seen = store.scan(A, b"", 100).unwrap();
            assert_eq!(seen.len(), usize::from(KEYS));
            assert!(seen.iter().all(|(_, value)| *value == seen[0].1), "{seen:?}");
        }
    });
}

fn what_was_committed_is_there_when_opened_again(place: &impl Place) {
    let store = place.open();
    let mut batch = Batch::new();
    for key in 0..100_u8 {
        batch.put(B, [key], vec![key; usize::from(key) * 100]);
    }
    store.commit(batch).unwrap();
    let (before, stats) = (store.scan(B, b"", 1000).unwrap(), store.stats());
    drop(store);
    let store = place.open();
    assert_eq!(store.scan(B, b"", 1000).unwrap(), before);
    assert_eq!(store.stats().live_keys, stats.live_keys);
    assert_eq!(store.stats().live_bytes, stats.live_bytes);
}

#[derive(Debug, Clone)]
enum Step {
    Put(Table, Vec<u8>, Vec<u8>),
    Delete(Table, Vec<u8>),
    /// That a key holds what it does hold, or that it holds this.
    Expect(Table, Vec<u8>, Option<Vec<u8>>),
}

#[derive(Debug, Clone)]
enum Act {
    Commit(Vec<Step>),
    Scan(Table, Vec<u8>, usize),
    Reopen,
}

fn act() -> impl Strategy<Value = Act> {
    // Few keys, so that they meet; some of them prefixes of others.
    let table = prop_oneof![Just(A), Just(B), Just(LAST)];
    let key = vec(prop_oneof![Just(0), Just(b'a'), Just(255)], 0..4);
    let value = prop_oneof![
        4 => vec(any::<u8>(), 0..3),
        1 => (any::<u8>(), 0..=MAX_VALUE).prop_map(|(byte, size)| vec![byte; size]),
    ];
    let step = prop_oneof![
        6 => (table.clone(), key.clone(), value.clone()).prop_map(|(t, k, v)| Step::Put(t, k, v)),
        3 => (table.clone(), key.clone()).prop_map(|(t, k)| Step::Delete(t, k)),
        1 => (table.clone(), key.clone(), proptest::option::of(value))
            .prop_map(|(t, k, v)| Step::Expect(t, k, v)),
    ];
    prop_oneof![
        8 => vec(step, 0..12).prop_map(Act::Commit),
        3 => (table, key, 0_usize..20).prop_map(|(t, k, limit)| Act::Scan(t, k, limit)),
        1 => Just(Act::Reopen),
    ]
}

fn it_behaves_as_the_store_in_memory<P: Place>(fresh: impl Fn() -> P) {
    // Each case opens a store several times and syncs each commit.
    let mut runner =
        TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    let same = |acts: Vec<Act>| {
        let (place, model) = (fresh(), MemStore::new());
        let mut store = place.open();
        for act in acts {
            match act {
                Act::Commit(steps) => {
                    let batch = batch_of(&steps);
                    let (real, meant) = (store.commit(batch.clone()), model.commit(batch));
                    prop_assert_eq!(format!("{real:?}"), format!("{meant:?}"));
                }
                Act::Scan(table, from, limit) => {
                    let real = store.scan(table, &from, limit).expect("a scan");
                    prop_assert_eq!(real, model.scan(table, &from, limit).expect("a scan"));
                }
                Act::Reopen => {
                    drop(store);
                    store = place.open();
                }
            }
            let (real, meant) = (store.stats(), model.stats());
            prop_assert_eq!((real.live_keys, real.live_bytes), (meant.live_keys, meant.live_bytes));
        }
        for table in [A, B, LAST] {
            let real = store.scan(table, b"", usize::MAX).expect("a scan");
            prop_assert_eq!(real, model.scan(table, b"", usize::MAX).expect("a scan"));
        }
        Ok(())
    };
    if let Err(error) = runner.run(&vec(act(), 1..25), same) {
        panic!("{error}");
    }
}

fn batch_of(steps: &[Step]) -> Batch {
    let mut batch = Batch::new();
    for step in steps.iter().cloned() {
        match step {
            Step::Put(table, key, value) => batch.put(table, key, value),
            Step::Delete(table, key) => batch.delete(table, key),
            Step::Expect(table, key, value) => batch.expect(table, key, value),
        }
    }
    batch
}
