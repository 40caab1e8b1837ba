//! Whoever answers where the server should be, and can't prove that it is the server: it is asked for
//! signed metadata and the signed list of servers, which prove themselves, and for nothing else. It is
//! told nothing: no certificate, no report, not who asks. So a host that was away while the authority was
//! replaced and the server got another name finds out by itself.

use refit_proto::{
    names::Digest,
    transport::{self, TransportError},
    trust::Role,
    wire::repository_client::RepositoryClient,
};

use super::{
    CallError, Link, Patience, Server, content, halves::Whom, refused::Channel, server::LARGEST,
    tls,
};
use crate::trusted::Source;

/// What answers at the address in use, as the root half has it: by the network half.
pub struct Stranger<'a>(&'a Link);

impl Link {
    /// Whoever answers at the address in use.
    pub fn stranger(&self) -> Stranger<'_> {
        Stranger(self)
    }
}

impl Source for Stranger<'_> {
    async fn metadata(
        &self,
        role: &Role,
        version: Option<u64>,
        _max_length: u64,
    ) -> Result<Option<Vec<u8>>, CallError> {
        self.0.metadata(Whom::Stranger, role, version).await
    }

    async fn content(&self, digest: &Digest, length: u64) -> Result<Vec<u8>, CallError> {
        self.0.content(Whom::Stranger, digest, length).await
    }
}

/// What answers at the address in use, as the network half asks it.
pub(super) struct Somebody(RepositoryClient<Channel>);

impl Server {
    /// Whoever answers at the address in use. Connects when it is first asked.
    ///
    /// # Errors
    /// An address that cannot be used.
    pub(super) fn stranger(&self) -> Result<Somebody, TransportError> {
        let dial = self.dial();
        let dial = move |name, port| dial.to(name, port);
        let channel = transport::channel_over(&self.address(), tls::stranger_config()?, dial)?;
        Ok(Somebody(RepositoryClient::new(channel.into()).max_decoding_message_size(LARGEST)))
    }
}

impl Source for Somebody {
    async fn metadata(
        &self,
        role: &Role,
        version: Option<u64>,
        _max_length: u64,
    ) -> Result<Option<Vec<u8>>, CallError> {
        content::metadata(self.0.clone(), role, version).await
    }

    async fn content(&self, digest: &Digest, length: u64) -> Result<Vec<u8>, CallError> {
        content::whole(
            content::begin(self.0.clone(), digest, 0, Patience::default()).await?,
            digest,
            length,
        )
        .await
    }
}
