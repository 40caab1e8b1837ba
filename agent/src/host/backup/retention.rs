//! Which backups of a product are kept after an update: pure, so that every order of things can be tried.
//! What something leads to or goes on with is kept whatever this says; that is told by who asks.

use std::{collections::BTreeSet, time::Duration};

use refit_proto::{package::FileRef, sorted};

use crate::update::BackupId;

/// How long backups are kept: as long as all of these hold. The newest of a product is always kept, since
/// it leads back from what runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// So many of one product.
    pub count: usize,
    /// So old.
    pub age: Duration,
    /// So many bytes of one product, each content counted once.
    pub bytes: u64,
}

impl Default for Retention {
    /// Three: what ran before, and what ran before that, should the fault show late. A month, as most
    /// such faults do. Of bytes, as many as preflight lets there be.
    fn default() -> Retention {
        Retention { count: 3, age: Duration::from_secs(30 * 24 * 3600), bytes: u64::MAX }
    }
}

/// A sealed backup, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its id.
    pub id: BackupId,
    /// Which of two is the newer one: not the clock, which may have been set back between them.
    pub order: i64,
    /// When it was made, in seconds since 1970.
    pub made: i64,
    /// What it holds.
    pub content: BTreeSet<FileRef>,
}

impl Retention {
    /// Which backups of a product are not kept any more. `held` are those that something refers to; they
    /// count, and stay.
    pub fn surplus(
        &self,
        backups: &[Kept],
        held: &BTreeSet<BackupId>,
        now: i64,
    ) -> BTreeSet<BackupId> {
        let mut newest_first: Vec<&Kept> = backups.iter().collect();
        // Of two that can't be told apart, what is held goes first: it is what an update has just made.
        fn order<'a>(kept: &'a Kept, held: &BTreeSet<BackupId>) -> (i64, bool, &'a BackupId) {
            (kept.order, held.contains(&kept.id), &kept.id)
        }
        sorted::sort_by(&mut newest_first, |a, b| order(b, held).cmp(&order(a, held)));
        let oldest = now.saturating_sub(i64::try_from(self.age.as_secs()).unwrap_or(i64::MAX));
        let mut seen = BTreeSet::new();
        let (mut count, mut bytes) = (0, 0_u64);
        let mut surplus = BTreeSet::new();
        for (nth, kept) in newest_first.into_iter().enumerate() {
            let news = || kept.content.difference(&seen);
            let more: u64 = news().map(|content| content.length).sum();
            // What is older than one that had to go goes too: of two, the newer is of more use.
            let fits = surplus.is_empty()
                && count < self.count
                && kept.made >= oldest
                && bytes.saturating_add(more) <= self.bytes;
            if nth > 0 && !fits && !held.contains(&kept.id) {
                surplus.insert(kept.id.clone());
                continue;
            }
            count += 1;
            bytes = bytes.saturating_add(more);
            let news: Vec<FileRef> = news().copied().collect();
            seen.extend(news);
        }
        surplus
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: usize) -> BackupId {
        BackupId::parse(&format!("b{n}")).unwrap()
    }

    fn file(n: u8, length: u64) -> FileRef {
        FileRef { length, ..FileRef::to(&[n]) }
    }

    fn backup(n: usize, made: i64, content: &[FileRef]) -> Kept {
        Kept { id: id(n), order: made, made, content: content.iter().copied().collect() }
    }

    #[test]
    fn the_oldest_beyond_count_age_or_bytes_go_and_what_several_share_counts_once() {
        let many = Retention { count: 10, age: Duration::from_secs(100), bytes: 100 };
        let backups = [
            backup(1, 950, &[file(1, 60)]),
            backup(2, 960, &[file(1, 60), file(2, 30)]),
            backup(3, 970, &[file(1, 60), file(3, 20)]),
        ];
        let none = BTreeSet::new();
        let few = Retention { count: 2, bytes: 110, ..many };
        assert_eq!(few.surplus(&backups, &none, 1000), [id(1)].into());
        // 60 + 20, then 30 more are too many; the oldest would take nothing more, and goes too.
        assert_eq!(many.surplus(&backups, &none, 1000), [id(1), id(2)].into());
        let roomy = Retention { bytes: 110, ..many };
        assert_eq!(roomy.surplus(&backups, &none, 1000), none);
        assert_eq!(roomy.surplus(&backups, &none, 1055), [id(1)].into());
        // However old it is, something leads back from what runs.
        assert_eq!(roomy.surplus(&backups, &none, 9000), [id(1), id(2)].into());
        assert_eq!(roomy.surplus(&backups, &[id(1)].into(), 9000), [id(2)].into());
    }

    proptest! {
        #[test]
        fn what_is_held_and_the_newest_stay_and_more_room_removes_no_more(
            made in prop::collection::vec((0..50_i64, prop::collection::vec((0..6_u8, 1..50_u64), 0..4)), 1..8),
            held in prop::collection::btree_set(0..8_usize, 0..3),
            (count, age, bytes) in (0..8_usize, 0..60_u64, 0..300_u64),
        ) {
            let backups: Vec<Kept> = made
                .iter()
                .enumerate()
                .map(|(n, (made, content))| {
                    let content: Vec<_> = content.iter().map(|(n, length)| file(*n, *length)).collect();
                    backup(n, *made, &content)
                })
                .collect();
            let held: BTreeSet<_> = held.into_iter().map(id).collect();
            let retention = Retention { count, age: Duration::from_secs(age), bytes };
            let gone = retention.surplus(&backups, &held, 50);
            prop_assert!(gone.is_disjoint(&held));
            prop_assert!(gone.len() < backups.len());
            let newest = backups.iter().map(|kept| kept.order).max();
            prop_assert!(backups.iter().any(|kept| Some(kept.order) == newest && !gone.contains(&kept.id)));
            let stays: Vec<_> = backups.iter().filter(|kept| !gone.contains(&kept.id) && !held.contains(&kept.id)).collect();
            prop_assert!(stays.len() <= count.max(1));
            prop_assert!(stays.iter().all(|kept| kept.made >= 50 - age as i64 || Some(kept.order) == newest));
            let all = Retention { count: 99, age: Duration::from_secs(99), bytes: u64::MAX };
            prop_assert_eq!(all.surplus(&backups, &held, 50), BTreeSet::new());
        }
    }
}
