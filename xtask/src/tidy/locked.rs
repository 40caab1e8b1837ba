//! Versions of other people's crates that hold a known hole: none of them may be in Cargo.lock.

use super::Tree;

/// A crate, the advisory, and the first version without the hole.
const FIXED: [(&str, &str, [u64; 3]); 4] = [
    ("ed25519-dalek", "RUSTSEC-2022-0093", [2, 0, 0]),
    ("curve25519-dalek", "RUSTSEC-2024-0344", [4, 1, 3]),
    ("tonic", "RUSTSEC-2024-0376", [0, 12, 3]),
    ("h2", "RUSTSEC-2026-0258", [0, 4, 16]),
];

/// Unpackers of archives, in which so many of these holes were: nothing of ours needs one.
const UNWANTED: [&str; 4] = ["tar", "tokio-tar", "astral-tokio-tar", "async-tar"];

/// What Cargo.lock holds and should not.
pub(super) fn no_known_hole_is_locked(tree: &Tree) -> Vec<String> {
    problems(tree.text("Cargo.lock").unwrap_or_default())
}

fn problems(lock: &str) -> Vec<String> {
    let locked = locked(lock);
    let mut problems = Vec::new();
    for (name, advisory, fixed) in FIXED {
        let mut versions = locked.iter().filter(|(locked, _)| *locked == name).peekable();
        if versions.peek().is_none() {
            problems.push(format!("Cargo.lock has no {name}: its rule is of no use any more"));
        }
        for (_, version) in versions.filter(|(_, version)| parse(version) < Some(fixed)) {
            problems.push(format!("Cargo.lock: {name} {version} has the hole {advisory}"));
        }
    }
    let unwanted = locked.iter().filter(|(name, _)| UNWANTED.contains(name));
    problems.extend(unwanted.map(|(name, _)| {
        format!("Cargo.lock: {name} unpacks archives; packages are files by digest")
    }));
    problems
}

fn locked(lock: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut name = "";
    for line in lock.lines() {
        let value = line.split_once(" = ").map(|(key, value)| (key, value.trim_matches('"')));
        match value {
            Some(("name", value)) => name = value,
            Some(("version", value)) if !name.is_empty() => found.push((name, value)),
            Some(_) | None => {}
        }
    }
    found
}

/// Numbers of a version; what follows them is told by a lower number, to be on the safe side.
fn parse(version: &str) -> Option<[u64; 3]> {
    let numbers = version.split(['-', '+']).next()?;
    let mut parts = numbers.split('.').map(str::parse);
    let mut next = || parts.next()?.ok();
    Some([next()?, next()?, next()?])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cargo::workspace;

    /// RUSTSEC-2022-0093 and RUSTSEC-2024-0344 (ed25519-dalek, curve25519-dalek), RUSTSEC-2024-0376 and
    /// RUSTSEC-2026-0258 (tonic, h2).
    #[test]
    fn what_we_build_with_has_none_of_the_known_holes() {
        let lock = fs::read_to_string(workspace().join("Cargo.lock")).unwrap();
        assert_eq!(problems(&lock), Vec::<String>::new());
    }

    #[test]
    fn an_older_version_or_an_unpacker_of_archives_is_told() {
        let lock = fs::read_to_string(workspace().join("Cargo.lock")).unwrap();
        for (name, advisory, fixed) in FIXED {
            let [major, minor, patch] = fixed;
            let before = if patch > 0 {
                format!("{major}.{minor}.{}", patch - 1)
            } else {
                format!("{}.9.9", major - 1)
            };
            let old = format!("{lock}\n[[package]]\nname = \"{name}\"\nversion = \"{before}\"\n");
            assert!(problems(&old)[0].contains(advisory), "{name} {before}");
        }
        let tar = format!("{lock}\n[[package]]\nname = \"tar\"\nversion = \"0.4.44\"\n");
        assert_eq!(problems(&tar).len(), 1);
        assert_eq!(problems("").len(), FIXED.len(), "a rule about nothing is told");
    }
}
