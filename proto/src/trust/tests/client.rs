//! A refresh against a repository that lies, withholds, repeats and mixes.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::trust::{
    Signer, Write,
    client::{Next, Refresh},
    edit::{Draft, RootKeys},
    error::TrustError,
    metadata::Content,
    role::Role,
    set::TrustedSet,
    testing::{TestHost, TestRepository, amend, key, keys, role},
};

const PAYMENTS: [&str; 3] = ["policy", "release.payments", "ring.payments.pilot"];

fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

fn set_version(value: &mut serde_json::Value, version: u64) {
    value["version"] = version.into();
}

/// Root's next version, with these keys, signed by those.
fn next_root(repository: &mut TestRepository, keys: &RootKeys, signers: &[&str]) -> Vec<u8> {
    let mut draft = Draft::next(Role::Root, &repository.held[&Role::Root], repository.now).unwrap();
    draft.set_root_keys(keys).unwrap();
    let signers: Vec<_> = signers.iter().map(|name| key(name)).collect();
    let signers: Vec<&dyn Signer> = signers.iter().map(|key| key as &dyn Signer).collect();
    draft.sign(&signers).unwrap()
}

#[test]
fn a_first_refresh_asks_for_just_what_tuf_asks_for() {
    let repository = TestRepository::with_payments();
    let mut host = TestHost::new(&repository);
    let set = host.refresh(&repository, &["ring.payments.pilot"]).unwrap();
    let snapshot = set.snapshot().version();
    assert_eq!(
        host.asked(),
        [
            "2.root",
            "timestamp",
            &format!("{snapshot}.snapshot"),
            "4.targets",
            "1.ring.payments.pilot"
        ]
    );
    assert_eq!(set.files(), host.stored);
}

#[test]
fn with_nothing_new_only_root_and_timestamp_are_asked_for() {
    let repository = TestRepository::with_payments();
    let mut host = TestHost::new(&repository);
    host.refresh(&repository, &PAYMENTS).unwrap();
    let stored = host.stored.clone();
    let set = host.refresh(&repository, &PAYMENTS).unwrap();
    assert_eq!(host.asked(), ["2.root", "timestamp"]);
    assert_eq!(host.stored, stored);
    assert!(PAYMENTS.iter().all(|name| set.delegated(&role(name)).is_some()));
}

#[test]
fn what_a_refresh_ends_with_is_what_its_stored_files_say() {
    let repository = TestRepository::with_payments();
    let mut host = TestHost::new(&repository);
    let set = host.refresh(&repository, &PAYMENTS).unwrap();
    let wanted: Vec<Role> = PAYMENTS.iter().map(|name| role(name)).collect();
    let loaded = TrustedSet::load(&host.stored, &wanted).unwrap();
    assert_eq!(loaded.files(), set.files());
    assert_eq!(loaded.roles(), set.roles());
    let (product, ring) = ("payments".parse().unwrap(), "pilot".parse().unwrap());
    assert!(set.ring(&product, &ring).unwrap().current.is_some());
    assert_eq!(loaded.ring(&product, &ring), set.ring(&product, &ring));
}

#[test]
fn a_host_without_a_trusted_root_trusts_nothing() {
    let repository = TestRepository::with_payments();
    let start = |root: Option<&[u8]>| {
        let stored = root.map(|bytes| (Role::Root, bytes.to_vec())).into_iter().collect();
        Refresh::start(stored, &[], repository.now).map(|_| ())
    };
    assert_eq!(start(None), Err(TrustError::Missing { role: Role::Root }));
    assert!(matches!(start(Some(b"")), Err(TrustError::NotJson { .. })));
    let unsigned = amend(&repository.held[&Role::Root], &Role::Root, &[], |_| {});
    assert!(matches!(start(Some(&unsigned)), Err(TrustError::Unsigned { valid: 0, .. })));
}

