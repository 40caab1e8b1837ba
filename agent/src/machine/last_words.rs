//! What a failed release's services wrote last: kept on the host, its end for the report.

use std::path::{Path, PathBuf};

use refit_proto::sorted;

use super::HostMachine;
use crate::{
    host::{
        files::{self, FileError},
        process::end_of_text as end,
    },
    update::Attempt,
};

/// What is kept on the host of each failed update, bytes.
const KEPT: usize = 1 << 20;
/// What of it is reported.
const REPORTED: usize = 8 << 10;
/// Of how many failed updates it is kept.
const UPDATES: usize = 5;

impl HostMachine {
    /// Keeps what the release of the attempt wrote, and says the end of it. Kept once: a try that is repeated
    /// must not lose it. That it can't be kept is told in the log, and stops nobody from going back.
    pub(super) fn keep_log(&mut self, attempt: &Attempt) -> String {
        let path = self.logs().join(format!("{}.log", attempt.install));
        if let Ok(kept) = files::read_file(&*self.files, &path, KEPT as u64) {
            return end(&String::from_utf8_lossy(&kept), REPORTED).to_owned();
        }
        let Ok(after) = self.after(attempt) else { return String::new() };
        let mut log = String::new();
        let own = super::own::logged(attempt);
        for unit in self.units_of(&after).into_iter().chain(own) {
            log.push_str(&self.manager.services().log(&unit));
        }
        let log: String =
            log.chars().map(|c| if c == '\n' || !c.is_control() { c } else { ' ' }).collect();
        let log = end(&log, KEPT);
        if !log.is_empty()
            && let Err(error) = self.keep(&path, log)
        {
            tracing::warn!("the log of the failed release is not kept on this host: {error}");
        }
        end(log, REPORTED).to_owned()
    }

    fn logs(&self) -> PathBuf {
        self.data.join("failed")
    }

    fn keep(&self, path: &Path, log: &str) -> Result<(), FileError> {
        files::create_dirs(&*self.files, &self.logs(), 0o700)?;
        let mut older = Vec::new();
        for name in self.files.list(&self.logs())? {
            let path = self.logs().join(name);
            let changed = self.files.stat(&path)?.map(|stat| stat.modified);
            older.push((changed, path));
        }
        sorted::sort(&mut older);
        let too_many = (older.len() + 1).saturating_sub(UPDATES);
        for (_, path) in older.iter().take(too_many) {
            files::remove_tree(&*self.files, path)?;
        }
        files::write_file(&*self.files, path, log.as_bytes(), 0o600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_whole_lines_and_no_more_than_asked_for() {
        assert_eq!(end("one\ntwo\nthree\n", 100), "one\ntwo\nthree\n");
        assert_eq!(end("one\ntwo\nthree\n", 9), "three\n");
        assert_eq!(end("no line ends here", 4), "here");
        assert_eq!(end("ääää", 3), "ä");
    }
}
