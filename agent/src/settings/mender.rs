//! `[mender]` in `agent.toml`: which update modules may be used, and what they find.

use std::path::PathBuf;

use refit_proto::names::Platform;
use serde::Deserialize;

use crate::host::modules::ModuleSettings;

/// Where Mender's client, and packages for it, put modules.
const MODULES: &str = "/usr/share/mender/modules/v3";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    modules: Option<PathBuf>,
    host_modules: Option<bool>,
    device_type: Option<String>,
}

impl Written {
    /// The settings, checked.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub(super) fn check(self, platform: &Platform) -> Result<ModuleSettings, String> {
        let folder = self.modules.unwrap_or_else(|| MODULES.into());
        if !folder.is_absolute() {
            return Err("mender.modules: must be an absolute path".to_owned());
        }
        let device_type = self.device_type.unwrap_or_else(|| platform.to_string());
        if device_type.is_empty() || device_type.chars().any(char::is_control) {
            return Err("mender.device_type: must be one line".to_owned());
        }
        let folder = self.host_modules.unwrap_or(true).then_some(folder);
        Ok(ModuleSettings { folder, device_type })
    }
}
