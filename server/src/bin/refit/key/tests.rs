//! Keys as people use them: made, found by a word, listed, and signed with, of every kind.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use clap::Parser as _;
use jiff::Timestamp;
use refit_proto::trust::{LocalKey, Role, Signer as _};

use super::{held::Kind, *};
use crate::home::Home;

const PASSPHRASE: &str = "four words nobody knows";

/// A person whose passphrase is in a file.
fn context(folder: &Path, signing_key: Option<&str>) -> Context {
    let passphrase = folder.join("passphrase");
    fs::write(&passphrase, PASSPHRASE).unwrap();
    let home = Home::open(Some(folder.join("refit"))).unwrap();
    let home = home.with_secrets(Secrets::of_test(Some(passphrase), signing_key));
    Context { home, now: Timestamp::UNIX_EPOCH }
}

/// `refit key ...`, as typed.
fn type_in(context: &Context, words: &str) -> anyhow::Result<()> {
    let words = ["refit", "key"].into_iter().chain(words.split_whitespace());
    match crate::Arguments::try_parse_from(words)?.noun {
        crate::Noun::Key(args) => run(context, args),
        _ => unreachable!(),
    }
}

/// A signer program in shell whose one key and signature, of `message`, are these.
fn signer(folder: &Path, key: &LocalKey, message: &[u8]) -> PathBuf {
    let path = folder.join("signer");
    let signature = key.sign(message).unwrap();
    let hex: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
    let public = key.public().to_value()["keyval"]["public"].as_str().unwrap().to_owned();
    let answer = format!(r#"{{"version":1,"public":"{public}","signature":"{hex}"}}"#);
    fs::write(&path, format!("#!/bin/sh\nread -r request\necho '{answer}'\n")).unwrap();
    path
}

fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let paths = paths.filter(|path| path.is_file());
    let mut files: Vec<_> = paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn a_key_file_is_private_encrypted_and_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let context = context(folder.path(), None);
    let keys = context.home.keys();
    let out = folder.path().join("elsewhere.pem");
    let by_path = format!("generate --role root --name alice --out {}", out.display());
    for (words, path) in
        [("generate --role root --name alice", keys.join("root.alice.pem")), (&*by_path, out)]
    {
        type_in(&context, words).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{text}");
        let before = files(path.parent().unwrap());
        for again in [words.to_owned(), format!("{words} --unencrypted")] {
            let error = type_in(&context, &again).unwrap_err().to_string();
            assert!(error.contains("never overwritten"), "{error}");
        }
        assert_eq!(files(path.parent().unwrap()), before);
        // Nor where only one of the two files is left.
        for left in [path.clone(), kept::public_path(&path)] {
            let bytes = fs::read(&left).unwrap();
            fs::remove_file(&left).unwrap();
            assert!(type_in(&context, words).is_err());
            assert!(!left.exists());
            fs::write(&left, bytes).unwrap();
        }
    }
    // Nor beside a key of the same name that a program has.
    type_in(&context, "generate --role policy --name alice").unwrap();
    fs::remove_file(keys.join("policy.alice.pub.json")).unwrap();
    let key = LocalKey::generate().unwrap();
    let signer = signer(folder.path(), &key, b"x");
    let add = format!("add --role policy --name alice -- /bin/sh {}", signer.display());
    let error = type_in(&context, &add).unwrap_err().to_string();
    assert!(error.contains("policy.alice.pem is there already"), "{error}");
}

#[test]
fn an_unencrypted_key_is_made_only_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let context = context(folder.path(), None);
    type_in(&context, "generate --role policy --name ci --unencrypted").unwrap();
    let text = fs::read_to_string(context.home.keys().join("policy.ci.pem")).unwrap();
    assert!(text.starts_with("-----BEGIN PRIVATE KEY-----"), "{text}");
    // Without a passphrase, and nobody to ask, nothing is made.
    fs::write(folder.path().join("passphrase"), "").unwrap();
    assert!(type_in(&context, "generate --role policy --name alice").is_err());
    assert_eq!(files(&context.home.keys()).len(), 2);
}

