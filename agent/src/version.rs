//! Which version of the agent this program is: what it reports, and what a release of it has to be called.
//!
//! The version stands in the program once, behind a mark and in a field of fixed length, so that what a
//! program will say can be read from its bytes without running it.

/// What stands before the version in the program's bytes.
pub const MARK: &[u8; 22] = b"refit-agent is version";

/// How long a version may be, as a release's label.
const LONGEST: usize = 64;

/// The mark, a space, the version, and zeros up to its longest length.
const LENGTH: usize = MARK.len() + 1 + LONGEST;

/// A distributor's own version, else the source's.
const GIVEN: &str = match option_env!("REFIT_AGENT_VERSION") {
    Some(given) => given,
    None => env!("CARGO_PKG_VERSION"),
};

static MARKED: [u8; LENGTH] = marked(GIVEN.as_bytes());

const fn marked(version: &[u8]) -> [u8; LENGTH] {
    assert!(!version.is_empty() && version.len() <= LONGEST, "a version has 1 to 64 letters");
    let mut all = [0; LENGTH];
    let mut at = 0;
    while at < MARK.len() {
        all[at] = MARK[at];
        at += 1;
    }
    all[at] = b' ';
    at = 0;
    while at < version.len() {
        all[MARK.len() + 1 + at] = version[at];
        at += 1;
    }
    all
}

/// This program's version.
pub fn version() -> &'static str {
    // Read from the field itself: the compiler must not put a copy of what it knows in its place.
    let field: &'static [u8; LENGTH] = std::hint::black_box(&MARKED);
    let text = field[MARK.len() + 1..].split(|byte| *byte == 0).next().unwrap_or_default();
    std::str::from_utf8(text).unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_was_built_and_may_be_as_long_as_a_label() {
        assert_eq!(version(), GIVEN);
        let longest = [b'7'; LONGEST];
        assert!(marked(&longest).ends_with(&longest));
    }
}
