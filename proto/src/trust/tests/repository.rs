//! Pushes that a server must refuse, and what it makes of those that it takes.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::{
    names::Digest,
    policy::{EvidenceKind, Gate},
    trust::{
        Signer,
        client::{Refresh, Write},
        edit::{Draft, RootKeys},
        error::TrustError,
        metadata::Content,
        permission::Closed,
        promotion::{Evidence, Override, Standing, Terms},
        repository::{
            BUNDLE_LONGEST, MAX_PUSHED, ONLINE_LONGEST, Refused, SNAPSHOT_LASTS, TIMESTAMP_LASTS,
            accept,
        },
        role::Role,
        set::{Stored, TrustedSet},
        testing::{TestHost, TestRepository, amend, at, key, keys, role},
    },
};

fn first_files(keys: &RootKeys) -> Vec<(Role, Vec<u8>)> {
    let now = at(crate::trust::testing::BEGIN);
    let root = Draft::first_root(keys, now).unwrap().sign(&[&key("root")]).unwrap();
    let targets = Draft::first(Role::Targets, now).unwrap().sign(&[&key("targets")]).unwrap();
    vec![(Role::Root, root), (Role::Targets, targets)]
}

fn found(keys: &RootKeys) -> Result<crate::trust::repository::Accepted, Refused> {
    let now = at(crate::trust::testing::BEGIN);
    accept(&Stored::new(), &first_files(keys), &|_| None, &key("freshness"), now)
}

/// Refused, and nothing of it is in the repository.
fn refused(repository: &mut TestRepository, pushed: &[(Role, Vec<u8>)]) -> Refused {
    let before = repository.held.clone();
    let refusal = repository.push(pushed).unwrap_err();
    assert_eq!(repository.held, before);
    refusal
}

#[test]
fn a_first_push_becomes_a_repository_that_hosts_trust() {
    let accepted = found(&TestRepository::root_keys()).unwrap();
    let roles: Vec<String> = accepted
        .writes
        .iter()
        .map(|write| match write {
            Write::Put { role, .. } => role.to_string(),
            Write::Delete { role } => panic!("{role} deleted"),
        })
        .collect();
    assert_eq!(roles, ["root", "targets", "snapshot", "timestamp"]);
    let mut stored = Stored::new();
    accepted.writes.into_iter().for_each(|write| write.apply(&mut stored));
    let set = TrustedSet::load(&stored, &[]).unwrap();
    assert_eq!(
        (set.snapshot().version(), set.timestamp().version()),
        (accepted.snapshot, accepted.timestamp)
    );
    assert!(set.timestamp().snapshot.hashes.is_some() && set.timestamp().snapshot.length.is_some());
    assert!(set.snapshot().files.values().all(|pin| pin.hashes.is_some() && pin.length.is_some()));
    assert!(set.root().consistent_snapshot);
}

#[test]
fn a_first_push_needs_root_1_and_targets_1() {
    let files = first_files(&TestRepository::root_keys());
    let now = at(crate::trust::testing::BEGIN);
    let push = |pushed: &[(Role, Vec<u8>)]| {
        accept(&Stored::new(), pushed, &|_| None, &key("freshness"), now).unwrap_err()
    };
    assert_eq!(push(&files[1..]), Refused::NotFounded { missing: Role::Root });
    assert_eq!(push(&[]), Refused::NotFounded { missing: Role::Root });
    let root2 = amend(&files[0].1, &Role::Root, &["root"], |root| root["version"] = json!(2));
    assert_eq!(
        push(&[(Role::Root, root2), files[1].clone()]),
        Refused::Conflict { role: Role::Root, held: 0, pushed: 2 }
    );
}

