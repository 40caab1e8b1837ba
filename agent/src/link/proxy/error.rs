//! What stands between this host and the world when a proxy does. Always weather: it says nothing of a
//! release or of a server. Names the proxy, the cause and the remedy, and never a password.

use std::{error::Error, io, time::Duration};

/// A proxy did not lead where it should.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the proxy {proxy} does not lead to {target}: {why}\nhelp: {}", why.help())]
pub struct ProxyError {
    /// Which proxy, without its login.
    pub proxy: String,
    /// Who was called through it.
    pub target: String,
    /// Why not.
    pub why: Why,
}

/// Why a proxy does not lead anywhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// No connection to the proxy.
    #[error("it can't be reached: {0}")]
    Unreachable(String),
    /// It takes longer than this.
    #[error("it does not answer within {} s", .0.as_secs())]
    Slow(Duration),
    /// It hung up instead of answering.
    #[error("it closes the connection without an answer")]
    Closed,
    /// What it says is no answer of a proxy.
    #[error("its answer is no HTTP: {0}")]
    Nonsense(String),
    /// It wants to know who asks.
    #[error("it asks for a login (407)")]
    LoginWanted,
    /// It does not take this login.
    #[error("it does not take the login of {0:?}")]
    LoginRefused(String),
    /// The password can't be read.
    #[error("the password for it can't be read: {0}")]
    Password(String),
    /// It refuses with this status.
    #[error("it answers {status}")]
    Refused {
        /// The status.
        status: u16,
        /// For how long it asks not to be asked again.
        after: Option<Duration>,
    },
    /// It said yes, and then something else speaks than a server.
    #[error("what comes through it is not the server but something that does not speak TLS")]
    NotTheServer,
    /// The connection through it ended.
    #[error("the connection through it ended before its time")]
    Ended,
}

impl Why {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Why::Unreachable(_) | Why::Slow(_) | Why::Closed | Why::Nonsense(_) => {
                "look whether the proxy runs and is the one that is meant (`[proxy]` in agent.toml, or https_proxy in the agent's environment); the agent tries again"
            }
            Why::LoginWanted => {
                "give `proxy.user` and `proxy.password_file` in agent.toml; the agent tries again"
            }
            Why::LoginRefused(_) => {
                "correct `proxy.user` or the password in its file; it is read again at the next try"
            }
            Why::Password(_) => {
                "put the password alone into the file, with mode 600; it is read again at the next try"
            }
            Why::Refused { .. } => {
                "have the proxy's owner permit CONNECT to the server's name and port, or name the server in `proxy.no_proxy`; the agent tries again"
            }
            Why::NotTheServer => {
                "have the proxy's owner let connections to the server pass unchanged (no login page, no inspection); the agent tries again"
            }
            Why::Ended => "nothing, if it passes: the agent tries again and goes on where it was",
        }
    }
}

impl ProxyError {
    /// What the proxy itself said of when to ask again.
    pub fn retry_after(&self) -> Option<Duration> {
        match &self.why {
            Why::Refused { after, .. } => *after,
            Why::Unreachable(_)
            | Why::Slow(_)
            | Why::Closed
            | Why::Nonsense(_)
            | Why::LoginWanted
            | Why::LoginRefused(_)
            | Why::Password(_)
            | Why::NotTheServer
            | Why::Ended => None,
        }
    }

    /// The one that this error came of, if one did.
    pub(crate) fn within<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a ProxyError> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            if let Some(found) =
                error.downcast_ref().or_else(|| inner.and_then(|inner| inner.downcast_ref()))
            {
                return Some(found);
            }
            cause = error.source();
        }
        None
    }
}

impl From<ProxyError> for io::Error {
    fn from(error: ProxyError) -> io::Error {
        io::Error::other(error)
    }
}
