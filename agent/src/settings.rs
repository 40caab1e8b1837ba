//! The agent's settings: defaults, then `agent.toml`, then the command line. A wrong setting is named
//! with its file and key before anything is done. What a host is (labels, server, trust) is no setting:
//! it comes from enrollment and signed files.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use refit_durable::{FileError, file};
use refit_proto::names::Platform;
use serde::Deserialize;

use crate::{
    host::modules::ModuleSettings,
    identity::IdentityFolder,
    link::{Patience, Proxies},
};

mod backup;
mod brake;
mod drift;
mod health;
mod holds;
mod mender;
mod proxy;
mod second;
mod windows;

pub use backup::BackupSettings;
pub use brake::BrakeSettings;
pub use drift::{DriftPolicy, DriftSettings};
pub use health::RedBefore;
pub use holds::HoldSettings;
pub use second::{Required, SecondSettings};
pub use windows::WindowSettings;

/// Where the agent keeps everything of its own, unless told otherwise.
pub const DEFAULT_DATA: &str = "/var/lib/refit-agent";
const DEFAULT_INSTALL_ROOT: &str = "/opt/refit";
/// The settings' name in the data folder.
const FILE: &str = "agent.toml";
/// Longest file of settings that is read.
const LONGEST: u64 = 256 * 1024;
/// The shortest and longest time between two calls that may be set: a fleet must not drown its server,
/// and an emergency brake must be heard within the hour.
const POLL: std::ops::RangeInclusive<u64> = 1..=3600;
/// How long bytes may be waited for before what came is counted.
const PATIENCE: std::ops::RangeInclusive<u64> = 1..=3600;

/// How long an agent may be missing in the middle of an update: longer than it takes to start again, and
/// not so long that nobody watches a bad release for a day.
const RESCUE_AFTER: std::ops::RangeInclusive<u64> = 10..=86_400;
const USUAL_RESCUE_AFTER: u64 = 600;

/// The lowest limit for content, bytes per second: below, a release takes longer than it is offered.
const LEAST_CAP: u64 = 1024;

/// How long a boot that a release needs may be held off: long enough for a dump or another installation to
/// end, and not so long that a host stands half updated for days.
const REBOOT_HOLD: std::ops::RangeInclusive<u64> = 1..=86_400;
const USUAL_REBOOT_HOLD: u64 = 3600;

/// The agent's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the agent keeps everything of its own.
    pub data: PathBuf,
    /// Where releases are installed.
    pub install_root: PathBuf,
    /// Who runs the services of releases.
    pub services: Services,
    /// What `${NAME}` in manifests stands for on this host.
    pub variables: BTreeMap<String, String>,
    /// How often to call the server, instead of what it asks for.
    pub poll: Option<Duration>,
    /// How slow a download may be.
    pub patience: Patience,
    /// What is done about what another hand has changed of what is installed.
    pub drift: DriftSettings,
    /// The proxies between this host and others.
    pub proxies: Proxies,
    /// How fast content may come, bytes per second; `None`: as fast as it comes.
    pub most_bytes_per_second: Option<u64>,
    /// For how long no agent may run in the middle of an update before the rescuer goes back.
    pub rescue_after: Duration,
    /// For how much running time a boot that a release needs may be held off before the host goes back.
    pub reboot_hold: Duration,
    /// When updates may begin here, whoever orders them; `None`: at any time.
    pub windows: Option<WindowSettings>,
    /// How often updates may begin here, and how many failures of a product are enough.
    pub brake: BrakeSettings,
    /// What becomes of an update where what runs before it is not healthy.
    pub red_before: RedBefore,
    /// How long people on this host may hold updates off.
    pub holds: HoldSettings,
    /// How backups are made and kept.
    pub backup: BackupSettings,
    /// Which update modules may be used, and what they find.
    pub mender: ModuleSettings,
    /// What this host runs.
    pub platform: Platform,
}

/// Who runs the services of releases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Services {
    /// systemd where it runs this machine and the agent is root, else the agent.
    #[default]
    Auto,
    /// systemd.
    Systemd,
    /// The agent itself.
    Own,
}

