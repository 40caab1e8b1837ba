//! Single files: malformed, over-signed, under-signed, signed by the wrong key or in the wrong way.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    names::Digest,
    trust::{
        Signer,
        error::TrustError,
        metadata::{Authority, Root, Targets, TimestampFile},
        role::Role,
        testing::{TestRepository, amend, key, role},
        verify::{Expected, verify, verify_root},
    },
};

fn root() -> Vec<u8> {
    TestRepository::new().held[&Role::Root].clone()
}

fn timestamp() -> Vec<u8> {
    TestRepository::new().held[&Role::Timestamp].clone()
}

fn authority(names: &[&str], threshold: u64) -> Authority {
    let keys: std::collections::BTreeMap<_, _> =
        names.iter().map(|name| (key(name).public().id(), key(name).public().clone())).collect();
    Authority { ids: keys.keys().copied().collect(), keys, threshold }
}

fn check(file: &[u8]) -> Result<u64, TrustError> {
    check_by(file, &authority(&["freshness"], 1))
}

fn check_by(file: &[u8], authority: &Authority) -> Result<u64, TrustError> {
    use crate::trust::metadata::Content;
    let expected = Expected { role: &Role::Timestamp, authority, pin: None };
    verify::<TimestampFile>(file, expected).map(|file| file.version())
}

fn with_signatures(file: &[u8], signatures: Value) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(file).unwrap();
    value["signatures"] = signatures;
    value.to_string().into_bytes()
}

fn signature(file: &[u8]) -> Value {
    serde_json::from_slice::<Value>(file).unwrap()["signatures"][0].clone()
}

/// CVE-2020-10759.
#[test]
fn a_file_without_a_signature_is_refused() {
    let file = timestamp();
    assert!(check(&file).is_ok());
    for none in [
        json!([]),
        json!([{ "keyid": key("freshness").public().id().to_string(), "sig": "" }]),
        json!([{ "keyid": key("freshness").public().id().to_string(), "sig": "zz" }]),
        json!([{ "keyid": key("thief").public().id().to_string(), "sig": signature(&file)["sig"] }]),
        json!([{ "keyid": "", "sig": signature(&file)["sig"] }]),
    ] {
        let error = check(&with_signatures(&file, none.clone())).unwrap_err();
        assert_eq!(
            error,
            TrustError::Unsigned { role: Role::Timestamp, valid: 0, threshold: 1 },
            "{none}"
        );
        assert_eq!(error.attack(), "arbitrary-software");
    }
}

/// CVE-2020-6173, CVE-2023-33957, CVE-2023-33958, CVE-2023-46737, CVE-2024-45395.
#[test]
fn ten_thousand_signatures_are_refused_before_any_is_verified() {
    let file = timestamp();
    let many: Vec<Value> =
        (0..10_000).map(|n| json!({ "keyid": format!("{n}"), "sig": "" })).collect();
    // In a timestamp they end at its size, in a root at their number.
    assert!(matches!(
        check(&with_signatures(&file, json!(many))),
        Err(TrustError::TooLong { role: Role::Timestamp, .. })
    ));
    assert!(matches!(
        verify_root(&with_signatures(&root(), json!(many)), None),
        Err(TrustError::TooMany { what: "signatures", .. })
    ));
    assert!(check(&with_signatures(&file, json!(many[..65]))).is_err());
    let mut enough = many[..63].to_vec();
    enough.push(signature(&file));
    assert!(check(&with_signatures(&file, json!(enough))).is_ok());
}

/// CVE-2020-15093, RUSTSEC-2020-0024, CVE-2020-6174.
#[test]
fn a_key_id_that_stands_twice_is_refused() {
    let file = timestamp();
    let twice = with_signatures(&file, json!([signature(&file), signature(&file)]));
    assert!(matches!(
        check_by(&twice, &authority(&["freshness"], 2)),
        Err(TrustError::Malformed { .. })
    ));
    assert!(check(&twice).is_err());
}

/// CVE-2020-15093, RUSTSEC-2020-0024, CVE-2020-6174, GHSA-3633-5h82-39pq, GO-2022-1004.
#[test]
fn one_key_under_two_ids_counts_once() {
    // The same key with an unknown member has another id, and both ids are right.
    let mut twin = key("freshness").public().to_value().clone();
    twin["comment"] = json!("twin");
    let twin = crate::trust::PublicKey::from_value(&twin);
    assert!(twin.is_usable() && twin.id() != key("freshness").public().id());
    let mut both = authority(&["freshness"], 2);
    both.ids.insert(twin.id());
    both.keys.insert(twin.id(), twin.clone());
    let file = timestamp();
    let mut again = signature(&file);
    again["keyid"] = json!(twin.id().to_string());
    let file = with_signatures(&file, json!([signature(&file), again]));
    assert_eq!(
        check_by(&file, &both),
        Err(TrustError::Unsigned { role: Role::Timestamp, valid: 1, threshold: 2 })
    );
}

