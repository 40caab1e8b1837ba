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
use tonic::transport::Channel;

use super::{CallError, Patience, Server, content, server::LARGEST, tls};
use crate::trusted::Source;

/// What answers at the address in use.
pub struct Stranger(RepositoryClient<Channel>);

impl Server {
    /// Whoever answers at the address in use. Connects when it is first asked.
    ///
    /// # Errors
    /// An address that cannot be used.
    pub fn stranger(&self) -> Result<Stranger, TransportError> {
        let channel = transport::channel(&self.address(), tls::stranger_config()?)?;
        Ok(Stranger(RepositoryClient::new(channel).max_decoding_message_size(LARGEST)))
    }
}

impl Source for Stranger {
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
