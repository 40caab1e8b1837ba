//! Publishing: all of it or nothing, never over somebody else, and never something that is not whole.

use prost::Message as _;
use refit_proto::{names::Digest, package::FileRef, wire};
use tonic::{Code, Status};

use crate::{
    fleet::Fleet,
    publisher::{Publisher, policy, role},
};

fn code(answer: Result<(), Status>) -> Code {
    answer.expect_err("taken").code()
}

async fn versions(fleet: &Fleet, publisher: &Publisher) -> Vec<String> {
    let request = wire::GetFleetRequest::default();
    let status = fleet.status(&publisher.person).get_fleet(request).await.unwrap().into_inner();
    let releases = status.products.into_iter().flat_map(|product| product.releases);
    releases.map(|release| release.version).collect()
}

#[tokio::test]
async fn a_published_release_and_its_rings_outlive_a_restart() {
    let mut fleet = Fleet::start().await;
    let mut publisher = Publisher::found(&fleet).await;
    let document = publisher.build(&fleet, "1.0", 1, b"program").await;
    publisher.upload(&fleet, &document).await.unwrap();
    publisher.publish(&fleet, "1.0", &document).await.unwrap();
    publisher.promote(&fleet, "1.0", "pilot").await.unwrap();
    fleet.restart().await;
    assert_eq!(versions(&fleet, &publisher).await, ["1.0"]);
    let record = ["release publish", "payments 1.0", "alice", "done"];
    assert!(fleet.on_record(&publisher.person, &record).await);
    let record = ["release promote", "payments 1.0 to pilot", "alice", "done"];
    assert!(fleet.on_record(&publisher.person, &record).await);
}

#[tokio::test]
async fn a_release_that_names_what_is_not_here_is_refused_and_nothing_is_stored() {
    let fleet = Fleet::start().await;
    let mut publisher = Publisher::found(&fleet).await;
    // The document itself was never uploaded.
    let document = publisher.build(&fleet, "1.0", 1, b"program").await;
    let answer = publisher.publish(&fleet, "1.0", &document).await;
    assert_eq!(code(answer), Code::FailedPrecondition);
    assert!(versions(&fleet, &publisher).await.is_empty());
    let read = wire::GetMetadataRequest { role: "release.payments".into(), version: 1 };
    let held = fleet.repository(&publisher.person).get_metadata(read).await;
    assert_eq!(held.unwrap_err().code(), Code::NotFound);
    // It is whole now, and the same push is taken.
    publisher.upload(&fleet, &document).await.unwrap();
    publisher.publish(&fleet, "1.0", &document).await.unwrap();
}

#[tokio::test]
async fn a_document_under_anothers_path_is_refused() {
    let fleet = Fleet::start().await;
    let mut publisher = Publisher::found(&fleet).await;
    let document = publisher.build(&fleet, "1.0", 1, b"program").await;
    publisher.upload(&fleet, &document).await.unwrap();
    assert_eq!(code(publisher.publish(&fleet, "2.0", &document).await), Code::InvalidArgument);
}

#[tokio::test]
async fn a_version_never_stands_for_other_bytes_not_even_after_it_was_withdrawn() {
    let fleet = Fleet::start().await;
    let mut publisher = Publisher::found(&fleet).await;
    let first = publisher.build(&fleet, "1.0", 1, b"program").await;
    publisher.upload(&fleet, &first).await.unwrap();
    publisher.publish(&fleet, "1.0", &first).await.unwrap();
    let mut draft = publisher.draft(&fleet, &role("release.payments"));
    draft.remove_release(&"1.0".parse().unwrap()).unwrap();
    publisher.push(&fleet, &[draft]).await.unwrap();

    let other = publisher.build(&fleet, "1.0", 2, b"another").await;
    publisher.upload(&fleet, &other).await.unwrap();
    assert_eq!(code(publisher.publish(&fleet, "1.0", &other).await), Code::AlreadyExists);
    publisher.publish(&fleet, "1.0", &first).await.unwrap();
}

