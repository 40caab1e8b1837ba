//! What callers try who may not, or who say nonsense: each call of each kind of caller, and messages that
//! are far too large.

use jiff::SignedDuration;
use refit_proto::{names::Digest, package::FileRef, wire};
use tonic::{Code, Status};

use crate::{
    fleet::{Caller, Fleet},
    publisher::{Publisher, policy},
};

fn code<T>(answer: Result<T, Status>) -> Code {
    answer.err().map_or(Code::Ok, |status| status.code())
}

fn host_request() -> wire::HostRequest {
    wire::HostRequest { host: "web-1".into(), reason: String::new() }
}

fn rollout_request(ring: &str) -> wire::RolloutRequest {
    wire::RolloutRequest { product: "payments".into(), ring: ring.into(), reason: String::new() }
}

/// Every call that changes something, and what came of it.
async fn change_everything(fleet: &Fleet, caller: &Caller) -> Vec<(&'static str, Code)> {
    let token = wire::CreateTokenRequest::default();
    let policy = wire::SetRolloutPolicyRequest::default();
    let bundle = wire::SignForBundleRequest { valid_seconds: 3600, what: "1.0".into() };
    let mut admin = fleet.admin(caller);
    let mut answers = vec![
        ("create_token", code(admin.create_token(token).await)),
        ("revoke_host", code(admin.revoke_host(host_request()).await)),
        ("retire_host", code(admin.retire_host(host_request()).await)),
        ("set_rollout_policy", code(admin.set_rollout_policy(policy).await)),
        ("pause_rollout", code(admin.pause_rollout(rollout_request("pilot")).await)),
        ("resume_rollout", code(admin.resume_rollout(rollout_request("pilot")).await)),
        ("rollback_rollout", code(admin.rollback_rollout(rollout_request("pilot")).await)),
        ("sign_for_bundle", code(admin.sign_for_bundle(bundle).await)),
    ];
    let content = wire::PutContentRequest {
        sha256: Digest::of(b"refit").as_bytes().to_vec(),
        length: 5,
        data: zstd::encode_all(&b"refit"[..], 3).unwrap(),
    };
    let stream = tokio_stream::iter([content]);
    answers.push(("put_content", code(fleet.repository(caller).put_content(stream).await)));
    for role in ["root", "targets", "policy", "release.payments", "ring.payments.pilot"] {
        let file = wire::MetadataFile { role: role.into(), file: b"{}".to_vec() };
        let push = wire::PushMetadataRequest { files: vec![file] };
        answers.push((role, code(fleet.repository(caller).push_metadata(push).await)));
    }
    answers
}

/// Every call that reads, or that only hosts make.
async fn read_everything(fleet: &Fleet, caller: &Caller) -> Vec<(&'static str, Code)> {
    let metadata = wire::GetMetadataRequest { role: "root".into(), version: 1 };
    let content =
        wire::GetContentRequest { sha256: Digest::of(b"refit").as_bytes().to_vec(), offset: 0 };
    let asked = wire::MissingContentRequest { sha256: Vec::new() };
    let fleet_request = wire::GetFleetRequest::default();
    let (mut repository, mut status) = (fleet.repository(caller), fleet.status(caller));
    let (mut admin, mut agent) = (fleet.admin(caller), fleet.agent(caller));
    let policy = wire::GetRolloutPolicyRequest { product: "payments".into() };
    vec![
        ("get_metadata", code(repository.get_metadata(metadata).await)),
        ("get_content", code(repository.get_content(content).await)),
        ("missing_content", code(repository.missing_content(asked).await)),
        ("get_fleet", code(status.get_fleet(fleet_request.clone()).await)),
        ("watch_fleet", code(status.watch_fleet(fleet_request).await)),
        ("list_hosts", code(status.list_hosts(wire::ListHostsRequest::default()).await)),
        ("list_audit", code(admin.list_audit(wire::ListAuditRequest::default()).await)),
        ("get_server_keys", code(admin.get_server_keys(wire::GetServerKeysRequest {}).await)),
        ("get_rollout_policy", code(admin.get_rollout_policy(policy).await)),
        ("sync", code(agent.sync(wire::SyncRequest::default()).await)),
        ("request_lease", code(agent.request_lease(wire::LeaseRequest::default()).await)),
        ("request_reboot", code(agent.request_reboot(wire::RebootRequest::default()).await)),
    ]
}

#[tokio::test]
async fn a_viewer_changes_nothing_whatever_they_call() {
    let fleet = Fleet::start().await;
    let publisher = Publisher::found(&fleet).await;
    let viewer = fleet.person(&publisher.person, "vera", &["viewer"]).await;
    for (call, code) in change_everything(&fleet, &viewer).await {
        assert_eq!(code, Code::PermissionDenied, "{call}");
    }
}

#[tokio::test]
async fn a_revoked_host_is_refused_whatever_it_calls() {
    let fleet = Fleet::start().await;
    let publisher = Publisher::found(&fleet).await;
    let host = fleet.host(&publisher.person, "web-1").await;
    fleet.admin(&publisher.person).revoke_host(host_request()).await.unwrap();
    let mut answers = change_everything(&fleet, &host).await;
    answers.extend(read_everything(&fleet, &host).await);
    let renewal = wire::RenewRequest { certificate_request: host.request(), ..Default::default() };
    answers.push(("renew", code(fleet.enrollment(Some(&host)).renew(renewal).await)));
    for (call, code) in answers {
        assert_eq!(code, Code::PermissionDenied, "{call}");
    }
}