/// A server whose disk was lost: what people have is put back as it was, under a root that names new keys.
#[test]
fn a_lost_repository_takes_its_roots_in_turn_and_then_any_version_of_each_role() {
    let mut lost = TestRepository::with_payments();
    lost.release("1.1");
    let now = at(crate::trust::testing::BEGIN);
    let (root, targets) = (lost.held[&Role::Root].clone(), lost.held[&Role::Targets].clone());
    let new = RootKeys {
        snapshot: keys(&["freshness-2"], 1),
        timestamp: keys(&["freshness-2"], 1),
        ..TestRepository::root_keys()
    };
    let mut next = Draft::next(Role::Root, &root, now).unwrap();
    next.set_root_keys(&new).unwrap();
    let next = next.sign(&[&key("root")]).unwrap();

    let late = now + SignedDuration::from_hours(500 * 24);
    let mut held = Stored::new();
    let push = |held: &mut Stored, file: (Role, Vec<u8>), now| {
        let accepted = accept(held, &[file], &|_| None, &key("freshness-2"), now)?;
        accepted.writes.iter().for_each(|write| write.clone().apply(held));
        Ok::<_, Refused>(accepted.timestamp)
    };
    // Root 1 has expired and names the lost key: nothing rests on it, nothing is shown.
    assert_eq!(push(&mut held, (Role::Root, root.clone()), late), Ok(0));
    assert!(matches!(
        push(&mut held, (Role::Targets, targets.clone()), now),
        Err(Refused::FreshnessKeyNotNamed { .. })
    ));
    assert_eq!(held.len(), 1);
    assert_eq!(push(&mut held, (Role::Root, next), now), Ok(0));
    assert!(push(&mut held, (Role::Targets, targets), now).unwrap() > 0);
    let releases = role("release.payments");
    push(&mut held, (releases.clone(), lost.held[&releases].clone()), now).unwrap();
    let set = TrustedSet::load(&held, std::slice::from_ref(&releases)).unwrap();
    assert_eq!((set.version(&Role::Root), set.version(&releases)), (Some(2), Some(2)));
    // From then on each role goes on by one, and an expired file is not taken back.
    assert!(matches!(
        push(&mut held, (Role::Policy, lost.held[&Role::Policy].clone()), late),
        Err(Refused::Trust(_))
    ));
    let again = amend(&lost.held[&releases], &releases, &["release.payments"], |file| {
        file["version"] = json!(9);
    });
    assert_eq!(
        push(&mut held, (releases.clone(), again), now),
        Err(Refused::Conflict { role: releases, held: 2, pushed: 9 })
    );
}

#[test]
fn root_must_let_the_server_and_only_for_that_keep_metadata_fresh() {
    let key_id = key("freshness").public().id();
    let all = TestRepository::root_keys();
    let other = keys(&["other"], 1);
    for wrong in [
        RootKeys { snapshot: other.clone(), ..all.clone() },
        RootKeys { timestamp: other, ..all.clone() },
        RootKeys { timestamp: keys(&["freshness", "other"], 2), ..all.clone() },
    ] {
        assert_eq!(found(&wrong).unwrap_err(), Refused::FreshnessKeyNotNamed { key: key_id });
    }
    let too = RootKeys { root: keys(&["root", "freshness"], 1), ..all };
    assert_eq!(
        found(&too).unwrap_err(),
        Refused::FreshnessKeyToo { key: key_id, role: Role::Root }
    );
}

#[test]
fn of_two_publishers_at_once_the_second_is_told() {
    let mut repository = TestRepository::with_payments();
    let mut second = repository.draft("release.payments");
    second.add_release(&"2.0".parse().unwrap(), b"second").unwrap();
    repository.release("1.1");
    let second = repository.sign(&second);
    let releases = role("release.payments");
    assert_eq!(
        refused(&mut repository, &[(releases.clone(), second)]),
        Refused::Conflict { role: releases, held: 2, pushed: 2 }
    );
}

#[test]
fn a_version_that_skips_one_is_refused() {
    let mut repository = TestRepository::with_payments();
    let releases = role("release.payments");
    let held = repository.held[&releases].clone();
    for version in [3, 1000, 1] {
        let skipping = amend(&held, &releases, &["release.payments"], |file| {
            file["version"] = json!(version);
            file["expires"] = json!("2026-12-01T00:00:00Z");
        });
        assert_eq!(
            refused(&mut repository, &[(releases.clone(), skipping)]),
            Refused::Conflict { role: releases.clone(), held: 1, pushed: version }
        );
    }
}

