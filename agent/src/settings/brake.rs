//! `[brake]` in `agent.toml`: how often this host may be updated, and how many failures of one product are
//! enough, whatever the server says.

use std::time::Duration;

use serde::Deserialize;

/// The host's own brake, beside its windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrakeSettings {
    /// Most updates that may begin in any 24 hours, of all products; `None`: no limit.
    pub most_updates_per_day: Option<u32>,
    /// So many failures of one product are enough; `None`: none ever are.
    pub failures: Option<u32>,
    /// Within this time.
    pub failures_within: Duration,
}

/// One or two bad releases happen; of five in a week, the sixth is no better.
const USUAL_FAILURES: u32 = 5;
const USUAL_DAYS: u32 = 7;
const DAYS: std::ops::RangeInclusive<u32> = 1..=365;
const DAY: u64 = 24 * 3600;

impl Default for BrakeSettings {
    fn default() -> BrakeSettings {
        BrakeSettings {
            most_updates_per_day: None,
            failures: Some(USUAL_FAILURES),
            failures_within: Duration::from_secs(u64::from(USUAL_DAYS) * DAY),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    most_updates_per_day: Option<u32>,
    failures: Option<u32>,
    failures_within_days: Option<u32>,
}

impl Written {
    /// The settings, checked.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub(super) fn check(self) -> Result<BrakeSettings, String> {
        if self.most_updates_per_day == Some(0) {
            return Err(
                "brake.most_updates_per_day: must be at least 1; to hold all of them off, \
                        use `refit-agent hold` or `[windows]`"
                    .to_owned(),
            );
        }
        let days = self.failures_within_days.unwrap_or(USUAL_DAYS);
        if !DAYS.contains(&days) {
            let (least, most) = (DAYS.start(), DAYS.end());
            return Err(format!("brake.failures_within_days: must be from {least} to {most}"));
        }
        Ok(BrakeSettings {
            most_updates_per_day: self.most_updates_per_day,
            failures: Some(self.failures.unwrap_or(USUAL_FAILURES))
                .filter(|failures| *failures > 0),
            failures_within: Duration::from_secs(u64::from(days) * DAY),
        })
    }
}