#[tokio::test]
async fn without_a_certificate_nothing_is_changed_and_only_the_way_to_the_list_of_servers_is_read()
{
    let fleet = Fleet::start().await;
    let publisher = Publisher::found(&fleet).await;
    fleet.host(&publisher.person, "web-1").await;
    let nobody = fleet.channel(None);
    let mut status = wire::status_client::StatusClient::new(nobody.clone());
    let mut admin = wire::admin_client::AdminClient::new(nobody.clone());
    let mut agent = wire::agent_client::AgentClient::new(nobody.clone());
    let mut repository = wire::repository_client::RepositoryClient::new(nobody);
    // What proves itself and leads to the list of servers is for everybody.
    let metadata = |role: &str| wire::GetMetadataRequest { role: role.into(), version: 1 };
    for open in ["root", "targets", "policy"] {
        assert_eq!(code(repository.get_metadata(metadata(open)).await), Code::Ok, "{open}");
    }
    let policy = FileRef::to(&policy(&["pilot", "early"]));
    let content = wire::GetContentRequest { sha256: policy.sha256.as_bytes().to_vec(), offset: 0 };
    for (call, code) in [
        ("get_content", code(repository.get_content(content).await)),
        ("get_metadata", code(repository.get_metadata(metadata("release.payments")).await)),
        ("get_fleet", code(status.get_fleet(wire::GetFleetRequest::default()).await)),
        ("list_hosts", code(status.list_hosts(wire::ListHostsRequest::default()).await)),
        ("revoke_host", code(admin.revoke_host(host_request()).await)),
        ("list_audit", code(admin.list_audit(wire::ListAuditRequest::default()).await)),
        ("sync", code(agent.sync(wire::SyncRequest::default()).await)),
        ("get_metadata", code(repository.get_metadata(metadata("ring.payments.pilot")).await)),
    ] {
        assert_eq!(code, Code::Unauthenticated, "{call}");
    }
}

/// CVE-2023-33957, CVE-2023-33958, CVE-2023-46737, CVE-2024-45395.
#[tokio::test]
async fn ten_thousand_files_in_one_push_and_names_as_long_as_a_book_are_refused_in_a_word() {
    let fleet = Fleet::start().await;
    let publisher = Publisher::found(&fleet).await;
    let mut repository = fleet.repository(&publisher.person);
    let file = |role: &str| wire::MetadataFile { role: role.into(), file: b"{}".to_vec() };
    let push = wire::PushMetadataRequest { files: vec![file("policy"); 10_000] };
    let answer = repository.push_metadata(push).await;
    assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
    let book = "../".repeat(300_000);
    let push = wire::PushMetadataRequest { files: vec![file(&book)] };
    let refused = repository.push_metadata(push).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().len() < 2000);
    let request = wire::RolloutRequest { product: book.clone(), ..rollout_request(&book) };
    let refused = fleet.admin(&publisher.person).pause_rollout(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    // All of it is on record, and the log can still be read.
    assert!(fleet.audit(&publisher.person).await.iter().all(|line| line.len() < 5000));
}

#[tokio::test]
async fn acts_on_rings_without_a_rollout_say_so_and_change_nothing() {
    let fleet = Fleet::start().await;
    let publisher = Publisher::found(&fleet).await;
    let mut admin = fleet.admin(&publisher.person);
    for (ring, words) in [("pilot", "nothing was ever promoted"), ("moon", "has no ring moon")] {
        let mut refusals = vec![admin.pause_rollout(rollout_request(ring)).await];
        refusals.push(admin.resume_rollout(rollout_request(ring)).await);
        refusals.push(admin.rollback_rollout(rollout_request(ring)).await);
        for refused in refusals {
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), Code::NotFound, "{refused}");
            assert!(refused.message().contains(words), "{refused}");
            assert!(refused.message().contains("\nhelp: "), "{refused}");
        }
    }
}

#[tokio::test]
async fn a_token_for_nobody_or_for_never_is_refused() {
    let fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let good = wire::CreateTokenRequest {
        token_id: "a".repeat(32),
        secret_sha256: Digest::of(b"secret").as_bytes().to_vec(),
        subject: Some(wire::create_token_request::Subject::Host(wire::HostSubject {
            labels: Default::default(),
            root_sha256: Digest::of(b"root").to_string(),
        })),
        uses: 1,
        expires: (fleet.now() + SignedDuration::from_hours(1)).to_string(),
    };
    let bad: [fn(&mut wire::CreateTokenRequest); 7] = [
        |token| token.uses = 0,
        |token| token.uses = u32::MAX,
        |token| token.expires = "2020-01-01T00:00:00Z".into(),
        |token| token.expires = "soon".into(),
        |token| token.token_id = "../../etc/passwd".into(),
        |token| token.secret_sha256 = vec![1; 31],
        |token| token.subject = None,
    ];
    for (case, spoil) in bad.into_iter().enumerate() {
        let mut token = good.clone();
        spoil(&mut token);
        let refused = fleet.admin(&alice).create_token(token).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "case {case}: {refused}");
    }
    fleet.admin(&alice).create_token(good).await.unwrap();
}
