//! Changes that wait for signatures: one for a role, shown with who is missing, until they are published,
//! withdrawn or seven days old. And the server's own keys, exchanged while it runs.

use std::time::Duration;

use jiff::SignedDuration;
use refit_proto::{
    names::Digest,
    trust::{
        LocalKey, PublicKey, Role, Signer as _, Stored, TrustedSet,
        change::{Base, ChangeFile},
        edit::{Draft, KeyList, RootKeys},
    },
    wire,
};
use tonic::{Code, Status};

use crate::{
    fleet::{Caller, Fleet},
    publisher::{Publisher, key, role},
};

fn holder(name: &str) -> LocalKey {
    LocalKey::from_seed(Digest::of(name.as_bytes()).as_bytes())
}

/// Bob and carol sign for a new ring together, and with them the policy.
async fn found() -> (Fleet, Publisher) {
    let fleet = Fleet::start().await;
    let mut publisher = Publisher::found(&fleet).await;
    let two = KeyList::new(["bob", "carol"].map(|name| holder(name).public().clone()), 2);
    let mut targets = publisher.draft(&fleet, &Role::Targets);
    targets.delegate(&role("release.other"), &two).unwrap();
    let holders = ["bob", "carol"].map(|name| (holder(name).public().id(), name.to_owned()));
    targets.name_holders(&holders.into());
    publisher.push(&fleet, &[targets]).await.unwrap();
    (fleet, publisher)
}

pub(crate) async fn roots(fleet: &Fleet, by: &Caller) -> Vec<Vec<u8>> {
    let mut roots = Vec::new();
    for version in 1.. {
        let request = wire::GetMetadataRequest { role: "root".into(), version };
        match fleet.repository(by).get_metadata(request).await {
            Ok(reply) => roots.push(reply.into_inner().file),
            Err(status) if status.code() == Code::NotFound => break,
            Err(status) => panic!("{status}"),
        }
    }
    roots
}

pub(crate) async fn change(fleet: &Fleet, publisher: &Publisher, drafts: &[&Draft]) -> ChangeFile {
    let mut base = Base { roots: roots(fleet, &publisher.person).await, ..Base::default() };
    let about = drafts.iter().map(|draft| draft.role().clone()).chain([Role::Targets]);
    for role in about.filter(|role| *role != Role::Root) {
        base.held.extend(publisher.held(&role).map(|file| (role, file)));
    }
    let steps = drafts.iter().map(|draft| (draft.role().clone(), draft.unsigned().unwrap()));
    ChangeFile::new("somebody".into(), fleet.now(), base, steps.collect())
}

pub(crate) async fn propose(
    fleet: &Fleet,
    by: &Caller,
    change: &ChangeFile,
) -> Result<wire::ChangeStatus, Status> {
    let request = wire::ProposeChangeRequest { change: change.to_bytes() };
    let reply = fleet.changes(by).propose_change(request).await?.into_inner();
    Ok(reply.status.unwrap())
}

/// What a holder does: fetches the change, judges it alone, and sends back a line.
async fn sign(
    fleet: &Fleet,
    by: &Caller,
    of: &str,
    name: &str,
) -> Result<wire::ChangeReply, Status> {
    let request = wire::GetChangeRequest { role: of.into() };
    let reply = fleet.changes(by).get_change(request).await?.into_inner();
    let change = ChangeFile::from_bytes(&reply.change).unwrap();
    let judged = change.judge(None, fleet.now()).unwrap();
    let lines = judged.sign(&holder(name)).unwrap();
    let signatures = lines.iter().map(ToString::to_string).collect();
    let request = wire::SignChangeRequest { role: of.into(), signatures };
    Ok(fleet.changes(by).sign_change(request).await?.into_inner())
}

