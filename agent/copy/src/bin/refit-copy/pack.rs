//! Packs: many small files in one, a large one in several. Decides their form; where they go is decided
//! elsewhere. What lies at the second place is `age(zstd(plain))`, or without the `age`:
//!
//! ```text
//! "refit pack v1\n", then for each part: sha256 of the whole file (32 bytes), its length, the part's offset
//! (8 bytes each, big-endian), the part's length (4), the part's bytes
//! ```

use std::{
    fs::File,
    io::{self, Read, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
};

use refit_copy::{Part, Why};
use sha2::{Digest as _, Sha256};

use super::place::Failed;

const MAGIC: &[u8] = b"refit pack v1\n";
/// Bytes before a part.
const HEAD: usize = 32 + 8 + 8 + 4;
/// Most plain bytes of one pack: few enough to be held in memory a few times, and so many that the way to
/// the second place is not what takes the time.
pub const PLAIN_MAX: usize = 8 << 20;
/// Most bytes of a pack as it is stored: what can't be compressed gets a little longer, and so does what is
/// encrypted.
pub const STORED_MAX: u64 = PLAIN_MAX as u64 + (1 << 20);
/// Files are nearly always read once and never looked at: what zstd calls fast.
const LEVEL: i32 = 1;

/// The hash of bytes, as names have it.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// Whom packs are encrypted to, or that they are not.
pub struct Recipients(Vec<age::x25519::Recipient>);

impl Recipients {
    /// From texts `age1…`.
    ///
    /// # Errors
    /// If one is none.
    pub fn parse(texts: &[String]) -> Result<Recipients, Failed> {
        let parsed = texts.iter().map(|text| {
            text.parse().map_err(|why: &str| {
                let text = format!("`{text}` is no recipient that age knows: {why}");
                Failed::new(Why::Host, text)
            })
        });
        parsed.collect::<Result<_, _>>().map(Recipients)
    }

    /// The bytes as they are stored.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn stored(&self, plain: &[u8]) -> Result<Vec<u8>, Failed> {
        let failed = |error: &dyn std::fmt::Display| {
            Failed::new(Why::Host, format!("a pack can't be made: {error}"))
        };
        let small = zstd::bulk::compress(plain, LEVEL).map_err(|error| failed(&error))?;
        if self.0.is_empty() {
            return Ok(small);
        }
        let recipients = self.0.iter().map(|recipient| recipient as &dyn age::Recipient);
        let encryptor =
            age::Encryptor::with_recipients(recipients).map_err(|error| failed(&error))?;
        let mut stored = Vec::with_capacity(small.len() + 4096);
        let mut writer = encryptor.wrap_output(&mut stored).map_err(|error| failed(&error))?;
        writer.write_all(&small).map_err(|error| failed(&error))?;
        writer.finish().map_err(|error| failed(&error))?;
        Ok(stored)
    }
}

/// The private key of a recipient.
pub struct Identities(Vec<Box<dyn age::Identity + Send + Sync>>);

impl Identities {
    /// From a file as `age-keygen` writes it.
    ///
    /// # Errors
    /// If it is none.
    pub fn read(path: &Path) -> Result<Identities, Failed> {
        let failed = |error: &dyn std::fmt::Display| {
            let text = format!("{} is no file of age identities: {error}", path.display());
            Failed::new(Why::Host, text)
        };
        let file = File::open(path).map_err(|error| failed(&error))?;
        let parsed = age::IdentityFile::from_buffer(io::BufReader::new(file));
        let identities = parsed.map_err(|error| failed(&error))?.into_identities();
        identities.map(Identities).map_err(|error| failed(&error))
    }
}

/// A pack that is being filled.
pub struct Filling {
    plain: Vec<u8>,
    holds: Vec<Part>,
}

impl Default for Filling {
    fn default() -> Filling {
        let mut plain = Vec::with_capacity(PLAIN_MAX + MAGIC.len());
        plain.extend_from_slice(MAGIC);
        Filling { plain, holds: Vec::new() }
    }
}

impl Filling {
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.holds.is_empty()
    }

    /// How many bytes of a file it may still take.
    pub fn room(&self) -> usize {
        PLAIN_MAX.saturating_sub(self.plain.len() + HEAD)
    }

    /// Takes a part of a file.
    ///
    /// # Errors
    /// If the file's name is no hash.
    pub fn take(&mut self, part: Part, whole: u64, bytes: &[u8]) -> Result<(), Failed> {
        let digest = unhex(&part.file).ok_or_else(|| {
            Failed::new(Why::Host, format!("`{}` is no hash of a file", part.file))
        })?;
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.plain.extend_from_slice(&digest);
        self.plain.extend_from_slice(&whole.to_be_bytes());
        self.plain.extend_from_slice(&part.offset.to_be_bytes());
        self.plain.extend_from_slice(&length.to_be_bytes());
        self.plain.extend_from_slice(bytes);
        self.holds.push(part);
        Ok(())
    }

    /// Its bytes as they are stored, and what they hold.
    ///
    /// # Errors
    /// As [`Recipients::stored`].
    pub fn close(self, recipients: &Recipients) -> Result<(Vec<u8>, Vec<Part>), Failed> {
        Ok((recipients.stored(&self.plain)?, self.holds))
    }
}

