//! The way to the server, as the caller. A certificate past half its life is renewed on the way.

use std::sync::Arc;

use refit_proto::{
    transport,
    wire::{
        RenewRequest, admin_client::AdminClient, changes_client::ChangesClient,
        enrollment_client::EnrollmentClient, repository_client::RepositoryClient,
        status_client::StatusClient,
    },
};
use rustls::{crypto::CryptoProvider, pki_types::CertificateDer};
use tonic::transport::Channel;

use crate::{
    Context,
    failure::refused,
    identity::{Age, Identity},
    servers,
};

/// Larger than any metadata file or page of hosts.
const LARGEST_MESSAGE: usize = 32 << 20;

/// A connection to the server, opened at the first call.
#[derive(Clone)]
pub(crate) struct Connection {
    channel: Channel,
}

impl Connection {
    /// Connects to the server of the last login, as the person who logged in.
    pub(crate) async fn open(context: &Context) -> anyhow::Result<Connection> {
        let address = servers::address(context).await?;
        let authorities = servers::authorities(context)?;
        let identity = Identity::load(context)?;
        let age = identity.age(context.now)?;
        // One of the authority before is renewed with the one that issues now.
        let current = authorities.first().is_some_and(|issuing| identity.is_from(issuing));
        if age == Age::Young && current {
            return Connection::believing(&address, authorities, Some(&identity));
        }
        let old = Connection::believing(&address, authorities.clone(), Some(&identity))?;
        match old.renew(context, identity).await {
            Ok(renewed) => Connection::believing(&address, authorities, Some(&renewed)),
            Err(error) if age != Age::Expired => {
                eprintln!("warning: the own certificate could not be renewed: {error}");
                Ok(old)
            }
            Err(error) => Err(error.context("the own certificate has expired")),
        }
    }

    /// Connects with or without a certificate.
    pub(crate) fn with(
        address: &str,
        authority: &[u8],
        identity: Option<&Identity>,
    ) -> anyhow::Result<Connection> {
        let authority = CertificateDer::from(authority.to_vec());
        Connection::believing(address, vec![authority], identity)
    }

    fn believing(
        address: &str,
        authorities: Vec<CertificateDer<'static>>,
        identity: Option<&Identity>,
    ) -> anyhow::Result<Connection> {
        let identity = identity.map(Identity::for_transport);
        let config = transport::client_config(provider(), authorities, identity)?;
        Ok(Connection { channel: transport::channel(address, config)? })
    }

    /// A connection over a channel that a test made.
    #[cfg(test)]
    pub(crate) fn over(channel: Channel) -> Connection {
        Connection { channel }
    }

    async fn renew(&self, context: &Context, identity: Identity) -> anyhow::Result<Identity> {
        let name = context.home.server()?.name;
        let certificate_request = Identity::request(identity.key(), &name)?;
        let reply = self
            .enrollment()
            .renew(RenewRequest { certificate_request, about: None })
            .await
            .map_err(refused("renew the own certificate"))?
            .into_inner();
        let renewed = identity.renewed(reply.certificates)?;
        renewed.save(context)?;
        Ok(renewed)
    }

    pub(crate) fn enrollment(&self) -> EnrollmentClient<Channel> {
        EnrollmentClient::new(self.channel.clone())
    }

    pub(crate) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn repository(&self) -> RepositoryClient<Channel> {
        RepositoryClient::new(self.channel.clone())
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn changes(&self) -> ChangesClient<Channel> {
        ChangesClient::new(self.channel.clone())
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn status(&self) -> StatusClient<Channel> {
        StatusClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
