//! Content from mirrors, and from the server where they do not give it. A mirror proves nothing and is asked
//! for nothing but bytes: one that lies, is slow, never ends or is away costs a bounded time, is named in
//! the log, and is left out for the rest of the update.

use std::{
    io::{self, Read},
    time::Duration,
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_RANGE, HOST, PROXY_AUTHORIZATION, RANGE},
};
use hyper_util::rt::TokioIo;
use refit_proto::{names::Digest, servers::Mirror, transport};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};

use super::{
    CallError, Patience, Proxies, ServerFrames, Trouble,
    halves::{Chunks, Giver},
    patience::Meter,
    proxy::Why,
    retry::retry_after,
};
use crate::host::content::{Fetch, FetchError};

/// Mirrors in the order of the signed list, and then the server.
pub struct MirroredFrames {
    mirrors: Vec<Mirror>,
    server: ServerFrames,
    runtime: Handle,
    /// Who gave the frame that came last.
    last: Option<Mirror>,
}

/// Why a mirror gives nothing.
#[derive(Debug, thiserror::Error)]
enum MirrorError {
    /// It does not have this content. It may have others.
    #[error("it does not have it")]
    Absent,
    /// It asks to be left alone for a while.
    #[error("it answers {status} and asks to be left alone for {} s", .span.as_secs())]
    Rests {
        /// What it answers.
        status: StatusCode,
        /// For how long.
        span: Duration,
    },
    /// Whatever else.
    #[error("{0}")]
    Useless(String),
}

impl From<MirrorError> for CallError {
    fn from(error: MirrorError) -> CallError {
        match error {
            MirrorError::Absent => CallError::absent(error.to_string()),
            MirrorError::Rests { span, .. } => {
                CallError::weather(error.to_string()).and_rests(Some(span))
            }
            MirrorError::Useless(why) => CallError::weather(why),
        }
    }
}

fn useless(why: impl ToString) -> MirrorError {
    MirrorError::Useless(why.to_string())
}

impl MirroredFrames {
    /// Frames from these mirrors, and from the server where none of them gives them.
    pub fn new(mirrors: Vec<Mirror>, server: ServerFrames, runtime: Handle) -> MirroredFrames {
        let mirrors = server.link.rests().awake(mirrors, server.link.now());
        MirroredFrames { mirrors, server, runtime, last: None }
    }

    fn leave_out(&mut self, mirror: &Mirror, why: &str) {
        tracing::warn!(mirror = mirror.as_str(), why, "a mirror is left out; others are asked");
        self.mirrors.retain(|one| one != mirror);
    }
}

impl Fetch for MirroredFrames {
    fn frame(&mut self, digest: Digest, offset: u64) -> Result<Box<dyn Read + '_>, FetchError> {
        for mirror in self.mirrors.clone() {
            self.server.wanted().map_err(|error| FetchError::Away(error.to_string()))?;
            let begun = self.server.begin(Giver::mirror(&mirror), digest, offset);
            match self.runtime.block_on(begun) {
                Ok(body) => {
                    self.last = Some(mirror);
                    return Ok(Box::new(Reading { body, frames: self, chunk: Bytes::new() }));
                }
                Err(error) if error.trouble == Trouble::Absent => {}
                Err(error) => {
                    if let Some(span) = error.retry_after {
                        let link = &self.server.link;
                        link.rests().mirror_rests(&mirror, link.now(), span);
                    }
                    self.leave_out(&mirror, &error.to_string());
                }
            }
        }
        self.last = None;
        self.server.frame(digest, offset)
    }

    fn another(&mut self, why: &str) -> bool {
        let wanted = self.server.wanted().is_ok();
        match self.last.take().filter(|_| wanted) {
            Some(mirror) => {
                self.leave_out(&mirror, why);
                true
            }
            None => false,
        }
    }
}

/// What a mirror has of a frame from this byte of it on.
pub(super) async fn begin(
    patience: Patience,
    proxies: &Proxies,
    mirror: &Mirror,
    wanted: (Digest, u64),
) -> Result<Body, CallError> {
    Ok(begun(patience, proxies, mirror, wanted).await?)
}

