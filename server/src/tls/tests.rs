//! The acceptor against real connections over loopback: who passes, as whom, and what garbage costs.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, KeyPair};
use refit_proto::transport::{self, Identity};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::TlsConnector;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::transport::server::Connected as _;

use super::{
    Acceptor, AcceptorLimits, Connection, OwnCertificate, RefusedHandshake, config, provider,
};
use crate::{
    ca::{Authority, RequestedKey},
    clock::Clock,
    identity::{Caller, Peer},
};

const DAY: SignedDuration = SignedDuration::from_hours(24);

fn start() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

/// A port with an acceptor behind it, and a clock to move.
struct Port {
    authority: Authority,
    time: Arc<Mutex<Timestamp>>,
    address: std::net::SocketAddr,
    connections: ReceiverStream<std::io::Result<Connection>>,
    refused: mpsc::Receiver<RefusedHandshake>,
}

impl Port {
    async fn open(limits: AcceptorLimits) -> Port {
        let authority = new_authority();
        let time = Arc::new(Mutex::new(start()));
        let shown = Arc::clone(&time);
        let clock = Clock::from_fn(move || *shown.lock().unwrap());
        let own = OwnCertificate::issue(&authority, vec!["localhost".into()], start()).unwrap();
        let config = config(std::slice::from_ref(authority.certificate()), own, clock).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, refused) = mpsc::channel(8);
        let connections =
            Acceptor { listener, config, limits, refused: tell, retired: Arc::from([]) }.run();
        Port { authority, time, address, connections, refused }
    }

    async fn usual() -> Port {
        Port::open(limits(8, Duration::from_secs(20))).await
    }

    fn client(&self, identity: Option<Identity>) -> Client {
        let authority = self.authority.certificate().clone();
        let config = transport::client_config(provider(), vec![authority], identity).unwrap();
        Client { address: self.address, config }
    }

    async fn peer(&mut self) -> Peer {
        self.connections.next().await.unwrap().unwrap().connect_info()
    }
}

struct Client {
    address: std::net::SocketAddr,
    config: rustls::ClientConfig,
}

impl Client {
    /// Connects and waits until the server says something, or hangs up. With TLS 1.3 only that tells
    /// whether it took the certificate.
    async fn knock(self) -> std::io::Result<Vec<u8>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        // The server's side comes to its end only if the client does not wait for it to speak first.
        let mut stream = TlsConnector::from(Arc::new(self.config)).connect(name, stream).await?;
        stream.write_all(b"hello").await?;
        let mut answer = vec![0; 5];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }
}

fn limits(handshakes: usize, handshake: Duration) -> AcceptorLimits {
    AcceptorLimits { handshakes, handshake, connections: 64 }
}

fn new_authority() -> Authority {
    Authority::load(&Authority::generate(start()).unwrap()).unwrap()
}

fn identity_from(authority: &Authority, life: SignedDuration) -> (Identity, Caller) {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap();
    let requested = RequestedKey::parse(request.der()).unwrap();
    let caller = Caller::Host(requested.host_id());
    let issued = authority.issue(&requested, &caller, &BTreeSet::new(), start(), life).unwrap();
    let certificates = issued.chain.into_iter().map(CertificateDer::from).collect();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    (Identity { certificates, key }, caller)
}

#[tokio::test]
async fn a_certificate_of_the_fleet_tells_who_calls_and_none_is_nobody() {
    let mut port = Port::usual().await;
    let (identity, caller) = identity_from(&port.authority, DAY);
    tokio::spawn(port.client(Some(identity)).knock());
    assert_eq!(port.peer().await.caller(), caller);
    tokio::spawn(port.client(None).knock());
    assert_eq!(port.peer().await.caller(), Caller::Nobody);
}

#[tokio::test]
async fn a_certificate_of_another_fleet_fails_the_handshake_and_is_told() {
    let mut port = Port::usual().await;
    let (identity, _) = identity_from(&new_authority(), DAY);
    assert!(port.client(Some(identity)).knock().await.is_err());
    let refused = port.refused.recv().await.unwrap();
    assert!(refused.cause.contains("not from this fleet"), "{}", refused.cause);
}

