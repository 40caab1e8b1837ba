//! Where a file of a package may lie: inside its folder and nowhere else.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A relative path inside a package: normal components only, so that joining it to a folder stays in
/// that folder (as long as no component is a link, which the installer sees to).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PackagePath(String);

/// Why a path is not one inside a package.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path {path:?} is not inside the package: {rule}")]
pub struct PathError {
    path: String,
    rule: &'static str,
}

/// Linux's own limits: NAME_MAX, and PATH_MAX with room for the folder that the package is put into.
const LONGEST_COMPONENT: usize = 255;
const LONGEST_PATH: usize = 2048;

impl PackagePath {
    /// Parses a path as a manifest writes it, with `/` between components.
    ///
    /// # Errors
    /// An absolute path, an empty, `.` or `..` component, a control character, or one too long.
    pub fn parse(text: &str) -> Result<PackagePath, PathError> {
        let refuse = |rule| Err(PathError { path: text.chars().take(120).collect(), rule });
        if text.is_empty() || text.len() > LONGEST_PATH {
            return refuse("it must have 1 to 2048 bytes");
        }
        if text.chars().any(char::is_control) {
            return refuse("it holds a control character");
        }
        for component in text.split('/') {
            match component {
                "" => return refuse("it is absolute or has an empty component"),
                "." | ".." => return refuse("it has a . or .. component"),
                long if long.len() > LONGEST_COMPONENT => {
                    return refuse("a component is longer than 255 bytes");
                }
                _ => {}
            }
        }
        Ok(PackagePath(text.to_owned()))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path of the folder that it lies in; `None` at the top.
    pub fn parent(&self) -> Option<PackagePath> {
        self.0.rsplit_once('/').map(|(parent, _)| PackagePath(parent.to_owned()))
    }

    /// Whether a symbolic link at this path with this target stays inside the package.
    pub fn keeps_link_inside(&self, target: &str) -> bool {
        let mut depth = self.0.split('/').count() - 1;
        if target.is_empty() || target.starts_with('/') || target.len() > LONGEST_PATH {
            return false;
        }
        for component in target.split('/') {
            match component {
                "" | "." => {}
                ".." => match depth.checked_sub(1) {
                    Some(up) => depth = up,
                    None => return false,
                },
                _ => depth += 1,
            }
        }
        !target.chars().any(char::is_control)
    }
}

impl fmt::Display for PackagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for PackagePath {
    type Error = PathError;
    fn try_from(text: String) -> Result<Self, PathError> {
        PackagePath::parse(&text)
    }
}

impl From<PackagePath> for String {
    fn from(path: PackagePath) -> String {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_never_leaves_its_package() {
        for good in ["a", "bin/payments", "a b/ü", "...", "a/..b"] {
            assert!(PackagePath::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "/etc/passwd", "..", "a/../b", "a/./b", "a//b", "a/", "./a", "a\nb", "a\0"]
        {
            assert!(PackagePath::parse(bad).is_err(), "{bad:?}");
        }
    }

    /// CVE-2021-38511, CVE-2026-33055, CVE-2026-33056, RUSTSEC-2025-0110, CVE-2025-62518.
    #[test]
    fn a_link_never_points_out_of_its_package() {
        let link = PackagePath::parse("lib/x/link").unwrap();
        for good in ["file", "../file", "../../bin/file", "./a/../b"] {
            assert!(link.keeps_link_inside(good), "{good}");
        }
        for bad in ["", "/etc/passwd", "../../../file", "a/../../../../b", "a\nb"] {
            assert!(!link.keeps_link_inside(bad), "{bad:?}");
        }
    }
}
