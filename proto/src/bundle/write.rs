//! Writing a bundle part by part, in the order in which it is read. Checks what the reader checks, so that
//! nothing is written that nobody reads.

use std::io::Write;

use sha2::{Digest as _, Sha256};

use super::{BundleError, Head, MAGIC, PartName};

/// A bundle that is being written.
pub struct Writer<W> {
    to: W,
    hash: Sha256,
    last: PartName,
    /// Bytes that the last part still lacks.
    left: u64,
}

impl<W: Write> Writer<W> {
    /// Begins with the head.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn new(to: W, head: &Head) -> Result<Writer<W>, BundleError> {
        let mut writer = Writer { to, hash: Sha256::new(), last: PartName::Head, left: 0 };
        writer.raw(MAGIC)?;
        let bytes = head.to_bytes();
        writer.head_of(&PartName::Head, bytes.len() as u64)?;
        writer.raw(&bytes)?;
        Ok(writer)
    }

    /// Begins a part of exactly so many bytes, which [`Writer::add`] then brings. Parts come in the order
    /// of their names.
    ///
    /// # Errors
    /// A part that may not stand here, or a disk that takes no more.
    pub fn begin(&mut self, name: PartName, length: u64) -> Result<(), BundleError> {
        self.is_complete()?;
        if name <= self.last {
            let (name, after) = (name.to_string(), self.last.to_string());
            return Err(BundleError::Order { name, after });
        }
        self.head_of(&name, length)?;
        (self.last, self.left) = (name, length);
        Ok(())
    }

    /// Brings bytes of the part that was begun last.
    ///
    /// # Errors
    /// More than its length, or a disk that takes no more.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), BundleError> {
        let length = bytes.len() as u64;
        let Some(left) = self.left.checked_sub(length) else {
            let (name, limit) = (self.last.to_string(), self.left);
            return Err(BundleError::TooLong { name, length, limit });
        };
        self.raw(bytes)?;
        self.left = left;
        Ok(())
    }

    /// Adds a part at once.
    ///
    /// # Errors
    /// As [`Writer::begin`].
    pub fn part(&mut self, name: PartName, bytes: &[u8]) -> Result<(), BundleError> {
        self.begin(name, bytes.len() as u64)?;
        self.add(bytes)
    }

    fn is_complete(&self) -> Result<(), BundleError> {
        match self.left {
            0 => Ok(()),
            _ => Err(BundleError::Truncated { part: self.last.to_string() }),
        }
    }

    /// Closes it with its hash.
    ///
    /// # Errors
    /// If its last part is not whole, or it can't be written.
    pub fn finish(mut self) -> Result<W, BundleError> {
        self.is_complete()?;
        self.head_of(&PartName::End, 32)?;
        let hash: [u8; 32] = self.hash.clone().finalize().into();
        self.to.write_all(&hash)?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn head_of(&mut self, name: &PartName, length: u64) -> Result<(), BundleError> {
        let limit = name.limit();
        if length > limit {
            return Err(BundleError::TooLong { name: name.to_string(), length, limit });
        }
        let text = name.to_string();
        let short = u16::try_from(text.len()).unwrap_or(u16::MAX);
        self.raw(&short.to_be_bytes())?;
        self.raw(text.as_bytes())?;
        self.raw(&length.to_be_bytes())
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<(), BundleError> {
        self.to.write_all(bytes)?;
        self.hash.update(bytes);
        Ok(())
    }
}
