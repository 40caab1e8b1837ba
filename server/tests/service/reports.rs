//! Reports of hosts: taken once, in order, whatever is lost on the way.

use crate::fleet::Fleet;
use refit_proto::wire;
use tonic::Code;

fn state(version: &str) -> wire::HostState {
    wire::HostState { agent_version: version.into(), ..Default::default() }
}

fn some(reports: &[wire::Envelope]) -> wire::SyncRequest {
    wire::SyncRequest { reports: reports.to_vec() }
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
