//! Bundles: one stream of named parts.

use sha2::{Digest as _, Sha256};

use crate::bundle::{self, BundleError};

/// A bundle is read to its end or refused, and its index points to what is in it, once and in order.
pub fn bundle(data: &[u8]) {
    indexed(data);
    // Past the hash at its end, which no chance would meet.
    let mut closed = data.to_vec();
    closed.extend(3_u16.to_be_bytes());
    closed.extend(b"end");
    closed.extend(32_u64.to_be_bytes());
    let hash: [u8; 32] = Sha256::digest(&closed).into();
    closed.extend(hash);
    indexed(&closed);
}

fn indexed(data: &[u8]) {
    match bundle::read(&mut &*data) {
        Ok(index) => {
            let mut behind = 0;
            for (name, span) in index.parts() {
                assert!(span.offset > behind, "{name} lies over the one before it");
                behind = span.offset.checked_add(span.length).expect("within the bundle");
                assert_eq!(index.span(name), Some(span));
            }
            assert!(behind <= data.len() as u64, "a part ends behind the bundle");
            let again = bundle::read(&mut &*data).expect("it was read before");
            assert_eq!(again.head, index.head);
        }
        Err(BundleError::Io(error)) => panic!("memory can't fail: {error}"),
        Err(error) => {
            let text = error.to_string();
            assert!(
                text.len() < 2000 && text.chars().all(|c| c == '\n' || !c.is_control()),
                "{text:?}"
            );
        }
    }
}
