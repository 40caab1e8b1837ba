//! Enrolling and renewing, against a server with real TLS.

use std::sync::{Arc, Mutex};

use refit_proto::{
    names::{Digest, Labels},
    servers::ServersPolicy,
    token::Token,
    wire::{EnrollReply, EnrollRequest, GetMetadataReply, RenewReply, SyncReply, SyncRequest},
};
use tonic::Status;

use super::{testing::*, *};
use crate::{
    clock::Clock,
    identity::{Identity, IdentityFolder, Keys, Ways},
};

const ROOT: &[u8] = b"the first root";

fn labels() -> Labels {
    [("region".parse().unwrap(), "eu".parse().unwrap())].into()
}

/// What an honest server answers.
fn honest(authority: &Authority, request: &EnrollRequest, validity: Validity) -> EnrollReply {
    EnrollReply {
        host_id: host_id(&request.certificate_request).to_string(),
        certificates: authority.issue(&request.certificate_request, validity),
        labels: [("region".to_owned(), "eu".to_owned())].into(),
        root_sha256: Digest::of(ROOT).to_string(),
    }
}

struct Host {
    dir: tempfile::TempDir,
    clock: Clock,
}

impl Host {
    fn new() -> Host {
        Host { dir: tempfile::tempdir().unwrap(), clock: clock(NOW) }
    }

    fn folder(&self) -> IdentityFolder {
        IdentityFolder::at(self.dir.path().join("identity"))
    }

    async fn enroll(&self, token: &Token) -> Result<Identity, EnrollError> {
        let (name, platform) = ("web-1".parse().unwrap(), "linux-x86_64".parse().unwrap());
        let direct = Proxies::default();
        enroll(token, name, &platform, &self.folder(), self.clock.clone(), &direct).await
    }

    fn stored(&self) -> Option<Identity> {
        Identity::load_if_enrolled(&self.folder()).unwrap()
    }
}

async fn server() -> FakeServer {
    FakeServer::start(Arc::new(Authority::new()), GOOD).await
}

fn answer_honestly(server: &FakeServer, change: impl Fn(&mut EnrollReply) + Send + 'static) {
    let authority = server.authority.clone();
    server.answers().enroll = Some(Box::new(move |request| {
        let mut reply = honest(&authority, &request, GOOD);
        change(&mut reply);
        Ok(reply)
    }));
}

