//! Drafts: what they carry on, what they refuse to sign, and how they put a change in words.

use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::{
    names::Version,
    policy::Gate,
    printable::printable,
    trust::{
        KeyId, PublicKey, Signer,
        edit::{
            AppendError, Draft, Due, EditError, KeyList, RootKeys, append, default_days,
            longest_days, missing_signatures,
        },
        metadata::Content,
        promotion::{Override, RingFile, Standing, Terms},
        role::Role,
        testing::{BEGIN, TestRepository, amend, at, key, keys, role},
        verify::{Expected, Opened, verify, verify_root},
    },
};

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

fn id(name: &str) -> KeyId {
    key(name).public().id()
}

fn next(repository: &TestRepository, of: Role) -> Draft {
    Draft::next(of.clone(), &repository.held[&of], repository.now).unwrap()
}

fn ring_of(repository: &TestRepository) -> RingFile {
    let role = role("ring.payments.pilot");
    let opened = Opened::open(&repository.held[&role], &role, None).unwrap();
    let targets = crate::trust::metadata::read(opened.signed(), &role).unwrap();
    RingFile::read(&"payments".parse().unwrap(), &"pilot".parse().unwrap(), &targets).unwrap()
}

fn names(ring: &RingFile) -> (Option<&str>, Option<&str>, Vec<&str>) {
    let name =
        |promotion: &'_ crate::trust::Promotion| -> *const str { promotion.version.as_str() };
    let _ = name;
    (
        ring.current.as_ref().map(|p| p.version.as_str()),
        ring.back.as_ref().map(|p| p.version.as_str()),
        ring.barriers.iter().map(|p| p.version.as_str()).collect(),
    )
}

#[test]
fn any_threshold_is_carried_and_holders_sign_one_after_another() {
    let three = keys(&["alice", "bob", "carol"], 2);
    let root_keys = RootKeys { root: three.clone(), ..TestRepository::root_keys() };
    let draft = Draft::first_root(&root_keys, at(BEGIN)).unwrap();
    let one = draft.sign(&[&key("alice")]).unwrap();
    assert!(verify_root(&one, None).is_err());
    let opened = Opened::open(&one, &Role::Root, None).unwrap();
    let root: crate::trust::Root =
        crate::trust::metadata::read(opened.signed(), &Role::Root).unwrap();
    let (missing, who) = missing_signatures(&one, &Role::Root, root.root()).unwrap();
    assert_eq!(missing, 1);
    assert_eq!(who.len(), 2);
    assert!(who.contains(&id("bob")) && who.contains(&id("carol")));
    let two = append(&one, &Role::Root, &key("carol")).unwrap();
    let trusted = verify_root(&two, None).unwrap();
    assert_eq!(trusted.signers().len(), 2);
    assert_eq!(missing_signatures(&two, &Role::Root, root.root()).unwrap().0, 0);
    // Order does not matter, and what is signed has not changed.
    let other = append(&draft.sign(&[&key("carol")]).unwrap(), &Role::Root, &key("alice")).unwrap();
    assert_eq!(verify_root(&other, None).unwrap().signed(), trusted.signed());
}

#[test]
fn nobody_signs_twice() {
    let repository = TestRepository::new();
    let draft = next(&repository, Role::Targets);
    let file = draft.sign(&[&key("targets")]).unwrap();
    assert!(matches!(
        append(&file, &Role::Targets, &key("targets")),
        Err(AppendError::AlreadySigned { .. })
    ));
    assert!(matches!(
        draft.sign(&[&key("targets"), &key("targets")]),
        Err(EditError::SameKeyTwice { .. })
    ));
}

#[test]
fn a_spoilt_signature_can_be_replaced_by_its_holder() {
    let repository = TestRepository::new();
    let file = next(&repository, Role::Targets).sign(&[&key("targets")]).unwrap();
    let mut spoilt: Value = serde_json::from_slice(&file).unwrap();
    spoilt["signatures"][0]["sig"] = json!("00".repeat(64));
    let mended = append(spoilt.to_string().as_bytes(), &Role::Targets, &key("targets")).unwrap();
    let value: Value = serde_json::from_slice(&mended).unwrap();
    assert_eq!(value["signatures"].as_array().unwrap().len(), 1);
    assert_eq!(value, serde_json::from_slice::<Value>(&file).unwrap());
}

