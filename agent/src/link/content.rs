//! Content by digest, as the server streams it: goes on where an earlier try ended, and gives up where
//! it comes more slowly than [`super::Patience`] allows. Proves nothing: what arrives is checked by whoever
//! asked for it, against what was signed.

use refit_proto::{
    names::Digest,
    package,
    trust::Role,
    wire::{
        ContentChunk, GetContentRequest, GetMetadataRequest, repository_client::RepositoryClient,
    },
};
use tokio::time::{Instant, timeout};
use tonic::Streaming;

use super::{
    CallError, Link, Patience, Server, Trouble,
    call::{self, within},
    halves::Whom,
    patience::{Meter, TooSlow},
    refused::Channel,
};
use crate::trusted::Source;

/// Most bytes by which a zstd frame is longer than what it holds.
fn longest_frame(plain: u64) -> u64 {
    plain.saturating_add(plain / 128).saturating_add(1024)
}

/// A download under way.
pub struct Download {
    stream: Streaming<ContentChunk>,
    meter: Meter,
    /// Length of the whole frame, where the server has said it.
    pub frame_length: Option<u64>,
    first: Option<Vec<u8>>,
}

impl Server {
    /// Begins to fetch a file's frame, from an offset into it.
    ///
    /// # Errors
    /// If nothing comes.
    pub async fn download(&self, digest: &Digest, offset: u64) -> Result<Download, CallError> {
        begin(self.repository(), digest, offset, self.patience()).await
    }
}

/// Begins to fetch a file's frame.
pub(super) async fn begin(
    mut repository: RepositoryClient<Channel>,
    digest: &Digest,
    offset: u64,
    patience: Patience,
) -> Result<Download, CallError> {
    let request = GetContentRequest { sha256: digest.as_bytes().to_vec(), offset };
    let stream = within(patience.window, repository.get_content(request)).await?;
    let meter = Meter::new(patience);
    let mut download = Download { stream, meter, frame_length: None, first: None };
    if let Some(chunk) = download.chunk().await? {
        download.frame_length = (chunk.frame_length > 0).then_some(chunk.frame_length);
        download.first = Some(chunk.data);
    }
    Ok(download)
}

impl Download {
    /// The next bytes of the frame; `None` at its end.
    ///
    /// # Errors
    /// If the stream breaks, or is too slow.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, CallError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        Ok(self.chunk().await?.map(|chunk| chunk.data))
    }

    async fn chunk(&mut self) -> Result<Option<ContentChunk>, CallError> {
        loop {
            let asked = Instant::now();
            let came = timeout(self.meter.left(), self.stream.message()).await;
            let bytes = match &came {
                Ok(Ok(Some(chunk))) => chunk.data.len(),
                Ok(_) | Err(_) => 0,
            };
            let waited = if came.is_err() { self.meter.left() } else { asked.elapsed() };
            let slow = self.meter.count(waited, bytes);
            match came {
                Ok(Ok(None)) => return Ok(None),
                Ok(message) => {
                    let chunk = message?;
                    slow?;
                    // An empty message is no end.
                    match chunk {
                        Some(chunk) if chunk.data.is_empty() && chunk.frame_length == 0 => {}
                        other => return Ok(other),
                    }
                }
                Err(_) => slow?,
            }
        }
    }
}

impl From<TooSlow> for CallError {
    fn from(slow: TooSlow) -> CallError {
        CallError::weather(slow.to_string())
    }
}

/// A role's file; `None` where there is none.
pub(super) async fn metadata(
    mut repository: RepositoryClient<Channel>,
    role: &Role,
    version: Option<u64>,
) -> Result<Option<Vec<u8>>, CallError> {
    let request =
        GetMetadataRequest { role: role.to_string(), version: version.unwrap_or_default() };
    // A message has its limit; whether the file is too long for its role is judged with the file.
    match within(call::LARGE, repository.get_metadata(request)).await {
        Ok(reply) => Ok(Some(reply.file)),
        Err(error) if error.trouble == Trouble::Absent => Ok(None),
        Err(error) => Err(error),
    }
}

/// All of a small file, plain.
pub(super) async fn whole(
    mut download: Download,
    digest: &Digest,
    length: u64,
) -> Result<Vec<u8>, CallError> {
    let limit = longest_frame(length);
    let mut frame = Vec::new();
    while let Some(bytes) = download.next().await? {
        if (frame.len() + bytes.len()) as u64 > limit {
            return Err(CallError::refused(format!("content {digest} is longer than signed")));
        }
        frame.extend(bytes);
    }
    let mut plain = Vec::new();
    package::decompress(&mut frame.as_slice(), &mut plain, *digest, length)
        .map_err(|error| CallError::refused(error.to_string()))?;
    Ok(plain)
}

impl Source for Server {
    async fn metadata(
        &self,
        role: &Role,
        version: Option<u64>,
        _max_length: u64,
    ) -> Result<Option<Vec<u8>>, CallError> {
        metadata(self.repository(), role, version).await
    }

    async fn content(&self, digest: &Digest, length: u64) -> Result<Vec<u8>, CallError> {
        whole(self.download(digest, 0).await?, digest, length).await
    }
}

impl Source for Link {
    async fn metadata(
        &self,
        role: &Role,
        version: Option<u64>,
        _max_length: u64,
    ) -> Result<Option<Vec<u8>>, CallError> {
        Link::metadata(self, Whom::Server, role, version).await
    }

    async fn content(&self, digest: &Digest, length: u64) -> Result<Vec<u8>, CallError> {
        Link::content(self, Whom::Server, digest, length).await
    }
}
