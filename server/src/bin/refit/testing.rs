//! A server for tests: a real gRPC endpoint on loopback that keeps signed files and content in memory and
//! takes pushes by the rules of `refit_proto::trust::repository`. And people, each with a home folder.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use prost::Message as _;
use refit_proto::{
    names::Digest,
    trust::{
        LocalKey, Role, Signer as _, Stored, Write,
        repository::{Refused, accept},
    },
    wire::{
        self,
        repository_server::{Repository, RepositoryServer},
        status_server::{Status as StatusService, StatusServer},
    },
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, Streaming, transport::Endpoint};

use crate::{Context, connect::Connection, home::Home};

/// When everything happens.
pub(crate) const NOW: &str = "2026-01-01T00:00:00Z";

/// What the server holds.
pub(crate) struct Held {
    versions: BTreeMap<(Role, u64), Vec<u8>>,
    pub(crate) newest: Stored,
    /// Frames by digest.
    pub(crate) content: BTreeMap<Digest, Vec<u8>>,
    freshness: LocalKey,
    /// The state of the rollout of whatever is current in a ring, as the status shows it.
    pub(crate) rollout_state: String,
}

/// The server.
#[derive(Clone)]
pub(crate) struct TestServer {
    held: Arc<Mutex<Held>>,
}

impl TestServer {
    /// Starts it; it ends with the test's runtime.
    pub(crate) async fn start() -> (TestServer, Connection) {
        let freshness = LocalKey::from_seed(&[200; 32]);
        let held = Held {
            versions: BTreeMap::new(),
            newest: Stored::new(),
            content: BTreeMap::new(),
            freshness,
            rollout_state: "done".to_owned(),
        };
        let server = TestServer { held: Arc::new(Mutex::new(held)) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = RepositoryServer::new(server.clone());
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .add_service(StatusServer::new(server.clone()))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        (server, Connection::over(channel))
    }

    pub(crate) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its signed files, to be put back by [`TestServer::restore`].
    pub(crate) fn clone_files(&self) -> (BTreeMap<(Role, u64), Vec<u8>>, Stored) {
        let held = self.held();
        (held.versions.clone(), held.newest.clone())
    }

    /// Puts signed files back.
    pub(crate) fn restore(&self, (versions, newest): (BTreeMap<(Role, u64), Vec<u8>>, Stored)) {
        let mut held = self.held();
        (held.versions, held.newest) = (versions, newest);
    }

    /// Changes one letter inside every version of a role's file; it stays JSON.
    pub(crate) fn spoil(&self, role: &Role) {
        let mut held = self.held();
        let Held { versions, newest, .. } = &mut *held;
        let of_role =
            versions.iter_mut().filter(|((found, _), _)| found == role).map(|(_, file)| file);
        for file in of_role.chain(newest.get_mut(role)) {
            let text = String::from_utf8(file.clone()).unwrap();
            let spoiled =
                text.replacen("2026-", "2027-", 1).replacen("\"1.0.34\"", "\"1.0.35\"", 1);
            assert_ne!(spoiled, text);
            *file = spoiled.into_bytes();
        }
    }

    /// The public halves of its keys, as a file.
    pub(crate) fn keys_file(&self, folder: &Path) -> PathBuf {
        let key = |key: &LocalKey| key.public().to_value().clone();
        let keys = serde_json::json!({
            "freshness": key(&self.held().freshness),
            "gate": key(&LocalKey::from_seed(&[201; 32])),
            "audit": key(&LocalKey::from_seed(&[202; 32])),
        });
        let path = folder.join("server-keys.json");
        std::fs::write(&path, keys.to_string()).unwrap();
        path
    }
}

/// Somebody with a home folder of their own.
pub(crate) fn person(folder: &Path, name: &str) -> Context {
    let home = Home::open(Some(folder.join(name))).unwrap();
    Context { home, now: now() }
}

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// The version and digest that a ring's file calls current.
fn current(file: &[u8]) -> Option<(String, String)> {
    let file: serde_json::Value = serde_json::from_slice(file).ok()?;
    let targets = file["signed"]["targets"].as_object()?.iter();
    targets.into_iter().find(|(_, target)| target["custom"]["standing"] == "current").and_then(
        |(path, target)| {
            let version = path.rsplit('/').next()?.strip_suffix(".json")?;
            Some((version.to_owned(), target["hashes"]["sha256"].as_str()?.to_owned()))
        },
    )
}

#[tonic::async_trait]
impl StatusService for TestServer {
    async fn get_fleet(
        &self,
        _: Request<wire::GetFleetRequest>,
    ) -> Result<Response<wire::FleetStatus>, Status> {
        let held = self.held();
        let rings = held.newest.iter().filter_map(|(role, file)| {
            let Role::Ring(_, ring) = role else { return None };
            let (version, digest) = current(file)?;
            let state = held.rollout_state.clone();
            let rollout = wire::RolloutStatus { version, digest, state, ..Default::default() };
            let ring = ring.to_string();
            Some(wire::RingStatus { ring, rollout: Some(rollout), ..Default::default() })
        });
        let product = wire::ProductStatus {
            product: "payments".to_owned(),
            rings: rings.collect(),
            ..Default::default()
        };
        let fleet = wire::FleetStatus { products: vec![product], ..Default::default() };
        Ok(Response::new(fleet))
    }

