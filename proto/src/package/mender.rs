//! A package that a Mender update module (protocol 3) installs: which module, and what the module is told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Entry, HookNeeds, manifest::Service};

/// The folder of the tree whose files are the payload.
pub const PAYLOAD: &str = "payload";
/// The file of the tree that the module finds as `header/meta-data`.
pub const META_DATA: &str = "meta-data";
/// The folder of the tree with the module itself, where the package brings it.
pub const MODULE: &str = "module";

/// What the protocol says of a payload beside its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MenderPayload {
    /// The payload type, which is the module's file name: `single-file`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name to Mender; by default product and version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its group to Mender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What the payload provides.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub provides: BTreeMap<String, String>,
    /// What the payload depends on. `device_type` is checked against the host's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub depends: BTreeMap<String, Vec<String>>,
    /// What it takes away of what was provided before, by pattern.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clears_provides: Vec<String>,
    /// Longest time for one call of the module, seconds.
    #[serde(default = "four_hours")]
    pub timeout_seconds: u32,
    /// How much memory one call of it may take, with all that it starts, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
    /// How many processes and threads it may have at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u32>,
    /// The publisher's word that the module itself brings everything back that it changes. Without it, the
    /// package names under `backup` what the module changes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rolls_back: bool,
}

/// Mender's `ModuleTimeoutSeconds`.
fn four_hours() -> u32 {
    14_400
}

impl MenderPayload {
    /// Whether a payload can be put together from this tree.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(super) fn check(&self, entries: &[Entry], services: &[Service]) -> Result<(), String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let kind = &self.kind;
        if kind.is_empty() || kind.starts_with('.') || !kind.bytes().all(plain) || kind.len() > 64 {
            return Err(format!("{kind:?} is no payload type: letters, digits and `-_.`"));
        }
        if self.timeout_seconds == 0 || self.timeout_seconds > 86_400 {
            return Err("a call of its module has no time, or more than a day".into());
        }
        HookNeeds::check_limits(self.memory_mb, self.tasks, "an update module")?;
        let texts = [&self.name, &self.group];
        if texts.into_iter().flatten().any(|text| text.chars().any(char::is_control)) {
            return Err("the name or group of its payload is more than one line".into());
        }
        if let Some(entry) = entries.iter().find(|entry| !self.is_part(entry)) {
            return Err(format!(
                "{} is no part of a payload: files in {PAYLOAD}/, {META_DATA}, {MODULE}/{kind}",
                entry.path()
            ));
        }
        let own = |service: &Service| service.command.is_empty() && service.unit_file.is_none();
        match services.iter().find(|service| !own(service)) {
            Some(service) => {
                Err(format!("{} has a command or unit: its module brings that", service.name))
            }
            None => Ok(()),
        }
    }

    fn is_part(&self, entry: &Entry) -> bool {
        let path = entry.path().as_str();
        match entry {
            Entry::Directory { .. } => path == PAYLOAD || path == MODULE,
            Entry::File { mode, .. } => match path.split_once('/') {
                None => path == META_DATA,
                Some((MODULE, name)) => name == self.kind && mode & 0o100 != 0,
                // A line of `stream-next` ends a name, and a space its path.
                Some((PAYLOAD, name)) => {
                    !name.contains('/') && !name.chars().any(|c| c.is_whitespace())
                }
                Some(_) => false,
            },
            Entry::Link { .. } => false,
        }
    }
}
