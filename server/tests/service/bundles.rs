//! Timestamps for bundles: long-lived, on the record, and never served to anybody.

use jiff::{SignedDuration, Timestamp};
use refit_proto::wire;
use tonic::Code;

use crate::{fleet::Fleet, publisher::Publisher};

const DAY: u64 = 24 * 3600;

fn request(days: u64) -> wire::SignForBundleRequest {
    wire::SignForBundleRequest { valid_seconds: days * DAY, what: "payments 1.0 on pilot".into() }
}

/// Version and expiry of a timestamp.
struct Signed {
    version: u64,
    expires: Timestamp,
}

fn timestamp(bytes: &[u8]) -> Signed {
    let file: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    let signed = &file["signed"];
    assert_eq!(signed["_type"], "timestamp");
    let expires = signed["expires"].as_str().unwrap().parse().unwrap();
    Signed { version: signed["version"].as_u64().unwrap(), expires }
}

async fn served(fleet: &Fleet, publisher: &Publisher) -> Signed {
    let request = wire::GetMetadataRequest { role: "timestamp".into(), version: 0 };
    let reply = fleet.repository(&publisher.person).get_metadata(request).await.unwrap();
    timestamp(&reply.into_inner().file)
}

#[tokio::test]
async fn a_bundles_timestamp_is_on_record_with_the_person_and_is_never_the_one_that_is_served() {
    let fleet = Fleet::start().await;
    let publisher = Publisher::found(&fleet).await;
    let oscar = fleet.person(&publisher.person, "oscar", &["operator"]).await;
    let before = served(&fleet, &publisher).await;
    let reply = fleet.admin(&oscar).sign_for_bundle(request(30)).await.unwrap().into_inner();
    let own = timestamp(&reply.timestamp);
    assert_eq!(own.expires, fleet.now() + SignedDuration::from_hours(30 * 24));
    assert_eq!(reply.expires.parse::<Timestamp>().unwrap(), own.expires);
    let after = served(&fleet, &publisher).await;
    assert!(before.version < own.version && own.version < after.version);
    assert!(after.expires <= fleet.now() + SignedDuration::from_hours(3 * 24));
    // By version it can't be had either.
    let asked = wire::GetMetadataRequest { role: "timestamp".into(), version: own.version };
    let by_version = fleet.repository(&oscar).get_metadata(asked).await;
    assert_eq!(by_version.unwrap_err().code(), Code::NotFound);
    let version = own.version.to_string();
    let words = ["oscar", "bundle sign", "payments 1.0 on pilot", &version, "2026-12-22", "done"];
    assert!(fleet.on_record(&publisher.person, &words).await, "{:?}", fleet.audit(&oscar).await);
}

#[tokio::test]
async fn more_than_thirty_days_or_another_role_is_refused_and_changes_nothing() {
    let fleet = Fleet::start().await;
    let publisher = Publisher::found(&fleet).await;
    let before = served(&fleet, &publisher).await;
    for days in [0, 31, u64::MAX / DAY] {
        let refused = fleet.admin(&publisher.person).sign_for_bundle(request(days)).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains("at most 30 days"), "{refused}");
    }
    for role in ["viewer", "approver", "administrator"] {
        let other = fleet.person(&publisher.person, role, &[role]).await;
        let refused = fleet.admin(&other).sign_for_bundle(request(1)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{role}: {refused}");
    }
    assert_eq!(served(&fleet, &publisher).await.version, before.version);
}
