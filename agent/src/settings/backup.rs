//! `[backup]` in `agent.toml`: how long backups are kept.

use std::time::Duration;

use serde::Deserialize;

use crate::host::backup::Retention;

/// What the agent's owner says of backups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupSettings {
    /// How long they are kept.
    pub retention: Retention,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    keep: Option<usize>,
    keep_days: Option<u32>,
    keep_bytes: Option<u64>,
}

impl Written {
    /// The settings, checked.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub(super) fn check(self) -> Result<BackupSettings, String> {
        let usual = Retention::default();
        if self.keep == Some(0) {
            return Err("backup.keep: must be at least 1: one leads back from what runs".to_owned());
        }
        Ok(BackupSettings {
            retention: Retention {
                count: self.keep.unwrap_or(usual.count),
                age: self
                    .keep_days
                    .map_or(usual.age, |days| Duration::from_secs(u64::from(days) * 24 * 3600)),
                bytes: self.keep_bytes.unwrap_or(usual.bytes),
            },
        })
    }
}
