//! Turns connections into peers with an identity. Handshakes are bounded in time and number, and so
//! are connections: garbage, silence and floods on the port cost those who send them, nobody else.

use std::{
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
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::{debug, info, warn};

use crate::identity::{self, Peer};

/// What the port will bear.
#[derive(Debug, Clone, Copy)]
pub struct AcceptorLimits {
    /// Handshakes under way at once; the rest wait in the kernel's queue.
    pub handshakes: usize,
    /// From the first byte to the end of the handshake.
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
}

/// One connection, with who is at its other end.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    _place: OwnedSemaphorePermit,
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
            let shake =
                Handshake { address, limit: self.limits.handshake, refused: self.refused.clone() };
            let (tls, accepted) = (tls.clone(), accepted.clone());
            tokio::spawn(async move {
                if let Some((stream, peer)) = shake.run(tls, stream).await {
                    drop(turn);
                    // The receiver is gone only when the server stops.
                    let _ = accepted.send(Ok(Connection { stream, peer, _place: place })).await;
                }
            });
        }
    }
}

struct Handshake {
    address: SocketAddr,
    limit: Duration,
    refused: mpsc::Sender<RefusedHandshake>,
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
            Ok(certified) => certified,
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
        Pin::new(&mut self.stream).poll_read(context, buffer)
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
