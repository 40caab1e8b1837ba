//! Where a proxy is and how this host logs in there. Decides which texts name a proxy; the password is read
//! anew for each connection and shown to nobody.

use std::{
    fmt, fs,
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::PathBuf,
    str::FromStr,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::fs::OFlags;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};

/// The port where the text names none, as curl has it.
const USUAL_PORT: u16 = 1080;
/// Longest name and longest password, bytes.
const LONGEST: usize = 512;
/// Nobody but the owner may change a password's file, and the rest of the host may not read it. Its group
/// may: the credentials that systemd hands over have mode 0440.
const OPEN_TO_OTHERS: u32 = 0o027;

/// An HTTP proxy: `http://name:port`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    /// A name, or an IP address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How to log in; `None`: not at all.
    pub login: Option<Login>,
}

/// Who this host is to the proxy.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Login {
    /// As the environment says it.
    Plain {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// The password lies in a file of its own.
    File {
        /// The name.
        user: String,
        /// The file: one line.
        path: PathBuf,
    },
    /// It lies in a file that could not be read.
    Unreadable {
        /// The name.
        user: String,
        /// Which file, and why.
        why: String,
    },
}

/// A text that names no proxy. It does not repeat the text, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyAddressError {
    /// TLS to the proxy itself, SOCKS and so on.
    #[error("a proxy is reached by http://, not by {0}://")]
    Scheme(String),
    /// Anything else.
    #[error("it is not the address of a proxy; write it as http://name:port")]
    Invalid,
}

impl Proxy {
    /// The same with a login.
    #[must_use]
    pub fn with_login(self, login: Login) -> Proxy {
        Proxy { login: Some(login), ..self }
    }

    /// The same with the password that lies in its file now.
    pub(super) fn with_password(&self) -> Proxy {
        let login = self.login.clone().map(|login| match login {
            Login::File { user, path } => match read_password(&path) {
                Ok(password) => Login::Plain { user, password },
                Err(why) => {
                    let why = format!("{}: {why}", path.display());
                    Login::Unreadable { user, why }
                }
            },
            known @ (Login::Plain { .. } | Login::Unreadable { .. }) => known,
        });
        Proxy { login, ..self.clone() }
    }

    /// The value of `Proxy-Authorization`; `None` without a login.
    ///
    /// # Errors
    /// Why the password can't be had.
    pub fn authorization(&self) -> Result<Option<String>, String> {
        let (user, password) = match &self.login {
            None => return Ok(None),
            Some(Login::Plain { user, password }) => (user, password.clone()),
            Some(Login::Unreadable { why, .. }) => return Err(why.clone()),
            Some(Login::File { user, path }) => {
                let read = read_password(path);
                (user, read.map_err(|why| format!("{}: {why}", path.display()))?)
            }
        };
        Ok(Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))))
    }
}

fn read_password(path: &PathBuf) -> Result<String, String> {
    // A pipe in its place must not hold the agent up.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let open = || -> io::Result<(fs::File, fs::Metadata)> {
        let file = fs::File::options().read(true).custom_flags(flags).open(path)?;
        let about = file.metadata()?;
        Ok((file, about))
    };
    let (file, about) = open().map_err(|error| error.to_string())?;
    if !about.is_file() {
        return Err("it is not a file".to_owned());
    }
    if about.mode() & OPEN_TO_OTHERS != 0 {
        return Err(format!(
            "its mode {:o} lets others read or change it; make it 600",
            about.mode() & 0o7777
        ));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST as u64 + 2).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() || line.len() > LONGEST || line.contains(char::is_control) {
        return Err(format!("it must hold one line of 1 to {LONGEST} bytes, the password"));
    }
    Ok(line.to_owned())
}

/// Whether a name can be sent: the first colon ends it there.
fn is_user(user: &str) -> bool {
    !user.is_empty()
        && user.len() <= LONGEST
        && !user.contains(|c: char| c == ':' || c.is_control())
}

impl FromStr for Proxy {
    type Err = ProxyAddressError;

    /// As curl reads `https_proxy`: the scheme and the port may be left out, a login may stand in it.
    fn from_str(text: &str) -> Result<Proxy, ProxyAddressError> {
        let invalid = ProxyAddressError::Invalid;
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                return Err(ProxyAddressError::Scheme(scheme.to_ascii_lowercase()));
            }
            Some(_) => return Err(invalid),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => (Some(parse_login(login).ok_or(invalid.clone())?), place),
            None => (None, rest),
        };
        let (host, port) = parse_place(place).ok_or(invalid)?;
        Ok(Proxy { host, port, login })
    }
}