#[test]
fn a_push_sent_again_after_a_lost_answer_is_accepted_and_changes_nothing() {
    let mut repository = TestRepository::with_payments();
    let mut draft = repository.draft("release.payments");
    draft.add_release(&"1.1".parse().unwrap(), b"1.1").unwrap();
    let pushed = [(role("release.payments"), repository.sign(&draft))];
    let first = repository.push(&pushed).unwrap();
    let held = repository.held.clone();
    let again = repository.push(&pushed).unwrap();
    assert_eq!((again.snapshot, again.timestamp), (first.snapshot, first.timestamp));
    assert!(again.writes.is_empty());
    assert_eq!(repository.held, held);
}

/// CVE-2026-33552, CVE-2024-37019.
#[test]
fn what_the_roles_keys_did_not_sign_is_refused() {
    for signers in [&[][..], &["thief"], &["targets"], &["ring.payments.pilot"], &["freshness"]] {
        let mut repository = TestRepository::with_payments();
        let releases = role("release.payments");
        let forged = amend(&repository.held[&releases], &releases, signers, |file| {
            file["version"] = json!(2);
        });
        assert!(matches!(
            refused(&mut repository, &[(releases.clone(), forged)]),
            Refused::Trust(TrustError::Unsigned { valid: 0, .. })
        ));
    }
}

#[test]
fn an_expired_file_is_refused() {
    let mut repository = TestRepository::with_payments();
    let releases = role("release.payments");
    let expired = amend(&repository.held[&releases], &releases, &["release.payments"], |file| {
        file["version"] = json!(2);
        file["expires"] = json!("2026-01-01T00:00:00Z");
    });
    assert!(matches!(
        refused(&mut repository, &[(releases, expired)]),
        Refused::Trust(TrustError::Expired { .. })
    ));
}

#[test]
fn a_new_root_needs_the_old_threshold_and_the_new() {
    for (signers, taken) in
        [(&["root", "root2"][..], true), (&["root"], false), (&["root2"], false)]
    {
        let mut repository = TestRepository::with_payments();
        let mut draft =
            Draft::next(Role::Root, &repository.held[&Role::Root], repository.now).unwrap();
        let new = RootKeys { root: keys(&["root2"], 1), ..TestRepository::root_keys() };
        draft.set_root_keys(&new).unwrap();
        let signers: Vec<_> = signers.iter().map(|name| key(name)).collect();
        let signers: Vec<&dyn Signer> = signers.iter().map(|key| key as &dyn Signer).collect();
        let file = draft.sign(&signers).unwrap();
        assert_eq!(repository.push(&[(Role::Root, file)]).is_ok(), taken);
    }
}

#[test]
fn a_version_stands_for_one_content_for_ever() {
    let mut repository = TestRepository::with_payments();
    let releases = role("release.payments");
    let path = "releases/payments/1.0.json";
    let other = Digest::of(b"other").to_string();
    let changed = amend(&repository.held[&releases], &releases, &["release.payments"], |file| {
        file["version"] = json!(2);
        file["targets"][path]["hashes"]["sha256"] = json!(other);
    });
    let before = Digest::of(b"1.0");
    assert_eq!(
        refused(&mut repository, &[(releases.clone(), changed)]),
        Refused::Reused { path: path.into(), before }
    );
    // Retired meanwhile: the server still knows.
    repository
        .edit("release.payments", |draft| draft.remove_release(&"1.0".parse().unwrap()).unwrap());
    let mut draft = repository.draft("release.payments");
    draft.add_release(&"1.0".parse().unwrap(), b"other").unwrap();
    let pushed = [(releases, repository.sign(&draft))];
    let remembered = |asked: &str| (asked == path).then_some(before);
    let refusal = accept(&repository.held, &pushed, &remembered, &key("freshness"), repository.now)
        .unwrap_err();
    assert_eq!(refusal, Refused::Reused { path: path.into(), before });
}

#[test]
fn what_is_accepted_names_its_releases_and_promotions() {
    let mut repository = TestRepository::with_payments();
    let mut draft = repository.draft("release.payments");
    draft.add_release(&"1.1".parse().unwrap(), b"1.1").unwrap();
    let accepted = repository.push(&[(role("release.payments"), repository.sign(&draft))]).unwrap();
    assert!(accepted.released.contains(&("releases/payments/1.1.json".into(), Digest::of(b"1.1"))));
    let accepted = repository.promote("1.1").unwrap();
    let (product, ring, file) = &accepted.rings[0];
    assert_eq!((product.as_str(), ring.as_str()), ("payments", "pilot"));
    assert_eq!(file.current.as_ref().unwrap().version.as_str(), "1.1");
    assert_eq!(file.back.as_ref().unwrap().version.as_str(), "1.0");
}