impl Services {
    /// Whether systemd runs the services on this machine.
    pub fn systemd(self) -> bool {
        match self {
            Services::Auto => {
                sd_notify::booted().unwrap_or(false) && rustix::process::geteuid().is_root()
            }
            Services::Systemd => true,
            Services::Own => false,
        }
    }
}

/// Why the settings can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file can't be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is in it can't be used.
    #[error("{}: {why}\nhelp: correct the file; docs/FILES.md lists the agent's settings", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its key.
        why: String,
    },
    /// A file was named that is not there.
    #[error("there is no {}\nhelp: name the settings file that is meant, or leave `--config` out", .0.display())]
    Missing(PathBuf),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    install_root: Option<PathBuf>,
    #[serde(default)]
    services: Services,
    poll_seconds: Option<u64>,
    patience_seconds: Option<u64>,
    slowest_bytes_per_second: Option<u32>,
    most_bytes_per_second: Option<u64>,
    rescue_after_seconds: Option<u64>,
    reboot_hold_seconds: Option<u64>,
    windows: Option<windows::Written>,
    #[serde(default)]
    brake: brake::Written,
    #[serde(default)]
    health: health::Written,
    #[serde(default)]
    holds: holds::Written,
    #[serde(default)]
    backup: backup::Written,
    #[serde(default)]
    mender: mender::Written,
    #[serde(default)]
    proxy: proxy::Written,
    #[serde(default)]
    drift: drift::Written,
    #[serde(default)]
    variables: BTreeMap<String, String>,
}

impl Settings {
    /// The settings of the agent with this data folder. Without `config`, the folder's own `agent.toml`,
    /// which may be missing.
    ///
    /// # Errors
    /// A file that can't be read, or a setting that can't be used.
    pub fn load(data: &Path, config: Option<&Path>) -> Result<Settings, SettingsError> {
        let path = config.map_or_else(|| data.join(FILE), Path::to_owned);
        let written = match file::read_if_there(&path, LONGEST)? {
            Some(bytes) => {
                parse(&bytes).map_err(|why| SettingsError::Wrong { path: path.clone(), why })?
            }
            None if config.is_some() => return Err(SettingsError::Missing(path)),
            None => Written::default(),
        };
        let absolute = |folder: &Path| {
            resolved(folder).map_err(|error| SettingsError::Wrong {
                path: path.clone(),
                why: format!("{}: {error}", folder.display()),
            })
        };
        let patience = patience(&written);
        let own = absolute(data)?;
        let backup = written
            .backup
            .check(&own)
            .map_err(|why| SettingsError::Wrong { path: path.clone(), why })?;
        let platform = own_platform();
        let mender = written
            .mender
            .check(&platform)
            .map_err(|why| SettingsError::Wrong { path: path.clone(), why })?;
        let brake = written.brake.check();
        let brake = brake.map_err(|why| SettingsError::Wrong { path: path.clone(), why })?;
        let windows = written.windows.map(windows::Written::check).transpose();
        let windows = windows.map_err(|why| SettingsError::Wrong { path: path.clone(), why })?;
        let holds = written.holds.check();
        let holds = holds.map_err(|why| SettingsError::Wrong { path: path.clone(), why })?;
        let proxies = written
            .proxy
            .check()
            .map_err(|why| SettingsError::Wrong { path: path.clone(), why })?;
        let drift = written
            .drift
            .check()
            .map_err(|why| SettingsError::Wrong { path: path.clone(), why })?;
        let install_root = written.install_root.unwrap_or_else(|| DEFAULT_INSTALL_ROOT.into());
        Ok(Settings {
            data: own,
            install_root: absolute(&install_root)?,
            services: written.services,
            variables: written.variables,
            poll: written.poll_seconds.map(Duration::from_secs),
            patience,
            proxies,
            drift,
            most_bytes_per_second: written.most_bytes_per_second,
            rescue_after: Duration::from_secs(
                written.rescue_after_seconds.unwrap_or(USUAL_RESCUE_AFTER),
            ),
            reboot_hold: Duration::from_secs(
                written.reboot_hold_seconds.unwrap_or(USUAL_REBOOT_HOLD),
            ),
            windows,
            brake,
            red_before: written.health.red_before,
            holds,
            backup,
            mender,
            platform,
        })
    }

    /// Where the host keeps who it is.
    pub fn identity(&self) -> IdentityFolder {
        IdentityFolder::at(self.data.join("identity"))
    }

