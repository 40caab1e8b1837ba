//! Names of the users and groups that own what was saved. Numbers are what a file system keeps and what a way back
//! brings back; but between a backup and the day when a person brings it back, a user may have been removed and made
//! again with another number, or the host may be another one. Then the name counts, as `tar` has it; a name that is
//! not known any more leaves the number.

use std::{collections::BTreeMap, path::Path};

use refit_proto::gathered::Gathered as _;

use serde::{Deserialize, Serialize};

use super::{
    super::files::{self, FileError, Files},
    Covered, Index,
};

/// By number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owners {
    #[serde(default)]
    users: BTreeMap<u32, String>,
    #[serde(default)]
    groups: BTreeMap<u32, String>,
}

/// Lists of a name, a word and a number in each line. What only a directory service knows keeps its number.
const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";
/// Longest of these lists that is read.
const LONGEST: u64 = 16 << 20;

impl Owners {
    /// The names of those that own something of this.
    pub(super) fn of(files: &dyn Files, covered: &[Covered]) -> Result<Owners, FileError> {
        let entries = || covered.iter().flat_map(|covered| &covered.entries);
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
        Ok(Owners {
            users: named(USERS, &|uid| entries().any(|entry| entry.uid == uid))?,
            groups: named(GROUPS, &|gid| entries().any(|entry| entry.gid == gid))?,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}

impl Index {
    /// The same with the numbers that its users and groups have on this host now.
    ///
    /// # Errors
    /// If the host's lists can't be read.
    pub fn owned_as_now(mut self, files: &dyn Files) -> Result<Index, FileError> {
        if self.owners.is_empty() {
            return Ok(self);
        }
        let users = changed(&self.owners.users, &names(files, USERS)?);
        let groups = changed(&self.owners.groups, &names(files, GROUPS)?);
        for entry in self.covered.iter_mut().flat_map(|covered| &mut covered.entries) {
            entry.uid = users.get(&entry.uid).copied().unwrap_or(entry.uid);
            entry.gid = groups.get(&entry.gid).copied().unwrap_or(entry.gid);
        }
        Ok(self)
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
