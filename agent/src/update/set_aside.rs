//! What going back found in its way and has kept.

use std::{fmt, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Something that going back has set aside, instead of destroying it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// Where it is kept: a path, or a database by its server and name.
    pub place: String,
    /// Of data that a release has converted: from when to when it wrote, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<(i64, i64)>,
}

impl From<PathBuf> for SetAside {
    fn from(path: PathBuf) -> SetAside {
        SetAside { place: path.display().to_string(), written: None }
    }
}

impl fmt::Display for SetAside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        let Some((from, to)) = self.written else { return Ok(()) };
        let time = |second| Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH);
        write!(f, " (data, written from {} to {})", time(from), time(to.max(from)))
    }
}