#[test]
fn a_key_is_found_by_its_name_its_file_or_its_public_half() {
    for how in ["", "--unencrypted"] {
        let folder = tempfile::tempdir().unwrap();
        let context = context(folder.path(), None);
        type_in(&context, &format!("generate --role policy --name alice {how}")).unwrap();
        let path = context.home.keys().join("policy.alice.pem");
        let key = private(&context, &Role::Policy, "alice").unwrap();
        for word in [
            "alice".to_owned(),
            "policy.alice".to_owned(),
            path.display().to_string(),
            kept::public_path(&path).display().to_string(),
        ] {
            let found = public(&context, Some(&Role::Policy), &word).unwrap();
            assert_eq!(found, *key.public(), "{word}");
        }
        assert!(public(&context, None, "alice").is_err());
        assert!(private(&context, &Role::Root, "alice").is_err());
        assert!(private(&context, &Role::Policy, "bob").is_err());
        assert!(private(&context, &Role::Policy, "../keys/policy.alice").is_err());
        assert_eq!(at_hand(&context, |public| public == key.public()).unwrap().len(), 1);
        assert_eq!(at_hand(&context, |_| false).unwrap().len(), 0);
        // The public half can always be made again from the private one; of an encrypted key only when
        // it is named, since nobody is asked for the passphrases of keys that are not used.
        fs::remove_file(kept::public_path(&path)).unwrap();
        let found = at_hand(&context, |public| public == key.public()).unwrap();
        assert_eq!(found.len(), usize::from(!how.is_empty()));
        assert_eq!(public(&context, None, "policy.alice").unwrap(), *key.public());
        assert_eq!(*private(&context, &Role::Policy, "alice").unwrap().public(), *key.public());
    }
}

#[test]
fn every_kind_of_key_is_listed_and_signs_through_one_seam() {
    let folder = tempfile::tempdir().unwrap();
    let environment = LocalKey::generate().unwrap();
    let context = context(folder.path(), Some(&environment.to_pem().unwrap()));
    type_in(&context, "generate --role policy --name encrypted").unwrap();
    type_in(&context, "generate --role policy --name plain --unencrypted").unwrap();
    let token = LocalKey::generate().unwrap();
    // The test of a new signer is signed first; then it is made to sign the message.
    let test = b"refit key add: a test of the signer; this signs no metadata";
    let program = signer(folder.path(), &token, test);
    type_in(&context, &format!("add --role policy --name token -- /bin/sh {}", program.display()))
        .unwrap();
    signer(folder.path(), &token, b"message");
    let elsewhere = LocalKey::generate().unwrap();
    fs::write(context.home.keys().join("policy.bob.pub.json"), elsewhere.public().to_json())
        .unwrap();

    let kinds: Vec<_> =
        kept::all(&context).unwrap().into_iter().map(|key| (key.name, key.kind)).collect();
    let expected = [
        ("policy.bob", Kind::Elsewhere),
        ("policy.encrypted", Kind::EncryptedFile),
        ("policy.plain", Kind::PlainFile),
        ("policy.token", Kind::Command),
        ("environment", Kind::Environment),
    ];
    assert_eq!(kinds, expected.map(|(name, kind)| (name.to_owned(), kind)));
    let held = at_hand(&context, |_| true).unwrap();
    assert_eq!(held.len(), 4, "bob's private half is elsewhere");
    for word in ["encrypted", "plain", "token", "environment"] {
        let key = private(&context, &Role::Policy, word).unwrap();
        let signature = key.sign(b"message").unwrap();
        assert!(key.public().verify(b"message", &signature), "{word}");
        assert!(held.iter().any(|other| other.public() == key.public()), "{word}");
    }
    assert_eq!(*private(&context, &Role::Policy, "token").unwrap().public(), *token.public());
    assert!(private(&context, &Role::Policy, "bob").is_err());
    type_in(&context, "list").unwrap();
    for word in ["policy.encrypted", "policy.plain", "policy.token", "policy.bob", "environment"] {
        type_in(&context, &format!("show {word} --output json")).unwrap();
    }
}

#[test]
fn a_signer_that_does_not_sign_is_not_added() {
    let folder = tempfile::tempdir().unwrap();
    let context = context(folder.path(), None);
    let key = LocalKey::generate().unwrap();
    let program = signer(folder.path(), &key, b"something else");
    let add = format!("add --role policy --name token -- /bin/sh {}", program.display());
    let error = type_in(&context, &add).unwrap_err().to_string();
    assert!(error.contains("is none of what it was given"), "{error}");
    assert!(!context.home.keys().exists());
}

#[test]
fn a_private_half_that_is_not_the_one_beside_it_does_not_sign() {
    let folder = tempfile::tempdir().unwrap();
    let context = context(folder.path(), None);
    type_in(&context, "generate --role policy --name alice").unwrap();
    let other = LocalKey::generate().unwrap();
    let beside = context.home.keys().join("policy.alice.pub.json");
    fs::write(&beside, other.public().to_json()).unwrap();
    let key = private(&context, &Role::Policy, "alice").unwrap();
    let error = key.sign(b"message").unwrap_err().to_string();
    assert!(error.contains("of another key") && error.contains("help: "), "{error}");
}
