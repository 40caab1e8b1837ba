//! A backup that a host keeps, as it says itself: bounded, whatever it says.

use refit_proto::wire;
use serde::{Deserialize, Serialize};

/// Most of one host that are kept.
const MOST: usize = 20;
/// Longest word, name or hash.
const LONGEST_WORD: usize = 128;
/// Longest sentence.
const LONGEST_TEXT: usize = 300;

/// A backup that its host is asked to read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupCheck {
    /// Which.
    pub backup: String,
    /// Tells this request from those before it.
    pub asked: String,
}

impl BackupCheck {
    /// Whether it waits for its answer: the host still has the backup, and has not answered.
    pub fn waits(&self, backups: &[ReportedBackup]) -> bool {
        let here = backups.iter().find(|backup| backup.id == self.backup);
        here.is_some_and(|backup| backup.verified_for != self.asked)
    }
}

/// Most damages of one backup that are kept.
const MOST_DAMAGES: usize = 5;

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
    #[serde(default)]
    verified: String,
    #[serde(default)]
    verified_for: String,
    #[serde(default)]
    damages: Vec<String>,
}

impl ReportedBackup {
    /// Its id, as the host says.
    pub fn id(&self) -> &str {
        &self.id
    }

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
            verified: word(said.verified),
            verified_for: word(said.verified_for),
            damages: said
                .damages
                .into_iter()
                .take(MOST_DAMAGES)
                .map(|damage| cut(damage, LONGEST_TEXT))
                .collect(),
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
            verified,
            verified_for,
            damages,
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
            verified,
            verified_for,
            damages,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_much_a_host_says_of_its_backups_a_bounded_part_is_kept() {
        let long = || "\u{e9}".repeat(100_000);
        let said = wire::BackupState {
            id: long(),
            second_failure: long(),
            damages: vec![long(); 100],
            ..Default::default()
        };
        let kept = ReportedBackup::all(&vec![said; 100]);
        assert_eq!(kept.len(), MOST);
        let shown = wire::BackupState::from(kept[0].clone());
        assert_eq!(shown.id.chars().count(), LONGEST_WORD);
        assert_eq!(shown.second_failure.chars().count(), LONGEST_TEXT);
        assert_eq!(shown.damages.len(), MOST_DAMAGES);
        assert_eq!(shown.damages[0].chars().count(), LONGEST_TEXT);
    }

    #[test]
    fn a_request_waits_until_it_is_answered_or_the_backup_is_gone() {
        let check = BackupCheck { backup: "b1".into(), asked: "2".into() };
        let said = |id: &str, answered: &str| wire::BackupState {
            id: id.into(),
            verified_for: answered.into(),
            ..Default::default()
        };
        for (backups, waits) in [
            (vec![said("b0", "2"), said("b1", "")], true),
            (vec![said("b1", "1")], true),
            (vec![said("b1", "2")], false),
            (vec![said("b0", "")], false),
        ] {
            assert_eq!(check.waits(&ReportedBackup::all(&backups)), waits, "{backups:?}");
        }
    }
}
