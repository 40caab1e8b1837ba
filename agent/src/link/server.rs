//! The server as the network half reaches it: one channel with the host's certificate to the address in
//! use. Decides which address is next where one does not answer, and when the preferred one is tried again.

use std::{
    sync::{PoisonError, RwLock},
    time::Duration,
};

use refit_proto::{
    transport::{self, TransportError},
    wire::{
        LeaseReply, LeaseRequest, OfferMetadataReply, OfferMetadataRequest, RebootReply,
        RebootRequest, RenewReply, RenewRequest, SyncReply, SyncRequest, agent_client::AgentClient,
        enrollment_client::EnrollmentClient, repository_client::RepositoryClient,
    },
};
use rustls::ClientConfig;
use tonic::{Code, Response};

use super::{
    CallError, Patience,
    call::{self, within},
    dial::Dial,
    halves::Access,
    proxy::Proxies,
    refused::Channel,
};
use crate::{
    clock::Clock,
    identity::{Identity, Keys, Ways},
    update::Running,
};

/// Largest message that is taken: the largest metadata file with its frame.
pub(super) const LARGEST: usize = 6 << 20;
/// How long a host stays with an address that is not the preferred one before it tries that again.
const AGAIN: Duration = Duration::from_secs(15 * 60);

/// The way to the server.
pub struct Server {
    way: RwLock<Way>,
    /// In order of preference.
    addresses: Vec<String>,
    tls: ClientConfig,
    clock: Clock,
    patience: Patience,
    proxies: Proxies,
    dial: Dial,
}

/// What leads to the server now.
struct Way {
    /// Which of the addresses is in use, and since when.
    at: usize,
    since: Running,
    channel: Channel,
}

impl Server {
    /// The way to the server of this identity. Connects when it is first used.
    ///
    /// # Errors
    /// An address, certificate or key that cannot be used.
    pub fn new(
        identity: &Identity,
        keys: &Keys,
        ways: Ways,
        clock: Clock,
    ) -> Result<Server, TransportError> {
        Server::of(&Access::new(identity, keys, ways, Patience::default()), clock)
    }

    /// The way to the server by this access. Connects when it is first used.
    ///
    /// # Errors
    /// An address, certificate or key that cannot be used.
    pub fn of(access: &Access, clock: Clock) -> Result<Server, TransportError> {
        let tls = access.tls(clock.clone())?;
        let addresses = access.ways.addresses.clone();
        let proxies = access.proxies.clone();
        let dial = Dial::by(proxies.clone());
        let channel = channel(&addresses, 0, &tls, &dial)?;
        let way = RwLock::new(Way { at: 0, since: clock.running(), channel });
        Ok(Server { way, addresses, tls, clock, patience: access.patience, proxies, dial })
    }

    /// The same, through these proxies.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn with_proxies(self, proxies: Proxies) -> Result<Server, TransportError> {
        let server = self.with_dial(Dial::by(proxies.clone()))?;
        Ok(Server { proxies, ..server })
    }

    pub(super) fn with_dial(self, dial: Dial) -> Result<Server, TransportError> {
        let server = Server { dial, ..self };
        {
            let mut way = server.write();
            let at = way.at;
            server.use_address(&mut way, |_| at)?;
        }
        Ok(server)
    }

    /// The proxies between this host and others.
    pub(super) fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// How connections are made.
    pub(super) fn dial(&self) -> Dial {
        self.dial.clone()
    }

    /// How slow a download may be.
    pub fn patience(&self) -> Patience {
        self.patience
    }

    /// The address in use did not answer: the next one is.
    ///
    /// # Errors
    /// An address that cannot be used; then the old one stays in use.
    pub fn move_on(&self) -> Result<(), TransportError> {
        let mut way = self.write();
        match self.addresses.len() {
            1 => Ok(()),
            count => self.use_address(&mut way, |at| (at + 1) % count),
        }
    }

    /// After a while with another address the preferred one is tried again.
    ///
    /// # Errors
    /// An address that cannot be used; then the old one stays in use.
    pub fn prefer(&self) -> Result<(), TransportError> {
        let mut way = self.write();
        if way.at == 0 || self.clock.running().since(way.since) < AGAIN {
            return Ok(());
        }
        self.use_address(&mut way, |_| 0)
    }

    fn use_address(
        &self,
        way: &mut Way,
        next: impl FnOnce(usize) -> usize,
    ) -> Result<(), TransportError> {
        let at = next(way.at);
        way.channel = channel(&self.addresses, at, &self.tls, &self.dial)?;
        (way.at, way.since) = (at, self.clock.running());
        Ok(())
    }

    /// The address in use.
    pub fn address(&self) -> String {
        self.addresses[self.read().at].clone()
    }

    /// Hands over reports and gets orders.
    ///
    /// # Errors
    /// If the server does not take them.
    pub async fn sync(&self, request: SyncRequest) -> Result<SyncReply, CallError> {
        within(call::SMALL, self.agent().sync(request)).await
    }

    /// Gives a server back what it has lost.
    ///
    /// # Errors
    /// If it does not take it.
    pub async fn offer(
        &self,
        offer: OfferMetadataRequest,
    ) -> Result<OfferMetadataReply, CallError> {
        within(call::LARGE, self.repository().offer_metadata(offer)).await
    }

    /// Asks for the leave to begin.
    ///
    /// # Errors
    /// If the server could not be asked.
    pub async fn lease(&self, request: LeaseRequest) -> Result<LeaseReply, CallError> {
        within(call::SMALL, self.agent().request_lease(request)).await
    }

    /// Asks whether the host may boot now.
    ///
    /// # Errors
    /// If the server could not be asked.
    pub async fn reboot(&self, request: RebootRequest) -> Result<RebootReply, CallError> {
        let mut agent = self.agent();
        let asked = async {
            match agent.request_reboot(request).await {
                // A server of before there were boots has nothing against them.
                Err(status) if status.code() == Code::Unimplemented => {
                    Ok(Response::new(RebootReply { may: true, hold: None }))
                }
                answer => answer,
            }
        };
        within(call::SMALL, asked).await
    }

    /// Asks for a new certificate.
    ///
    /// # Errors
    /// If the server gives none.
    pub async fn renew(&self, request: RenewRequest) -> Result<RenewReply, CallError> {
        within(call::SMALL, self.enrollment().renew(request)).await
    }

    /// Reports, orders, leases.
    pub fn agent(&self) -> AgentClient<Channel> {
        AgentClient::new(self.channel()).max_decoding_message_size(LARGEST)
    }

    /// Metadata and content.
    pub fn repository(&self) -> RepositoryClient<Channel> {
        RepositoryClient::new(self.channel()).max_decoding_message_size(LARGEST)
    }

    /// Certificates.
    pub fn enrollment(&self) -> EnrollmentClient<Channel> {
        EnrollmentClient::new(self.channel())
    }

    fn channel(&self) -> Channel {
        self.read().channel.clone()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Way> {
        self.way.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Way> {
        self.way.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn channel(
    addresses: &[String],
    at: usize,
    tls: &ClientConfig,
    dial: &Dial,
) -> Result<Channel, TransportError> {
    let (address, dial) = (addresses.get(at).map_or("", String::as_str), dial.clone());
    transport::channel_over(address, tls.clone(), move |name, port| dial.to(name, port))
        .map(Into::into)
}
