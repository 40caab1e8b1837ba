//! A second place as the jobs use it: bytes under names.

mod folder;
mod s3;
mod ssh;

use refit_copy::{Place as Settings, Why};

/// Why something was not done at the place.
#[derive(Debug)]
pub struct Failed {
    /// Whose fault.
    pub why: Why,
    /// One sentence that names the thing.
    pub text: String,
}

impl Failed {
    /// Of this cause.
    pub fn new(why: Why, text: impl Into<String>) -> Failed {
        Failed { why, text: text.into() }
    }
}

/// Where bytes lie under names. A name is `HOST/packs/HASH` or `HOST/backups/ID.json`, checked before.
pub trait Place {
    /// Puts bytes there, all or nothing, over what was there.
    ///
    /// # Errors
    /// If they are not there for certain.
    fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), Failed>;

    /// The bytes that are there, read anew; `None` if there are none. More than `limit` are an error.
    ///
    /// # Errors
    /// If that can't be told.
    fn get(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, Failed>;

    /// The names in a folder; none if it is not there.
    ///
    /// # Errors
    /// If that can't be told.
    fn list(&mut self, folder: &str) -> Result<Vec<String>, Failed>;

    /// Removes what is there under a name, if anything is.
    ///
    /// # Errors
    /// If it may still be there.
    fn remove(&mut self, name: &str) -> Result<(), Failed>;
}

/// The place that the settings name.
///
/// # Errors
/// If it is none, or can't be reached.
pub fn open(settings: &Settings) -> Result<Box<dyn Place>, Failed> {
    Ok(match settings {
        Settings::Folder { path, apart_from } => {
            Box::new(folder::Folder::open(path, apart_from.as_deref())?)
        }
        Settings::Ssh { host, user, port, path, key, known_hosts } => {
            Box::new(ssh::Ssh::new(host, user, *port, path, key, known_hosts)?)
        }
        Settings::S3 { bucket, prefix, endpoint, region, credentials, authority } => {
            let store = s3::Settings {
                bucket,
                prefix,
                endpoint: endpoint.as_deref(),
                region,
                credentials: credentials.as_deref(),
                authority: authority.as_deref(),
            };
            Box::new(s3::S3::open(&store)?)
        }
    })
}

/// What is larger than any may be was not put there by this program.
fn too_large(name: &str, limit: u64) -> Failed {
    Failed::new(Why::Damaged, format!("{name} there is larger than {limit} bytes"))
}
