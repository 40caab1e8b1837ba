//! Reports of hosts: taken once, in order, whatever is lost on the way.

use base64::Engine as _;
use jiff::SignedDuration;
use refit_proto::{names::Digest, trust::LocalKey, wire};
use tonic::Code;

use crate::{
    fleet::{Caller, Fleet},
    publisher::Publisher,
};

fn state(version: &str) -> wire::HostState {
    wire::HostState { agent_version: version.into(), ..Default::default() }
}

fn some(reports: &[wire::Envelope]) -> wire::SyncRequest {
    wire::SyncRequest { reports: reports.to_vec(), ..Default::default() }
}

#[tokio::test]
async fn reports_are_acknowledged_once_stored_and_may_come_again() {
    let mut fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let mut host = fleet.host(&alice, "web-1").await;
    let reports: Vec<_> = ["1.0", "1.1", "1.2"].map(|version| host.report(state(version))).into();
    let reply = fleet.agent(&host).sync(some(&reports[..2])).await.unwrap().into_inner();
    assert_eq!(reply.acknowledged, 2);
    // The answer was lost, the server fell over, and the outbox comes whole.
    fleet.restart().await;
    let reply = fleet.agent(&host).sync(some(&reports)).await.unwrap().into_inner();
    assert_eq!(reply.acknowledged, 3);
    let query = wire::ListHostsRequest { host: "web-1".into(), ..Default::default() };
    let hosts = fleet.status(&alice).list_hosts(query).await.unwrap().into_inner().hosts;
    assert_eq!(hosts[0].agent_version, "1.2");
}

#[tokio::test]
async fn a_gap_in_the_reports_is_refused_by_name_and_nothing_of_it_is_stored() {
    let fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let mut host = fleet.host(&alice, "web-1").await;
    let reports: Vec<_> = ["1.0", "1.1", "1.2"].map(|version| host.report(state(version))).into();
    let gap = [reports[0].clone(), reports[2].clone()];
    let error = fleet.agent(&host).sync(some(&gap)).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("1 missing"), "{error}");
    let reply = fleet.agent(&host).sync(some(&[])).await.unwrap().into_inner();
    assert_eq!(reply.acknowledged, 0);
}

/// hawkBit-shared-token.
#[tokio::test]
async fn a_host_never_reports_for_another() {
    let fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let mut web = fleet.host(&alice, "web-1").await;
    let db = fleet.host(&alice, "db-1").await;
    let report = web.report(state("1.0"));
    let error = fleet.agent(&db).sync(some(&[report])).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied, "{error}");
}

#[tokio::test]
async fn orders_are_told_apart_by_a_number_that_only_grows() {
    let mut fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let host = fleet.host(&alice, "web-1").await;
    let mut last = 0;
    for round in 0..6 {
        if round == 3 {
            fleet.restart().await;
        }
        let reply = fleet.agent(&host).sync(some(&[])).await.unwrap().into_inner();
        let orders: wire::Orders =
            refit_proto::envelope::unwrap_unsigned(&reply.orders.unwrap()).unwrap();
        assert!(orders.issued > last);
        last = orders.issued;
    }
}

async fn host_status(fleet: &Fleet, by: &Caller, name: &str) -> wire::HostStatus {
    let query = wire::ListHostsRequest { host: name.into(), ..Default::default() };
    fleet.status(by).list_hosts(query).await.unwrap().into_inner().hosts.remove(0)
}

async fn sharing(fleet: &Fleet, by: &Caller) -> u64 {
    let request = wire::GetFleetRequest::default();
    fleet.status(by).get_fleet(request).await.unwrap().into_inner().hosts_shared_identity
}

fn healthy(version: &str) -> wire::HostState {
    let installed = wire::Installed { version: version.into(), digest: vec![7; 32] };
    let product = wire::ProductState {
        product: "payments".into(),
        ring: "pilot".into(),
        installed: Some(installed),
        health: "good".into(),
        ..Default::default()
    };
    wire::HostState { products: vec![product], ..state(version) }
}