/// GHSA-3633-5h82-39pq, GO-2022-1004.
#[test]
fn a_key_under_an_id_that_is_not_its_hash_is_refused() {
    let changed = amend(&root(), &Role::Root, &["root"], |root| {
        let thief = key("thief").public().to_value().clone();
        root["keys"][key("root").public().id().to_string()] = thief;
    });
    assert!(matches!(verify_root(&changed, None), Err(TrustError::KeyIdMismatch { .. })));
    let upper = amend(&root(), &Role::Root, &["root"], |root| {
        let id = key("root").public().id().to_string();
        let keys = root["keys"].as_object_mut().unwrap();
        let value = keys.remove(&id).unwrap();
        keys.insert(id.to_uppercase(), value);
    });
    assert!(matches!(verify_root(&upper, None), Err(TrustError::KeyIdMismatch { .. })));
}

/// CVE-2026-23992.
#[test]
fn a_threshold_of_zero_or_less_is_refused_in_root_and_in_delegations() {
    for bad in [json!(0), json!(-1), json!("1"), json!(null), json!(i64::MIN)] {
        let changed = amend(&root(), &Role::Root, &[], |root| {
            root["roles"]["root"]["threshold"] = bad.clone();
        });
        assert!(matches!(verify_root(&changed, None), Err(TrustError::Malformed { .. })), "{bad}");

        let repository = TestRepository::with_payments();
        let targets =
            amend(&repository.held[&Role::Targets], &Role::Targets, &["targets"], |file| {
                file["delegations"]["roles"][0]["threshold"] = bad.clone();
            });
        let signers = authority(&["targets"], 1);
        let expected = Expected { role: &Role::Targets, authority: &signers, pin: None };
        assert!(
            matches!(verify::<Targets>(&targets, expected), Err(TrustError::Malformed { .. })),
            "{bad}"
        );
    }
}

/// CVE-2015-9258.
#[test]
fn the_scheme_comes_from_the_trusted_key_alone() {
    let file = timestamp();
    let mut wordy = signature(&file);
    wordy["method"] = json!("none");
    wordy["scheme"] = json!("none");
    wordy["keytype"] = json!("rsa");
    // Words in the signature change nothing, for good or bad.
    assert!(check(&with_signatures(&file, json!([wordy]))).is_ok());
    wordy["sig"] = json!("");
    assert!(check(&with_signatures(&file, json!([wordy]))).is_err());
}

/// CVE-2015-9258.
#[test]
fn a_key_of_unknown_type_does_not_spoil_the_file_and_does_not_count() {
    let unknown =
        json!({ "keytype": "ml-dsa", "scheme": "ml-dsa-65", "keyval": { "public": "00" } });
    let id = crate::trust::PublicKey::from_value(&unknown).id().to_string();
    let change = |threshold: u64| {
        amend(&root(), &Role::Root, &["root"], |root| {
            root["keys"][&id] = unknown.clone();
            root["roles"]["root"]["keyids"].as_array_mut().unwrap().push(json!(id));
            root["roles"]["root"]["threshold"] = json!(threshold);
        })
    };
    assert!(verify_root(&change(1), None).is_ok());
    assert!(matches!(
        verify_root(&change(2), None),
        Err(TrustError::Unsigned { valid: 1, threshold: 2, .. })
    ));
}

#[test]
fn a_signature_for_one_role_is_not_valid_for_another() {
    // The same keys sign both in a small repository; `_type` keeps the files apart.
    let snapshot = TestRepository::new().held[&Role::Snapshot].clone();
    assert!(matches!(check(&snapshot), Err(TrustError::Malformed { .. })));
    let root = root();
    assert!(matches!(check_by(&root, &authority(&["root"], 1)), Err(TrustError::Malformed { .. })));
}

#[test]
fn unknown_members_are_signed_and_kept() {
    let file = amend(&timestamp(), &Role::Timestamp, &["freshness"], |file| {
        file["x-later"] = json!({ "a": [1, "ä"] });
    });
    let signers = authority(&["freshness"], 1);
    let expected = Expected { role: &Role::Timestamp, authority: &signers, pin: None };
    let trusted = verify::<TimestampFile>(&file, expected).unwrap();
    assert_eq!(trusted.signed()["x-later"]["a"][1], "ä");
    let mut value: Value = serde_json::from_slice(&file).unwrap();
    value["signed"]["x-later"]["a"][0] = json!(2);
    assert!(matches!(check(value.to_string().as_bytes()), Err(TrustError::Unsigned { .. })));
}