    /// Where signed metadata is kept, as received.
    pub fn trust(&self) -> PathBuf {
        self.data.join("trust")
    }

    /// The store of journal and outbox.
    pub fn state(&self) -> PathBuf {
        self.data.join("state")
    }

    /// Where the running agent answers `refit-agent status`.
    pub fn socket(&self) -> PathBuf {
        self.data.join("agent.sock")
    }

    /// Where bundles wait for the running agent.
    pub fn spool(&self) -> PathBuf {
        self.data.join("install")
    }

    /// Held by the one agent that works on this folder.
    pub fn lock(&self) -> PathBuf {
        self.data.join("lock")
    }
}

/// The folder's own place. An administrator may put a folder on another disk with a link: it is followed
/// here, once, and no link is followed below it. Of a folder that is not there yet, the part that is.
fn resolved(folder: &Path) -> std::io::Result<PathBuf> {
    let folder = std::path::absolute(folder)?;
    for there in folder.ancestors() {
        match there.canonicalize() {
            Ok(place) => {
                let rest = folder.strip_prefix(there).unwrap_or(Path::new(""));
                // Joining nothing would add a slash.
                return Ok(if rest.as_os_str().is_empty() { place } else { place.join(rest) });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(folder)
}

fn parse(bytes: &[u8]) -> Result<Written, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    // The parser's words name the line and the key.
    let written: Written = toml::from_str(text).map_err(|error| error.to_string())?;
    if written.poll_seconds.is_some_and(|seconds| !POLL.contains(&seconds)) {
        let (least, most) = (POLL.start(), POLL.end());
        return Err(format!("poll_seconds: must be from {least} to {most}"));
    }
    if written.patience_seconds.is_some_and(|seconds| !PATIENCE.contains(&seconds)) {
        let (least, most) = (PATIENCE.start(), PATIENCE.end());
        return Err(format!("patience_seconds: must be from {least} to {most}"));
    }
    if written.rescue_after_seconds.is_some_and(|seconds| !RESCUE_AFTER.contains(&seconds)) {
        let (least, most) = (RESCUE_AFTER.start(), RESCUE_AFTER.end());
        return Err(format!("rescue_after_seconds: must be from {least} to {most}"));
    }
    if written.reboot_hold_seconds.is_some_and(|seconds| !REBOOT_HOLD.contains(&seconds)) {
        let (least, most) = (REBOOT_HOLD.start(), REBOOT_HOLD.end());
        return Err(format!("reboot_hold_seconds: must be from {least} to {most}"));
    }
    if written.slowest_bytes_per_second == Some(0) {
        return Err("slowest_bytes_per_second: must be at least 1".to_owned());
    }
    if written.most_bytes_per_second.is_some_and(|most| most < LEAST_CAP) {
        return Err(format!("most_bytes_per_second: must be at least {LEAST_CAP}"));
    }
    if written.install_root.as_ref().is_some_and(|path| !path.is_absolute()) {
        return Err("install_root: must be an absolute path".to_owned());
    }
    Ok(written)
}

fn patience(written: &Written) -> Patience {
    let usual = Patience::default();
    Patience {
        window: written.patience_seconds.map_or(usual.window, Duration::from_secs),
        slowest: written.slowest_bytes_per_second.unwrap_or(usual.slowest),
    }
}

/// What this program was built for, as packages name it: `linux-x86_64`.
pub fn own_platform() -> Platform {
    let text = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
    #[expect(clippy::unwrap_used, reason = "both are words of letters, digits and underscores")]
    Platform::parse(&text).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Settings, SettingsError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), text).unwrap();
        Settings::load(dir.path(), None)
    }

    #[test]
    fn a_folder_that_was_put_on_another_disk_with_a_link_is_found_there() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().canonicalize().unwrap().join("disk");
        std::fs::create_dir(&disk).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&disk, &link).unwrap();
        assert_eq!(Settings::load(&link, None).unwrap().data, disk);
        // What is not there yet will be made below it.
        assert_eq!(Settings::load(&link.join("a/b"), None).unwrap().data, disk.join("a/b"));
    }

    #[test]
    fn without_a_file_everything_has_a_default() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings::load(dir.path(), None).unwrap();
        assert_eq!(settings.install_root, Path::new("/opt/refit"));
        assert_eq!(settings.poll, None);
        let missing = Settings::load(dir.path(), Some(&dir.path().join("other.toml")));
        assert!(
            matches!(missing, Err(SettingsError::Missing(_))),
            "a file that was named must be there"
        );
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_file_and_key() {
        for (text, key) in [
            ("instal_root = \"/x\"", "instal_root"),
            ("install_root = \"x\"", "install_root"),
            ("poll_seconds = 0", "poll_seconds"),
            ("patience_seconds = 0", "patience_seconds"),
            ("slowest_bytes_per_second = 0", "slowest_bytes_per_second"),
            ("reboot_hold_seconds = 0", "reboot_hold_seconds"),
            ("most_bytes_per_second = 1", "most_bytes_per_second"),
            ("services = \"upstart\"", "services"),
            ("[holds]\nlongest_days = 0", "holds.longest_days"),
            ("[holds]\nlongest_days = 91", "holds.longest_days"),
            ("[holds]\ngroup = \"\"", "holds.group"),
            ("[backup]\nkeep = 0", "backup.keep"),
            ("[brake]\nmost_updates_per_day = 0", "brake.most_updates_per_day"),
            ("[brake]\nfailures_within_days = 0", "brake.failures_within_days"),
            ("[health]\nred_before = \"ignore\"", "red_before"),
            ("[windows]\nopen = []", "windows.open"),
            ("[windows]\nopen = [\"mon 25:00-26:00\"]", "windows.open"),
            ("[windows]\nzone = \"UTC\"", "open"),
            ("[windows]\nopen = [\"daily 02:00-04:00\"]\nzone = \"Mars/Olympus\"", "windows.zone"),
            ("[backup]\nkeeep = 1", "keeep"),
            ("[mender]\nmodules = \"x\"", "mender.modules"),
            ("[mender]\ndevice_type = \"\"", "mender.device_type"),
            ("[proxy]\nurl = \"socks5://a:1\"", "proxy.url"),
            ("[proxy]\nurl = \"http://me:secret@a:1\"", "proxy.url"),
            ("[proxy]\nuser = \"me\"", "proxy.url"),
            ("[proxy]\nurl = \"a:1\"\nuser = \"me\"", "proxy.password_file"),
            ("[proxy]\nurl = \"a:1\"\npassword_file = \"/x\"", "proxy.user"),
            ("[proxy]\nurl = \"a:1\"\nuser = \"me\"\npassword_file = \"x\"", "password_file"),
            ("[proxy]\nurl = \"a:1\"\nuser = \"a:b\"\npassword_file = \"/x\"", "proxy.user"),
            ("[proxy]\nurl = \"a:1\"\nno_proxy = [\"10.0.0.0/33\"]", "proxy.no_proxy"),
            ("[proxy]\nulr = \"a:1\"", "ulr"),
            ("[drift]\npolicy = \"ignore\"", "policy"),
            ("[drift]\nmost_bytes_per_second = 1", "drift.most_bytes_per_second"),
            ("[variables]\nPORT = 1", "PORT"),
        ] {
            let said = load(text).unwrap_err().to_string();
            assert!(said.contains("agent.toml") && said.contains(key), "{said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }

    /// CVE-2024-23332.
    #[test]
    fn no_setting_makes_a_check_lenient() {
        for word in [
            "permissive",
            "insecure",
            "verify",
            "verify_signatures",
            "skip_verification",
            "allow_unsigned",
            "allow_downgrade",
            "trusted_keys",
            "root",
            "server",
            "labels",
            "ring",
        ] {
            for value in ["true", "false", "\"no\""] {
                let said = load(&format!("{word} = {value}")).unwrap_err().to_string();
                assert!(said.contains(&format!("`{word}`")), "{said}");
            }
        }
    }

    #[test]
    fn settings_are_read() {
        let settings = load("services = \"own\"\npoll_seconds = 5\n[variables]\nPORT = \"80\"\n");
        let settings = settings.unwrap();
        assert!(!settings.services.systemd());
        assert_eq!(settings.poll, Some(Duration::from_secs(5)));
        assert_eq!(settings.variables["PORT"], "80");
    }
}
