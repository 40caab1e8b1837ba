//! The folder that `refit release build` makes a release of the agent from: the same programs as in the
//! Debian package, and what the release says of itself.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

const PROGRAMS: [&str; 2] = ["refit-agent", "refit-rescue"];

const DESCRIPTION: &str = "\
# A release of the agent itself: refit release build DIR --product refit-agent --version VERSION
installer = \"agent\"

# It looks at itself: its unit, its program, and whether it reaches the server.
[health.checked]
good_seconds = 300

[plan]
goal = \"hosts run agent @VERSION@\"
owner = \"\"
";

/// Fills the folder, which must not be there, and says where it is and which version the programs have.
pub(super) fn make(programs: &Path, out: &Path) -> Result<PathBuf> {
    let version = version(&programs.join("refit-agent"))?;
    let folder = out.join(format!("refit-agent-release-{version}"));
    if folder.exists() {
        bail!(
            "{} is there already\nhelp: remove it, or name another folder with `--out`",
            folder.display()
        );
    }
    let bin = folder.join("tree/bin");
    fs::create_dir_all(&bin).with_context(|| bin.display().to_string())?;
    for name in PROGRAMS {
        let (from, to) = (programs.join(name), bin.join(name));
        fs::copy(&from, &to).with_context(|| from.display().to_string())?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    }
    fs::write(folder.join("refit.toml"), DESCRIPTION.replace("@VERSION@", &version))?;
    Ok(folder)
}

/// What the program itself says: the release has to be called the same.
fn version(agent: &Path) -> Result<String> {
    let mut ask = Command::new(agent);
    let said = ask.arg("--version").output().with_context(|| agent.display().to_string())?;
    let said = String::from_utf8(said.stdout)?;
    let version = said.trim().strip_prefix("refit-agent ");
    Ok(version.with_context(|| format!("{} says {said:?}", agent.display()))?.to_owned())
}