#[test]
fn thresholds_and_keys_that_cannot_work_are_refused() {
    let refuse = |list: KeyList| {
        let keys = RootKeys { root: list.clone(), ..TestRepository::root_keys() };
        let root = Draft::first_root(&keys, at(BEGIN)).unwrap_err();
        let mut targets = Draft::first(Role::Targets, at(BEGIN)).unwrap();
        let delegated = targets.delegate(&role("release.payments"), &list).unwrap_err();
        assert_eq!(std::mem::discriminant(&root), std::mem::discriminant(&delegated));
        root
    };
    assert!(matches!(refuse(keys(&["a"], 0)), EditError::Threshold { .. }));
    assert!(matches!(refuse(keys(&["a"], 2)), EditError::Threshold { .. }));
    assert!(matches!(refuse(keys(&[], 1)), EditError::Threshold { .. }));
    assert!(matches!(refuse(keys(&["a", "b", "a"], 2)), EditError::SameKeyTwice { .. }));
    let mut twin = key("a").public().to_value().clone();
    twin["comment"] = json!("the same key under another id");
    let twins = KeyList::new([key("a").public().clone(), PublicKey::from_value(&twin)], 2);
    assert!(matches!(refuse(twins), EditError::SameKeyTwice { .. }));
    let unknown = KeyList::new([PublicKey::from_value(&json!({ "keytype": "rsa" }))], 1);
    assert!(matches!(refuse(unknown), EditError::UnusableKey { .. }));
}

#[test]
fn an_expiry_in_the_past_is_not_signed() {
    let repository = TestRepository::new();
    let mut draft = next(&repository, Role::Targets);
    draft.expire_at(repository.now);
    assert!(matches!(draft.sign(&[&key("targets")]), Err(EditError::ExpiresInPast { .. })));
    draft.expire_in_days(-1);
    assert!(draft.sign(&[&key("targets")]).is_err());
    draft.expire_in_days(longest_days(&Role::Targets));
    assert!(draft.sign(&[&key("targets")]).is_ok());
}

#[test]
fn nobody_is_trusted_for_longer_than_the_role_allows() {
    let repository = TestRepository::new();
    let mut draft = next(&repository, Role::Targets);
    for days in [longest_days(&Role::Targets) + 2, i64::MAX] {
        draft.expire_in_days(days);
        let refused = draft.sign(&[&key("targets")]);
        assert!(matches!(refused, Err(EditError::ExpiresTooLate { .. })), "{days}");
    }
}

#[test]
fn each_role_lasts_as_long_as_the_design_says() {
    let repository = TestRepository::with_payments();
    for (name, days) in [
        ("root", 365),
        ("release.payments", 365),
        ("targets", 180),
        ("policy", 180),
        ("ring.payments.pilot", 180),
    ] {
        let role = role(name);
        assert_eq!(default_days(&role), days);
        let set = crate::trust::TrustedSet::load(
            &repository.held,
            &[Role::Policy, self::role("release.payments"), self::role("ring.payments.pilot")],
        )
        .unwrap();
        let lasts = SignedDuration::from_hours(24 * days);
        assert_eq!(set.expires(&role).unwrap(), repository.now + lasts, "{name}");
    }
}

#[test]
fn the_next_version_carries_unknown_members_on() {
    let mut repository = TestRepository::with_payments();
    let releases = role("release.payments");
    let later = amend(&repository.held[&releases], &releases, &["release.payments"], |file| {
        file["version"] = json!(2);
        file["x-later"] = json!(1);
        file["targets"]["releases/payments/1.0.json"]["x-more"] = json!([2]);
    });
    repository.push(&[(releases.clone(), later)]).unwrap();
    repository.release("1.1");
    let value: Value = serde_json::from_slice(&repository.held[&releases]).unwrap();
    assert_eq!(value["signed"]["version"], 3);
    assert_eq!(value["signed"]["x-later"], 1);
    assert_eq!(value["signed"]["targets"]["releases/payments/1.0.json"]["x-more"], json!([2]));
}

