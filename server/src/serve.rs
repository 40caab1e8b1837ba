//! `refit-server run`: everything put together, and taken apart again at the end. Nothing is decided
//! here but the order: settings, keys and store before a port opens; ports before work begins.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, bail};
use refit_durable::{Options, SledStore, file};
use refit_proto::wire::{
    self, admin_server::AdminServer, agent_server::AgentServer, changes_server::ChangesServer,
    enrollment_server::EnrollmentServer, repository_server::RepositoryServer,
    status_server::StatusServer,
};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, watch},
};
use tonic::{Request, Status, service::Routes, transport::Server};
use tracing::{error, info, warn};

use crate::{
    access,
    api::{Api, Shared},
    audit::Deed,
    clock::Clock,
    content::ContentFolder,
    fleet::Actor,
    identity::Peer,
    init,
    keys::ServerKeys,
    leader::Leader,
    refusals::Throttle,
    settings::Settings,
    status_source::StatusReader,
    store::{Embedded, Store as _, StoreHandle},
    tls::{self, Acceptor, OwnCertificate, RefusedHandshake},
    web,
};

/// How long calls under way may go on after the server was told to stop.
const DRAIN: Duration = Duration::from_secs(10);
/// A connection that stays silent for so long is asked for a sign of life.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Refused handshakes that wait to be put on record; what does not fit is only logged.
const REFUSALS: usize = 64;

/// A server with its ports open, before it answers.
pub struct Ready {
    shared: Arc<Shared>,
    listener: TcpListener,
    status_listener: TcpListener,
    own: Arc<OwnCertificate>,
    stop: watch::Sender<bool>,
}

/// Opens everything that a data folder holds, and the ports.
///
/// # Errors
/// What is missing, damaged or taken.
pub async fn open(settings: Settings, clock: Clock) -> anyhow::Result<Ready> {
    let now = clock.now();
    let data = settings.data.clone();
    let keys = ServerKeys::load(&data.join(init::KEYS))?;
    let store = open_store(&settings, &clock)?;
    file::remove_pending(&data).context("the data folder can't be tidied")?;
    let content = ContentFolder::open(&data, settings.limits.upload_bytes)?;
    let own = OwnCertificate::issue(keys.authorities.shown(), settings.addresses.clone(), now)?;
    let address = settings.listen;
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("the server can't listen on {address}\nhelp: choose another address with --listen")
    })?;
    let status_listener = web::bind(settings.status_listen).await?;
    let (stop, stopping) = watch::channel(false);
    let shared = Arc::new(Shared {
        store: StoreHandle::new(store),
        content,
        keys,
        clock,
        settings,
        wake: Notify::new(),
        listening_since: now,
        presence: Default::default(),
        troubles: Default::default(),
        healing: Default::default(),
        labels: Default::default(),
        stop: stopping,
        turn: Mutex::new(()),
        throttle: Mutex::new(Throttle::default()),
    });
    Ok(Ready { shared, listener, status_listener, own, stop })
}

fn open_store(settings: &Settings, clock: &Clock) -> anyhow::Result<Embedded> {
    const MIB: u64 = 1024 * 1024;
    let folder = settings.data.join(init::STORE);
    let mut options = Options::new(&folder, clock.now());
    options.cache_capacity = 64 * MIB;
    let opened = SledStore::open(options)?;
    let store = Embedded::new(opened.store)?;
    // A server that began with an empty store would know nobody, and let versions be used again.
    if let Some(aside) = opened.set_aside {
        bail!(
            "the store in {} was damaged and is now in {}\n\
             help: stop the server, put the newest backup of the data folder in place, and start again",
            folder.display(),
            aside.display()
        );
    }
    if store.audit_head()?.length == 0 {
        let damaged = opened.earlier_damage.last();
        let damaged = damaged.map(|aside| format!("; a damaged one is in {}", aside.display()));
        bail!(
            "the store in {} is empty, though this data folder was in use{}\n\
             help: put the newest backup of the data folder in place, and start again",
            folder.display(),
            damaged.unwrap_or_default()
        );
    }
    Ok(store)
}