#[test]
fn files_are_kept_as_received_to_the_byte() {
    let mut repository = TestRepository::new();
    let mut spaced = repository.held[&Role::Timestamp].clone();
    spaced.push(b' ');
    repository.held.insert(Role::Timestamp, spaced.clone());
    let mut host = TestHost::new(&repository);
    host.refresh(&repository, &[]).unwrap();
    assert_eq!(host.stored[&Role::Timestamp], spaced);
}

#[test]
fn every_root_on_the_way_is_walked_and_kept_at_once() {
    let mut repository = TestRepository::with_payments();
    let mut host = TestHost::new(&repository);
    let mut names = vec!["root".to_owned()];
    for version in 2..=4 {
        let name = format!("root{version}");
        let root = RootKeys { root: keys(&[&name], 1), ..TestRepository::root_keys() };
        let file = next_root(&mut repository, &root, &[names.last().unwrap(), &name]);
        repository.push(&[(Role::Root, file)]).unwrap();
        names.push(name);
    }
    // The server dies after root 3: what was accepted is stored.
    let cut = host.refresh_from(&[], repository.now, |request| {
        (request.role == Role::Root && request.version != Some(4))
            .then(|| repository.serve(request))
            .flatten()
    });
    assert_eq!(cut.unwrap_err(), TrustError::Missing { role: Role::Timestamp });
    assert_eq!(host.stored[&Role::Root], repository.files[&(Role::Root, 3)]);
    assert_eq!(host.refresh(&repository, &[]).unwrap().root().version(), 4);
}

/// CVE-2025-2885.
#[test]
fn a_root_that_skips_a_version_is_refused() {
    for found in [1, 3, 1_000_000] {
        let mut repository = TestRepository::new();
        let mut host = TestHost::new(&repository);
        let other = amend(&repository.held[&Role::Root], &Role::Root, &["root"], |root| {
            set_version(root, found);
        });
        repository.plant(&Role::Root, 2, other);
        let before = host.stored.clone();
        assert_eq!(
            host.refresh(&repository, &[]).unwrap_err(),
            TrustError::WrongVersion { role: Role::Root, wanted: 2, found }
        );
        assert_eq!(host.stored, before);
    }
}

/// CVE-2020-15163.
#[test]
fn a_root_that_fails_stays_untrusted_at_the_next_refresh() {
    for signers in [&[][..], &["root"], &["new-root"], &["thief"]] {
        let mut repository = TestRepository::new();
        let mut host = TestHost::new(&repository);
        let new = RootKeys { root: keys(&["new-root"], 1), ..TestRepository::root_keys() };
        let file = next_root(&mut repository, &new, signers);
        repository.plant(&Role::Root, 2, file);
        let before = host.stored.clone();
        for _ in 0..2 {
            let error = host.refresh(&repository, &[]).unwrap_err();
            assert!(matches!(error, TrustError::Unsigned { role: Role::Root, .. }), "{signers:?}");
            assert_eq!(host.stored, before, "{signers:?}");
        }
    }
}

/// GMS-2022-4197.
#[test]
fn one_key_signing_twice_does_not_make_a_new_root() {
    let mut repository = TestRepository::new();
    let mut host = TestHost::new(&repository);
    let two = RootKeys { root: keys(&["root", "other"], 2), ..TestRepository::root_keys() };
    let file = next_root(&mut repository, &two, &["root"]);
    let mut twice: serde_json::Value = serde_json::from_slice(&file).unwrap();
    let mut again = twice["signatures"][0].clone();
    again["keyid"] = json!(key("other").public().id().to_string());
    twice["signatures"].as_array_mut().unwrap().push(again);
    repository.plant(&Role::Root, 2, twice.to_string().into_bytes());
    assert_eq!(
        host.refresh(&repository, &[]).unwrap_err(),
        TrustError::Unsigned { role: Role::Root, valid: 1, threshold: 2 }
    );
}