#[test]
fn a_promotion_makes_the_release_before_the_way_back_and_drops_the_rest() {
    let mut repository = TestRepository::with_payments();
    for version in ["1.1", "1.2", "1.3"] {
        repository.release(version);
        repository.promote(version).unwrap();
    }
    assert_eq!(names(&ring_of(&repository)), (Some("1.3"), Some("1.2"), vec![]));
    // Promoted again with other terms, it does not become its own way back.
    repository.promote("1.3").unwrap();
    assert_eq!(names(&ring_of(&repository)), (Some("1.3"), Some("1.2"), vec![]));
    // Back on purpose.
    repository.promote("1.2").unwrap();
    assert_eq!(names(&ring_of(&repository)), (Some("1.2"), Some("1.3"), vec![]));
}

#[test]
fn a_release_that_did_not_prove_itself_becomes_no_way_back() {
    let mut repository = TestRepository::with_payments();
    for version in ["1.1", "1.2", "1.3"] {
        repository.release(version);
    }
    repository.promote("1.1").unwrap();
    repository.promote("1.2").unwrap();
    let releases = repository.release_file();
    repository.edit("ring.payments.pilot", |draft| {
        let terms = Terms::new(Standing::Current);
        draft.promote_over_unproven(&releases, &version("1.3"), 1, terms).unwrap();
    });
    assert_eq!(names(&ring_of(&repository)), (Some("1.3"), Some("1.1"), vec![]));
    // The way back itself, promoted again, does not stand twice.
    repository.edit("ring.payments.pilot", |draft| {
        let terms = Terms::new(Standing::Current);
        draft.promote_over_unproven(&releases, &version("1.1"), 1, terms).unwrap();
    });
    assert_eq!(names(&ring_of(&repository)), (Some("1.1"), None, vec![]));
}

#[test]
fn barriers_stay_until_they_are_withdrawn() {
    let mut repository = TestRepository::with_payments();
    for version in ["1.1", "1.2"] {
        repository.release(version);
    }
    repository.promote("1.1").unwrap();
    repository.edit("ring.payments.pilot", |draft| {
        draft.set_standing(&version("1.0"), Standing::Barrier).unwrap();
    });
    assert_eq!(names(&ring_of(&repository)), (Some("1.1"), None, vec!["1.0"]));
    repository.promote("1.2").unwrap();
    assert_eq!(names(&ring_of(&repository)), (Some("1.2"), Some("1.1"), vec!["1.0"]));
    repository.edit("release.payments", |draft| {
        draft.remove_release(&version("1.0")).unwrap();
        draft.remove_release(&version("1.1")).unwrap();
    });
    repository.release("1.3");
    repository.promote("1.3").unwrap();
    assert_eq!(names(&ring_of(&repository)), (Some("1.3"), Some("1.2"), vec![]));
}

#[test]
fn a_quarantine_is_lifted_by_the_promotion_that_says_so_and_no_later_one() {
    let mut repository = TestRepository::with_payments();
    repository.release("1.1");
    let digest = crate::names::Digest::of(b"1.0");
    let releases = repository.release_file();
    repository.edit("ring.payments.pilot", |draft| {
        let terms = Terms { retry: vec![digest], ..Terms::new(Standing::Current) };
        draft.promote(&releases, &version("1.0"), 1, terms).unwrap();
    });
    assert_eq!(ring_of(&repository).current.unwrap().terms.retry, vec![digest]);
    repository.promote("1.1").unwrap();
    assert!(ring_of(&repository).back.unwrap().terms.retry.is_empty());
}

