//! When the server signs with its gate key, and above all when it does not.

use refit_durable::file::{self, Access};
use refit_proto::trust::{
    Signer,
    change::Base,
    set::Stored,
    testing::{BEGIN, TestRepository, at, key, keys, role},
};

use super::*;

const RING: &str = "ring.payments.pilot";

/// The server's key in use, and the next one.
fn own_keys() -> (tempfile::TempDir, OnlineKey) {
    let folder = tempfile::tempdir().unwrap();
    for (name, seed) in [("gate.pem", "old gate"), ("gate.next.pem", "new gate")] {
        let pem = key(seed).to_pem().unwrap();
        file::write(&folder.path().join(name), pem.as_bytes(), Access::Private).unwrap();
    }
    let keys = OnlineKey::load(folder.path(), "gate").unwrap();
    (folder, keys)
}

/// The ring is signed by the old gate key, and 1.1 is released and not promoted.
fn repository() -> TestRepository {
    let mut repository = TestRepository::with_payments();
    repository.delegate(RING, &[RING, "old gate"], 1);
    let held = &repository.held[&role(RING)];
    let file = Draft::next(role(RING), held, repository.now).unwrap();
    let file = file.sign(&[&key("old gate")]).unwrap();
    repository.push(&[(role(RING), file)]).unwrap();
    repository.delegate(RING, &["old gate"], 1);
    repository.release("1.1");
    repository
}

fn set(stored: &Stored) -> TrustedSet {
    let roles = [Role::Policy, role("release.payments"), role(RING)];
    TrustedSet::load(stored, &roles).unwrap()
}

/// Targets that name these keys for the ring, signed by these; and the ring's next file.
fn change(
    repository: &TestRepository,
    named: &[&str],
    signers: &[&str],
    next: impl FnOnce(&mut Draft),
) -> ChangeFile {
    let now = repository.now;
    let held = &repository.held;
    let mut targets = Draft::next(Role::Targets, &held[&Role::Targets], now).unwrap();
    targets.delegate(&role(RING), &keys(named, 1)).unwrap();
    let signers: Vec<LocalKey> = signers.iter().map(|name| key(name)).collect();
    let signers: Vec<&dyn Signer> = signers.iter().map(|key| key as &dyn Signer).collect();
    let targets = match signers.as_slice() {
        [] => targets.unsigned().unwrap(),
        signers => targets.sign(signers).unwrap(),
    };
    let mut ring = Draft::next(role(RING), &held[&role(RING)], now).unwrap();
    next(&mut ring);
    let base = Base {
        roots: vec![held[&Role::Root].clone()],
        held: [Role::Targets, role(RING)].map(|role| (role.clone(), held[&role].clone())).into(),
    };
    let steps = vec![(Role::Targets, targets), (role(RING), ring.unsigned().unwrap())];
    ChangeFile::new("alice".into(), now, base, steps)
}

fn signed(repository: &TestRepository, change: &ChangeFile) -> Option<Signed> {
    let (_folder, keys) = own_keys();
    exchanged(&set(&repository.held), change, &keys, repository.now)
}

#[test]
fn the_next_key_signs_what_the_old_one_signed_and_it_is_taken() {
    let mut repository = repository();
    let change = change(&repository, &["new gate"], &["targets"], |_| {});
    let signed = signed(&repository, &change).unwrap();
    assert_eq!(signed.occasion, Occasion::Exchanged);
    repository.push(&signed.files).unwrap();
    let set = set(&repository.held);
    let signers = set.delegated(&role(RING)).unwrap().signers();
    assert!(signers.iter().eq([&key("new gate").public().id()]));
}

#[test]
fn the_next_key_signs_nothing_new_and_nothing_that_people_have_not_signed() {
    let repository = repository();
    let releases = repository.release_file();
    let promote = |draft: &mut Draft| {
        let version = "1.1".parse().unwrap();
        draft.promote(&releases, &version, 2, Terms::new(Standing::Current)).unwrap();
    };
    let another_release = change(&repository, &["new gate"], &["targets"], promote);
    assert_eq!(signed(&repository, &another_release), None);
    let unsigned_targets = change(&repository, &["new gate"], &[], |_| {});
    assert_eq!(signed(&repository, &unsigned_targets), None);
    let of_others = change(&repository, &["mallory"], &["targets"], |_| {});
    assert_eq!(signed(&repository, &of_others), None);
}

fn policy(text: &str) -> ProductPolicy {
    let gate = key("old gate").public().id();
    let text = text.replace("GATE", &gate.to_string());
    ProductPolicy::parse(text.as_bytes()).unwrap()
}

const NAMED: &str = r#"{"_type":"policy","format":1,"product":"payments","gate_key":"GATE","rings":[{"ring":"pilot","select":{"labels":{"pilot":["yes"]}},"gate":true}]}"#;

fn due_on(repository: &TestRepository, policy: &ProductPolicy, now: &str) -> Vec<Signed> {
    let (set, key) = (set(&repository.held), key("old gate"));
    let sight = Sight { set: &set, changes: &[], key: &key, now: at(now) };
    let product = ProductNow {
        product: "payments".parse().unwrap(),
        rings: Vec::new(),
        hours: Default::default(),
        withdrawn: Vec::new(),
    };
    due(&sight, policy, &product).unwrap()
}

#[test]
fn a_ring_that_the_server_signs_alone_is_renewed_at_half_its_life_and_not_before() {
    let mut repository = repository();
    let held = &repository.held[&role(RING)];
    let mut draft = Draft::next(role(RING), held, repository.now).unwrap();
    draft.expire_in_days(GATE_RING_DAYS);
    let file = draft.sign(&[&key("old gate")]).unwrap();
    repository.push(&[(role(RING), file)]).unwrap();
    let policy = policy(NAMED);
    assert_eq!(due_on(&repository, &policy, BEGIN), []);
    assert_eq!(due_on(&repository, &policy, "2026-01-15T23:00:00Z"), []);
    let due = due_on(&repository, &policy, "2026-01-16T01:00:00Z");
    assert_eq!(due.len(), 1);
    assert_eq!(due[0].occasion, Occasion::Renewed);
    repository.now = at("2026-01-16T01:00:00Z");
    repository.push(&due[0].files).unwrap();
    assert_eq!(due_on(&repository, &policy, "2026-01-16T01:00:00Z"), []);
}

#[test]
fn nothing_is_signed_for_a_ring_whose_definition_does_not_name_the_key() {
    let repository = repository();
    let late = "2026-06-25T00:00:00Z";
    assert_eq!(due_on(&repository, &policy(NAMED), late).len(), 1);
    let without_gate = NAMED.replace(r#","gate":true"#, "");
    assert_eq!(due_on(&repository, &policy(&without_gate), late), []);
    let another_key = key("freshness").public().id().to_string();
    assert_eq!(due_on(&repository, &policy(&NAMED.replace("GATE", &another_key)), late), []);
}

#[test]
fn what_people_have_signed_for_is_not_renewed_by_the_server() {
    let mut repository = TestRepository::with_payments();
    repository.delegate(RING, &[RING, "old gate"], 1);
    assert_eq!(due_on(&repository, &policy(NAMED), "2026-06-25T00:00:00Z"), []);
}
