//! The Debian package of the agent: what lies where, and the texts that go with it. `dpkg-deb` packs it.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::elf;
use crate::cargo;

/// The programs that are packed.
pub(super) struct Programs {
    /// Where they were built.
    pub(super) folder: PathBuf,
    /// Off for tests, which pack and unpack unoptimised programs within seconds.
    pub(super) compressed: bool,
}

const PROGRAMS: [&str; 3] = ["refit-agent", "refit-rescue", "refit-copy"];

/// The units that the agent prints, and the files that systemd finds them in.
const UNITS: [(&str, &str); 4] = [
    ("agent", "refit-agent.service"),
    ("link", "refit-link.service"),
    ("link-socket", "refit-link.socket"),
    ("rescue", "refit-rescue@.service"),
];

const SCRIPTS: [(&str, &str); 3] = [
    ("postinst", include_str!("debian/postinst")),
    ("prerm", include_str!("debian/prerm")),
    ("postrm", include_str!("debian/postrm")),
];
const CONTROL: &str = include_str!("debian/control");
const SETTINGS: &str = include_str!("debian/agent.toml");
const COPYRIGHT: &str = include_str!("debian/copyright");

/// Makes the package and says where it is.
pub(super) fn make(programs: &Programs, version: &str, out: &Path) -> Result<PathBuf> {
    check_version(version)?;
    fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let architecture = architecture()?;
    let name = format!("refit-agent_{version}_{architecture}");
    // By process: tests of several checkouts or versions may pack at the same time.
    let staging = out.join(format!(".{name}.{}", std::process::id()));
    let packed = fill(&staging, programs, version, architecture).and_then(|()| {
        let package = out.join(format!("{name}.deb"));
        pack(&staging, &package, programs.compressed)?;
        Ok(package)
    });
    fs::remove_dir_all(&staging).with_context(|| staging.display().to_string())?;
    packed
}

/// Debian's rule, without epochs: nobody needs one yet.
fn check_version(version: &str) -> Result<()> {
    let known = |c: char| c.is_ascii_alphanumeric() || ".+~-".contains(c);
    if version.starts_with(|c: char| c.is_ascii_digit()) && version.chars().all(known) {
        return Ok(());
    }
    bail!("{version:?} is no version of a Debian package: a digit, then letters, digits and .+~-");
}

fn architecture() -> Result<&'static str> {
    Ok(match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "arm" => "armhf",
        "riscv64" => "riscv64",
        other => bail!("Debian's name for {other} is not known here: add it to xtask/src/dist"),
    })
}

fn fill(staging: &Path, programs: &Programs, version: &str, architecture: &str) -> Result<()> {
    let mut bytes = Vec::new();
    for name in PROGRAMS {
        let program = fs::read(programs.folder.join(name))
            .with_context(|| format!("{name} is not built in {}", programs.folder.display()))?;
        put(staging, &format!("usr/bin/{name}"), &program, 0o755)?;
        bytes.push(program);
    }
    for (unit, file) in UNITS {
        let text = printed_unit(&programs.folder, unit)?;
        put(staging, &format!("usr/lib/systemd/system/{file}"), text.as_bytes(), 0o644)?;
    }
    put(staging, "etc/refit/agent.toml", SETTINGS.as_bytes(), 0o644)?;
    put(staging, "usr/share/doc/refit-agent/copyright", copyright()?.as_bytes(), 0o644)?;

    let glibc = elf::newest_glibc(bytes.iter().map(Vec::as_slice));
    let glibc = glibc.context("the programs name no version of the C library")?;
    let size = files(staging)?.iter().map(|(_, size)| size.div_ceil(1024)).sum::<u64>();
    let control = CONTROL
        .replace("@VERSION@", version)
        .replace("@ARCHITECTURE@", architecture)
        .replace("@INSTALLED_SIZE@", &size.to_string())
        .replace("@GLIBC@", &glibc);
    let sums = sums(staging)?;
    put(staging, "DEBIAN/control", control.as_bytes(), 0o644)?;
    put(staging, "DEBIAN/conffiles", b"/etc/refit/agent.toml\n", 0o644)?;
    put(staging, "DEBIAN/md5sums", sums.as_bytes(), 0o644)?;
    for (name, text) in SCRIPTS {
        put(staging, &format!("DEBIAN/{name}"), text.as_bytes(), 0o755)?;
    }
    Ok(())
}

