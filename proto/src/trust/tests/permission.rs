//! What a host may install, and above all what it may not.

use jiff::SignedDuration;
use serde_json::json;

use crate::{
    names::{Digest, Labels, Product},
    policy::ProductPolicy,
    trust::{
        permission::{Closed, Denied, Permission, permit, trusted_policy},
        role::Role,
        set::TrustedSet,
        testing::{TestHost, TestRepository, amend, role},
    },
};

const PAYMENTS: [&str; 3] = ["policy", "release.payments", "ring.payments.pilot"];
const POLICY: &[u8] = br#"{"_type":"policy","format":1,"product":"payments","rings":[{"ring":"pilot","select":{"labels":{"pilot":["yes"]}}}]}"#;

fn payments() -> Product {
    "payments".parse().unwrap()
}

fn labels(pilot: &str) -> Labels {
    [("pilot".parse().unwrap(), pilot.parse().unwrap())].into_iter().collect()
}

fn set(repository: &TestRepository) -> TrustedSet {
    TestHost::new(repository).refresh(repository, &PAYMENTS).unwrap()
}

fn permitted(repository: &TestRepository) -> Result<Permission, Denied> {
    let set = set(repository);
    let policy = trusted_policy(&set, &payments(), POLICY)?;
    permit(&set, &policy, &labels("yes"), &payments(), repository.now)
}

fn plant(repository: &mut TestRepository, name: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let role = role(name);
    let mut version = 0;
    let file = amend(&repository.held[&role], &role, &[name], |file| {
        version = file["version"].as_u64().unwrap() + 1;
        file["version"] = json!(version);
        change(file);
    });
    repository.plant(&role, version, file);
}

#[test]
fn a_host_may_install_its_rings_current_and_back_and_nothing_else() {
    let mut repository = TestRepository::with_payments();
    for version in ["1.1", "1.2", "1.3"] {
        repository.release(version);
    }
    repository.promote("1.1").unwrap();
    repository.promote("1.2").unwrap();
    let permission = permitted(&repository).unwrap();
    assert_eq!(permission.ring.as_str(), "pilot");
    assert_eq!(permission.current.as_ref().unwrap().digest, Digest::of(b"1.2"));
    assert_eq!(permission.back.as_ref().unwrap().digest, Digest::of(b"1.1"));
    assert!(permission.allows(&Digest::of(b"1.2")).is_some());
    // Released but not promoted, or promoted once and dropped since.
    for other in ["1.3", "1.0", "6.6.6"] {
        assert!(permission.allows(&Digest::of(other.as_bytes())).is_none(), "{other}");
    }
}

#[test]
fn a_host_that_no_ring_selects_is_left_alone() {
    let repository = TestRepository::with_payments();
    let set = set(&repository);
    let policy = trusted_policy(&set, &payments(), POLICY).unwrap();
    for labels in [labels("no"), Labels::new()] {
        let denied = permit(&set, &policy, &labels, &payments(), repository.now).unwrap_err();
        assert!(matches!(denied, Denied::NoRing(_)));
    }
}

#[test]
fn a_policy_that_is_not_signed_decides_nothing() {
    let repository = TestRepository::with_payments();
    let set = set(&repository);
    let forged = String::from_utf8(POLICY.to_vec()).unwrap().replace("yes", "no");
    assert!(matches!(
        trusted_policy(&set, &payments(), forged.as_bytes()),
        Err(Denied::OtherPolicy { .. })
    ));
    let other: Product = "search".parse().unwrap();
    assert!(matches!(trusted_policy(&set, &other, POLICY), Err(Denied::NoPolicy(_))));
    // A policy for one product that is signed under the name of another.
    let mut swapped = repository.clone();
    swapped.edit("policy", |draft| draft.set_policy("search.json", POLICY).unwrap());
    assert!(matches!(
        trusted_policy(&self::set(&swapped), &other, POLICY),
        Err(Denied::OtherPolicy { .. })
    ));
    let policy = ProductPolicy::parse(POLICY).unwrap();
    assert!(permit(&set, &policy, &labels("yes"), &other, repository.now).is_err());
}

#[test]
fn a_withdrawn_release_is_not_installed() {
    let mut repository = TestRepository::with_payments();
    repository
        .edit("release.payments", |draft| draft.remove_release(&"1.0".parse().unwrap()).unwrap());
    let permission = permitted(&repository).unwrap();
    assert_eq!(permission.current, None);
    assert!(matches!(permission.closed[..], [Closed::NotReleased { .. }]));
    assert!(permission.allows(&Digest::of(b"1.0")).is_none());
}

/// swupdate-mix-and-match.
#[test]
fn a_ring_alone_cannot_bring_other_bytes_than_were_released() {
    for change in [
        |target: &mut serde_json::Value| {
            target["hashes"]["sha256"] = json!(Digest::of(b"evil").to_string())
        },
        |target: &mut serde_json::Value| target["length"] = json!(4),
    ] {
        let mut repository = TestRepository::with_payments();
        plant(&mut repository, "ring.payments.pilot", |file| {
            change(&mut file["targets"]["rings/payments/pilot/1.0.json"]);
        });
        let permission = permitted(&repository).unwrap();
        assert_eq!(permission.current, None);
        assert!(matches!(permission.closed[..], [Closed::OtherBytes { .. }]));
    }
}

