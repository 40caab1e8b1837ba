//! `[windows]` in `agent.toml`: when this host may be updated, whatever the server says.

use jiff::tz::{self, TimeZone};
use refit_proto::windows::{Window, Windows};
use serde::Deserialize;

/// When the host's owner lets updates begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowSettings {
    /// The windows.
    pub open: Windows,
    /// By the clock on the wall of which zone; `None`: the host's own.
    pub zone: Option<String>,
}

impl WindowSettings {
    /// The zone by which the windows are read, as the host knows it now.
    ///
    /// # Errors
    /// If it can't be told: then nobody knows whether a window is open.
    pub fn time_zone(&self) -> Result<TimeZone, String> {
        match &self.zone {
            Some(name) => TimeZone::get(name).map_err(|error| format!("time zone {name}: {error}")),
            None => TimeZone::try_system()
                .map_err(|error| format!("this host's own time zone: {error}")),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    open: Vec<String>,
    zone: Option<String>,
}

impl Written {
    /// The settings, checked. A host without any time zones is not refused for that: it keeps its windows
    /// closed and says so.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub(super) fn check(self) -> Result<WindowSettings, String> {
        let windows = self.open.iter().map(|text| text.parse());
        let windows = windows.collect::<Result<Vec<Window>, _>>();
        let open =
            windows.and_then(Windows::try_from).map_err(|it| format!("windows.open: {it}"))?;
        let settings = WindowSettings { open, zone: self.zone };
        if settings.zone.is_some()
            && !tz::db().is_definitively_empty()
            && let Err(error) = settings.time_zone()
        {
            return Err(format!("windows.zone: {error}"));
        }
        Ok(settings)
    }
}
