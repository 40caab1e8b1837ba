//! A backup that a host keeps, as it says itself: bounded, whatever it says.

use refit_proto::wire;
use serde::{Deserialize, Serialize};

/// Most of one host that are kept.
const MOST: usize = 20;
/// Longest word, name or hash.
const LONGEST_WORD: usize = 128;
/// Longest sentence.
const LONGEST_TEXT: usize = 300;

/// A backup on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedBackup {
    id: String,
    product: String,
    from: String,
    to: String,
    made: String,
    bytes: u64,
    state: String,
    seal: String,
    second: String,
    second_failure: String,
    #[serde(default)]
    outside: String,
}

impl ReportedBackup {
    /// What a host said, cut where it says too much.
    pub fn all(said: &[wire::BackupState]) -> Vec<ReportedBackup> {
        said.iter().take(MOST).cloned().map(ReportedBackup::from).collect()
    }
}

fn cut(text: String, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        Some((at, _)) => text[..at].to_owned(),
        None => text,
    }
}

impl From<wire::BackupState> for ReportedBackup {
    fn from(said: wire::BackupState) -> ReportedBackup {
        let word = |text| cut(text, LONGEST_WORD);
        ReportedBackup {
            id: word(said.id),
            product: word(said.product),
            from: word(said.from),
            to: word(said.to),
            made: word(said.made),
            bytes: said.bytes,
            state: word(said.state),
            seal: word(said.seal),
            second: word(said.second),
            second_failure: cut(said.second_failure, LONGEST_TEXT),
            outside: cut(said.outside, LONGEST_TEXT),
        }
    }
}

impl From<ReportedBackup> for wire::BackupState {
    fn from(kept: ReportedBackup) -> wire::BackupState {
        let ReportedBackup {
            id,
            product,
            from,
            to,
            made,
            bytes,
            state,
            seal,
            second,
            second_failure,
            outside,
        } = kept;
        wire::BackupState {
            id,
            product,
            from,
            to,
            made,
            bytes,
            state,
            seal,
            second,
            second_failure,
            outside,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_much_a_host_says_of_its_backups_a_bounded_part_is_kept() {
        let long = || "\u{e9}".repeat(100_000);
        let said = wire::BackupState { id: long(), second_failure: long(), ..Default::default() };
        let kept = ReportedBackup::all(&vec![said; 100]);
        assert_eq!(kept.len(), MOST);
        let shown = wire::BackupState::from(kept[0].clone());
        assert_eq!(shown.id.chars().count(), LONGEST_WORD);
        assert_eq!(shown.second_failure.chars().count(), LONGEST_TEXT);
    }
}