#[test]
fn release_keys_alone_cannot_bring_anything_to_a_host() {
    let mut repository = TestRepository::with_payments();
    repository.release("6.6.6");
    let permission = permitted(&repository).unwrap();
    assert!(permission.allows(&Digest::of(b"6.6.6")).is_none());
}

#[test]
fn an_unknown_required_feature_is_refused_by_name_and_unknown_members_are_ignored() {
    let mut repository = TestRepository::with_payments();
    plant(&mut repository, "ring.payments.pilot", |file| {
        file["targets"]["rings/payments/pilot/1.0.json"]["custom"]["later"] = json!({ "x": 1 });
    });
    assert!(permitted(&repository).unwrap().current.is_some());
    plant(&mut repository, "ring.payments.pilot", |file| {
        file["targets"]["rings/payments/pilot/1.0.json"]["custom"]["required"] =
            json!(["telepathy"]);
    });
    let permission = permitted(&repository).unwrap();
    assert_eq!(permission.current, None);
    assert!(permission.closed[0].to_string().contains("telepathy"));
}

#[test]
fn a_standing_that_is_unknown_closes_the_ring() {
    for custom in [json!(null), json!([]), json!({}), json!({ "standing": "golden" })] {
        let mut repository = TestRepository::with_payments();
        plant(&mut repository, "ring.payments.pilot", |file| {
            file["targets"]["rings/payments/pilot/1.0.json"]["custom"] = custom.clone();
        });
        assert!(matches!(permitted(&repository), Err(Denied::Unusable { .. })), "{custom}");
    }
}

#[test]
fn nothing_new_begins_on_expired_metadata_whichever_file_it_is() {
    let repository = TestRepository::with_payments();
    let set = set(&repository);
    let policy = trusted_policy(&set, &payments(), POLICY).unwrap();
    let at = |now| permit(&set, &policy, &labels("yes"), &payments(), now);
    let timestamp = set.expires(&Role::Timestamp).unwrap();
    assert!(at(timestamp - SignedDuration::from_secs(1)).is_ok());
    assert!(matches!(at(timestamp), Err(Denied::Expired(_))));

    for name in ["policy", "release.payments", "ring.payments.pilot"] {
        let mut repository = TestRepository::with_payments();
        plant(&mut repository, name, |file| file["expires"] = json!("2026-01-01T06:00:00Z"));
        let set = self::set(&repository);
        let policy = trusted_policy(&set, &payments(), POLICY).unwrap();
        let at = |hours| {
            let now = repository.now + SignedDuration::from_hours(hours);
            permit(&set, &policy, &labels("yes"), &payments(), now)
        };
        assert!(at(5).is_ok(), "{name}");
        assert!(matches!(at(6), Err(Denied::Unusable { .. } | Denied::NoPolicyRole(_))), "{name}");
    }
}

#[test]
fn a_ring_without_promotions_says_so() {
    let mut repository = TestRepository::with_payments();
    repository.edit("ring.payments.pilot", |draft| draft.demote(&"1.0".parse().unwrap()).unwrap());
    assert!(matches!(permitted(&repository), Err(Denied::NothingPromoted { .. })));
}

#[test]
fn a_missing_or_refused_role_closes_and_says_which() {
    let repository = TestRepository::with_payments();
    for missing in PAYMENTS {
        let set = TestHost::new(&repository)
            .refresh_from(&PAYMENTS, repository.now, |request| {
                (request.role != role(missing)).then(|| repository.serve(request)).flatten()
            })
            .unwrap();
        let policy = ProductPolicy::parse(POLICY).unwrap();
        let denied =
            permit(&set, &policy, &labels("yes"), &payments(), repository.now).unwrap_err();
        assert!(denied.to_string().contains(missing), "{missing}: {denied}");
    }
}

/// Targets of the offline keys that delegate less to a role than it could sign.
fn narrow(repository: &mut TestRepository, name: &str, pattern: &str) {
    let mut version = 0;
    let file = amend(&repository.held[&Role::Targets], &Role::Targets, &["targets"], |file| {
        version = file["version"].as_u64().unwrap() + 1;
        file["version"] = json!(version);
        let roles = file["delegations"]["roles"].as_array_mut().unwrap();
        let role = roles.iter_mut().find(|role| role["name"] == name).unwrap();
        role["paths"] = json!([pattern]);
    });
    repository.plant(&Role::Targets, version, file);
}

#[test]
fn a_role_is_followed_no_further_than_it_was_delegated() {
    let mut repository = TestRepository::with_payments();
    narrow(&mut repository, "release.payments", "releases/payments/2.*");
    let permission = permitted(&repository).unwrap();
    assert!(matches!(permission.closed[..], [Closed::NotReleased { .. }]));

    let mut repository = TestRepository::with_payments();
    narrow(&mut repository, "ring.payments.pilot", "rings/payments/pilot/2.*");
    assert!(matches!(permitted(&repository), Err(Denied::Unusable { .. })));

    let mut repository = TestRepository::with_payments();
    narrow(&mut repository, "policy", "policy/labels.json");
    assert!(matches!(permitted(&repository), Err(Denied::NoPolicy(_))));
}