impl Ready {
    /// What the services share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Where agents and `refit` call.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.listener.local_addr()
    }

    /// Where the page is.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn status_address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.status_listener.local_addr()
    }

    /// Answers until `signal` comes, ends what is under way, and returns.
    ///
    /// # Errors
    /// If a listener fails.
    pub async fn serve(self, signal: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Ready { shared, listener, status_listener, own, stop } = self;
        info!(
            address = %listener.local_addr()?, status = %status_listener.local_addr()?,
            data = %shared.settings.data.display(), "the server is ready"
        );
        let config =
            tls::config(&shared.keys.authorities.accepted(), own.clone(), shared.clock.clone())?;
        let (refused, refusals) = mpsc::channel(REFUSALS);
        let limits = shared.settings.limits.acceptor();
        let retired = shared.keys.authorities.retired_names().into();
        let connections = Acceptor { listener, config, limits, refused, retired }.run();

        let api = Api::new(shared.clone());
        let router = server(&shared).add_routes(routes(&api, &shared).await?);
        let mut calls = tokio::spawn(
            router.serve_with_incoming_shutdown(connections, stopped(stop.subscribe())),
        );
        let page = web::serve(
            status_listener,
            Arc::new(StatusReader(shared.clone())),
            stopped(stop.subscribe()),
        );
        let mut page = tokio::spawn(page);
        let leader = Leader { shared: shared.clone(), name: leader_name(), own };
        let leader = tokio::spawn(leader.run(stop.subscribe()));
        let recorder = tokio::spawn(record_refusals(api, shared.clone(), refusals));

        tokio::select! {
            () = signal => info!("the server was told to stop"),
            ended = &mut calls => error!(?ended, "the server no longer takes calls"),
            ended = &mut page => error!(?ended, "the page is no longer shown"),
        }
        stop.send_replace(true);
        let rest = async {
            if !calls.is_finished() {
                calls.await??;
            }
            if !page.is_finished() {
                page.await??;
            }
            leader.await?;
            anyhow::Ok(())
        };
        // Whatever is still under way then is cut; every commit is whole, so nothing is lost by it.
        if tokio::time::timeout(DRAIN, rest).await.is_err() {
            warn!("calls were still under way after {DRAIN:?}");
        }
        recorder.abort();
        Ok(())
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone: then it is over as well.
    let _over = stop.wait_for(|stop| *stop).await;
}

fn leader_name() -> String {
    format!("{}-{}", rustix::system::uname().nodename().to_string_lossy(), std::process::id())
}

fn server(shared: &Shared) -> Server {
    let limits = &shared.settings.limits;
    Server::builder()
        .accept_http1(true)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE / 3))
        .max_concurrent_streams(limits.calls_per_connection)
        .http2_max_header_list_size(16 * 1024)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
}

async fn routes(api: &Api, shared: &Arc<Shared>) -> anyhow::Result<Routes> {
    let most = shared.settings.limits.message_bytes;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<EnrollmentServer<Api>>().await;
    health.set_serving::<RepositoryServer<Api>>().await;
    health.set_serving::<AgentServer<Api>>().await;
    health.set_serving::<AdminServer<Api>>().await;
    health.set_serving::<StatusServer<Api>>().await;
    health.set_serving::<ChangesServer<Api>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
        .build_v1()?;
    let clock = shared.clock.clone();
    let guard = move |request: Request<()>| certified_only(request, &clock);
    let mut routes = Routes::builder();
    routes
        .add_service(EnrollmentServer::new(api.clone()).max_decoding_message_size(64 * 1024))
        .add_service(RepositoryServer::new(api.clone()).max_decoding_message_size(most))
        .add_service(AgentServer::new(api.clone()).max_decoding_message_size(most))
        .add_service(AdminServer::new(api.clone()).max_decoding_message_size(most))
        .add_service(StatusServer::new(api.clone()).max_decoding_message_size(64 * 1024))
        .add_service(ChangesServer::new(api.clone()).max_decoding_message_size(most))
        .add_service(health_service)
        .add_service(tonic::service::interceptor::InterceptedService::new(reflection, guard));
    Ok(routes.routes())
}

/// Reflection tells what the protocol is, not what the fleet is: a certificate of the fleet is enough.
fn certified_only(request: Request<()>, clock: &Clock) -> Result<Request<()>, Status> {
    let peer = request.extensions().get::<Peer>();
    match peer.map(|peer| access::certified(peer, clock.now())) {
        Some(Ok(_)) => Ok(request),
        Some(Err(refusal)) => Err(Status::unauthenticated(refusal.to_string())),
        None => Err(Status::internal("the connection has no peer")),
    }
}

async fn record_refusals(
    api: Api,
    shared: Arc<Shared>,
    mut refusals: mpsc::Receiver<RefusedHandshake>,
) {
    while let Some(RefusedHandshake { address, cause }) = refusals.recv().await {
        let from = address.ip().to_string();
        let deed = Deed::refused(Actor::Unknown, "connect", from, cause);
        api.note_refusal(deed, shared.clock.now()).await;
    }
}
