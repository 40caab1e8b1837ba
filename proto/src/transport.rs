//! The way to the server: TLS 1.3 to certificate authorities that the caller already trusts, with the
//! caller's own certificate where it has one. The TLS provider is always passed in, since server and
//! agent ship different ones.

use std::{future::Future, io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

/// A caller's own certificate.
#[derive(Debug)]
pub struct Identity {
    /// Leaf first.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The leaf's key, PKCS#8.
    pub key: PrivateKeyDer<'static>,
}

/// Why no connection could be set up. What goes wrong later comes with the call, as `UNAVAILABLE`.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Not `host:port`.
    #[error("server address {address:?} is not valid\nhelp: write it as host:port")]
    Address {
        /// As it was given.
        address: String,
    },
    /// The certificate authority, the own certificate or its key does not fit.
    #[error("the certificates for the server cannot be used: {0}\nhelp: enroll or log in again")]
    Certificate(#[from] rustls::Error),
}

/// A link that stays silent this long is asked for a sign of life: by the kernel while it is idle, which wakes up
/// nobody here. It is how often a host calls where nobody says otherwise.
pub const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// While an answer is awaited the peer itself is asked, beyond any proxy; so much later than after [`KEEP_ALIVE`]
/// that a call which comes so often is the sign of life itself, and the timer for it is looked at with the call.
const BESIDE_A_CALL: Duration = Duration::from_millis(500);

/// A link that gives no sign of life for so long when it is asked is given up: with [`KEEP_ALIVE`], a black hole
/// is noticed within a minute, and a slow but living link is never cut.
const NO_SIGN: Duration = Duration::from_secs(20);

/// How often the kernel asks in that time.
const ASKED: u32 = 2;

/// Longest wait for a connection, and as long again for the TLS handshake over it: a peer that takes a call
/// and says nothing is noticed within a minute, and a link with seconds of delay has its time.
const CONNECT: Duration = Duration::from_secs(20);

/// The two together, and some more: whatever else may hold a connection up.
const CONNECT_IN_ALL: Duration = Duration::from_secs(55);

/// Client TLS settings: TLS 1.3 only, these trusted authorities, ALPN `h2`.
///
/// # Errors
/// Certificates or a key that cannot be used.
pub fn client_config(
    provider: Arc<CryptoProvider>,
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<Identity>,
) -> Result<ClientConfig, TransportError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority)?;
    }
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(Identity { certificates, key }) => builder.with_client_auth_cert(certificates, key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// A channel to `address` (`host:port`) that connects when it is first used, and again after each loss.
///
/// # Errors
/// An address that is not one.
pub fn channel(address: &str, config: ClientConfig) -> Result<Channel, TransportError> {
    channel_over(address, config, connect)
}

/// The same over whatever `dial` leads to this name and port. What `dial` refuses comes with the call, in
/// its words.
///
/// # Errors
/// An address that is not one.
pub fn channel_over<D, F, S>(
    address: &str,
    config: ClientConfig,
    dial: D,
) -> Result<Channel, TransportError>
where
    D: Fn(String, u16) -> F + Clone + Send + 'static,
    F: Future<Output = io::Result<S>> + Send,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let invalid = || TransportError::Address { address: address.to_owned() };
    // TLS is this connector's own, so tonic itself must see a plain scheme.
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| invalid())?;
    let host = endpoint.uri().host().ok_or_else(invalid)?;
    let port = endpoint.uri().port_u16().ok_or_else(invalid)?;
    let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let server = ServerName::try_from(name.clone()).map_err(|_| invalid())?;
    let tls = TlsConnector::from(Arc::new(config));
    let connector = tower::service_fn(move |_: Uri| {
        let (tls, server, name, dial) = (tls.clone(), server.clone(), name.clone(), dial.clone());
        async move {
            let late = || timed_out(format!("{name}:{port} does not finish the TLS handshake"));
            let stream = dial(name.clone(), port).await?;
            let secured = timeout(CONNECT, tls.connect(server, stream)).await;
            Ok::<_, io::Error>(TokioIo::new(secured.map_err(|_| late())??))
        }
    });
    Ok(endpoint
        .connect_timeout(CONNECT_IN_ALL)
        .http2_keep_alive_interval(KEEP_ALIVE + BESIDE_A_CALL)
        .keep_alive_timeout(NO_SIGN)
        .keep_alive_while_idle(false)
        // With the default of 64 KiB, a download costs the server a third more CPU.
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .connect_with_connector_lazy(connector))
}

/// A connection to this name and port; one that does not come about in time is an error that says so.
///
/// # Errors
/// If there is none.
pub async fn connect(name: String, port: u16) -> io::Result<TcpStream> {
    let stream = timeout(CONNECT, TcpStream::connect((name.as_str(), port))).await;
    let stream = stream.map_err(|_| timed_out(format!("{name}:{port} does not answer")))??;
    stream.set_nodelay(true)?;
    sockopt::set_tcp_keepidle(&stream, KEEP_ALIVE)?;
    sockopt::set_tcp_keepintvl(&stream, NO_SIGN / ASKED)?;
    sockopt::set_tcp_keepcnt(&stream, ASKED)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    Ok(stream)
}

fn timed_out(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} within {} s", CONNECT.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_asks_an_idle_link_for_a_sign_of_life_and_gives_it_up_within_a_minute() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = connect("127.0.0.1".to_owned(), port).await.unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        let first = sockopt::tcp_keepidle(&stream).unwrap();
        let again = sockopt::tcp_keepintvl(&stream).unwrap();
        let asked = sockopt::tcp_keepcnt(&stream).unwrap();
        assert_eq!(first, KEEP_ALIVE);
        assert!(first + again * asked <= Duration::from_secs(60), "{again:?}, {asked} times");
    }
}
