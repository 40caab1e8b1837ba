//! `[proxy]` in `agent.toml`: the way out of a network that lets nobody out directly. Where the file says
//! nothing, the environment does.

use std::path::PathBuf;

use serde::Deserialize;

use crate::link::{Exceptions, Login, Proxies, Proxy};

/// What stands for no proxy at all, whatever the environment says.
const NONE: &str = "none";
/// The longest name to log in with, bytes.
const LONGEST_USER: usize = 512;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    url: Option<String>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    #[serde(default)]
    no_proxy: Vec<String>,
}

impl Written {
    /// The proxies, checked.
    ///
    /// # Errors
    /// The key, and what is wrong with it. Never repeats a password.
    pub(super) fn check(self) -> Result<Proxies, String> {
        let Some(url) = self.url.as_deref() else {
            if self.user.is_some() || self.password_file.is_some() || !self.no_proxy.is_empty() {
                return Err("proxy.url: must be given where `[proxy]` says anything".to_owned());
            }
            return Ok(Proxies::from_environment(&|name| std::env::var(name).ok()));
        };
        if url == NONE {
            return Ok(Proxies::default());
        }
        let proxy: Proxy = url.parse().map_err(|error| format!("proxy.url: {error}"))?;
        if proxy.login.is_some() {
            // The file is readable by all of the host.
            return Err(
                "proxy.url: must hold no login; use proxy.user and proxy.password_file".to_owned()
            );
        }
        let proxy = match (self.user, self.password_file) {
            (None, None) => proxy,
            (Some(user), Some(path)) => proxy.with_login(login(user, path)?),
            (Some(_), None) => return Err("proxy.password_file: must be given with user".into()),
            (None, Some(_)) => return Err("proxy.user: must be given with password_file".into()),
        };
        let exceptions = Exceptions::new(self.no_proxy.iter().map(String::as_str))
            .map_err(|error| format!("proxy.no_proxy: {error}"))?;
        Ok(Proxies::through(proxy, exceptions))
    }
}

fn login(user: String, path: PathBuf) -> Result<Login, String> {
    if !path.is_absolute() {
        return Err("proxy.password_file: must be an absolute path".to_owned());
    }
    if user.is_empty()
        || user.len() > LONGEST_USER
        || user.contains(|c: char| c == ':' || c.is_control())
    {
        return Err(format!("proxy.user: must have 1 to {LONGEST_USER} bytes and no colon"));
    }
    Ok(Login::File { user, path })
}
