//! The server as this host reaches it: one channel with the host's certificate, made anew when the
//! certificate changes.

use std::sync::{PoisonError, RwLock};

use refit_proto::{
    transport::{self, TransportError},
    wire::{
        SyncReply, SyncRequest, agent_client::AgentClient, enrollment_client::EnrollmentClient,
        repository_client::RepositoryClient,
    },
};
use tonic::transport::Channel;

use super::{
    CallError,
    call::{self, within},
    tls,
};
use crate::{
    clock::Clock,
    identity::{Identity, Keys},
};

/// Largest message that is taken: the largest metadata file with its frame.
const LARGEST: usize = 6 << 20;

/// The way to the server.
pub struct Server {
    channel: RwLock<Channel>,
    clock: Clock,
}

impl Server {
    /// The way to the server of this identity. Connects when it is first used.
    ///
    /// # Errors
    /// An address, certificate or key that cannot be used.
    pub fn new(identity: &Identity, keys: &Keys, clock: Clock) -> Result<Server, TransportError> {
        let channel = channel(identity, keys, clock.clone())?;
        Ok(Server { channel: RwLock::new(channel), clock })
    }

    /// Uses another certificate from now on. Calls under way end on the old connection.
    ///
    /// # Errors
    /// A certificate that cannot be used; then the old one stays in use.
    pub fn change_identity(&self, identity: &Identity, keys: &Keys) -> Result<(), TransportError> {
        let channel = channel(identity, keys, self.clock.clone())?;
        *self.channel.write().unwrap_or_else(PoisonError::into_inner) = channel;
        Ok(())
    }

    /// Hands over reports and gets orders.
    ///
    /// # Errors
    /// If the server does not take them.
    pub async fn sync(&self, request: SyncRequest) -> Result<SyncReply, CallError> {
        within(call::SMALL, self.agent().sync(request)).await
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
        self.channel.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn channel(identity: &Identity, keys: &Keys, clock: Clock) -> Result<Channel, TransportError> {
    let own = transport::Identity {
        certificates: identity.certificates.clone(),
        key: keys.private_key(),
    };
    let config = tls::client_config(identity.authority.clone(), Some(own), clock)?;
    transport::channel(&identity.server, config)
}
