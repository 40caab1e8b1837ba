//! Whoever has taken over the server: its keys, its certificate, its database, its place in the network.
//! Answers hosts as it likes, over real TLS, and reads what they report. Takes no report, so that the
//! real server gets each of them later.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use prost::Message as _;
use refit_proto::{
    canonical, envelope,
    names::Digest,
    package,
    trust::{LocalKey, Role, Signer},
    wire::{
        self, ContentChunk, GetContentRequest, GetMetadataReply, GetMetadataRequest, LeaseReply,
        LeaseRequest, ProductOrder, Report, SyncReply, SyncRequest,
        agent_server::{Agent, AgentServer},
        lease_reply, product_order,
        repository_server::{Repository, RepositoryServer},
    },
};
use refit_server::{
    clock::Clock,
    keys::ServerKeys,
    tls::{self, Acceptor, AcceptorLimits, OwnCertificate},
};
use refit_tests::sandbox::Sandbox;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

/// Bytes of content as they are sent.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Sending {
    /// As they are stored.
    Honestly,
    /// Without end.
    Endlessly,
    /// A byte now and then.
    Slowly,
    /// Messages without any bytes, without end.
    Nothing,
}

/// What the attacker has, and how the hosts are answered.
pub(super) struct Loot {
    keys: ServerKeys,
    /// The newest file of each role.
    pub(super) files: BTreeMap<Role, Vec<u8>>,
    content: std::path::PathBuf,
    planted: BTreeMap<Digest, Vec<u8>>,
    pub(super) sending: Sending,
    orders: Vec<ProductOrder>,
    reports: BTreeMap<u64, Report>,
}

/// A server in the hands of an attacker; ends when it is dropped.
pub(super) struct Attacker {
    loot: Arc<Mutex<Loot>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Attacker {
    /// Stops the real server of this fleet, and answers in its place with all that was on it.
    pub(super) fn takes_over(fleet: &mut Sandbox) -> Attacker {
        Attacker::takes_over_with(fleet, &[])
    }

    /// The same, with keys that were stolen before and are not on the server any more.
    pub(super) fn takes_over_with(fleet: &mut Sandbox, keys: &[(&str, &[u8])]) -> Attacker {
        // Everybody has the public files; here they are in one folder.
        fleet.refit(["trust", "status"]).unwrap();
        fleet.server().unwrap().terminate().unwrap();
        let data = fleet.server_data();
        for (name, key) in keys {
            fs::write(data.join("keys").join(name), key).unwrap();
        }
        let loot = Loot {
            keys: ServerKeys::load(&data.join("keys")).unwrap(),
            files: files(fleet),
            content: data.join("content"),
            planted: BTreeMap::new(),
            sending: Sending::Honestly,
            orders: Vec::new(),
            reports: BTreeMap::new(),
        };
        let now = Clock::system().now();
        let own =
            OwnCertificate::issue(loot.keys.authorities.shown(), vec!["127.0.0.1".into()], now);
        let config =
            tls::config(&loot.keys.authorities.accepted(), own.unwrap(), Clock::system()).unwrap();
        let loot = Arc::new(Mutex::new(loot));
        let (stop, stopped) = oneshot::channel();
        let (told, ready) = std::sync::mpsc::channel();
        let (evil, port) = (Evil(loot.clone()), fleet.port());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
                told.send(()).unwrap();
                let limits = AcceptorLimits {
                    handshakes: 10,
                    handshake: Duration::from_secs(10),
                    connections: 100,
                };
                let (refused, _nobody_listens) = mpsc::channel(1);
                let retired = Vec::new().into();
                let acceptor = Acceptor { listener, config, limits, refused, retired };
                let served = tonic::transport::Server::builder()
                    .add_service(AgentServer::new(evil.clone()))
                    .add_service(RepositoryServer::new(evil))
                    .serve_with_incoming(acceptor.run());
                tokio::select! {
                    ended = served => ended.unwrap(),
                    _dropped = stopped => {}
                }
            });
        });
        ready.recv().unwrap();
        Attacker { loot, stop: Some(stop), thread: Some(thread) }
    }

    /// What it has, to change.
    pub(super) fn loot(&self) -> MutexGuard<'_, Loot> {
        self.loot.lock().unwrap()
    }

    /// Gives the server back to its owners.
    pub(super) fn leaves(mut self, fleet: &mut Sandbox) {
        self.end();
        fleet.start_server().unwrap();
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _its_panic_was_printed = thread.join();
        }
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.end();
    }
}

fn files(fleet: &Sandbox) -> BTreeMap<Role, Vec<u8>> {
    let mut found = BTreeMap::new();
    for path in fs::read_dir(fleet.path().join("home-alice/trust")).unwrap() {
        let path = path.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let name = name.replace("1.root.", "root.");
        let Some(Ok(role)) = name.strip_suffix(".json").map(Role::parse) else { continue };
        found.insert(role, fs::read(&path).unwrap());
    }
    assert!(found.len() >= 7, "{:?}", found.keys());
    found
}

