//! A server for tests: real TLS with a certificate authority of its own, answers as the test says.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, PublicKeyData as _,
};
use refit_proto::{
    names::{Digest, HostId, Labels},
    token::{Subject, Token},
    wire::{
        self, EnrollReply, EnrollRequest, GetContentRequest, GetMetadataReply, GetMetadataRequest,
        LeaseReply, LeaseRequest, RebootReply, RebootRequest, RenewReply, RenewRequest, SyncReply,
        SyncRequest,
        agent_server::{Agent, AgentServer},
        enrollment_server::{Enrollment, EnrollmentServer},
        repository_server::{Repository, RepositoryServer},
    },
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::{Request, Response, Status, Streaming, body::Body, transport::server::Connected};

use super::{proxy::Stream, tls};
use crate::{
    clock::Clock,
    update::{BootId, Running},
};

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) certificate: CertificateDer<'static>,
}

/// From when until when a certificate is valid.
pub(crate) type Validity = (&'static str, &'static str);

/// Around the time of every test.
pub(crate) const NOW: &str = "2027-03-01T12:00:00Z";
/// Valid at that time.
pub(crate) const GOOD: Validity = ("2027-02-01T00:00:00Z", "2027-05-01T00:00:00Z");

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A clock that shows this time.
pub(crate) fn clock(wall: &str) -> Clock {
    let wall = at(wall);
    let boot = BootId::parse("boot").unwrap();
    Clock::from_fns(boot, move || wall, || Running::from_nanos(1_000_000_000))
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        set_validity(&mut parameters, ("2026-01-01T00:00:00Z", "2040-01-01T00:00:00Z"));
        let certificate = parameters.self_signed(&key).unwrap().der().clone();
        Authority { issuer: Issuer::from_ca_cert_der(&certificate, key).unwrap(), certificate }
    }

    /// Answers a certificate request.
    pub(crate) fn issue(&self, request: &[u8], validity: Validity) -> Vec<Vec<u8>> {
        let request = CertificateSigningRequestParams::from_der(&request.into()).unwrap();
        let mut parameters = CertificateParams::default();
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        set_validity(&mut parameters, validity);
        let leaf = parameters.signed_by(&request.public_key, &self.issuer).unwrap();
        vec![leaf.der().to_vec(), self.certificate.to_vec()]
    }

    fn server_config(&self, validity: Validity) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        set_validity(&mut parameters, validity);
        let leaf = parameters.signed_by(&key, &self.issuer).unwrap().der().clone();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let mut config = ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

fn set_validity(parameters: &mut CertificateParams, (from, until): Validity) {
    let time = |text: &str| {
        let seconds = u64::try_from(at(text).as_second()).unwrap();
        rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(seconds)
    };
    parameters.not_before = time(from);
    parameters.not_after = time(until);
}

/// The id that belongs to a certificate request.
pub(crate) fn host_id(request: &[u8]) -> HostId {
    let request = CertificateSigningRequestParams::from_der(&request.into()).unwrap();
    HostId::of_public_key(&request.public_key.subject_public_key_info())
}

type Answer<Q, A> = Box<dyn FnMut(Q) -> Result<A, Status> + Send>;

/// What the server answers; everything else is unimplemented.
#[derive(Default)]
pub(crate) struct Answers {
    pub(crate) enroll: Option<Answer<EnrollRequest, EnrollReply>>,
    pub(crate) renew: Option<Answer<RenewRequest, RenewReply>>,
    pub(crate) sync: Option<Answer<SyncRequest, SyncReply>>,
    pub(crate) lease: Option<Answer<LeaseRequest, LeaseReply>>,
    pub(crate) reboot: Option<Answer<RebootRequest, RebootReply>>,
    pub(crate) metadata: Option<Answer<GetMetadataRequest, GetMetadataReply>>,
    /// What stands before the server and answers in its place: an HTTP status, and headers.
    pub(crate) refused: Option<(u16, Vec<(&'static str, &'static str)>)>,
    /// The bytes of every frame.
    pub(crate) content: Arc<Vec<u8>>,
}

/// A running server. It ends with the runtime of its test.
pub(crate) struct FakeServer {
    pub(crate) authority: Arc<Authority>,
    pub(crate) answers: Arc<Mutex<Answers>>,
    pub(crate) address: SocketAddr,
}

/// What stands before the server.
#[derive(Clone)]
struct Before<S>(S, Arc<Mutex<Answers>>);

impl<S> tower::Service<hyper::Request<Body>> for Before<S>
where
    S: tower::Service<hyper::Request<Body>, Response = hyper::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: hyper::Request<Body>) -> Self::Future {
        let Some((status, headers)) = self.1.lock().unwrap().refused.clone() else {
            return Box::pin(self.0.call(request));
        };
        let mut answer = hyper::Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(name, value);
        }
        let answer = answer.body(Body::empty()).unwrap();
        Box::pin(std::future::ready(Ok(answer)))
    }
}

