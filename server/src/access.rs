//! Whether a caller may make a call: what the certificate says, held against what is stored. The
//! certificate proves who it is; the record decides, so that revoking takes effect at once. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use refit_proto::names::{HostId, HostName, PersonName};

use crate::{
    fleet::{Host, HostState, Person},
    identity::{Caller, Certified, Peer, PersonKind, Role},
};

/// Why a call is refused before anybody looks at what it asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The connection has no certificate.
    #[error(
        "this call needs a certificate\nhelp: hosts get one with `refit-agent enroll`, people and CI jobs with `refit login`"
    )]
    NoCertificate,
    /// It may still renew.
    #[error(
        "the certificate of {who} expired at {at}\nhelp: renew it; until then nothing else is answered"
    )]
    Expired {
        /// Whose.
        who: String,
        /// When.
        at: Timestamp,
    },
    /// It may still renew.
    #[error(
        "the certificate of {0} is from an authority that was retired\nhelp: renew it; until then nothing else is answered"
    )]
    RetiredAuthority(String),
    /// Certified, but not in the store: the store was restored from before its enrollment.
    #[error("{0} is not known to this server\nhelp: enroll or log in again")]
    Unknown(String),
    /// Thrown out, or gone.
    #[error("host {name} ({id}) is {}\nhelp: an administrator decides about its return", .state.word())]
    Barred {
        /// The host.
        id: HostId,
        /// What people call it.
        name: HostName,
        /// Revoked or retired.
        state: HostState,
    },
    /// A person who was thrown out.
    #[error("{} was revoked at {at}\nhelp: an administrator decides about the return", .name)]
    Revoked {
        /// Who.
        name: PersonName,
        /// When.
        at: Timestamp,
    },
    /// Somebody logged in under this name later, with another key.
    #[error(
        "the certificate of {0} was replaced by one with another key\nhelp: use the newest one, or log in again"
    )]
    Replaced(String),
    /// Hosts report; they don't administer.
    #[error("{0} may not make this call\nhelp: it is for people and CI jobs")]
    NotForHosts(String),
    /// The other way round.
    #[error("{0} may not make this call\nhelp: it is for hosts")]
    NotForPeople(String),
    /// The right person, the wrong rights.
    #[error("{who} lacks the role {}\nhelp: an administrator gives roles with a new token: `refit token create`", roles(.needed))]
    Role {
        /// Who.
        who: String,
        /// Any of these would do.
        needed: &'static [Role],
    },
}

fn roles(needed: &[Role]) -> String {
    needed.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" or ")
}

/// A person or CI job that was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// As the audit log names them.
    pub name: PersonName,
    /// A human being or a machine.
    pub kind: PersonKind,
    /// What both the certificate and the record allow.
    pub roles: BTreeSet<Role>,
}

impl Member {
    /// Refuses whoever has none of these roles.
    ///
    /// # Errors
    /// [`Refusal::Role`].
    pub fn needs(&self, needed: &'static [Role]) -> Result<(), Refusal> {
        if needed.iter().any(|role| self.roles.contains(role)) {
            return Ok(());
        }
        Err(Refusal::Role { who: self.to_string(), needed })
    }
}

/// The audit name.
impl std::fmt::Display for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

/// Reading is for every role: the viewer is the one that has nothing else.
pub const ANY_ROLE: &[Role] = &Role::ALL;

/// The certificate of a connection, if it is still good.
///
/// # Errors
/// If there is none, or it has expired.
pub fn certified(peer: &Peer, now: Timestamp) -> Result<&Certified, Refusal> {
    let certified = peer.certified.as_ref().ok_or(Refusal::NoCertificate)?;
    if now > certified.not_after {
        return Err(Refusal::Expired {
            who: certified.caller.to_string(),
            at: certified.not_after,
        });
    }
    if certified.of_retired {
        return Err(Refusal::RetiredAuthority(certified.caller.to_string()));
    }
    Ok(certified)
}

/// The host's id, if the certificate is a host's.
///
/// # Errors
/// If it is a person's.
pub fn as_host(certified: &Certified) -> Result<&HostId, Refusal> {
    match &certified.caller {
        Caller::Host(id) => Ok(id),
        Caller::Person { .. } => Err(Refusal::NotForPeople(certified.caller.to_string())),
        Caller::Nobody => Err(Refusal::NoCertificate),
    }
}

/// The person's name, if the certificate is a person's or CI job's.
///
/// # Errors
/// If it is a host's.
pub fn as_person(certified: &Certified) -> Result<&PersonName, Refusal> {
    match &certified.caller {
        Caller::Person { name, .. } => Ok(name),
        Caller::Host(_) => Err(Refusal::NotForHosts(certified.caller.to_string())),
        Caller::Nobody => Err(Refusal::NoCertificate),
    }
}

