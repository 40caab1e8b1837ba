//! What whoever has stolen one of the server's keys can't do with it.

use std::{collections::BTreeSet, fs};

use jiff::SignedDuration;
use refit_proto::wire;
use refit_server::{
    ca::{Authority, AuthorityFiles, RequestedKey},
    identity::{self, PersonKind, Role},
};
use tonic::{Code, Status};

use crate::fleet::{Caller, Fleet};

/// A thief's own key, with a certificate for it that the stolen authority vouches for.
fn forge(fleet: &Fleet, whose: &identity::Caller, roles: &[Role]) -> Caller {
    let read = |name: &str| fs::read_to_string(fleet.data().join("keys").join(name)).unwrap();
    let files = AuthorityFiles { certificate: read("ca.crt"), key: read("ca.pem") };
    let stolen = Authority::load(&files).unwrap();
    let thief = Caller::new();
    let key = RequestedKey::parse(&thief.request()).unwrap();
    let roles: BTreeSet<Role> = roles.iter().copied().collect();
    let life = SignedDuration::from_hours(24);
    let issued = stolen.issue(&key, whose, &roles, fleet.now(), life).unwrap();
    thief.with_chain(issued.chain)
}

fn is_kept_out<T>(answer: Result<T, Status>) -> bool {
    let code = answer.map(drop).map_err(|status| status.code());
    matches!(code, Err(Code::Unauthenticated | Code::PermissionDenied))
}

async fn as_host(fleet: &Fleet, caller: &Caller) -> [Result<(), Status>; 5] {
    let request = wire::GetMetadataRequest { role: "root".into(), version: 1 };
    let renewal =
        wire::RenewRequest { certificate_request: caller.request(), ..Default::default() };
    [
        fleet.agent(caller).sync(wire::SyncRequest::default()).await.map(drop),
        fleet.agent(caller).request_lease(wire::LeaseRequest::default()).await.map(drop),
        fleet.agent(caller).request_reboot(wire::RebootRequest::default()).await.map(drop),
        fleet.repository(caller).get_metadata(request).await.map(drop),
        fleet.enrollment(Some(caller)).renew(renewal).await.map(drop),
    ]
}

#[tokio::test]
async fn a_certificate_that_was_forged_with_the_stolen_ca_key_lets_nobody_in() {
    let fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let host = fleet.host(&alice, "web-1").await;

    // For a host that is there, and for one that never was.
    let known = identity::Caller::Host(host.id());
    let unknown = identity::Caller::Host(Caller::new().id());
    for whose in [known, unknown] {
        let thief = forge(&fleet, &whose, &[]);
        for refused in as_host(&fleet, &thief).await {
            assert!(is_kept_out(refused), "{whose}");
        }
        assert!(fleet.on_record(&alice, &[&whose.to_string(), "refused"]).await);
    }
    // For the administrator, and for a person that never was.
    for name in ["alice", "mallory"] {
        let whose =
            identity::Caller::Person { name: name.parse().unwrap(), kind: PersonKind::Person };
        let thief = forge(&fleet, &whose, &Role::ALL);
        let asked = fleet.admin(&thief).list_audit(wire::ListAuditRequest::default()).await;
        assert!(is_kept_out(asked), "{whose}");
        let renewal =
            wire::RenewRequest { certificate_request: thief.request(), ..Default::default() };
        let renewed = fleet.enrollment(Some(&thief)).renew(renewal).await;
        assert!(is_kept_out(renewed), "{whose}");
    }
    // The ones who are meant go on.
    fleet.agent(&host).sync(wire::SyncRequest::default()).await.unwrap();
    fleet.audit(&alice).await;
}
