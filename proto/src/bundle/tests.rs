//! What is no bundle is refused by name, and nothing makes the reader panic or keep what it read.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

use super::*;
use crate::trust::Role;

fn head() -> Head {
    let about = About {
        product: "payments".parse().unwrap(),
        version: "1.1".parse().unwrap(),
        digest: Digest::of(b"release"),
    };
    let (rings, platforms) = (vec!["pilot".parse().unwrap()], vec!["any".parse().unwrap()]);
    let made = "2026-11-22T12:00:00Z".parse().unwrap();
    Head::new(about, rings, platforms, made, "2026-12-22T12:00:00Z".parse().unwrap())
}

fn content(bytes: &[u8]) -> (PartName, Vec<u8>) {
    (PartName::Content(Digest::of(bytes)), bytes.to_vec())
}

fn parts() -> Vec<(PartName, Vec<u8>)> {
    let role = |name: &str| PartName::Metadata(Role::parse(name).unwrap());
    let mut parts = vec![
        (PartName::Root(1), b"root 1".to_vec()),
        (PartName::Root(2), b"root 2".to_vec()),
        (PartName::Root(10), b"root 10".to_vec()),
        (role("timestamp"), b"timestamp".to_vec()),
        (role("snapshot"), Vec::new()),
        (role("targets"), b"targets".to_vec()),
        (role("policy"), b"policy".to_vec()),
        (role("release.payments"), b"release".to_vec()),
        (role("ring.payments.pilot"), b"ring".to_vec()),
        content(b"one"),
        content(&[7; 100_000]),
    ];
    parts.sort();
    parts
}

