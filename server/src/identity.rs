//! Who is at the other end of a connection, as its certificate says: a host, a person, a CI job, or
//! nobody. What they may do is decided call by call in `api`; whether they are revoked is told by the
//! store, not by the certificate.

use std::{collections::BTreeSet, fmt, net::SocketAddr, str::FromStr};

use jiff::Timestamp;
use refit_proto::names::{Digest, HostId, PersonName};
use serde::{Deserialize, Serialize};
use x509_parser::{extensions::GeneralName, prelude::FromDer};

/// What a person or CI job may do. The rights to publish, approve, operate and administer are
/// separate: none includes another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Hosts, tokens, people, the signed policy and the offline roles.
    Administrator,
    /// Signs parts of a promotion.
    Approver,
    /// Promotes, pauses, resumes and takes back.
    Operator,
    /// Uploads content and publishes releases.
    Publisher,
    /// Reads status and audit.
    Viewer,
}

impl Role {
    /// Every role, in the order of their names.
    pub const ALL: [Role; 5] =
        [Role::Administrator, Role::Approver, Role::Operator, Role::Publisher, Role::Viewer];

    /// The role as certificates, tokens and people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Administrator => "administrator",
            Role::Approver => "approver",
            Role::Operator => "operator",
            Role::Publisher => "publisher",
            Role::Viewer => "viewer",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<Role, IdentityError> {
        Role::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| IdentityError::UnknownRole(text.chars().take(40).collect()))
    }
}

/// A person, or a CI job that acts in their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PersonKind {
    /// Somebody who can be asked why.
    Person,
    /// A job of a build system.
    Ci,
}

impl PersonKind {
    /// The kind as certificates, tokens and the audit log write it.
    pub fn as_str(self) -> &'static str {
        match self {
            PersonKind::Person => "person",
            PersonKind::Ci => "ci",
        }
    }
}

impl FromStr for PersonKind {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<PersonKind, IdentityError> {
        match text {
            "person" => Ok(PersonKind::Person),
            "ci" => Ok(PersonKind::Ci),
            _ => Err(IdentityError::UnknownKind(text.chars().take(40).collect())),
        }
    }
}

/// Who makes a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// An enrolled host.
    Host(HostId),
    /// A person or CI job.
    Person {
        /// As the audit log names them.
        name: PersonName,
        /// Which of the two.
        kind: PersonKind,
    },
    /// A connection without a certificate.
    Nobody,
}

/// The audit name: `person alice`, `ci build`, `host 3f…`, `nobody`.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caller::Host(id) => write!(f, "host {id}"),
            Caller::Person { name, kind } => write!(f, "{} {name}", kind.as_str()),
            Caller::Nobody => f.write_str("nobody"),
        }
    }
}

/// What the certificate of one connection says. A certificate that names several identities, or
/// something that we never issue, is nobody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    /// The one identity in it.
    pub caller: Caller,
    /// Empty for hosts.
    pub roles: BTreeSet<Role>,
    /// SHA-256 of the DER of its SubjectPublicKeyInfo.
    pub key: Digest,
    /// From then on it may only call Renew.
    pub not_after: Timestamp,
    /// The name of the authority that issued it.
    pub authority: Digest,
    /// That authority is retired: it may only call Renew.
    pub of_retired: bool,
}

/// The other end of one connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// For the log; never for a decision.
    pub address: SocketAddr,
    /// `None` without a certificate.
    pub certified: Option<Certified>,
}

impl Peer {
    /// Who it is, whether or not the certificate has expired.
    pub fn caller(&self) -> Caller {
        self.certified.as_ref().map_or(Caller::Nobody, |certified| certified.caller.clone())
    }
}

/// Why a certificate of ours names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It can't be read.
    #[error("the certificate can't be read")]
    Unreadable,
    /// None, or more than one.
    #[error("the certificate names {0} identities instead of one")]
    NotOneIdentity(usize),
    /// A word that is not ours.
    #[error("the certificate names {0:?}, which is not an identity of this fleet")]
    Foreign(String),
    /// Not one of [`Role::ALL`].
    #[error(
        "{0:?} is not a role\nhelp: roles are administrator, approver, operator, publisher and viewer"
    )]
    UnknownRole(String),
    /// Not one of [`PersonKind`].
    #[error("{0:?} is neither \"person\" nor \"ci\"")]
    UnknownKind(String),
}

/// The URIs that a certificate carries for this identity.
pub fn uris(caller: &Caller, roles: &BTreeSet<Role>) -> Vec<String> {
    let identity = match caller {
        Caller::Host(id) => Some(format!("refit://host/{id}")),
        Caller::Person { name, kind } => Some(format!("refit://{}/{name}", kind.as_str())),
        Caller::Nobody => None,
    };
    identity.into_iter().chain(roles.iter().map(|role| format!("refit://role/{}", role))).collect()
}

/// Reads the identity out of a certificate that the handshake has verified.
///
/// # Errors
/// If it is not exactly one of ours.
pub fn read(certificate: &[u8]) -> Result<Certified, IdentityError> {
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(certificate)
        .map_err(|_| IdentityError::Unreadable)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| IdentityError::Unreadable)?
        .map_or(&[][..], |extension| &extension.value.general_names);
    let mut callers = Vec::new();
    let mut roles = BTreeSet::new();
    for name in names {
        let GeneralName::URI(uri) = name else { continue };
        match parse_uri(uri)? {
            Word::Identity(caller) => callers.push(caller),
            Word::Role(role) => {
                roles.insert(role);
            }
        }
    }
    let count = callers.len();
    let Ok([caller]) = <[Caller; 1]>::try_from(callers) else {
        return Err(IdentityError::NotOneIdentity(count));
    };
    let not_after = Timestamp::from_second(certificate.validity().not_after.timestamp())
        .map_err(|_| IdentityError::Unreadable)?;
    let key = Digest::of(certificate.public_key().raw);
    let authority = Digest::of(certificate.issuer().as_raw());
    Ok(Certified { caller, roles, key, not_after, authority, of_retired: false })
}

enum Word {
    Identity(Caller),
    Role(Role),
}

fn parse_uri(uri: &str) -> Result<Word, IdentityError> {
    let foreign = || IdentityError::Foreign(uri.chars().take(80).collect());
    let (kind, name) =
        uri.strip_prefix("refit://").and_then(|rest| rest.split_once('/')).ok_or_else(foreign)?;
    if kind == "role" {
        return name.parse().map(Word::Role).map_err(|_| foreign());
    }
    let caller = match kind {
        "host" => Caller::Host(HostId::parse(name).map_err(|_| foreign())?),
        _ => Caller::Person {
            kind: kind.parse().map_err(|_| foreign())?,
            name: PersonName::parse(name).map_err(|_| foreign())?,
        },
    };
    Ok(Word::Identity(caller))
}
