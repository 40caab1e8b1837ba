//! The proxies between this host and the rest of the world: one for the server, reached by CONNECT, and one
//! for mirrors, which are plain HTTP. Decides who is called through which proxy and who is called directly.
//! A proxy is trusted with nothing: TLS to the server goes through it unbroken, and content proves itself.

mod address;
mod environment;
mod error;
mod exceptions;
mod tunnel;

pub use address::{Login, Proxy, ProxyAddressError};
pub use error::{ProxyError, Why};
pub use exceptions::{Exceptions, NotAnException};
pub(super) use tunnel::{Stream, tunnel};

use serde::{Deserialize, Serialize};

/// Which proxies lead where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxies {
    /// To the server.
    server: Option<Proxy>,
    /// To mirrors.
    mirrors: Option<Proxy>,
    /// Who is called directly all the same.
    exceptions: Exceptions,
}

impl Proxies {
    /// This proxy for everybody but these.
    pub fn through(proxy: Proxy, exceptions: Exceptions) -> Proxies {
        Proxies { server: Some(proxy.clone()), mirrors: Some(proxy), exceptions }
    }

    /// Whether a password of these lies in a file.
    pub fn read_files(&self) -> bool {
        let all = self.server.iter().chain(&self.mirrors);
        all.into_iter().any(|proxy| matches!(proxy.login, Some(Login::File { .. })))
    }

    /// The same with the passwords that lie in files now, for who can't read them.
    #[must_use]
    pub fn with_passwords(&self) -> Proxies {
        let read = |proxy: &Option<Proxy>| proxy.as_ref().map(Proxy::with_password);
        let (server, mirrors) = (read(&self.server), read(&self.mirrors));
        Proxies { server, mirrors, exceptions: self.exceptions.clone() }
    }

    /// The proxy that leads to a server of this name (an address of version 6 without brackets) and port.
    pub fn to_server(&self, host: &str, port: u16) -> Option<&Proxy> {
        self.server.as_ref().filter(|_| !self.exceptions.have(host, port))
    }

    /// The proxy that leads to a mirror.
    pub fn to_mirror(&self, host: &str, port: u16) -> Option<&Proxy> {
        self.mirrors.as_ref().filter(|_| !self.exceptions.have(host, port))
    }
}

#[cfg(test)]
mod tests;
