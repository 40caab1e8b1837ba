//! The server's settings: `server.toml` in the data folder, then the environment, then the command
//! line, each over the one before. A wrong one is named with its file and key before any port opens.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::{ca, tls::AcceptorLimits};

/// Where everything is kept unless `--data` says otherwise.
pub const DEFAULT_DATA: &str = "/var/lib/refit-server";
/// Where agents and `refit` call unless `--listen` says otherwise.
pub const DEFAULT_LISTEN: &str = "0.0.0.0:7700";
/// Where the page, the metrics and the probes are, on loopback: they know no sign-in.
pub const DEFAULT_STATUS_LISTEN: &str = "127.0.0.1:7701";
/// The settings' name in the data folder.
pub const FILE: &str = "server.toml";

/// Everything that can be set, valid.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The data folder.
    pub data: PathBuf,
    /// For agents and `refit`.
    pub listen: SocketAddr,
    /// For the page, the metrics and the probes.
    pub status_listen: SocketAddr,
    /// Names and IP addresses by which clients reach the server; they stand in its certificate.
    pub addresses: Vec<String>,
    /// Life of a host's certificate.
    pub host_life: SignedDuration,
    /// Life of a person's or CI job's certificate.
    pub person_life: SignedDuration,
    /// What callers may cost.
    pub limits: Limits,
}

/// What callers may cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest message of one call.
    pub message_bytes: usize,
    /// Largest content file, unpacked.
    pub upload_bytes: u64,
    /// Handshakes under way at once.
    pub handshakes: usize,
    /// Longest handshake.
    pub handshake_seconds: u64,
    /// Connections open at once.
    pub connections: usize,
    /// Calls under way at once on one connection.
    pub calls_per_connection: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            // The largest signed file, targets with 5 MB, fits together with the small ones of its change.
            message_bytes: 8 << 20,
            upload_bytes: 4 << 30,
            handshakes: 1024,
            handshake_seconds: 10,
            connections: 20_000,
            calls_per_connection: 64,
        }
    }
}

impl Limits {
    /// The part that the TLS acceptor heeds.
    pub fn acceptor(&self) -> AcceptorLimits {
        AcceptorLimits {
            handshakes: self.handshakes,
            handshake: Duration::from_secs(self.handshake_seconds),
            connections: self.connections,
        }
    }
}

/// What the command line and the environment say; `None` leaves it to the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--listen`, `REFIT_LISTEN`.
    pub listen: Option<SocketAddr>,
    /// `--status-listen`, `REFIT_STATUS_LISTEN`.
    pub status_listen: Option<SocketAddr>,
}

/// The file as it is written. Whatever is left out has its default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingsFile {
    /// See [`Settings::listen`].
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// See [`Settings::status_listen`].
    #[serde(default = "default_status_listen")]
    pub status_listen: SocketAddr,
    /// See [`Settings::addresses`].
    pub addresses: Vec<String>,
    /// Lives of certificates.
    #[serde(default)]
    pub certificates: Certificates,
    /// See [`Limits`].
    #[serde(default)]
    pub limits: Limits,
}

/// Lives of certificates, in days.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Certificates {
    /// A host renews its own in time.
    pub host_days: u32,
    /// People log in again, or renew.
    pub person_days: u32,
}

impl Default for Certificates {
    fn default() -> Certificates {
        Certificates { host_days: 30, person_days: 90 }
    }
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 7700))
}

fn default_status_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7701))
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// `init` was not run here, or in another folder.
    #[error("{} is not a data folder of refit-server: it has no {FILE}\nhelp: make one with `refit-server init --admin NAME --data {}`", .data.display(), .data.display())]
    NotInitialised {
        /// The folder.
        data: PathBuf,
    },
    /// The file can't be read.
    #[error("{} can't be read: {cause}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Not TOML, a key that does not exist, or a value of another kind.
    #[error("{} is not valid: {cause}", .file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Names the line and the key.
        cause: Box<toml::de::Error>,
    },
    /// A value that can't be.
    #[error("{}: {key} is {value}, {rule}", .file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// As it is written, with its section.
        key: &'static str,
        /// As it is set.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
}