fn closed_by(refusal: Refused) -> Closed {
    match refusal {
        Refused::Inconsistent { closed, .. } => *closed,
        other => panic!("{other}"),
    }
}

#[test]
fn a_ring_names_only_what_the_release_keys_signed_to_the_byte() {
    let ring = role("ring.payments.pilot");
    let push = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut repository = TestRepository::with_payments();
        let file = amend(&repository.held[&ring], &ring, &["ring.payments.pilot"], |file| {
            file["version"] = json!(2);
            change(file);
        });
        refused(&mut repository, &[(ring.clone(), file)])
    };
    let path = "rings/payments/pilot/1.0.json";
    let other = Digest::of(b"other").to_string();
    for change in [
        &|file: &mut serde_json::Value| file["targets"][path]["hashes"]["sha256"] = json!(other),
        &|file: &mut serde_json::Value| file["targets"][path]["length"] = json!(4),
    ] as [&dyn Fn(&mut serde_json::Value); 2]
    {
        assert!(matches!(closed_by(push(change)), Closed::OtherBytes { .. }));
    }
    let unreleased = push(&|file| {
        let target = file["targets"].as_object_mut().unwrap().remove(path).unwrap();
        file["targets"]["rings/payments/pilot/9.9.json"] = target;
    });
    assert!(matches!(closed_by(unreleased), Closed::NotReleased { .. }));
    let unknown = push(&|file| file["targets"][path]["custom"]["required"] = json!(["telepathy"]));
    assert!(unknown.to_string().contains("telepathy"));
    assert!(matches!(closed_by(unknown), Closed::UnknownFeature { .. }));
}

#[test]
fn a_release_can_be_withdrawn_while_rings_still_name_it() {
    let mut repository = TestRepository::with_payments();
    repository
        .edit("release.payments", |draft| draft.remove_release(&"1.0".parse().unwrap()).unwrap());
}

#[test]
fn nobody_pushes_snapshot_timestamp_or_unknown_roles() {
    let mut repository = TestRepository::with_payments();
    let file = repository.held[&role("release.payments")].clone();
    for name in ["snapshot", "timestamp", "evil", "../../x"] {
        assert_eq!(
            refused(&mut repository, &[(role(name), file.clone())]),
            Refused::NotPushed { role: role(name) }
        );
    }
    let undelegated = refused(&mut repository, &[(role("ring.payments.broad"), file.clone())]);
    assert!(matches!(undelegated, Refused::Arrangement { .. }));
    let many = vec![(role("release.payments"), file); MAX_PUSHED + 1];
    assert_eq!(refused(&mut repository, &many), Refused::TooManyFiles);
}

#[test]
fn one_bad_file_in_a_push_stores_none() {
    let mut repository = TestRepository::with_payments();
    let mut draft = repository.draft("release.payments");
    draft.add_release(&"1.1".parse().unwrap(), b"1.1").unwrap();
    let good = (role("release.payments"), repository.sign(&draft));
    refused(&mut repository, &[good, (role("ring.payments.pilot"), b"{}".to_vec())]);
}

