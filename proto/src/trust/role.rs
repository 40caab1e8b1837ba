//! The roles that sign metadata, how they are written, and which target paths each of ours may sign.
//! Who holds a role's keys is told by root and targets metadata, not here.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::names::{Product, RingName};

/// Longest role or target name.
pub const MAX_NAME: usize = 255;

/// A role of the metadata: the four of TUF, and those that `targets` delegates to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Offline keys that name all others.
    Root,
    /// Offline keys that delegate to products, rings and policy.
    Targets,
    /// Lists the version of every targets file.
    Snapshot,
    /// Names the newest snapshot.
    Timestamp,
    /// Signs which hosts belong to which ring: `policy`.
    Policy,
    /// Signs the releases of a product: `release.payments`.
    Release(Product),
    /// Signs what a ring may run: `ring.payments.pilot`.
    Ring(Product, RingName),
    /// A delegated role that means nothing to Refit. It is followed as TUF demands, and permits nothing.
    Other(OtherRole),
}

/// The name of a delegated role that is none of ours. Made by [`Role::named`] alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OtherRole(String);

/// Why a word names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a role\nhelp: roles are root, targets, snapshot, timestamp, policy, \
     release.<product> and ring.<product>.<ring>"
)]
pub struct RoleError(String);

impl Role {
    /// Parses the name of one of Refit's roles.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(name: &str) -> Result<Role, RoleError> {
        let error = || RoleError(name.chars().take(80).collect());
        let mut words = name.split('.');
        let role = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("root"), None, ..) => Role::Root,
            (Some("targets"), None, ..) => Role::Targets,
            (Some("snapshot"), None, ..) => Role::Snapshot,
            (Some("timestamp"), None, ..) => Role::Timestamp,
            (Some("policy"), None, ..) => Role::Policy,
            (Some("release"), Some(product), None, _) => {
                Role::Release(Product::parse(product).map_err(|_| error())?)
            }
            (Some("ring"), Some(product), Some(ring), None) => Role::Ring(
                Product::parse(product).map_err(|_| error())?,
                RingName::parse(ring).map_err(|_| error())?,
            ),
            _ => return Err(error()),
        };
        Ok(role)
    }

    /// The role of that name, also one that is none of ours.
    ///
    /// # Errors
    /// If the name is empty, longer than [`MAX_NAME`], or holds what a terminal would act on.
    pub fn named(name: &str) -> Result<Role, RoleError> {
        if name.is_empty() || name.len() > MAX_NAME || crate::printable::printable(name) != name {
            return Err(RoleError(name.chars().take(80).collect()));
        }
        Ok(Role::parse(name).unwrap_or_else(|_| Role::Other(OtherRole(name.to_owned()))))
    }

    /// Named by root itself, never by a delegation.
    pub fn is_top_level(&self) -> bool {
        match self {
            Role::Root | Role::Targets | Role::Snapshot | Role::Timestamp => true,
            Role::Policy | Role::Release(_) | Role::Ring(..) | Role::Other(_) => false,
        }
    }

    /// The pattern of the target paths that this role may sign; none for the four of TUF and for
    /// roles that are not ours.
    pub fn pattern(&self) -> Option<String> {
        match self {
            Role::Policy => Some("policy/*".to_owned()),
            Role::Release(product) => Some(format!("releases/{product}/*")),
            Role::Ring(product, ring) => Some(format!("rings/{product}/{ring}/*")),
            Role::Root | Role::Targets | Role::Snapshot | Role::Timestamp | Role::Other(_) => None,
        }
    }

    /// The name of the role's file in a folder or URL: `release.payments.json`. Whatever could be a step
    /// in a path is percent-encoded, so that no role's name leaves the folder.
    pub fn file_name(&self) -> String {
        let mut name = String::new();
        for byte in self.to_string().bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'~') {
                name.push(char::from(byte));
            } else {
                name.push_str(&format!("%{byte:02X}"));
            }
        }
        name.push_str(".json");
        name
    }

    /// The role whose [`Role::file_name`] this is; `None` if it is no role's.
    pub fn of_file_name(name: &str) -> Option<Role> {
        let role = Role::named(&percent_decoded(name.strip_suffix(".json")?)?).ok()?;
        (role.file_name() == name).then_some(role)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Root => f.write_str("root"),
            Role::Targets => f.write_str("targets"),
            Role::Snapshot => f.write_str("snapshot"),
            Role::Timestamp => f.write_str("timestamp"),
            Role::Policy => f.write_str("policy"),
            Role::Release(product) => write!(f, "release.{product}"),
            Role::Ring(product, ring) => write!(f, "ring.{product}.{ring}"),
            Role::Other(OtherRole(name)) => f.write_str(name),
        }
    }
}

/// The bytes that a percent-encoded text stands for.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// Which target paths a delegation covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Paths {
    /// Shell patterns; `*` and `?` never match a `/`.
    Patterns(Vec<String>),
    /// Beginnings of the hex SHA-256 of the path.
    HashPrefixes(Vec<String>),
}

impl Paths {
    /// Whether the delegation covers this path.
    pub fn cover(&self, path: &str) -> bool {
        match self {
            Paths::Patterns(patterns) => patterns.iter().any(|pattern| matches(pattern, path)),
            Paths::HashPrefixes(prefixes) => {
                let digest = crate::names::Digest::from(<[u8; 32]>::from(Sha256::digest(path)));
                let hex = digest.to_string();
                prefixes.iter().any(|prefix| hex.starts_with(prefix.as_str()))
            }
        }
    }
}

