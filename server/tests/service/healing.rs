//! A server that was put back to an older copy takes back what it once published, and nothing else.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use refit_proto::wire;
use tonic::Code;

use crate::{
    fleet::{Caller, Fleet},
    publisher::{Publisher, policy, role},
};

const ROLES: [&str; 6] =
    ["targets", "snapshot", "timestamp", "policy", "release.payments", "ring.payments.pilot"];

/// What a host that has seen everything holds.
async fn newest(fleet: &Fleet, by: &Caller) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let status = fleet.status(by).get_fleet(wire::GetFleetRequest::default()).await.unwrap();
    let versions: BTreeMap<String, u64> =
        status.into_inner().metadata.into_iter().map(|it| (it.role, it.version)).collect();
    // One that is lacking in any version is listed without one.
    let versions: BTreeMap<_, _> =
        versions.into_iter().filter(|(_, version)| *version > 0).collect();
    for name in ROLES {
        let Some(version) = versions.get(name) else { continue };
        let request = wire::GetMetadataRequest { role: name.into(), version: *version };
        let file = fleet.repository(by).get_metadata(request).await.unwrap().into_inner().file;
        files.insert(name.to_owned(), file);
    }
    files
}

fn offer(seen: &BTreeMap<String, Vec<u8>>, roles: &[&str]) -> wire::OfferMetadataRequest {
    let file = |name: &&str| wire::MetadataFile { role: (*name).into(), file: seen[*name].clone() };
    wire::OfferMetadataRequest {
        files: roles.iter().map(file).collect(),
        snapshot: seen["snapshot"].clone(),
        documents: vec![policy(&["pilot", "early"])],
    }
}

/// A fleet two publications on, and then put back; with what a host has seen of the later ones.
async fn put_back() -> (Fleet, Publisher, Caller, BTreeMap<String, Vec<u8>>) {
    let mut fleet = Fleet::start().await;
    let mut publisher = Publisher::found(&fleet).await;
    let host = fleet.host(&publisher.person, "web-1").await;
    let document = publisher.build(&fleet, "1.0", 1, b"program 1.0").await;
    publisher.upload(&fleet, &document).await.unwrap();
    publisher.publish(&fleet, "1.0", &document).await.unwrap();
    fleet.copy_store().await;
    fleet.pass(SignedDuration::from_mins(5));
    publisher.promote(&fleet, "1.0", "pilot").await.unwrap();
    let document = publisher.build(&fleet, "1.1", 2, b"program 1.1").await;
    publisher.upload(&fleet, &document).await.unwrap();
    publisher.publish(&fleet, "1.1", &document).await.unwrap();
    publisher.promote(&fleet, "1.1", "pilot").await.unwrap();
    let seen = newest(&fleet, &publisher.person).await;
    fleet.restart_on_copy().await;
    fleet.pass(SignedDuration::from_mins(5));
    (fleet, publisher, host, seen)
}

#[tokio::test]
async fn a_server_two_publications_old_asks_for_what_it_lacks_and_takes_it_back_from_a_host() {
    let (fleet, publisher, host, seen) = put_back().await;
    let held = |name: &str, version| wire::HeldMetadata { role: name.into(), version };
    let request = wire::SyncRequest {
        metadata: vec![
            held("release.payments", 2),
            held("ring.payments.pilot", 2),
            held("policy", 1),
        ],
        ..wire::SyncRequest::default()
    };
    let reply = fleet.agent(&host).sync(request.clone()).await.unwrap().into_inner();
    assert_eq!(reply.wanted_metadata, ["release.payments", "ring.payments.pilot"]);
    let lacking = || async {
        let mut status = fleet.status(&publisher.person);
        let status = status.get_fleet(wire::GetFleetRequest::default()).await.unwrap();
        let status = status.into_inner().metadata;
        status.into_iter().filter(|it| it.lacking > 0).map(|it| it.role).collect::<Vec<_>>()
    };

    // A part of it first: what is still lacking is said.
    let part = fleet.repository(&host).offer_metadata(offer(&seen, &["release.payments"])).await;
    let part = part.unwrap().into_inner();
    assert_eq!(part.lacking, [held("ring.payments.pilot", 2)]);
    fleet.repository(&host).offer_metadata(offer(&seen, &["ring.payments.pilot"])).await.unwrap();
    assert!(lacking().await.is_empty());
    let back = newest(&fleet, &publisher.person).await;
    for name in ["policy", "release.payments", "ring.payments.pilot"] {
        assert_eq!(back[name], seen[name], "{name}");
    }
    // Above what hosts have seen, so that none of them takes it for a rollback.
    let version = |files: &BTreeMap<String, Vec<u8>>, name: &str| {
        let file: serde_json::Value = serde_json::from_slice(&files[name]).unwrap();
        file["signed"]["version"].as_u64().unwrap()
    };
    for name in ["snapshot", "timestamp"] {
        assert!(version(&back, name) > version(&seen, name), "{name}");
    }
    fleet.pass(SignedDuration::from_mins(1));
    let reply = fleet.agent(&host).sync(request).await.unwrap().into_inner();
    assert!(reply.wanted_metadata.is_empty());
    assert!(fleet.on_record(&publisher.person, &["ring.payments.pilot 2"]).await);
}

#[tokio::test]
async fn what_the_servers_own_snapshot_does_not_pin_is_not_taken_back() {
    let (fleet, publisher, host, seen) = put_back().await;
    let taken = |message| async { fleet.repository(&host).offer_metadata(message).await };
    // Signed by the right keys, and never published: a signature alone is no publication.
    let mut draft = publisher.draft(&fleet, &role("release.payments"));
    draft.add_release(&"6.6.6".parse().unwrap(), b"never published").unwrap();
    let secret = publisher.signed(&draft);
    let mut unpublished = offer(&seen, &[]);
    unpublished.files = vec![wire::MetadataFile { role: "release.payments".into(), file: secret }];
    assert!(taken(unpublished).await.is_err());
    // A snapshot that others signed pins nothing.
    let mut forged = offer(&seen, &["release.payments"]);
    forged.snapshot =
        String::from_utf8(forged.snapshot).unwrap().replace("\"sig\":\"", "\"sig\":\"0").into();
    assert!(taken(forged).await.is_err());
    // One file in another's place, and one that was changed.
    let mut swapped = offer(&seen, &["release.payments"]);
    swapped.files[0].role = "ring.payments.pilot".into();
    assert!(taken(swapped).await.is_err());
    let mut changed = offer(&seen, &["release.payments"]);
    changed.files[0].file.push(b' ');
    assert!(taken(changed).await.is_err());
    // And from nobody at all.
    let mut nobody = wire::repository_client::RepositoryClient::new(fleet.channel(None));
    let refused = nobody.offer_metadata(offer(&seen, &["release.payments"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);

    let held = newest(&fleet, &publisher.person).await;
    assert_ne!(held["release.payments"], seen["release.payments"]);
    assert!(!held.contains_key("ring.payments.pilot"));
}
