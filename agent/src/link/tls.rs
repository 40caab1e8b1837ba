//! TLS to the server: 1.3 only, the fleet's authorities, ring. Decides what a host with a wrong clock makes of the
//! server's certificate; the settings themselves are `refit_proto::transport`'s.
//!
//! A host knows of the time only what its clock and its floor say ([`crate::clock`]). A server
//! certificate that begins later proves that time has passed: the fleet's authority signed it. So "not
//! valid yet" is judged at the moment when the certificate begins, and a host whose clock stands in 1970
//! gets in touch again by itself. "Expired" is refused at every time that it may be.

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use refit_proto::transport::{self, Identity, TransportError};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, KeyProvider},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::WebPkiClientVerifier,
    sign::SigningKey,
    time_provider::TimeProvider,
};

use crate::clock::Clock;

/// The agent's TLS provider, always passed explicitly.
pub fn provider() -> Arc<CryptoProvider> {
    // Its own reader of keys knows RSA too.
    Arc::new(CryptoProvider { key_provider: &HostKeys, ..rustls::crypto::ring::default_provider() })
}

/// Reads the keys of hosts, which are P-256.
#[derive(Debug)]
struct HostKeys;

impl KeyProvider for HostKeys {
    fn load_private_key(&self, key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        rustls::crypto::ring::sign::any_ecdsa_type(&key)
    }
}

/// Settings for a connection to a server that one of these authorities certifies.
///
/// # Errors
/// Certificates or a key that cannot be used.
pub fn client_config(
    authorities: &[CertificateDer<'static>],
    identity: Option<Identity>,
    clock: Clock,
) -> Result<ClientConfig, TransportError> {
    let mut config = transport::client_config(provider(), authorities.to_vec(), identity)?;
    let verifier = ServerVerifier::new(authorities, clock.clone())?;
    config.dangerous().set_certificate_verifier(Arc::new(verifier));
    config.time_provider = Arc::new(clock);
    Ok(config)
}

/// Settings for a connection to whoever answers: without a certificate of our own, and without a belief
/// in who it is. For what proves itself alone.
///
/// # Errors
/// Never for settings without certificates.
pub fn stranger_config() -> Result<ClientConfig, TransportError> {
    let mut config = transport::client_config(provider(), Vec::new(), None)?;
    config.dangerous().set_certificate_verifier(Arc::new(Anybody(provider())));
    Ok(config)
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether one of these authorities has issued a certificate to a client, valid at one of the times.
///
/// # Errors
/// If not.
pub fn verify_issued(
    authorities: &[CertificateDer<'static>],
    chain: &[CertificateDer<'static>],
    clock: &Clock,
) -> Result<(), Error> {
    let [leaf, intermediates @ ..] = chain else {
        return Err(Error::NoCertificatesPresented);
    };
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(authorities)?, provider())
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    at_a_possible_time(clock, |now| verifier.verify_client_cert(leaf, intermediates, now))?;
    Ok(())
}

fn roots(authorities: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone())?;
    }
    Ok(Arc::new(roots))
}

struct ServerVerifier {
    inner: Arc<WebPkiServerVerifier>,
    clock: Clock,
}

impl ServerVerifier {
    fn new(authorities: &[CertificateDer<'static>], clock: Clock) -> Result<ServerVerifier, Error> {
        let inner = WebPkiServerVerifier::builder_with_provider(roots(authorities)?, provider())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(ServerVerifier { inner, clock })
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerVerifier").field("clock", &self.clock).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        at_a_possible_time(&self.clock, |now| {
            self.inner.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            )
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.inner.root_hint_subjects()
    }
}

/// The verdict at the times that it may be; at the begin of a certificate that is "not valid yet".
fn at_a_possible_time<T>(
    clock: &Clock,
    mut verify: impl FnMut(UnixTime) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut verdict = Err(Error::FailedToGetCurrentTime);
    for now in clock.readings() {
        verdict = verify(unix(now));
        if let Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
            not_before,
            ..
        })) = &verdict
        {
            verdict = verify(*not_before);
        }
        match &verdict {
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext { .. })) => {}
            Ok(_) | Err(_) => return verdict,
        }
    }
    verdict
}

fn unix(time: Timestamp) -> UnixTime {
    // Never before 1970: the floor is later.
    let seconds = u64::try_from(time.as_second()).unwrap_or(0);
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix(self.now()))
    }
}
