//! Ordered maps and sets, filled one by one. The standard library collects into them by a stable sort of its own for
//! each type: 5 kB of program each, which every host carries, for the sake of lists that are short here.

/// What can be gathered.
pub trait Gathered: Iterator {
    /// The same as `collect`; of two equal keys the last counts.
    fn gathered<C: Default + Extend<Self::Item>>(self) -> C;
}

impl<I: Iterator> Gathered for I {
    fn gathered<C: Default + Extend<I::Item>>(self) -> C {
        let mut all = C::default();
        all.extend(self);
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::Gathered as _;

    #[test]
    fn what_is_gathered_is_what_is_collected() {
        let pairs = [(3, 'a'), (1, 'b'), (3, 'c'), (2, 'd'), (1, 'e')];
        let map: BTreeMap<_, _> = pairs.into_iter().collect();
        assert_eq!(pairs.into_iter().gathered::<BTreeMap<_, _>>(), map);
        let set: BTreeSet<_> = pairs.into_iter().collect();
        assert_eq!(pairs.into_iter().gathered::<BTreeSet<_>>(), set);
    }
}