#[test]
fn a_floor_above_the_promoted_release_is_refused() {
    let repository = TestRepository::with_payments();
    let mut draft = repository.draft("ring.payments.pilot");
    let terms = |floor| Terms { min_release_counter: Some(floor), ..Terms::new(Standing::Current) };
    let releases = repository.release_file();
    assert!(draft.promote(&releases, &version("1.0"), 7, terms(7)).is_ok());
    assert!(matches!(
        draft.promote(&releases, &version("1.0"), 7, terms(8)),
        Err(EditError::FloorTooHigh { .. })
    ));
    assert!(matches!(
        draft.promote(&releases, &version("9.9"), 7, terms(1)),
        Err(EditError::NotThere { .. })
    ));
}

#[test]
fn the_same_version_with_other_bytes_is_not_signed() {
    let repository = TestRepository::with_payments();
    let mut draft = repository.draft("release.payments");
    assert!(draft.add_release(&version("1.0"), b"1.0").is_ok());
    assert!(matches!(draft.add_release(&version("1.0"), b"other"), Err(EditError::Reused { .. })));
}

#[test]
fn a_draft_takes_only_what_its_role_signs() {
    let repository = TestRepository::with_payments();
    let mut ring = repository.draft("ring.payments.pilot");
    assert!(matches!(ring.add_release(&version("2"), b""), Err(EditError::WrongRole { .. })));
    assert!(ring.set_policy("payments.json", b"").is_err());
    assert!(ring.delegate(&Role::Policy, &keys(&["a"], 1)).is_err());
    assert!(ring.set_root_keys(&TestRepository::root_keys()).is_err());
    let mut policy = repository.draft("policy");
    for bad in ["", "..", "a/b", "a b", "ä"] {
        assert!(policy.set_policy(bad, b"").is_err(), "{bad:?}");
    }
    let mut targets = next(&repository, Role::Targets);
    for top in [Role::Root, Role::Snapshot, role("other")] {
        assert!(targets.delegate(&top, &keys(&["a"], 1)).is_err());
    }
    for server in [Role::Snapshot, Role::Timestamp] {
        assert!(Draft::next(server.clone(), &repository.held[&server], repository.now).is_err());
        assert!(Draft::first(server, repository.now).is_err());
    }
}

#[test]
fn a_delegation_that_is_taken_back_leaves_no_key_behind() {
    let repository = TestRepository::with_payments();
    let mut draft = next(&repository, Role::Targets);
    draft.undelegate(&role("ring.payments.pilot")).unwrap();
    assert!(matches!(
        draft.undelegate(&role("ring.payments.pilot")),
        Err(EditError::NotThere { .. })
    ));
    let file = draft.sign(&[&key("targets")]).unwrap();
    assert!(!String::from_utf8(file).unwrap().contains(&id("ring.payments.pilot").to_string()));
}

#[test]
fn what_is_signed_is_what_is_verified() {
    let repository = TestRepository::with_payments();
    let draft = next(&repository, Role::Targets);
    let file = draft.sign(&[&key("targets")]).unwrap();
    let root = verify_root(&repository.held[&Role::Root], None).unwrap();
    let expected = Expected { role: &Role::Targets, authority: root.targets(), pin: None };
    let trusted = verify::<crate::trust::Targets>(&file, expected).unwrap();
    assert_eq!(crate::canonical::to_canonical(trusted.signed()), draft.message());
    assert_eq!(trusted.version(), draft.version());
}

