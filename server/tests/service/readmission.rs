//! A server without a record of its hosts, since its own was lost with its disk: who comes back, and who
//! does not.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use refit_proto::wire;
use refit_server::{
    authorities::accept_former,
    ca::{Authority, AuthorityFiles, RequestedKey},
    identity,
};
use tonic::{Code, Status};

use crate::fleet::{Caller, Fleet};

/// The lost server's authority, of which somebody has the key.
struct Lost {
    files: AuthorityFiles,
    authority: Authority,
}

impl Lost {
    fn new(fleet: &Fleet) -> Lost {
        let files = Authority::generate(fleet.now()).unwrap();
        let authority = Authority::load(&files).unwrap();
        Lost { files, authority }
    }

    fn sha256(&self) -> Vec<u8> {
        refit_proto::names::Digest::of(self.authority.certificate()).as_bytes().to_vec()
    }

    /// A caller with a certificate for this host.
    fn certify(&self, fleet: &Fleet, caller: Caller, whose: refit_proto::names::HostId) -> Caller {
        let key = RequestedKey::parse(&caller.request()).unwrap();
        let (whose, life) = (identity::Caller::Host(whose), SignedDuration::from_hours(24));
        let issued =
            self.authority.issue(&key, &whose, &BTreeSet::new(), fleet.now(), life).unwrap();
        caller.with_chain(issued.chain)
    }

    fn host(&self, fleet: &Fleet) -> Caller {
        let caller = Caller::new();
        let id = caller.id();
        self.certify(fleet, caller, id)
    }
}

/// A server that knows the lost authority, and its administrator.
async fn fleet() -> (Fleet, Caller, Lost) {
    let mut fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let lost = Lost::new(&fleet);
    accept_former(&fleet.data().join("keys"), lost.files.certificate.as_bytes()).unwrap();
    fleet.restart().await;
    (fleet, alice, lost)
}

async fn open(fleet: &Fleet, by: &Caller, authority: Vec<u8>, seconds: u64) -> Result<(), Status> {
    let request = wire::OpenReadmissionRequest {
        authority_sha256: authority,
        seconds,
        reason: "the disk".to_owned(),
    };
    fleet.admin(by).open_readmission(request).await.map(drop)
}

async fn comes_back(fleet: &Fleet, host: &Caller, name: &str) -> Result<Vec<Vec<u8>>, Status> {
    let about = wire::HostAbout {
        name: name.to_owned(),
        report_key: host.report_public(),
        platform: "linux-x86_64".to_owned(),
        labels: [("ring".to_owned(), "pilot".to_owned())].into(),
    };
    let renewal = wire::RenewRequest { certificate_request: host.request(), about: Some(about) };
    fleet.enrollment(Some(host)).renew(renewal).await.map(|reply| reply.into_inner().certificates)
}

fn code<T>(answer: Result<T, Status>) -> Code {
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test]
async fn hosts_of_a_lost_authority_come_back_only_while_an_administrator_lets_them() {
    let (fleet, alice, lost) = fleet().await;
    let mut host = lost.host(&fleet);
    assert_eq!(code(comes_back(&fleet, &host, "web-1").await), Code::PermissionDenied);
    open(&fleet, &alice, lost.sha256(), 600).await.unwrap();
    // Renewing is all that the old certificate is good for.
    let sync = fleet.agent(&host).sync(wire::SyncRequest::default()).await;
    assert!(matches!(code(sync), Code::PermissionDenied | Code::Unauthenticated));
    host.take_chain(comes_back(&fleet, &host, "web-1").await.unwrap());
    fleet.agent(&host).sync(wire::SyncRequest::default()).await.unwrap();
    assert!(fleet.on_record(&alice, &["host readmit", "web-1"]).await);
    assert!(fleet.on_record(&alice, &["readmission open", "the disk"]).await);

    fleet.pass(SignedDuration::from_secs(601));
    let late = lost.host(&fleet);
    assert_eq!(code(comes_back(&fleet, &late, "web-2").await), Code::PermissionDenied);
    open(&fleet, &alice, lost.sha256(), 600).await.unwrap();
    fleet.admin(&alice).close_readmission(wire::CloseReadmissionRequest {}).await.unwrap();
    assert_eq!(code(comes_back(&fleet, &late, "web-2").await), Code::PermissionDenied);
}

#[tokio::test]
async fn whoever_has_the_lost_authoritys_key_can_take_no_hosts_place() {
    let (fleet, alice, lost) = fleet().await;
    open(&fleet, &alice, lost.sha256(), 600).await.unwrap();
    let host = lost.host(&fleet);
    // The id is the key's: another key with this host's id is seen.
    let thief = lost.certify(&fleet, Caller::new(), host.id());
    let refused = comes_back(&fleet, &thief, "web-1").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("its key is that of host"), "{refused}");
    comes_back(&fleet, &host, "web-1").await.unwrap();
    assert_eq!(code(comes_back(&fleet, &thief, "web-1").await), Code::PermissionDenied);
    // Two that claim one name: the second is refused by name, and that is on record.
    let other = lost.host(&fleet);
    let refused = comes_back(&fleet, &other, "web-1").await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(refused.message().contains("web-1"), "{refused}");
    assert!(fleet.on_record(&alice, &["certificate renew", "refused", "web-1"]).await);
    // A host that was thrown out here does not come back by it.
    let revoke = wire::HostRequest { host: "web-1".into(), reason: String::new() };
    fleet.admin(&alice).revoke_host(revoke).await.unwrap();
    assert_eq!(code(comes_back(&fleet, &host, "web-1").await), Code::PermissionDenied);
}

#[tokio::test]
async fn the_way_is_opened_by_administrators_for_a_known_authority_and_not_for_long() {
    let (fleet, alice, lost) = fleet().await;
    let oscar = fleet.person(&alice, "oscar", &["operator"]).await;
    assert_eq!(code(open(&fleet, &oscar, lost.sha256(), 60).await), Code::PermissionDenied);
    for (authority, seconds) in [
        (vec![1; 32], 60),
        (vec![1; 3], 60),
        (lost.sha256(), 0),
        (lost.sha256(), 8 * 24 * 3600),
        (lost.sha256(), u64::MAX),
    ] {
        let refused = open(&fleet, &alice, authority, seconds).await;
        assert_eq!(code(refused), Code::InvalidArgument, "{seconds}");
    }
    // A certificate of another former authority is not meant.
    let second = Lost::new(&fleet);
    let mut fleet = fleet;
    accept_former(&fleet.data().join("keys"), second.files.certificate.as_bytes()).unwrap();
    fleet.restart().await;
    open(&fleet, &alice, lost.sha256(), 60).await.unwrap();
    let host = second.host(&fleet);
    assert_eq!(code(comes_back(&fleet, &host, "web-9").await), Code::PermissionDenied);
}