/// Puts every part that a stored pack holds into the file of its hash in `folder`.
///
/// # Errors
/// A text that says what is wrong with the pack, or a file that can't be written.
pub fn unpack(stored: &[u8], identities: Option<&Identities>, folder: &Path) -> Result<(), Failed> {
    let damaged = |why: &str| Failed::new(Why::Damaged, why.to_owned());
    let small: Box<dyn Read + '_> = match identities {
        None => Box::new(stored),
        Some(Identities(keys)) => {
            let keys = keys.iter().map(|key| &**key as &dyn age::Identity);
            let opened = age::Decryptor::new(stored).and_then(|sealed| sealed.decrypt(keys));
            Box::new(opened.map_err(|error| {
                Failed::new(Why::Host, format!("it can't be decrypted with this identity: {error}"))
            })?)
        }
    };
    let mut plain = Vec::new();
    zstd::stream::read::Decoder::new(small)
        .and_then(|decoder| decoder.take(PLAIN_MAX as u64 + 1).read_to_end(&mut plain))
        .map_err(|error| damaged(&format!("it can't be unpacked: {error}")))?;
    let mut rest = plain.strip_prefix(MAGIC).ok_or_else(|| damaged("it is no pack"))?;
    while !rest.is_empty() {
        let (head, after) = rest.split_at_checked(HEAD).ok_or_else(|| damaged("it is cut"))?;
        let number = |from: usize, to: usize| {
            head[from..to].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let (whole, offset, length) = (number(32, 40), number(40, 48), number(48, 52));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (bytes, after) = after.split_at_checked(length).ok_or_else(|| damaged("it is cut"))?;
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > whole) {
            return Err(damaged("a part of it lies outside its file"));
        }
        let place = folder.join(hex(&head[..32]));
        let written = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&place)
            .and_then(|file| file.write_all_at(bytes, offset));
        written.map_err(|error| {
            Failed::new(Why::Host, format!("cannot write {}: {error}", place.display()))
        })?;
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pack(recipients: &Recipients) -> Vec<u8> {
        let mut filling = Filling::default();
        for (text, offset) in [("hello ", 0), ("world", 6)] {
            let file = sha256(b"hello world");
            let part = Part { file, offset, length: text.len() as u64 };
            filling.take(part, 11, text.as_bytes()).unwrap();
        }
        filling.close(recipients).unwrap().0
    }

    fn key() -> (age::x25519::Identity, Recipients) {
        let identity = age::x25519::Identity::generate();
        let recipients = Recipients::parse(&[identity.to_public().to_string()]).unwrap();
        (identity, recipients)
    }

    #[test]
    fn what_is_packed_comes_out_and_what_is_encrypted_only_with_its_identity() {
        let (identity, recipients) = key();
        let plain = Recipients::parse(&[]).unwrap();
        let own = || Identities(vec![Box::new(identity.clone())]);
        let other = Identities(vec![Box::new(key().0)]);
        for (stored, identities) in [(pack(&plain), None), (pack(&recipients), Some(own()))] {
            let folder = tempfile::tempdir().unwrap();
            unpack(&stored, identities.as_ref(), folder.path()).unwrap();
            let out = folder.path().join(sha256(b"hello world"));
            assert_eq!(std::fs::read(out).unwrap(), b"hello world");
        }
        let folder = tempfile::tempdir().unwrap();
        let stored = pack(&recipients);
        unpack(&stored, Some(&other), folder.path()).unwrap_err();
        unpack(&stored, None, folder.path()).unwrap_err();
        assert!(!stored.windows(5).any(|bytes| bytes == b"hello"));
        assert_ne!(pack(&recipients), stored, "never twice the same");
    }

    proptest! {
        #[test]
        fn no_bytes_make_unpacking_panic_or_write_outside(at in 0..10_000_usize, to: u8, garbage: Vec<u8>) {
            let folder = tempfile::tempdir().unwrap();
            let inside = folder.path().join("inside");
            std::fs::create_dir(&inside).unwrap();
            let mut stored = pack(&Recipients::parse(&[]).unwrap());
            let at = at % stored.len();
            stored[at] = to;
            let _ = unpack(&stored, None, &inside);
            let mut plain = MAGIC.to_vec();
            plain.extend_from_slice(&garbage);
            let _ = unpack(&zstd::bulk::compress(&plain, 1).unwrap(), None, &inside);
            prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }
}