fn parse_place(place: &str) -> Option<(String, u16)> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            (host, after.strip_prefix(':').or(after.is_empty().then_some(""))?)
        }
        None => place.split_once(':').unwrap_or((place, "")),
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = if port.is_empty() { USUAL_PORT } else { port.parse().ok()? };
    let bracketed = place.starts_with('[');
    let known = ServerName::try_from(host).ok()?;
    let is_v6 = matches!(known, ServerName::IpAddress(_)) && host.contains(':');
    (digits && port != 0 && bracketed == is_v6).then(|| (host.to_owned(), port))
}

fn parse_login(text: &str) -> Option<Login> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let (user, password) = (decoded(user)?, decoded(password)?);
    let fits = is_user(&user) && password.len() <= LONGEST && !password.contains(char::is_control);
    fits.then_some(Login::Plain { user, password })
}

/// `%40` is `@`.
fn decoded(text: &str) -> Option<String> {
    let (mut out, mut bytes) = (Vec::new(), text.bytes());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let hex = [bytes.next()?, bytes.next()?];
                let digits = hex.iter().all(u8::is_ascii_hexdigit);
                u8::from_str_radix(std::str::from_utf8(&hex).ok().filter(|_| digits)?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "http://[{}]:{}", self.host, self.port),
            false => write!(f, "http://{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Login::Plain { user, .. } => write!(f, "Plain({user}, ...)"),
            Login::Unreadable { user, why } => write!(f, "Unreadable({user}, {why})"),
            Login::File { user, path } => write!(f, "File({user}, {})", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_proxy_is_named_as_curl_names_it() {
        for (text, shown) in [
            ("http://proxy.example.org:3128", "http://proxy.example.org:3128"),
            ("HTTP://proxy.example.org:3128/", "http://proxy.example.org:3128"),
            ("proxy.example.org:3128", "http://proxy.example.org:3128"),
            ("proxy.example.org", "http://proxy.example.org:1080"),
            ("http://192.0.2.1:80", "http://192.0.2.1:80"),
            ("http://[2001:db8::1]:3128", "http://[2001:db8::1]:3128"),
            ("[2001:db8::1]", "http://[2001:db8::1]:1080"),
            ("http://me:secret@proxy:3128", "http://proxy:3128"),
        ] {
            assert_eq!(text.parse::<Proxy>().unwrap().to_string(), shown, "{text}");
        }
        for text in [
            "",
            "http://",
            "http://:3128",
            "http://proxy:0",
            "http://proxy:+1",
            "http://proxy:66000",
            "http://proxy:3128/path",
            "http://pro xy:3128",
            "http://proxy:1:2",
            "2001:db8::1",
            "[proxy]:1",
            "http://a:b%0ac@proxy:1",
            "http://%3a:b@proxy:1",
            "http://a:%f@proxy:1",
            "http://@proxy:1",
            "socks5://proxy:1080",
            "https://proxy:443",
        ] {
            assert!(text.parse::<Proxy>().is_err(), "{text}");
        }
        let said = "socks5h://me:secret@proxy".parse::<Proxy>().unwrap_err().to_string();
        assert!(said.contains("socks5h") && !said.contains("secret"), "{said}");
    }

    #[test]
    fn a_login_is_sent_as_basic_and_shown_to_nobody() {
        let proxy: Proxy = "http://me%40home:s%3Acret@proxy:1".parse().unwrap();
        let sent = proxy.authorization().unwrap().unwrap();
        assert_eq!(sent, format!("Basic {}", STANDARD.encode("me@home:s:cret")));
        assert!(!format!("{proxy:?} {proxy}").contains("cret"));
    }

    #[test]
    fn a_password_is_read_from_a_file_that_nobody_else_reads_or_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        let login = Login::File { user: "me".into(), path: path.clone() };
        let proxy = "proxy:1".parse::<Proxy>().unwrap().with_login(login);
        let put = |text: &[u8], mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            proxy.authorization()
        };
        assert!(proxy.authorization().unwrap_err().contains("password"), "it is not there");
        for mode in [0o600, 0o400, 0o440, 0o640] {
            let sent = put(b"secret\n", mode).unwrap().unwrap();
            assert_eq!(sent, format!("Basic {}", STANDARD.encode("me:secret")));
        }
        for mode in [0o644, 0o604, 0o620, 0o602, 0o777] {
            let said = put(b"secret\n", mode).unwrap_err();
            assert!(said.contains("mode") && !said.contains("secret"), "{said}");
        }
        for text in [b"".as_slice(), b"\n", b"a\nb\n", b"\xff\n", &[b'x'; 600]] {
            put(text, 0o600).unwrap_err();
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        proxy.authorization().unwrap_err();
    }
}
