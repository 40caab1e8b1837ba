//! Which client certificates pass the handshake: those of our own authorities. One that has expired
//! passes too, since its host may renew it; `api` sees when it ended and lets it call Renew alone.

use std::{sync::Arc, time::Duration};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

/// How long after its end a certificate may still renew itself: a host in a cupboard for two years.
const RENEWABLE: Duration = Duration::from_secs(2 * 365 * 24 * 60 * 60);

#[derive(Debug)]
pub(super) struct FleetVerifier {
    webpki: Arc<dyn ClientCertVerifier>,
}

impl FleetVerifier {
    pub(super) fn new(
        authorities: &[CertificateDer<'static>],
        provider: Arc<CryptoProvider>,
    ) -> anyhow::Result<FleetVerifier> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority.clone())?;
        }
        let webpki = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()?;
        Ok(FleetVerifier { webpki })
    }
}

impl ClientCertVerifier for FleetVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.webpki.verify_client_cert(end_entity, intermediates, now) {
            // Expiry is found before the chain is built, so everything else is checked once more, at
            // the last moment at which the certificate was good.
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext {
                not_after, ..
            })) if now.as_secs() <= not_after.as_secs().saturating_add(RENEWABLE.as_secs()) => {
                self.webpki.verify_client_cert(end_entity, intermediates, not_after)
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}