#[tokio::test]
async fn a_report_that_another_key_signed_is_refused_also_with_every_key_of_a_copied_server() {
    let fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let host = fleet.host(&alice, "web-1").await;
    let keys = fleet.data().join("keys");
    let pem = |name: &str| std::fs::read_to_string(keys.join(name)).unwrap();
    let copied = ["freshness.pem", "gate.pem", "audit.pem"].map(pem);
    let copied = copied.iter().map(|pem| LocalKey::from_pem(pem).unwrap());
    for key in copied.chain([LocalKey::generate().unwrap()]) {
        let mut forger = host.reporting_with(key);
        let report = forger.report(state("6.6"));
        let error = fleet.agent(&host).sync(some(&[report])).await.unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied, "{error}");
    }
    assert_eq!(host_status(&fleet, &alice, "web-1").await.agent_version, "");
    assert_eq!(sharing(&fleet, &alice).await, 0, "nobody but the host can make it look shared");
}

#[tokio::test]
async fn a_copy_of_the_servers_database_holds_no_key_with_which_a_host_reports() {
    let mut fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let mut host = fleet.host(&alice, "web-1").await;
    let report = host.report(state("1.0"));
    fleet.agent(&host).sync(some(&[report])).await.unwrap();
    fleet.restart().await;
    let secret = host.report_secret();
    let bytes = base64::engine::general_purpose::STANDARD.decode(&secret).unwrap();
    // The seed is the end of the PKCS#8 document, or stands in the middle of it before the public half.
    let seed = bytes.windows(34).find(|window| window.starts_with(&[4, 32])).unwrap()[2..].to_vec();
    let mut folders = vec![fleet.data().to_owned()];
    let mut searched = 0;
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let file = std::fs::read(&path).unwrap();
            searched += file.len();
            let holds = |what: &[u8]| file.windows(what.len()).any(|window| window == what);
            assert!(!holds(&seed) && !holds(secret.as_bytes()), "{}", path.display());
        }
    }
    assert!(searched > 1000);
}

#[tokio::test]
async fn reports_that_are_replayed_change_nothing() {
    let fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let mut host = fleet.host(&alice, "web-1").await;
    let reports: Vec<_> = ["1.0", "1.1", "1.2"].map(|version| host.report(state(version))).into();
    fleet.agent(&host).sync(some(&reports)).await.unwrap();
    for replayed in [&reports[..1], &reports[1..2], &reports[..]] {
        let reply = fleet.agent(&host).sync(some(replayed)).await.unwrap().into_inner();
        assert_eq!(reply.acknowledged, 3);
        assert_eq!(host_status(&fleet, &alice, "web-1").await.agent_version, "1.2");
    }
    assert_eq!(sharing(&fleet, &alice).await, 0);
}