/// CVE-2015-9259.
#[test]
fn an_expired_last_root_stops_the_refresh_and_an_expired_one_on_the_way_does_not() {
    let mut repository = TestRepository::new();
    let mut host = TestHost::new(&repository);
    repository.now += days(366);
    assert!(matches!(
        host.refresh(&repository, &[]).unwrap_err(),
        TrustError::Expired { role: Role::Root, .. }
    ));
    // The way out is a newer root; targets are renewed with it.
    let file = next_root(&mut repository, &TestRepository::root_keys(), &["root"]);
    let targets = Draft::next(Role::Targets, &repository.held[&Role::Targets], repository.now)
        .unwrap()
        .sign(&[&key("targets")])
        .unwrap();
    repository.push(&[(Role::Root, file), (Role::Targets, targets)]).unwrap();
    assert_eq!(host.refresh(&repository, &[]).unwrap().root().version(), 2);
}

#[test]
fn new_freshness_keys_end_the_trust_in_what_the_old_ones_signed_in_the_same_write() {
    // Also where the old key goes on beside the new one: only then do its files still verify.
    for fresh in [vec!["freshness2"], vec!["freshness", "freshness2"]] {
        let mut repository = TestRepository::new();
        let mut host = TestHost::new(&repository);
        host.refresh(&repository, &[]).unwrap();
        // Whoever held the key has run the versions far ahead.
        let far = amend(&host.stored[&Role::Timestamp], &Role::Timestamp, &["freshness"], |file| {
            set_version(file, 1 << 62);
        });
        host.stored.insert(Role::Timestamp, far);
        assert!(matches!(
            host.refresh(&repository, &[]).unwrap_err(),
            TrustError::Rollback { role: Role::Timestamp, .. }
        ));
        let kept = fresh.len() > 1;
        let fresh = keys(&fresh, 1);
        let new =
            RootKeys { snapshot: fresh.clone(), timestamp: fresh, ..TestRepository::root_keys() };
        let file = next_root(&mut repository, &new, &["root"]);
        let accepted = crate::trust::repository::accept(
            &repository.held,
            &[(Role::Root, file)],
            &|_| None,
            &key("freshness2"),
            repository.now,
        );
        repository.store(&accepted.unwrap().writes);

        let mut refresh = Refresh::start(host.stored.clone(), &[], repository.now).unwrap();
        let Next::Fetch(request) = refresh.next().unwrap() else { panic!("root is asked for") };
        let writes = refresh.supply(&repository.serve(&request).unwrap()).unwrap();
        let deleted: Vec<Write> = [Role::Timestamp, Role::Snapshot]
            .into_iter()
            .filter(|_| kept)
            .map(|role| Write::Delete { role })
            .collect();
        assert_eq!(writes[1..], deleted);
        for write in writes {
            write.apply(&mut host.stored);
        }
        assert!(TrustedSet::load(&host.stored, &[]).is_err());
        host.refresh(&repository, &[]).unwrap();
    }
}

#[test]
fn a_refresh_that_fails_after_a_rotation_leaves_the_old_files_and_no_trust_in_them() {
    let mut repository = TestRepository::new();
    let mut host = TestHost::new(&repository);
    host.refresh(&repository, &[]).unwrap();
    let held = host.stored[&Role::Snapshot].clone();
    let more = keys(&["freshness", "other"], 2);
    let new = RootKeys { snapshot: more, ..TestRepository::root_keys() };
    let file = next_root(&mut repository, &new, &["root"]);
    repository.plant(&Role::Root, 2, file);
    for _ in 0..2 {
        assert!(matches!(
            host.refresh(&repository, &[]).unwrap_err(),
            TrustError::Unsigned { role: Role::Snapshot, valid: 1, threshold: 2 }
        ));
        assert_eq!(host.stored[&Role::Snapshot], held);
        assert!(TrustedSet::load(&host.stored, &[]).is_err());
    }
}

#[test]
fn a_walk_of_roots_ends() {
    let mut repository = TestRepository::new();
    let mut host = TestHost::new(&repository);
    let mut file = repository.held[&Role::Root].clone();
    let mut asked = 0;
    let first = repository.clone();
    let result = host.refresh_from(&[], repository.now, |request| match request.role {
        Role::Root => {
            asked += 1;
            file = amend(&file, &Role::Root, &["root"], |root| {
                set_version(root, request.version.unwrap());
            });
            Some(file.clone())
        }
        _ => first.serve(request),
    });
    assert_eq!(asked, crate::trust::metadata::limits::ROTATIONS);
    assert!(result.is_ok());
    repository.now += days(1);
}

