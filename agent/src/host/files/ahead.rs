//! Files that are read one after the other are fetched a few ahead, so that the disk and the processor work at the
//! same time.

/// So many files ahead: 2 and 32 are as fast within a tenth, none is slower by a sixth
/// (docs/decisions/0040-files-synced-together.md). At most 8 MiB are fetched.
const AHEAD: usize = 8;

/// These in their order, each given to `hint` a few before its turn.
pub(crate) fn each_ahead<'a, T>(
    items: &'a [T],
    hint: impl Fn(&'a T) + 'a,
) -> impl Iterator<Item = &'a T> {
    items.iter().take(AHEAD).for_each(&hint);
    items.iter().enumerate().map(move |(n, item)| {
        if let Some(coming) = items.get(n + AHEAD) {
            hint(coming);
        }
        item
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn each_is_hinted_at_once_and_before_its_turn() {
        for count in [0, 1, AHEAD - 1, AHEAD, AHEAD + 1, 3 * AHEAD] {
            let items: Vec<usize> = (0..count).collect();
            let hinted = RefCell::new(Vec::new());
            for (n, item) in each_ahead(&items, |item| hinted.borrow_mut().push(*item)).enumerate()
            {
                assert_eq!(n, *item);
                let so_far = hinted.borrow().len();
                assert_eq!(so_far, count.min(n + AHEAD + 1).max(count.min(AHEAD)), "{count} {n}");
            }
            assert_eq!(*hinted.borrow(), items);
        }
    }
}