async fn push(fleet: &Fleet, by: &Caller, change: &ChangeFile) -> Result<(), Status> {
    let files = change
        .steps()
        .iter()
        .map(|(role, file)| wire::MetadataFile { role: role.to_string(), file: file.clone() });
    let request = wire::PushMetadataRequest { files: files.collect() };
    fleet.repository(by).push_metadata(request).await.map(drop)
}

pub(crate) async fn shown(fleet: &Fleet, by: &Caller) -> wire::FleetStatus {
    fleet.status(by).get_fleet(wire::GetFleetRequest::default()).await.unwrap().into_inner()
}

/// Waits for what the leader does by itself.
pub(crate) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !done().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn one_change_of_a_role_is_open_until_its_holders_have_signed_it_and_it_is_published() {
    let (mut fleet, publisher) = found().await;
    let alice = &publisher.person;
    let first = Draft::first(role("release.other"), fleet.now()).unwrap();
    let change = change(&fleet, &publisher, &[&first]).await;
    let status = propose(&fleet, alice, &change).await.unwrap();
    assert_eq!((status.owner.as_str(), status.signatures_missing), ("person alice", 2));
    assert!(status.missing.iter().any(|who| who.starts_with("bob (")), "{:?}", status.missing);
    assert!(status.missing.iter().any(|who| who.starts_with("carol (")), "{:?}", status.missing);

    // A second one has to wait; the same one proposed again is the same one.
    let mut later = first.clone();
    later.expire_in_days(20);
    let other = self::change(&fleet, &publisher, &[&later]).await;
    let refused = propose(&fleet, alice, &other).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    let told = refused.message();
    assert!(
        told.contains("person alice") && told.contains("bob (") && told.contains("help:"),
        "{told}"
    );
    propose(&fleet, alice, &change).await.unwrap();

    // It outlives a restart, and the holders sign in their order.
    fleet.restart().await;
    let bob = fleet.person(alice, "bob", &["publisher"]).await;
    let half = sign(&fleet, &bob, "release.other", "carol").await.unwrap();
    assert_eq!(half.status.unwrap().signatures_missing, 1);
    assert_eq!(shown(&fleet, &bob).await.changes.len(), 1);
    let half = ChangeFile::from_bytes(&half.change).unwrap();
    assert!(push(&fleet, &bob, &half).await.is_err(), "one of two is not enough");
    let whole = sign(&fleet, &bob, "release.other", "bob").await.unwrap();
    assert_eq!(whole.status.unwrap().signatures_missing, 0);
    push(&fleet, &bob, &ChangeFile::from_bytes(&whole.change).unwrap()).await.unwrap();
    assert!(shown(&fleet, &bob).await.changes.is_empty());
    for words in [
        ["change propose", "release.other", "alice", "done"],
        ["change sign", "release.other", "bob", "done"],
        ["change publish", "release.other", "bob", "done"],
    ] {
        assert!(fleet.on_record(alice, &words).await, "{words:?}");
    }
}

