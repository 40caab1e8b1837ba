//! Where a fleet's servers are and by which certificate authorities they prove themselves,
//! `policy/servers.json`. Signed by the policy role, so that a server can move and its authority can be
//! replaced without touching a host.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    names::Digest,
    package::{DocumentError, FORMAT, parse_document},
};

/// The document's name under the policy role.
pub const SERVERS: &str = "servers.json";

/// Servers, mirrors and authorities, each in order of preference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServersPolicy {
    /// Always `servers`.
    #[serde(rename = "_type")]
    kind: String,
    format: u32,
    /// Features that a reader must know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// Tried in this order; the address of the enrollment comes last, also where it is not named.
    pub servers: Vec<Address>,
    /// Copies of the server's content folder: what comes from there proves itself by its digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Mirror>,
    /// One, or two while the first replaces the second. No server of another authority is talked to.
    pub authorities: Vec<Authority>,
}

impl ServersPolicy {
    /// Largest document that anyone reads, bytes.
    pub const MAX_LENGTH: u64 = 64_000;
    /// Most servers, and most mirrors.
    pub const MOST: usize = 16;
    /// Most authorities: the one that issues, and the one that it replaces.
    pub const MOST_AUTHORITIES: usize = 2;

    /// A document, checked.
    ///
    /// # Errors
    /// An empty list, one that is too long, or one that names something twice.
    pub fn new(
        servers: Vec<Address>,
        mirrors: Vec<Mirror>,
        authorities: Vec<Authority>,
    ) -> Result<Self, DocumentError> {
        let document = ServersPolicy {
            kind: "servers".into(),
            format: FORMAT,
            required: Vec::new(),
            servers,
            mirrors,
            authorities,
        };
        document.check()?;
        Ok(document)
    }

    /// Reads a document whose digest and length have been checked against the policy role.
    ///
    /// # Errors
    /// Anything that this program cannot follow to the letter.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let document: ServersPolicy = parse_document("servers", bytes)?;
        document.check()?;
        Ok(document)
    }

    /// The bytes, which the policy role pins.
    pub fn to_bytes(&self) -> Vec<u8> {
        // No map and no fallible value: this cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn check(&self) -> Result<(), DocumentError> {
        list("servers", &self.servers, 1, Self::MOST)?;
        list("mirrors", &self.mirrors, 0, Self::MOST)?;
        list("authorities", &self.authorities, 1, Self::MOST_AUTHORITIES)
    }
}

fn list<T: PartialEq>(
    name: &str,
    items: &[T],
    least: usize,
    most: usize,
) -> Result<(), DocumentError> {
    let invalid = |problem| Err(DocumentError::Invalid { document: "servers", problem });
    if items.len() < least || items.len() > most {
        return invalid(format!("{name} has {} entries, not {least} to {most}", items.len()));
    }
    match items.iter().enumerate().find(|(at, item)| items[..*at].contains(item)) {
        Some((at, _)) => invalid(format!("entry {} of {name} stands there twice", at + 1)),
        None => Ok(()),
    }
}

/// A text that is no address, no mirror or no authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {wanted}\nhelp: {help}")]
pub struct ServersError {
    text: String,
    wanted: &'static str,
    help: &'static str,
}

/// Where a server is: `name:port`, the name a DNS name or an IP address (version 6 in brackets).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(String);

impl Address {
    /// As connections take it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Address {
    type Err = ServersError;

    fn from_str(text: &str) -> Result<Address, ServersError> {
        host_and_port(text).map(|_| Address(text.to_owned())).ok_or_else(|| ServersError {
            text: text.chars().take(80).collect(),
            wanted: "the address of a server",
            help: "write it as name:port, for example refit.example.org:7700",
        })
    }
}

/// The name, without brackets, and the port.
fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|bare| bare.contains(':'))?,
        None if host.contains(':') => return None,
        None => host,
    };
    ServerName::try_from(bare).ok()?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port != 0)?;
    Some((bare, port))
}

/// A copy of the server's content folder behind a plain web server: `http://name:port/path`, without a
/// slash at its end. Plain, since what comes from there proves itself, and a host then needs no second
/// set of authorities.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mirror(String);

impl Mirror {
    /// As people wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name and port to connect to.
    pub fn host_and_port(&self) -> (&str, u16) {
        let authority = self.authority();
        // Parsed before: without a port it is that of the web.
        host_and_port(authority).unwrap_or((authority.trim_matches(['[', ']']), 80))
    }

    /// The name and port as a request's `Host` has them.
    pub fn authority(&self) -> &str {
        let rest = self.0.strip_prefix(SCHEME).unwrap_or(&self.0);
        rest.split_once('/').map_or(rest, |(authority, _)| authority)
    }

    /// What a request for the content of this digest names.
    pub fn path_of(&self, digest: &Digest) -> String {
        let rest = self.0.strip_prefix(SCHEME).unwrap_or(&self.0);
        let folder = rest.split_once('/').map_or("", |(_, path)| path);
        let separator = if folder.is_empty() { "" } else { "/" };
        let digest = digest.to_string();
        format!("/{folder}{separator}{}/{digest}", &digest[..2])
    }
}

const SCHEME: &str = "http://";

impl FromStr for Mirror {
    type Err = ServersError;

