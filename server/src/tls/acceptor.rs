//! Turns connections into peers with an identity. Handshakes are bounded in time and number, and so
//! are connections: garbage, silence and floods on the port cost those who send them, nobody else.

use std::{
    future::Future as _,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::{CertificateError, ServerConfig};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::{debug, info, warn};

use refit_proto::names::Digest;

use crate::identity::{self, Peer};

/// What the port will bear.
#[derive(Debug, Clone, Copy)]
pub struct AcceptorLimits {
    /// Handshakes under way at once; the rest wait in the kernel's queue.
    pub handshakes: usize,
    /// From the first byte to the end of the handshake; and from there to the first frame.
    pub handshake: Duration,
    /// Connections open at once.
    pub connections: usize,
}

/// A certificate that did not pass: what the audit log says about it.
#[derive(Debug, Clone)]
pub struct RefusedHandshake {
    /// Where it came from.
    pub address: SocketAddr,
    /// Why, in one sentence.
    pub cause: String,
}

/// Listens, shakes hands, and hands on.
pub struct Acceptor {
    /// The port.
    pub listener: TcpListener,
    /// See [`crate::tls::config`].
    pub config: Arc<ServerConfig>,
    /// See [`AcceptorLimits`].
    pub limits: AcceptorLimits,
    /// Told of every certificate that did not pass; what does not fit is only logged.
    pub refused: mpsc::Sender<RefusedHandshake>,
    /// The names of authorities whose certificates may only renew themselves.
    pub retired: Arc<[Digest]>,
}

/// One connection, with who is at its other end.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    deadline: Option<Deadline>,
    _place: OwnedSemaphorePermit,
    _stranger: Option<OwnedSemaphorePermit>,
}

/// When a connection ends of which nobody knows yet that it is of use.
struct Deadline {
    sleep: Pin<Box<Sleep>>,
    /// So many bytes from the client lift it; `None`: nothing does.
    lifted_after: Option<usize>,
}

/// HTTP/2's preface and the head of the frame that has to follow. From then on pings tell the living
/// from the dead.
const OPENING: usize = 24 + 9;
/// Enrolling and logging in take seconds. Nothing else is for callers without a certificate, who could
/// otherwise take every place from the fleet.
const STRANGERS_STAY: Duration = Duration::from_secs(60);

impl Deadline {
    fn of(peer: &Peer, opening: Duration) -> Deadline {
        let (lasts, lifted_after) = match peer.certified {
            Some(_) => (opening, Some(OPENING)),
            None => (STRANGERS_STAY, None),
        };
        Deadline { sleep: Box::pin(sleep_until(Instant::now() + lasts)), lifted_after }
    }
}

/// After an error of `accept` (usually: no file descriptors left) it pays to let others finish.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Acceptor {
    /// The connections whose handshake has ended well. Dropping the stream closes the port.
    pub fn run(self) -> ReceiverStream<io::Result<Connection>> {
        let (accepted, connections) = mpsc::channel(16);
        tokio::spawn(self.accept(accepted));
        ReceiverStream::new(connections)
    }

    async fn accept(self, accepted: mpsc::Sender<io::Result<Connection>>) {
        let tls = TlsAcceptor::from(self.config);
        let handshakes = Arc::new(Semaphore::new(self.limits.handshakes));
        let places = Arc::new(Semaphore::new(self.limits.connections));
        // Callers without a certificate never take more than a part, so that hosts always get in.
        let strangers = Arc::new(Semaphore::new(self.limits.connections.div_ceil(4)));
        loop {
            let next = async {
                let place = Arc::clone(&places).acquire_owned().await.ok()?;
                let turn = Arc::clone(&handshakes).acquire_owned().await.ok()?;
                Some((self.listener.accept().await, place, turn))
            };
            let (connection, place, turn) = tokio::select! {
                () = accepted.closed() => return,
                next = next => match next {
                    Some(next) => next,
                    None => return,
                },
            };
            let (stream, address) = match connection {
                Ok(connection) => connection,
                // An error here must never end the server (RUSTSEC-2024-0376).
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let shake = Handshake {
                address,
                limit: self.limits.handshake,
                refused: self.refused.clone(),
                retired: self.retired.clone(),
            };
            let (tls, accepted, strangers) = (tls.clone(), accepted.clone(), strangers.clone());
            tokio::spawn(async move {
                if let Some((stream, peer)) = shake.run(tls, stream).await {
                    drop(turn);
                    let stranger = match &peer.certified {
                        Some(_) => None,
                        None => match strangers.try_acquire_owned() {
                            Ok(place) => Some(place),
                            Err(_) => {
                                info!(%address, "refused: too many callers without a certificate");
                                return;
                            }
                        },
                    };
                    let deadline = Some(Deadline::of(&peer, shake.limit));
                    let connection =
                        Connection { stream, peer, deadline, _place: place, _stranger: stranger };
                    // The receiver is gone only when the server stops.
                    let _ = accepted.send(Ok(connection)).await;
                }
            });
        }
    }
}

struct Handshake {
    address: SocketAddr,
    limit: Duration,
    refused: mpsc::Sender<RefusedHandshake>,
    retired: Arc<[Digest]>,
}

impl Handshake {
    async fn run(
        &self,
        tls: TlsAcceptor,
        stream: TcpStream,
    ) -> Option<(TlsStream<TcpStream>, Peer)> {
        let address = self.address;
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%address, %error, "a connection ended before its handshake");
            return None;
        }
        let stream = match timeout(self.limit, tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.failed(&error);
                return None;
            }
            Err(_) => {
                info!(%address, "refused: the handshake took too long");
                return None;
            }
        };
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certified = match leaf.map(|leaf| identity::read(leaf)).transpose() {
            Ok(certified) => certified.map(|certified| identity::Certified {
                of_retired: self.retired.contains(&certified.authority),
                ..certified
            }),
            Err(error) => {
                self.refuse(error.to_string());
                return None;
            }
        };
        Some((stream, Peer { address, certified }))
    }

    fn failed(&self, error: &io::Error) {
        let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match cause {
            Some(rustls::Error::InvalidCertificate(why)) => self.refuse(describe(why)),
            _ => info!(address = %self.address, %error, "refused: no TLS handshake"),
        }
    }

    fn refuse(&self, cause: String) {
        warn!(address = %self.address, %cause, "refused: the client's certificate");
        // A flood of foreign certificates is not to hold up handshakes: what does not fit is in the log.
        let _ = self.refused.try_send(RefusedHandshake { address: self.address, cause });
    }
}

fn describe(why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the certificate is not from this fleet's certificate authority".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the certificate ended more than two years ago".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet".to_owned()
        }
        other => format!("the certificate is not valid: {other}"),
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.sleep.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let new = buffer.filled().len() - before;
        if let Some(Deadline { lifted_after: Some(missing), .. }) = &mut self.deadline {
            *missing = missing.saturating_sub(new);
            if *missing == 0 {
                self.deadline = None;
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
