//! Whose a file was, by name: a release may have removed a user and made it again with another number. A name that
//! is not known any more leaves the number, and so does a list that can't be read.

use std::{collections::BTreeMap, fs};

use crate::way_back::Owned;

/// Names by the numbers that they had.
pub(crate) type Names = BTreeMap<u32, String>;

/// What numbers of before have become.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    users: BTreeMap<u32, u32>,
    groups: BTreeMap<u32, u32>,
}

impl Numbers {
    /// As this host has them now.
    pub(crate) fn now(users: &Names, groups: &Names) -> Numbers {
        let list = |path: &str| fs::read(path).unwrap_or_default();
        let (passwd, group) = (list("/etc/passwd"), list("/etc/group"));
        Numbers { users: looked_up(users, &passwd), groups: looked_up(groups, &group) }
    }

    pub(crate) fn owned(&self, owned: Owned) -> Owned {
        let (uid, gid) = self.owner(owned.uid, owned.gid);
        Owned { uid, gid, ..owned }
    }

    pub(crate) fn owner(&self, uid: u32, gid: u32) -> (u32, u32) {
        let of = |numbers: &BTreeMap<u32, u32>, id| numbers.get(&id).copied().unwrap_or(id);
        (of(&self.users, uid), of(&self.groups, gid))
    }
}

/// A list has a name, a word and a number in each line.
fn looked_up(names: &Names, list: &[u8]) -> BTreeMap<u32, u32> {
    let list = String::from_utf8_lossy(list);
    let number = |name: &str| {
        list.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
        })
    };
    names.iter().filter_map(|(id, name)| Some((*id, number(name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_more_than_a_number_and_a_name_that_is_gone_leaves_the_number() {
        let names = Names::from([(998, "pay".into()), (900, "gone".into()), (7, "odd".into())]);
        let list = b"root:x:0:0::/:/bin/sh\nnew:x:998:1::/:\npay:x:123:1::/:\nodd\n\n";
        assert_eq!(looked_up(&names, list), BTreeMap::from([(998, 123)]));
        let numbers = Numbers { users: looked_up(&names, list), groups: BTreeMap::new() };
        assert_eq!(numbers.owner(998, 998), (123, 998));
        assert_eq!(numbers.owner(900, 0), (900, 0));
    }
}