impl Loot {
    /// What is signed of a role.
    pub(super) fn signed(&self, role: &str) -> Value {
        let file: Value = serde_json::from_slice(&self.files[&of(role)]).unwrap();
        file["signed"].clone()
    }

    /// The next version of a role's file, changed, and signed by every key that was on the server.
    pub(super) fn forge(&mut self, role: &str, change: impl FnOnce(&mut Value)) {
        let mut signed = self.signed(role);
        signed["version"] = json!(signed["version"].as_u64().unwrap() + 1);
        change(&mut signed);
        let file = self.sign(&signed);
        self.files.insert(of(role), file);
    }

    fn sign(&self, signed: &Value) -> Vec<u8> {
        let keys = [&self.keys.freshness, &self.keys.gate];
        let signatures = keys.map(|key| {
            let key: &LocalKey = key.for_ids(&BTreeSet::new());
            let signature = key.sign(&canonical::to_canonical(signed)).unwrap();
            let hex: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "keyid": key.public().id().to_string(), "sig": hex })
        });
        json!({ "signatures": signatures, "signed": signed }).to_string().into_bytes()
    }

    /// A snapshot of everything, and a timestamp that lasts for so long: the freshness key was stolen.
    pub(super) fn pin(&mut self, lasts: SignedDuration) {
        let pinned = |files: &BTreeMap<Role, Vec<u8>>, role: &Role| {
            let bytes = &files[role];
            let file: Value = serde_json::from_slice(bytes).unwrap();
            json!({
                "version": file["signed"]["version"],
                "length": bytes.len(),
                "hashes": { "sha256": Digest::of(bytes).to_string() },
            })
        };
        let expires = Clock::system().now().checked_add(lasts).unwrap();
        let top = [Role::Root, Role::Timestamp, Role::Snapshot];
        let roles: Vec<Role> = self.files.keys().filter(|it| !top.contains(it)).cloned().collect();
        let meta: BTreeMap<String, Value> =
            roles.iter().map(|role| (format!("{role}.json"), pinned(&self.files, role))).collect();
        self.forge("snapshot", |snapshot| snapshot["meta"] = json!(meta));
        let meta = json!({ "snapshot.json": pinned(&self.files, &Role::Snapshot) });
        self.forge("timestamp", |timestamp| {
            timestamp["meta"] = meta;
            timestamp["expires"] = json!(expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        });
    }

    /// Content of the attacker's own; what a target says of it.
    pub(super) fn plant(&mut self, plain: &[u8]) -> Value {
        let mut frame = Vec::new();
        package::compress(&mut &*plain, &mut frame).unwrap();
        self.planted.insert(Digest::of(plain), frame);
        let hashes = json!({ "sha256": Digest::of(plain).to_string() });
        json!({ "length": plain.len(), "hashes": hashes })
    }

    fn frame(&self, digest: &Digest) -> Option<Vec<u8>> {
        if let Some(planted) = self.planted.get(digest) {
            return Some(planted.clone());
        }
        let digest = digest.to_string();
        fs::read(self.content.join(&digest[..2]).join(&digest)).ok()
    }

    fn names(&self, digest: &Digest) -> bool {
        let digest = digest.to_string();
        self.files.values().any(|file| String::from_utf8_lossy(file).contains(&digest))
    }

    /// Orders a host to take this release.
    pub(super) fn offer(&mut self, product: &str, version: &str, digest: Digest, how: Offered) {
        let offer = wire::Offer {
            rollout_id: format!("an-attack-with-{version}"),
            attempt: 1,
            ring: how.ring.to_owned(),
            version: version.to_owned(),
            digest: digest.as_bytes().to_vec(),
            rollback: how.rollback,
        };
        let order = Some(product_order::Order::Offer(offer));
        self.orders = vec![ProductOrder { product: product.to_owned(), order }];
    }

    /// The digest of a release's document, as its product's keys signed it.
    pub(super) fn released(&self, version: &str) -> Digest {
        let releases = self.signed("release.payments");
        let target = &releases["targets"][format!("releases/payments/{version}.json")];
        Digest::parse(target["hashes"]["sha256"].as_str().unwrap()).unwrap()
    }

    /// What the hosts have reported, oldest first.
    pub(super) fn reports(&self) -> impl Iterator<Item = &Report> {
        self.reports.values()
    }
}

/// As what a release is offered.
#[derive(Clone, Copy)]
pub(super) struct Offered {
    pub(super) ring: &'static str,
    pub(super) rollback: bool,
}

fn of(role: &str) -> Role {
    Role::parse(role).unwrap()
}

