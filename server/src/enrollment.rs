//! Who may come in by which token, and as what. Pure: records, keys and the time come in, the records
//! to store come out. Certificates are made in `ca.rs`, calls are answered in `api/enrollment.rs`.

use jiff::Timestamp;
use refit_proto::names::{Digest, HostId, HostName, Labels, PersonName, Platform};

use crate::{
    fleet::{
        Certificate, Host, HostState, Person, Readmission, ReportKey, TokenRecord, TokenSubject,
    },
    identity::{Certified, PersonKind, Role},
};

/// Why somebody does not come in. The texts are for the caller; none tells more than a caller without
/// the token's secret should know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnrollmentError {
    /// No such token, or another secret.
    #[error(
        "the token is not known to this server\nhelp: have an administrator make a new one with `refit token create`"
    )]
    UnknownToken,
    /// It was for a limited time.
    #[error(
        "the token expired at {0}\nhelp: have an administrator make a new one with `refit token create`"
    )]
    Expired(Timestamp),
    /// Others have used it.
    #[error(
        "the token is used up\nhelp: have an administrator make a new one with `refit token create`"
    )]
    UsedUp,
    /// A person's token shown by a host, or the other way round.
    #[error(
        "the token is not for {0}\nhelp: hosts use `refit-agent enroll`, people and CI jobs `refit login`"
    )]
    OtherSubject(&'static str),
    /// Another host has the name.
    #[error(
        "the name {name} belongs to another host, {holder}\nhelp: enroll under another name, or retire that host first with `refit host retire {name}`"
    )]
    NameTaken {
        /// The name asked for.
        name: HostName,
        /// Who has it.
        holder: HostId,
    },
    /// The host was thrown out, or left.
    #[error("host {name} is {}\nhelp: to bring the machine back, remove the agent's key on it and enroll it as a new host", .state.word())]
    Barred {
        /// The host.
        name: HostName,
        /// Revoked or retired.
        state: HostState,
    },
    /// A person of this name is something else.
    #[error("{name} is a {} already\nhelp: use another name", .kind.as_str())]
    OtherKind {
        /// The name.
        name: PersonName,
        /// What it is.
        kind: PersonKind,
    },
    /// A renewal with another key.
    #[error(
        "the certificate request has another key than the certificate\nhelp: enroll again for a new key"
    )]
    OtherKey,
    /// A host that is readmitted with a key that is not the one of its id.
    #[error(
        "the certificate names host {named}, and its key is that of host {key}\nhelp: it was not made by this fleet's server; have an administrator look into it"
    )]
    OtherId {
        /// In the certificate.
        named: HostId,
        /// Of its key.
        key: HostId,
    },
    /// A host that has to be readmitted and is too old to know of it.
    #[error(
        "this host is not known here, and does not say what it is called\nhelp: update its agent, or enroll it again"
    )]
    SaysNothing,
}

/// A token with the use it was shown for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// To be stored. Unchanged if the same key came in by it before.
    pub token: TokenRecord,
    /// Whether it differs from what is stored.
    pub changed: bool,
}

/// Checks a token. A key that came in by it before may do so again, also when the token is used up or
/// has expired meanwhile: its first answer may have been lost.
///
/// # Errors
/// Why not.
pub fn admit(
    token: Option<TokenRecord>,
    secret: &[u8],
    key: Digest,
    now: Timestamp,
) -> Result<Admission, EnrollmentError> {
    let mut token = token
        .filter(|token| same(&token.secret_sha256, &Digest::of(secret)))
        .ok_or(EnrollmentError::UnknownToken)?;
    if token.used_by.contains(&key) {
        return Ok(Admission { token, changed: false });
    }
    if now >= token.expires {
        return Err(EnrollmentError::Expired(token.expires));
    }
    token.uses_left = token.uses_left.checked_sub(1).ok_or(EnrollmentError::UsedUp)?;
    token.used_by.push(key);
    Ok(Admission { token, changed: true })
}

