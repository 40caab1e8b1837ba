//! Which reports of a host are new. Each is signed by the host's report key, counted without gaps and
//! chained by hash, so that none can be forged, dropped or reordered on the way; one that came before
//! is passed over. What a report means for placements is decided in `rollout`.

use refit_proto::{
    envelope::{self, EnvelopeError},
    names::{Digest, HostId},
    trust::PublicKey,
    wire,
};

use crate::fleet::Host;

/// Reports in one call: what gathers in the outbox of a host that was away comes in several.
pub const MOST: usize = 500;

/// A report that its host has signed, and that follows the one before.
#[derive(Debug, Clone)]
pub struct NewReport {
    /// What it says.
    pub report: wire::Report,
    /// SHA-256 of its payload.
    pub hash: Digest,
}

/// Why reports are refused. None of the call's reports is stored then.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// More than one call may carry.
    #[error(
        "one call carries {0} reports, at most {MOST} are taken\nhelp: send the oldest first, in several calls"
    )]
    TooMany(usize),
    /// Not signed by this host, or not a report.
    #[error("a report is refused: {0}")]
    Envelope(#[from] EnvelopeError),
    /// What was enrolled as the host's report key is none.
    #[error("this host's report key can't be used\nhelp: enroll the host again")]
    Key,
    /// It speaks for another host.
    #[error("a report of this host names host {0:?}\nhelp: a host reports for itself alone")]
    OtherHost(String),
    /// One or more are missing in between.
    #[error("report {found} of host {host} follows on {held}: {} missing\nhelp: send them from {} on; if the host has lost them, enroll it again", .found - .held - 1, .held + 1)]
    Gap {
        /// The host.
        host: HostId,
        /// Newest counter that is stored or came before in this call.
        held: u64,
        /// The counter after it.
        found: u64,
    },
    /// The counter fits, the hash does not: two chains with one key, a copied or restored host.
    #[error(
        "report {counter} of host {host} does not follow on the one that is stored (fork)\nhelp: two machines may share this host's keys, or it was restored from an image; enroll it again"
    )]
    Fork {
        /// The host.
        host: HostId,
        /// Where the chains part.
        counter: u64,
    },
}

