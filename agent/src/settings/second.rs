//! `[backup.second]` in `agent.toml`: where a host's backups are copied, and what an update may do where
//! they can't be.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use refit_copy::Place;
use serde::Deserialize;

use super::backup::retention;
use crate::host::backup::Retention;

/// How long what is saved while the services run may take to be copied.
const USUAL_WITHIN: u64 = 3600;
/// How long the rest may take, with the services down.
const USUAL_SEAL_WITHIN: u64 = 60;
const WITHIN: std::ops::RangeInclusive<u64> = 1..=86_400;

/// A second place for backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecondSettings {
    /// Where.
    pub place: Place,
    /// What an update does where its backup can't be copied.
    pub required: Required,
    /// How long the copy of what is saved while the services run may take.
    pub within: Duration,
    /// How long the copy of the rest may take, with the services down.
    pub seal_within: Duration,
    /// How long copies are kept.
    pub retention: Retention,
    /// Whom copies are encrypted to, `age1…`; none: nobody.
    pub encrypt_to: Vec<String>,
}

/// What an update does where its backup can't be copied to the second place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Required {
    /// Goes on, and says so.
    No,
    /// Waits, and tries again.
    Delay,
    /// Ends, refused.
    Refuse,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    kind: Kind,
    path: Option<String>,
    same_file_system: Option<bool>,
    host: Option<String>,
    user: Option<String>,
    port: Option<u16>,
    key: Option<PathBuf>,
    known_hosts: Option<PathBuf>,
    bucket: Option<String>,
    prefix: Option<String>,
    endpoint: Option<String>,
    region: Option<String>,
    credentials: Option<PathBuf>,
    authority: Option<PathBuf>,
    #[serde(default)]
    required: bool,
    otherwise: Option<Otherwise>,
    within_seconds: Option<u64>,
    seal_within_seconds: Option<u64>,
    keep: Option<usize>,
    keep_days: Option<u32>,
    keep_bytes: Option<u64>,
    #[serde(default)]
    encrypt_to: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Folder,
    Ssh,
    S3,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Otherwise {
    Delay,
    Refuse,
}

impl Written {
    /// The settings, checked. `data`: on whose file system a folder must not lie.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub(super) fn check(self, data: &Path) -> Result<SecondSettings, String> {
        self.only_of_its_kind()?;
        let place = self.place(data)?;
        let required = match (self.required, self.otherwise) {
            (false, None) => Required::No,
            (true, None | Some(Otherwise::Delay)) => Required::Delay,
            (true, Some(Otherwise::Refuse)) => Required::Refuse,
            (false, Some(_)) => {
                return Err(
                    "backup.second.otherwise: says something only beside `required = true`".into(),
                );
            }
        };
        for recipient in &self.encrypt_to {
            if !is_recipient(recipient) {
                return Err(format!(
                    "backup.second.encrypt_to: `{recipient}` is no recipient of age: `age1` and 58 more"
                ));
            }
        }
        if self.keep == Some(0) {
            return Err("backup.second.keep: must be at least 1".into());
        }
        Ok(SecondSettings {
            place,
            required,
            within: seconds("within_seconds", self.within_seconds, USUAL_WITHIN)?,
            seal_within: seconds(
                "seal_within_seconds",
                self.seal_within_seconds,
                USUAL_SEAL_WITHIN,
            )?,
            retention: retention(self.keep, self.keep_days, self.keep_bytes),
            encrypt_to: self.encrypt_to,
        })
    }

    /// A key of another kind would be one that is silently not followed.
    fn only_of_its_kind(&self) -> Result<(), String> {
        let folder = self.kind == Kind::Folder;
        let ssh = self.kind == Kind::Ssh;
        let s3 = self.kind == Kind::S3;
        for (key, given, fits) in [
            ("path", self.path.is_some(), folder || ssh),
            ("same_file_system", self.same_file_system.is_some(), folder),
            ("host", self.host.is_some(), ssh),
            ("user", self.user.is_some(), ssh),
            ("port", self.port.is_some(), ssh),
            ("key", self.key.is_some(), ssh),
            ("known_hosts", self.known_hosts.is_some(), ssh),
            ("bucket", self.bucket.is_some(), s3),
            ("prefix", self.prefix.is_some(), s3),
            ("endpoint", self.endpoint.is_some(), s3),
            ("region", self.region.is_some(), s3),
            ("credentials", self.credentials.is_some(), s3),
            ("authority", self.authority.is_some(), s3),
        ] {
            if given && !fits {
                return Err(format!("backup.second.{key}: says nothing for this `kind`"));
            }
        }
        Ok(())
    }

    fn place(&self, data: &Path) -> Result<Place, String> {
        Ok(match self.kind {
            Kind::Folder => {
                let path = PathBuf::from(needed("path", self.path.as_ref())?);
                let apart = !self.same_file_system.unwrap_or(false);
                Place::Folder {
                    path: absolute("path", &path)?,
                    apart_from: apart.then(|| data.to_owned()),
                }
            }
            Kind::Ssh => Place::Ssh {
                host: needed("host", self.host.as_ref())?,
                user: needed("user", self.user.as_ref())?,
                port: self.port.unwrap_or(22),
                path: needed("path", self.path.as_ref())?,
                key: absolute("key", &needed("key", self.key.as_ref())?)?,
                known_hosts: absolute(
                    "known_hosts",
                    &needed("known_hosts", self.known_hosts.as_ref())?,
                )?,
            },
            Kind::S3 => {
                self.check_endpoint()?;
                let file =
                    |key, path: Option<&PathBuf>| path.map(|it| absolute(key, it)).transpose();
                Place::S3 {
                    bucket: needed("bucket", self.bucket.as_ref())?,
                    prefix: self.prefix.clone().unwrap_or_default(),
                    endpoint: self.endpoint.clone(),
                    region: self.region.clone().unwrap_or_else(|| "us-east-1".into()),
                    credentials: file("credentials", self.credentials.as_ref())?,
                    authority: file("authority", self.authority.as_ref())?,
                }
            }
        })
    }

    /// What a backup holds must not be read on its way.
    fn check_endpoint(&self) -> Result<(), String> {
        let Some(endpoint) = &self.endpoint else { return Ok(()) };
        if endpoint.starts_with("https://") {
            return Ok(());
        }
        let Some(rest) = endpoint.strip_prefix("http://") else {
            return Err("backup.second.endpoint: must begin with `https://`".into());
        };
        let name = rest.split('/').next().unwrap_or_default();
        let name = name.rsplit_once(':').map_or(name, |(name, _)| name);
        let address: Option<IpAddr> = name.trim_matches(['[', ']']).parse().ok();
        let own = name == "localhost" || address.is_some_and(|address| address.is_loopback());
        if own || !self.encrypt_to.is_empty() {
            return Ok(());
        }
        Err("backup.second.endpoint: `http://` is for this host itself, or where `encrypt_to` is set; \
             else it must be `https://`"
            .into())
    }
}