#[test]
fn delegations_are_arranged_as_the_design_says() {
    let repository = TestRepository::with_payments();
    type Change<'a> = (&'a str, &'a dyn Fn(&mut serde_json::Value));
    let changes: [Change<'_>; 8] = [
        ("not terminating", &|file| file["delegations"]["roles"][0]["terminating"] = json!(false)),
        ("wider paths", &|file| file["delegations"]["roles"][0]["paths"] = json!(["releases/*/*"])),
        ("more paths", &|file| {
            file["delegations"]["roles"][0]["paths"] = json!(["releases/payments/*", "policy/*"]);
        }),
        ("hash prefixes", &|file| {
            let role = file["delegations"]["roles"][0].as_object_mut().unwrap();
            role.remove("paths");
            role.insert("path_hash_prefixes".into(), json!(["0"]));
        }),
        ("unknown role", &|file| file["delegations"]["roles"][0]["name"] = json!("other")),
        ("top-level role", &|file| file["delegations"]["roles"][0]["name"] = json!("root")),
        ("own targets", &|file| {
            file["targets"]["x"] =
                json!({ "length": 0, "hashes": { "sha256": Digest::of(b"").to_string() } });
        }),
        ("a threshold nobody reaches", &|file| {
            file["delegations"]["roles"][0]["threshold"] = json!(2)
        }),
    ];
    for (what, change) in changes {
        let mut repository = repository.clone();
        let file = amend(&repository.held[&Role::Targets], &Role::Targets, &["targets"], |file| {
            let version = file["version"].as_u64().unwrap();
            file["version"] = json!(version + 1);
            change(file);
        });
        let refusal = refused(&mut repository, &[(Role::Targets, file)]);
        assert!(!matches!(refusal, Refused::Conflict { .. }), "{what}: {refusal}");
    }
}

#[test]
fn policy_needs_at_least_as_many_signatures_as_the_strictest_ring() {
    let mut repository = TestRepository::with_payments();
    let mut draft =
        Draft::next(Role::Targets, &repository.held[&Role::Targets], repository.now).unwrap();
    draft.delegate(&role("ring.payments.broad"), &keys(&["alice", "bob"], 2)).unwrap();
    let file = draft.sign(&[&key("targets")]).unwrap();
    let refusal = refused(&mut repository, &[(Role::Targets, file)]);
    assert!(refusal.to_string().contains("policy needs 1"), "{refusal}");
}

#[test]
fn keys_that_are_taken_away_take_their_file_with_them_or_are_refused() {
    let mut repository = TestRepository::with_payments();
    let ring = role("ring.payments.pilot");
    let mut draft =
        Draft::next(Role::Targets, &repository.held[&Role::Targets], repository.now).unwrap();
    draft.delegate(&ring, &keys(&["bob"], 1)).unwrap();
    let targets = (Role::Targets, draft.sign(&[&key("targets")]).unwrap());
    let alone = refused(&mut repository, std::slice::from_ref(&targets));
    assert!(matches!(alone, Refused::Orphaned { role, .. } if role == ring));
    // Signed anew by the keys that the ring has then, both go together.
    let anew = repository.draft("ring.payments.pilot").sign(&[&key("bob")]).unwrap();
    repository.push(&[targets, (ring.clone(), anew)]).unwrap();
    let mut host = TestHost::new(&repository);
    let set = host.refresh(&repository, &["ring.payments.pilot"]).unwrap();
    assert_eq!(set.version(&ring), Some(2));
}

#[test]
fn snapshot_and_timestamp_are_renewed_at_half_their_time() {
    let mut repository = TestRepository::with_payments();
    let version = |repository: &TestRepository, role: &Role| {
        TrustedSet::load(&repository.held, &[]).unwrap().version(role).unwrap()
    };
    assert!(!repository.renew().unwrap());
    repository.now += SignedDuration::from_hours(35);
    assert!(!repository.renew().unwrap());
    repository.now += SignedDuration::from_hours(1);
    let before = version(&repository, &Role::Timestamp);
    assert!(repository.renew().unwrap());
    assert!(version(&repository, &Role::Timestamp) > before);
    assert!(!repository.renew().unwrap());
    let mut host = TestHost::new(&repository);
    host.refresh(&repository, &["ring.payments.pilot"]).unwrap();
}

#[test]
fn a_server_restored_from_a_backup_does_not_freeze_its_hosts() {
    let mut repository = TestRepository::with_payments();
    let backup = repository.clone();
    for _ in 0..20 {
        repository.now += SignedDuration::from_hours(40);
        assert!(repository.renew().unwrap());
    }
    let mut host = TestHost::new(&repository);
    host.refresh(&repository, &[]).unwrap();
    let mut restored = backup;
    restored.now = repository.now + SignedDuration::from_hours(40);
    assert!(restored.renew().unwrap());
    host.refresh(&restored, &[]).unwrap();
}

