//! Names of the users and groups that own what was saved. Numbers are what a file system keeps; but a release may
//! remove a user and make it again with another number, and between a backup and the day when a person brings it
//! back the host may have become another one. Then the name counts, as `tar` has it; a name that is not known any
//! more leaves the number.

use std::{collections::BTreeMap, path::Path};

use refit_proto::gathered::Gathered as _;

use serde::{Deserialize, Serialize};

use super::files::{self, FileError, Files};

/// By number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owners {
    /// Users.
    #[serde(default)]
    pub users: BTreeMap<u32, String>,
    /// Groups.
    #[serde(default)]
    pub groups: BTreeMap<u32, String>,
}

/// What numbers of before have become; those that did not change are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers {
    users: BTreeMap<u32, u32>,
    groups: BTreeMap<u32, u32>,
}

impl Numbers {
    /// The number that this user of before has now.
    pub fn user(&self, uid: u32) -> u32 {
        self.users.get(&uid).copied().unwrap_or(uid)
    }

    /// The number that this group of before has now.
    pub fn group(&self, gid: u32) -> u32 {
        self.groups.get(&gid).copied().unwrap_or(gid)
    }
}

/// Lists of a name, a word and a number in each line. What only a directory service knows keeps its number.
pub const USERS: &str = "/etc/passwd";
/// The same of groups.
pub const GROUPS: &str = "/etc/group";
/// Longest of these lists that is read.
const LONGEST: u64 = 16 << 20;

impl Owners {
    /// The names of those users and groups that own something.
    ///
    /// # Errors
    /// If the host's lists can't be read.
    pub fn of(
        files: &dyn Files,
        owns: impl Fn(u32) -> bool,
        owns_as_group: impl Fn(u32) -> bool,
    ) -> Result<Owners, FileError> {
        let named =
            |list, owns: &dyn Fn(u32) -> bool| -> Result<BTreeMap<u32, String>, FileError> {
                let names = names(files, list)?.into_iter().map(|(name, number)| (number, name));
                // root is 0 everywhere. Of several names of one number the first counts, as everywhere.
                let mut found = BTreeMap::new();
                for (number, name) in names.filter(|(number, _)| *number != 0 && owns(*number)) {
                    found.entry(number).or_insert(name);
                }
                Ok(found)
            };
        Ok(Owners { users: named(USERS, &owns)?, groups: named(GROUPS, &owns_as_group)? })
    }

    /// Whether nobody is named.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }

    /// The numbers that they have on this host now.
    ///
    /// # Errors
    /// If the host's lists can't be read.
    pub fn now(&self, files: &dyn Files) -> Result<Numbers, FileError> {
        if self.is_empty() {
            return Ok(Numbers::default());
        }
        Ok(Numbers {
            users: changed(&self.users, &names(files, USERS)?),
            groups: changed(&self.groups, &names(files, GROUPS)?),
        })
    }
}

/// Numbers of before, and what they are now; those that did not change are left out.
fn changed(before: &BTreeMap<u32, String>, now: &[(String, u32)]) -> BTreeMap<u32, u32> {
    let of_now = |name: &String| now.iter().find(|(other, _)| other == name).map(|(_, id)| *id);
    let pairs = before.iter().filter_map(|(id, name)| Some((*id, of_now(name)?)));
    pairs.filter(|(before, now)| before != now).gathered()
}

fn names(files: &dyn Files, list: &str) -> Result<Vec<(String, u32)>, FileError> {
    let list = Path::new(list);
    if !files::exists(files, list)? {
        return Ok(Vec::new());
    }
    let bytes = files::read_file(files, list, LONGEST)?;
    let text = String::from_utf8_lossy(&bytes);
    let name = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        Some((name.to_owned(), fields.nth(1)?.parse().ok()?))
    };
    Ok(text.lines().filter_map(name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::recording::{RecordingFiles, put};

    #[test]
    fn a_name_counts_more_than_a_number_and_a_name_that_is_gone_leaves_the_number() {
        let files = RecordingFiles::default();
        let list =
            b"root:x:0:0::/:/bin/sh\npay:x:998:998::/:/bin/sh\nalias:x:998:1::/:\n\nodd\n+::::::\n";
        put(&files, Path::new(USERS), list, 0o644);
        let before = BTreeMap::from([(998, "pay".into()), (900, "gone".into())]);
        assert_eq!(changed(&before, &names(&files, USERS).unwrap()), BTreeMap::new());
        put(&files, Path::new(USERS), b"new:x:998:1::/:\npay:x:123:1::/:\n", 0o644);
        let now = changed(&before, &names(&files, USERS).unwrap());
        assert_eq!(now, BTreeMap::from([(998, 123)]));
        assert_eq!(names(&RecordingFiles::default(), GROUPS).unwrap(), []);
    }
}
