//! `[backup]` in `agent.toml`: how backups are made and for how long they are kept.

use std::{path::Path, time::Duration};

use serde::Deserialize;

use super::second::{self, SecondSettings};
use crate::{
    host::backup::{Methods, Retention},
    update::BackupMethod,
};

/// What the agent's owner says of backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSettings {
    /// How long they are kept.
    pub retention: Retention,
    /// How they get hold of what they save, in order.
    pub methods: Methods,
    /// Most bytes that are restored for a test before an update; of a larger backup a sample is.
    pub restore_test: u64,
    /// Where they are copied; `None`: nowhere.
    pub second: Option<SecondSettings>,
}

impl Default for BackupSettings {
    fn default() -> BackupSettings {
        BackupSettings {
            retention: Retention::default(),
            methods: Methods::default(),
            restore_test: u64::MAX,
            second: None,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    keep: Option<usize>,
    keep_days: Option<u32>,
    keep_bytes: Option<u64>,
    methods: Option<Vec<BackupMethod>>,
    restore_test_bytes: Option<u64>,
    second: Option<second::Written>,
}

impl Written {
    /// The settings, checked. `data` is the agent's data folder.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub(super) fn check(self, data: &Path) -> Result<BackupSettings, String> {
        let methods = match self.methods {
            Some(order) => Methods::new(order).map_err(|why| format!("backup.methods: {why}"))?,
            None => Methods::default(),
        };
        let usual = Retention::default();
        if self.keep == Some(0) {
            return Err("backup.keep: must be at least 1: one leads back from what runs".to_owned());
        }
        Ok(BackupSettings {
            methods,
            restore_test: self.restore_test_bytes.unwrap_or(u64::MAX),
            retention: Retention {
                count: self.keep.unwrap_or(usual.count),
                age: self
                    .keep_days
                    .map_or(usual.age, |days| Duration::from_secs(u64::from(days) * 24 * 3600)),
                bytes: self.keep_bytes.unwrap_or(usual.bytes),
            },
            second: self.second.map(|second| second.check(data)).transpose()?,
        })
    }
}
