//! Changes that several people sign, each where their key is; and the days on which a key is lost, leaves
//! or is stolen.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use crate::{
    names::Digest,
    trust::{
        LocalKey, PublicKey, Signer,
        change::{Base, ChangeError, ChangeFile, Judged, SignatureLine},
        edit::{Draft, EditError, KeyList, RootKeys},
        repository::Refused,
        role::Role,
        signing,
        testing::{BEGIN, TestHost, TestRepository, amend, at, forge, key, keys, role},
    },
};

/// A repository whose root and targets are signed by two of alice, bob and carol.
fn repository() -> TestRepository {
    let mut repository = TestRepository::with_payments();
    let three = keys(&["alice", "bob", "carol"], 2);
    let root_keys = RootKeys { root: three.clone(), targets: three, ..TestRepository::root_keys() };
    let draft = root_draft(&repository, &root_keys);
    let signers: [LocalKey; 3] = [key("root"), key("alice"), key("bob")];
    let root = draft.sign(&signers.each_ref().map(|key| key as &dyn Signer)).unwrap();
    let targets = Draft::next(Role::Targets, &repository.held[&Role::Targets], repository.now);
    let targets = targets.unwrap().sign(&[&key("alice"), &key("carol")]).unwrap();
    repository.push(&[(Role::Root, root), (Role::Targets, targets)]).unwrap();
    repository
}

fn root_draft(repository: &TestRepository, keys: &RootKeys) -> Draft {
    let held = &repository.held[&Role::Root];
    let mut draft = Draft::next(Role::Root, held, repository.now).unwrap();
    draft.set_root_keys(keys).unwrap();
    draft
}

fn base(repository: &TestRepository) -> Base {
    let roots = (1..).map_while(|n| repository.files.get(&(Role::Root, n)).cloned()).collect();
    let held = repository
        .held
        .iter()
        .filter(|(role, _)| !matches!(role, Role::Root | Role::Snapshot | Role::Timestamp));
    Base { roots, held: held.map(|(role, file)| (role.clone(), file.clone())).collect() }
}

fn change(repository: &TestRepository, drafts: &[&Draft]) -> ChangeFile {
    let steps = drafts.iter().map(|draft| (draft.role().clone(), draft.unsigned().unwrap()));
    ChangeFile::new("alice".into(), repository.now, base(repository), steps.collect())
}

fn own(repository: &TestRepository) -> Option<Digest> {
    Some(Digest::of(&repository.files[&(Role::Root, 1)]))
}

fn judge(repository: &TestRepository, change: &ChangeFile) -> Result<Judged, ChangeError> {
    change.judge(own(repository), repository.now)
}