    fn from_str(text: &str) -> Result<Mirror, ServersError> {
        is_mirror(text).map(|()| Mirror(text.to_owned())).ok_or_else(|| ServersError {
            text: text.chars().take(80).collect(),
            wanted: "the address of a mirror",
            help: "write it as http://name:port/path, without a slash at its end; content proves \
                   itself, so a mirror needs no certificate",
        })
    }
}

fn is_mirror(text: &str) -> Option<()> {
    let rest = text.strip_prefix(SCHEME).filter(|_| text.len() <= 255)?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, "x"));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let segment = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(plain);
    let with_port = host_and_port(authority).is_some();
    let without = !authority.contains(':') && ServerName::try_from(authority).is_ok();
    ((with_port || without) && path.split('/').all(segment)).then_some(())
}

/// The certificate of an authority, by which servers prove themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority(CertificateDer<'static>);

impl Authority {
    /// Longest certificate, bytes.
    const LONGEST: usize = 8192;

    /// From DER.
    ///
    /// # Errors
    /// If it is no certificate that can stand at the head of a chain.
    pub fn from_der(der: &[u8]) -> Result<Authority, ServersError> {
        let certificate = CertificateDer::from(der.to_vec());
        let usable =
            der.len() <= Self::LONGEST && RootCertStore::empty().add(certificate.clone()).is_ok();
        match usable {
            true => Ok(Authority(certificate)),
            false => Err(ServersError {
                text: STANDARD.encode(&der[..der.len().min(24)]),
                wanted: "the certificate of an authority",
                help: "take the one that `refit-server ca show` prints",
            }),
        }
    }

    /// DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.0
    }

    /// What people compare.
    pub fn sha256(&self) -> Digest {
        Digest::of(&self.0)
    }
}

macro_rules! as_text {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, writer: S) -> Result<S::Ok, S::Error> {
                writer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
                String::deserialize(reader)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

as_text!(Address);
as_text!(Mirror);

impl Serialize for Authority {
    fn serialize<S: Serializer>(&self, writer: S) -> Result<S::Ok, S::Error> {
        writer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Authority {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        let text = String::deserialize(reader)?;
        let der = STANDARD.decode(text).map_err(D::Error::custom)?;
        Authority::from_der(&der).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(name: &str) -> Authority {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Authority::from_der(parameters.self_signed(&key).unwrap().der()).unwrap()
    }

    fn servers(addresses: &[&str]) -> Vec<Address> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn a_document_reads_back_as_it_was_written() {
        let written = ServersPolicy::new(
            servers(&["refit-2.example.org:7700", "192.0.2.7:443", "[2001:db8::1]:7700"]),
            vec!["http://mirror.example.org/refit/content".parse().unwrap()],
            vec![authority("new"), authority("old")],
        )
        .unwrap();
        assert_eq!(ServersPolicy::parse(&written.to_bytes()).unwrap(), written);
    }

    #[test]
    fn nothing_empty_doubled_or_endless_is_taken() {
        let (one, ca) = (servers(&["a:1"]), authority("a"));
        let new = |addresses, authorities| ServersPolicy::new(addresses, Vec::new(), authorities);
        assert!(new(one.clone(), vec![ca.clone()]).is_ok());
        assert!(new(Vec::new(), vec![ca.clone()]).is_err());
        assert!(new(one.clone(), Vec::new()).is_err());
        assert!(new(servers(&["a:1", "a:1"]), vec![ca.clone()]).is_err());
        assert!(new(one.clone(), vec![ca.clone(), ca.clone()]).is_err());
        let three = vec![ca.clone(), authority("b"), authority("c")];
        assert!(new(one, three).is_err());
        let many: Vec<Address> =
            (1..=17).map(|port| format!("a:{port}").parse().unwrap()).collect();
        assert!(new(many, vec![ca]).is_err());
    }

    #[test]
    fn an_address_is_a_name_and_a_port_and_nothing_else() {
        for bad in [
            "",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:65536",
            "a:+1",
            "a: 1",
            "a b:1",
            "http://a:1",
            "a:1/",
            "a@b:1",
            "2001:db8::1:7700",
            "[a]:1",
            "[2001:db8::1]",
            "a:1\n",
            "..:1",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_mirror_is_a_plain_folder_on_the_web() {
        let digest = Digest::of(b"x");
        let hex = digest.to_string();
        for (text, host, port, path) in [
            ("http://m.example.org", "m.example.org", 80, format!("/{}/{hex}", &hex[..2])),
            ("http://127.0.0.1:8080/a/b", "127.0.0.1", 8080, format!("/a/b/{}/{hex}", &hex[..2])),
        ] {
            let mirror: Mirror = text.parse().unwrap();
            assert_eq!(mirror.host_and_port(), (host, port));
            assert_eq!(mirror.path_of(&digest), path);
        }
        for bad in [
            "https://m",
            "m",
            "http://",
            "http://m/",
            "http://m//a",
            "http://m/../a",
            "http://m/a?b",
            "http://m/a b",
            "http://u@m/a",
            "http://m:0/a",
            "http://m/a\r\nX: y",
            "http://m/%2e%2e",
        ] {
            assert!(bad.parse::<Mirror>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_no_authority() {
        assert!(Authority::from_der(b"").is_err());
        assert!(Authority::from_der(&vec![0x30; 10_000]).is_err());
        let mut der = authority("a").der().to_vec();
        der.truncate(der.len() / 2);
        assert!(Authority::from_der(&der).is_err());
    }
}
