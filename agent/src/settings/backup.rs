//! `[backup]` in `agent.toml`: how backups are made and for how long they are kept.

use std::{path::Path, time::Duration};

use serde::Deserialize;

use super::second::{self, SecondSettings};
use crate::host::backup::{Method, Methods, Outside, Retention};

/// What the agent's owner says of backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSettings {
    /// How long they are kept.
    pub retention: Retention,
    /// How they get hold of what they save, in order.
    pub methods: Methods,
    /// Most bytes that are restored for a test before an update; of a larger backup a sample is.
    pub restore_test: u64,
    /// Whose word counts for data where `methods` has `outside`, and only there.
    pub outside: Option<Outside>,
    /// Where they are copied; `None`: nowhere.
    pub second: Option<SecondSettings>,
}

impl Default for BackupSettings {
    fn default() -> BackupSettings {
        BackupSettings {
            retention: Retention::default(),
            methods: Methods::default(),
            restore_test: u64::MAX,
            outside: None,
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
    methods: Option<Vec<Method>>,
    restore_test_bytes: Option<u64>,
    outside: Option<WrittenOutside>,
    second: Option<second::Written>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenOutside {
    command: Vec<String>,
    max_age_hours: u32,
    max_test_age_days: u32,
    timeout_seconds: Option<u32>,
}

/// How long a command may take that asks somebody else's backup, seconds.
const USUAL_TIMEOUT: u32 = 60;

impl WrittenOutside {
    fn check(self) -> Result<Outside, String> {
        let WrittenOutside { command, max_age_hours, max_test_age_days, timeout_seconds } = self;
        let seconds = |n: u32, each: u64| Duration::from_secs(u64::from(n) * each);
        if !command.first().is_some_and(|program| program.starts_with('/')) {
            return Err("backup.outside.command: must begin with an absolute path".to_owned());
        }
        for (key, value) in
            [("max_age_hours", max_age_hours), ("max_test_age_days", max_test_age_days)]
        {
            if value == 0 {
                return Err(format!("backup.outside.{key}: must be at least 1"));
            }
        }
        let timeout = timeout_seconds.unwrap_or(USUAL_TIMEOUT);
        if !(1..=3600).contains(&timeout) {
            return Err("backup.outside.timeout_seconds: must be from 1 to 3600".to_owned());
        }
        Ok(Outside {
            command,
            max_age: seconds(max_age_hours, 3600),
            max_test_age: seconds(max_test_age_days, 24 * 3600),
            timeout: seconds(timeout, 1),
        })
    }
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
        let outside = self.outside.map(WrittenOutside::check).transpose()?;
        match (methods.ask_outside(), &outside) {
            (true, None) => {
                let why =
                    "backup.methods: names outside, and backup.outside says nothing of whom to ask";
                return Err(why.to_owned());
            }
            (false, Some(_)) => {
                return Err(
                    "backup.outside: is never asked; name outside in backup.methods".to_owned()
                );
            }
            (true, Some(_)) | (false, None) => {}
        }
        if self.keep == Some(0) {
            return Err("backup.keep: must be at least 1: one leads back from what runs".to_owned());
        }
        Ok(BackupSettings {
            methods,
            restore_test: self.restore_test_bytes.unwrap_or(u64::MAX),
            outside,
            retention: retention(self.keep, self.keep_days, self.keep_bytes),
            second: self.second.map(|second| second.check(data)).transpose()?,
        })
    }
}

/// For how long backups are kept, by what was written; what is left out is as usual.
pub(super) fn retention(keep: Option<usize>, days: Option<u32>, bytes: Option<u64>) -> Retention {
    let usual = Retention::default();
    let age = |days: u32| Duration::from_secs(u64::from(days) * 24 * 3600);
    Retention {
        count: keep.unwrap_or(usual.count),
        age: days.map_or(usual.age, age),
        bytes: bytes.unwrap_or(usual.bytes),
    }
}
