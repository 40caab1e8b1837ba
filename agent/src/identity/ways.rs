//! The ways to the server: what the newest signed `policy/servers.json` says, over what the enrollment
//! token said. Kept in a file of its own, so that a host whose metadata is incomplete at the moment still
//! finds a server that has moved. Decides the order of addresses and which authorities count.

use refit_durable::{
    FileError,
    file::{self, Access},
};
use refit_proto::servers::{Mirror, ServersPolicy};
use rustls::pki_types::CertificateDer;

use super::{Identity, IdentityFolder};

/// Where a host may call, and whom it believes there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ways {
    /// In order of preference, never empty; the enrollment's address is the last, so that a wrong
    /// document strands nobody.
    pub addresses: Vec<String>,
    /// Those that a server's certificate may come from, never empty. The first is the one that issues.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Copies of the server's content.
    pub mirrors: Vec<Mirror>,
}

impl Ways {
    /// The ways of this host. Once a document was trusted, the enrollment's authority counts only where
    /// the document names it too.
    pub fn of(identity: &Identity, servers: Option<&ServersPolicy>) -> Ways {
        let mut addresses = Vec::new();
        let (mut authorities, mut mirrors) = (vec![identity.authority.clone()], Vec::new());
        if let Some(servers) = servers {
            addresses.extend(servers.servers.iter().map(|it| it.as_str().to_owned()));
            authorities = servers.authorities.iter().map(|it| it.der().clone()).collect();
            mirrors.clone_from(&servers.mirrors);
        }
        addresses.retain(|address| *address != identity.server);
        let preferred = servers.and_then(|servers| {
            servers.servers.iter().position(|address| address.as_str() == identity.server)
        });
        let at = preferred.unwrap_or(addresses.len());
        addresses.insert(at, identity.server.clone());
        Ways { addresses, authorities, mirrors }
    }

    /// The document that was trusted last, if any was. A damaged one is none: it comes again with the
    /// metadata.
    ///
    /// # Errors
    /// If the disk can't be read.
    pub fn load(folder: &IdentityFolder) -> Result<Option<ServersPolicy>, FileError> {
        let path = folder.servers();
        let bytes = match file::read_if_there(&path, ServersPolicy::MAX_LENGTH) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(FileError::TooLarge { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        match ServersPolicy::parse(&bytes) {
            Ok(servers) => Ok(Some(servers)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the list of servers is damaged and not used");
                Ok(None)
            }
        }
    }

    /// Keeps the document that is trusted now, or none; durable when this returns.
    ///
    /// # Errors
    /// If it can't be kept; what was there before still is.
    pub fn save(folder: &IdentityFolder, servers: Option<&ServersPolicy>) -> Result<(), FileError> {
        match servers {
            Some(servers) => file::write(&folder.servers(), &servers.to_bytes(), Access::Shared),
            None => file::remove(&folder.servers()).map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use refit_proto::servers::Authority;

    use super::*;
    use crate::link::testing::Authority as TestAuthority;

    fn identity() -> (Identity, TestAuthority) {
        let authority = TestAuthority::new();
        let identity = Identity {
            host: refit_proto::names::HostId::of_public_key(b"host"),
            name: "web-1".parse().unwrap(),
            server: "refit.example.org:7700".into(),
            labels: Default::default(),
            root: refit_proto::names::Digest::of(b"root"),
            authority: authority.certificate.clone(),
            certificates: Vec::new(),
        };
        (identity, authority)
    }

    fn document(addresses: &[&str], authorities: &[&TestAuthority]) -> ServersPolicy {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let authorities =
            authorities.iter().map(|it| Authority::from_der(&it.certificate).unwrap());
        ServersPolicy::new(addresses, Vec::new(), authorities.collect()).unwrap()
    }

    #[test]
    fn the_enrollments_address_comes_last_and_its_authority_only_where_it_is_named() {
        let ((identity, old), new) = (identity(), TestAuthority::new());
        let first = Ways::of(&identity, None);
        assert_eq!(first.addresses, ["refit.example.org:7700"]);
        assert_eq!(first.authorities[..], *std::slice::from_ref(&old.certificate));

        let moved = Ways::of(&identity, Some(&document(&["b:1", "c:1"], &[&new])));
        assert_eq!(moved.addresses, ["b:1", "c:1", "refit.example.org:7700"]);
        assert_eq!(moved.authorities[..], *std::slice::from_ref(&new.certificate));

        let both = document(&["b:1", "refit.example.org:7700", "c:1"], &[&new, &old]);
        let both = Ways::of(&identity, Some(&both));
        assert_eq!(both.addresses, ["b:1", "refit.example.org:7700", "c:1"]);
        assert_eq!(both.authorities.len(), 2);
    }

    #[test]
    fn what_was_trusted_last_is_kept_and_a_damaged_file_is_no_reason_to_stop() {
        let dir = tempfile::tempdir().unwrap();
        let folder = IdentityFolder::at(dir.path());
        assert_eq!(Ways::load(&folder).unwrap(), None);
        let written = document(&["b:1"], &[&TestAuthority::new()]);
        Ways::save(&folder, Some(&written)).unwrap();
        assert_eq!(Ways::load(&folder).unwrap(), Some(written.clone()));
        let whole = Arc::new(std::fs::read(folder.servers()).unwrap());
        for length in 0..whole.len() {
            std::fs::write(folder.servers(), &whole[..length]).unwrap();
            assert_eq!(Ways::load(&folder).unwrap(), None, "cut at {length}");
        }
        Ways::save(&folder, Some(&written)).unwrap();
        Ways::save(&folder, None).unwrap();
        assert_eq!(Ways::load(&folder).unwrap(), None);
    }
}
