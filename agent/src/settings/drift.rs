//! `[drift]` in `agent.toml`: what is done where another hand has changed what is installed.

use serde::Deserialize;

/// The slowest look: below, a release of a gigabyte takes more than a day.
const LEAST: u64 = 64 * 1024;
const USUAL: u64 = 16 * 1024 * 1024;

/// What is done about what another hand has changed, and how gently it is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriftSettings {
    /// What is done.
    pub policy: DriftPolicy,
    /// How fast installed files are read, bytes per second.
    pub most_bytes_per_second: u64,
}

impl Default for DriftSettings {
    fn default() -> DriftSettings {
        DriftSettings { policy: DriftPolicy::Show, most_bytes_per_second: USUAL }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    #[serde(default)]
    policy: DriftPolicy,
    most_bytes_per_second: Option<u64>,
}

/// What is done about what another hand has changed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriftPolicy {
    /// It is shown.
    #[default]
    Show,
    /// The next update is refused too, until what was changed is as it was signed again.
    Refuse,
    /// It is put back.
    Repair,
}

impl Written {
    /// The settings, checked.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub(super) fn check(self) -> Result<DriftSettings, String> {
        let most_bytes_per_second = self.most_bytes_per_second.unwrap_or(USUAL);
        if most_bytes_per_second < LEAST {
            return Err(format!("drift.most_bytes_per_second: must be at least {LEAST}"));
        }
        Ok(DriftSettings { policy: self.policy, most_bytes_per_second })
    }
}
