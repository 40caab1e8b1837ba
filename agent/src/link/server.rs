//! The server as this host reaches it: one channel with the host's certificate to the address in use,
//! made anew when the certificate, the addresses or the authorities change. Decides which address is next
//! where one does not answer, and when the preferred one is tried again.

use std::{
    sync::{PoisonError, RwLock},
    time::Duration,
};

use refit_proto::{
    servers::Mirror,
    transport::{self, TransportError},
    wire::{
        OfferMetadataReply, OfferMetadataRequest, SyncReply, SyncRequest,
        agent_client::AgentClient, enrollment_client::EnrollmentClient,
        repository_client::RepositoryClient,
    },
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tonic::transport::Channel;

use super::{
    CallError, Patience,
    call::{self, within},
    tls,
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
    clock: Clock,
    patience: Patience,
}

/// What leads to the server now.
struct Way {
    ways: Ways,
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
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
        let (certificates, key) = (identity.certificates.clone(), keys.private_key());
        let channel = channel(&ways, 0, &certificates, &key, clock.clone())?;
        let since = clock.running();
        let way = Way { ways, certificates, key, at: 0, since, channel };
        Ok(Server { way: RwLock::new(way), clock, patience: Patience::default() })
    }

    /// The same, with this much patience for slow downloads.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Server {
        Server { patience, ..self }
    }

    /// How slow a download may be.
    pub fn patience(&self) -> Patience {
        self.patience
    }

    /// Uses another certificate from now on. Calls under way end on the old connection.
    ///
    /// # Errors
    /// A certificate that cannot be used; then the old one stays in use.
    pub fn change_identity(&self, identity: &Identity, keys: &Keys) -> Result<(), TransportError> {
        let mut way = self.write();
        let (certificates, key) = (identity.certificates.clone(), keys.private_key());
        way.channel = channel(&way.ways, way.at, &certificates, &key, self.clock.clone())?;
        (way.certificates, way.key) = (certificates, key);
        Ok(())
    }

    /// Uses other addresses and authorities from now on, the preferred address first.
    ///
    /// # Errors
    /// Ways that cannot be used; then the old ones stay in use.
    pub fn change_ways(&self, ways: Ways) -> Result<(), TransportError> {
        let mut way = self.write();
        if way.ways == ways {
            return Ok(());
        }
        way.channel = channel(&ways, 0, &way.certificates, &way.key, self.clock.clone())?;
        (way.ways, way.at, way.since) = (ways, 0, self.clock.running());
        Ok(())
    }

    /// The address in use did not answer: the next one is.
    ///
    /// # Errors
    /// An address that cannot be used; then the old one stays in use.
    pub fn move_on(&self) -> Result<(), TransportError> {
        let mut way = self.write();
        match way.ways.addresses.len() {
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
        way.channel = channel(&way.ways, at, &way.certificates, &way.key, self.clock.clone())?;
        (way.at, way.since) = (at, self.clock.running());
        Ok(())
    }

    /// The address in use.
    pub fn address(&self) -> String {
        let way = self.read();
        way.ways.addresses[way.at].clone()
    }

    /// The authorities that count now; the first is the one that issues.
    pub fn authorities(&self) -> Vec<CertificateDer<'static>> {
        self.read().ways.authorities.clone()
    }

    /// Copies of the server's content.
    pub fn mirrors(&self) -> Vec<Mirror> {
        self.read().ways.mirrors.clone()
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
    ways: &Ways,
    at: usize,
    certificates: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    clock: Clock,
) -> Result<Channel, TransportError> {
    let own = transport::Identity { certificates: certificates.to_vec(), key: key.clone_key() };
    let config = tls::client_config(&ways.authorities, Some(own), clock)?;
    transport::channel(&ways.addresses[at], config)
}