/// In the same time wherever the first difference is.
fn same(left: &Digest, right: &Digest) -> bool {
    let pairs = left.as_bytes().iter().zip(right.as_bytes());
    pairs.fold(0, |difference, (left, right)| difference | (left ^ right)) == 0
}

/// What a host says about itself when it comes in.
#[derive(Debug, Clone)]
pub struct HostRequest {
    /// From its certificate request's key.
    pub id: HostId,
    /// What people are to call it.
    pub name: HostName,
    /// What it runs on.
    pub platform: Platform,
    /// What it signs its reports with.
    pub report_key: ReportKey,
}

/// What a host's token says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostTerms {
    /// Its labels.
    pub labels: Labels,
    /// The first root it may accept.
    pub root_sha256: Digest,
}

/// A host's terms, if the token is for hosts.
///
/// # Errors
/// If it is not.
pub fn host_terms(token: &TokenRecord) -> Result<HostTerms, EnrollmentError> {
    match &token.subject {
        TokenSubject::Host { labels, root_sha256 } => {
            Ok(HostTerms { labels: labels.clone(), root_sha256: *root_sha256 })
        }
        TokenSubject::Person { .. } => Err(EnrollmentError::OtherSubject("hosts")),
    }
}

/// The host's record after it came in. `by` is the token, or what else let it in; `before` is the record under its id, `holder` the one under the
/// name that it asks for.
///
/// # Errors
/// If it is barred, or the name is another's.
pub fn enroll_host(
    request: HostRequest,
    by: &str,
    labels: Labels,
    before: Option<&Host>,
    holder: Option<&Host>,
    certificate: Certificate,
    now: Timestamp,
) -> Result<Host, EnrollmentError> {
    let HostRequest { id, name, platform, report_key } = request;
    if let Some(host) = before.filter(|host| host.state != HostState::Active) {
        return Err(EnrollmentError::Barred { name: host.name.clone(), state: host.state });
    }
    // A machine that was set up anew takes its name over from the one that was retired.
    let taken = holder.filter(|holder| holder.id != id && holder.state != HostState::Retired);
    if let Some(holder) = taken {
        return Err(EnrollmentError::NameTaken { name, holder: holder.id.clone() });
    }
    // A new report key begins a new chain of reports: the host has lost the old one.
    let chain = before.filter(|host| host.report_key == report_key);
    Ok(Host {
        id,
        name,
        labels,
        state: HostState::Active,
        platform,
        agent_version: before.map(|host| host.agent_version.clone()).unwrap_or_default(),
        free_bytes: before.map_or(0, |host| host.free_bytes),
        time_zone: before.map(|host| host.time_zone.clone()).unwrap_or_default(),
        certificate,
        report_key,
        report_counter: chain.map_or(0, |host| host.report_counter),
        report_hash: chain.and_then(|host| host.report_hash),
        token_id: by.to_owned(),
        enrolled_at: before.map_or(now, |host| host.enrolled_at),
        last_seen: now,
        timestamp_version: before.map_or(0, |host| host.timestamp_version),
        metadata_expired: before.is_some_and(|host| host.metadata_expired),
        server: before.map(|host| host.server.clone()).unwrap_or_default(),
        metadata_failure: before.and_then(|host| host.metadata_failure.clone()),
        audit_held: before.and_then(|host| host.audit_held),
        audit_failure: before.and_then(|host| host.audit_failure.clone()),
        holds: before.map(|host| host.holds.clone()).unwrap_or_default(),
        backups: before.map(|host| host.backups.clone()).unwrap_or_default(),
        verify: before.map(|host| host.verify.clone()).unwrap_or_default(),
    })
}

/// Whether a host that has no record may come back: its own was lost with the server's disk, and an
/// administrator has opened the way for certificates of that authority. The id is made from the key, so
/// that whoever has that authority's key can't come in as a host that was there.
///
/// # Errors
/// If the way is not open for it, or its id is another key's.
pub fn may_return<'a>(
    certified: &Certified,
    id: &HostId,
    key: &HostId,
    readmission: Option<&'a Readmission>,
    now: Timestamp,
) -> Result<Option<&'a Readmission>, EnrollmentError> {
    let open = readmission.filter(|it| it.is_open(now) && it.authority_name == certified.authority);
    if open.is_some() && id != key {
        return Err(EnrollmentError::OtherId { named: id.clone(), key: key.clone() });
    }
    Ok(open)
}