/// The unit as the packed agent prints it, for the place where it will lie.
fn printed_unit(programs: &Path, unit: &str) -> Result<String> {
    let mut print = Command::new(programs.join("refit-agent"));
    print.args(["print-unit", unit, "--program", "/usr/bin/refit-agent"]);
    output(print.env_remove("REFIT_AGENT_DATA"))
}

/// The licences as Debian's format wants them: a text that every Debian has is named, the other indented,
/// an empty line as a dot.
fn copyright() -> Result<String> {
    let mut text = COPYRIGHT.to_owned();
    let licence = fs::read_to_string(cargo::workspace().join("LICENSE-MIT"))?;
    for line in licence.lines() {
        let line = line.trim_end();
        text.push_str(&if line.is_empty() { " .\n".to_owned() } else { format!(" {line}\n") });
    }
    Ok(text)
}

fn put(staging: &Path, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let place = staging.join(path);
    let mut folder = staging.to_owned();
    for part in Path::new(path).parent().into_iter().flatten() {
        folder.push(part);
        fs::create_dir_all(&folder)?;
        // Whatever the umask of who builds.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    }
    fs::write(&place, bytes).with_context(|| place.display().to_string())?;
    Ok(fs::set_permissions(&place, fs::Permissions::from_mode(mode))?)
}

/// The files below a folder with their sizes, by path.
fn files(staging: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    let mut folders = vec![staging.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let data = entry.metadata()?;
            if data.is_dir() {
                folders.push(entry.path());
            } else {
                found.push((entry.path().strip_prefix(staging)?.to_owned(), data.len()));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What `dpkg --verify` compares with.
fn sums(staging: &Path) -> Result<String> {
    let files = files(staging)?;
    let payload = files.iter().map(|(path, _)| path).filter(|path| !path.starts_with("etc"));
    output(Command::new("md5sum").current_dir(staging).args(payload))
}

fn pack(staging: &Path, package: &Path, compressed: bool) -> Result<()> {
    fs::set_permissions(staging, fs::Permissions::from_mode(0o755))?;
    let mut pack = Command::new("dpkg-deb");
    pack.args(["--root-owner-group", if compressed { "-Zxz" } else { "-Znone" }]);
    if let Some(epoch) = last_commit() {
        // The same source gives the same package.
        pack.env("SOURCE_DATE_EPOCH", epoch);
    }
    output(pack.arg("--build").arg(staging).arg(package))?;
    Ok(())
}

fn last_commit() -> Option<String> {
    let mut log = Command::new("git");
    log.args(["log", "-1", "--format=%ct"]).current_dir(cargo::workspace());
    output(&mut log).ok().map(|epoch| epoch.trim().to_owned())
}

fn output(command: &mut Command) -> Result<String> {
    let done = command.output().with_context(|| {
        let program = command.get_program().to_string_lossy().into_owned();
        format!("cannot start {program}\nhelp: install it, for example `sudo apt-get install dpkg`")
    })?;
    if !done.status.success() {
        bail!("{command:?} ended with {}: {}", done.status, String::from_utf8_lossy(&done.stderr));
    }
    Ok(String::from_utf8(done.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_dpkg_would_misread_is_refused() {
        for good in ["0.1.0", "1.0~rc1+git20260101-1"] {
            check_version(good).unwrap();
        }
        for bad in ["", "v1.0", "1:1.0", "1.0 beta", "1/2", "1_0"] {
            assert!(check_version(bad).is_err(), "{bad:?}");
        }
    }
}
