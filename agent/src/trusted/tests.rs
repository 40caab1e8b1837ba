//! What a host may install is told by signatures alone, whatever the server does.

use std::{collections::BTreeMap, sync::Mutex};

use refit_proto::trust::{
    Role, Signer as _, Standing, Terms,
    client::Request,
    testing::{TestRepository, key},
};

use super::*;
use crate::{
    link::{
        CallError,
        testing::{at, clock},
    },
    update::Cause,
};

/// The root of a test repository begins in January and lasts a year.
const TODAY: &str = "2026-12-01T00:00:00Z";

/// A server over a test repository that can fail, or give other content.
struct TestServer {
    repository: TestRepository,
    content: BTreeMap<Digest, Vec<u8>>,
    /// Calls from now until one fails; `None`: none does.
    failing: Mutex<Option<u32>>,
}

impl TestServer {
    fn new() -> TestServer {
        let mut repository = TestRepository::with_payments();
        repository.now = at(TODAY);
        // What lasts half a year is signed anew.
        repository.delegate("policy", &["policy"], 1);
        repository.edit("policy", |_| {});
        repository.promote("1.0").unwrap();
        let mut server =
            TestServer { repository, content: BTreeMap::new(), failing: Mutex::new(None) };
        let policy = br#"{"_type":"policy","format":1,"product":"payments","rings":[{"ring":"pilot","select":{"labels":{"pilot":["yes"]}}}]}"#;
        server.add(policy);
        server
    }

    fn add(&mut self, bytes: &[u8]) {
        self.content.insert(Digest::of(bytes), bytes.to_vec());
    }