async fn begun(
    patience: Patience,
    proxies: &Proxies,
    mirror: &Mirror,
    (digest, offset): (Digest, u64),
) -> Result<Body, MirrorError> {
    let answer = timeout(patience.window, ask(proxies, mirror, digest, offset)).await;
    let answer = answer.map_err(|_| useless("it does not answer (slow-retrieval)"))??;
    // Not every web server can begin in the middle.
    let skip = match answer.status() {
        StatusCode::OK => offset,
        StatusCode::PARTIAL_CONTENT if begins_at(&answer, offset) => 0,
        StatusCode::NOT_FOUND => return Err(MirrorError::Absent),
        status => {
            let (host, port) = mirror.host_and_port();
            let through = proxies.to_mirror(host, port);
            return Err(match (retry_after(answer.headers()), through) {
                (Some(span), _) => MirrorError::Rests { status, span },
                (None, Some(proxy)) => useless(proxy.refusal(mirror.authority(), status)),
                (None, None) => useless(format!("it answers {status}")),
            });
        }
    };
    Ok(Body { stream: answer.into_body(), meter: Meter::new(patience), skip })
}

async fn ask(
    proxies: &Proxies,
    mirror: &Mirror,
    digest: Digest,
    offset: u64,
) -> Result<Response<Incoming>, MirrorError> {
    let (host, port) = mirror.host_and_port();
    let (path, proxy) = (mirror.path_of(&digest), proxies.to_mirror(host, port));
    let mut request = Request::get(match proxy {
        Some(_) => format!("http://{}{path}", mirror.authority()),
        None => path,
    });
    request = request.header(HOST, mirror.authority());
    if offset > 0 {
        request = request.header(RANGE, format!("bytes={offset}-"));
    }
    let stream = match proxy {
        Some(proxy) => {
            let told = |why| useless(proxy.told(mirror.authority(), why));
            let login = proxy.authorization().map_err(|why| told(Why::Password(why)))?;
            if let Some(login) = login {
                request = request.header(PROXY_AUTHORIZATION, login);
            }
            transport::connect(proxy.host.clone(), proxy.port)
                .await
                .map_err(|error| told(Why::Unreachable(error.to_string())))?
        }
        None => transport::connect(host.to_owned(), port).await.map_err(useless)?,
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(useless)?;
    tokio::spawn(async move {
        // What breaks it is told to whoever reads the answer.
        let _ended = connection.await;
    });
    let request = request.body(Empty::<Bytes>::new()).map_err(useless)?;
    sender.send_request(request).await.map_err(|error| match proxy {
        Some(proxy) => useless(format!("through the proxy {proxy}: {error}")),
        None => useless(error),
    })
}

/// Whether a part of the file begins where it was asked for.
fn begins_at<T>(answer: &Response<T>, offset: u64) -> bool {
    let range = answer.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {offset}-")))
}

/// What a mirror gives.
pub(super) struct Body {
    stream: Incoming,
    meter: Meter,
    /// What is left out first.
    skip: u64,
}

impl Body {
    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let asked = Instant::now();
            let came = timeout(self.meter.left(), self.stream.frame()).await;
            let waited = if came.is_err() { self.meter.left() } else { asked.elapsed() };
            let frame = match came {
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => frame.map_err(io::Error::other)?.into_data().unwrap_or_default(),
                Err(_) => Bytes::new(),
            };
            self.meter.count(waited, frame.len()).map_err(io::Error::other)?;
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(frame.len());
            self.skip -= skipped as u64;
            if frame.len() > skipped {
                return Ok(Some(frame.slice(skipped..)));
            }
        }
    }
}