/// CVE-2022-29173, sigstore-rust-198.
#[test]
fn an_older_timestamp_is_refused_also_after_the_stored_one_expired() {
    let mut repository = TestRepository::new();
    let old = repository.clone();
    repository.now += days(2);
    assert!(repository.renew().unwrap());
    let mut host = TestHost::new(&repository);
    host.refresh(&repository, &[]).unwrap();
    let before = host.stored.clone();
    for now in [repository.now, repository.now + days(10)] {
        let error = host.refresh_from(&[], now, |request| old.serve(request)).unwrap_err();
        assert!(matches!(error, TrustError::Rollback { role: Role::Timestamp, .. }), "{error}");
        assert_eq!(host.stored, before);
    }
}

#[test]
fn an_expired_timestamp_is_a_freeze_and_is_not_stored() {
    let mut repository = TestRepository::new();
    let mut host = TestHost::new(&repository);
    repository.now += days(3);
    let error = host.refresh(&repository, &[]).unwrap_err();
    assert!(matches!(error, TrustError::Expired { role: Role::Timestamp, .. }));
    assert_eq!(error.attack(), "freeze");
    assert!(!host.stored.contains_key(&Role::Timestamp));
}

#[test]
fn a_stored_timestamp_served_again_after_its_time_is_a_freeze() {
    let mut repository = TestRepository::new();
    let mut host = TestHost::new(&repository);
    host.refresh(&repository, &[]).unwrap();
    repository.now += days(3);
    let error = host.refresh(&repository, &[]).unwrap_err();
    assert!(matches!(error, TrustError::Expired { role: Role::Timestamp, .. }));
}

#[test]
fn the_same_timestamp_version_with_other_content_changes_nothing() {
    let mut repository = TestRepository::new();
    let mut host = TestHost::new(&repository);
    host.refresh(&repository, &[]).unwrap();
    let before = host.stored.clone();
    let other =
        amend(&repository.held[&Role::Timestamp], &Role::Timestamp, &["freshness"], |file| {
            file["meta"]["snapshot.json"]["version"] = json!(9_999_999_999_u64);
        });
    repository.held.insert(Role::Timestamp, other);
    host.refresh(&repository, &[]).unwrap();
    assert_eq!(host.stored, before);
}

/// CVE-2025-2888, CVE-2022-29173.
#[test]
fn a_timestamp_that_names_an_older_snapshot_is_refused_and_not_stored() {
    let mut repository = TestRepository::with_payments();
    let mut host = TestHost::new(&repository);
    host.refresh(&repository, &[]).unwrap();
    let before = host.stored.clone();
    let lower =
        amend(&repository.held[&Role::Timestamp], &Role::Timestamp, &["freshness"], |file| {
            let version = file["version"].as_u64().unwrap();
            set_version(file, version + 1);
            file["meta"]["snapshot.json"]["version"] = json!(1);
        });
    repository.held.insert(Role::Timestamp, lower);
    let error = host.refresh(&repository, &[]).unwrap_err();
    assert!(matches!(error, TrustError::Rollback { role: Role::Snapshot, offered: 1, .. }));
    assert_eq!(host.stored, before);
}

