//! Content from the server for code that reads and does not wait: the thread that brings content in is
//! not the one that runs the network.

use std::{
    io::{self, Read},
    sync::Arc,
};

use refit_proto::names::Digest;
use tokio::runtime::Handle;

use super::{
    CallError, Link, Trouble,
    halves::{Chunks, Giver},
};
use crate::host::content::{Fetch, FetchError};

/// The server as a source of frames.
pub struct ServerFrames {
    pub(super) link: Arc<Link>,
    runtime: Handle,
    stopped: Box<dyn Fn() -> bool>,
}

impl ServerFrames {
    /// Frames from this server, by the network of this runtime, until `stopped` says that nobody wants
    /// them any more. Not to be used on the runtime's own thread.
    pub fn new(
        link: Arc<Link>,
        runtime: Handle,
        stopped: impl Fn() -> bool + 'static,
    ) -> ServerFrames {
        ServerFrames { link, runtime, stopped: Box::new(stopped) }
    }

    pub(super) async fn begin(
        &self,
        from: Giver,
        digest: Digest,
        offset: u64,
    ) -> Result<Chunks, CallError> {
        self.link.frame(from, &digest, offset).await
    }

    /// Whether anybody still wants what comes.
    pub(super) fn wanted(&self) -> Result<(), CallError> {
        if (self.stopped)() {
            return Err(CallError::weather("the download was ended: nobody wants it any more"));
        }
        Ok(())
    }
}

impl Fetch for ServerFrames {
    fn frame(&mut self, digest: Digest, offset: u64) -> Result<Box<dyn Read + '_>, FetchError> {
        self.wanted().map_err(|error| refused(error, offset))?;
        let download = self
            .runtime
            .block_on(self.begin(Giver::Server, digest, offset))
            .map_err(|error| refused(error, offset))?;
        if download.frame_length.is_some_and(|length| length < offset) {
            return Err(FetchError::Shorter { offset });
        }
        Ok(Box::new(Reading { download, frames: self, chunk: Vec::new(), at: 0 }))
    }
}

fn refused(error: CallError, offset: u64) -> FetchError {
    match error.trouble {
        // A server has no bytes after its frame's end: it is another frame than the one begun.
        Trouble::Refused if offset > 0 => FetchError::Shorter { offset },
        Trouble::Refused | Trouble::Absent => FetchError::Refused(error.to_string()),
        Trouble::Weather | Trouble::Barred => FetchError::Away(error.to_string()),
    }
}

struct Reading<'a> {
    download: Chunks,
    frames: &'a ServerFrames,
    chunk: Vec<u8>,
    at: usize,
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            self.frames.wanted().map_err(io::Error::other)?;
            let next = self.frames.runtime.block_on(self.download.next());
            match self.frames.link.heed(next).map_err(io::Error::other)? {
                Some(chunk) => (self.chunk, self.at) = (chunk, 0),
                None => return Ok(0),
            }
        }
        let rest = &self.chunk[self.at..];
        let taken = rest.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&rest[..taken]);
        self.at += taken;
        Ok(taken)
    }
}
