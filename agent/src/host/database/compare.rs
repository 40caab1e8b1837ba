//! Whether a dump brings back what is there: pure. What is in a database is told by names and by what is
//! counted or hashed under each; one that is written to is looked at before and after it was dumped.

use std::collections::BTreeMap;

use refit_proto::gathered::Gathered as _;

/// What is in a database: tables by their rows, the rest by its number, or all of it by a hash.
pub(super) type Contents = BTreeMap<String, String>;

/// The first thing that the restored database has otherwise; `None` if it has everything. What was the
/// same before and after the dump has to be the same in it; of what changed meanwhile, it has to be there.
pub(super) fn difference(
    before: &Contents,
    after: &Contents,
    restored: &Contents,
) -> Option<String> {
    for (name, value) in before {
        let found = restored.get(name);
        match (after.get(name), found) {
            (Some(later), Some(found)) if later == value && found != value => {
                return Some(format!("{name}: {found} in place of {value}"));
            }
            (Some(_), None) => return Some(format!("{name} is missing")),
            // Gone by then, or as it may be.
            (Some(_), Some(_)) | (None, _) => {}
        }
    }
    let is_new = |name: &&String| !before.contains_key(*name) && !after.contains_key(*name);
    restored.keys().find(is_new).map(|name| format!("{name} was not there"))
}

/// Names and values from words that end with a zero byte each, in turn.
pub(super) fn pairs(bytes: &[u8]) -> Contents {
    let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
    let words: Vec<&[u8]> = bytes.split(|byte| *byte == 0).collect();
    words.chunks_exact(2).map(|pair| (text(pair[0]), text(pair[1]))).gathered()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &str) -> Contents {
        words
            .split_whitespace()
            .filter_map(|word| word.split_once('='))
            .map(|(a, b)| (a.into(), b.into()))
            .collect()
    }

    #[test]
    fn what_stood_still_must_be_the_same_and_what_moved_must_be_there() {
        let same = |before, after, restored| difference(&of(before), &of(after), &of(restored));
        assert_eq!(same("a=1 b=2", "a=1 b=2", "a=1 b=2"), None);
        assert_eq!(same("a=1 b=2", "a=1 b=4", "a=1 b=3"), None);
        assert_eq!(same("a=1", "a=1 b=4", "a=1 b=3"), None, "made meanwhile");
        assert_eq!(same("a=1 b=2", "a=1", "a=1"), None, "gone meanwhile");
        assert!(same("a=1 b=2", "a=1 b=4", "a=0 b=3").unwrap().contains("0 in place of 1"));
        assert!(same("a=1 b=2", "a=1 b=4", "a=1").unwrap().contains("b is missing"));
        assert!(same("a=1", "a=1", "a=1 c=1").unwrap().contains("c was not there"));
    }

    #[test]
    fn odd_names_are_kept_whole() {
        let read = pairs(b"a\nb\tc\x001\0\x002\0");
        assert_eq!(read.get("a\nb\tc").unwrap(), "1");
        assert_eq!(read.get("").unwrap(), "2");
    }
}
