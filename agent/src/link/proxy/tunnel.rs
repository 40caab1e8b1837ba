//! A way through a proxy to a server, by CONNECT. What speaks at its far end must speak TLS: a login page, or
//! a proxy that says yes and hangs up, is told as what it is.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::{
    StatusCode,
    header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER},
};
use refit_proto::transport;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::{Login, Proxy, ProxyError, Why};
use crate::link::retry::retry_after;

/// Longest wait for the proxy's answer, which includes its own call to the server.
const ANSWER: Duration = Duration::from_secs(20);
/// Longest head of an answer, bytes.
const LONGEST_HEAD: usize = 16 * 1024;
/// What an answer begins with.
const HTTP: &[u8] = b"HTTP/1.";
/// What a server's side of TLS begins with: a handshake, or an alert.
const TLS: [u8; 2] = [22, 21];

/// What a connection runs over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection to this name and port through the proxy.
///
/// # Errors
/// A [`ProxyError`].
pub(crate) async fn tunnel(proxy: &Proxy, host: &str, port: u16) -> io::Result<Box<dyn Stream>> {
    let target = match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    let told = |why| proxy.told(&target, why);
    let stream = transport::connect(proxy.host.clone(), proxy.port)
        .await
        .map_err(|error| told(Why::Unreachable(error.to_string())))?;
    let stream = open(proxy, stream, &target).await.map_err(&told)?;
    Ok(Box::new(Through { stream, told: told(Why::Ended), begun: false }))
}

/// Asks the proxy, and gives what it leads to.
pub(super) async fn open<S: Stream + 'static>(
    proxy: &Proxy,
    stream: S,
    target: &str,
) -> Result<S, Why> {
    let asked = tokio::time::timeout(ANSWER, ask(proxy, stream, target));
    asked.await.unwrap_or(Err(Why::Slow(ANSWER)))
}

async fn ask<S: Stream + 'static>(proxy: &Proxy, mut stream: S, target: &str) -> Result<S, Why> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(login) = proxy.authorization().map_err(Why::Password)? {
        request += &format!("Proxy-Authorization: {login}\r\n");
    }
    request += "\r\n";
    stream.write_all(request.as_bytes()).await.map_err(|_reset| Why::Closed)?;
    loop {
        let (status, headers) = parse(&head(&mut stream).await?)?;
        // What comes before the answer is none.
        if !status.is_informational() {
            return match status.is_success() {
                true => Ok(stream),
                false => Err(proxy.refuses(status, retry_after(&headers))),
            };
        }
    }
}

/// The head of an answer, and not a byte more: what follows is the server's.
async fn head<S: Stream>(stream: &mut S) -> Result<Vec<u8>, Why> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.map_err(|_end| Why::Closed)?);
        let known = head.len().min(HTTP.len());
        if head[..known] != HTTP[..known] {
            return Err(Why::Nonsense("it begins otherwise".to_owned()));
        }
        if head.len() > LONGEST_HEAD {
            return Err(Why::Nonsense(format!("its head has more than {LONGEST_HEAD} bytes")));
        }
    }
    Ok(head)
}

/// Its status, and the headers that are looked at.
fn parse(head: &[u8]) -> Result<(StatusCode, HeaderMap), Why> {
    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut answer = httparse::Response::new(&mut headers);
    answer.parse(head).map_err(|error| Why::Nonsense(error.to_string()))?;
    let code = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = code.ok_or_else(|| Why::Nonsense("it has no status".to_owned()))?;
    let mut known = HeaderMap::new();
    for name in [RETRY_AFTER, DATE] {
        let found = answer.headers.iter().find(|it| it.name.eq_ignore_ascii_case(name.as_str()));
        if let Some(value) = found.and_then(|it| HeaderValue::from_bytes(it.value).ok()) {
            known.insert(name, value);
        }
    }
    Ok((status, known))
}

impl Proxy {
    /// The error that names this proxy, on the way to this target.
    pub(crate) fn told(&self, target: &str, why: Why) -> ProxyError {
        ProxyError { proxy: self.to_string(), target: target.to_owned(), why }
    }

    /// The same for an answer that is none of success.
    pub(crate) fn refusal(&self, target: &str, status: StatusCode) -> ProxyError {
        self.told(target, self.refuses(status, None))
    }

    fn refuses(&self, status: StatusCode, after: Option<Duration>) -> Why {
        // tinyproxy says 401 of a login that is wrong.
        match (status, &self.login) {
            (StatusCode::PROXY_AUTHENTICATION_REQUIRED, None) => Why::LoginWanted,
            (
                StatusCode::PROXY_AUTHENTICATION_REQUIRED | StatusCode::UNAUTHORIZED,
                Some(
                    Login::Plain { user, .. }
                    | Login::File { user, .. }
                    | Login::Unreadable { user, .. },
                ),
            ) => Why::LoginRefused(user.clone()),
            (status, _) => Why::Refused { status: status.as_u16(), after },
        }
    }
}

/// What comes through the proxy, under its name where it breaks.
struct Through<S> {
    stream: S,
    /// What is said when it ends.
    told: ProxyError,
    /// Whether the far end has said anything.
    begun: bool,
}

impl<S> Through<S> {
    fn error(&self, why: Why) -> io::Error {
        ProxyError { why, ..self.told.clone() }.into()
    }
}

impl<S: Stream> AsyncRead for Through<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        if let Err(_reset) = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer)) {
            return Poll::Ready(Err(self.error(Why::Ended)));
        }
        let came = &buffer.filled()[before..];
        Poll::Ready(match came.first() {
            None if room > 0 => Err(self.error(Why::Ended)),
            Some(first) if !self.begun && !TLS.contains(first) => {
                Err(self.error(Why::NotTheServer))
            }
            None => Ok(()),
            Some(_) => {
                self.begun = true;
                Ok(())
            }
        })
    }
}

impl<S: Stream> AsyncWrite for Through<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        Poll::Ready(written.map_err(|_reset| self.error(Why::Ended)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
