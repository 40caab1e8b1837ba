//! What people paste and type: tokens, names, paths, variables.

use std::fmt::Display;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    names::{
        Digest, HostId, HostName, LabelName, LabelValue, PackageName, PersonName, Platform,
        Product, RingName, Version,
    },
    package::{PackagePath, Variables, expand},
    token::{PREFIX, Token, checksum},
    trust::{KeyId, Role, role},
};

/// A token or name that is taken is written as it was read.
pub fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    same_token(text);
    // Past the checksum, which no chance would meet.
    let body = URL_SAFE_NO_PAD.encode(data);
    same_token(&format!("{PREFIX}{body}.{}", checksum(&body)));
    names(text);
    paths(text);
}

fn same_token(text: &str) {
    match Token::parse(text) {
        Ok(token) => {
            let again = Token::parse(&token.to_text()).expect("a token that we wrote");
            assert!(again == token);
            assert!(!token.ca_der().is_empty());
            let shown = format!("{token:?}");
            let secret = String::from_utf8_lossy(token.secret()).into_owned();
            assert!(secret.len() < 8 || !shown.contains(&secret), "the secret is shown: {shown}");
        }
        Err(error) => assert!(error.to_string().contains("help: ")),
    }
}

fn names(text: &str) {
    same(text, Product::parse(text));
    same(text, RingName::parse(text));
    same(text, PackageName::parse(text));
    same(text, Version::parse(text));
    same(text, HostName::parse(text));
    same(text, PersonName::parse(text));
    same(text, LabelName::parse(text));
    same(text, LabelValue::parse(text));
    same(text, Platform::parse(text));
    same(text, HostId::parse(text));
    same(text, Digest::parse(text));
    same(text, KeyId::parse(text));
    same(text, Role::parse(text));
    if let Ok(role) = Role::named(text) {
        let name = role.file_name();
        let inside = std::path::Path::new("/folder").join(&name);
        assert!(inside.parent() == Some("/folder".as_ref()) && inside.file_name().is_some());
        assert_eq!(Role::of_file_name(&name), Some(role));
    }
}

/// A name that is taken is the text itself, and harmless in a path and on a terminal.
fn same<T: Display, E: Display>(text: &str, parsed: Result<T, E>) {
    match parsed {
        Ok(name) => {
            assert_eq!(name.to_string(), text);
            let harmless = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            assert!(text.chars().all(harmless) && text != "." && text != "..", "{text:?}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn paths(text: &str) {
    if let Ok(path) = PackagePath::parse(text) {
        assert_eq!(path.as_str(), text);
        let joined = std::path::Path::new("/folder").join(text);
        assert!(joined.starts_with("/folder/") && !text.split('/').any(|part| part == ".."));
        let _ = path.keeps_link_inside(text);
    }
    if role::is_safe_path(text) {
        assert!(std::path::Path::new("/folder").join(text).starts_with("/folder/"));
    }
    let _ = role::matches(text, text);
    let variables = Variables::from([("PORT".into(), "80".into())]);
    let _ = expand(text, &variables);
}