#[test]
fn only_the_major_version_1_of_the_specification_is_read() {
    for (spec, known) in [
        ("1.0.34", true),
        ("1.0", true),
        ("1.99.0", true),
        ("2.0.0", false),
        ("0.9", false),
        ("1", false),
        ("", false),
        ("1.", false),
        ("1.x", false),
        ("10.0", false),
        ("1.0.0.0", false),
        ("01.0", false),
    ] {
        let file = amend(&timestamp(), &Role::Timestamp, &["freshness"], |file| {
            file["spec_version"] = json!(spec);
        });
        let read = check(&file);
        assert_eq!(read.is_ok(), known, "{spec}");
        assert!(known || matches!(read, Err(TrustError::UnknownSpec { .. })), "{spec}");
    }
}

#[test]
fn dates_have_one_form() {
    for (date, good) in [
        ("2027-01-01T00:00:00Z", true),
        ("2024-02-29T23:59:59Z", true),
        ("2023-02-29T00:00:00Z", false),
        ("2027-01-01T00:00:60Z", false),
        ("2027-01-01T00:00:00.0Z", false),
        ("2027-01-01T00:00:00+00:00", false),
        ("2027-01-01t00:00:00z", false),
        ("2027-01-01 00:00:00Z", false),
        ("2027-1-1T00:00:00Z", false),
        ("2027-01-01T24:00:00Z", false),
        ("20270101T000000Z", false),
        ("+002027-01-01T00:00:00Z", false),
        (" 2027-01-01T00:00:00Z", false),
        ("2027-01-01T00:00:00Z[UTC]", false),
        ("", false),
    ] {
        let file = amend(&timestamp(), &Role::Timestamp, &["freshness"], |file| {
            file["expires"] = json!(date);
        });
        assert_eq!(check(&file).is_ok(), good, "{date}");
    }
}

#[test]
fn versions_begin_with_1() {
    for (version, good) in [
        (json!(1), true),
        (json!(i64::MAX), true),
        (json!(0), false),
        (json!(-1), false),
        (json!("1"), false),
    ] {
        let file = amend(&timestamp(), &Role::Timestamp, &["freshness"], |file| {
            file["version"] = version.clone();
        });
        assert_eq!(check(&file).is_ok(), good, "{version}");
    }
}

/// CVE-2020-7982.
#[test]
fn a_hash_that_is_empty_short_padded_or_upper_case_is_no_hash() {
    let good = Digest::of(b"x").to_string();
    let pinned = |hashes: Value| {
        let file = amend(&timestamp(), &Role::Timestamp, &["freshness"], |file| {
            file["meta"]["snapshot.json"]["hashes"] = hashes;
        });
        check(&file).is_ok()
    };
    assert!(pinned(json!({ "sha256": good })));
    assert!(pinned(json!({ "sha256": good, "blake2b-256": "later" })));
    for bad in [
        "",
        " ",
        &good[..12],
        &format!(" {}", &good[1..]),
        &good.to_uppercase(),
        &good.replace(|_: char| true, "g"),
    ] {
        assert!(!pinned(json!({ "sha256": bad })), "{bad:?}");
        assert!(!pinned(json!({ "sha256": good, "sha512": bad })), "{bad:?}");
    }
    assert!(!pinned(json!({})) && !pinned(json!([])) && !pinned(json!({ "md5": good })));
}

#[test]
fn a_release_role_lists_at_most_100_releases() {
    let repository = TestRepository::with_payments();
    let releases = role("release.payments");
    let fill = |count: usize| {
        let file = amend(&repository.held[&releases], &releases, &["release.payments"], |file| {
            let target = file["targets"]["releases/payments/1.0.json"].clone();
            for n in 1..count {
                file["targets"][format!("releases/payments/n{n}.json")] = target.clone();
            }
        });
        let signers = authority(&["release.payments"], 1);
        verify::<Targets>(&file, Expected { role: &releases, authority: &signers, pin: None })
            .map(|_| ())
    };
    assert_eq!(fill(100), Ok(()));
    assert!(matches!(fill(101), Err(TrustError::TooMany { what: "releases", limit: 100, .. })));
}