impl Settings {
    /// Reads and checks the settings of a data folder.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(data: &Path, over: &Overrides) -> Result<Settings, SettingsError> {
        let file = data.join(FILE);
        let text = fs::read_to_string(&file).map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => SettingsError::NotInitialised { data: data.to_owned() },
            _ => SettingsError::Unreadable { file: file.clone(), cause },
        })?;
        let inputs: SettingsFile = toml::from_str(&text).map_err(|cause| {
            SettingsError::Syntax { file: file.clone(), cause: Box::new(cause) }
        })?;
        Settings::check(data, &file, inputs, over)
    }

    fn check(
        data: &Path,
        file: &Path,
        inputs: SettingsFile,
        over: &Overrides,
    ) -> Result<Settings, SettingsError> {
        let wrong = |key, value: String, rule| {
            Err(SettingsError::Value { file: file.to_owned(), key, value, rule })
        };
        let SettingsFile { listen, status_listen, addresses, certificates, limits } = inputs;
        if addresses.is_empty() {
            return wrong(
                "addresses",
                "empty".into(),
                "name at least one by which clients reach this server",
            );
        }
        if let Some(bad) = addresses.iter().find(|address| !ca::is_server_name(address)) {
            return wrong(
                "addresses",
                format!("{bad:?}"),
                "must be DNS names or IP addresses, without a port",
            );
        }
        let status_listen = over.status_listen.unwrap_or(status_listen);
        if !status_listen.ip().is_loopback() {
            return wrong(
                "status_listen",
                status_listen.to_string(),
                "must be a loopback address: the page and the metrics know no sign-in yet",
            );
        }
        let days = 1..=3650;
        for (key, value) in [
            ("certificates.host_days", certificates.host_days),
            ("certificates.person_days", certificates.person_days),
        ] {
            if !days.contains(&value) {
                return wrong(key, value.to_string(), "must be 1 to 3650");
            }
        }
        if let Some((key, value, rule)) = limits.wrong() {
            return wrong(key, value, rule);
        }
        Ok(Settings {
            data: data.to_owned(),
            listen: over.listen.unwrap_or(listen),
            status_listen,
            addresses,
            host_life: SignedDuration::from_hours(i64::from(certificates.host_days) * 24),
            person_life: SignedDuration::from_hours(i64::from(certificates.person_days) * 24),
            limits,
        })
    }
}

impl Limits {
    fn wrong(&self) -> Option<(&'static str, String, &'static str)> {
        let checks = [
            (
                "limits.message_bytes",
                self.message_bytes as u64,
                (1 << 20)..=(256 << 20),
                "must be 1 MiB to 256 MiB",
            ),
            (
                "limits.upload_bytes",
                self.upload_bytes,
                (1 << 20)..=(1 << 50),
                "must be 1 MiB to 1 PiB",
            ),
            ("limits.handshakes", self.handshakes as u64, 1..=65_536, "must be 1 to 65536"),
            ("limits.handshake_seconds", self.handshake_seconds, 1..=120, "must be 1 to 120"),
            ("limits.connections", self.connections as u64, 1..=1_000_000, "must be 1 to 1000000"),
            (
                "limits.calls_per_connection",
                u64::from(self.calls_per_connection),
                1..=10_000,
                "must be 1 to 10000",
            ),
        ];
        checks
            .into_iter()
            .find(|(_, value, allowed, _)| !allowed.contains(value))
            .map(|(key, value, _, rule)| (key, value.to_string(), rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Settings, String> {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join(FILE), text).unwrap();
        Settings::load(data.path(), &Overrides::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_file_and_key() {
        for (text, named) in [
            ("addresses = [\"localhost\"]\nlistne = \"0.0.0.0:1\"", "listne"),
            ("addresses = [\"localhost\"]\nlisten = \"0.0.0.0\"", "listen"),
            ("listen = \"0.0.0.0:1\"", "addresses"),
            ("addresses = []", "addresses"),
            ("addresses = [\"refit.example.org:7700\"]", "refit.example.org:7700"),
            ("addresses = [\"localhost\"]\nstatus_listen = \"0.0.0.0:80\"", "status_listen"),
            (
                "addresses = [\"localhost\"]\n[certificates]\nhost_days = 0",
                "certificates.host_days",
            ),
            ("addresses = [\"localhost\"]\n[limits]\nhandshakes = 0", "limits.handshakes"),
            ("addresses = [\"localhost\"]\n[limits]\nuploads = 1", "uploads"),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains(named) && error.contains(FILE), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_left_out_has_its_default_and_the_command_line_goes_over_the_file() {
        let settings = load("addresses = [\"localhost\", \"127.0.0.1\", \"::1\"]").unwrap();
        assert_eq!(settings.listen.to_string(), DEFAULT_LISTEN);
        assert_eq!(settings.status_listen.to_string(), DEFAULT_STATUS_LISTEN);
        assert_eq!(settings.host_life, SignedDuration::from_hours(720));

        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join(FILE), "addresses = [\"localhost\"]\nlisten = \"0.0.0.0:1\"")
            .unwrap();
        let over = Overrides { listen: Some("127.0.0.1:0".parse().unwrap()), status_listen: None };
        assert_eq!(
            Settings::load(data.path(), &over).unwrap().listen,
            "127.0.0.1:0".parse().unwrap()
        );
    }

    #[test]
    fn a_folder_without_settings_says_how_to_make_one() {
        let data = tempfile::tempdir().unwrap();
        let error = Settings::load(data.path(), &Overrides::default()).unwrap_err().to_string();
        assert!(error.contains("refit-server init --admin"), "{error}");
    }
}