#[test]
fn promotions_carry_their_terms() {
    let mut repository = TestRepository::with_payments();
    repository.release("1.1");
    let terms = Terms {
        evidence: vec![Evidence { kind: EvidenceKind::Security, sha256: Digest::of(b"scan") }],
        retry: vec![Digest::of(b"1.1")],
        min_release_counter: Some(3),
        overrides: vec![Override { gate: Gate::After, reason: "incident 7".into() }],
        ..Terms::new(Standing::Current)
    };
    let releases = repository.release_file();
    let mut draft = repository.draft("ring.payments.pilot");
    draft.promote(&releases, &"1.1".parse().unwrap(), 3, terms.clone()).unwrap();
    let accepted =
        repository.push(&[(role("ring.payments.pilot"), repository.sign(&draft))]).unwrap();
    assert_eq!(accepted.rings[0].2.current.as_ref().unwrap().terms, terms);
}

#[test]
fn a_bundles_timestamp_is_older_than_the_one_published_with_it_and_is_never_published_itself() {
    let mut repository = TestRepository::with_payments();
    let mut online = TestHost::new(&repository);
    let mut cut_off = online.clone();
    let bundled = repository.for_bundle(BUNDLE_LONGEST).unwrap();
    for file in repository.files.values() {
        assert!(*file != bundled.timestamp && *file != bundled.snapshot, "it can be fetched");
    }
    let set = online.refresh(&repository, &[]).unwrap();
    assert_eq!(set.timestamp().version(), bundled.version + 1);
    let lives = |expires: Timestamp| expires.duration_since(repository.now);
    assert!(lives(set.timestamp().expires()) <= TIMESTAMP_LASTS, "published ones stay short");
    // A host that is cut off takes the bundle's, also when the published ones have long expired, and
    // goes on with the server's own when the network is back.
    let mut later = repository.clone();
    later.now += SNAPSHOT_LASTS * 4;
    let files = repository.clone();
    let from_bundle = |request: &crate::trust::client::Request| match request.role {
        Role::Timestamp => Some(bundled.timestamp.clone()),
        Role::Snapshot => Some(bundled.snapshot.clone()),
        _ => files.serve(request),
    };
    let set = cut_off.refresh_from(&[], later.now, from_bundle).unwrap();
    assert_eq!(set.timestamp().version(), bundled.version);
    later.renew().unwrap();
    let set = cut_off.refresh(&later, &[]).unwrap();
    assert!(set.timestamp().version() > bundled.version);
    assert!(set.timestamp().expires().duration_since(later.now) <= TIMESTAMP_LASTS);
}

#[test]
fn a_host_that_is_online_refuses_the_timestamp_of_a_bundle() {
    let mut repository = TestRepository::with_payments();
    let mut host = TestHost::new(&repository);
    let bundled = repository.for_bundle(SignedDuration::from_hours(8 * 24)).unwrap();
    for clock in ["1970-01-01T00:00:00Z", crate::trust::testing::BEGIN, "2026-01-01T20:00:00Z"] {
        let refresh = Refresh::start(host.stored.clone(), &[], at(clock)).unwrap();
        let replayed = host.carry(refresh.at_most(ONLINE_LONGEST), |request| match request.role {
            Role::Timestamp => Some(bundled.timestamp.clone()),
            Role::Snapshot => Some(bundled.snapshot.clone()),
            _ => repository.serve(request),
        });
        let refused = replayed.unwrap_err();
        assert!(
            matches!(refused, TrustError::LongLived { role: Role::Timestamp, .. }),
            "{refused}"
        );
        assert!(!host.stored.contains_key(&Role::Timestamp), "{clock}: it was kept");
    }
    let refresh = Refresh::start(host.stored.clone(), &[], repository.now).unwrap();
    host.carry(refresh.at_most(ONLINE_LONGEST), |request| repository.serve(request)).unwrap();
}

#[test]
fn a_bundle_for_longer_than_thirty_days_is_not_signed() {
    let mut repository = TestRepository::with_payments();
    let (longest, second) = (BUNDLE_LONGEST, SignedDuration::from_secs(1));
    for valid in [longest + second, SignedDuration::MAX, SignedDuration::ZERO, second * -1] {
        let refused = repository.for_bundle(valid).unwrap_err();
        assert!(matches!(refused, Refused::BundleSpan), "{refused}");
    }
    repository.for_bundle(longest).unwrap();
}
