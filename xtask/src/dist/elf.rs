//! What a program needs of the C library. Its symbol versions stand in it as text: enough to tell the oldest
//! system that it runs on, with no tool to install.

/// The newest `GLIBC_2.x` that one of these programs asks for, as a version of Debian's libc6.
pub(super) fn newest_glibc<'a>(programs: impl IntoIterator<Item = &'a [u8]>) -> Option<String> {
    let minors = programs.into_iter().flat_map(minors);
    minors.max().map(|minor| format!("2.{minor}"))
}

fn minors(program: &[u8]) -> Vec<u32> {
    const PREFIX: &[u8] = b"GLIBC_2.";
    let starts = program.windows(PREFIX.len()).enumerate().filter(|(_, part)| *part == PREFIX);
    let minor = |(at, _): (usize, &[u8])| {
        let digits: String = program[at + PREFIX.len()..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .take(3)
            .map(|byte| char::from(*byte))
            .collect();
        digits.parse().ok()
    };
    starts.filter_map(minor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_all_programs_counts_and_as_a_number() {
        let programs: [&[u8]; 2] =
            [b"..GLIBC_2.4\0GLIBC_2.34\0GLIBC_2.", b"GLIBC_2.2.5\0GLIBC_2.9"];
        assert_eq!(newest_glibc(programs), Some("2.34".to_owned()));
        let none: [&[u8]; 1] = [b"static"];
        assert_eq!(newest_glibc(none), None);
    }
}
