//! Renewing the host's certificate, with the same key. Due after two thirds of its life; an expired one
//! may still do it, and a host that the server does not let in any more tries it as well, since its own
//! clock may not know that the certificate has expired.

use jiff::Timestamp;
use refit_durable::FileError;
use refit_proto::{
    transport::TransportError,
    wire::{HostAbout, RenewRequest},
};
use rustls::pki_types::CertificateDer;

use super::{CallError, Link, enroll::accept_chain};
use crate::{
    clock::Clock,
    identity::{Identity, IdentityError, IdentityFolder, Keys, KeysError},
    settings::own_platform,
};

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The server could not be asked, or did not want.
    #[error("the certificate was not renewed: {0}")]
    Call(#[from] CallError),
    /// What came is not usable.
    #[error(
        "the renewed certificate is refused: {0}\n\
         help: have an administrator look at the server's log; the agent tries again"
    )]
    Refused(String),
    /// The key can't be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The certificate can't be stored.
    #[error(transparent)]
    File(#[from] FileError),
    /// It can't be used for a connection.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

/// Whether the certificate is due for renewal: by its age, or since another authority issues now.
///
/// # Errors
/// If the host's certificate can't be read.
pub fn is_due(
    identity: &Identity,
    issuing: Option<&CertificateDer<'static>>,
    now: Timestamp,
) -> Result<bool, IdentityError> {
    // The authority stands at the end of every chain that the server gives.
    let of = identity.certificates.iter().skip(1).last();
    let of_another = issuing.zip(of).is_some_and(|(issuing, of)| issuing != of);
    Ok(of_another || now >= identity.certificate()?.renew_from())
}

/// Gets, stores and uses a new certificate for the same key.
///
/// # Errors
/// If it did not come to that; the old one stays.
pub async fn renew(
    link: &Link,
    identity: &Identity,
    keys: &Keys,
    folder: &IdentityFolder,
    clock: &Clock,
) -> Result<Identity, RenewError> {
    // Where the server has lost its record of this host, this is what a new one is made of.
    let labels = identity.labels.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    let about = HostAbout {
        name: identity.name.to_string(),
        report_key: keys.report_public()?.to_vec(),
        platform: own_platform().to_string(),
        labels: labels.collect(),
    };
    let request =
        RenewRequest { certificate_request: keys.certificate_request()?, about: Some(about) };
    let reply = link.renew(request).await?;
    let certificates = accept_chain(keys, &link.authorities(), reply.certificates, clock)
        .map_err(RenewError::Refused)?;
    let renewed = Identity { certificates, ..identity.clone() };
    renewed.save(folder)?;
    link.change_identity(&renewed)?;
    Ok(renewed)
}
