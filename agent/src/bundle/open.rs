//! A bundle as a source of metadata and content, in the place of a server. Gives what the file holds; whoever
//! asks verifies it, exactly as what a server gives.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    os::unix::fs::FileExt as _,
    sync::Arc,
};

use jiff::SignedDuration;
use refit_proto::{
    bundle::{self, BundleError, Head, Index, PartName, Span},
    names::Digest,
    package,
    trust::{Role, repository::BUNDLE_LONGEST},
};

use crate::{
    host::content::{Fetch, FetchError},
    link::CallError,
    trusted::Source,
};

/// An open bundle.
#[derive(Debug)]
pub struct Bundle {
    file: File,
    index: Index,
}

impl Bundle {
    /// Reads a bundle once, to its end.
    ///
    /// # Errors
    /// If it is none.
    pub fn read(file: File) -> Result<Bundle, BundleError> {
        let index = bundle::read(&mut BufReader::with_capacity(256 * 1024, &file))?;
        Ok(Bundle { file, index })
    }

    /// What it says of itself: a wish, no more.
    pub fn head(&self) -> &Head {
        &self.index.head
    }

    fn part(&self, span: Span) -> Part<'_> {
        Part { file: &self.file, at: span.offset, left: span.length }
    }

    fn whole(&self, span: Span) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.part(span).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Source for Bundle {
    async fn metadata(
        &self,
        role: &Role,
        version: Option<u64>,
        max_length: u64,
    ) -> Result<Option<Vec<u8>>, CallError> {
        let name = match (role, version) {
            (Role::Root, Some(version)) => PartName::Root(version),
            // Of every other role there is one version: whether it is the one that is asked for is
            // checked by whoever asks.
            (role, _) => PartName::Metadata(role.clone()),
        };
        let Some(span) = self.index.span(&name) else { return Ok(None) };
        if span.length > max_length {
            let text = format!("{name} in the bundle has more than {max_length} bytes");
            return Err(CallError::refused(text));
        }
        self.whole(span).map(Some).map_err(unreadable)
    }

    async fn content(&self, digest: &Digest, length: u64) -> Result<Vec<u8>, CallError> {
        let span = self.index.span(&PartName::Content(*digest)).ok_or_else(|| {
            CallError::refused(format!("the bundle does not hold content {digest}"))
        })?;
        let mut plain = Vec::new();
        package::decompress(&mut self.part(span), &mut plain, *digest, length)
            .map_err(|error| CallError::refused(error.to_string()))?;
        Ok(plain)
    }

    fn longest(&self) -> SignedDuration {
        BUNDLE_LONGEST
    }
}

fn unreadable(error: io::Error) -> CallError {
    CallError::weather(format!("the bundle can't be read: {error}"))
}

/// A bundle as a source of frames.
pub struct BundleFrames(pub Arc<Bundle>);

impl Fetch for BundleFrames {
    fn frame(&mut self, digest: Digest, offset: u64) -> Result<Box<dyn Read + '_>, FetchError> {
        let span = self.0.index.span(&PartName::Content(digest)).ok_or_else(|| {
            FetchError::Refused(format!("the bundle does not hold content {digest}"))
        })?;
        let left = span.length.checked_sub(offset).ok_or(FetchError::Shorter { offset })?;
        Ok(Box::new(self.0.part(Span { offset: span.offset + offset, length: left })))
    }
}

/// One part, read from its place: several may be read at once.
struct Part<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}