#[tokio::test]
async fn the_second_of_two_publishers_is_told_who_was_faster() {
    let fleet = Fleet::start().await;
    let mut alice = Publisher::found(&fleet).await;
    let one = alice.build(&fleet, "1.0", 1, b"one").await;
    let two = alice.build(&fleet, "2.0", 2, b"two").await;
    alice.upload(&fleet, &one).await.unwrap();
    alice.upload(&fleet, &two).await.unwrap();
    let mut late = alice.draft(&fleet, &role("release.payments"));
    late.add_release(&"2.0".parse().unwrap(), &two).unwrap();
    alice.publish(&fleet, "1.0", &one).await.unwrap();

    let status = alice.push(&fleet, &[late]).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    let conflict = wire::Conflict::decode(status.details()).unwrap();
    let wire::Conflict { role, held_version, published_by, published_at } = conflict;
    assert_eq!((role.as_str(), held_version), ("release.payments", 1));
    assert_eq!(published_by, "person alice");
    assert_eq!(published_at, fleet.now().to_string());
    assert_eq!(versions(&fleet, &alice).await, ["1.0"]);
}

#[tokio::test]
async fn the_same_push_after_a_lost_answer_is_taken_and_changes_nothing() {
    let fleet = Fleet::start().await;
    let mut publisher = Publisher::found(&fleet).await;
    let document = publisher.build(&fleet, "1.0", 1, b"program").await;
    publisher.upload(&fleet, &document).await.unwrap();
    let mut draft = publisher.draft(&fleet, &role("release.payments"));
    draft.add_release(&"1.0".parse().unwrap(), &document).unwrap();
    let again = draft.clone();
    publisher.push(&fleet, &[draft]).await.unwrap();
    let before = fleet.audit(&publisher.person).await.len();
    publisher.push(&fleet, &[again]).await.unwrap();
    assert_eq!(fleet.audit(&publisher.person).await.len(), before);
}

#[tokio::test]
async fn content_that_is_not_what_it_says_is_not_stored() {
    let fleet = Fleet::start().await;
    let publisher = Publisher::found(&fleet).await;
    let named = FileRef::to(b"program");
    let longer = FileRef { length: named.length + 1, ..named };
    let huge = FileRef { length: u64::MAX, ..named };
    for (file, plain) in [(named, &b"another"[..]), (longer, b"program"), (huge, b"program")] {
        let answer = publisher.upload_as(&fleet, file, plain).await;
        assert_eq!(code(answer), Code::InvalidArgument);
        let asked = wire::MissingContentRequest { sha256: vec![file.sha256.as_bytes().to_vec()] };
        let mut repository = fleet.repository(&publisher.person);
        let missing = repository.missing_content(asked).await.unwrap().into_inner();
        assert_eq!(missing.sha256.len(), 1);
    }
}

#[tokio::test]
async fn content_goes_on_from_where_a_download_was_cut() {
    let fleet = Fleet::start().await;
    let publisher = Publisher::found(&fleet).await;
    let plain: Vec<u8> =
        (0..400_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let file = publisher.upload(&fleet, &plain).await.unwrap();
    let host = fleet.host(&publisher.person, "web-1").await;
    let (mut frame, mut length) = (Vec::new(), u64::MAX);
    // One piece of each answer arrives.
    while (frame.len() as u64) < length {
        let request = wire::GetContentRequest {
            sha256: file.sha256.as_bytes().to_vec(),
            offset: frame.len() as u64,
        };
        let mut pieces = fleet.repository(&host).get_content(request).await.unwrap().into_inner();
        let piece = pieces.message().await.unwrap().unwrap();
        length = piece.frame_length;
        frame.extend(piece.data);
    }
    assert_eq!(Digest::of(&zstd::decode_all(&frame[..]).unwrap()), file.sha256);
}

#[tokio::test]
async fn a_ring_that_the_policy_drops_is_gone_and_its_hosts_are_in_no_ring() {
    let fleet = Fleet::start().await;
    let mut publisher = Publisher::found(&fleet).await;
    fleet.host(&publisher.person, "web-1").await;
    let rings = policy(&["early"]);
    publisher.upload(&fleet, &rings).await.unwrap();
    let mut draft = publisher.draft(&fleet, &role("policy"));
    draft.set_policy("payments.json", &rings).unwrap();
    publisher.push(&fleet, &[draft]).await.unwrap();
    let mut watch = fleet
        .status(&publisher.person)
        .watch_fleet(wire::GetFleetRequest::default())
        .await
        .unwrap()
        .into_inner();
    loop {
        let status = watch.message().await.unwrap().expect("the watch goes on");
        let rings: Vec<_> =
            status.products[0].rings.iter().map(|ring| ring.ring.as_str()).collect();
        assert_eq!(rings, ["early"]);
        if (status.hosts, status.hosts_without_ring) == (1, 1) {
            return;
        }
    }
}