/// CVE-2021-41149, CVE-2021-41150.
#[test]
fn a_role_that_signs_foreign_or_unsafe_paths_is_refused_whole() {
    let repository = TestRepository::with_payments();
    let releases = role("release.payments");
    for path in [
        "policy/payments.json",
        "releases/search/1.0.json",
        "rings/payments/pilot/1.0.json",
        "releases/payments/a/1.0.json",
        "releases/payments/..",
        "releases/payments/a b",
        "/releases/payments/1.0.json",
    ] {
        let file = amend(&repository.held[&releases], &releases, &["release.payments"], |file| {
            let target = file["targets"]["releases/payments/1.0.json"].clone();
            file["targets"][path] = target;
        });
        let signers = authority(&["release.payments"], 1);
        let expected = Expected { role: &releases, authority: &signers, pin: None };
        let read = verify::<Targets>(&file, expected);
        assert!(matches!(read, Err(TrustError::Malformed { .. })), "{path}");
    }
}

/// CVE-2023-33957, CVE-2023-33958, CVE-2023-46737, CVE-2024-45395.
#[test]
fn a_role_has_at_most_64_keys() {
    let fill = |count: usize| {
        let ids: Vec<String> =
            (0..count).map(|n| Digest::of(&n.to_le_bytes()).to_string()).collect();
        let file = amend(&root(), &Role::Root, &["root"], |root| {
            root["roles"]["targets"]["keyids"] = json!(ids);
        });
        verify_root(&file, None).map(|_| ())
    };
    assert_eq!(fill(64), Ok(()));
    assert!(matches!(fill(65), Err(TrustError::TooMany { .. })));
}

/// Every member of a file replaced by values of another shape: refused or read, never a panic, and never
/// accepted with a signature that does not cover it.
/// CVE-2026-23991.
#[test]
fn valid_json_of_the_wrong_shape_is_refused_and_never_panics() {
    let repository = TestRepository::with_payments();
    let shapes = [
        json!(null),
        json!(-1),
        json!(i64::MAX),
        json!("x"),
        json!([[]]),
        json!({ "": [] }),
        json!([{}]),
    ];
    for (role, file) in &repository.held {
        let value: Value = serde_json::from_slice(file).unwrap();
        let mut pointers = Vec::new();
        collect_pointers(&value, String::new(), &mut pointers);
        for pointer in pointers {
            for shape in &shapes {
                let mut changed = value.clone();
                *changed.pointer_mut(&pointer).unwrap() = shape.clone();
                if changed == value {
                    continue;
                }
                let bytes = changed.to_string().into_bytes();
                let mut stored = repository.held.clone();
                stored.insert(role.clone(), bytes);
                let wanted: Vec<Role> = stored.keys().cloned().collect();
                let loaded = crate::trust::TrustedSet::load(&stored, &wanted);
                if role.is_top_level() {
                    // Members beside `signed` and `signatures`, and unknown keys' words, may change.
                    assert!(
                        loaded.is_err() || pointer.contains("/signatures/"),
                        "{role} {pointer}"
                    );
                } else {
                    let set = loaded.unwrap();
                    assert!(set.refused(role).is_some(), "{role} {pointer} {shape}");
                }
                // The same, signed: whatever is read is read without a panic.
                if let Some(signed) = changed.get("signed") {
                    let _ = crate::trust::metadata::read::<Root>(signed, role);
                    let _ = crate::trust::metadata::read::<Targets>(signed, role);
                    let _ = crate::trust::metadata::read::<TimestampFile>(signed, role);
                    let _ = crate::trust::metadata::read::<crate::trust::Snapshot>(signed, role);
                    let _ = crate::trust::edit::describe(Some(&value["signed"]), signed, role);
                }
            }
        }
    }
}

fn collect_pointers(value: &Value, at: String, out: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let name = name.replace('~', "~0").replace('/', "~1");
                collect_pointers(member, format!("{at}/{name}"), out);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect_pointers(item, format!("{at}/{index}"), out);
            }
        }
        _ => {}
    }
    out.push(at);
}

proptest! {
    #[test]
    fn one_changed_byte_anywhere_is_never_accepted_as_other_content(
        position in 0..10_000_usize, flip in 1..=255_u8,
    ) {
        let file = timestamp();
        let mut changed = file.clone();
        let position = position % changed.len();
        changed[position] ^= flip;
        let signers = authority(&["freshness"], 1);
        let expected = Expected { role: &Role::Timestamp, authority: &signers, pin: None };
        if let Ok(read) = verify::<TimestampFile>(&changed, expected) {
            let original: Value = serde_json::from_slice(&file).unwrap();
            prop_assert_eq!(read.signed(), &original["signed"]);
        }
    }

    /// CVE-2026-23991.
    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        prop_assert!(check(&bytes).is_err());
        prop_assert!(verify_root(&bytes, None).is_err());
    }
}