/// A snapshot with some of its list changed, and a timestamp for it.
fn replace_snapshot(
    repository: &mut TestRepository,
    pins_hash: bool,
    change: impl FnOnce(&mut serde_json::Value),
) {
    let mut version = 0;
    let snapshot =
        amend(&repository.held[&Role::Snapshot], &Role::Snapshot, &["freshness"], |file| {
            version = file["version"].as_u64().unwrap() + 1;
            set_version(file, version);
            change(file);
        });
    let timestamp =
        amend(&repository.held[&Role::Timestamp], &Role::Timestamp, &["freshness"], |file| {
            let next = file["version"].as_u64().unwrap() + 1;
            set_version(file, next);
            file["meta"]["snapshot.json"] = json!({ "version": version });
            if pins_hash {
                let digest = crate::names::Digest::of(&snapshot).to_string();
                file["meta"]["snapshot.json"]["hashes"] = json!({ "sha256": digest });
            }
        });
    repository.files.insert((Role::Snapshot, version), snapshot.clone());
    repository.held.insert(Role::Snapshot, snapshot);
    repository.held.insert(Role::Timestamp, timestamp);
}

/// CVE-2025-2887, CVE-2022-29173.
#[test]
fn a_snapshot_that_lists_an_older_version_is_refused_and_the_timestamp_stays() {
    for name in ["targets.json", "ring.payments.pilot.json"] {
        let mut repository = TestRepository::with_payments();
        repository.release("1.1");
        repository.promote("1.1").unwrap();
        let mut host = TestHost::new(&repository);
        host.refresh(&repository, &PAYMENTS).unwrap();
        let snapshot = host.stored[&Role::Snapshot].clone();
        replace_snapshot(&mut repository, true, |file| {
            file["meta"][name] = json!({ "version": 1 });
        });
        for _ in 0..2 {
            let error = host.refresh(&repository, &PAYMENTS).unwrap_err();
            assert!(matches!(error, TrustError::Rollback { offered: 1, .. }), "{name}: {error}");
            assert_eq!(host.stored[&Role::Snapshot], snapshot);
            // It was right by itself, so the next good snapshot is not blocked by it.
            assert_eq!(host.stored[&Role::Timestamp], repository.held[&Role::Timestamp]);
        }
    }
}

/// CVE-2022-29173.
#[test]
fn a_snapshot_that_leaves_a_role_out_is_refused() {
    let mut repository = TestRepository::with_payments();
    let mut host = TestHost::new(&repository);
    host.refresh(&repository, &PAYMENTS).unwrap();
    replace_snapshot(&mut repository, true, |file| {
        file["meta"].as_object_mut().unwrap().remove("ring.payments.pilot.json");
    });
    let error = host.refresh(&repository, &PAYMENTS).unwrap_err();
    assert_eq!(error, TrustError::Unlisted { role: role("ring.payments.pilot"), held: 1 });
}

/// sigstore-rust-198.
#[test]
fn the_stored_snapshot_is_a_floor_also_when_expired_and_no_longer_pinned() {
    let mut repository = TestRepository::with_payments();
    let mut host = TestHost::new(&repository);
    host.refresh(&repository, &PAYMENTS).unwrap();
    repository.now += days(8);
    let expires = (repository.now + days(2)).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let later = expires.clone();
    replace_snapshot(&mut repository, false, |file| {
        file["expires"] = json!(later);
        file["meta"]["targets.json"] = json!({ "version": 1 });
    });
    let fresh =
        amend(&repository.held[&Role::Timestamp], &Role::Timestamp, &["freshness"], |file| {
            file["expires"] = json!(expires);
        });
    repository.held.insert(Role::Timestamp, fresh);
    let error = host.refresh(&repository, &PAYMENTS).unwrap_err();
    assert_eq!(error, TrustError::Rollback { role: Role::Targets, held: 4, offered: 1 });
}

/// swupdate-mix-and-match.
#[test]
fn files_that_do_not_belong_together_are_refused() {
    let mut repository = TestRepository::with_payments();
    let mut other = repository.clone();
    other.release("2.0");
    repository.release("1.1");
    let mut host = TestHost::new(&repository);
    let error = host
        .refresh_from(&PAYMENTS, repository.now, |request| match request.role {
            Role::Snapshot => other.held.get(&Role::Snapshot).cloned(),
            _ => repository.serve(request),
        })
        .unwrap_err();
    assert_eq!(error.attack(), "mix-and-match");
    assert!(!host.stored.contains_key(&Role::Snapshot));
}