#[tokio::test]
async fn two_machines_with_one_identity_are_noticed_shown_and_not_healthy_until_one_is_enrolled_again()
 {
    let fleet = Fleet::start().await;
    let publisher = Publisher::found(&fleet).await;
    let alice = &publisher.person;
    let mut host = fleet.host(alice, "web-1").await;
    let report = host.report(healthy("1.0"));
    fleet.agent(&host).sync(some(&[report])).await.unwrap();
    let before = host_status(&fleet, alice, "web-1").await;
    assert_eq!((before.state.as_str(), before.products[0].health.as_str()), ("active", "good"));
    let mut twin = host.twin();
    let (one, other) = (host.report(healthy("1.0")), twin.report(healthy("2.0")));
    fleet.agent(&host).sync(some(&[one])).await.unwrap();
    let error = fleet.agent(&twin).sync(some(&[other])).await.unwrap_err();
    assert!(error.message().contains("two machines may share"), "{error}");
    let shown = host_status(&fleet, alice, "web-1").await;
    let product = &shown.products[0];
    assert_eq!((shown.state.as_str(), product.health.as_str()), ("shared-identity", "unknown"));
    assert_eq!(product.hold.as_ref().unwrap().reason, "shared-identity");
    assert_eq!(sharing(&fleet, alice).await, 1);
    assert!(fleet.on_record(alice, &["host identity shared", "web-1"]).await);
    // Whatever either of them says from now on, it is not healthy, and neither is told to begin anything.
    let next = host.report(healthy("1.0"));
    let reply = fleet.agent(&host).sync(some(&[next])).await.unwrap().into_inner();
    assert_eq!(host_status(&fleet, alice, "web-1").await.products[0].health, "unknown");
    let orders: wire::Orders =
        refit_proto::envelope::unwrap_unsigned(&reply.orders.unwrap()).unwrap();
    let Some(wire::product_order::Order::Hold(hold)) = &orders.products[0].order else {
        panic!("{orders:?}")
    };
    assert_eq!(hold.reason, "shared-identity");
    // The way out: it is retired, and comes back as a new host under the old name.
    let retire = wire::HostRequest { host: "web-1".into(), reason: "cloned".into() };
    fleet.admin(alice).retire_host(retire).await.unwrap();
    let mut anew = fleet.host(alice, "web-1").await;
    let report = anew.report(healthy("1.0"));
    fleet.agent(&anew).sync(some(&[report])).await.unwrap();
    assert_eq!(sharing(&fleet, alice).await, 0);
    assert_eq!(host_status(&fleet, alice, "web-1").await.products[0].health, "good");
}

#[tokio::test]
async fn hosts_that_are_given_what_they_refuse_or_begin_nothing_are_counted() {
    let fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let troubled = || async {
        // The count may be half a minute old.
        fleet.pass(SignedDuration::from_secs(31));
        let request = wire::GetFleetRequest::default();
        let shown = fleet.status(&alice).get_fleet(request).await.unwrap().into_inner();
        (shown.hosts_metadata_expired, shown.hosts_metadata_refused)
    };
    let (mut frozen, mut attacked) =
        (fleet.host(&alice, "web-1").await, fleet.host(&alice, "web-2").await);
    assert_eq!(troubled().await, (0, 0));
    let report = frozen.report(wire::HostState { metadata_expired: true, ..healthy("1.0") });
    fleet.agent(&frozen).sync(some(&[report])).await.unwrap();
    let failure = wire::Failure { cause: "rollback".into(), ..Default::default() };
    let refuses = wire::HostState { metadata_failure: Some(failure), ..healthy("1.0") };
    let report = attacked.report(refuses);
    fleet.agent(&attacked).sync(some(&[report])).await.unwrap();
    assert_eq!(troubled().await, (1, 1));
    let report = attacked.report(healthy("1.0"));
    fleet.agent(&attacked).sync(some(&[report])).await.unwrap();
    assert_eq!(troubled().await, (1, 0));
    let retire = wire::HostRequest { host: "web-1".into(), reason: "gone".into() };
    fleet.admin(&alice).retire_host(retire).await.unwrap();
    assert_eq!(troubled().await, (0, 0));
}

#[tokio::test]
async fn a_host_that_was_put_back_to_an_older_image_goes_on_and_is_not_taken_for_two() {
    let fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let mut host = fleet.host(&alice, "web-1").await;
    let image = host.twin();
    let reports: Vec<_> = ["1.0", "1.1", "1.2"].map(|version| host.report(state(version))).into();
    fleet.agent(&host).sync(some(&reports)).await.unwrap();
    // Its counter is behind: the report is passed over, and the answer says where to go on.
    let mut restored = image;
    let behind = restored.report(state("1.0"));
    let reply = fleet.agent(&restored).sync(some(&[behind])).await.unwrap().into_inner();
    assert_eq!(reply.acknowledged, 3);
    assert_eq!(reply.acknowledged_sha256, Digest::of(&reports[2].payload).as_bytes());
    assert_eq!(sharing(&fleet, &alice).await, 0);
    assert_eq!(host_status(&fleet, &alice, "web-1").await.agent_version, "1.2");
}