fn needed<T: Clone>(key: &str, value: Option<&T>) -> Result<T, String> {
    value.cloned().ok_or_else(|| format!("backup.second.{key}: must be given for this `kind`"))
}

fn absolute(key: &str, path: &Path) -> Result<PathBuf, String> {
    match path.is_absolute() {
        true => Ok(path.to_owned()),
        false => Err(format!("backup.second.{key}: must be an absolute path")),
    }
}

fn seconds(key: &str, value: Option<u64>, usual: u64) -> Result<Duration, String> {
    let seconds = value.unwrap_or(usual);
    if WITHIN.contains(&seconds) {
        return Ok(Duration::from_secs(seconds));
    }
    Err(format!("backup.second.{key}: must be from {} to {}", WITHIN.start(), WITHIN.end()))
}

/// The form of a recipient, `age1` and 58 characters of its alphabet; what it is worth the helper finds out.
fn is_recipient(text: &str) -> bool {
    let known = |c: char| c.is_ascii_digit() || (c.is_ascii_lowercase() && !"bio".contains(c));
    text.strip_prefix("age1").is_some_and(|rest| rest.len() == 58 && rest.chars().all(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<SecondSettings, String> {
        let written: Written = toml::from_str(text).map_err(|error| error.to_string())?;
        written.check(Path::new("/data"))
    }

    #[test]
    fn each_kind_is_read_and_has_its_defaults() {
        let folder = check("kind = \"folder\"\npath = \"/mnt/second\"").unwrap();
        let apart_from = Some("/data".into());
        assert_eq!(folder.place, Place::Folder { path: "/mnt/second".into(), apart_from });
        assert_eq!((folder.required, folder.seal_within.as_secs()), (Required::No, 60));
        let ssh = "kind = \"ssh\"\nhost = \"b\"\nuser = \"u\"\npath = \"x\"\nkey = \"/k\"\nknown_hosts = \"/h\"";
        assert!(matches!(check(ssh).unwrap().place, Place::Ssh { port: 22, .. }));
        let s3 = "kind = \"s3\"\nbucket = \"b\"\nrequired = true";
        assert_eq!(check(s3).unwrap().required, Required::Delay);
        let refuse = format!("{s3}\notherwise = \"refuse\"");
        assert_eq!(check(&refuse).unwrap().required, Required::Refuse);
        let own = format!("{s3}\nendpoint = \"http://127.0.0.1:9000\"");
        check(&own).unwrap();
    }

    #[test]
    fn what_would_not_be_followed_or_would_leak_is_refused_by_its_key() {
        let folder = "kind = \"folder\"\npath = \"/m\"\n";
        let s3 = "kind = \"s3\"\nbucket = \"b\"\n";
        for (text, key) in [
            ("kind = \"tape\"".to_owned(), "tape"),
            ("kind = \"folder\"".to_owned(), "path"),
            ("kind = \"folder\"\npath = \"m\"".to_owned(), "path"),
            (format!("{folder}bucket = \"b\""), "bucket"),
            (format!("{folder}user = \"b\""), "user"),
            (format!("{folder}otherwise = \"refuse\""), "otherwise"),
            (format!("{folder}keep = 0"), "keep"),
            (format!("{folder}within_seconds = 0"), "within_seconds"),
            (format!("{folder}seal_within_seconds = 100000"), "seal_within_seconds"),
            (format!("{folder}encrypt_to = [\"age1short\"]"), "encrypt_to"),
            (format!("{folder}passphrase = \"x\""), "passphrase"),
            (format!("{s3}endpoint = \"http://store.example\""), "endpoint"),
            (format!("{s3}endpoint = \"http://127.0.0.1.example\""), "endpoint"),
            (format!("{s3}secret_access_key = \"x\""), "secret_access_key"),
        ] {
            let said = check(&text).unwrap_err();
            assert!(said.contains(key), "{said}");
        }
    }
}