/// What a person's token says about them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersonTerms {
    /// As the audit log will name them.
    pub name: PersonName,
    /// A human being or a machine.
    pub kind: PersonKind,
    /// What they may do.
    pub roles: Vec<Role>,
}

/// A person's terms, if the token is for one.
///
/// # Errors
/// If it is not.
pub fn person_terms(token: &TokenRecord) -> Result<PersonTerms, EnrollmentError> {
    match &token.subject {
        TokenSubject::Person { name, kind, roles } => {
            Ok(PersonTerms { name: name.clone(), kind: *kind, roles: roles.clone() })
        }
        TokenSubject::Host { .. } => Err(EnrollmentError::OtherSubject("people and CI jobs")),
    }
}

/// The person's record after the login. Somebody known gets the roles of the new token, and the old
/// key stops working: an administrator made the token for just this name.
///
/// # Errors
/// If the name is that of something else.
pub fn log_in(
    terms: PersonTerms,
    token: &TokenRecord,
    before: Option<&Person>,
    certificate: Certificate,
    now: Timestamp,
) -> Result<Person, EnrollmentError> {
    let PersonTerms { name, kind, roles } = terms;
    if let Some(person) = before.filter(|person| person.kind != kind) {
        return Err(EnrollmentError::OtherKind { name, kind: person.kind });
    }
    Ok(Person {
        name,
        kind,
        roles,
        certificate,
        token_id: token.id.clone(),
        added_at: before.map_or(now, |person| person.added_at),
        revoked_at: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: i8) -> Timestamp {
        format!("2026-11-22T{hour:02}:00:00Z").parse().unwrap()
    }

    fn key(n: u8) -> Digest {
        Digest::of(&[n])
    }

    fn token(uses: u32) -> TokenRecord {
        TokenRecord {
            id: "t1".into(),
            secret_sha256: Digest::of(b"secret"),
            subject: TokenSubject::Host { labels: Labels::new(), root_sha256: key(9) },
            uses_left: uses,
            used_by: Vec::new(),
            expires: at(12),
            created_by: "person alice".into(),
            created_at: at(0),
        }
    }

    fn enroll(
        n: u8,
        name: &str,
        before: Option<&Host>,
        holder: Option<&Host>,
    ) -> Result<Host, EnrollmentError> {
        let request = HostRequest {
            id: HostId::of_public_key(&[n]),
            name: name.parse().unwrap(),
            platform: "linux-x86_64".parse().unwrap(),
            report_key: ReportKey::from_bytes(&[n; 32]).unwrap(),
        };
        let certificate = Certificate {
            serial: "01".into(),
            not_after: at(23),
            public_key: key(n),
            authority: None,
        };
        let token = token(1);
        enroll_host(
            request,
            &token.id,
            host_terms(&token)?.labels,
            before,
            holder,
            certificate,
            at(1),
        )
    }

    #[test]
    fn a_token_admits_as_many_keys_as_it_has_uses() {
        let first = admit(Some(token(2)), b"secret", key(1), at(1)).unwrap();
        let second = admit(Some(first.token), b"secret", key(2), at(1)).unwrap();
        assert_eq!(
            admit(Some(second.token), b"secret", key(3), at(1)),
            Err(EnrollmentError::UsedUp)
        );
    }

    #[test]
    fn a_key_whose_answer_was_lost_comes_in_again_without_a_further_use() {
        let first = admit(Some(token(1)), b"secret", key(1), at(1)).unwrap();
        assert!(first.changed);
        for hour in [2, 13] {
            let again = admit(Some(first.token.clone()), b"secret", key(1), at(hour)).unwrap();
            assert_eq!((again.token, again.changed), (first.token.clone(), false));
        }
    }

    #[test]
    fn a_wrong_secret_an_unknown_token_and_an_expired_one_are_refused() {
        let unknown = Err(EnrollmentError::UnknownToken);
        assert_eq!(admit(None, b"secret", key(1), at(1)), unknown);
        for secret in [&b""[..], b"secreT", b"secret "] {
            assert_eq!(admit(Some(token(1)), secret, key(1), at(1)), unknown);
        }
        assert_eq!(
            admit(Some(token(1)), b"secret", key(1), at(12)),
            Err(EnrollmentError::Expired(at(12)))
        );
        // A wrong secret learns nothing about the token, not even that a key has used it.
        let used = admit(Some(token(1)), b"secret", key(1), at(1)).unwrap().token;
        assert_eq!(admit(Some(used), b"wrong", key(1), at(13)), unknown);
    }

    #[test]
    fn a_name_is_one_hosts_until_that_host_is_retired() {
        let mut first = enroll(1, "web-1", None, None).unwrap();
        assert!(matches!(
            enroll(2, "web-1", None, Some(&first)),
            Err(EnrollmentError::NameTaken { .. })
        ));
        assert!(enroll(1, "web-1", Some(&first), Some(&first)).is_ok());
        first.state = HostState::Revoked;
        assert!(matches!(
            enroll(2, "web-1", None, Some(&first)),
            Err(EnrollmentError::NameTaken { .. })
        ));
        first.state = HostState::Retired;
        assert!(enroll(2, "web-1", None, Some(&first)).is_ok());
    }

    #[test]
    fn a_revoked_or_retired_host_does_not_come_back_with_its_key() {
        let mut host = enroll(1, "web-1", None, None).unwrap();
        for state in [HostState::Revoked, HostState::Retired] {
            host.state = state;
            assert!(matches!(
                enroll(1, "web-2", Some(&host), None),
                Err(EnrollmentError::Barred { .. })
            ));
        }
    }

    #[test]
    fn a_host_with_a_new_report_key_begins_a_new_chain() {
        let mut host = enroll(1, "web-1", None, None).unwrap();
        (host.report_counter, host.report_hash) = (7, Some(key(7)));
        let same = enroll(1, "web-1", Some(&host), Some(&host)).unwrap();
        assert_eq!((same.report_counter, same.report_hash), (7, Some(key(7))));
        host.report_key = ReportKey::from_bytes(&[99; 32]).unwrap();
        let fresh = enroll(1, "web-1", Some(&host), Some(&host)).unwrap();
        assert_eq!((fresh.report_counter, fresh.report_hash), (0, None));
    }

    #[test]
    fn a_token_for_people_brings_in_no_host_and_the_other_way_round() {
        let mut token = token(1);
        assert!(person_terms(&token).is_err());
        token.subject = TokenSubject::Person {
            name: "alice".parse().unwrap(),
            kind: PersonKind::Person,
            roles: vec![Role::Operator],
        };
        assert!(host_terms(&token).is_err());
    }

    /// CVE-2026-33552, CVE-2024-37019.
    #[test]
    fn a_name_of_a_person_never_becomes_a_ci_jobs() {
        let mut token = token(1);
        let subject = |kind| TokenSubject::Person {
            name: "alice".parse().unwrap(),
            kind,
            roles: vec![Role::Viewer],
        };
        token.subject = subject(PersonKind::Person);
        let certificate = Certificate {
            serial: "01".into(),
            not_after: at(23),
            public_key: key(1),
            authority: None,
        };
        let terms = person_terms(&token).unwrap();
        let alice = log_in(terms, &token, None, certificate.clone(), at(1)).unwrap();
        token.subject = subject(PersonKind::Ci);
        let terms = person_terms(&token).unwrap();
        assert!(matches!(
            log_in(terms, &token, Some(&alice), certificate, at(1)),
            Err(EnrollmentError::OtherKind { .. })
        ));
    }
}
