//! Reading a bundle once, from beginning to end: is it whole, are its parts those of a bundle, each once,
//! in order and within its limit, and where do they lie? Keeps the head and the places, never a part.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use sha2::{Digest as _, Sha256};

use super::{BundleError, Head, MAGIC, MAGIC_PREFIX, PartName, limits};

/// Where a part's bytes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// From the beginning of the bundle.
    pub offset: u64,
    /// How many.
    pub length: u64,
}

/// What a whole bundle holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// What it says of itself.
    pub head: Head,
    parts: BTreeMap<PartName, Span>,
}

impl Index {
    /// Where a part lies; `None` where there is none.
    pub fn span(&self, name: &PartName) -> Option<Span> {
        self.parts.get(name).copied()
    }

    /// Every part, in order.
    pub fn parts(&self) -> impl Iterator<Item = (&PartName, Span)> {
        self.parts.iter().map(|(name, span)| (name, *span))
    }
}

/// Reads a bundle to its end. It is a bundle of this format, whole and undamaged, if this succeeds; what
/// its parts are worth is for `trust` and for digests to say.
///
/// # Errors
/// Why it is none.
pub fn read(from: &mut dyn Read) -> Result<Index, BundleError> {
    let mut bytes = Hashed { from, hash: Sha256::new(), at: 0 };
    magic(&mut bytes)?;
    let (mut head, mut parts) = (None, BTreeMap::new());
    let (mut last, mut metadata) = (None, 0);
    loop {
        let (name, length) = next(&mut bytes, last.as_ref())?;
        let span = Span { offset: bytes.at, length };
        match &name {
            PartName::Head => {
                let mut text = Vec::new();
                bytes.copy(length, &name, &mut text)?;
                head = Some(Head::parse(&text)?);
            }
            PartName::End => {
                end(&mut bytes, length)?;
                return Ok(Index { head: head.ok_or(BundleError::NoHead)?, parts });
            }
            PartName::Root(_) | PartName::Metadata(_) | PartName::Content(_) => {
                if head.is_none() {
                    return Err(BundleError::NoHead);
                }
                metadata += usize::from(!matches!(name, PartName::Content(_)));
                counted("parts of metadata", metadata, limits::METADATA)?;
                counted("parts", parts.len() + 1, limits::PARTS)?;
                bytes.copy(length, &name, &mut io::sink())?;
                parts.insert(name.clone(), span);
            }
        }
        last = Some(name);
    }
}

fn counted(what: &'static str, number: usize, limit: usize) -> Result<(), BundleError> {
    if number > limit { Err(BundleError::TooMany { what, limit }) } else { Ok(()) }
}

fn magic(bytes: &mut Hashed<'_>) -> Result<(), BundleError> {
    let mut found = [0; MAGIC.len()];
    match bytes.exactly(&mut found) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(BundleError::NotABundle);
        }
        Err(error) => return Err(error.into()),
    }
    if found == *MAGIC {
        return Ok(());
    }
    if found[..MAGIC_PREFIX] == MAGIC[..MAGIC_PREFIX] {
        let found = found[MAGIC_PREFIX..].escape_ascii().to_string();
        return Err(BundleError::Format { found });
    }
    Err(BundleError::NotABundle)
}

/// The next part's name and length, if it may stand here.
fn next(bytes: &mut Hashed<'_>, last: Option<&PartName>) -> Result<(PartName, u64), BundleError> {
    let place =
        || last.map_or_else(|| "its beginning".to_owned(), |last| format!("what follows {last}"));
    let cut = |error| truncated(error, place());
    let mut length = [0; 2];
    bytes.exactly(&mut length).map_err(cut)?;
    let length = usize::from(u16::from_be_bytes(length));
    let refused = |name: &[u8]| BundleError::Name {
        name: name.iter().take(80).map(|byte| char::from(*byte)).collect(),
    };
    if length == 0 || length > limits::NAME {
        return Err(refused(format!("(a name of {length} bytes)").as_bytes()));
    }
    let mut name = vec![0; length];
    bytes.exactly(&mut name).map_err(cut)?;
    let text = std::str::from_utf8(&name).map_err(|_| refused(&name))?;
    let part = PartName::parse(text).ok_or_else(|| refused(&name))?;
    if let Some(last) = last.filter(|last| **last >= part) {
        return Err(BundleError::Order { name: part.to_string(), after: last.to_string() });
    }
    let mut length = [0; 8];
    bytes.exactly(&mut length).map_err(cut)?;
    let (length, limit) = (u64::from_be_bytes(length), part.limit());
    if length > limit {
        return Err(BundleError::TooLong { name: part.to_string(), length, limit });
    }
    Ok((part, length))
}

fn end(bytes: &mut Hashed<'_>, length: u64) -> Result<(), BundleError> {
    let expected: [u8; 32] = bytes.hash.clone().finalize().into();
    let mut found = Vec::new();
    bytes.copy(length, &PartName::End, &mut found)?;
    if found != expected {
        return Err(BundleError::Damaged);
    }
    let mut more = [0; 1];
    loop {
        match bytes.from.read(&mut more) {
            Ok(0) => return Ok(()),
            Ok(_) => return Err(BundleError::Trailing),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn truncated(error: io::Error, part: String) -> BundleError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => BundleError::Truncated { part },
        _ => BundleError::Io(error),
    }
}

/// Counts and hashes what is read.
struct Hashed<'a> {
    from: &'a mut dyn Read,
    hash: Sha256,
    at: u64,
}

impl Hashed<'_> {
    fn exactly(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.from.read_exact(buffer)?;
        self.hash.update(&*buffer);
        self.at += buffer.len() as u64;
        Ok(())
    }

    /// Exactly so many bytes, in pieces: a length in a file reserves no memory.
    fn copy(
        &mut self,
        length: u64,
        name: &PartName,
        to: &mut dyn io::Write,
    ) -> Result<(), BundleError> {
        let mut buffer = [0; 16 * 1024];
        let mut left = length;
        while left > 0 {
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let piece = &mut buffer[..piece];
            self.exactly(piece).map_err(|error| truncated(error, name.to_string()))?;
            to.write_all(piece)?;
            left -= piece.len() as u64;
        }
        Ok(())
    }
}