#[tokio::test]
async fn a_token_makes_a_host() {
    let (server, host) = (server().await, Host::new());
    answer_honestly(&server, |_| {});
    server.answers().metadata = Some(Box::new(|request| match request.role.as_str() {
        "root" => Ok(GetMetadataReply { file: ROOT.to_vec() }),
        _ => Err(Status::not_found("no such role")),
    }));
    let identity = host.enroll(&server.token(&labels(), ROOT)).await.unwrap();
    assert_eq!(host.stored(), Some(identity.clone()));
    assert_eq!(identity.labels, labels());
    let (_, keys) = Identity::load(&host.folder()).unwrap();
    let link =
        Server::new(&identity, &keys, Ways::of(&identity, None), host.clock.clone()).unwrap();
    assert_eq!(fetch_first_root(&link, &identity).await.unwrap(), ROOT);

    server.answers().metadata =
        Some(Box::new(|_| Ok(GetMetadataReply { file: b"another root".to_vec() })));
    let error = fetch_first_root(&link, &identity).await.unwrap_err();
    assert!(matches!(error, EnrollError::OtherRoot { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_says_otherwise_than_the_token_is_refused_and_nothing_is_stored() {
    type Lie = (&'static str, fn(&mut EnrollReply));
    let lies: [Lie; 7] = [
        ("labels", |reply| {
            reply.labels.insert("role".to_owned(), "db".to_owned());
        }),
        ("labels", |reply| reply.labels.clear()),
        ("labels", |reply| {
            reply.labels.insert("region".to_owned(), "us".to_owned());
        }),
        ("root", |reply| reply.root_sha256 = Digest::of(b"another").to_string()),
        ("host id", |reply| reply.host_id = "0".repeat(32)),
        ("certificate", |reply| reply.certificates.clear()),
        ("certificate", |reply| reply.certificates[0] = b"not a certificate".to_vec()),
    ];
    for (what, lie) in lies {
        let (server, host) = (server().await, Host::new());
        answer_honestly(&server, lie);
        let error = host.enroll(&server.token(&labels(), ROOT)).await.unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("help:"), "{what}: {error}");
        assert_eq!(host.stored(), None, "{what}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_key_or_from_another_authority_is_refused() {
    let (server, host) = (server().await, Host::new());
    let foreign = Authority::new();
    server.answers().enroll = Some(Box::new(move |request| Ok(honest(&foreign, &request, GOOD))));
    let error = host.enroll(&server.token(&labels(), ROOT)).await.unwrap_err();
    assert!(matches!(error, EnrollError::Certificate { .. }), "{error}");

    let other_host = Keys::load_or_make(&Host::new().folder()).unwrap();
    let request = other_host.certificate_request().unwrap();
    let authority = server.authority.clone();
    answer_honestly(&server, move |reply| reply.certificates = authority.issue(&request, GOOD));
    let error = host.enroll(&server.token(&labels(), ROOT)).await.unwrap_err();
    assert!(error.to_string().contains("another key"), "{error}");
    assert_eq!(host.stored(), None);
}

#[tokio::test]
async fn a_server_of_another_authority_than_the_tokens_is_not_talked_to() {
    let (server, host) = (server().await, Host::new());
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    answer_honestly(&server, move |_| *count.lock().unwrap() += 1);
    let mut impostor = server.token(&labels(), ROOT);
    impostor = Token::new(
        impostor.subject,
        impostor.server,
        &Authority::new().certificate,
        at("2030-01-01T00:00:00Z"),
    )
    .unwrap();
    let error = host.enroll(&impostor).await.unwrap_err();
    assert!(matches!(error, EnrollError::Call { .. }), "{error}");
    assert!(error.to_string().contains("\nhelp: do not trust this server"), "{error}");
    assert_eq!(*asked.lock().unwrap(), 0, "the token's secret must not reach it");
}

#[tokio::test]
async fn what_the_server_says_of_a_token_reaches_the_person() {
    let (server, host) = (server().await, Host::new());
    server.answers().enroll = Some(Box::new(|_| {
        Err(Status::permission_denied("the token is used up\nhelp: have a new one made"))
    }));
    let error = host.enroll(&server.token(&labels(), ROOT)).await.unwrap_err().to_string();
    assert!(error.contains("the token is used up\nhelp:"), "{error}");
    assert_eq!(host.stored(), None);
}

#[tokio::test]
async fn after_a_lost_answer_the_same_key_asks_again() {
    let (server, host) = (server().await, Host::new());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (keys, authority) = (seen.clone(), server.authority.clone());
    server.answers().enroll = Some(Box::new(move |request| {
        let mut keys = keys.lock().unwrap();
        keys.push((host_id(&request.certificate_request), request.report_key.clone()));
        if keys.len() == 1 {
            // Enrolled there, and the answer is lost.
            return Err(Status::unavailable("connection reset"));
        }
        Ok(honest(&authority, &request, GOOD))
    }));
    let token = server.token(&labels(), ROOT);
    host.enroll(&token).await.unwrap_err();
    host.enroll(&token).await.unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn a_host_whose_clock_is_in_1970_enrolls_and_an_expired_server_is_refused() {
    // Its certificate begins after anything that the host can know of.
    let later = ("2031-01-01T00:00:00Z", "2031-04-01T00:00:00Z");
    let server = FakeServer::start(Arc::new(Authority::new()), later).await;
    let authority = server.authority.clone();
    server.answers().enroll =
        Some(Box::new(move |request| Ok(honest(&authority, &request, later))));
    let host = Host { clock: clock("1970-01-01T00:00:10Z"), ..Host::new() };
    host.enroll(&server.token(&labels(), ROOT)).await.unwrap();

    let expired = ("2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z");
    let server = FakeServer::start(server.authority.clone(), expired).await;
    let host = Host { clock: clock("1970-01-01T00:00:10Z"), ..Host::new() };
    let error = host.enroll(&server.token(&labels(), ROOT)).await.unwrap_err().to_string();
    assert!(error.contains("expired") && error.contains("\nhelp: look whether"), "{error}");
}

#[tokio::test]
async fn a_certificate_is_renewed_for_the_same_key_and_an_expired_one_can_be() {
    let (server, host) = (server().await, Host::new());
    let authority = server.authority.clone();
    let short = ("2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z");
    server.answers().enroll =
        Some(Box::new(move |request| Ok(honest(&authority, &request, short))));
    // Enrolled in January, and then switched off for a month.
    let january = Host { clock: clock("2027-01-01T06:00:00Z"), dir: host.dir };
    let identity = january.enroll(&server.token(&labels(), ROOT)).await.unwrap();
    assert!(!is_due(&identity, None, at("2027-01-01T06:00:00Z")).unwrap());
    assert!(is_due(&identity, None, at(NOW)).unwrap());

    let keys = Keys::load(&january.folder()).unwrap();
    let now = clock(NOW);
    let link = link_of(&identity, &keys, Ways::of(&identity, None), &now);
    let authority = server.authority.clone();
    server.answers().renew = Some(Box::new(move |request| {
        Ok(RenewReply { certificates: authority.issue(&request.certificate_request, GOOD) })
    }));
    let renewed = renew(&link, &identity, &keys, &january.folder(), &now).await.unwrap();
    assert_eq!(renewed.certificate().unwrap().key, keys.public_key_digest());
    assert!(!is_due(&renewed, None, at(NOW)).unwrap());
    assert_eq!(january.stored(), Some(renewed.clone()));

    // One for another key is not taken, and the good one stays.
    let other = Keys::load_or_make(&Host::new().folder()).unwrap().certificate_request().unwrap();
    let authority = server.authority.clone();
    server.answers().renew =
        Some(Box::new(move |_| Ok(RenewReply { certificates: authority.issue(&other, GOOD) })));
    renew(&link, &renewed, &keys, &january.folder(), &now).await.unwrap_err();
    assert_eq!(january.stored(), Some(renewed));
}

/// An enrolled host and the server that it enrolled at.
async fn enrolled() -> (FakeServer, Host, Identity, Keys) {
    let (server, host) = (server().await, Host::new());
    answer_honestly(&server, |_| {});
    let identity = host.enroll(&server.token(&labels(), ROOT)).await.unwrap();
    let keys = Keys::load(&host.folder()).unwrap();
    (server, host, identity, keys)
}

fn link_of(identity: &Identity, keys: &Keys, ways: Ways, clock: &Clock) -> Link {
    Link::here(Access::new(identity, keys, ways, Patience::default()), clock.clone()).unwrap()
}

fn signed_list(addresses: &[String], authorities: &[&Authority]) -> ServersPolicy {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let authorities = authorities
        .iter()
        .map(|it| refit_proto::servers::Authority::from_der(&it.certificate).unwrap());
    ServersPolicy::new(addresses, Vec::new(), authorities.collect()).unwrap()
}

fn answer_syncs(server: &FakeServer) {
    server.answers().sync = Some(Box::new(|_| Ok(SyncReply::default())));
}

#[tokio::test]
async fn a_server_whose_authority_the_signed_list_does_not_name_is_refused_where_the_host_enrolled_too()
 {
    let (old, host, identity, keys) = enrolled().await;
    let new = server().await;
    for server in [&old, &new] {
        answer_syncs(server);
    }
    let link = link_of(&identity, &keys, Ways::of(&identity, None), &host.clock);
    link.sync(SyncRequest::default()).await.unwrap();

    let moved = signed_list(&[new.address.to_string()], &[&new.authority]);
    link.change_ways(Ways::of(&identity, Some(&moved))).unwrap();
    link.sync(SyncRequest::default()).await.unwrap();
    link.move_on().await.unwrap();
    assert_eq!(link.address(), identity.server, "the enrollment's address is the last");
    let error = link.sync(SyncRequest::default()).await.unwrap_err();
    assert!(error.with_help().contains("do not trust this server"), "{error}");

    // While one replaces the other, both are good.
    let both = signed_list(&[new.address.to_string()], &[&new.authority, &old.authority]);
    link.change_ways(Ways::of(&identity, Some(&both))).unwrap();
    for _ in 0..2 {
        link.sync(SyncRequest::default()).await.unwrap();
        link.move_on().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_left_for_the_next_and_tried_again_after_a_while() {
    let (old, _, identity, keys) = enrolled().await;
    answer_syncs(&old);
    let seconds = Arc::new(std::sync::atomic::AtomicU64::new(1));
    let (own, wall) = (seconds.clone(), at(NOW));
    let running = move || {
        let seconds = own.load(std::sync::atomic::Ordering::Relaxed);
        crate::update::Running::from_nanos(seconds * 1_000_000_000)
    };
    let boot = crate::update::BootId::parse("boot").unwrap();
    let clock = Clock::from_fns(boot, move || wall, running);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let list = signed_list(&[nobody.to_string()], &[&old.authority]);
    let link = Server::new(&identity, &keys, Ways::of(&identity, Some(&list)), clock).unwrap();
    let error = link.sync(SyncRequest::default()).await.unwrap_err();
    assert_eq!(error.trouble, Trouble::Weather);
    link.move_on().unwrap();
    link.sync(SyncRequest::default()).await.unwrap();
    link.prefer().unwrap();
    assert_eq!(link.address(), identity.server, "not with every call");
    seconds.store(1 + 15 * 60, std::sync::atomic::Ordering::Relaxed);
    link.prefer().unwrap();
    assert_eq!(link.address(), nobody.to_string());
}

#[tokio::test]
async fn a_certificate_of_the_authority_that_is_replaced_is_renewed_with_the_new_one() {
    let (old, host, identity, keys) = enrolled().await;
    let new = Authority::new();
    let list = signed_list(&[old.address.to_string()], &[&new, &old.authority]);
    let link = link_of(&identity, &keys, Ways::of(&identity, Some(&list)), &host.clock);
    let due = |identity: &Identity| {
        is_due(identity, link.authorities().first(), host.clock.now()).unwrap()
    };
    assert!(due(&identity));
    let issued = new.certificate.clone();
    old.answers().renew = Some(Box::new(move |request| {
        Ok(RenewReply { certificates: new.issue(&request.certificate_request, GOOD) })
    }));
    let renewed = renew(&link, &identity, &keys, &host.folder(), &host.clock).await.unwrap();
    assert_eq!(renewed.certificates.last(), Some(&issued));
    assert!(!due(&renewed));
}

#[tokio::test]
async fn whoever_cannot_prove_to_be_the_server_is_asked_for_metadata_and_told_nothing() {
    use crate::trusted::Source as _;
    let (old, host, identity, keys) = enrolled().await;
    let stranger = FakeServer::start(Arc::new(Authority::new()), GOOD).await;
    answer_syncs(&stranger);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let note = asked.clone();
    stranger.answers().metadata = Some(Box::new(move |request| {
        note.lock().unwrap().push(request.role);
        Ok(GetMetadataReply { file: ROOT.to_vec() })
    }));
    let list = signed_list(&[stranger.address.to_string()], &[&old.authority]);
    let ways = Ways::of(&identity, Some(&list));
    let link = link_of(&identity, &keys, ways, &host.clock);
    let error = link.sync(SyncRequest::default()).await.unwrap_err();
    assert!(error.is_impostor(), "no report reaches it: {error}");
    let whoever = link.stranger();
    let root = whoever.metadata(&refit_proto::trust::Role::Root, Some(1), 1000).await.unwrap();
    assert_eq!(root.as_deref(), Some(ROOT));
    assert_eq!(*asked.lock().unwrap(), ["root"]);
}

#[tokio::test]
async fn what_stands_before_the_server_and_sheds_is_left_alone_for_as_long_as_it_asks() {
    const AFTER: (&str, &str) = ("retry-after", "90");
    let (server, host, identity, keys) = enrolled().await;
    answer_syncs(&server);
    for (status, headers, rests) in [
        (429, vec![AFTER], 90),
        (502, vec![AFTER], 90),
        (503, vec![AFTER, ("content-type", "text/html")], 90),
        (504, vec![("retry-after", "999999")], 3600),
        (503, vec![], 0),
        // A server's own refusal says what it says.
        (200, vec![AFTER, ("grpc-status", "14"), ("grpc-retry-pushback-ms", "7000")], 90),
    ] {
        let link = link_of(&identity, &keys, Ways::of(&identity, None), &host.clock);
        server.answers().refused = Some((status, headers.clone()));
        let error = link.sync(SyncRequest::default()).await.unwrap_err();
        assert_eq!(error.trouble, Trouble::Weather, "{status} {headers:?}: {error}");
        assert_eq!(link.rests_for().as_secs(), rests, "{status} {headers:?}: {error}");
        server.answers().refused = None;
        link.sync(SyncRequest::default()).await.unwrap();
    }
    // No reason to be called more rarely where nothing of the kind was said.
    let link = link_of(&identity, &keys, Ways::of(&identity, None), &host.clock);
    server.answers().refused = Some((403, vec![AFTER]));
    let error = link.sync(SyncRequest::default()).await.unwrap_err();
    assert_eq!(error.trouble, Trouble::Barred, "{error}");
}