#[test]
fn endless_files_are_cut_at_their_limit_before_anything_is_read() {
    let repository = TestRepository::with_payments();
    for big in [Role::Root, Role::Timestamp, Role::Snapshot, Role::Targets] {
        let mut host = TestHost::new(&repository);
        let error = host
            .refresh_from(&[], repository.now, |request| {
                if request.role == big {
                    Some(vec![b' '; usize::try_from(request.max_length).unwrap() + 1])
                } else {
                    repository.serve(request)
                }
            })
            .unwrap_err();
        assert!(matches!(error, TrustError::TooLong { ref role, .. } if *role == big), "{error}");
        let pinned = big == Role::Snapshot || big == Role::Targets;
        assert_eq!(host.requests.last().unwrap().pin.is_some(), pinned);
    }
}

#[test]
fn a_withheld_file_is_an_error_and_only_a_newer_root_may_be_absent() {
    let repository = TestRepository::with_payments();
    for withheld in [Role::Timestamp, Role::Snapshot, Role::Targets] {
        let mut host = TestHost::new(&repository);
        let error = host
            .refresh_from(&[], repository.now, |request| {
                (request.role != withheld).then(|| repository.serve(request)).flatten()
            })
            .unwrap_err();
        assert_eq!(error, TrustError::Missing { role: withheld });
    }
}

/// CVE-2025-2888.
#[test]
fn a_failed_step_leaves_a_state_from_which_the_next_refresh_succeeds() {
    let repository = TestRepository::with_payments();
    for broken in 0..8 {
        let mut host = TestHost::new(&repository);
        let mut count = 0;
        let _ = host.refresh_from(&PAYMENTS, repository.now, |request| {
            count += 1;
            if count == broken + 1 { Some(b"{}".to_vec()) } else { repository.serve(request) }
        });
        let set = host.refresh(&repository, &PAYMENTS).unwrap();
        assert!(PAYMENTS.iter().all(|name| set.delegated(&role(name)).is_some()), "{broken}");
    }
}

#[test]
fn a_damaged_stored_file_is_fetched_again() {
    let repository = TestRepository::with_payments();
    let mut host = TestHost::new(&repository);
    let good = host.refresh(&repository, &PAYMENTS).unwrap();
    for damaged in good.files().into_keys().filter(|role| *role != Role::Root) {
        let middle = host.stored[&damaged].len() / 2;
        host.stored.get_mut(&damaged).unwrap()[middle] ^= 1;
        host.refresh(&repository, &PAYMENTS).unwrap();
        assert_eq!(host.stored, good.files(), "{damaged}");
    }
}

// Delegated roles.

/// Plants the ring's file, changed, signed by these keys.
fn plant_ring(
    repository: &mut TestRepository,
    signers: &[&str],
    version: u64,
    change: impl FnOnce(&mut serde_json::Value),
) {
    let ring = role("ring.payments.pilot");
    let file = amend(&repository.held[&ring], &ring, signers, |file| {
        set_version(file, version);
        change(file);
    });
    repository.plant(&ring, version, file);
}

/// The refresh goes on, the other product's roles are there, and the ring is refused for this reason.
fn ring_is_refused(repository: &TestRepository, host: &mut TestHost) -> TrustError {
    let set = host.refresh(repository, &PAYMENTS).unwrap();
    assert!(set.delegated(&role("release.payments")).is_some());
    assert!(set.delegated(&role("ring.payments.pilot")).is_none());
    assert!(set.ring(&"payments".parse().unwrap(), &"pilot".parse().unwrap()).is_none());
    set.refused(&role("ring.payments.pilot")).unwrap().clone()
}

#[test]
fn a_delegated_file_signed_by_other_keys_is_refused() {
    for signers in [&[][..], &["release.payments"], &["targets"], &["freshness"], &["thief"]] {
        let mut repository = TestRepository::with_payments();
        let mut host = TestHost::new(&repository);
        plant_ring(&mut repository, signers, 2, |_| {});
        let error = ring_is_refused(&repository, &mut host);
        assert_eq!(error.attack(), "arbitrary-software", "{signers:?}");
        assert!(!host.stored.contains_key(&role("ring.payments.pilot")));
    }
}