#[tokio::test]
async fn a_signature_that_fits_nothing_is_refused_and_whoever_sent_it_is_on_record() {
    let (fleet, publisher) = found().await;
    let alice = &publisher.person;
    let first = Draft::first(role("release.other"), fleet.now()).unwrap();
    let change = change(&fleet, &publisher, &[&first]).await;
    propose(&fleet, alice, &change).await.unwrap();
    let mallory = fleet.person(alice, "mallory", &["publisher"]).await;
    let line = refit_proto::trust::change::SignatureLine {
        key: holder("bob").public().id(),
        signature: [7; 64],
    };
    let request = wire::SignChangeRequest {
        role: "release.other".into(),
        signatures: vec![line.to_string()],
    };
    let refused = fleet.changes(&mallory).sign_change(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(shown(&fleet, alice).await.changes[0].signatures_missing, 2);
    assert!(fleet.on_record(alice, &["change sign", "mallory", "fits nothing"]).await);
    // Who only looks signs nothing, and who may not publish proposes nothing.
    let viewer = fleet.person(alice, "victor", &["viewer"]).await;
    let refused = sign(&fleet, &viewer, "release.other", "bob").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let operator = fleet.person(alice, "olga", &["operator"]).await;
    assert_eq!(
        propose(&fleet, &operator, &change).await.unwrap_err().code(),
        Code::PermissionDenied
    );
}

#[tokio::test]
async fn a_change_is_withdrawn_by_its_owner_or_an_administrator_and_by_nobody_else() {
    let (fleet, publisher) = found().await;
    let alice = &publisher.person;
    let bob = fleet.person(alice, "bob", &["publisher"]).await;
    let carol = fleet.person(alice, "carol", &["publisher"]).await;
    let first = Draft::first(role("release.other"), fleet.now()).unwrap();
    let change = change(&fleet, &publisher, &[&first]).await;
    let withdraw = async |by: &Caller| {
        let request =
            wire::WithdrawChangeRequest { role: "release.other".into(), reason: "not now".into() };
        fleet.changes(by).withdraw_change(request).await.map(drop)
    };
    for who in [&bob, alice] {
        propose(&fleet, &bob, &change).await.unwrap();
        assert_eq!(withdraw(&carol).await.unwrap_err().code(), Code::PermissionDenied);
        withdraw(who).await.unwrap();
        assert!(shown(&fleet, alice).await.changes.is_empty());
        assert_eq!(withdraw(who).await.unwrap_err().code(), Code::NotFound);
    }
}

#[tokio::test]
async fn a_change_that_nobody_completes_lapses_after_seven_days() {
    let (fleet, publisher) = found().await;
    let alice = &publisher.person;
    let first = Draft::first(role("release.other"), fleet.now()).unwrap();
    let change = change(&fleet, &publisher, &[&first]).await;
    propose(&fleet, alice, &change).await.unwrap();
    fleet.pass(SignedDuration::from_hours(7 * 24 - 1));
    assert_eq!(shown(&fleet, alice).await.changes.len(), 1);
    fleet.pass(SignedDuration::from_hours(1));
    assert!(shown(&fleet, alice).await.changes.is_empty());
    let refused = sign(&fleet, alice, "release.other", "bob").await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    until("the end of the change is on record", async || {
        fleet.on_record(alice, &["change lapse", "release.other", "done"]).await
    })
    .await;
    propose(&fleet, alice, &change).await.unwrap();
}

#[tokio::test]
async fn a_change_that_was_overtaken_can_be_neither_signed_nor_proposed() {
    let (fleet, mut publisher) = found().await;
    let renewed = publisher.draft(&fleet, &Role::Targets);
    let change = change(&fleet, &publisher, &[&renewed]).await;
    propose(&fleet, &publisher.person, &change).await.unwrap();
    let mut other = renewed.clone();
    other.expire_in_days(90);
    publisher.push(&fleet, &[other]).await.unwrap();
    let alice = &publisher.person;
    assert!(shown(&fleet, alice).await.changes.is_empty());
    assert!(fleet.on_record(alice, &["change overtake", "targets", "done"]).await);
    let refused = propose(&fleet, alice, &change).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
}

#[tokio::test]
async fn snapshot_and_timestamp_are_renewed_at_half_of_their_life_and_nobody_is_warned() {
    let (fleet, mut publisher) = found().await;
    let mut soon = publisher.draft(&fleet, &Role::Targets);
    soon.expire_in_days(40);
    publisher.push(&fleet, &[soon]).await.unwrap();
    let alice = &publisher.person;
    let version = async |of: &str| {
        let status = shown(&fleet, alice).await;
        let file = status.metadata.into_iter().find(|file| file.role == of).unwrap();
        (file.version, file.warning)
    };
    let before = version("timestamp").await;
    fleet.pass(SignedDuration::from_hours(35));
    // A round of upkeep has passed when the server's own time has; it changed nothing.
    assert_eq!(version("timestamp").await.0, before.0);
    fleet.pass(SignedDuration::from_hours(1));
    until("the timestamp is renewed", async || version("timestamp").await.0 > before.0).await;
    assert_eq!(version("timestamp").await.1, "");
    assert_eq!(version("snapshot").await.1, "");
    // People are told a month before their roles expire.
    assert_eq!(version("targets").await.1, "");
    fleet.pass(SignedDuration::from_hours(9 * 24));
    assert_eq!(version("targets").await.1, "due");
    fleet.pass(SignedDuration::from_hours(30 * 24));
    assert_eq!(version("targets").await.1, "expired");
}

/// The thief has the old key; people name the new one, and the server goes over to it while it runs.
#[tokio::test]
async fn a_stolen_freshness_key_is_replaced_while_the_server_runs() {
    let (mut fleet, mut publisher) = found().await;
    let alice = &publisher.person;
    let prepare = wire::PrepareServerKeyRequest { name: "freshness".into() };
    let reply = fleet.changes(alice).prepare_server_key(prepare.clone()).await.unwrap();
    let fresh = PublicKey::from_json(reply.into_inner().key.as_bytes()).unwrap();
    // Nothing has changed before people say so.
    let server = fleet.admin(alice).get_server_keys(wire::GetServerKeysRequest {}).await.unwrap();
    assert_ne!(server.into_inner().keys["freshness"].as_bytes(), fresh.to_json());
    let mut root = publisher.draft(&fleet, &Role::Root);
    let list = |key: &PublicKey| KeyList::new([key.clone()], 1);
    let keys = RootKeys {
        root: list(key(&Role::Root).public()),
        targets: list(key(&Role::Targets).public()),
        snapshot: list(&fresh),
        timestamp: list(&fresh),
    };
    root.set_root_keys(&keys).unwrap();
    publisher.push(&fleet, &[root]).await.unwrap();
    let alice = &publisher.person;
    let server = fleet.admin(alice).get_server_keys(wire::GetServerKeysRequest {}).await.unwrap();
    assert_eq!(server.into_inner().keys["freshness"].as_bytes(), fresh.to_json());
    for restarted in [false, true] {
        if restarted {
            fleet.restart().await;
        }
        // What it renews is signed by the new key, and what is published too.
        fleet.pass(SignedDuration::from_hours(48));
        let alice = fleet.person(&publisher.person, &format!("a{restarted}"), &["viewer"]).await;
        until("the new key has signed a timestamp", async || {
            let status = shown(&fleet, &alice).await;
            status.metadata.iter().all(|file| file.warning.is_empty())
        })
        .await;
        let set = set(&fleet, &alice).await;
        assert!(set.timestamp().signers().contains(&fresh.id()));
        let renewed = publisher.draft(&fleet, &Role::Policy);
        publisher.push(&fleet, &[renewed]).await.unwrap();
    }
    // The next time it is another key.
    let again = fleet.changes(&publisher.person).prepare_server_key(prepare).await.unwrap();
    assert_ne!(again.into_inner().key.as_bytes(), fresh.to_json());
}

/// What the server holds, verified as a host verifies it.
async fn set(fleet: &Fleet, by: &Caller) -> TrustedSet {
    let mut files = Stored::new();
    let root = roots(fleet, by).await.pop().unwrap();
    files.insert(Role::Root, root);
    let get = async |role: &Role, version: u64| {
        let request = wire::GetMetadataRequest { role: role.to_string(), version };
        fleet.repository(by).get_metadata(request).await.unwrap().into_inner().file
    };
    files.insert(Role::Timestamp, get(&Role::Timestamp, 0).await);
    for file in shown(fleet, by).await.metadata {
        let role = Role::parse(&file.role).unwrap();
        if matches!(role, Role::Snapshot | Role::Targets) {
            let bytes = get(&role, file.version).await;
            files.insert(role, bytes);
        }
    }
    TrustedSet::load(&files, &[]).unwrap()
}
