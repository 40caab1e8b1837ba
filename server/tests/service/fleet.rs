//! A whole server over loopback with real TLS, a clock that tests move, and the callers that come to it.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, KeyPair};
use refit_proto::{
    envelope,
    names::{Digest, HostId, Labels},
    token::{Subject, Token},
    transport::{self, Identity},
    trust::{LocalKey, Signer as _},
    wire::{
        self, admin_client::AdminClient, agent_client::AgentClient, changes_client::ChangesClient,
        create_token_request::Subject as WireSubject, enrollment_client::EnrollmentClient,
        repository_client::RepositoryClient, status_client::StatusClient,
    },
};
use refit_server::{
    clock::Clock,
    init::{self, Outcome},
    serve,
    settings::{Overrides, Settings},
    tls,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::{Status, transport::Channel};

/// A server that runs.
pub(crate) struct Fleet {
    _place: tempfile::TempDir,
    data: PathBuf,
    authority: Vec<u8>,
    time: Arc<Mutex<Timestamp>>,
    running: Option<Running>,
    /// The first administrator's token.
    pub(crate) admin_token: Token,
}

struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

/// Somebody with a key.
pub(crate) struct Caller {
    key: KeyPair,
    chain: Vec<Vec<u8>>,
    report_key: LocalKey,
    reports: Vec<wire::Envelope>,
}

impl Fleet {
    /// Makes a data folder and starts a server on it.
    pub(crate) async fn start() -> Fleet {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().join("data");
        // Not the true time: nothing here may read a clock but through the server's own.
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let plan = init::Plan {
            data: data.clone(),
            admin: "alice".parse().unwrap(),
            addresses: vec!["localhost".into(), "127.0.0.1".into()],
            listen: "127.0.0.1:0".parse().unwrap(),
        };
        let Outcome::Made(made) = init::init(&plan, now).unwrap() else { panic!("made before") };
        let mut fleet = Fleet {
            _place: place,
            data,
            authority: made.token.ca_der(),
            time: Arc::new(Mutex::new(now)),
            running: None,
            admin_token: made.token,
        };
        fleet.open().await;
        fleet
    }

    async fn open(&mut self) {
        let over = Overrides {
            listen: Some("127.0.0.1:0".parse().unwrap()),
            status_listen: Some("127.0.0.1:0".parse().unwrap()),
        };
        let settings = Settings::load(&self.data, &over).unwrap();
        let time = self.time.clone();
        let clock = Clock::from_fn(move || *time.lock().unwrap());
        let ready = serve::open(settings, clock).await.unwrap();
        let address = ready.address().unwrap();
        let (stop, stopped) = oneshot::channel();
        let signal = async move {
            let _stopped_or_dropped = stopped.await;
        };
        let task = tokio::spawn(ready.serve(signal));
        self.running = Some(Running { address, stop, task });
    }

    /// Stops the server and starts it again on the same data.
    pub(crate) async fn restart(&mut self) {
        let running = self.running.take().unwrap();
        running.stop.send(()).unwrap();
        running.task.await.unwrap().unwrap();
        self.open().await;
    }

    /// The server's data folder.
    pub(crate) fn data(&self) -> &std::path::Path {
        &self.data
    }

    /// A copy of the store as it is now, taken while no server runs.
    pub(crate) async fn copy_store(&mut self) {
        let running = self.running.take().unwrap();
        running.stop.send(()).unwrap();
        running.task.await.unwrap().unwrap();
        let (store, copy) = (self.data.join("store"), self.data.with_extension("copy"));
        std::fs::create_dir_all(&copy).unwrap();
        copy_folder(&store, &copy);
        self.open().await;
    }

    /// Stops the server and starts it again on the copy of its store.
    pub(crate) async fn restart_on_copy(&mut self) {
        let running = self.running.take().unwrap();
        running.stop.send(()).unwrap();
        running.task.await.unwrap().unwrap();
        let store = self.data.join("store");
        std::fs::remove_dir_all(&store).unwrap();
        std::fs::create_dir(&store).unwrap();
        copy_folder(&self.data.with_extension("copy"), &store);
        self.open().await;
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.as_ref().unwrap().address
    }

    pub(crate) fn now(&self) -> Timestamp {
        *self.time.lock().unwrap()
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, time: SignedDuration) {
        let mut now = self.time.lock().unwrap();
        *now = now.checked_add(time).unwrap();
    }

    /// A way to the server, with a certificate or without.
    pub(crate) fn channel(&self, caller: Option<&Caller>) -> Channel {
        let authority = CertificateDer::from(self.authority.clone());
        let identity = caller.map(Caller::identity);
        let config = transport::client_config(tls::provider(), vec![authority], identity).unwrap();
        transport::channel(&format!("127.0.0.1:{}", self.address().port()), config).unwrap()
    }

    pub(crate) fn enrollment(&self, caller: Option<&Caller>) -> EnrollmentClient<Channel> {
        EnrollmentClient::new(self.channel(caller))
    }

    pub(crate) fn admin(&self, caller: &Caller) -> AdminClient<Channel> {
        AdminClient::new(self.channel(Some(caller)))
    }

    pub(crate) fn agent(&self, caller: &Caller) -> AgentClient<Channel> {
        AgentClient::new(self.channel(Some(caller)))
    }

    pub(crate) fn repository(&self, caller: &Caller) -> RepositoryClient<Channel> {
        RepositoryClient::new(self.channel(Some(caller)))
    }

    pub(crate) fn status(&self, caller: &Caller) -> StatusClient<Channel> {
        StatusClient::new(self.channel(Some(caller)))
    }

    pub(crate) fn changes(&self, caller: &Caller) -> ChangesClient<Channel> {
        ChangesClient::new(self.channel(Some(caller)))
    }

    /// The first administrator, logged in.
    pub(crate) async fn alice(&self) -> Caller {
        let mut alice = Caller::new();
        self.log_in(&mut alice, &self.admin_token).await.unwrap();
        alice
    }

    pub(crate) async fn log_in(
        &self,
        caller: &mut Caller,
        token: &Token,
    ) -> Result<wire::LoginReply, Status> {
        let request =
            wire::LoginRequest { token: Some(proof(token)), certificate_request: caller.request() };
        let reply = self.enrollment(None).login(request).await?.into_inner();
        caller.chain.clone_from(&reply.certificates);
        Ok(reply)
    }

    /// A person with these roles, by a token of `by`.
    pub(crate) async fn person(&self, by: &Caller, name: &str, roles: &[&str]) -> Caller {
        let subject = wire::PersonSubject {
            name: name.into(),
            kind: "person".into(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        };
        let subject =
            (WireSubject::Person(subject), Subject::Person { name: name.parse().unwrap() });
        let token = self.token(by, subject, 1).await.unwrap();
        let mut person = Caller::new();
        self.log_in(&mut person, &token).await.unwrap();
        person
    }

    /// A token for hosts.
    pub(crate) async fn host_token(&self, by: &Caller, uses: u32) -> Result<Token, Status> {
        let root = Digest::of(b"root");
        let labels = Labels::from([("ring".parse().unwrap(), "pilot".parse().unwrap())]);
        let subject = wire::HostSubject {
            labels: [("ring".to_owned(), "pilot".to_owned())].into(),
            root_sha256: root.to_string(),
        };
        self.token(by, (WireSubject::Host(subject), Subject::Host { labels, root }), uses).await
    }

    async fn token(
        &self,
        by: &Caller,
        (subject, own): (WireSubject, Subject),
        uses: u32,
    ) -> Result<Token, Status> {
        let expires = self.now() + SignedDuration::from_hours(24);
        let token = Token::new(own, String::new(), &self.authority, expires).unwrap();
        let request = wire::CreateTokenRequest {
            token_id: token.id.clone(),
            secret_sha256: token.secret_sha256().as_bytes().to_vec(),
            subject: Some(subject),
            uses,
            expires: expires.to_string(),
        };
        self.admin(by).create_token(request).await?;
        Ok(token)
    }

    pub(crate) async fn enroll(
        &self,
        caller: &mut Caller,
        token: &Token,
        name: &str,
    ) -> Result<wire::EnrollReply, Status> {
        self.enroll_with(caller, proof(token), name).await
    }

    pub(crate) async fn enroll_with(
        &self,
        caller: &mut Caller,
        proof: wire::TokenProof,
        name: &str,
    ) -> Result<wire::EnrollReply, Status> {
        let request = wire::EnrollRequest {
            token: Some(proof),
            name: name.into(),
            certificate_request: caller.request(),
            report_key: caller.report_public(),
            platform: "linux-x86_64".into(),
        };
        let reply = self.enrollment(None).enroll(request).await?.into_inner();
        caller.chain.clone_from(&reply.certificates);
        Ok(reply)
    }

    /// An enrolled host.
    pub(crate) async fn host(&self, by: &Caller, name: &str) -> Caller {
        let token = self.host_token(by, 1).await.unwrap();
        let mut host = Caller::new();
        self.enroll(&mut host, &token, name).await.unwrap();
        host
    }

    /// What the audit log says: "who: act what: outcome", oldest first.
    pub(crate) async fn audit(&self, by: &Caller) -> Vec<String> {
        let request = wire::ListAuditRequest { after: 0, limit: 0 };
        let reply = self.admin(by).list_audit(request).await.unwrap().into_inner();
        let mut previous = serde_json::Value::Null;
        let mut lines = Vec::new();
        for (at, entry) in (1..).zip(reply.entries) {
            assert_eq!(entry.hash, Digest::of(&entry.body).as_bytes(), "entry {at}");
            let body: serde_json::Value = serde_json::from_slice(&entry.body).unwrap();
            assert_eq!((&body["sequence"], &body["previous"]), (&at.into(), &previous));
            previous = Digest::of(&entry.body).to_string().into();
            lines.push(format!(
                "{}: {} {}: {}",
                body["who"], body["act"], body["what"], body["outcome"]
            ));
        }
        lines
    }

    /// Whether the audit log has a line with all of these words.
    pub(crate) async fn on_record(&self, by: &Caller, words: &[&str]) -> bool {
        self.audit(by).await.iter().any(|line| words.iter().all(|word| line.contains(word)))
    }
}

impl Caller {
    pub(crate) fn new() -> Caller {
        Caller {
            key: KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
            chain: Vec::new(),
            report_key: LocalKey::generate().unwrap(),
            reports: Vec::new(),
        }
    }

    /// Another machine with the same identity: keys, certificate, and what it has reported so far.
    pub(crate) fn twin(&self) -> Caller {
        let key = KeyPair::try_from(self.key.serialize_der().as_slice()).unwrap();
        let report_key = LocalKey::from_pem(&self.report_key.to_pem().unwrap()).unwrap();
        Caller { key, chain: self.chain.clone(), report_key, reports: self.reports.clone() }
    }

    /// The same with other keys for its reports.
    pub(crate) fn reporting_with(&self, report_key: LocalKey) -> Caller {
        Caller { report_key, ..self.twin() }
    }

    /// Its secret report key, as bytes that a search finds.
    pub(crate) fn report_secret(&self) -> String {
        self.report_key.to_pem().unwrap().lines().nth(1).unwrap().to_owned()
    }

    /// The same key with a certificate from somewhere else.
    pub(crate) fn with_chain(mut self, chain: Vec<Vec<u8>>) -> Caller {
        self.chain = chain;
        self
    }

    pub(crate) fn request(&self) -> Vec<u8> {
        CertificateParams::default().serialize_request(&self.key).unwrap().der().to_vec()
    }

    pub(crate) fn id(&self) -> HostId {
        use rcgen::PublicKeyData as _;
        HostId::of_public_key(&self.key.subject_public_key_info())
    }

    pub(crate) fn take_chain(&mut self, chain: Vec<Vec<u8>>) {
        self.chain = chain;
    }

    pub(crate) fn report_public(&self) -> Vec<u8> {
        let value = self.report_key.public().to_value();
        let hex = value["keyval"]["public"].as_str().unwrap();
        Digest::parse(hex).unwrap().as_bytes().to_vec()
    }

    fn identity(&self) -> Identity {
        let certificates = self.chain.iter().cloned().map(CertificateDer::from).collect();
        Identity { certificates, key: PrivateKeyDer::Pkcs8(self.key.serialize_der().into()) }
    }

    /// Writes the host's next report.
    pub(crate) fn report(&mut self, state: wire::HostState) -> wire::Envelope {
        let previous = self.reports.last().map(|it| Digest::of(&it.payload).as_bytes().to_vec());
        let report = wire::Report {
            host_id: self.id().to_string(),
            counter: self.reports.len() as u64 + 1,
            previous: previous.unwrap_or_default(),
            at: String::new(),
            state: Some(state),
            event: None,
        };
        let envelope = envelope::seal(&report, &self.report_key).unwrap();
        self.reports.push(envelope.clone());
        envelope
    }
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (entry, to) = (entry.path(), to.join(entry.file_name()));
        if entry.is_dir() {
            std::fs::create_dir_all(&to).unwrap();
            copy_folder(&entry, &to);
        } else {
            std::fs::copy(&entry, &to).unwrap();
        }
    }
}

/// What proves a token.
pub(crate) fn proof(token: &Token) -> wire::TokenProof {
    wire::TokenProof { token_id: token.id.clone(), secret: token.secret().to_vec() }
}