/// CVE-2025-67903.
#[test]
fn a_release_that_is_unsigned_wrongly_signed_or_bears_anothers_signature_is_refused() {
    let releases = role("release.payments");
    let genuine = TestRepository::with_payments();
    let signed = |file: &[u8]| serde_json::from_slice::<serde_json::Value>(file).unwrap();
    let changed = |signature: serde_json::Value| {
        // A release that nobody signed, with what is to pass for a signature of it.
        let mut file = signed(&genuine.held[&releases]);
        let target = file["signed"]["targets"]["releases/payments/1.0.json"].clone();
        file["signed"]["targets"]["releases/payments/6.6.6.json"] = target;
        file["signed"]["version"] = json!(2);
        file["signatures"] = signature;
        file.to_string().into_bytes()
    };
    let of_its_first_version = signed(&genuine.held[&releases])["signatures"].clone();
    let mut empty = of_its_first_version.clone();
    empty[0]["sig"] = json!("");
    let mut zeros = of_its_first_version.clone();
    zeros[0]["sig"] = json!("00".repeat(64));
    let of_another_file = signed(&genuine.held[&role("policy")])["signatures"].clone();
    let mut under_the_right_id = of_another_file.clone();
    under_the_right_id[0]["keyid"] = of_its_first_version[0]["keyid"].clone();
    for signatures in
        [json!([]), of_its_first_version, empty, zeros, of_another_file, under_the_right_id]
    {
        let mut repository = TestRepository::with_payments();
        let mut host = TestHost::new(&repository);
        repository.plant(&releases, 2, changed(signatures.clone()));
        let set = host.refresh(&repository, &PAYMENTS).unwrap();
        let refused = set.refused(&releases).unwrap();
        assert_eq!(refused.attack(), "arbitrary-software", "{signatures}: {refused}");
        assert!(set.release(&"payments".parse().unwrap(), &"6.6.6".parse().unwrap()).is_none());
    }
}

/// CVE-2026-6966.
#[test]
fn one_key_counts_once_in_a_delegated_role() {
    let mut repository = TestRepository::with_payments();
    repository.delegate("release.other", &["alice", "bob"], 2);
    let mut host = TestHost::new(&repository);
    let other = role("release.other");
    // Signed by alice alone, her signature given under bob's id too.
    let draft = Draft::first(other.clone(), repository.now).unwrap();
    let file = draft.sign(&[&key("alice")]).unwrap();
    let mut file: serde_json::Value = serde_json::from_slice(&file).unwrap();
    let mut again = file["signatures"][0].clone();
    again["keyid"] = json!(key("bob").public().id().to_string());
    file["signatures"].as_array_mut().unwrap().push(again);
    repository.plant(&other, 1, file.to_string().into_bytes());
    let set = host.refresh(&repository, &["release.other"]).unwrap();
    let wanted = TrustError::Unsigned { role: other.clone(), valid: 1, threshold: 2 };
    assert_eq!(set.refused(&other), Some(&wanted));
}

/// CVE-2025-2887.
#[test]
fn an_older_delegated_file_is_refused() {
    let mut repository = TestRepository::with_payments();
    repository.release("1.1");
    repository.promote("1.1").unwrap();
    let mut host = TestHost::new(&repository);
    host.refresh(&repository, &PAYMENTS).unwrap();
    // The file of version 1 in the place of version 2, with a snapshot that agrees about the bytes.
    let old = repository.files[&(role("ring.payments.pilot"), 1)].clone();
    repository.plant(&role("ring.payments.pilot"), 2, old);
    let error = ring_is_refused(&repository, &mut host);
    assert!(matches!(error, TrustError::WrongVersion { wanted: 2, found: 1, .. }), "{error}");
}

