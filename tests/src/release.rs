//! Releases of the demo service, good and bad.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::Result;

use crate::process::program;

/// How a release of the demo service behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// It works.
    Good,
    /// It starts and fails its health check.
    Unhealthy,
    /// It takes connections and never answers.
    Hangs,
    /// It ends at once.
    Exits,
    /// It runs these commands of a shell, as root, before it answers well: what a bad release may do to
    /// its host.
    Runs(&'static str),
}

/// How long a release must prove itself, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Probation {
    /// A failing check is not yet bad.
    pub start: u32,
    /// All checks must be good for as long.
    pub good: u32,
}

impl Default for Probation {
    fn default() -> Probation {
        Probation { start: 1, good: 1 }
    }
}

/// Writes the folder that `refit release build` takes: the service, its version, and what the package
/// says of itself. `extra` is added to the package's description, as TOML.
///
/// # Errors
/// If the folder can't be written.
pub fn write(
    folder: &Path,
    version: &str,
    behaviour: Behaviour,
    probation: Probation,
    extra: &str,
) -> Result<()> {
    let tree = folder.join("tree");
    for inner in ["bin", "share"] {
        fs::create_dir_all(tree.join(inner))?;
    }
    let service = tree.join("bin/demo-service");
    fs::copy(program("demo-service")?, &service)?;
    fs::set_permissions(&service, fs::Permissions::from_mode(0o755))?;
    fs::write(tree.join("share/version"), version)?;
    let fault = match behaviour {
        Behaviour::Good => "none",
        Behaviour::Unhealthy => "unhealthy",
        Behaviour::Hangs => "hangs",
        Behaviour::Exits => "exits",
        Behaviour::Runs(commands) => {
            fs::write(tree.join("share/commands"), commands)?;
            "runs"
        }
    };
    fs::write(tree.join("share/fault"), fault)?;
    let Probation { start, good } = probation;
    let description = format!(
        r#"
[[services]]
name = "payments"
command = ["bin/demo-service", "${{PORT}}"]

[health.checked]
start_seconds = {start}
interval_seconds = 1
failures = 2
good_seconds = {good}
max_seconds = 600

[[health.checked.checks]]
name = "answers"
kind = "http"
url = "http://127.0.0.1:${{PORT}}/health"
timeout_seconds = 2

[plan]
goal = "show what {version} does"
owner = "the payments team"
{extra}"#
    );
    fs::write(folder.join("refit.toml"), description)?;
    Ok(())
}
