//! How hosts and people come in, and how they are kept out: over real TLS, with a clock that is moved.

use crate::fleet::{Caller, Fleet, proof};
use jiff::SignedDuration;
use refit_proto::wire;
use refit_server::ca::{Authority, RequestedKey};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::{Code, Status};

const DAY: SignedDuration = SignedDuration::from_hours(24);

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, words: &str) {
    let status = answer.expect_err("let in");
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(words), "{status}");
}

fn nothing() -> wire::SyncRequest {
    wire::SyncRequest::default()
}

#[tokio::test]
async fn a_token_brings_a_host_in_with_the_labels_that_the_administrator_gave() {
    let fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let token = fleet.host_token(&alice, 1).await.unwrap();
    let mut host = Caller::new();
    let reply = fleet.enroll(&mut host, &token, "web-1").await.unwrap();
    assert_eq!(reply.host_id, host.id().to_string());
    assert_eq!(reply.labels, [("ring".to_owned(), "pilot".to_owned())].into());
    fleet.agent(&host).sync(nothing()).await.unwrap();
    assert!(fleet.on_record(&alice, &["host enroll", "web-1", &token.id, "done"]).await);
}

#[tokio::test]
async fn a_wrong_a_used_and_an_expired_token_are_refused_and_on_record() {
    let fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let token = fleet.host_token(&alice, 1).await.unwrap();

    let wrong = wire::TokenProof { secret: b"guessed".to_vec(), ..proof(&token) };
    let answer = fleet.enroll_with(&mut Caller::new(), wrong, "web-1").await;
    refused(answer, Code::Unauthenticated, "not known");
    let unknown = wire::TokenProof { token_id: "f".repeat(32), ..proof(&token) };
    let answer = fleet.enroll_with(&mut Caller::new(), unknown, "web-1").await;
    refused(answer, Code::Unauthenticated, "not known");

    fleet.enroll(&mut Caller::new(), &token, "web-1").await.unwrap();
    let answer = fleet.enroll(&mut Caller::new(), &token, "web-2").await;
    refused(answer, Code::PermissionDenied, "used up");

    let late = fleet.host_token(&alice, 1).await.unwrap();
    fleet.pass(DAY);
    let answer = fleet.enroll(&mut Caller::new(), &late, "web-3").await;
    refused(answer, Code::Unauthenticated, "expired");

    for (host, why) in [("web-1", "not known"), ("web-2", "used up"), ("web-3", "expired")] {
        assert!(fleet.on_record(&alice, &["host enroll", host, why]).await, "{why}");
    }
}

#[tokio::test]
async fn a_host_whose_answer_was_lost_enrolls_again_without_a_further_use() {
    let mut fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let token = fleet.host_token(&alice, 2).await.unwrap();
    let mut host = Caller::new();
    for _ in 0..3 {
        fleet.enroll(&mut host, &token, "web-1").await.unwrap();
    }
    fleet.restart().await;
    fleet.enroll(&mut host, &token, "web-1").await.unwrap();
    // The second use is still there, and no third.
    fleet.enroll(&mut Caller::new(), &token, "web-2").await.unwrap();
    let answer = fleet.enroll(&mut Caller::new(), &token, "web-3").await;
    refused(answer, Code::PermissionDenied, "used up");
    // All of its certificates are good: it does not matter which answer arrived.
    fleet.agent(&host).sync(nothing()).await.unwrap();
}

#[tokio::test]
async fn many_hosts_use_one_token_at_once_and_none_uses_it_twice() {
    let fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let token = fleet.host_token(&alice, 12).await.unwrap();
    let fleet = &fleet;
    let calls = (0..16).map(|n| {
        let token = token.clone();
        async move { fleet.enroll(&mut Caller::new(), &token, &format!("web-{n}")).await.is_ok() }
    });
    let mut set = Vec::new();
    for call in calls {
        set.push(call);
    }
    let came_in = join(set).await.into_iter().filter(|in_| *in_).count();
    assert_eq!(came_in, 12);
}