impl FakeServer {
    pub(crate) async fn start(authority: Arc<Authority>, validity: Validity) -> FakeServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (server, streams) = FakeServer::over(authority, validity, address);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _the_test_is_over = streams.send(Box::new(stream)).await;
            }
        });
        server
    }

    /// The same for whatever connections are sent there.
    pub(crate) fn over(
        authority: Arc<Authority>,
        validity: Validity,
        address: SocketAddr,
    ) -> (FakeServer, tokio::sync::mpsc::Sender<Box<dyn Stream>>) {
        let answers = Arc::new(Mutex::new(Answers::default()));
        let acceptor = TlsAcceptor::from(Arc::new(authority.server_config(validity)));
        let (sender, mut received) = tokio::sync::mpsc::channel::<Box<dyn Stream>>(8);
        let (streams, incoming) = tokio::sync::mpsc::channel::<io::Result<Tls>>(8);
        tokio::spawn(async move {
            while let Some(stream) = received.recv().await {
                let (acceptor, streams) = (acceptor.clone(), streams.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _the_test_is_over = streams.send(Ok(Tls(stream))).await;
                    }
                });
            }
        });
        let fake = Fake(answers.clone());
        let before = answers.clone();
        tokio::spawn(
            tonic::transport::Server::builder()
                .layer(tower::layer::layer_fn(move |server| Before(server, before.clone())))
                .add_service(EnrollmentServer::new(fake.clone()))
                .add_service(AgentServer::new(fake.clone()))
                .add_service(RepositoryServer::new(fake))
                .serve_with_incoming(tokio_stream::wrappers::ReceiverStream::new(incoming)),
        );
        (FakeServer { authority, answers, address }, sender)
    }

    pub(crate) fn answers(&self) -> std::sync::MutexGuard<'_, Answers> {
        self.answers.lock().unwrap()
    }

    /// A token for a host, as an administrator makes it.
    pub(crate) fn token(&self, labels: &Labels, root: &[u8]) -> Token {
        let subject = Subject::Host { labels: labels.clone(), root: Digest::of(root) };
        let address = self.address.to_string();
        Token::new(subject, address, &self.authority.certificate, at("2030-01-01T00:00:00Z"))
            .unwrap()
    }
}

#[derive(Clone)]
struct Fake(Arc<Mutex<Answers>>);

impl Fake {
    fn answer<Q, A>(
        &self,
        pick: impl FnOnce(&mut Answers) -> &mut Option<Answer<Q, A>>,
        request: Request<Q>,
    ) -> Result<Response<A>, Status> {
        let mut answers = self.0.lock().unwrap();
        match pick(&mut answers) {
            Some(answer) => answer(request.into_inner()).map(Response::new),
            None => Err(Status::unimplemented("not part of this test")),
        }
    }
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Enrollment for Fake {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Reply<EnrollReply> {
        self.answer(|answers| &mut answers.enroll, request)
    }
    async fn login(&self, _: Request<wire::LoginRequest>) -> Reply<wire::LoginReply> {
        Err(Status::unimplemented("hosts don't log in"))
    }
    async fn renew(&self, request: Request<RenewRequest>) -> Reply<RenewReply> {
        self.answer(|answers| &mut answers.renew, request)
    }
}

#[tonic::async_trait]
impl Agent for Fake {
    async fn sync(&self, request: Request<SyncRequest>) -> Reply<SyncReply> {
        self.answer(|answers| &mut answers.sync, request)
    }
    async fn request_lease(&self, request: Request<LeaseRequest>) -> Reply<LeaseReply> {
        self.answer(|answers| &mut answers.lease, request)
    }
    async fn request_reboot(&self, request: Request<RebootRequest>) -> Reply<RebootReply> {
        self.answer(|answers| &mut answers.reboot, request)
    }
}

#[tonic::async_trait]
impl Repository for Fake {
    async fn get_metadata(&self, request: Request<GetMetadataRequest>) -> Reply<GetMetadataReply> {
        self.answer(|answers| &mut answers.metadata, request)
    }
    type GetContentStream =
        tokio_stream::wrappers::ReceiverStream<Result<wire::ContentChunk, Status>>;
    async fn get_content(
        &self,
        request: Request<GetContentRequest>,
    ) -> Reply<Self::GetContentStream> {
        let content = self.0.lock().unwrap().content.clone();
        if content.is_empty() {
            return Err(Status::not_found("no content"));
        }
        let offset = usize::try_from(request.into_inner().offset).unwrap();
        let (sender, receiver) = tokio::sync::mpsc::channel(2);
        tokio::spawn(async move {
            let mut frame_length = content.len() as u64;
            // As the real one sends it to a slow reader.
            for piece in content[offset..].chunks(16 * 1024) {
                let chunk = wire::ContentChunk { data: piece.to_vec(), frame_length };
                frame_length = 0;
                if sender.send(Ok(chunk)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(tokio_stream::wrappers::ReceiverStream::new(receiver)))
    }
    async fn missing_content(
        &self,
        _: Request<wire::MissingContentRequest>,
    ) -> Reply<wire::MissingContentReply> {
        Err(Status::unimplemented("hosts don't publish"))
    }
    async fn put_content(
        &self,
        _: Request<Streaming<wire::PutContentRequest>>,
    ) -> Reply<wire::PutContentReply> {
        Err(Status::unimplemented("hosts don't publish"))
    }
    async fn offer_metadata(
        &self,
        _: Request<wire::OfferMetadataRequest>,
    ) -> Reply<wire::OfferMetadataReply> {
        Err(Status::unimplemented("not part of these tests"))
    }
    async fn push_metadata(
        &self,
        _: Request<wire::PushMetadataRequest>,
    ) -> Reply<wire::PushMetadataReply> {
        Err(Status::unimplemented("hosts don't publish"))
    }
}

/// A TLS stream that tonic serves.
struct Tls(TlsStream<Box<dyn Stream>>);

impl Connected for Tls {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tls {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
