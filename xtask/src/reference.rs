//! What tests need that is written in Python, each in a virtual environment of its own below `target`: the
//! reference implementation of TUF, and an S3-compatible store. Also the conformance client. Where an
//! environment can't be made, the tests themselves say that they did not run.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::cargo;

/// Something written in Python that tests need.
pub(crate) struct Needed {
    /// The variable by which tests are told the interpreter that has it.
    pub(crate) variable: &'static str,
    /// Exact versions of everything that is installed.
    requirements: &'static str,
    /// The folder of its environment.
    folder: &'static str,
}

/// All of it.
pub(crate) const NEEDED: [Needed; 2] = [
    Needed {
        variable: "REFIT_REFERENCE_PYTHON",
        requirements: "tests/tests/reference/requirements.txt",
        folder: "reference-implementation",
    },
    Needed {
        variable: "REFIT_S3_SERVER_PYTHON",
        requirements: "agent/copy/tests/s3/requirements.txt",
        folder: "s3-server",
    },
];

/// The interpreter that has it; `None` where it can't be had, after `python3` or `pip` has said why.
pub(crate) fn python(needed: &Needed) -> Result<Option<PathBuf>> {
    let requirements = cargo::workspace().join(needed.requirements);
    let wanted = fs::read_to_string(&requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    let folder = cargo::binaries().join(needed.folder);
    let python = folder.join("bin/python");
    // Written last: a folder without it is one that was not finished.
    let made_of = folder.join("made-of.txt");
    if python.is_file() && fs::read_to_string(&made_of).is_ok_and(|text| text == wanted) {
        return Ok(Some(python));
    }
    let done = succeeds(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))
        && succeeds(
            Command::new(&python)
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
                .arg("--requirement")
                .arg(&requirements),
        );
    if !done {
        return Ok(None);
    }
    fs::write(&made_of, wanted).with_context(|| format!("cannot write {}", made_of.display()))?;
    Ok(Some(python))
}

/// Builds the one program that knows P-256 and RSA, alone: a build of the whole workspace would give
/// its feature to the shipped programs too.
pub(crate) fn build_client(features: &str) -> Result<bool> {
    let features = format!("{features},refit-tests/conformance");
    let mut build = cargo::cargo(&["build", "--quiet", "--workspace"]);
    build.args(["--bin", "tuf-conformance-client", "--features", &features]);
    Ok(build.status().context("cannot start cargo build")?.success())
}

fn succeeds(command: &mut Command) -> bool {
    command.status().is_ok_and(|status| status.success())
}