#[tokio::test]
async fn an_expired_certificate_passes_for_two_years_and_says_when_it_ended() {
    let mut port = Port::usual().await;
    for (years, passes) in [(1, true), (3, false)] {
        let (identity, caller) = identity_from(&port.authority, DAY);
        *port.time.lock().unwrap() = start() + DAY * 365 * years;
        let client = tokio::spawn(port.client(Some(identity)).knock());
        if passes {
            let certified = port.peer().await.certified.unwrap();
            assert_eq!((certified.caller, certified.not_after), (caller, start() + DAY));
        } else {
            assert!(client.await.unwrap().is_err());
            assert!(port.refused.recv().await.unwrap().cause.contains("two years"));
        }
    }
}

#[tokio::test]
async fn a_foreign_certificate_that_has_also_expired_is_still_foreign() {
    let mut port = Port::usual().await;
    let (identity, _) = identity_from(&new_authority(), DAY);
    *port.time.lock().unwrap() = start() + DAY * 30;
    assert!(port.client(Some(identity)).knock().await.is_err());
    assert!(port.refused.recv().await.unwrap().cause.contains("not from this fleet"));
}

#[tokio::test]
async fn garbage_and_silence_hold_nobody_up() {
    let mut port = Port::open(limits(1, Duration::from_millis(50))).await;
    let mut garbage = TcpStream::connect(port.address).await.unwrap();
    garbage.write_all(&[0xff; 4096]).await.unwrap();
    let mut http = TcpStream::connect(port.address).await.unwrap();
    http.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    // Says nothing, and takes the only turn until its time is up.
    let _silent = TcpStream::connect(port.address).await.unwrap();
    tokio::spawn(port.client(None).knock());
    assert_eq!(port.peer().await.caller(), Caller::Nobody);
}

#[tokio::test]
async fn a_connection_that_says_nothing_after_its_handshake_is_given_up() {
    let mut port = Port::open(limits(8, Duration::from_millis(200))).await;
    let (identity, _) = identity_from(&port.authority, DAY);
    let client = tokio::spawn(port.client(Some(identity)).knock());
    let mut connection = port.connections.next().await.unwrap().unwrap();
    let mut opening = [0; 64];
    // Five bytes are no preface of HTTP/2, and nothing follows them.
    let error = connection.read_exact(&mut opening).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    drop(connection);
    assert!(client.await.unwrap().is_err());
}

#[tokio::test]
async fn callers_without_a_certificate_leave_places_for_hosts() {
    let few = AcceptorLimits { connections: 8, ..limits(8, Duration::from_secs(20)) };
    let mut port = Port::open(few).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        tokio::spawn(port.client(None).knock());
        held.push(port.connections.next().await.unwrap().unwrap());
    }
    assert!(port.client(None).knock().await.is_err(), "a third stranger is sent away");
    let (identity, caller) = identity_from(&port.authority, DAY);
    tokio::spawn(port.client(Some(identity)).knock());
    assert_eq!(port.peer().await.caller(), caller);
}

#[tokio::test]
async fn tls_before_1_3_is_not_spoken() {
    let mut port = Port::usual().await;
    // A ClientHello that offers TLS 1.2 alone: no supported_versions extension.
    let mut hello = vec![0x16, 0x03, 0x01, 0x00, 0x2f, 0x01, 0x00, 0x00, 0x2b, 0x03, 0x03];
    hello.extend([7; 32]);
    hello.extend([0x00, 0x00, 0x04, 0xc0, 0x2b, 0x00, 0xff, 0x01, 0x00]);
    let mut stream = TcpStream::connect(port.address).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    // An alert (21), never a ServerHello (22).
    assert_eq!(answer.first(), Some(&21));
    tokio::spawn(port.client(None).knock());
    assert_eq!(port.peer().await.caller(), Caller::Nobody);
}