/// Lets a host in by its record.
///
/// # Errors
/// If it is unknown, revoked or retired.
pub fn let_host_in(certified: &Certified, record: Option<&Host>) -> Result<(), Refusal> {
    let unknown = || Refusal::Unknown(certified.caller.to_string());
    let host = record.ok_or_else(unknown)?;
    match host.state {
        // The authority vouches for the id, the record for the key: a certificate that was forged with a
        // stolen authority has another.
        HostState::Active | HostState::Shared if host.certificate.public_key == certified.key => {
            Ok(())
        }
        HostState::Active | HostState::Shared => {
            Err(Refusal::Replaced(certified.caller.to_string()))
        }
        state @ (HostState::Revoked | HostState::Retired) => {
            Err(Refusal::Barred { id: host.id.clone(), name: host.name.clone(), state })
        }
    }
}

/// Lets a person or CI job in by their record.
///
/// # Errors
/// If they are unknown or revoked, or have another key now.
pub fn let_person_in(certified: &Certified, record: Option<&Person>) -> Result<Member, Refusal> {
    let who = || certified.caller.to_string();
    let person = record.ok_or_else(|| Refusal::Unknown(who()))?;
    if let Some(at) = person.revoked_at {
        return Err(Refusal::Revoked { name: person.name.clone(), at });
    }
    let same_kind =
        matches!(&certified.caller, Caller::Person { kind, .. } if *kind == person.kind);
    if !same_kind || person.certificate.public_key != certified.key {
        return Err(Refusal::Replaced(who()));
    }
    let recorded: BTreeSet<Role> = person.roles.iter().copied().collect();
    let roles = recorded.intersection(&certified.roles).copied().collect();
    Ok(Member { name: person.name.clone(), kind: person.kind, roles })
}

#[cfg(test)]
mod tests {
    use refit_proto::names::Digest;

    use super::*;
    use crate::fleet::Certificate;

    fn at(hour: i8) -> Timestamp {
        format!("2026-11-22T{hour:02}:00:00Z").parse().unwrap()
    }

    fn alice(roles: &[Role]) -> Person {
        Person {
            name: "alice".parse().unwrap(),
            kind: PersonKind::Person,
            roles: roles.to_vec(),
            certificate: Certificate {
                serial: "01".into(),
                not_after: at(12),
                public_key: Digest::of(b"alice"),
                authority: None,
            },
            token_id: "t".into(),
            added_at: at(0),
            revoked_at: None,
        }
    }

    fn certificate(roles: &[Role]) -> Certified {
        Certified {
            caller: Caller::Person { name: "alice".parse().unwrap(), kind: PersonKind::Person },
            roles: roles.iter().copied().collect(),
            key: Digest::of(b"alice"),
            not_after: at(12),
            authority: Digest::of(b"authority"),
            of_retired: false,
        }
    }

    /// CVE-2026-33552, CVE-2024-37019.
    #[test]
    fn a_role_counts_only_where_certificate_and_record_agree() {
        let member = let_person_in(
            &certificate(&[Role::Viewer, Role::Operator]),
            Some(&alice(&[Role::Viewer, Role::Publisher])),
        )
        .unwrap();
        assert_eq!(member.roles, BTreeSet::from([Role::Viewer]));
        assert!(member.needs(&[Role::Operator]).is_err());
        assert!(member.needs(&[Role::Publisher]).is_err());
        assert!(member.needs(ANY_ROLE).is_ok());
        assert!(
            let_person_in(&certificate(&[]), Some(&alice(&[]))).unwrap().needs(ANY_ROLE).is_err()
        );
    }

    /// CVE-2026-33552, CVE-2024-37019.
    #[test]
    fn no_role_includes_another() {
        for held in Role::ALL {
            let member = let_person_in(&certificate(&[held]), Some(&alice(&[held]))).unwrap();
            for (needed, list) in [
                (Role::Administrator, &[Role::Administrator] as &'static [Role]),
                (Role::Approver, &[Role::Approver]),
                (Role::Operator, &[Role::Operator]),
                (Role::Publisher, &[Role::Publisher]),
                (Role::Viewer, &[Role::Viewer]),
            ] {
                assert_eq!(member.needs(list).is_ok(), held == needed, "{held} for {needed}");
            }
        }
    }

    #[test]
    fn a_revoked_a_replaced_and_an_unknown_person_stay_out() {
        let good = certificate(&[Role::Viewer]);
        let mut revoked = alice(&[Role::Viewer]);
        revoked.revoked_at = Some(at(1));
        assert!(matches!(let_person_in(&good, Some(&revoked)), Err(Refusal::Revoked { .. })));
        let mut replaced = alice(&[Role::Viewer]);
        replaced.certificate.public_key = Digest::of(b"new");
        assert!(matches!(let_person_in(&good, Some(&replaced)), Err(Refusal::Replaced(_))));
        assert!(matches!(let_person_in(&good, None), Err(Refusal::Unknown(_))));
    }

    #[test]
    fn an_expired_certificate_lets_nobody_in() {
        let address = "127.0.0.1:1".parse().unwrap();
        let peer = Peer { address, certified: Some(certificate(&[])) };
        assert!(certified(&peer, at(12)).is_ok());
        assert!(matches!(certified(&peer, at(13)), Err(Refusal::Expired { .. })));
        let nobody = Peer { address, certified: None };
        assert!(matches!(certified(&nobody, at(0)), Err(Refusal::NoCertificate)));
    }
}