fn written(parts: &[(PartName, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &head()).unwrap();
    for (name, bytes) in parts {
        writer.part(name.clone(), bytes).unwrap();
    }
    writer.finish().unwrap()
}

/// A bundle of any parts by any names, closed with the right hash: what somebody hostile writes.
fn forged(parts: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for (name, body) in parts {
        bytes.extend((name.len() as u16).to_be_bytes());
        bytes.extend(*name);
        bytes.extend((body.len() as u64).to_be_bytes());
        bytes.extend(*body);
    }
    bytes.extend(3_u16.to_be_bytes());
    bytes.extend(b"end");
    bytes.extend(32_u64.to_be_bytes());
    let hash: [u8; 32] = Sha256::digest(&bytes).into();
    bytes.extend(hash);
    bytes
}

fn refused(bytes: &[u8]) -> BundleError {
    let error = read(&mut &*bytes).unwrap_err();
    let text = error.to_string();
    assert!(text.len() < 600 && text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    error
}

#[test]
fn what_was_written_is_found_where_the_index_says() {
    let bytes = written(&parts());
    let index = read(&mut bytes.as_slice()).unwrap();
    assert_eq!(index.head, head());
    let found: Vec<_> = index
        .parts()
        .map(|(name, span)| {
            let (from, length) = (span.offset as usize, span.length as usize);
            (name.clone(), bytes[from..from + length].to_vec())
        })
        .collect();
    assert_eq!(found, parts());
    assert!(index.span(&PartName::Root(3)).is_none());
}

#[test]
fn every_cut_and_every_flipped_byte_is_refused() {
    let short: Vec<_> = parts().into_iter().filter(|(_, bytes)| bytes.len() < 1000).collect();
    let bytes = written(&short);
    let mut words = BTreeSet::new();
    for at in 0..bytes.len() {
        let cut = refused(&bytes[..at]);
        assert!(matches!(cut, BundleError::NotABundle | BundleError::Truncated { .. }), "{cut}");
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        words
            .insert(refused(&flipped).to_string().split(' ').take(3).collect::<Vec<_>>().join(" "));
    }
    assert!(words.len() > 3, "{words:?}");
    let mut longer = bytes;
    longer.push(0);
    assert!(matches!(refused(&longer), BundleError::Trailing));
}

#[test]
fn hostile_names_doubled_and_reordered_parts_are_refused_though_the_hash_is_right() {
    let head = head().to_bytes();
    let begin: (&[u8], &[u8]) = (b"bundle.json", &head);
    read(&mut forged(&[begin]).as_slice()).unwrap();
    for name in [
        &b"../../etc/passwd"[..],
        b"/etc/passwd",
        b"metadata/../x.json",
        b"metadata/root.json",
        b"metadata/01.root.json",
        b"metadata/0.root.json",
        b"metadata/-1.root.json",
        b"metadata/+1.root.json",
        b"metadata/other.json",
        b"metadata/ring.payments.pilot",
        b"content/",
        b"content/ABCD",
        b"bundle.json\0",
        b"\xff\xfe",
        b"",
        &[b'a'; 300],
    ] {
        let error = refused(&forged(&[begin, (name, b"")]));
        assert!(matches!(error, BundleError::Name { .. }), "{error}");
    }
    let (one, two) = (b"metadata/1.root.json".as_slice(), b"metadata/2.root.json".as_slice());
    for parts in
        [[begin, (two, b""), (one, b"")], [begin, (one, b"a"), (one, b"b")], [begin, begin, begin]]
    {
        let error = refused(&forged(&parts));
        assert!(matches!(error, BundleError::Order { .. }), "{error}");
    }
    assert!(matches!(refused(&forged(&[(one, b"")])), BundleError::NoHead));
    assert!(matches!(refused(&forged(&[])), BundleError::NoHead));
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_a_byte_of_it_is_read() {
    let head = head().to_bytes();
    for (name, limit) in [
        ("metadata/1.root.json", 512_000_u64),
        ("metadata/timestamp.json", 16_384),
        ("metadata/ring.payments.pilot.json", 5_000_000),
    ] {
        let mut bytes = forged(&[(b"bundle.json", &head)]);
        bytes.truncate(bytes.len() - 45);
        bytes.extend((name.len() as u16).to_be_bytes());
        bytes.extend(name.as_bytes());
        for length in [limit + 1, u64::MAX] {
            let mut bytes = bytes.clone();
            bytes.extend(length.to_be_bytes());
            // Not one byte follows: had it tried to read, it would say that the bundle is cut.
            assert!(matches!(refused(&bytes), BundleError::TooLong { .. }), "{name} {length}");
        }
    }
}

#[test]
fn more_roots_than_a_host_walks_are_refused() {
    let many: Vec<_> =
        (1..=limits::METADATA as u64 + 1).map(|n| (PartName::Root(n), Vec::new())).collect();
    assert!(matches!(refused(&written(&many)), BundleError::TooMany { .. }));
    read(&mut written(&many[1..]).as_slice()).unwrap();
}

#[test]
fn a_later_format_or_an_unknown_feature_is_named() {
    let mut bytes = written(&parts());
    bytes[14] = b'2';
    assert!(matches!(refused(&bytes), BundleError::Format { .. }));
    let mut demanding: serde_json::Value = serde_json::from_slice(&head().to_bytes()).unwrap();
    demanding["required"] = serde_json::json!(["holograms"]);
    let error = refused(&forged(&[(b"bundle.json", demanding.to_string().as_bytes())]));
    assert!(matches!(&error, BundleError::Head(text) if text.contains("holograms")), "{error}");
    for text in ["", "{}", "[]", "\u{0}", "{\"_type\":\"release\",\"format\":1}"] {
        let error = refused(&forged(&[(b"bundle.json", text.as_bytes())]));
        assert!(matches!(error, BundleError::Head(_)), "{error}");
    }
}

#[test]
fn the_writer_writes_nothing_that_the_reader_refuses() {
    let mut writer = Writer::new(Vec::new(), &head()).unwrap();
    writer.part(PartName::Root(2), b"").unwrap();
    for name in [PartName::Root(1), PartName::Root(2), PartName::Head] {
        assert!(matches!(writer.part(name, b""), Err(BundleError::Order { .. })));
    }
    let long = writer.begin(PartName::Root(3), 512_001);
    assert!(matches!(long, Err(BundleError::TooLong { .. })));
    writer.begin(PartName::Root(3), 2).unwrap();
    writer.add(b"a").unwrap();
    assert!(matches!(writer.add(b"bc"), Err(BundleError::TooLong { .. })));
    assert!(matches!(writer.part(PartName::Root(4), b""), Err(BundleError::Truncated { .. })));
    assert!(matches!(writer.finish(), Err(BundleError::Truncated { .. })));
}
