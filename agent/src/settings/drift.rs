//! `[drift]` in `agent.toml`: what is done where another hand has changed what is installed.

use serde::Deserialize;

/// The slowest look: below, a release of a gigabyte takes more than a day.
const LEAST: u64 = 64 * 1024;
const USUAL: u64 = 16 * 1024 * 1024;

/// What is done about what another hand has changed, and how gently it is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriftSettings {
    /// Whether the next update is refused, until what was changed is as it was signed again.
    pub refuses: bool,
    /// How fast installed files are read, bytes per second.
    pub most_bytes_per_second: u64,
}

impl Default for DriftSettings {
    fn default() -> DriftSettings {
        DriftSettings { refuses: false, most_bytes_per_second: USUAL }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    #[serde(default)]
    policy: Policy,
    most_bytes_per_second: Option<u64>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Policy {
    #[default]
    Show,
    Refuse,
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
        let refuses = match self.policy {
            Policy::Show => false,
            Policy::Refuse => true,
        };
        Ok(DriftSettings { refuses, most_bytes_per_second })
    }
}
