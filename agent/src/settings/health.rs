//! `[health]` in `agent.toml`: what is made of a service that is not healthy before its update.

use serde::Deserialize;

/// What becomes of an update where what runs before it is not healthy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RedBefore {
    /// It goes on, and what was red is told with its end: the release may be what repairs it.
    #[default]
    Note,
    /// It is refused before anything is saved or changed: whoever looks at a red service finds it as it was.
    Refuse,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    #[serde(default)]
    pub(super) red_before: RedBefore,
}