    async fn list_hosts(
        &self,
        _: Request<wire::ListHostsRequest>,
    ) -> Result<Response<wire::ListHostsReply>, Status> {
        Ok(Response::new(wire::ListHostsReply::default()))
    }

    async fn explain_host(
        &self,
        _: Request<wire::ExplainHostRequest>,
    ) -> Result<Response<wire::HostExplanation>, Status> {
        Ok(Response::new(wire::HostExplanation::default()))
    }

    async fn get_impact(
        &self,
        _: Request<wire::GetImpactRequest>,
    ) -> Result<Response<wire::Impact>, Status> {
        Ok(Response::new(wire::Impact::default()))
    }

    type WatchFleetStream = tokio_stream::Empty<Result<wire::FleetStatus, Status>>;

    async fn watch_fleet(
        &self,
        _: Request<wire::GetFleetRequest>,
    ) -> Result<Response<Self::WatchFleetStream>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }
}

#[tonic::async_trait]
impl Repository for TestServer {
    type GetContentStream = tokio_stream::Once<Result<wire::ContentChunk, Status>>;

    async fn get_metadata(
        &self,
        request: Request<wire::GetMetadataRequest>,
    ) -> Result<Response<wire::GetMetadataReply>, Status> {
        let wire::GetMetadataRequest { role, version } = request.into_inner();
        let role = Role::parse(&role).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let held = self.held();
        let file = match version {
            0 => held.newest.get(&role),
            version => held.versions.get(&(role, version)),
        };
        let file = file.ok_or_else(|| Status::not_found("no such file"))?.clone();
        Ok(Response::new(wire::GetMetadataReply { file }))
    }

    async fn get_content(
        &self,
        request: Request<wire::GetContentRequest>,
    ) -> Result<Response<Self::GetContentStream>, Status> {
        let digest = Digest::from_bytes(&request.into_inner().sha256).unwrap();
        let held = self.held();
        let data =
            held.content.get(&digest).ok_or_else(|| Status::not_found("no content"))?.clone();
        let frame_length = data.len() as u64;
        Ok(Response::new(tokio_stream::once(Ok(wire::ContentChunk { data, frame_length }))))
    }

    async fn missing_content(
        &self,
        request: Request<wire::MissingContentRequest>,
    ) -> Result<Response<wire::MissingContentReply>, Status> {
        let held = self.held();
        let lacks =
            |bytes: &Vec<u8>| !held.content.contains_key(&Digest::from_bytes(bytes).unwrap());
        let sha256 = request.into_inner().sha256.into_iter().filter(lacks).collect();
        Ok(Response::new(wire::MissingContentReply { sha256 }))
    }

    async fn put_content(
        &self,
        request: Request<Streaming<wire::PutContentRequest>>,
    ) -> Result<Response<wire::PutContentReply>, Status> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.ok_or_else(|| Status::invalid_argument("empty"))?;
        let (digest, length) = (Digest::from_bytes(&first.sha256).unwrap(), first.length);
        let mut frame = first.data;
        while let Some(message) = messages.message().await? {
            frame.extend(message.data);
        }
        let checked = refit_proto::package::decompress(
            &mut frame.as_slice(),
            &mut std::io::sink(),
            digest,
            length,
        );
        checked.map_err(|e| Status::invalid_argument(e.to_string()))?;
        self.held().content.insert(digest, frame);
        Ok(Response::new(wire::PutContentReply {}))
    }

    async fn offer_metadata(
        &self,
        _: Request<wire::OfferMetadataRequest>,
    ) -> Result<Response<wire::OfferMetadataReply>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }

    async fn push_metadata(
        &self,
        request: Request<wire::PushMetadataRequest>,
    ) -> Result<Response<wire::PushMetadataReply>, Status> {
        let files = request.into_inner().files;
        let pushed: Vec<(Role, Vec<u8>)> =
            files.into_iter().map(|file| (Role::parse(&file.role).unwrap(), file.file)).collect();
        let mut held = self.held();
        let accepted = accept(&held.newest, &pushed, &|_| None, &held.freshness, now());
        let accepted = accepted.map_err(|refused| match &refused {
            Refused::Conflict { role, held, .. } => {
                let conflict = wire::Conflict {
                    role: role.to_string(),
                    held_version: *held,
                    published_by: "person bob".into(),
                    published_at: NOW.into(),
                };
                let details = conflict.encode_to_vec().into();
                Status::with_details(Code::Aborted, refused.to_string(), details)
            }
            _ => Status::failed_precondition(refused.to_string()),
        })?;
        for write in accepted.writes {
            if let Write::Put { role, version, bytes } = &write {
                held.versions.insert((role.clone(), *version), bytes.clone());
            }
            write.apply(&mut held.newest);
        }
        Ok(Response::new(wire::PushMetadataReply {
            snapshot: accepted.snapshot,
            timestamp: accepted.timestamp,
        }))
    }
}
