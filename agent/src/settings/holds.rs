//! `[holds]` in `agent.toml`: how long people on this host may hold updates off.

use std::time::Duration;

use serde::Deserialize;

const DAY: u64 = 86_400;
/// A week of holidays, and no month without security updates.
const USUAL_DAYS: u64 = 7;
/// More than a quarter is no hold but a host that is given up.
const DAYS: std::ops::RangeInclusive<u64> = 1..=90;

/// What the host's owner says of holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldSettings {
    /// How long one may last.
    pub longest: Duration,
    /// Members of which group of the host may hold, beside root.
    pub group: Option<String>,
}

impl Default for HoldSettings {
    fn default() -> HoldSettings {
        HoldSettings { longest: Duration::from_secs(USUAL_DAYS * DAY), group: None }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    longest_days: Option<u64>,
    group: Option<String>,
}

impl Written {
    /// The settings, checked.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub(super) fn check(self) -> Result<HoldSettings, String> {
        let days = self.longest_days.unwrap_or(USUAL_DAYS);
        if !DAYS.contains(&days) {
            let (least, most) = (DAYS.start(), DAYS.end());
            return Err(format!("holds.longest_days: must be from {least} to {most}"));
        }
        if self.group.as_deref().is_some_and(|group| group.is_empty() || group.contains(':')) {
            return Err("holds.group: must be the name of a group".to_owned());
        }
        Ok(HoldSettings { longest: Duration::from_secs(days * DAY), group: self.group })
    }
}