/// What a holder does on a machine of their own: a copy of the file in, a line of text out.
fn hand_to(repository: &TestRepository, change: &ChangeFile, holder: &str) -> String {
    let copy = ChangeFile::from_bytes(&change.to_bytes()).unwrap();
    let lines = judge(repository, &copy).unwrap().sign(&key(holder)).unwrap();
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn merge(repository: &TestRepository, change: &mut ChangeFile, text: &str) {
    for line in SignatureLine::read_all(text).unwrap() {
        change.add(&line, repository.now).unwrap();
    }
}

fn sign_and_push(repository: &mut TestRepository, mut change: ChangeFile, holders: &[&str]) {
    for holder in holders {
        let signature = hand_to(repository, &change, holder);
        merge(repository, &mut change, &signature);
    }
    assert!(judge(repository, &change).unwrap().is_complete());
    repository.push(change.steps()).unwrap();
}

fn renewed_targets(repository: &TestRepository) -> Draft {
    Draft::next(Role::Targets, &repository.held[&Role::Targets], repository.now).unwrap()
}

#[test]
fn people_on_different_machines_sign_in_any_order_with_a_line_of_text() {
    let repository = repository();
    let mut orders = Vec::new();
    for order in [["bob", "carol"], ["carol", "bob"]] {
        let mut change = change(&repository, &[&renewed_targets(&repository)]);
        // Both sign the copy that they were given at first.
        let signatures = order.map(|holder| hand_to(&repository, &change, holder));
        assert!(signatures.iter().all(|text| text.len() < 200), "{signatures:?}");
        merge(&repository, &mut change, &signatures[0]);
        let half = judge(&repository, &change).unwrap();
        assert!(!half.is_complete());
        assert_eq!(half.standing().len(), 1);
        assert!(half.standing()[0].starts_with("targets 6: 1 of 2, waiting for "), "{half:?}");
        merge(&repository, &mut change, &signatures[1]);
        let whole = judge(&repository, &change).unwrap();
        assert!(whole.is_complete() && whole.waiting().is_empty());
        repository.clone().push(change.steps()).unwrap();
        orders.push(whole.id);
    }
    assert_eq!(orders[0], orders[1]);
}

#[test]
fn a_holder_is_told_in_words_what_changes_and_who_holds_what() {
    let repository = repository();
    let list = |names: &[&str]| keys(names, 2);
    let root_keys = RootKeys {
        root: list(&["alice", "bob", "dave"]),
        targets: list(&["alice", "bob", "dave"]),
        ..TestRepository::root_keys()
    };
    let mut draft = root_draft(&repository, &root_keys);
    let holders = ["alice", "bob", "dave"].map(|name| (key(name).public().id(), name.to_owned()));
    draft.name_holders(&BTreeMap::from(holders));
    let change = change(&repository, &[&draft]);
    let judged = judge(&repository, &change).unwrap();
    let words = judged.in_words().join("\n");
    assert!(words.contains("version 3 replaces 2"), "{words}");
    let dave = key("dave").public().id();
    assert!(words.contains(&format!("root: key {dave} of dave is added")), "{words}");
    assert!(words.contains(&format!("key {} is removed", key("carol").public().id())), "{words}");
    let standing = judged.standing();
    assert_eq!(standing.len(), 2, "the old root and the new one are told apart: {standing:?}");
    assert!(standing[0].contains("by the old root's keys: 0 of 2"), "{standing:?}");
    assert!(standing[1].contains("by its own keys: 0 of 2") && standing[1].contains("dave"));
}

#[test]
fn a_holder_is_told_what_the_documents_of_the_policy_role_change() {
    let repository = repository();
    let policy = |label: &str| {
        let rings =
            format!(r#"[{{"ring":"pilot","select":{{"labels":{{"pilot":["{label}"]}}}}}}]"#);
        let text =
            format!(r#"{{"_type":"policy","format":1,"product":"payments","rings":{rings}}}"#);
        text.into_bytes()
    };
    let labels = br#"{"_type":"labels","format":1,"hosts":{"00112233445566778899aabbccddeeff":{"pilot":"yes"}}}"#;
    let mut draft = repository.draft("policy");
    draft.set_policy("payments.json", &policy("no")).unwrap();
    draft.set_policy("labels.json", labels).unwrap();
    let change = change(&repository, &[&draft]);
    let all = [policy("no"), policy("yes"), labels.to_vec()];
    let told = all.into_iter().fold(change.clone(), ChangeFile::with_document);
    let words = judge(&repository, &told).unwrap().in_words().join("\n");
    for expected in [
        "payments/pilot: selects pilot=no, was: selects pilot=yes",
        "host 00112233445566778899aabbccddeeff: labels pilot=yes, was: none",
    ] {
        assert!(words.contains(expected), "{words}");
    }
    // What can't be read is said, not passed over.
    let mut draft = repository.draft("policy");
    draft.set_policy("payments.json", b"{}").unwrap();
    let unreadable = self::change(&repository, &[&draft]).with_document(b"{}".to_vec());
    let words = judge(&repository, &unreadable).unwrap().in_words().join("\n");
    assert!(words.contains("policy/payments.json can't be read: do not sign"), "{words}");
}

#[test]
fn a_new_root_is_complete_only_when_the_old_one_and_itself_agree() {
    let repository = repository();
    let root = keys(&["dave", "erin", "carol"], 2);
    let targets = keys(&["alice", "bob", "carol"], 2);
    let root_keys = RootKeys { root, targets, ..TestRepository::root_keys() };
    let mut change = change(&repository, &[&root_draft(&repository, &root_keys)]);
    for (holder, complete) in [("dave", false), ("alice", false), ("erin", false), ("bob", true)] {
        let signature = hand_to(&repository, &change, holder);
        merge(&repository, &mut change, &signature);
        assert_eq!(judge(&repository, &change).unwrap().is_complete(), complete, "{holder}");
        assert_eq!(repository.clone().push(change.steps()).is_ok(), complete, "{holder}");
    }
}

#[test]
fn nobody_signs_twice_and_nobody_signs_who_is_not_named() {
    let repository = repository();
    let mut change = change(&repository, &[&renewed_targets(&repository)]);
    let signature = hand_to(&repository, &change, "alice");
    merge(&repository, &mut change, &signature);
    merge(&repository, &mut change, &signature);
    let judged = judge(&repository, &change).unwrap();
    assert_eq!(judged.steps[0].needs[0].missing(), 1, "one key counts once");
    assert!(matches!(judged.sign(&key("alice")), Err(ChangeError::AlreadySigned { .. })));
    // The key of the root before last, and one that nobody knows.
    for stranger in ["root", "targets", "mallory"] {
        assert!(matches!(judged.sign(&key(stranger)), Err(ChangeError::NotNamed { .. })));
        let message = [7; 64];
        let line = SignatureLine { key: key(stranger).public().id(), signature: message };
        let refused = change.add(&line, repository.now);
        assert!(matches!(refused, Err(ChangeError::FitsNothing { .. })), "{stranger}");
    }
}

#[test]
fn a_signature_of_another_change_fits_nothing() {
    let repository = repository();
    let mut one = change(&repository, &[&renewed_targets(&repository)]);
    let mut other = renewed_targets(&repository);
    other.expire_in_days(10);
    let mut other = change(&repository, &[&other]);
    let signature = hand_to(&repository, &other, "alice");
    let line = &SignatureLine::read_all(&signature).unwrap()[0];
    assert!(matches!(one.add(line, repository.now), Err(ChangeError::FitsNothing { .. })));
    merge(&repository, &mut other, &signature);
    assert!(matches!(one.join(&other, repository.now), Err(ChangeError::AnotherChange { .. })));
    assert_ne!(one.id().unwrap(), other.id().unwrap());
}

#[test]
fn a_file_that_was_changed_after_somebody_signed_it_waits_for_nobody() {
    let repository = repository();
    let one = change(&repository, &[&renewed_targets(&repository)]);
    let signature = hand_to(&repository, &one, "alice");
    let line = &SignatureLine::read_all(&signature).unwrap()[0];
    let mut other = renewed_targets(&repository);
    other.expire_in_days(10);
    let role = Role::Targets;
    let file = other.unsigned().unwrap();
    let file = signing::insert(&file, &role, line.key, &line.signature).unwrap();
    let changed =
        ChangeFile::new("bob".into(), repository.now, base(&repository), vec![(role, file)]);
    let refused = judge(&repository, &changed).unwrap_err();
    assert!(matches!(refused, ChangeError::ChangedSince { .. }), "{refused}");
}

#[test]
fn what_nobody_must_sign_is_refused_before_anything_is_shown() {
    let repository = repository();
    let (now, file) = (repository.now, renewed_targets(&repository).unsigned().unwrap());
    let with = |amended: Vec<u8>| {
        let steps = vec![(Role::Targets, amended)];
        let change = ChangeFile::new("mallory".into(), now, base(&repository), steps);
        judge(&repository, &change).unwrap_err()
    };
    let amended =
        |change: fn(&mut serde_json::Value)| with(amend(&file, &Role::Targets, &[], change));
    assert!(matches!(
        amended(|signed| signed["version"] = 9.into()),
        ChangeError::NotNext { before: 5, found: 9, .. }
    ));
    assert!(matches!(
        amended(|signed| signed["expires"] = "2025-12-31T00:00:00Z".into()),
        ChangeError::Edit(EditError::ExpiresInPast { .. })
    ));
    assert!(matches!(
        amended(|signed| signed["expires"] = "2036-01-01T00:00:00Z".into()),
        ChangeError::Edit(EditError::ExpiresTooLate { .. })
    ));
    assert!(matches!(
        amended(|signed| signed["delegations"]["roles"][0]["threshold"] = 4.into()),
        ChangeError::Edit(EditError::Threshold { threshold: 4, .. })
    ));
    // One key under two ids, so that its holder alone would be two of two.
    let twice = amended(|signed| {
        let keys = signed["delegations"]["keys"].as_object_mut().unwrap();
        let mut twin = keys.values().next().unwrap().clone();
        twin["comment"] = "the same".into();
        let twin = PublicKey::from_value(&twin);
        let one = PublicKey::from_value(keys.values().next().unwrap());
        keys.insert(twin.id().to_string(), twin.to_value().clone());
        let ids = serde_json::json!([one.id().to_string(), twin.id().to_string()]);
        signed["delegations"]["roles"][0]["keyids"] = ids;
    });
    assert!(matches!(twice, ChangeError::Edit(EditError::SameKeyTwice { .. })), "{twice}");
}

#[test]
fn a_change_that_stands_on_forged_files_or_on_another_fleet_is_refused() {
    let repository = repository();
    let draft = renewed_targets(&repository);
    let steps = vec![(Role::Targets, draft.unsigned().unwrap())];
    // A past that never was, to make the change look small.
    let mut forged = base(&repository);
    let held = &forged.held[&Role::Targets];
    forged.held.insert(Role::Targets, amend(held, &Role::Targets, &["mallory"], |_| {}));
    let change = ChangeFile::new("mallory".into(), repository.now, forged, steps.clone());
    assert!(matches!(judge(&repository, &change), Err(ChangeError::Trust(_))));
    // A root that the one before did not sign.
    let mut forged = base(&repository);
    let root = amend(&forged.roots[1], &Role::Root, &["alice", "bob"], |_| {});
    forged.roots[1] = root;
    let change = ChangeFile::new("mallory".into(), repository.now, forged, steps.clone());
    assert!(matches!(judge(&repository, &change), Err(ChangeError::Trust(_))));
    // Another fleet altogether, in which every signature is right.
    let other = Base { roots: vec![own_root("mallory")], held: BTreeMap::new() };
    let steps =
        vec![(Role::Targets, Draft::first(Role::Targets, at(BEGIN)).unwrap().unsigned().unwrap())];
    let change = ChangeFile::new("mallory".into(), repository.now, other, steps);
    assert!(change.judge(None, repository.now).is_ok());
    assert!(matches!(judge(&repository, &change), Err(ChangeError::OtherFleet { .. })));
    let first = ChangeFile::new(
        "mallory".into(),
        repository.now,
        Base::default(),
        vec![(Role::Root, own_root("mallory"))],
    );
    assert!(matches!(judge(&repository, &first), Err(ChangeError::OtherFleet { .. })));
}

fn own_root(name: &str) -> Vec<u8> {
    let list = keys(&[name], 1);
    let all = RootKeys {
        root: list.clone(),
        targets: list.clone(),
        snapshot: list.clone(),
        timestamp: list,
    };
    Draft::first_root(&all, at(BEGIN)).unwrap().sign(&[&key(name)]).unwrap()
}

#[test]
fn the_first_root_and_targets_are_signed_in_one_round() {
    let three = keys(&["alice", "bob", "carol"], 2);
    let all = RootKeys { root: three.clone(), targets: three, ..TestRepository::root_keys() };
    let root = Draft::first_root(&all, at(BEGIN)).unwrap();
    let targets = Draft::first(Role::Targets, at(BEGIN)).unwrap();
    let steps = [&root, &targets].map(|draft| (draft.role().clone(), draft.unsigned().unwrap()));
    let mut change = ChangeFile::new("alice".into(), at(BEGIN), Base::default(), steps.to_vec());
    for holder in ["bob", "alice"] {
        let judged = change.judge(None, at(BEGIN)).unwrap();
        assert_eq!(judged.first_root, None);
        for line in judged.sign(&key(holder)).unwrap() {
            change.add(&line, at(BEGIN)).unwrap();
        }
    }
    assert!(change.judge(None, at(BEGIN)).unwrap().is_complete());
    let mut repository = TestRepository::new();
    repository.held.clear();
    repository.push(change.steps()).unwrap();
}

#[test]
fn a_change_reads_back_as_it_was_written_and_nothing_else_is_one() {
    let repository = repository();
    let mut change = change(&repository, &[&renewed_targets(&repository)]);
    merge(&repository, &mut change.clone(), &hand_to(&repository, &change, "bob"));
    change = change.with_document(b"{}".to_vec());
    assert_eq!(ChangeFile::from_bytes(&change.to_bytes()).unwrap(), change);
    for text in ["", "{}", "[]", r#"{"_type":"change"}"#, "\u{0}"] {
        assert!(ChangeFile::from_bytes(text.as_bytes()).is_err(), "{text:?}");
    }
    let text = String::from_utf8(change.to_bytes()).unwrap();
    let newer = text.replacen("\"format\": 1", "\"format\": 2", 1);
    assert!(matches!(
        ChangeFile::from_bytes(newer.as_bytes()),
        Err(ChangeError::OtherFormat { found: 2 })
    ));
    for text in ["", "refit-sig1-", "refit-sig1-AAAA", "hello", "refit-sig1-%%%"] {
        assert!(SignatureLine::read_all(text).is_err(), "{text:?}");
    }
}

/// Bob has lost his key: alice and carol put dave in his place, and bob's old key counts no more.
#[test]
fn a_signer_who_lost_a_key_is_replaced_by_the_other_two() {
    let mut repository = repository();
    let mut host = TestHost::new(&repository);
    let three = keys(&["alice", "carol", "dave"], 2);
    let root_keys = RootKeys { root: three.clone(), targets: three, ..TestRepository::root_keys() };
    let root = root_draft(&repository, &root_keys);
    // Targets stay as they are: two of those who signed it still count.
    let change = change(&repository, &[&root]);
    sign_and_push(&mut repository, change, &["carol", "alice"]);
    host.refresh(&repository, &["ring.payments.pilot"]).unwrap();
    let draft = renewed_targets(&repository);
    let by_bob = draft.sign(&[&key("alice"), &key("bob")]).unwrap();
    assert!(repository.push(&[(Role::Targets, by_bob)]).is_err());
    let by_dave = draft.sign(&[&key("alice"), &key("dave")]).unwrap();
    repository.push(&[(Role::Targets, by_dave)]).unwrap();
    host.refresh(&repository, &["ring.payments.pilot"]).unwrap();
}

/// Carol leaves, and what she signed would count no more: the same round signs it again.
#[test]
fn a_signer_who_left_takes_nothing_along() {
    let mut repository = repository();
    let mut host = TestHost::new(&repository);
    let two = keys(&["alice", "bob"], 2);
    let root_keys = RootKeys { root: two.clone(), targets: two, ..TestRepository::root_keys() };
    let root = root_draft(&repository, &root_keys);
    let alone = change(&repository, &[&root]);
    // Without targets signed anew, no host would trust them: the server takes nothing.
    let mut half = alone.clone();
    for holder in ["alice", "bob"] {
        let signature = hand_to(&repository, &half, holder);
        merge(&repository, &mut half, &signature);
    }
    assert!(repository.clone().push(half.steps()).is_err());
    let both = change(&repository, &[&root, &renewed_targets(&repository)]);
    sign_and_push(&mut repository, both, &["alice", "bob"]);
    host.refresh(&repository, &["ring.payments.pilot"]).unwrap();
    // Carol's key and another's: not enough any more.
    let by_carol = renewed_targets(&repository).sign(&[&key("carol"), &key("alice")]).unwrap();
    assert!(repository.push(&[(Role::Targets, by_carol)]).is_err());
}

/// Root changes twice while a host is away; it walks both and goes on.
#[test]
fn a_host_that_was_off_for_a_year_walks_every_root_and_updates() {
    let mut repository = repository();
    let mut host = TestHost::new(&repository);
    host.refresh(&repository, &["ring.payments.pilot"]).unwrap();
    for (months, names) in [(5, ["alice", "bob", "dave"]), (10, ["alice", "dave", "erin"])] {
        repository.now = at(BEGIN) + SignedDuration::from_hours(months * 30 * 24);
        let three = keys(&names, 2);
        let root_keys =
            RootKeys { root: three.clone(), targets: three, ..TestRepository::root_keys() };
        let root = root_draft(&repository, &root_keys);
        let targets = renewed_targets(&repository);
        let change = change(&repository, &[&root, &targets]);
        sign_and_push(
            &mut repository,
            change,
            &["alice", if months == 5 { "bob" } else { "dave" }],
        );
    }
    repository.now = at(BEGIN) + SignedDuration::from_hours(365 * 24);
    for name in ["policy", "release.payments", "ring.payments.pilot"] {
        repository.edit(name, |_| {});
    }
    repository.renew().unwrap();
    repository.release("2.0");
    repository.promote("2.0").unwrap();
    let set = host.refresh(&repository, &["release.payments", "ring.payments.pilot"]).unwrap();
    let ring = set.ring(&"payments".parse().unwrap(), &"pilot".parse().unwrap()).unwrap();
    assert_eq!(ring.current.as_ref().unwrap().version.as_str(), "2.0");
    assert!(
        host.asked().starts_with(&["3.root".to_owned(), "4.root".to_owned()]),
        "{:?}",
        host.asked()
    );
}

/// Whoever stole the freshness key has frozen hosts far ahead; a new key brings them back.
#[test]
fn hosts_recover_from_a_stolen_freshness_key() {
    let mut repository = repository();
    let mut host = TestHost::new(&repository);
    host.refresh(&repository, &["ring.payments.pilot"]).unwrap();
    // The thief signs a timestamp of a version that the server will not reach in a lifetime.
    let held = repository.held.clone();
    let timestamp = amend(&held[&Role::Timestamp], &Role::Timestamp, &["freshness"], |signed| {
        signed["version"] = i64::MAX.into();
    });
    let frozen = |request: &crate::trust::Request| match request.role {
        Role::Timestamp => Some(timestamp.clone()),
        _ => repository.serve(request),
    };
    host.refresh_from(&["ring.payments.pilot"], repository.now, frozen).unwrap();
    repository.release("2.0");
    assert!(host.refresh(&repository, &["ring.payments.pilot"]).is_err(), "it is frozen");

    let fresh = KeyList::new([key("fresh").public().clone()], 1);
    let three = keys(&["alice", "bob", "carol"], 2);
    let root_keys =
        RootKeys { root: three.clone(), targets: three, snapshot: fresh.clone(), timestamp: fresh };
    let mut change = change(&repository, &[&root_draft(&repository, &root_keys)]);
    let words = judge(&repository, &change).unwrap().in_words().join("\n");
    assert!(words.contains("hosts drop the snapshot and timestamp"), "{words}");
    for holder in ["bob", "carol"] {
        let signature = hand_to(&repository, &change, holder);
        merge(&repository, &mut change, &signature);
    }
    // The server takes it only with the key that the new root names.
    let refused = repository.clone().push(change.steps());
    assert!(matches!(refused, Err(Refused::FreshnessKeyNotNamed { .. })));
    let accepted = crate::trust::repository::accept(
        &repository.held,
        change.steps(),
        &|_| None,
        &key("fresh"),
        repository.now,
    );
    repository.store(&accepted.unwrap().writes);
    let set = host.refresh(&repository, &["release.payments"]).unwrap();
    assert!(set.release(&"payments".parse().unwrap(), &"2.0".parse().unwrap()).is_some());
    // What the thief signs from now on is worth nothing.
    let signed = serde_json::json!({ "_type": "timestamp" });
    let forged = forge(&signed, &["freshness"]);
    let answer = |request: &crate::trust::Request| match request.role {
        Role::Timestamp => Some(forged.clone()),
        _ => repository.serve(request),
    };
    assert!(host.refresh_from(&[], repository.now, answer).is_err());
}

#[test]
fn a_ring_of_several_promoters_is_signed_by_them_one_by_one() {
    let mut repository = repository();
    repository.now += SignedDuration::from_hours(1);
    let policy = renewed_targets(&repository);
    let mut targets = policy;
    for (name, names) in
        [("ring.payments.early", ["alice", "bob"]), ("policy", ["policy", "carol"])]
    {
        targets.delegate(&role(name), &keys(&names, 2)).unwrap();
    }
    let policy = repository.draft("policy");
    let both = change(&repository, &[&targets, &policy]);
    sign_and_push(&mut repository, both, &["alice", "carol", "policy"]);
    let ring = Draft::first(role("ring.payments.early"), repository.now).unwrap();
    let change = change(&repository, &[&ring]);
    sign_and_push(&mut repository, change, &["bob", "alice"]);
}