#[derive(Clone)]
struct Evil(Arc<Mutex<Loot>>);

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Agent for Evil {
    async fn sync(&self, request: Request<SyncRequest>) -> Reply<SyncReply> {
        let mut loot = self.0.lock().unwrap();
        let mut before = (0, Vec::new());
        for (at, envelope) in request.into_inner().reports.iter().enumerate() {
            let report = Report::decode(envelope.payload.as_slice()).unwrap();
            if at == 0 {
                before = (report.counter - 1, report.previous.clone());
            }
            loot.reports.insert(report.counter, report);
        }
        if before.0 == 0 && !loot.reports.is_empty() && before.1.is_empty() {
            // A call without reports: as far as the last one that was seen here, less all of them.
            let first = loot.reports.values().next().unwrap();
            before = (first.counter - 1, first.previous.clone());
        }
        let orders = wire::Orders {
            issued: 1 << 40,
            products: loot.orders.clone(),
            ..wire::Orders::default()
        };
        Ok(Response::new(SyncReply {
            acknowledged: before.0,
            acknowledged_sha256: before.1,
            orders: Some(envelope::wrap(&orders)),
            poll_after_seconds: 1,
            ..SyncReply::default()
        }))
    }

    async fn request_lease(&self, _: Request<LeaseRequest>) -> Reply<LeaseReply> {
        let lease = wire::Lease { id: "a-lease-of-the-attacker".into(), seconds: 600 };
        Ok(Response::new(LeaseReply { answer: Some(lease_reply::Answer::Lease(lease)) }))
    }

    async fn request_reboot(&self, _: Request<wire::RebootRequest>) -> Reply<wire::RebootReply> {
        Ok(Response::new(wire::RebootReply { may: true, hold: None }))
    }
}

type Chunks = Pin<Box<dyn Stream<Item = Result<ContentChunk, Status>> + Send>>;

#[tonic::async_trait]
impl Repository for Evil {
    async fn get_metadata(&self, request: Request<GetMetadataRequest>) -> Reply<GetMetadataReply> {
        let GetMetadataRequest { role, version } = request.into_inner();
        let loot = self.0.lock().unwrap();
        let role = Role::parse(&role).map_err(|_| Status::not_found("no such role"))?;
        let held = loot.files.get(&role).ok_or_else(|| Status::not_found("no such file"))?;
        let file: Value = serde_json::from_slice(held).unwrap();
        // Asked for the next root, there is none; any other version is answered with what there is.
        if role == Role::Root && version > file["signed"]["version"].as_u64().unwrap() {
            return Err(Status::not_found("no newer root"));
        }
        Ok(Response::new(GetMetadataReply { file: held.clone() }))
    }

    type GetContentStream = Chunks;

    async fn get_content(&self, request: Request<GetContentRequest>) -> Reply<Chunks> {
        let GetContentRequest { sha256, offset } = request.into_inner();
        let digest = Digest::from_bytes(&sha256).unwrap();
        let loot = self.0.lock().unwrap();
        let frame = loot.frame(&digest).ok_or_else(|| Status::not_found("no such content"))?;
        let chunk = |data: Vec<u8>| Ok(ContentChunk { data, frame_length: 1 << 50 });
        // What signed files name comes as it is: without it nothing else is asked for.
        let named = loot.names(&digest);
        let sending = if named { Sending::Honestly } else { loot.sending };
        let chunks: Chunks = match sending {
            Sending::Honestly => {
                let offset = usize::try_from(offset).unwrap().min(frame.len());
                let pieces: Vec<Vec<u8>> =
                    frame[offset..].chunks(60_000).map(<[u8]>::to_vec).collect();
                Box::pin(tokio_stream::iter(pieces.into_iter().map(chunk)))
            }
            Sending::Endlessly => {
                Box::pin(tokio_stream::iter(std::iter::repeat_with(move || chunk(vec![7; 60_000]))))
            }
            Sending::Slowly => {
                let dripping = tokio_stream::iter(frame).map(move |byte| chunk(vec![byte]));
                Box::pin(dripping.throttle(Duration::from_millis(100)))
            }
            Sending::Nothing => Box::pin(
                tokio_stream::iter(std::iter::repeat_with(|| Ok(ContentChunk::default())))
                    .throttle(Duration::from_millis(10)),
            ),
        };
        Ok(Response::new(chunks))
    }

    async fn missing_content(
        &self,
        _: Request<wire::MissingContentRequest>,
    ) -> Reply<wire::MissingContentReply> {
        Err(Status::unimplemented("nobody publishes here"))
    }

    async fn put_content(
        &self,
        _: Request<Streaming<wire::PutContentRequest>>,
    ) -> Reply<wire::PutContentReply> {
        Err(Status::unimplemented("nobody publishes here"))
    }

    async fn offer_metadata(
        &self,
        _: Request<refit_proto::wire::OfferMetadataRequest>,
    ) -> Result<Response<refit_proto::wire::OfferMetadataReply>, Status> {
        Err(Status::unimplemented("it wants nothing back"))
    }

    async fn push_metadata(
        &self,
        _: Request<wire::PushMetadataRequest>,
    ) -> Reply<wire::PushMetadataReply> {
        Err(Status::unimplemented("nobody publishes here"))
    }
}

/// Now, for what an attacker signs.
pub(super) fn now() -> Timestamp {
    Clock::system().now()
}