/// Whether a path is one that we sign: ASCII letters, digits, `.`, `_`, `-`, in segments that are
/// neither empty nor a step upwards.
pub fn is_safe_path(path: &str) -> bool {
    path.len() <= MAX_NAME
        && path.split('/').all(|segment| {
            !matches!(segment, "" | "." | "..")
                && segment
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        })
}

/// Matches segment by segment, so that no wildcard crosses a `/`.
pub fn matches(pattern: &str, path: &str) -> bool {
    let (mut patterns, mut segments) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), segments.next()) {
            (None, None) => return true,
            (Some(pattern), Some(segment)) => {
                let pattern: Vec<char> = pattern.chars().collect();
                let segment: Vec<char> = segment.chars().collect();
                if !segment_matches(&pattern, &segment) {
                    return false;
                }
            }
            (Some(_), None) | (None, Some(_)) => return false,
        }
    }
}

/// Goes back to the last `*` only, so the work is at most the product of both lengths.
fn segment_matches(pattern: &[char], segment: &[char]) -> bool {
    let (mut p, mut s) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while s < segment.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, s));
                p += 1;
            }
            Some(&c) if c == '?' || c == segment[s] => {
                p += 1;
                s += 1;
            }
            _ => match star {
                Some((star_p, star_s)) => {
                    p = star_p + 1;
                    s = star_s + 1;
                    star = Some((star_p, s));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> Role {
        Role::parse("ring.payments.pilot").unwrap()
    }

    #[test]
    fn a_role_is_read_as_it_is_written() {
        for name in [
            "root",
            "targets",
            "snapshot",
            "timestamp",
            "policy",
            "release.payments",
            "ring.payments.pilot",
        ] {
            assert_eq!(Role::parse(name).unwrap().to_string(), name);
        }
    }

    #[test]
    fn a_word_that_is_almost_a_role_is_none() {
        for bad in [
            "",
            "Root",
            "root.",
            ".root",
            "root.json",
            "policy.x",
            "release",
            "release.",
            "release.Payments",
            "release.payments.pilot",
            "ring.payments",
            "ring.payments.",
            "ring.payments.pilot.x",
            "ring..pilot",
            "release.../../x",
            "ring.a/b.c",
        ] {
            assert!(Role::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_role_signs_its_own_paths_and_no_others() {
        let pattern = ring().pattern().unwrap();
        assert!(matches(&pattern, "rings/payments/pilot/2.4.1.json"));
        for foreign in [
            "rings/payments/early/2.4.1.json",
            "rings/payments/pilot/a/b.json",
            "rings/payments/pilot",
            "releases/payments/2.4.1.json",
            "rings/payments/pilot/../early/1.json",
            "rings/payments-x/pilot/1",
        ] {
            assert!(!matches(&pattern, foreign), "{foreign}");
        }
        assert_eq!(Role::Policy.pattern().as_deref(), Some("policy/*"));
        assert_eq!(
            Role::parse("release.payments").unwrap().pattern().as_deref(),
            Some("releases/payments/*")
        );
    }

    #[test]
    fn wildcards_never_cross_a_slash() {
        assert!(matches("a/*/c", "a/b/c"));
        assert!(!matches("a/*", "a/b/c"));
        assert!(!matches("*", "a/b"));
        assert!(!matches("a?b", "a/b"));
        assert!(matches("*.tgz", ".tgz"));
        assert!(matches("a*b*c", "axxbxxbc"));
        assert!(!matches("a*b*c", "axxbxx"));
        assert!(matches("**", "x") && matches("*", ""));
    }

    #[test]
    fn a_pattern_made_to_be_slow_is_not() {
        let path = "a".repeat(MAX_NAME);
        assert!(!matches(&"*a".repeat(127).replace("*a*a", "*a*b"), &path));
    }

    #[test]
    fn hash_prefixes_cover_by_the_digest_of_the_path() {
        let hex = crate::names::Digest::of(b"a/b").to_string();
        assert!(Paths::HashPrefixes(vec![hex[..4].to_owned()]).cover("a/b"));
        assert!(!Paths::HashPrefixes(vec![hex[..4].to_owned()]).cover("a/c"));
    }

    /// CVE-2021-41131.
    #[test]
    fn no_role_name_leaves_the_folder_of_its_file() {
        for name in ["../../x", "/etc/passwd", "a/b", "..", ".", "%2e%2e", "a\\b", "ä"] {
            let file = Role::named(name).unwrap().file_name();
            assert!(!file.contains(['/', '\\', '\0']), "{file}");
            assert!(!matches!(file.as_str(), "." | ".."), "{file}");
            assert_eq!(Role::of_file_name(&file), Some(Role::named(name).unwrap()));
        }
        assert_eq!(Role::named("../x").unwrap().file_name(), "..%2Fx.json");
        for none in ["x", ".json", "a/b.json", "%2.json", "%zz.json", "%61.json", "%FF.json"] {
            assert_eq!(Role::of_file_name(none), None, "{none}");
        }
        assert!(["", "a\0b", &"x".repeat(256)].iter().all(|name| Role::named(name).is_err()));
    }

    /// CVE-2026-6968.
    #[test]
    fn unsafe_paths_are_told() {
        assert!(is_safe_path("rings/payments/pilot/2.4.1.json"));
        for bad in
            ["", "/a", "a/", "a//b", "a/../b", "./a", "a b", "a\\b", "ä", "a\n", &"a".repeat(256)]
        {
            assert!(!is_safe_path(bad), "{bad:?}");
        }
    }
}
