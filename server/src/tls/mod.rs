//! The server's end of TLS: version 1.3 alone, one port for everything, client certificates asked for
//! but not demanded, since Enroll and Login come without. `verifier.rs` decides which certificates
//! pass, `acceptor.rs` bounds handshakes and connections, `renewal.rs` keeps our own certificate young.

mod acceptor;
mod renewal;
#[cfg(test)]
mod tests;
mod verifier;

use std::sync::Arc;

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::CertificateDer,
    server::NoServerSessionStorage,
    version::TLS13,
};

pub use acceptor::{Acceptor, AcceptorLimits, Connection, RefusedHandshake};
pub use renewal::OwnCertificate;

use crate::clock::Clock;

/// The provider of this process, always passed by hand: two of them in one binary make rustls panic.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// What the acceptor speaks.
///
/// # Errors
/// If an authority's certificate is not usable as one.
pub fn config(
    authorities: &[CertificateDer<'static>],
    own: Arc<OwnCertificate>,
    clock: Clock,
) -> anyhow::Result<Arc<ServerConfig>> {
    let verifier = verifier::FleetVerifier::new(authorities, provider())?;
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(clock))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(own);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A resumed session would go on with the client certificate of the first one, also where that has
    // been renewed or has expired meanwhile.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
