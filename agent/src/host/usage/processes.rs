//! What one process uses, as its folder below `/proc` tells (proc(5)).

use std::{
    fs,
    io::{self, ErrorKind},
    path::Path,
};

/// Microseconds in the unit in which the kernel tells times: USER_HZ is 100 wherever this program runs.
const TICK: u64 = 10_000;
/// Where the times stand behind the program's name: `utime`, `stime`, and those of children that have ended.
const TIMES: std::ops::Range<usize> = 11..15;

/// Time on processors of the process and of its children that have ended, microseconds.
///
/// # Errors
/// If it has ended or the kernel does not tell.
pub(super) fn cpu_micros(process: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(process.join("stat"))?;
    // The name stands in brackets and may hold brackets itself.
    let times = text.rsplit_once(')').and_then(|(_, rest)| {
        let fields: Vec<&str> = rest.split_whitespace().collect();
        fields.get(TIMES)?.iter().map(|field| field.parse::<u64>().ok()).sum::<Option<u64>>()
    });
    times.map(|ticks| ticks.saturating_mul(TICK)).ok_or_else(|| super::unreadable("stat"))
}

/// Memory that belongs to no file, bytes; what several processes share counts for each.
///
/// # Errors
/// If it has ended or the kernel does not tell.
pub(super) fn memory(process: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(process.join("status"))?;
    let kib = |word: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(word))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    // Of a process that is ending nothing of this is told any more.
    let sum = kib("RssAnon:").unwrap_or(0).saturating_add(kib("RssShmem:").unwrap_or(0));
    Ok(sum.saturating_mul(1024))
}

/// Open file descriptors.
///
/// # Errors
/// If it has ended, or this user may not know.
pub(super) fn descriptors(process: &Path) -> io::Result<u64> {
    Ok(fs::read_dir(process.join("fd"))?.count() as u64)
}

/// Whether the error says that there is no such process any more.
pub(super) fn has_ended(error: &io::Error) -> bool {
    const NO_SUCH_PROCESS: i32 = 3;
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(NO_SUCH_PROCESS)
}
