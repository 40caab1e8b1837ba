//! Sorting by one sort for all types. The standard library's has a copy of itself for each type, 3 to 7 kB of program
//! each, which every host carries; here a type adds how two of it compare and change places.

use std::cmp::Ordering;

/// Sorts; equal ones stay in their order.
pub fn sort<T: Ord>(all: &mut [T]) {
    sort_by(all, T::cmp);
}

/// Sorts by this order; equal ones stay in their order.
pub fn sort_by<T>(all: &mut [T], order: impl Fn(&T, &T) -> Ordering) {
    let from = places(all.len(), &|a, b| order(&all[a], &all[b]));
    arrange(from, &mut |a, b| all.swap(a, b));
}

/// For each place, where what belongs there stands now.
fn places(count: usize, order: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut from: Vec<usize> = (0..count).collect();
    from.sort_by(|a, b| order(*a, *b));
    from
}

/// Brings everything to its place, by going around each circle of those that take each other's place.
fn arrange(mut from: Vec<usize>, swap: &mut dyn FnMut(usize, usize)) {
    for begin in 0..from.len() {
        let mut at = begin;
        while from[at] != begin {
            let next = from[at];
            swap(at, next);
            from[at] = at;
            at = next;
        }
        from[at] = at;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_sorted_is_what_the_standard_library_sorts(all: Vec<(u8, u32)>) {
            let (mut ours, mut theirs) = (all.clone(), all.clone());
            sort(&mut ours);
            theirs.sort();
            prop_assert_eq!(ours, theirs);
            let (mut ours, mut theirs) = (all.clone(), all);
            // Many are equal: what is stable keeps them as they came.
            sort_by(&mut ours, |a, b| (b.0 % 4).cmp(&(a.0 % 4)));
            theirs.sort_by_key(|it| std::cmp::Reverse(it.0 % 4));
            prop_assert_eq!(ours, theirs);
        }
    }
}
