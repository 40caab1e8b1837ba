//! Signed metadata: JSON, canonical form, keys, files of every role, before and after their signatures are
//! right, and what people are told of them.

use std::sync::OnceLock;

use serde_json::Value;

use crate::{
    canonical,
    names::Digest,
    printable::printable,
    trust::{
        Authority, PublicKey, Role, Root, Snapshot, Targets, TimestampFile, TrustError,
        change::{ChangeFile, SignatureLine},
        edit::{Draft, describe},
        metadata,
        permission::permit,
        repository,
        testing::{TestHost, TestRepository, forge, key, role},
        trusted_policy, verify,
    },
};

/// JSON has one meaning; bytes that the right keys did not sign are never kept; and what they did sign,
/// however odd, is taken or refused, without harm.
pub fn metadata(data: &[u8]) {
    change(data);
    let Ok(value) = canonical::parse(data) else { return };
    one_meaning(&value);
    let public = PublicKey::from_value(&value);
    assert_eq!(PublicKey::from_value(public.to_value()).id(), public.id());
    // By its length, so that a file stays a file.
    let role = &roles()[data.len() % roles().len()];
    unsigned(data, role);
    let signed = value.get("signed").unwrap_or(&value);
    read(signed, role);
    if !role.is_top_level() || *role == Role::Targets {
        planted(signed, role);
    }
}

fn one_meaning(value: &Value) {
    let written = serde_json::to_vec(value).expect("a value is written");
    let again = canonical::parse(&written).expect("strict JSON stays strict");
    assert_eq!(again, *value);
    assert_eq!(canonical::to_canonical(&again), canonical::to_canonical(value));
}

fn roles() -> &'static [Role; 7] {
    static ROLES: OnceLock<[Role; 7]> = OnceLock::new();
    ROLES.get_or_init(|| {
        [
            "root",
            "timestamp",
            "snapshot",
            "targets",
            "release.payments",
            "ring.payments.pilot",
            "policy",
        ]
        .map(role)
    })
}

const DELEGATED: [&str; 3] = ["release.payments", "ring.payments.pilot", "policy"];

fn repository() -> &'static TestRepository {
    static REPOSITORY: OnceLock<TestRepository> = OnceLock::new();
    REPOSITORY.get_or_init(TestRepository::with_payments)
}

/// A refresh in which one file is these bytes never ends with them kept.
fn unsigned(data: &[u8], role: &Role) {
    let repository = repository();
    let mut host = TestHost::new(repository);
    let ended = host.refresh_from(&DELEGATED, repository.now, |request| {
        if request.role == *role { Some(data.to_owned()) } else { repository.serve(request) }
    });
    if repository.files.values().any(|file| file == data) {
        return;
    }
    let kept = host.stored.get(role);
    assert!(kept.is_none_or(|kept| kept != data), "{role} was kept: {ended:?}");
    let error = ended.err().map(|error: TrustError| error.to_string()).unwrap_or_default();
    assert!(error.lines().all(is_printable), "an error moves the cursor: {error:?}");
}

fn read(signed: &Value, role: &Role) {
    let _ = metadata::read::<Root>(signed, role);
    let _ = metadata::read::<TimestampFile>(signed, role);
    let _ = metadata::read::<Snapshot>(signed, role);
    let _ = metadata::read::<Targets>(signed, role);
    let held = &repository().held[role];
    let old = canonical::parse(held).expect("a real file")["signed"].clone();
    for old in [None, Some(&old)] {
        for line in describe(old, signed, role).unwrap_or_default() {
            assert!(is_printable(&line), "it moves the cursor: {line:?}");
        }
    }
    if let Ok(root) = metadata::read::<Root>(signed, &Role::Root) {
        let _ = verify::verify_root(&forge(signed, &["root"]), None);
        let _ = verify::verify_root(&forge(signed, &["root"]), Some(&root));
        let authorities: Vec<&Authority> = [root.root(), root.targets()].into();
        assert!(authorities.iter().all(|one| one.threshold >= 1));
    }
}

/// Signed by the right keys and pinned: a host takes it or not, and a publisher can go on from it or not.
fn planted(signed: &Value, role: &Role) {
    let file = forge(signed, &[&role.to_string()]);
    let version = signed.get("version").and_then(Value::as_u64).unwrap_or(1);
    let mut repository = repository().clone();
    let _ = repository::accept(
        &repository.held,
        &[(role.clone(), file.clone())],
        &|_| None,
        &key("freshness"),
        repository.now,
    );
    if let Ok(draft) = Draft::next(role.clone(), &file, repository.now) {
        let _ = draft.describe();
    }
    repository.plant(role, version.max(1), file.clone());
    let mut host = TestHost::new(&repository);
    let Ok(set) = host.refresh(&repository, &DELEGATED) else { return };
    if set.refused(role).is_none() && *role != Role::Targets {
        let taken = set.delegated(role).expect("a file that was not refused");
        assert_eq!(taken.bytes(), file);
    }
    let product = "payments".parse().expect("a product");
    let policy = br#"{"_type":"policy","format":1,"product":"payments","rings":[{"ring":"pilot","select":{"labels":{"pilot":["yes"]}}}]}"#;
    let Ok(policy) = trusted_policy(&set, &product, policy) else { return };
    let labels = [("pilot".parse().expect("a label"), "yes".parse().expect("a value"))].into();
    if let Ok(permission) = permit(&set, &policy, &labels, &product, repository.now) {
        for promotion in permission.current.iter().chain(&permission.back) {
            let released = set.release(&product, &promotion.version).expect("a release");
            assert_eq!(released.digest(), Some(promotion.digest), "ring and release disagree");
        }
    }
}

fn is_printable(line: &str) -> bool {
    printable(line) == line
}

/// What holders of keys hand to each other.
fn change(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(lines) = SignatureLine::read_all(text)
    {
        for line in lines {
            assert_eq!(line.to_string().parse::<SignatureLine>().expect("a line"), line);
        }
    }
    let Ok(change) = ChangeFile::from_bytes(data) else { return };
    let again = ChangeFile::from_bytes(&change.to_bytes()).expect("what was taken is taken again");
    assert_eq!(again, change);
    for own in [None, Some(Digest::of(b"another root"))] {
        if let Ok(judged) = change.judge(own, repository().now) {
            for line in judged.in_words().iter().chain(&judged.standing()) {
                assert!(is_printable(line), "it moves the cursor: {line:?}");
            }
        }
    }
}