#[test]
fn a_change_is_put_in_words() {
    let mut repository = TestRepository::with_payments();
    let mut root = next(&repository, Role::Root);
    let new = RootKeys { root: keys(&["root", "alice", "bob"], 2), ..TestRepository::root_keys() };
    root.set_root_keys(&new).unwrap();
    let words = root.describe().unwrap().join("\n");
    for wanted in [
        "root: version 2 replaces 1".to_owned(),
        format!("root: key {} is added", id("alice")),
        "root: needs 2 of 3 keys (was 1 of 1)".to_owned(),
    ] {
        assert!(words.contains(&wanted), "{wanted:?} in\n{words}");
    }

    let mut targets = next(&repository, Role::Targets);
    targets.delegate(&role("ring.payments.broad"), &keys(&["alice"], 1)).unwrap();
    targets.undelegate(&role("policy")).unwrap();
    let words = targets.describe().unwrap().join("\n");
    assert!(words.contains("ring.payments.broad: is delegated rings/payments/broad/*"), "{words}");
    assert!(words.contains("policy: is no longer delegated"), "{words}");

    repository.release("1.1");
    let releases = repository.release_file();
    let mut ring = repository.draft("ring.payments.pilot");
    let terms = Terms {
        min_release_counter: Some(1),
        overrides: vec![Override { gate: Gate::Performance, reason: "incident 7".into() }],
        ..Terms::new(Standing::Current)
    };
    ring.promote(&releases, &version("1.1"), 1, terms).unwrap();
    let words = ring.describe().unwrap().join("\n");
    for wanted in [
        "release 1.1 is current",
        "floor 1",
        "passes over performance: incident 7",
        "release 1.0 is the one to go back to (was current)",
    ] {
        assert!(words.contains(wanted), "{wanted:?} in\n{words}");
    }

    let mut releases = repository.draft("release.payments");
    releases.add_release(&version("1.2"), b"1.2").unwrap();
    releases.remove_release(&version("1.0")).unwrap();
    let words = releases.describe().unwrap().join("\n");
    assert!(words.contains("releases/payments/1.2.json is added: 3 bytes"), "{words}");
    assert!(words.contains("releases/payments/1.0.json is removed"), "{words}");
}

/// What a signer reads is what is signed: nothing in it hides or rewrites a line of the terminal.
#[test]
fn what_is_read_before_signing_and_why_a_file_is_refused_move_no_cursor() {
    let escape = "\u{1b}[1A\u{1b}[2K\u{202e}\n";
    let repository = TestRepository::with_payments();
    let role = Role::Targets;
    let mut signed = crate::canonical::parse(&repository.held[&role]).unwrap()["signed"].clone();
    let patterns = &mut signed["delegations"]["roles"][0]["paths"];
    *patterns = serde_json::json!([format!("rings/{escape}*")]);
    let words = crate::trust::edit::describe(None, &signed, &role).unwrap();
    assert!(
        words.iter().any(|line| line.contains(r"rings/\u{1b}[1A\u{1b}[2K\u{202e}\u{a}*")),
        "{words:?}"
    );
    assert!(words.iter().all(|line| printable(line) == *line), "{words:?}");

    let refused = |member: &str, value: serde_json::Value| {
        let mut signed = signed.clone();
        signed[member] = value;
        let error = crate::trust::edit::describe(None, &signed, &role).unwrap_err().to_string();
        assert!(error.contains(r"\u{1b}"), "{error:?}");
        assert!(error.lines().all(|line| printable(line) == line), "{error:?}");
    };
    refused("spec_version", escape.into());
    refused("_type", escape.into());
    let named = |name: &str| Role::named(name).is_err();
    assert!(named("a\u{1b}") && named("a\u{200b}") && !named("../any.other role/Zoë"));
}

#[test]
fn people_are_told_a_month_before_and_the_server_when_it_is_late() {
    let now = at(BEGIN);
    let left = |name: &str, hours: i64| {
        Due::of(&Role::parse(name).unwrap(), now + SignedDuration::from_hours(hours), now).word()
    };
    for name in ["root", "targets", "policy", "release.payments"] {
        assert_eq!(left(name, 31 * 24), "", "{name}");
        assert_eq!(left(name, 30 * 24), "due", "{name}");
        assert_eq!(left(name, 0), "expired", "{name}");
    }
    // A ring that the server renews lasts no longer than a month at all.
    assert_eq!(
        (left("ring.payments.pilot", 16 * 24), left("ring.payments.pilot", 15 * 24)),
        ("", "due")
    );
    for (name, half) in [("timestamp", 36), ("snapshot", 84)] {
        assert_eq!((left(name, half), left(name, half - 2)), ("", "overdue"), "{name}");
        assert_eq!(left(name, -1), "expired", "{name}");
    }
}