/// Polls all at once.
async fn join<F: Future>(calls: Vec<F>) -> Vec<F::Output> {
    let mut calls: Vec<_> = calls.into_iter().map(|call| (Box::pin(call), None)).collect();
    std::future::poll_fn(|context| {
        let mut waiting = false;
        for (call, answer) in &mut calls {
            if answer.is_none() {
                match call.as_mut().poll(context) {
                    std::task::Poll::Ready(done) => *answer = Some(done),
                    std::task::Poll::Pending => waiting = true,
                }
            }
        }
        if waiting { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    calls.into_iter().filter_map(|(_, answer)| answer).collect()
}

#[tokio::test]
async fn a_name_that_another_host_has_is_refused_until_that_host_is_retired() {
    let fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    fleet.host(&alice, "web-1").await;
    let token = fleet.host_token(&alice, 1).await.unwrap();
    let mut second = Caller::new();
    let answer = fleet.enroll(&mut second, &token, "web-1").await;
    refused(answer, Code::AlreadyExists, "belongs to another host");
    let retire = wire::HostRequest { host: "web-1".into(), reason: "broken".into() };
    fleet.admin(&alice).retire_host(retire).await.unwrap();
    fleet.enroll(&mut second, &token, "web-1").await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_another_fleet_is_refused_and_on_record() {
    let fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let other = Authority::load(&Authority::generate(fleet.now()).unwrap()).unwrap();
    let caller = Caller::new();
    let key = RequestedKey::parse(&caller.request()).unwrap();
    let name = refit_server::identity::Caller::Host(key.host_id());
    let issued = other.issue(&key, &name, &Default::default(), fleet.now(), DAY).unwrap();
    let caller = caller.with_chain(issued.chain);
    assert!(fleet.agent(&caller).sync(nothing()).await.is_err());
    // The entry is written beside the handshake.
    for _ in 0..200 {
        if fleet.on_record(&alice, &["connect", "127.0.0.1", "not from this fleet"]).await {
            return;
        }
    }
    panic!("not on record: {:#?}", fleet.audit(&alice).await);
}

#[tokio::test]
async fn a_revoked_host_is_refused_at_once_and_everywhere_by_name() {
    let fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let host = fleet.host(&alice, "web-1").await;
    // The same connection goes on: revoking does not wait for the next handshake.
    let mut agent = fleet.agent(&host);
    agent.sync(nothing()).await.unwrap();
    let revoke = wire::HostRequest { host: host.id().to_string(), reason: "stolen".into() };
    fleet.admin(&alice).revoke_host(revoke).await.unwrap();

    refused(agent.sync(nothing()).await, Code::PermissionDenied, "web-1");
    let lease = wire::LeaseRequest {
        product: "payments".into(),
        rollout_id: "payments.pilot.1".into(),
        attempt: 1,
        digest: vec![0; 32],
    };
    refused(agent.request_lease(lease).await, Code::PermissionDenied, "is revoked");
    let read = wire::GetMetadataRequest { role: "timestamp".into(), version: 0 };
    refused(fleet.repository(&host).get_metadata(read).await, Code::PermissionDenied, "web-1");
    let content = wire::GetContentRequest { sha256: vec![0; 32], offset: 0 };
    refused(
        fleet.repository(&host).get_content(content).await.map(drop),
        Code::PermissionDenied,
        "web-1",
    );
    let renew = wire::RenewRequest { certificate_request: host.request(), ..Default::default() };
    refused(fleet.enrollment(Some(&host)).renew(renew).await, Code::PermissionDenied, "web-1");
    assert!(fleet.on_record(&alice, &["host revoke", "stolen", "alice", "done"]).await);
    assert!(fleet.on_record(&alice, &["host sync", host.id().as_str(), "revoked"]).await);
}

#[tokio::test]
async fn an_expired_certificate_renews_itself_and_does_nothing_else() {
    let fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let mut host = fleet.host(&alice, "web-1").await;
    fleet.pass(DAY * 31);
    refused(fleet.agent(&host).sync(nothing()).await, Code::Unauthenticated, "expired");
    let read = wire::GetMetadataRequest { role: "timestamp".into(), version: 0 };
    refused(fleet.repository(&host).get_metadata(read).await, Code::Unauthenticated, "expired");

    let other =
        wire::RenewRequest { certificate_request: Caller::new().request(), ..Default::default() };
    refused(
        fleet.enrollment(Some(&host)).renew(other).await,
        Code::PermissionDenied,
        "another key",
    );
    let own = wire::RenewRequest { certificate_request: host.request(), ..Default::default() };
    let renewed = fleet.enrollment(Some(&host)).renew(own).await.unwrap().into_inner();
    host.take_chain(renewed.certificates);
    fleet.agent(&host).sync(nothing()).await.unwrap();
}

#[tokio::test]
async fn nobody_renews_without_a_certificate() {
    let fleet = Fleet::start().await;
    let renew =
        wire::RenewRequest { certificate_request: Caller::new().request(), ..Default::default() };
    refused(fleet.enrollment(None).renew(renew).await, Code::Unauthenticated, "certificate");
}

#[tokio::test]
async fn a_second_login_of_a_person_ends_the_first_key() {
    let fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let bob = fleet.person(&alice, "bob", &["viewer"]).await;
    let read = wire::ListAuditRequest { after: 0, limit: 1 };
    fleet.admin(&bob).list_audit(read).await.unwrap();
    let again = fleet.person(&alice, "bob", &["viewer"]).await;
    refused(fleet.admin(&bob).list_audit(read).await, Code::PermissionDenied, "replaced");
    fleet.admin(&again).list_audit(read).await.unwrap();
}

#[tokio::test]
async fn each_role_may_do_its_own_and_a_refusal_is_on_record() {
    let fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let viewer = fleet.person(&alice, "vera", &["viewer"]).await;
    let operator = fleet.person(&alice, "otto", &["operator"]).await;
    let host = fleet.host(&alice, "web-1").await;

    let pause = wire::RolloutRequest {
        product: "payments".into(),
        ring: "pilot".into(),
        reason: "alarm".into(),
    };
    refused(
        fleet.admin(&viewer).pause_rollout(pause.clone()).await,
        Code::PermissionDenied,
        "operator",
    );
    refused(
        fleet.admin(&host).pause_rollout(pause.clone()).await,
        Code::PermissionDenied,
        "people",
    );
    // The right role, and no such ring.
    refused(fleet.admin(&operator).pause_rollout(pause).await, Code::NotFound, "no ring");
    refused(fleet.host_token(&operator, 1).await, Code::PermissionDenied, "administrator");
    let policy = wire::SetRolloutPolicyRequest { policy: None, replaces_revision: 0 };
    refused(
        fleet.admin(&viewer).set_rollout_policy(policy).await,
        Code::PermissionDenied,
        "administrator",
    );
    let push = wire::MetadataFile { role: "release.payments".into(), file: Vec::new() };
    let push = wire::PushMetadataRequest { files: vec![push] };
    refused(
        fleet.repository(&operator).push_metadata(push).await,
        Code::PermissionDenied,
        "publisher",
    );
    refused(fleet.agent(&viewer).sync(nothing()).await, Code::PermissionDenied, "hosts");
    fleet.status(&viewer).get_fleet(wire::GetFleetRequest::default()).await.unwrap();

    assert!(fleet.on_record(&alice, &["vera", "rollout pause", "refused"]).await);
    assert!(fleet.on_record(&alice, &["otto", "token create", "refused"]).await);
    assert!(fleet.on_record(&alice, &["otto", "metadata push", "refused"]).await);
}

#[tokio::test]
async fn garbage_on_the_port_does_not_stop_the_server() {
    let fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], &[0xff; 65_536], b"\x16\x03\x01\xff\xff"]
    {
        let mut stream = tokio::net::TcpStream::connect(fleet.address()).await.unwrap();
        // The server may hang up before it has read all of it.
        let _cut_short = stream.write_all(garbage).await;
        let _cut_short = stream.shutdown().await;
        let _cut_short = stream.read_to_end(&mut Vec::new()).await;
    }
    fleet.status(&alice).get_fleet(wire::GetFleetRequest::default()).await.unwrap();
}