struct Reading<'a> {
    body: Chunks,
    frames: &'a MirroredFrames,
    chunk: Bytes,
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.chunk.is_empty() {
            self.frames.server.wanted().map_err(io::Error::other)?;
            let came = self.frames.runtime.block_on(self.body.next());
            match came.map_err(io::Error::other)? {
                Some(chunk) => self.chunk = chunk.into(),
                None => return Ok(0),
            }
        }
        let taken = self.chunk.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&self.chunk.split_to(taken));
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, net::TcpListener};

    use super::*;
    use crate::link::{Exceptions, Login, Proxy};

    /// What a mirror that answers just this gives from byte 4 on.
    fn from_byte_4(answer: &'static str) -> Result<String, String> {
        let (read, request) = asked(answer, |address| {
            (format!("http://{address}/refit").parse().unwrap(), Proxies::default())
        });
        let digest = Digest::of(b"content");
        let path = format!("get /refit/{}/{digest} http/1.1", &digest.to_string()[..2]);
        assert!(request.starts_with(&path) && request.contains("range: bytes=4-"), "{request}");
        read.map_err(|error| error.to_string())
    }

    /// What comes where this is answered, and what was asked, in small letters.
    fn asked(
        answer: &'static str,
        way: impl FnOnce(std::net::SocketAddr) -> (Mirror, Proxies),
    ) -> (Result<String, MirrorError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mirror, proxies) = way(listener.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..read]).to_lowercase()
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        // As in the agent, another thread runs the network.
        let network = std::thread::spawn(move || runtime.block_on(stopped));
        let patience = Patience { window: Duration::from_secs(10), slowest: 1 };
        let digest = Digest::of(b"content");
        let begun = handle.block_on(begun(patience, &proxies, &mirror, (digest, 4)));
        let read = begun.and_then(|mut body| {
            let mut all = Vec::new();
            while let Some(bytes) = handle.block_on(body.next()).map_err(useless)? {
                all.extend_from_slice(&bytes);
            }
            Ok(String::from_utf8(all).unwrap())
        });
        let request = served.join().unwrap();
        stop.send(()).unwrap();
        network.join().unwrap().unwrap();
        (read, request)
    }

    #[test]
    fn a_mirror_is_asked_for_through_the_proxy_and_what_the_proxy_refuses_names_it() {
        let way = |address| {
            let login = Login::Plain { user: "me".into(), password: "secret".into() };
            let proxy: Proxy = format!("http://{address}").parse().unwrap();
            let proxies = Proxies::through(proxy.with_login(login), Exceptions::default());
            ("http://mirror.test/refit".parse().unwrap(), proxies)
        };
        let part = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 4-6/7\r\nContent-Length: 3\r\n\r\nent";
        let (read, request) = asked(part, way);
        assert_eq!(read.unwrap(), "ent");
        assert!(request.starts_with("get http://mirror.test/refit/"), "{request}");
        assert!(request.contains("\r\nhost: mirror.test\r\n"), "{request}");
        assert!(request.contains("\r\nproxy-authorization: basic bwu6c2vjcmv0\r\n"), "{request}");

        let refused = "HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n";
        let said = asked(refused, way).0.unwrap_err().to_string();
        assert!(
            said.contains("the proxy http://127") && said.contains("does not take the login"),
            "{said}"
        );
        assert!(said.contains("help: correct `proxy.user`") && !said.contains("secret"), "{said}");
    }

    #[test]
    fn a_mirror_that_is_full_says_until_when() {
        for status in ["429 Too Many Requests", "503 Service Unavailable"] {
            let answer =
                format!("HTTP/1.1 {status}\r\nRetry-After: 90\r\nContent-Length: 0\r\n\r\n");
            let (read, _) = asked(answer.leak(), |address| {
                (format!("http://{address}/refit").parse().unwrap(), Proxies::default())
            });
            let error = read.unwrap_err();
            let MirrorError::Rests { span, .. } = error else { panic!("{error}") };
            assert_eq!(span, Duration::from_secs(90));
        }
    }

    #[test]
    fn a_download_goes_on_where_it_was_ended_whether_the_mirror_knows_ranges_or_not() {
        let part = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 4-6/7\r\nContent-Length: 3\r\n\r\nent";
        assert_eq!(from_byte_4(part).unwrap(), "ent");
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\ncontent";
        assert_eq!(from_byte_4(whole).unwrap(), "ent");
        let too_short = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nco";
        assert_eq!(from_byte_4(too_short).unwrap(), "");
    }

    #[test]
    fn what_is_no_answer_to_the_question_is_refused() {
        for answer in [
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-6/7\r\nContent-Length: 7\r\n\r\ncontent",
            "HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\n\r\nent",
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
            "SSH-2.0-OpenSSH_9.2\r\n",
        ] {
            assert!(from_byte_4(answer).is_err(), "{answer}");
        }
        let ends_early = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 4-6/7\r\nContent-Length: 3\r\n\r\nen";
        assert!(from_byte_4(ends_early).is_err());
    }
}
