//! What a failed call means: weather, which passes, or a refusal, which somebody has to look at. Either
//! way the agent calls again; only what it says and where it looks for help differ.

use std::{error::Error, future::Future, io, time::Duration};

use rustls::CertificateError;
use tonic::{Code, Response, Status};

use super::{proxy::ProxyError, retry};

/// A call that did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub struct CallError {
    /// What it means.
    pub trouble: Trouble,
    /// For how long whoever answered asks not to be asked again: at most an hour.
    pub retry_after: Option<Duration>,
    text: String,
    /// Whether what answered could not prove that it is the fleet's server.
    impostor: bool,
}

/// What a failed call means.
///
/// A server that cannot prove who it is counts as weather: it may be another one tomorrow, and nothing
/// was said to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// The network, a server that starts, is full or fails: it passes.
    Weather,
    /// The server does not let this certificate in: expired, revoked, unknown.
    Barred,
    /// There is no such thing.
    Absent,
    /// The server understood, and refuses this call.
    Refused,
}

/// How long a small call may take in all. A dead link is noticed by keep-alive long before; this is for
/// a server that holds the connection and never answers.
pub(super) const SMALL: Duration = Duration::from_secs(120);

/// The same for a metadata file: 5 MB over a slow link.
pub(super) const LARGE: Duration = Duration::from_secs(30 * 60);

impl CallError {
    pub(crate) fn weather(text: impl Into<String>) -> CallError {
        CallError::new(Trouble::Weather, text.into())
    }

    /// The error with what to do about it, for a person who waits for the answer. The server's own
    /// help comes first.
    pub fn with_help(&self) -> String {
        if self.text.contains("\nhelp:") {
            return self.text.clone();
        }
        let help = match self.trouble {
            _ if self.impostor => {
                "do not trust this server; compare its address with the administrator's, and have \
                 them make a new token if the server was set up anew"
            }
            Trouble::Weather => {
                "look whether the server runs and can be reached from here, then try again"
            }
            Trouble::Barred => "have an administrator make a new token, then try again with it",
            Trouble::Absent | Trouble::Refused => {
                "have an administrator look at the server's log; compare the versions of both programs"
            }
        };
        format!("{}\nhelp: {help}", self.text)
    }

    /// Whether what answered could not prove that it is the fleet's server.
    pub fn is_impostor(&self) -> bool {
        self.impostor
    }

    pub(crate) fn absent(text: impl Into<String>) -> CallError {
        CallError::new(Trouble::Absent, text.into())
    }

    /// As the other half of the agent tells it.
    pub(super) fn told(trouble: Trouble, text: String, impostor: bool) -> CallError {
        CallError { impostor, ..CallError::new(trouble, text) }
    }

    /// The same, which asks to be left alone for so long; it is obeyed up to an hour.
    #[must_use]
    pub(super) fn and_rests(self, span: Option<Duration>) -> CallError {
        let span = span.filter(|span| !span.is_zero()).map(|span| span.min(retry::LONGEST));
        CallError { retry_after: span, ..self }
    }

    pub(crate) fn refused(text: impl Into<String>) -> CallError {
        CallError::new(Trouble::Refused, text.into())
    }

    fn new(trouble: Trouble, text: String) -> CallError {
        CallError { trouble, retry_after: None, text, impostor: false }
    }
}

impl From<Status> for CallError {
    fn from(status: Status) -> CallError {
        let trouble = match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => Trouble::Barred,
            Code::NotFound => Trouble::Absent,
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::AlreadyExists
            | Code::OutOfRange
            | Code::Unimplemented => Trouble::Refused,
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Trouble::Weather,
        };
        let by_proxy = ProxyError::within(&status).and_then(ProxyError::retry_after);
        CallError {
            trouble,
            retry_after: retry::of_status(&status).max(by_proxy),
            text: told(&status),
            impostor: is_impostor(&status),
        }
    }
}

/// A call that is given up after a while.
pub(super) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(CallError::weather(format!(
            "the server did not answer within {} s",
            limit.as_secs()
        ))),
    }
}

/// Longest text of a server that is repeated.
const LONGEST: usize = 1000;

/// The server's words; where it was not reached, the innermost cause, since the outer ones say
/// "transport error".
fn told(status: &Status) -> String {
    let mut said = status.message().to_owned();
    let mut cause: Option<&dyn Error> = status.source();
    while let Some(error) = cause {
        said = error.to_string();
        cause = error.source();
    }
    if said.is_empty() {
        said = format!("the server answered {}", status.code());
    }
    said.chars().take(LONGEST).collect()
}

/// Whether the connection failed by the server's certificate. TLS's own error travels inside one of
/// input and output.
fn is_impostor(status: &Status) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    while let Some(error) = cause {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = error.downcast_ref().or_else(|| inner?.downcast_ref());
        if let Some(rustls::Error::InvalidCertificate(why)) = tls {
            // One that has run out is the fleet's own, neglected.
            return !matches!(
                why,
                CertificateError::Expired | CertificateError::ExpiredContext { .. }
            );
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_full_or_away_is_weather() {
        for code in [Code::ResourceExhausted, Code::Unavailable, Code::DeadlineExceeded] {
            assert_eq!(CallError::from(Status::new(code, "x")).trouble, Trouble::Weather);
        }
        assert_eq!(CallError::from(Status::unauthenticated("x")).trouble, Trouble::Barred);
    }

    #[test]
    fn every_failed_call_has_one_help_and_the_servers_own_counts() {
        for code in [Code::Unavailable, Code::Unauthenticated, Code::NotFound, Code::DataLoss] {
            let said = CallError::from(Status::new(code, "it rains")).with_help();
            assert!(said.starts_with("it rains\nhelp: "), "{said}");
        }
        let said = CallError::from(Status::unauthenticated("no\nhelp: ask bob")).with_help();
        assert_eq!(said, "no\nhelp: ask bob");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_is_given_up() {
        let never = std::future::pending::<Result<Response<()>, Status>>();
        let error = within(SMALL, never).await.unwrap_err();
        assert_eq!(error.trouble, Trouble::Weather);
    }
}