/// CVE-2026-6967.
#[test]
fn an_expired_delegated_file_is_refused_and_one_product_does_not_stop_another() {
    let mut repository = TestRepository::with_payments();
    let mut host = TestHost::new(&repository);
    plant_ring(&mut repository, &["ring.payments.pilot"], 2, |file| {
        file["expires"] = json!("2025-12-31T00:00:00Z");
    });
    let error = ring_is_refused(&repository, &mut host);
    assert!(matches!(error, TrustError::Expired { .. }));
}

/// CVE-2026-6967.
#[test]
fn a_delegated_file_with_other_bytes_than_pinned_is_refused() {
    let repository = TestRepository::with_payments();
    let mut host = TestHost::new(&repository);
    let ring = role("ring.payments.pilot");
    let same_version = amend(&repository.held[&ring], &ring, &["ring.payments.pilot"], |file| {
        file["expires"] = json!("2026-03-01T00:00:00Z");
    });
    let set = host
        .refresh_from(&PAYMENTS, repository.now, |request| {
            if request.role == ring {
                Some(same_version.clone())
            } else {
                repository.serve(request)
            }
        })
        .unwrap();
    // Other length or other hash: either way not what the snapshot pins.
    let attack = set.refused(&ring).unwrap().attack();
    assert!(matches!(attack, "mix-and-match" | "endless-data"), "{attack}");
}

/// CVE-2026-33552, CVE-2024-37019.
#[test]
fn a_ring_cannot_sign_for_another_ring_or_for_releases() {
    for path in [
        "rings/payments/early/1.0.json",
        "releases/payments/6.6.6.json",
        "policy/payments.json",
        "rings/payments/pilot/x/1.0.json",
        "rings/payments/pilot/../pilot/1.0.json",
    ] {
        let mut repository = TestRepository::with_payments();
        let mut host = TestHost::new(&repository);
        plant_ring(&mut repository, &["ring.payments.pilot"], 2, |file| {
            let target = file["targets"]["rings/payments/pilot/1.0.json"].clone();
            file["targets"][path] = target;
        });
        let error = ring_is_refused(&repository, &mut host);
        assert!(matches!(error, TrustError::Malformed { .. }), "{path}: {error}");
    }
}

#[test]
fn a_ring_with_two_current_releases_is_refused() {
    let mut repository = TestRepository::with_payments();
    let mut host = TestHost::new(&repository);
    plant_ring(&mut repository, &["ring.payments.pilot"], 2, |file| {
        let target = file["targets"]["rings/payments/pilot/1.0.json"].clone();
        file["targets"]["rings/payments/pilot/1.1.json"] = target;
    });
    let error = ring_is_refused(&repository, &mut host);
    assert!(error.to_string().contains("twice"), "{error}");
}

#[test]
fn a_role_that_is_not_published_yet_is_passed_over_without_a_request() {
    let mut repository = TestRepository::with_payments();
    repository.delegate("ring.payments.early", &["early"], 1);
    let mut host = TestHost::new(&repository);
    let set = host.refresh(&repository, &["ring.payments.early", "ring.other.pilot"]).unwrap();
    assert!(host.asked().iter().all(|asked| !asked.contains("ring")));
    assert_eq!(set.all_refused().count(), 0);
}

#[test]
fn bytes_that_nobody_asked_for_are_not_taken() {
    let repository = TestRepository::new();
    let stored = TestHost::new(&repository).stored;
    let mut refresh = Refresh::start(stored, &[], repository.now).unwrap();
    assert_eq!(refresh.supply(b"{}"), Err(TrustError::Unasked));
    assert_eq!(refresh.absent(), Err(TrustError::Unasked));
    assert!(matches!(refresh.into_set(), Err(TrustError::Unfinished)));
}

#[test]
fn a_set_tells_when_it_expires() {
    let repository = TestRepository::with_payments();
    let mut host = TestHost::new(&repository);
    let set = host.refresh(&repository, &PAYMENTS).unwrap();
    let expires: Timestamp = set.expires(&Role::Timestamp).unwrap();
    assert!(set.expired(expires - SignedDuration::from_secs(1)).is_ok());
    assert!(set.expired(expires).is_err());
}