    fn fails(&self) -> Result<(), CallError> {
        let mut failing = self.failing.lock().unwrap();
        match failing.as_mut() {
            Some(0) => {
                *failing = None;
                Err(tonic::Status::unavailable("away").into())
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Source for TestServer {
    async fn metadata(
        &self,
        role: &Role,
        version: Option<u64>,
        max_length: u64,
    ) -> Result<Option<Vec<u8>>, CallError> {
        self.fails()?;
        let request = Request { role: role.clone(), version, max_length, pin: None };
        Ok(self.repository.serve(&request))
    }

    async fn content(&self, digest: &Digest, _: u64) -> Result<Vec<u8>, CallError> {
        self.fails()?;
        self.content
            .get(digest)
            .cloned()
            .ok_or_else(|| tonic::Status::not_found("no such content").into())
    }
}

struct Host {
    dir: tempfile::TempDir,
    holder: Holder,
}

impl Host {
    fn new(server: &TestServer, labels: &[(&str, &str)]) -> Host {
        let labels = labels.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
        let root = Digest::of(&server.repository.files[&(Role::Root, 1)]);
        let holder = Holder { host: HostId::of_public_key(b"host"), labels, root };
        Host { dir: tempfile::tempdir().unwrap(), holder }
    }

    fn pilot(server: &TestServer) -> Host {
        Host::new(server, &[("pilot", "yes")])
    }

    fn trust_at(&self, now: &str) -> Trust {
        let folder = TrustFolder::at(self.dir.path().join("trust"));
        Trust::load(folder, self.holder.clone(), clock(now))
    }

    fn trust(&self) -> Trust {
        self.trust_at(TODAY)
    }
}

fn payments() -> Product {
    "payments".parse().unwrap()
}

async fn refresh(trust: &Trust, server: &TestServer) -> Result<Arc<View>, RefreshError> {
    trust.refresh(server, &[payments()].into()).await
}

#[tokio::test]
async fn a_host_that_was_just_enrolled_learns_its_ring_and_what_it_permits_and_keeps_it() {
    let server = TestServer::new();
    let host = Host::pilot(&server);
    let view = refresh(&host.trust(), &server).await.unwrap();
    assert_eq!(view.ring(&payments()).unwrap().as_str(), "pilot");
    view.permit(&payments(), &Digest::of(b"1.0"), at(TODAY)).unwrap();
    // After a restart, without a server.
    let stored = host.trust().view().unwrap();
    assert_eq!(stored.ring(&payments()).unwrap().as_str(), "pilot");
    assert_eq!(stored.timestamp_version(), view.timestamp_version());
}

#[tokio::test]
async fn an_offer_outside_of_what_signatures_permit_is_refused() {
    let mut server = TestServer::new();
    server.repository.release("2.0");
    let host = Host::pilot(&server);
    let view = refresh(&host.trust(), &server).await.unwrap();
    for (release, why) in [("2.0", "released, not promoted"), ("9.9", "never signed")] {
        let denial = view.permit(&payments(), &Digest::of(release.as_bytes()), at(TODAY));
        assert!(matches!(denial, Err(Denial::NotNamed { .. })), "{why}: {denial:?}");
    }
    let other: Product = "other".parse().unwrap();
    view.permit(&other, &Digest::of(b"1.0"), at(TODAY)).unwrap_err();
    // A release that was withdrawn.
    server.repository.edit("release.payments", |draft| {
        draft.remove_release(&"1.0".parse().unwrap()).unwrap();
    });
    let view = refresh(&host.trust(), &server).await.unwrap();
    let denial = view.permit(&payments(), &Digest::of(b"1.0"), at(TODAY)).unwrap_err();
    assert!(matches!(denial, Denial::Closed(_)), "{denial}");
}

#[tokio::test]
async fn a_host_that_no_ring_selects_is_permitted_nothing() {
    let server = TestServer::new();
    for labels in [&[][..], &[("pilot", "no")], &[("role", "pilot")]] {
        let host = Host::new(&server, labels);
        let view = refresh(&host.trust(), &server).await.unwrap();
        assert_eq!(view.ring(&payments()), None);
        view.permit(&payments(), &Digest::of(b"1.0"), at(TODAY)).unwrap_err();
    }
}

#[tokio::test]
async fn whichever_call_fails_the_next_refresh_succeeds() {
    let server = TestServer::new();
    for failing in 0.. {
        let host = Host::pilot(&server);
        let trust = host.trust();
        *server.failing.lock().unwrap() = Some(failing);
        let failed = refresh(&trust, &server).await.is_err();
        let never_reached = server.failing.lock().unwrap().take().is_some();
        let view = refresh(&trust, &server).await.unwrap();
        view.permit(&payments(), &Digest::of(b"1.0"), at(TODAY)).unwrap();
        if never_reached {
            assert!(!failed && failing > 5, "every call has failed once");
            break;
        }
    }
}

/// CVE-2022-29173.
#[tokio::test]
async fn a_replayed_older_state_is_refused_and_what_was_known_stays() {
    let mut server = TestServer::new();
    let before = server.repository.clone();
    server.repository.release("1.1");
    server.repository.promote("1.1").unwrap();
    let host = Host::pilot(&server);
    refresh(&host.trust(), &server).await.unwrap();
    server.repository = before;
    let trust = host.trust();
    let error = refresh(&trust, &server).await.unwrap_err();
    assert!(error.to_string().contains("(rollback)"), "{error}");
    let view = trust.view().unwrap();
    view.permit(&payments(), &Digest::of(b"1.1"), at(TODAY)).unwrap();
}

#[tokio::test]
async fn when_the_metadata_has_expired_nothing_new_is_permitted() {
    let server = TestServer::new();
    let host = Host::pilot(&server);
    refresh(&host.trust(), &server).await.unwrap();
    let later = "2026-12-08T00:00:00Z";
    let trust = host.trust_at(later);
    let view = trust.view().unwrap();
    assert!(view.expired(at(later)));
    let denial = view.permit(&payments(), &Digest::of(b"1.0"), at(later)).unwrap_err();
    assert!(denial.is_expired(), "{denial}");
    // The server freezes its hosts: it serves the same for ever.
    let error = refresh(&trust, &server).await.unwrap_err();
    assert!(error.to_string().contains("(freeze)"), "{error}");
    assert_eq!(view.ring(&payments()).unwrap().as_str(), "pilot", "who it is does not expire");
}

/// CVE-2019-3462.
#[tokio::test]
async fn another_policy_file_than_the_signed_one_closes_the_product() {
    let mut server = TestServer::new();
    for bytes in server.content.values_mut() {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text.replace("yes", "YES").into_bytes();
    }
    let host = Host::new(&server, &[("pilot", "YES")]);
    let view = refresh(&host.trust(), &server).await.unwrap();
    assert_eq!(view.ring(&payments()), None);
    view.permit(&payments(), &Digest::of(b"1.0"), at(TODAY)).unwrap_err();
}

#[tokio::test]
async fn a_first_root_that_is_not_the_tokens_is_refused_and_not_stored() {
    let server = TestServer::new();
    let mut host = Host::pilot(&server);
    host.holder.root = Digest::of(b"the administrator's own");
    let error = refresh(&host.trust(), &server).await.unwrap_err();
    assert!(matches!(error, RefreshError::OtherRoot { .. }), "{error}");
    assert!(!TrustFolder::at(host.dir.path().join("trust")).has_root().unwrap());
}

#[tokio::test]
async fn a_damaged_file_is_fetched_again() {
    let server = TestServer::new();
    let host = Host::pilot(&server);
    refresh(&host.trust(), &server).await.unwrap();
    let folder = host.dir.path().join("trust");
    for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            let whole = std::fs::read(entry.path()).unwrap();
            std::fs::write(entry.path(), &whole[..whole.len() / 2]).unwrap();
            let view = refresh(&host.trust(), &server).await;
            let view = view.unwrap_or_else(|error| panic!("{:?}: {error}", entry.file_name()));
            view.permit(&payments(), &Digest::of(b"1.0"), at(TODAY)).unwrap();
        }
    }
}

#[tokio::test]
async fn the_signed_list_of_servers_is_taken_kept_and_given_up_only_where_nobody_signs_it_any_more()
{
    use refit_proto::servers::{Authority, ServersPolicy};
    let authority = crate::link::testing::Authority::new().certificate;
    let authorities = vec![Authority::from_der(&authority).unwrap()];
    let list = ServersPolicy::new(vec!["b.example:1".parse().unwrap()], Vec::new(), authorities);
    let list = list.unwrap();
    let sign = |server: &mut TestServer, bytes: &[u8]| {
        server.repository.edit("policy", |draft| draft.set_policy("servers.json", bytes).unwrap());
        server.add(bytes);
    };

    let mut server = TestServer::new();
    let host = Host::pilot(&server);
    let trust = host.trust();
    assert_eq!(refresh(&trust, &server).await.unwrap().servers(), &Servers::NotNamed);
    sign(&mut server, &list.to_bytes());
    let named = Servers::Named(list.clone());
    assert_eq!(refresh(&trust, &server).await.unwrap().servers(), &named);
    // After a restart without anybody to ask, and while it is no product.
    let view = host.trust().view().unwrap();
    assert_eq!(view.servers(), &named);
    assert_eq!(view.rings().count(), 1);
    // What can't be followed says nothing, and least of all "none".
    sign(&mut server, br#"{"_type":"servers","format":2}"#);
    assert_eq!(refresh(&trust, &server).await.unwrap().servers(), &Servers::Unknown);
    let other = Digest::of(br#"{"_type":"servers","format":2}"#);
    server.content.insert(other, list.to_bytes());
    std::fs::remove_file(host.dir.path().join("trust/policy/servers.json")).unwrap();
    assert_eq!(refresh(&trust, &server).await.unwrap().servers(), &Servers::Unknown);
}

/// The policy with what a ring asks for, signed.
fn set_policy(server: &mut TestServer, rules: &str) {
    let policy = format!(
        r#"{{"_type":"policy","format":1,"required":["approvals"],"product":"payments","rings":[
            {{"ring":"pilot","select":{{"labels":{{"pilot":["yes"]}}}},"rules":{rules}}},
            {{"ring":"first","select":"every-host"}}],
            "persons":{{"alice":{{"keys":{{"{}":["business"]}}}}}}}}"#,
        key("alice").public().id()
    );
    server
        .repository
        .edit("policy", |draft| draft.set_policy("payments.json", policy.as_bytes()).unwrap());
    server.add(policy.as_bytes());
}

#[tokio::test]
async fn what_a_ring_asks_of_a_promotion_is_asked_by_the_host_and_named() {
    let mut server = TestServer::new();
    server.repository.delegate("ring.payments.first", &["alice"], 1);
    let host = Host::pilot(&server);
    let cause = async |server: &TestServer| {
        let view = refresh(&host.trust(), server).await.unwrap();
        // And just so from what is stored.
        let stored = host.trust().view().unwrap();
        let ask = |view: &View| view.permit(&payments(), &Digest::of(b"1.0"), at(TODAY));
        assert_eq!(ask(&view).is_ok(), ask(&stored).is_ok());
        ask(&view).err().map(|denial| (denial.cause(), denial.to_string()))
    };
    assert_eq!(cause(&server).await, None);

    // The ring's key is of nobody.
    set_policy(&mut server, r#"{"kinds":["business"]}"#);
    let (named, text) = cause(&server).await.unwrap();
    assert_eq!(named, Cause::NotApproved, "{text}");
    server.repository.delegate("ring.payments.pilot", &["ring.payments.pilot", "alice"], 1);
    server.repository.promote("1.0").unwrap();
    assert_eq!(cause(&server).await, None);

    set_policy(&mut server, r#"{"demands":["security"]}"#);
    let (named, text) = cause(&server).await.unwrap();
    assert_eq!(named, Cause::NotProven, "{text}");

    // Of the ring before, the host fetches the file by itself.
    set_policy(&mut server, r#"{"after":["first"]}"#);
    let (named, text) = cause(&server).await.unwrap();
    assert_eq!(named, Cause::NotPermitted, "{text}");
    let releases = server.repository.release_file();
    let mut draft = server.repository.draft("ring.payments.first");
    let terms = Terms::new(Standing::Current);
    draft.promote(&releases, &"1.0".parse().unwrap(), 1, terms).unwrap();
    let first = (Role::parse("ring.payments.first").unwrap(), server.repository.sign(&draft));
    server.repository.push(&[first]).unwrap();
    assert_eq!(cause(&server).await, None);
}

/// What a host of the fleet is told by a server that somebody else runs, with keys of their own.
async fn foreign() -> TestServer {
    let mut server = TestServer::new();
    let ids = server.repository.files.remove(&(Role::Root, 1)).unwrap();
    let mut root: serde_json::Value = serde_json::from_slice(&ids).unwrap();
    root["signed"]["x-owner"] = "somebody else".into();
    let root = refit_proto::trust::testing::forge(&root["signed"], &["root"]);
    server.repository.files.insert((Role::Root, 1), root.clone());
    server.repository.held.insert(Role::Root, root);
    server
}

/// mender-no-keys-no-check.
#[tokio::test]
async fn a_host_whose_root_is_missing_empty_or_unreadable_installs_nothing_from_a_stranger() {
    type Harm = fn(&std::path::Path);
    let harms: [Harm; 4] = [
        |root| std::fs::remove_file(root).unwrap(),
        |root| std::fs::write(root, b"").unwrap(),
        |root| std::fs::write(root, b"{}").unwrap(),
        |root| {
            // Nobody can read a folder as a file, not even root.
            std::fs::remove_file(root).unwrap();
            std::fs::create_dir(root).unwrap();
        },
    ];
    for (number, harm) in harms.iter().enumerate() {
        let server = TestServer::new();
        let host = Host::pilot(&server);
        refresh(&host.trust(), &server).await.unwrap();
        harm(&host.dir.path().join("trust/root.json"));
        let trust = host.trust();
        assert!(trust.view().is_none(), "{number}: nothing is trusted without a root");
        let error = refresh(&trust, &foreign().await).await.unwrap_err();
        assert!(
            matches!(error, RefreshError::OtherRoot { .. } | RefreshError::File(_)),
            "{number}: {error}"
        );
        assert!(trust.view().is_none(), "{number}");
    }
}

/// CVE-2016-1252.
#[tokio::test]
async fn a_signed_file_that_cannot_be_read_is_an_error_and_never_an_absent_one() {
    let mut server = TestServer::new();
    let before = server.repository.clone();
    server.repository.release("1.1");
    server.repository.promote("1.1").unwrap();
    let host = Host::pilot(&server);
    refresh(&host.trust(), &server).await.unwrap();
    // An older state is served: with what the host has seen it is a rollback, without it looks new.
    server.repository = before;
    let folder = host.dir.path().join("trust");
    let mut tried = 0;
    for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if !entry.file_type().unwrap().is_file() {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let trust = host.trust();
        let error = refresh(&trust, &server).await.unwrap_err();
        assert!(matches!(error, RefreshError::File(_)), "{}: {error}", path.display());
        assert!(trust.view().is_none(), "{}", path.display());
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
        tried += 1;
    }
    assert!(tried >= 6, "{tried}");
    // Nor the folder itself.
    std::fs::rename(&folder, host.dir.path().join("aside")).unwrap();
    std::fs::write(&folder, b"no folder").unwrap();
    let error = refresh(&host.trust(), &server).await.unwrap_err();
    // Noticed when it is read, not when something is to be written there.
    assert!(error.to_string().starts_with("cannot list"), "{error}");
}

#[tokio::test]
async fn a_server_or_mirror_that_serves_the_timestamp_of_a_bundle_is_refused_and_named() {
    let mut server = TestServer::new();
    let host = Host::pilot(&server);
    let valid = jiff::SignedDuration::from_hours(8 * 24);
    let bundled = server.repository.for_bundle(valid).unwrap();
    let newest = server.repository.held.clone();
    server.repository.held.insert(Role::Timestamp, bundled.timestamp);
    server.repository.held.insert(Role::Snapshot, bundled.snapshot);
    let error = refresh(&host.trust(), &server).await.unwrap_err().to_string();
    assert!(error.contains("longer than is taken from here (freeze)"), "{error}");
    assert!(host.trust().view().is_none(), "it was kept");
    server.repository.held = newest;
    refresh(&host.trust(), &server).await.unwrap();
}
