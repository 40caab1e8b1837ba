//! Enrolling: a token becomes an identity. What the host must not take from the network comes from the
//! token (labels, the first root's hash, the authority), and a server that says otherwise is refused
//! with nothing stored but the host's own key.

use refit_durable::FileError;
use refit_proto::{
    names::{Digest, HostName, Labels, Platform},
    token::{Subject, Token},
    transport::{self, TransportError},
    wire::{
        EnrollReply, EnrollRequest, GetMetadataRequest, TokenProof,
        enrollment_client::EnrollmentClient,
    },
};
use rustls::pki_types::CertificateDer;

use super::{
    CallError, Proxies, Server,
    call::{self, within},
    dial::Dial,
    refused, tls,
};
use crate::{
    clock::Clock,
    identity::{Certificate, Identity, IdentityFolder, Keys, KeysError},
};

/// Most certificates in an answer.
const LONGEST_CHAIN: usize = 4;
/// Longest certificate, bytes.
const LONGEST_CERTIFICATE: usize = 16 * 1024;

/// Why the host is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// A token for a person or CI job.
    #[error(
        "the token is not for a host\n\
         help: people and CI jobs use `refit login`; `refit token create` makes a token for a host"
    )]
    NotForAHost,
    /// The keys of the host.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// A file of the host.
    #[error(transparent)]
    File(#[from] FileError),
    /// The token's address or authority.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The server could not be asked, or did not want.
    #[error("server {server} did not enroll this host: {}", cause.with_help())]
    Call {
        /// The token's server.
        server: String,
        /// Why not.
        cause: CallError,
    },
    /// The server says something else than the token.
    #[error(
        "server {server} is refused: {what} differ from those of the token\n\
         help: do not trust this server; have an administrator compare it with the token, \
         and make a new token"
    )]
    OtherThanToken {
        /// The token's server.
        server: String,
        /// What differs.
        what: &'static str,
    },
    /// The certificate that came is not this host's.
    #[error(
        "server {server} is refused: its certificate for this host is not usable: {why}\n\
         help: have an administrator look at the server's log, then enroll again"
    )]
    Certificate {
        /// The token's server.
        server: String,
        /// What is wrong with it.
        why: String,
    },
    /// The root that came is not the token's.
    #[error(
        "server {server} is refused: its first root has digest {found}, the token's is {expected}\n\
         help: do not trust this server; have an administrator compare the roots, \
         and make a new token from their own copy"
    )]
    OtherRoot {
        /// The token's server.
        server: String,
        /// The token's.
        expected: Digest,
        /// The server's.
        found: Digest,
    },
}

/// Enrolls this host and stores who it is.
///
/// # Errors
/// If it did not come to that. The host's key stays, so that the next try is the same host.
pub async fn enroll(
    token: &Token,
    name: HostName,
    platform: &Platform,
    folder: &IdentityFolder,
    clock: Clock,
    proxies: &Proxies,
) -> Result<Identity, EnrollError> {
    let Subject::Host { labels, root } = &token.subject else {
        return Err(EnrollError::NotForAHost);
    };
    // Stored before anybody is told the public half: were the answer lost, the same key asks again.
    let keys = Keys::load_or_make(folder)?;
    let authority = CertificateDer::from(token.ca_der());
    let config = tls::client_config(std::slice::from_ref(&authority), None, clock.clone())?;
    let request = EnrollRequest {
        token: Some(TokenProof { token_id: token.id.clone(), secret: token.secret().to_vec() }),
        name: name.to_string(),
        certificate_request: keys.certificate_request()?,
        report_key: keys.report_public()?.to_vec(),
        platform: platform.to_string(),
    };
    let dial = Dial::by(proxies.clone());
    let channel =
        transport::channel_over(&token.server, config, move |name, port| dial.to(name, port))?;
    let mut client = EnrollmentClient::new(refused::Channel::from(channel));
    let reply = within(call::SMALL, client.enroll(request))
        .await
        .map_err(|cause| EnrollError::Call { server: token.server.clone(), cause })?;
    compare(token, &keys, labels, root, &reply)?;
    let certificates =
        accept_chain(&keys, std::slice::from_ref(&authority), reply.certificates, &clock)
            .map_err(|why| EnrollError::Certificate { server: token.server.clone(), why })?;
    let identity = Identity {
        host: keys.host_id(),
        name,
        server: token.server.clone(),
        labels: labels.clone(),
        root: *root,
        authority,
        certificates,
    };
    identity.save(folder)?;
    Ok(identity)
}

fn compare(
    token: &Token,
    keys: &Keys,
    labels: &Labels,
    root: &Digest,
    reply: &EnrollReply,
) -> Result<(), EnrollError> {
    let other = |what| Err(EnrollError::OtherThanToken { server: token.server.clone(), what });
    let same_labels = reply.labels.len() == labels.len()
        && labels.iter().all(|(name, value)| {
            reply.labels.get(name.as_str()).is_some_and(|v| v == value.as_str())
        });
    if !same_labels {
        return other("the labels that it holds");
    }
    if reply.root_sha256 != root.to_string() {
        return other("the hashes of its first root");
    }
    if reply.host_id != keys.host_id().as_str() {
        let why = "it names a host id that does not belong to this host's key".to_owned();
        return Err(EnrollError::Certificate { server: token.server.clone(), why });
    }
    Ok(())
}

/// The chain, if it is for this host's key and from one of these authorities.
pub(super) fn accept_chain(
    keys: &Keys,
    authorities: &[CertificateDer<'static>],
    chain: Vec<Vec<u8>>,
    clock: &Clock,
) -> Result<Vec<CertificateDer<'static>>, String> {
    if chain.len() > LONGEST_CHAIN || chain.iter().any(|der| der.len() > LONGEST_CERTIFICATE) {
        return Err("it is longer than any of this fleet's".to_owned());
    }
    let leaf = chain.first().ok_or("there is none")?;
    if Certificate::read(leaf).map_err(|error| error.to_string())?.key != keys.public_key_digest() {
        return Err("it is for another key".to_owned());
    }
    let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
    tls::verify_issued(authorities, &chain, clock).map_err(|error| error.to_string())?;
    Ok(chain)
}

/// Fetches the first root, which must be the token's.
///
/// # Errors
/// If it can't be had, or is another.
pub async fn fetch_first_root(
    server: &Server,
    identity: &Identity,
) -> Result<Vec<u8>, EnrollError> {
    let request = GetMetadataRequest { role: "root".to_owned(), version: 1 };
    let file = within(call::LARGE, server.repository().get_metadata(request))
        .await
        .map_err(|cause| EnrollError::Call { server: identity.server.clone(), cause })?
        .file;
    let found = Digest::of(&file);
    if found != identity.root {
        let (server, expected) = (identity.server.clone(), identity.root);
        return Err(EnrollError::OtherRoot { server, expected, found });
    }
    Ok(file)
}
