//! Files made by python-tuf 7.0.1 (`golden/`): keys from the seeds 01.., 02.., members that tell one
//! canonical form from another (text that is not NFC, code points beyond UTF-16's first plane, control
//! characters, integers beyond 2^53). What it signs, we verify; what it calls a key, we call so too.

use crate::trust::{
    LocalKey, Role, Signer, TrustedSet,
    metadata::Content,
    set::Stored,
    testing::{at, role},
};

fn golden() -> Stored {
    [
        (Role::Root, &include_bytes!("golden/root.json")[..]),
        (Role::Targets, include_bytes!("golden/targets.json")),
        (Role::Snapshot, include_bytes!("golden/snapshot.json")),
        (Role::Timestamp, include_bytes!("golden/timestamp.json")),
        (role("release.payments"), include_bytes!("golden/release.payments.json")),
    ]
    .into_iter()
    .map(|(role, bytes)| (role, bytes.to_vec()))
    .collect()
}

#[test]
fn what_python_tuf_signs_is_verified_here() {
    let set = TrustedSet::load(&golden(), &[role("release.payments")]).unwrap();
    assert_eq!(set.refused(&role("release.payments")), None);
    assert_eq!((set.root().version(), set.timestamp().version()), (1, 11));
    assert_eq!(set.root().signers().len(), 2);
    assert!(set.expired(at("2035-12-31T23:59:59Z")).is_ok());
    assert!(set.expired(at("2036-01-01T00:00:00Z")).is_err());
    let release = set.release(&"payments".parse().unwrap(), &"2.4.1".parse().unwrap()).unwrap();
    assert!(release.fits(b"document") && !release.fits(b"Document"));
    assert_eq!(release.custom["big"], 9_007_199_254_740_993_i64);
    assert_eq!(release.custom["note"], "line\nbreak \"quoted\" \\ \u{1} \u{7f}");
}

#[test]
fn key_ids_are_those_of_python_tuf() {
    let set = TrustedSet::load(&golden(), &[]).unwrap();
    for seed in [1, 2] {
        let key = LocalKey::from_seed(&[seed; 32]);
        assert!(set.root().root().ids.contains(&key.public().id()), "seed {seed}");
    }
}

#[test]
fn a_golden_file_with_one_word_changed_is_refused() {
    for (word, other) in
        [("line", "lime"), ("9007199254740993", "9007199254740992"), ("kept", "lost")]
    {
        let mut stored = golden();
        let releases = role("release.payments");
        let text = String::from_utf8(stored[&releases].clone()).unwrap();
        assert!(text.contains(word), "{word}");
        // The pin would catch it first; here the signature has to.
        let changed = text.replacen(word, other, 1).into_bytes();
        let set = TrustedSet::load(&stored, std::slice::from_ref(&releases)).unwrap();
        let authority = set.targets().delegation(&releases).unwrap().authority.clone();
        let signers = crate::trust::verify::signers(&changed, &releases, &authority).unwrap();
        assert!(signers.is_empty(), "{word}");
        stored.insert(releases.clone(), changed);
        let set = TrustedSet::load(&stored, std::slice::from_ref(&releases)).unwrap();
        assert!(set.refused(&releases).is_some(), "{word}");
    }
}