/// Those that are new, oldest first.
///
/// # Errors
/// The first one that can't be taken.
pub fn accept(host: &Host, envelopes: &[wire::Envelope]) -> Result<Vec<NewReport>, ReportError> {
    if envelopes.len() > MOST {
        return Err(ReportError::TooMany(envelopes.len()));
    }
    let key = PublicKey::ed25519(host.report_key.as_bytes()).map_err(|_| ReportError::Key)?;
    let (mut counter, mut hash) = (host.report_counter, host.report_hash);
    let mut fresh = Vec::new();
    for envelope in envelopes {
        let report: wire::Report = envelope::open(envelope, &key)?;
        if report.host_id != host.id.as_str() {
            return Err(ReportError::OtherHost(report.host_id.chars().take(40).collect()));
        }
        let found = Digest::of(&envelope.payload);
        let fork = || ReportError::Fork { host: host.id.clone(), counter: report.counter };
        if report.counter == counter && counter != 0 && hash != Some(found) {
            return Err(fork());
        }
        if report.counter <= counter {
            continue;
        }
        if report.counter != counter + 1 {
            let host = host.id.clone();
            return Err(ReportError::Gap { host, held: counter, found: report.counter });
        }
        if report.previous != hash.map_or(Vec::new(), |hash| hash.as_bytes().to_vec()) {
            return Err(fork());
        }
        (counter, hash) = (report.counter, Some(found));
        fresh.push(NewReport { report, hash: found });
    }
    Ok(fresh)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use refit_proto::trust::{LocalKey, Signer as _};

    use super::*;
    use crate::fleet::{Certificate, HostState, ReportKey};

    fn key(seed: u8) -> LocalKey {
        LocalKey::from_seed(&[seed; 32])
    }

    fn host() -> Host {
        let value = key(1).public().to_value()["keyval"]["public"].as_str().unwrap().to_owned();
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        Host {
            id: HostId::of_public_key(b"1"),
            name: "web-1".parse().unwrap(),
            labels: Default::default(),
            state: HostState::Active,
            platform: "any".parse().unwrap(),
            agent_version: String::new(),
            time_zone: String::new(),
            free_bytes: 0,
            certificate: Certificate {
                serial: String::new(),
                not_after: now,
                public_key: Digest::of(b"1"),
                authority: None,
            },
            report_key: ReportKey::from_bytes(Digest::parse(&value).unwrap().as_bytes()).unwrap(),
            report_counter: 0,
            report_hash: None,
            token_id: String::new(),
            enrolled_at: now,
            last_seen: now,
            timestamp_version: 0,
            metadata_expired: false,
            server: String::new(),
            metadata_failure: None,
            audit_held: None,
            audit_failure: None,
            holds: Vec::new(),
            backups: Vec::new(),
            verify: Vec::new(),
        }
    }

    /// The first `count` reports of a host, each following on the one before.
    fn chain(count: u64, signer: &LocalKey, text: &str) -> Vec<wire::Envelope> {
        let mut previous = Vec::new();
        (1..=count)
            .map(|counter| {
                let report = wire::Report {
                    host_id: host().id.to_string(),
                    counter,
                    previous: previous.clone(),
                    at: text.to_owned(),
                    ..Default::default()
                };
                let envelope = envelope::seal(&report, signer).unwrap();
                previous = Digest::of(&envelope.payload).as_bytes().to_vec();
                envelope
            })
            .collect()
    }

    fn after(mut host: Host, reports: &[NewReport]) -> Host {
        if let Some(last) = reports.last() {
            (host.report_counter, host.report_hash) = (last.report.counter, Some(last.hash));
        }
        host
    }

    #[test]
    fn a_chain_is_taken_once_however_it_is_cut_and_repeated() {
        let all = chain(5, &key(1), "");
        for cut in 0..=5 {
            let first = accept(&host(), &all[..cut]).unwrap();
            let host = after(host(), &first);
            // The whole outbox again, since the answer was lost.
            let rest = accept(&host, &all).unwrap();
            assert_eq!(first.len() + rest.len(), 5, "cut at {cut}");
            assert!(accept(&after(host, &rest), &all).unwrap().is_empty());
        }
    }

    #[test]
    fn a_missing_report_is_named_and_nothing_is_taken() {
        let all = chain(4, &key(1), "");
        let gap = accept(&host(), &[all[0].clone(), all[3].clone()]).unwrap_err();
        assert!(matches!(gap, ReportError::Gap { held: 1, found: 4, .. }), "{gap}");
        assert!(gap.to_string().contains("2 missing"), "{gap}");
    }

    #[test]
    fn a_second_chain_of_one_key_is_a_fork() {
        let (one, other) = (chain(3, &key(1), "one"), chain(3, &key(1), "other"));
        let host = after(host(), &accept(&host(), &one[..2]).unwrap());
        assert!(matches!(accept(&host, &other[1..2]), Err(ReportError::Fork { counter: 2, .. })));
        assert!(matches!(accept(&host, &other[2..]), Err(ReportError::Fork { counter: 3, .. })));
        assert_eq!(accept(&host, &one[2..]).unwrap().len(), 1);
    }

    #[test]
    fn what_the_host_did_not_sign_or_says_for_another_is_refused() {
        assert!(matches!(accept(&host(), &chain(1, &key(2), "")), Err(ReportError::Envelope(_))));
        let mut changed = chain(1, &key(1), "");
        changed[0].payload.push(0);
        assert!(matches!(accept(&host(), &changed), Err(ReportError::Envelope(_))));
        let mut other = host();
        other.id = HostId::of_public_key(b"2");
        assert!(matches!(accept(&other, &chain(1, &key(1), "")), Err(ReportError::OtherHost(_))));
        let many = vec![wire::Envelope::default(); MOST + 1];
        assert!(matches!(accept(&host(), &many), Err(ReportError::TooMany(_))));
    }
}
